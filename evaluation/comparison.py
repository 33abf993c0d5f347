"""Training runs side by side: which settings differ, how the losses fell, what came out."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..jobs.markdown import markdown_table
from ..jobs.plotting import pyplot
from ..jobs.report import REPORT_FILE
from ..jobs.run_folder import BATCH, FINGERPRINT, JOB, RUN_FILE, VERSION, read_settings
from ..jobs.saving import checkpoints

METRICS_FILE = "metrics.jsonl"
NOT_COMPARED = {FINGERPRINT, JOB, VERSION, BATCH}
SAMPLE_CHARACTERS = 300
SCALES = {"step": "steps", "tokens": "tokens", "seconds": "seconds of training and evaluating"}


@dataclass
class Run:
    """What a training run has left in its folder; `report` is empty until it is finished."""

    folder: Path
    settings: dict
    report: dict
    history: list[dict]  # losses and samples, with step, tokens and seconds

    @property
    def tokenizer(self) -> str | None:
        """What tells its tokenizer from others; None if none was saved yet."""
        places = [self.folder, *checkpoints(self.folder)]
        file = next((place / "tokenizer.json" for place in places if (place / "tokenizer.json").is_file()), None)
        return file and sha256(file.read_bytes()).hexdigest()

    def last(self, name: str):
        """The last value of a figure in the report or, until there is one, in the history."""
        logged = {"val_loss": "eval_loss", "steps": "step"}.get(name, name)
        return self.report.get(name, next((entry[logged] for entry in reversed(self.history) if logged in entry), None))

    def summary(self) -> dict:
        """The figures of the run, of which those that it does not have are None."""
        seconds = self.report.get("seconds", {}).get("training", self.last("seconds"))
        kind = self.report.get("task") or self.settings.get("task") or "pretrain"
        names = ("parameters", "steps", "tokens", "tokens_per_second", "val_loss", "val_bits_per_byte")
        figures = {name: self.last(name) for name in names}
        return {"run": str(self.folder), "task": kind, "finished": bool(self.report), "seconds": seconds, **figures}


def read_run(folder: str | Path) -> Run:
    """Read a run's folder; raises FileNotFoundError or ValueError if there is none of ours, or a file is damaged."""
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
    """The entries of a metrics file; a last line that was cut off is passed over."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def find_runs(folder: str | Path) -> list[Run]:
    """The runs in a folder's folders, or the folder's own; raises FileNotFoundError if there is none."""
    path = Path(folder).expanduser()
    places = [path] if (path / RUN_FILE).is_file() else [file.parent for file in sorted(path.glob(f"*/{RUN_FILE}"))]
    runs = [read_run(place) for place in places if read_settings(place) is not None]
    if not runs:
        raise FileNotFoundError(f"{folder} holds no training run ({RUN_FILE}): give a folder that has some.")
    return runs


def compare(runs: Sequence[Run]) -> dict:
    """The figures of each run, the settings that differ, and why some figures cannot be compared."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings if name not in NOT_COMPARED))
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    different = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    cautions = []
    if len({run.tokenizer for run in runs}) > 1:
        cautions.append("The tokenizers differ: losses of their tokens say nothing of each other, bits a byte do.")
    if len({str(run.settings.get(FINGERPRINT)) for run in runs}) > 1:
        cautions.append("The texts differ: a lower figure may come of a text that is easier to predict.")
    samples = [next((entry["sample"] for entry in reversed(run.history) if "sample" in entry), None) for run in runs]
    figures = [run.summary() for run in runs]
    return {"runs": figures, "settings": different, "cautions": cautions, "samples": samples}


def table(summaries: Sequence[dict], losses: bool = True) -> str:
    """The summaries of runs as a Markdown table, without losses if those cannot be compared."""
    formats = {
        "parameters": "{:,}", "steps": "{:,}", "tokens": "{:,}", "seconds": "{:,.0f}", "tokens_per_second": "{:,.0f}",
        "val_loss": "{:.4f}", "val_bits_per_byte": "{:.4f}",
    }  # fmt: skip
    if not losses:
        del formats["val_loss"]
    header = ["run", "task", *(name.replace("val_", "validation ").replace("_", " ") for name in formats)]
    rows = []
    for summary in summaries:
        name = summary["run"] + ("" if summary["finished"] else " (unfinished)")
        cells = ["" if summary[key] is None else text.format(summary[key]) for key, text in formats.items()]
        rows.append([name, summary["task"], *cells])
    return markdown_table(header, rows)


def show(compared: dict) -> str:
    """A comparison as Markdown: figures, settings, samples."""
    names = [summary["run"] for summary in compared["runs"]]
    parts = [table(compared["runs"], losses=not any("tokenizers" in line for line in compared["cautions"]))]
    parts += compared["cautions"]
    if compared["settings"]:
        parts.append(markdown_table(["setting", *names], [[key, *each] for key, each in compared["settings"].items()]))
    for name, sample in zip(names, compared["samples"], strict=True):
        if sample is not None:
            parts.append(f"{name} writes:\n{sample[:SAMPLE_CHARACTERS]}")
    return "\n\n".join(parts)


def draw(runs: Sequence[Run], file: str | Path) -> None:
    """Draw the losses over steps, tokens and seconds into a PNG file; in bits a byte if the tokenizers differ.

    Raises ImportError without matplotlib, ValueError if there is nothing to draw.
    """
    plt = pyplot("--picture")
    in_bits = len({run.tokenizer for run in runs}) > 1
    figure, panels = plt.subplots(1, len(SCALES), sharey=True, figsize=(12, 4), layout="constrained")
    for number, run in enumerate(runs):
        # In bits: the tokenizer's bytes a token, which the report's two figures tell.
        unit = run.report.get("val_bits_per_byte", 0) / run.report.get("val_loss", 1) if in_bits else 1.0
        for axes, scale in zip(panels, SCALES, strict=True):
            for key, style in (("loss", "-"), ("eval_loss", "o--")):
                points = [(entry[scale], entry[key] * unit) for entry in run.history if key in entry and scale in entry]
                if points and unit:
                    label = f"{run.folder.name}, validation" if key == "eval_loss" else f"{run.folder.name}, training"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label, alpha=0.8)
    if not any(axes.lines for axes in panels):
        raise ValueError("--picture has nothing to draw: no run has logged a loss that can be compared.")
    for axes, text in zip(panels, SCALES.values(), strict=True):
        axes.set_xlabel(text)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("bits a byte" if in_bits else "loss (nats a token)")
    panels[0].legend(fontsize=8)
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)
