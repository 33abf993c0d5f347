"""What a run leaves for people: a line for each stage, report.json and a picture of the loss."""

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

from .plotting import pyplot
from .saving import STATE_FILE

REPORT_FILE, CARD_FILE, CURVE_FILE = "report.json", "README.md", "loss.png"
PACKAGE = Path(__file__).parents[1]


class Stages:
    """Times the stages of a run and says one line about each.

    >>> stages = Stages()
    >>> with stages("corpus") as say:
    ...     say("8,000 documents")
    """

    def __init__(self, silent: bool = False):
        self.seconds: dict[str, float] = {}
        self.silent = silent

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator:
        """Run a stage. What the block passes to the yielded function is shown when it ends."""
        said = []
        start = time.perf_counter()
        yield said.append
        self.seconds[name] = round(time.perf_counter() - start, 2)
        if not self.silent:
            print(f"{name:<12}{'; '.join(said)}  ({self.seconds[name]:.1f} s)", flush=True)


def amount(number: int | None) -> str:
    """A number for people, or that nobody knows it: the length of a stream."""
    return "an unknown number of" if number is None else f"{number:,}"


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine(device: torch.device) -> str:
    """The hardware that the run was timed on, for the report."""
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
    """Write report.json, or what is reported in another file."""
    (Path(directory) / name).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def write_result(folder: Path, state, report: dict, card: str, quality: str) -> None:
    """Write what describes a finished model beside its weights; `quality` is in the title of its curve."""
    state.save_to_json(str(folder / STATE_FILE))
    write_report(report, folder)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    try:
        loss_curve(state.log_history, folder / CURVE_FILE, f"{report['name']}: {quality}")
    except ImportError as error:
        print(error)


def loss_curve(log_history: list[dict], path: Path, title: str) -> None:
    """Draw losses, gradient norm and learning rate over the steps; raises ImportError if matplotlib is missing."""
    plt = pyplot("The loss curve")
    figure, (losses, norms, rates) = plt.subplots(
        3, 1, sharex=True, figsize=(7, 5.5), height_ratios=[3, 1, 1], layout="constrained"
    )
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            losses.plot(*zip(*points, strict=True), style, label=label)
    for axes, key in ((norms, "grad_norm"), (rates, "learning_rate")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), color="gray")
        axes.grid(alpha=0.3)
    losses.set(ylabel="loss (nats a token)", title=title)
    losses.legend()
    losses.grid(alpha=0.3)
    norms.set(ylabel="gradient\nnorm")
    rates.set(xlabel="step", ylabel="learning\nrate")
    figure.align_ylabels()
    figure.savefig(path, dpi=120)
    plt.close(figure)
