"""Which columns each kind of example has, the names that they go by, and those that nothing reads."""

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from datasets import Json

TO_JSON = json.JSONEncoder(ensure_ascii=False, default=str).encode


class Malformed(ValueError):
    """A row that is not what its data set's columns promise. The message completes "row 3 ..."."""


class Kind(NamedTuple):
    """The columns that a kind of example must have, and those that it may have."""

    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


OWN_NAME = ("chosen", "rejected", "instruction", "history", "tools", "question", "context", "answers", "id")
NAMES = {  # column: the names that it goes by, the likeliest first
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
KINDS = {
    "preference": Kind(("chosen", "rejected"), ("prompt", "messages", "input", "system", "history", "tools")),
    "chat": Kind(("messages",), ("system", "tools")),
    "instruction": Kind(("instruction", "output"), ("input", "system", "history", "tools")),
    "prompt-completion": Kind(("prompt", "completion"), ("input", "system", "history", "tools")),
    "qa": Kind(("question", "context", "answers"), ("id",)),
    "summary": Kind(("dialogue", "summary")),
    "tags": Kind(("tokens", "tags")),
    "classification": Kind(("text", "label")),
    "text": Kind(("text",)),
}


class Columns:
    """Finds the columns of rows, and remembers which names nothing reads.

    Args:
        given: names in the user's data, by the column of `NAMES` that they are; raises ValueError for another column.
        labels: the names of several columns of labels, each with 0 or 1.
    """

    def __init__(self, given: Mapping[str, str] | None = None, labels: Sequence[str] = ()):
        self.given, self.labels = dict(given or {}), tuple(labels)
        if unknown := self.given.keys() - NAMES.keys():
            raise ValueError(f"No kind of data has a column {min(unknown)!r}: give one of {', '.join(NAMES)}.")
        self.seen: dict[tuple[str, ...], dict[str, str]] = {}  # names of a row: those that are read

    def kinds(self, row: Mapping) -> list[str]:
        """The kinds whose columns a row has, among them all that the user named."""
        return [
            kind
            for kind, (needs, takes) in KINDS.items()
            if self.given.keys() <= {*needs, *takes} and self._find(kind, row).keys() >= {*needs}
            if kind != "classification" or row.keys().isdisjoint(NAMES["tokens"])
        ]

    def cells(self, kind: str, row: Mapping) -> "Cells":
        """A row as one of a kind."""
        if (names := tuple(row)) not in self.seen:
            self.seen[names] = self._find(kind, names)
        return Cells(row, self.seen[names])

    def unused(self) -> list[str]:
        """The names, in the rows read so far, that nothing reads."""
        read = {*self.labels}.union(*(found.values() for found in self.seen.values()))
        return [name for name in dict.fromkeys(chain(*self.seen)) if name not in read]

    def missing(self) -> list[str]:
        """The names that the user gave and that no row has."""
        return sorted({*self.given.values(), *self.labels}.difference(chain(*self.seen)))

    def _find(self, kind: str, names: Collection[str]) -> dict[str, str]:
        found = {}
        for column in (*KINDS[kind].needs, *KINDS[kind].takes):
            alternatives = (self.given[column],) if column in self.given else NAMES[column]
            if column in ("label", "tags") and self.labels:
                alternatives = self.labels[:1]
            if name := next((name for name in alternatives if name in names and name not in found.values()), None):
                found[column] = name
        return found


class Cells:
    """What a row has in the columns of its kind."""

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
            raise Malformed(f"has {shown(value)} as {self.name(column)}, not a string")
        if not may_be_empty and not value.strip():
            raise Malformed(f"has nothing as {self.name(column)}")
        return value

    def json(self, column: str) -> Any:
        """A value that may be written as JSON, as it is in a CSV file."""
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
            raise Malformed(f"has {shown(value)} as {self.name(column)}, not a list with something in it")
        return value

    def is_chat(self, column: str) -> bool:
        """Whether a column that may hold a text holds messages."""
        value = self.json(column)
        if not isinstance(value, list) or not isinstance(self.get(column), str):
            return isinstance(value, list)
        return all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in value)


def nested_json(text: str) -> Any:
    """The value of a string of JSON in a row; raises ValueError for other strings, and for half a character."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def stored_json(value: Mapping) -> str:
    """A message or a tool as JSON that `Json` decodes; raises Malformed for a number that it would not read back."""
    text = TO_JSON(value)
    if not all(isinstance(part, str) for part in value.values()):
        try:
            Json().decode_example(text)
        except ValueError:
            raise Malformed("has a number of more than 64 bits in a message or a tool: write it as a string") from None
    return text


def shown(value: Any) -> str:
    """A value as errors tell it."""
    return "no value" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
