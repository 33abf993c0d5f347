"""Documents, the hits of a search, and reports."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

Scalar = str | int | float | bool
DOCUMENT = "document"  # the key of a document's name in conditions on metadata
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Heading:
    """A heading: the start of its section in the document's text, its level (1 is the highest), and its words."""

    start: int
    level: int
    text: str


@dataclass(frozen=True)
class Document:
    """A text that can be found and cited; ValueError if it cannot be stored."""

    name: str  # of a file its path, of a row `<path>:<row>`
    text: str
    title: str = ""  # part of the context of every chunk
    metadata: dict[str, Scalar] = field(default_factory=dict)  # filtered by `where`
    headings: tuple[Heading, ...] = ()  # by position
    pages: tuple[int, ...] = ()  # position of the start of each

    def __post_init__(self) -> None:
        for what in ("name", "text", "title"):
            value = getattr(self, what)
            if not isinstance(value, str):
                raise ValueError(f"A document's {what} must be text, not {type(value).__name__} {str(value)[:40]!r}.")
            if "\0" in value or (not value.isascii() and SURROGATE.search(value)):
                kind = "a NUL character" if "\0" in value else "half a character (a surrogate)"
                raise ValueError(f"The {what} of {self.name!r} has {kind}: correct it.")
        if not self.name.strip():
            raise ValueError("A document needs a name.")
        for key, value in self.metadata.items():
            if not isinstance(key, str) or '"' in key or key == DOCUMENT or not is_storable(value):
                names = f'a name other than "{DOCUMENT}" and without quotation marks'
                remedy = f"text, a boolean, a finite number or an integer of at most 64 bits under {names}"
                raise ValueError(f"Metadata of {self.name}: {key!r} is {value!r:.40}; give {remedy}.")

    @property
    def hash(self) -> str:
        """The hash of everything except the name."""
        structure = [[h.start, h.level, h.text] for h in self.headings], self.pages
        everything = json.dumps([self.text, self.title, self.metadata, structure], sort_keys=True)
        return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def is_storable(value: Any) -> bool:
    """Return True if SQLite can store and compare a value: text, a boolean, a finite number, 64 bits of an integer."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def context_of(title: str, heading: str, passage: str) -> str:
    """Return the title and the heading above a passage, a line each, without those that the passage contains."""
    return "\n".join(dict.fromkeys(part for part in (title, heading) if part and part not in passage))


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `text` is the document's `text[start:end]`."""

    document: str
    start: int
    end: int
    text: str
    page: int | None
    title: str
    heading: str
    metadata: dict[str, Scalar]
    score: float  # cosine (dense), BM25 (lexical), fused ranks (hybrid), or those of search and reranker together
    cosine: float | None  # None if only words found the passage
    chunk: int


@dataclass
class SyncReport:
    """The numbers of documents of a sync, and those that it left out: name -> reason."""

    added: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    embedded: int = 0
    progress: float = 0.0  # share of the files
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "SyncReport") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine | value if isinstance(value, dict) else mine + value)


@dataclass(frozen=True)
class VerifyReport:
    """The size of an index, and the differences between its catalog and its dense index."""

    documents: int
    chunks: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems
