"""Labels of texts: one of several classes, several that may hold at once, or a number."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, List, Value

Label = str | float | list[str]
YES = {"1": True, "true": True, "0": False, "false": False}


def read_labels(row: Mapping, columns: Sequence[str]) -> Label:
    """The label in one column, or the names of those of several that have 1; raises ValueError with the reason."""
    if len(columns) == 1:
        return _label(row.get(columns[0]), columns[0])
    held = {column: YES.get(str(row.get(column)).lower().removesuffix(".0")) for column in columns}
    for column in (column for column in columns if held[column] is None):
        raise ValueError(f"has {row.get(column)!r} as {column}, not 0 or 1")
    return [column for column in columns if held[column]]


def _label(value: Any, column: str) -> Label:
    if isinstance(value, int):  # True and False, too
        return str(value).lower()
    if isinstance(value, float) and value == value:
        return value
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return [str(item) for item in value]
    raise ValueError(f"has {'no value' if value in (None, '') else repr(value)[:40]} as {column}, not a label")


def settle_labels(examples: list[dict], source: str) -> tuple[list[dict], Any]:
    """Decide what the labels of a data set are, now that all are known; returns the examples with it, and their type.

    They are numbers if all are and some have a fraction or are floats, else the names of classes. Raises ValueError
    if some are lists and some are not, or there is one class only.
    """
    labels = [example["label"] for example in examples]
    lists = [isinstance(label, list) for label in labels]
    if any(lists):
        if not all(lists):
            raise ValueError(f"{source} has lists of labels in some rows and single ones in others: use one of them.")
        if not set().union(*labels) - {""}:
            raise ValueError(f"{source} has no label in any row: give data with labels.")
        kind = List(Value("string"))
    elif all(_is_number(label) for label in labels) and any(_is_fraction(label) for label in labels):
        labels, kind = [float(label) for label in labels], Value("float64")
    else:
        labels, kind = [str(label) for label in labels], Value("string")
        if len(set(labels)) < 2:
            raise ValueError(f"{source} has one label only, {labels[0]!r}: there is nothing to tell apart.")
    return [{**example, "label": label} for example, label in zip(examples, labels, strict=True)], kind


def same_labels(train: Dataset, other: Dataset, source: str) -> Dataset:
    """The `other` rows, with labels of the type in `train`; raises ValueError if they are something else."""
    if other.features == train.features:
        return other
    if train.features["label"] == Value("float64") and all(map(_is_number, other["label"])):
        return other.cast(train.features)
    raise ValueError(
        f"{source} has labels such as {other[0]['label']!r}, and the data to train on {train[0]['label']!r}: "
        "give both the same kind, names or numbers or lists."
    )


def label_names(labels: Sequence[Any]) -> list[str]:
    """All names among labels or lists of them, in the order of their ids: numbers by size, then words."""
    names = {name for label in labels for name in ([label] if isinstance(label, str) else label)}
    return sorted(names, key=lambda name: (not _is_number(name), float(name) if _is_number(name) else 0.0, name))


def _is_number(label: Any) -> bool:
    try:
        return float(label) == float(label)
    except (TypeError, ValueError):
        return False


def _is_fraction(label: Any) -> bool:
    return isinstance(label, float) or not label.lstrip("+-").isdecimal()
