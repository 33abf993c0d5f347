"""Names of classes: one label a row, a word or a whole number."""

from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from .columns import Malformed, describe

ONE_LABEL = "a row needs one label, a name or a whole number"


def read_label(value: Any, column: str) -> str:
    """Return the name of a row's class; raises Malformed for several labels, a fraction, or none."""
    if isinstance(value, int):  # True and False, too
        return str(value).lower()
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise Malformed(f"has {describe(value)} as {column}: {ONE_LABEL}")


def check_classes(rows: Dataset, source: str) -> None:
    """Raise ValueError if all labels are numbers and one is a fraction, as a CSV file has it, or if all are equal."""
    labels = list(rows["label"])
    if all(map(_is_number, labels)):
        for place, label in zip(rows["place"], labels, strict=True):
            if not label.lstrip("+-").isdecimal():
                raise ValueError(f"{place} has {label!r} as label: {ONE_LABEL}.")
    if len(set(labels)) < 2:
        raise ValueError(f"{source} has one label only, {labels[0]!r}: give examples of at least two classes.")


def label_names(labels: Iterable[str]) -> list[str]:
    """Return the names among labels in the order of their ids: numbers by size, then words."""
    return sorted(set(labels), key=lambda name: (not _is_number(name), float(name) if _is_number(name) else 0.0, name))


def _is_number(label: str) -> bool:
    try:
        return float(label) == float(label)
    except ValueError:
        return False
