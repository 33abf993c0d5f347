"""What each optimizer is worth: the same tiny model on the same text in the same order, by each of five optimizers.

    python -m benchmarks.optimizers
    python -m benchmarks.optimizers --picture docs/training-optimizers.png --json optimizers.json

All are those of `training/from_scratch/training_loop.py`, in its loop. Each is tried at three learning rates and shown
at its best, with three seeds. The text is read as bytes. The loss of held-out text chooses the rate, so it flatters all
a little.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from foliogpt.data.corpora import load_corpus
from foliogpt.jobs.report import pyplot
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training.from_scratch.training_loop import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    Muon,
    Optimizer,
    train,
    warmup_stable_decay,
)

from .tables import parser, show, write

STEPS, WARMUP, DECAY, BATCH, CONTEXT, SEEDS, AVERAGED = 300, 20, 150, 16, 64, 3, 20


def muon(model: FolioForCausalLM, lr: float) -> list[Optimizer]:
    """Muon moves the matrices of the blocks; AdamW the embeddings and norms, at a rate of its own."""
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is other for other in hidden)]
    return [Muon(hidden, lr), AdamW(rest, lr=0.01)]


# Each with the learning rates that are tried: the best one is not at an end.
OPTIMIZERS: dict[str, tuple[Callable[[FolioForCausalLM, float], list[Optimizer]], list[float]]] = {
    "SGD": (lambda model, lr: [SGD(model.parameters(), lr)], [0.1, 0.3, 1.0]),
    "momentum": (lambda model, lr: [Momentum(model.parameters(), lr)], [0.03, 0.1, 0.3]),
    "Adam": (lambda model, lr: [Adam(model.parameters(), lr)], [0.0007, 0.002, 0.006]),
    "AdamW": (lambda model, lr: [AdamW(model.parameters(), lr, weight_decay=0.1)], [0.0007, 0.002, 0.006]),
    "Muon": (muon, [0.007, 0.02, 0.06]),
}
COLORS = {"SGD": "#999999", "momentum": "#e69f00", "Adam": "#56b4e9", "AdamW": "#0072b2", "Muon": "#d55e00"}


def examples(split: str, count: int) -> Tensor:
    """(count, CONTEXT) bytes from all over the Python manual."""
    data = torch.frombuffer(bytearray("\n".join(load_corpus()[split]["text"]).encode()), dtype=torch.uint8)
    starts = torch.linspace(0, len(data) - CONTEXT, count).long()
    return torch.stack([data[start : start + CONTEXT] for start in starts]).long()


def run(name: str, lr: float, seed: int, text: Tensor, held_out: Tensor) -> dict:
    """One training run: the losses of its steps, and of held-out text at its end, in nats a byte."""
    torch.manual_seed(seed)
    size = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": CONTEXT}
    model = FolioForCausalLM(preset_config("folio", "nano", **size))
    optimizers = OPTIMIZERS[name][0](model, lr)
    start = time.perf_counter()
    schedule = lambda step: warmup_stable_decay(step, WARMUP, STEPS, DECAY)  # noqa: E731
    # One epoch: every example is new to the model when its loss is taken.
    losses = train(model, text, text, optimizers, schedule, STEPS, BATCH, seed=seed)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        loss = model(held_out, labels=held_out).loss.item()
    return {"optimizer": name, "lr": lr, "seed": seed, "losses": losses, "held_out": loss, "seconds": seconds}


def compare() -> tuple[list[dict], dict[str, list[dict]]]:
    """Rows of the table, and the runs of each optimizer at its best rate."""
    text, held_out = examples("train", STEPS * BATCH), examples("validation", 256)
    rows, best = [], {}
    for name, (_, rates) in OPTIMIZERS.items():
        tried = {lr: run(name, lr, 0, text, held_out) for lr in rates}
        lr = min(tried, key=lambda rate: tried[rate]["held_out"])
        best[name] = [tried[lr], *(run(name, lr, seed, text, held_out) for seed in range(1, SEEDS))]
        final = [result["held_out"] for result in best[name]]
        rows.append(
            {
                "optimizer": name,
                "loss at each rate": ", ".join(f"{rate:g}: {result['held_out']:.2f}" for rate, result in tried.items()),
                "best rate": f"{lr:g}",
                "loss": f"{statistics.mean(final):.2f}",
                "of three seeds": f"{min(final):.2f} to {max(final):.2f}",
                "ms a step": round(1000 * statistics.median(r["seconds"] for r in best[name]) / STEPS),
            }
        )
    return rows, best


def picture(best: dict[str, list[dict]], path: Path) -> None:
    """Loss against steps: the mean of the seeds as a line, their range as a band, each labelled at its end."""
    plt = pyplot("The picture")
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    ends = {}
    for name, runs in best.items():
        curves = torch.tensor([result["losses"] for result in runs]).unfold(1, AVERAGED, 1).mean(-1)  # (seeds, steps)
        steps = range(AVERAGED, STEPS + 1)
        axes.fill_between(steps, curves.amin(0), curves.amax(0), color=COLORS[name], alpha=0.2, linewidth=0)
        style = (0, (3, 1.5)) if name == "AdamW" else "-"  # lies on Adam's
        axes.plot(steps, curves.mean(0), color=COLORS[name], linewidth=2, linestyle=style)
        ends[name] = curves.mean(0)[-1].item()
    height = float("inf")
    for name in sorted(ends, key=lambda name: -ends[name]):
        height = min(ends[name], height - 0.11)  # no label on another
        label = f"{name}, {best[name][0]['lr']:g}"
        axes.text(STEPS + 4, height, label, color=COLORS[name], va="center", fontweight="bold")
    axes.set(xlim=(0, STEPS), ylim=(1.8, 4.2), xlabel="step", ylabel=f"loss (nats a byte, mean of {AVERAGED} steps)")
    axes.set_title("One tiny GPT by five optimizers, each at its best learning rate of three", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--picture", type=Path, help="draw the losses there")
    chosen = options.parse_args()
    torch.set_num_threads(1)  # so small a model gains nothing from more
    rows, best = compare()
    show(
        "Optimizers",
        rows,
        f"{STEPS} steps of {BATCH} x {CONTEXT} bytes of the Python manual; loss of held-out text, nats a byte.",
    )
    if chosen.picture is not None:
        picture(best, chosen.picture)
    write(chosen.json, {"rows": rows, "runs": [result for runs in best.values() for result in runs]})


if __name__ == "__main__":
    main()
