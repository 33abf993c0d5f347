"""Training runs side by side: settings that differ, curves of the loss, results."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..jobs.extras import extra
from ..jobs.markdown import markdown_table
from ..jobs.report import REPORT_FILE
from ..jobs.run_folder import FINGERPRINT, RUN_FILE, RUN_METADATA_KEYS, read_settings
from ..jobs.saving import checkpoints

METRICS_FILE = "metrics.jsonl"
SAMPLE_CHARACTERS = 300
SCALES = {"step": "steps", "tokens": "tokens", "seconds": "seconds of training and evaluating"}


@dataclass
class Run:
    """The files of a training run's folder; `report` is empty until the run is finished."""

    folder: Path
    settings: dict
    report: dict
    history: list[dict]  # losses and samples, with step, tokens and seconds

    @property
    def tokenizer(self) -> str | None:
        """A hash of its tokenizer; None if none was saved yet."""
        files = [place / "tokenizer.json" for place in (self.folder, *checkpoints(self.folder))]
        return next((sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()), None)

    def last(self, name: str):
        """Return the value of a metric in the report or, until there is one, the last in the history."""
        logged = {"val_loss": "eval_loss", "steps": "step"}.get(name, name)
        return self.report.get(name, next((entry[logged] for entry in reversed(self.history) if logged in entry), None))

    def summary(self) -> dict:
        """Return the metrics of the run, with None for those that it does not have."""
        seconds = self.report.get("seconds", {}).get("training", self.last("seconds"))
        kind = self.report.get("task") or self.settings.get("task") or "pretrain"
        names = ("parameters", "steps", "tokens", "tokens_per_second", "val_loss", "val_bits_per_byte")
        metrics = {name: self.last(name) for name in names}
        return {"run": str(self.folder), "task": kind, "finished": bool(self.report), "seconds": seconds, **metrics}


def read_run(folder: str | Path) -> Run:
    """Read a run's folder; raises FileNotFoundError if it is none, ValueError if a file is damaged."""
    path = Path(folder).expanduser()
    settings = read_settings(path)
    if settings is None:
        raise FileNotFoundError(f"{folder} holds no training run ({RUN_FILE}): give folders that a run was written to.")
    try:
        report = path / REPORT_FILE
        found = json.loads(report.read_text("utf-8")) if report.is_file() else {}
        return Run(path, settings, found, read_metrics(path / METRICS_FILE))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"A file of the run in {folder} is damaged ({error}): leave this run out.") from None


def read_metrics(path: Path) -> list[dict]:
    """Return the entries of a metrics file; a last line that was cut off is skipped."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def find_runs(folder: str | Path) -> list[Run]:
    """Return the runs in a folder's folders, or the folder's own; raises FileNotFoundError if there is none."""
    path = Path(folder).expanduser()
    places = [path] if (path / RUN_FILE).is_file() else [file.parent for file in sorted(path.glob(f"*/{RUN_FILE}"))]
    runs = [read_run(place) for place in places if read_settings(place) is not None]
    if not runs:
        raise FileNotFoundError(f"{folder} holds no training run ({RUN_FILE}): give a folder that has some.")
    return runs


def compare(runs: Sequence[Run]) -> dict:
    """Return the metrics of each run, the settings that differ, and why some metrics cannot be compared."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in RUN_METADATA_KEYS)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    different = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    cautions = []
    if len({run.tokenizer for run in runs}) > 1:
        cautions.append("The tokenizers differ: compare bits per byte, not the losses of their tokens.")
    if len({str(run.settings.get(FINGERPRINT)) for run in runs}) > 1:
        cautions.append("The texts differ: a lower loss may come from a text that is easier to predict.")
    samples = [next((entry["sample"] for entry in reversed(run.history) if "sample" in entry), None) for run in runs]
    summaries = [run.summary() for run in runs]
    return {"runs": summaries, "settings": different, "cautions": cautions, "samples": samples}


def table(summaries: Sequence[dict], losses: bool = True) -> str:
    """Return the summaries of runs as a Markdown table, without losses if those cannot be compared."""
    formats = {
        "parameters": "{:,}", "steps": "{:,}", "tokens": "{:,}", "seconds": "{:,.0f}", "tokens_per_second": "{:,.0f}",
        "val_loss": "{:.4f}", "val_bits_per_byte": "{:.4f}",
    }  # fmt: skip
    if not losses:
        del formats["val_loss"]
    header = ["run", "task", *(name.replace("val_", "validation ").replace("_", " ") for name in formats)]
    rows = []
    for run in summaries:
        cells = ["" if run[key] is None else text.format(run[key]) for key, text in formats.items()]
        rows.append([run["run"] + " (unfinished)" * (not run["finished"]), run["task"], *cells])
    return markdown_table(header, rows)


def show(compared: dict) -> str:
    """Return a comparison as Markdown: metrics, settings, samples."""
    names = [summary["run"] for summary in compared["runs"]]
    parts = [table(compared["runs"], losses=not any("tokenizers" in line for line in compared["cautions"]))]
    parts += compared["cautions"]
    if compared["settings"]:
        parts.append(markdown_table(["setting", *names], [[key, *each] for key, each in compared["settings"].items()]))
    for name, sample in zip(names, compared["samples"], strict=True):
        if sample is not None:
            parts.append(f"{name} writes:\n{sample[:SAMPLE_CHARACTERS]}")
    return "\n\n".join(parts)


def plot_losses(runs: Sequence[Run], file: str | Path) -> None:
    """Plot the losses over steps, tokens and seconds into a PNG file, in bits per byte if the tokenizers differ.

    Raises ImportError without matplotlib, ValueError if there is nothing to plot.
    """
    with extra("plots", "Plotting losses"):
        from matplotlib.figure import Figure  # pyplot would look for a screen
    in_bits = len({run.tokenizer for run in runs}) > 1
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(SCALES), sharey=True)
    for number, run in enumerate(runs):
        # In bits: the tokenizer's bytes per token, the ratio of two values of the report.
        unit = run.report.get("val_bits_per_byte", 0) / run.report.get("val_loss", 1) if in_bits else 1.0
        for axes, scale in zip(panels, SCALES, strict=True):
            for key, split, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
                points = [(entry[scale], entry[key] * unit) for entry in run.history if key in entry and scale in entry]
                if points and unit:
                    label = f"{run.folder.name}, {split}"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label, alpha=0.8)
    if not any(axes.lines for axes in panels):
        raise ValueError("There is nothing to plot: no run has logged a loss that can be compared.")
    for axes, text in zip(panels, SCALES.values(), strict=True):
        axes.set_xlabel(text)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("bits per byte" if in_bits else "loss (nats per token)")
    panels[0].legend(fontsize=8)
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
