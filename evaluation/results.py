"""Results of an evaluation, as a table and as JSON."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..jobs.markdown import markdown_table
from ..jobs.saving import write_atomically
from .bootstrap import MIN_ROWS, Metric, interval, paired_interval

MAX_LABELS_SHOWN = 12  # in the table of the confusion matrix


@dataclass
class Evaluation:
    """The metrics of one model on one dataset."""

    task: str  # as `folio evaluate --task` names it
    metrics: list[Metric]  # the most telling first
    examples: int  # texts, chats, questions ...
    notes: list[str] = field(default_factory=list)  # what a reader has to know to read the metrics
    details: dict[str, Any] = field(default_factory=dict)  # what is no metric: the confusion matrix, the longest copy
    baselines: dict[str, list[Metric]] = field(default_factory=dict)  # metrics of something simpler, by its name


def summarize(after: Evaluation, before: Evaluation | None = None, seed: int = 0) -> dict[str, dict]:
    """Return the value and interval of each metric, those of `before` and of baselines, and the differences from them.

    The difference from `before` is "difference", the one from another baseline "difference from NAME".
    """
    others = {"before": before.metrics} if before else {}
    others |= after.baselines
    entries = {}
    for metric in after.metrics:
        entry: dict[str, Any] = {"value": metric.value, "interval": interval(metric, seed=seed)}
        for name, metrics in others.items():
            other = next(each for each in metrics if each.name == metric.name)
            entry[name] = {"value": other.value, "interval": interval(other, seed=seed)}
            same_rows = len(other.rows) == len(metric.rows)  # else these are not the same stretches of text
            paired = paired_interval(other, metric, seed=seed) if same_rows else None
            entry[_difference(name)] = {"value": metric.value - other.value, "interval": paired}
        entries[metric.name] = entry
    return entries


def _difference(name: str) -> str:
    return "difference" if name == "before" else f"difference from {name}"


def table(entries: dict[str, dict]) -> str:
    """Return the metrics in Markdown, with 95 % intervals in brackets."""
    columns = [name for name, value in next(iter(entries.values())).items() if isinstance(value, dict)]
    rows = [[name, cell(entry), *(cell(entry[column]) for column in columns)] for name, entry in entries.items()]
    return markdown_table(["", "this model", *columns], rows)


def cell(entry: dict) -> str:
    """Return a metric with its interval."""
    bounds = entry.get("interval")
    return _number(entry["value"]) + (f" [{_number(bounds[0])}, {_number(bounds[1])}]" if bounds else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def verdicts(metric: Metric, entry: dict) -> list[str]:
    """Say in a sentence for each baseline in `entry` if the model is better by more than chance."""
    names = [name for name in entry if _difference(name) in entry and metric.higher_is_better is not None]
    return [_verdict(metric, entry, name) for name in names]


def _verdict(metric: Metric, entry: dict, name: str) -> str:
    value, bounds = entry[_difference(name)].values()
    if (rows := len(metric.rows)) < MIN_ROWS:
        few = "One row shows" if rows == 1 else f"{rows} rows show"
        return f"{few} nothing about this model and {name}: evaluate on at least {MIN_ROWS}."
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return f"The difference in {metric.name} between this model and {name} is not significant on so little data."
    better = (value > 0) == metric.higher_is_better
    return f"By {metric.name}, this model is {'better' if better else 'worse'} than {name}."


def confusion_table(matrix: dict) -> str:
    """Return the confusion matrix in Markdown, with its largest labels alone if there are many."""
    labels, counts = matrix["labels"], np.array(matrix["counts"])
    kept = sorted(np.argsort(-counts.sum(1), kind="stable")[:MAX_LABELS_SHOWN])
    rows = [[labels[i], *(counts[i, j] for j in kept)] for i in kept]
    return markdown_table(["true \\ predicted", *(labels[i] for i in kept)], rows)


def check_writable(file: str | Path) -> None:
    """Raise ValueError or PermissionError before the work, not after it, if a file cannot be written."""
    path = Path(file).expanduser()
    if path.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise PermissionError(f"Cannot write {file}: give another place.")


def to_json(results: Any) -> str:
    """Write results as JSON, with null for NaN and infinity."""
    finite = json.loads(json.dumps(results, default=lambda value: value.item()), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2, ensure_ascii=False)


def write_json(file: str | Path, results: dict) -> None:
    """Write results to a file, whole or not at all; raises OSError that says where."""
    write_text(Path(file).expanduser(), to_json(results) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; raises OSError that says where."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise OSError(f"Cannot write {path} ({error.strerror or error}): give another place.") from None
