"""Steps that clean documents before training, each with a count of its changes.

    documents, report = preprocess([("a.txt", "caf\\u0065\\u0301\\r\\n"), ("b.txt", "café\\n")])
    print(report.table())

No command cleans a corpus unless you ask for it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import regex

from ..jobs.markdown import markdown_table
from .preprocessing import drop_duplicates

Document = tuple[str, str]  # name, text

# The line ends of Unicode (UAX #14).
NEWLINES = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Spaces of other widths, except the wide one of Chinese and Japanese.
SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f]")
LINE_ENDS = re.compile(r"[ \t]+(?=\n|\Z)")
BLANK_LINES = re.compile(r"\n{4,}")
# Controls except tab and newline, byte order marks inside a text, halves of surrogate pairs, and code points that never
# will be characters. The joiners of emoji, Arabic and Indic scripts are none of these.
NO_TEXT = re.compile("[\0-\b\v-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def normalize_unicode(text: str) -> tuple[str, int]:
    """Convert to NFC, for instance `e` with a combining accent to `é`. Counts characters."""
    if unicodedata.is_normalized("NFC", text):
        return text, 0
    changed = sum(not unicodedata.is_normalized("NFC", seen) for seen in regex.findall(r"\X", text))
    return unicodedata.normalize("NFC", text), max(changed, 1)


def normalize_newlines(text: str) -> tuple[str, int]:
    """End every line in `\\n`. Counts line ends."""
    return NEWLINES.subn("\n", text)


def remove_control_characters(text: str) -> tuple[str, int]:
    """Remove characters that are no text: terminal codes, NUL, stray byte order marks. Counts characters."""
    return NO_TEXT.subn("", text)


def normalize_whitespace(text: str) -> tuple[str, int]:
    """Use one kind of space, none at the end of a line, and at most two blank lines together. Counts places.

    Indentation and runs of spaces within a line stay, since they have a meaning in code and tables.
    """
    total = 0
    for pattern, replacement in ((SPACES, " "), (LINE_ENDS, ""), (BLANK_LINES, "\n\n\n")):
        text, count = pattern.subn(replacement, text)
        total += count
    return text, total


STEPS: dict[str, Callable[[str], tuple[str, int]]] = {
    "newlines": normalize_newlines,
    "control characters": remove_control_characters,
    "whitespace": normalize_whitespace,
    "Unicode NFC": normalize_unicode,  # last, as a removed character may stand between a letter and its accent
}
SIZES = ("documents", "characters", "bytes")


@dataclass
class Report:
    """The sizes before and after `preprocess`, the changes of each step, and the names of dropped documents."""

    before: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    after: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    changes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    documents_changed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    boundaries: int = 0  # documents that were cut from others
    dropped: dict[str, list[str]] = field(default_factory=lambda: {"empty": [], "duplicate": [], "near duplicate": []})

    def table(self) -> str:
        sizes = {"before": self.before, "after": self.after}
        tables = [
            (["", *self.before], [[name, *size.values()] for name, size in sizes.items()]),
            (["changed", "documents", "places"], [[n, self.documents_changed[n], self.changes[n]] for n in STEPS]),
            (["dropped", "documents"], [[reason, len(names)] for reason, names in self.dropped.items()]),
        ]
        if self.boundaries:
            tables.append((["cut at the separator", "documents"], [["", self.boundaries]]))
        return "\n\n".join(markdown_table(header, rows) for header, rows in tables)


def _add_size(size: dict[str, int], text: str) -> None:
    for name, number in zip(SIZES, (1, len(text), len(text.encode(errors="replace"))), strict=True):
        size[name] += number


def preprocess(
    documents: Iterable[Document], separator: str | None = None, near_duplicates: float | None = 0.8
) -> tuple[list[Document], Report]:
    """Clean documents by all `STEPS`, in memory, and drop those that are empty or repeat an earlier one.

    Texts are cut at `separator` into documents named `name#1` and so on. `near_duplicates` is the threshold of
    `drop_duplicates`. Raises ValueError for these two.
    """
    if separator == "":
        raise ValueError("--separator is empty: give the text between documents.")
    report, cleaned, kept, seen = Report(), [], [], set()
    for whole_name, whole in documents:
        _add_size(report.before, whole)
        parts = [whole] if separator is None else whole.split(separator)
        report.boundaries += len(parts) - 1
        for number, text in enumerate(parts, 1):
            name = f"{whole_name}#{number}" if len(parts) > 1 else whole_name
            for step_name, step in STEPS.items():
                text, count = step(text)
                report.changes[step_name] += count
                report.documents_changed[step_name] += count > 0
            if text.strip():
                cleaned.append((name, text))
            else:
                report.dropped["empty"].append(name)
    to_keep = drop_duplicates([text for _, text in cleaned], near_duplicates)
    for (name, text), keep in zip(cleaned, to_keep, strict=True):
        if keep:
            kept.append((name, text))
            _add_size(report.after, text)
        else:
            report.dropped["duplicate" if text in seen else "near duplicate"].append(name)
        seen.add(text)
    return kept, report
