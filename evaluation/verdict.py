"""How a pretraining run went, in words: against compressors, still falling or memorizing, and what to try next."""

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
    judged = f"The model needs {bits:.2f} bits for a byte of held-out text" + (f": {against}." if against else ".")
    return f"{judged} {_course(report, history)}"


def _course(report: dict, history: Sequence[dict]) -> str:
    """Where the losses were going when the run ended."""
    judged = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    learnt = [entry["loss"] for entry in history if "loss" in entry]
    if report["steps"] < FEW_STEPS:
        return f"It has made only {report['steps']:,} steps: train longer, with --minutes or --max_steps."
    if len(judged) < 2:
        return ""
    (best_step, best), (_, before), (_, last) = min(judged, key=lambda point: point[1]), *judged[-2:]
    gap = f"training loss {learnt[-1]:.2f}, validation loss {last:.2f}" if learnt else f"validation loss {last:.2f}"
    if last > best * (1 + NOTABLE):
        return (
            f"It memorizes its text ({gap}; the best was {best:.2f} at step {best_step:,}): use more text, fewer "
            "--num_train_epochs, or --dropout 0.1."
        )
    if before - last > NOTABLE * last:
        return f"The loss was still falling when the run ended ({gap}): train longer."
    if learnt and learnt[-1] < last * 0.8:
        return f"It knows its own text better than other text ({gap}): more text will help more than more steps."
    return f"The loss has leveled off ({gap}): a larger --size or more text will help more than more steps."
