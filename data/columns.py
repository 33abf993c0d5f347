"""The columns of each kind of example, the names that they have in public data, and the cells of a row."""

import contextlib
import json
from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

from datasets import Json

TO_JSON = json.JSONEncoder(ensure_ascii=False, default=str).encode


class Malformed(ValueError):
    """A row with a wrong value in one of its columns. The message completes "row 3 ..."."""


OWN_NAME = ("chosen", "rejected", "instruction", "history", "tools", "question", "context", "answers", "id")
NAMES = {  # column: the names that it goes by, the most likely first
    **{column: (column,) for column in OWN_NAME},
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question", "query", "instruction"),
    "completion": ("completion", "response", "answer"),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
    "dialogue": ("dialogue", "dialog", "document", "article"),
    "summary": ("summary", "highlights"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    "text": ("text", "sentence", "content", "review"),
    "label": ("label", "labels"),
}
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # kind: columns that it must have, and those it may have
    "preference": (("chosen", "rejected"), ("prompt", "messages", "input", "system", "history", "tools")),
    "chat": (("messages",), ("system", "tools")),
    "instruction": (("instruction", "output"), ("input", "system", "history", "tools")),
    "prompt-completion": (("prompt", "completion"), ("input", "system", "history", "tools")),
    "qa": (("question", "context", "answers"), ("id",)),
    "summary": (("dialogue", "summary"), ()),
    "tags": (("tokens", "tags"), ()),
    "classification": (("text", "label"), ()),
    "text": (("text",), ()),
}


class Columns:
    """The names of rows' columns: those seen so far, those that nothing reads, and the user's that no row has.

    `given` are names in the user's data, by their column in `NAMES`; raises ValueError for a column that is not there.
    `label` is the name of the column with the labels, of texts or of words.
    """

    def __init__(self, given: Mapping[str, str] | None = None, label: str | None = None):
        self.given, self.label = dict(given or {}), label
        if unknown := self.given.keys() - NAMES.keys():
            raise ValueError(f"No kind of data has a column {min(unknown)!r}: give one of {', '.join(NAMES)}.")
        self.seen: dict[tuple[str, ...], dict[str, str]] = {}  # names of a row: those that are read

    def kinds(self, row: Mapping) -> list[str]:
        """Return the kinds whose columns a row has, and that have all columns that the user named."""
        return [
            kind
            for kind, (needs, takes) in KINDS.items()
            if self.given.keys() <= {*needs, *takes} and self._find(kind, row).keys() >= {*needs}
            if kind != "classification" or row.keys().isdisjoint(NAMES["tokens"])
        ]

    def cells(self, kind: str, row: Mapping) -> "Cells":
        if (names := tuple(row)) not in self.seen:
            self.seen[names] = self._find(kind, names)
        return Cells(row, self.seen[names])

    def all(self) -> list[str]:
        return list(dict.fromkeys(chain(*self.seen)))

    def unused(self) -> list[str]:
        read = set().union(*(found.values() for found in self.seen.values()))
        return [name for name in self.all() if name not in read]

    def missing(self) -> list[str]:
        return [name for name in [*self.given.values(), self.label] if name and name not in self.all()]

    def _find(self, kind: str, names: Collection[str]) -> dict[str, str]:
        found = {}
        for column in chain(*KINDS[kind]):
            given = self.label if column in ("label", "tags") and self.label else self.given.get(column)
            alternatives = (given,) if given else NAMES[column]
            if name := next((name for name in alternatives if name in names and name not in found.values()), None):
                found[column] = name
        return found


class Cells:
    """The values of a row in the columns of its kind."""

    def __init__(self, row: Mapping, names: dict[str, str]):
        self.row, self.names = row, names

    def name(self, column: str) -> str:
        return self.names.get(column, column)

    def get(self, column: str) -> Any:
        name = self.names.get(column)
        return None if name is None else self.row.get(name)

    def string(self, column: str, may_be_empty: bool = False) -> str:
        value = "" if may_be_empty and self.get(column) is None else self.get(column)
        if not isinstance(value, str):
            raise Malformed(f"has {describe(value)} as {self.name(column)}, not a string")
        if not may_be_empty and not value.strip():
            raise Malformed(f"has nothing as {self.name(column)}")
        return value

    def json(self, column: str) -> Any:
        """Return a value that may be written as JSON, as it is in a CSV file."""
        value = self.get(column)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            with contextlib.suppress(ValueError):
                return nested_json(value)
        return value

    def list(self, column: str, may_be_empty: bool = False) -> list:
        value = self.json(column)
        if may_be_empty and (value is None or value == ""):
            return []
        if not isinstance(value, list) or not (value or may_be_empty):
            raise Malformed(f"has {describe(value)} as {self.name(column)}, not a list with something in it")
        return value

    def is_chat(self, column: str) -> bool:
        """Return True if a column that may hold a text holds messages."""
        value = self.json(column)
        if not isinstance(value, list) or not isinstance(self.get(column), str):
            return isinstance(value, list)
        return all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in value)


def nested_json(text: str) -> Any:
    """Parse a string of JSON in a row; raises ValueError for other strings, and for half a character."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def stored_json(value: Mapping) -> str:
    """Write a message or a tool as JSON that `Json` decodes; raises Malformed for a number that it would change."""
    text = TO_JSON(value)
    if not all(isinstance(part, str) for part in value.values()):
        try:
            Json().decode_example(text)
        except ValueError:
            raise Malformed("has a number of more than 64 bits in a message or a tool: write it as a string") from None
    return text


def describe(value: Any) -> str:
    return "no value" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
