"""Advice after a pretraining run: better than compressors or not, still improving or memorizing, the next step."""

from collections.abc import Sequence

NOTABLE = 0.01  # share of the loss; smaller changes between two evaluations are noise
FEW_STEPS = 100


def verdict(report: dict, history: Sequence[dict]) -> str:
    """Return two or three sentences about a finished run from its report and Trainer's `log_history`."""
    bits, others = report["val_bits_per_byte"], report["baseline_bits_per_byte"]
    better = [f"{name} ({value:.2f})" for name, value in others.items() if bits < value]
    worse = [f"{name} ({value:.2f})" for name, value in others.items() if bits >= value]
    against = " and ".join(
        f"{word} than {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names
    )
    needs = f"The model needs {bits:.2f} bits per byte of held-out text" + (f": {against}." if against else ".")
    return f"{needs} {_advice(report, history)}"


def _advice(report: dict, history: Sequence[dict]) -> str:
    """Tell from the last losses what would lower them."""
    evaluated = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    training = [entry["loss"] for entry in history if "loss" in entry]
    if report["steps"] < FEW_STEPS:
        return f"It has made only {report['steps']:,} steps: train longer, with --minutes or --max_steps."
    if len(evaluated) < 2:
        return ""
    (best_step, best), (_, before), (_, last) = min(evaluated, key=lambda point: point[1]), *evaluated[-2:]
    gap = "".join(f"training loss {loss:.2f}, " for loss in training[-1:]) + f"validation loss {last:.2f}"
    if last > best * (1 + NOTABLE):
        return (
            f"It memorizes its text ({gap}; the best was {best:.2f} at step {best_step:,}): use more text, fewer "
            "--num_train_epochs, or --dropout 0.1."
        )
    if before - last > NOTABLE * last:
        return f"The loss was still falling when the run ended ({gap}): train longer."
    if training and training[-1] < last * 0.8:
        return f"It predicts its own text better than other text ({gap}): more text will help more than more steps."
    return f"The loss has leveled off ({gap}): a larger --size or more text will help more than more steps."
