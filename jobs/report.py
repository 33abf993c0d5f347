"""Reports for people: a line for each stage, report.json and a plot of the loss."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from .extras import extra
from .saving import STATE_FILE

REPORT_FILE, CARD_FILE, CURVE_FILE = "report.json", "README.md", "loss.png"
PACKAGE = Path(__file__).parents[1]


class Stages:
    """Times the stages of a run and prints a line about each: `with stages("corpus") as say: say("9 documents")`."""

    def __init__(self, silent: bool = False):
        self.seconds: dict[str, float] = {}
        self.silent = silent

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator:
        """Time a stage; the strings that the block passes to the yielded function are printed when it ends."""
        notes = []
        start = time.perf_counter()
        yield notes.append
        self.seconds[name] = round(time.perf_counter() - start, 2)
        if not self.silent:
            print(f"{name:<12}{'; '.join(notes)}  ({self.seconds[name]:.1f} s)", flush=True)


def amount(number: int | None, unit: str = "") -> str:
    """Return a number with its `unit`, a plural, for people; None is the length of a stream, which is not known."""
    text = "an unknown number of" if number is None else f"{number:,}"
    return f"{text} {unit.removesuffix('s') if number == 1 else unit}".rstrip()


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """Return the most memory that this process has held at once, on a CUDA device if one is given."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def hardware_name(device: torch.device) -> str:
    """Return the name of the hardware that a run was timed on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})" if device.type == "cpu" else device.type


def code_version() -> str:
    """Return the version of foliogpt and, if it runs from a clone, the git commit: `0.1.0 (4c82541)`."""
    number = version("foliogpt")
    if not (PACKAGE / ".git").exists():  # installed, perhaps inside another project's repository
        return number
    try:
        command = ["git", "-C", str(PACKAGE), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return number
    return f"{number} ({done.stdout.strip()})"


def write_report(report: dict, directory: str | Path, name: str = REPORT_FILE) -> None:
    """Write report.json, or a report under another name."""
    (Path(directory) / name).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def write_result(folder: Path, state, report: dict, card: str, quality: str) -> None:
    """Write trainer state, report, card and loss curve next to a finished model; `quality` is in the curve's title."""
    state.save_to_json(str(folder / STATE_FILE))
    write_report(report, folder)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    nats = report["val_loss"] / report["val_bits_per_byte"] if report.get("val_bits_per_byte") else 0
    levels = {name: bits * nats for name, bits in report.get("baseline_bits_per_byte", {}).items()}  # of compressors
    try:
        loss_curve(state.log_history, folder / CURVE_FILE, f"{report['name']}: {quality}", levels)
    except ImportError as error:
        print(error)


def loss_curve(log_history: list[dict], path: Path, title: str, levels: dict[str, float] | None = None) -> None:
    """Draw losses and `levels`, gradient norm and learning rate over steps; raises ImportError without matplotlib."""
    with extra("plots", "The loss curve"):
        from matplotlib.figure import Figure  # pyplot would look for a screen
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    losses, norms, rates = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    lines = [(losses, "loss", "C0-", "training"), (losses, "eval_loss", "C1o--", "validation"),
             (norms, "grad_norm", "gray", None), (rates, "learning_rate", "gray", None)]  # fmt: skip
    for axes, key, style, label in lines:
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
        axes.grid(visible=True, alpha=0.3)
    for number, (name, level) in enumerate((levels or {}).items()):
        losses.axhline(level, color="gray", linewidth=1, linestyle=(0, (number + 1, 2)), label=name)
    losses.set(ylabel="loss (nats per token)", title=title)
    losses.legend()
    norms.set(ylabel="gradient\nnorm")
    rates.set(xlabel="step", ylabel="learning\nrate")
    figure.align_ylabels()
    figure.savefig(path, dpi=120)
