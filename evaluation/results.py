"""What an evaluation found, as a table and as JSON."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..jobs.markdown import markdown_table
from ..jobs.saving import write_atomically
from .bootstrap import FEWEST_ROWS, Metric, interval, paired_interval

MOST_LABELS = 12  # in the table of the confusion matrix


@dataclass
class Evaluation:
    """The figures of one model on one data set."""

    task: str  # as `folio evaluate --task` names it
    metrics: list[Metric]  # the most telling first
    examples: int  # texts, chats, questions ...
    notes: list[str] = field(default_factory=list)  # what a reader has to know to read the figures
    details: dict[str, Any] = field(default_factory=dict)  # what is no figure: the confusion matrix, the longest copy
    baselines: dict[str, list[Metric]] = field(default_factory=dict)  # figures of something simpler, by its name


def summarise(after: Evaluation, before: Evaluation | None = None, seed: int = 0) -> dict[str, dict]:
    """Every figure as numbers: value and interval, those before, the difference, and of the baselines."""
    others = {"before": before.metrics} if before else {}
    others |= after.baselines
    figures = {}
    for metric in after.metrics:
        entry: dict[str, Any] = {"value": metric.value, "interval": interval(metric, seed=seed)}
        for name, metrics in others.items():
            other = next(each for each in metrics if each.name == metric.name)
            entry[name] = {"value": other.value, "interval": interval(other, seed=seed)}
            same_rows = len(other.rows) == len(metric.rows)  # else these are not the same stretches of text
            paired = paired_interval(other, metric, seed=seed) if same_rows else None
            entry[difference_from(name)] = {"value": metric.value - other.value, "interval": paired}
        figures[metric.name] = entry
    return figures


def difference_from(name: str) -> str:
    """What the difference from `before`, or from a baseline, is called."""
    return "difference" if name == "before" else f"difference from {name}"


def table(figures: dict[str, dict]) -> str:
    """The figures in Markdown, with 95 % intervals in brackets."""
    columns = [name for name, value in next(iter(figures.values())).items() if isinstance(value, dict)]
    rows = [[name, cell(entry), *(cell(entry[column]) for column in columns)] for name, entry in figures.items()]
    return markdown_table(["", "this model", *columns], rows)


def cell(entry: dict) -> str:
    """A figure with its interval."""
    bounds = entry.get("interval")
    return _number(entry["value"]) + (f" [{_number(bounds[0])}, {_number(bounds[1])}]" if bounds else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def verdict(metric: Metric, entry: dict, name: str) -> str:
    """One sentence: whether the model is better than `name` by more than chance."""
    value, bounds = entry[difference_from(name)].values()
    if metric.higher_is_better is None:
        return ""
    if (rows := len(metric.rows)) < FEWEST_ROWS:
        said = "one row shows" if rows == 1 else f"{rows} rows show"
        return f"Of this model and {name}, {said} nothing: evaluate on at least {FEWEST_ROWS}."
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return f"By {metric.name}, there is no telling this model and {name} apart on so little data."
    better = (value > 0) == metric.higher_is_better
    return f"By {metric.name}, this model is {'better' if better else 'worse'} than {name}."


def confusion_table(matrix: dict) -> str:
    """The confusion matrix in Markdown, its largest labels alone where there are many."""
    labels, counts = matrix["labels"], np.array(matrix["counts"])
    kept = sorted(np.argsort(-counts.sum(1), kind="stable")[:MOST_LABELS])
    rows = [[labels[i], *(counts[i, j] for j in kept)] for i in kept]
    return markdown_table(["true \\ predicted", *(labels[i] for i in kept)], rows)


def check_writable(file: str | Path) -> None:
    """Raises ValueError or PermissionError before the work, not after it, if a file cannot be written."""
    path = Path(file).expanduser()
    if path.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise PermissionError(f"Cannot write {file}: give another place.")


def write_json(file: str | Path, results: dict) -> None:
    """Write results whole or not at all, with null for what is no number; raises OSError that says where."""
    write_text(Path(file).expanduser(), json.dumps(_plain(results), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise OSError(f"Cannot write {path} ({error.strerror or error}): give another place.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
