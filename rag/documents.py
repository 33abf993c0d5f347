"""What is indexed: documents, and what a search gives back."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field

Scalar = str | int | float | bool
DOCUMENT = "document"  # the name of a document, wherever its metadata is looked at
NOT_STORABLE = "a number that is not finite, or an integer of more than 64 bits"
SURROGATE = re.compile(r"[\ud800-\udfff]")  # no encoding has them


@dataclass(frozen=True)
class Heading:
    """A heading: where its section starts in the document's text, how deep it is (1 is the highest), and its words."""

    start: int
    level: int
    text: str


@dataclass(frozen=True)
class Document:
    """A text that can be found and cited; ValueError for what cannot be stored."""

    name: str  # a file's is its path, a row's is `<path>:<row>`
    text: str
    title: str = ""  # what the document is about, known to every part of it
    metadata: dict[str, Scalar] = field(default_factory=dict)  # what `where` filters by
    headings: tuple[Heading, ...] = ()  # by position
    pages: tuple[int, ...] = ()  # where each one starts

    def __post_init__(self) -> None:
        for what in ("name", "text", "title"):
            value = getattr(self, what)
            if not isinstance(value, str):
                raise ValueError(f"A document's {what} must be text, not {type(value).__name__} {str(value)[:40]!r}.")
            if not value.isascii() and SURROGATE.search(value):
                raise ValueError(f"The {what} of {self.name!r} holds half a character (a surrogate): correct it.")
        if not self.name.strip():
            raise ValueError("A document needs a name.")
        if "\0" in self.name + self.text + self.title:
            raise ValueError(f"The document {self.name!r} holds a NUL character, which no text does.")
        for key, value in self.metadata.items():
            if not isinstance(key, str) or '"' in key or key == DOCUMENT or not isinstance(value, Scalar):
                remedy = f'text, numbers or booleans under names other than "{DOCUMENT}" and without quotation marks'
                raise ValueError(f"Metadata of {self.name}: {key!r} is {value!r:.40}; give {remedy}.")
            if not is_storable(value):
                raise ValueError(f"Metadata of {self.name}: {key!r} is {NOT_STORABLE}: give text, or leave it out.")

    @property
    def hash(self) -> str:
        """Of everything but the name: two equal ones need not be indexed again."""
        structure = [[h.start, h.level, h.text] for h in self.headings], self.pages
        everything = json.dumps([self.text, self.title, self.metadata, structure], sort_keys=True)
        return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def is_storable(value: Scalar) -> bool:
    """Whether SQLite can store and compare a value."""
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str) or -(2**63) <= value < 2**63


def context_of(title: str, heading: str, passage: str) -> str:
    """The title and the heading that a passage stands under, a line each, without what the passage says itself."""
    return "\n".join(dict.fromkeys(part for part in (title, heading) if part and part not in passage))


@dataclass(frozen=True)
class Hit:
    """A passage that was found: `text` is the document's `text[start:end]`.

    `score` is what the hits are ordered by: the cosine (dense), minus BM25 as SQLite counts it (lexical), the fused
    ranks (hybrid), or what the reranker says. `cosine` is there if the dense search found the passage.
    """

    document: str
    start: int
    end: int
    text: str
    page: int | None
    title: str
    heading: str
    metadata: dict[str, Scalar]
    score: float
    cosine: float | None
    chunk: int


@dataclass
class SyncReport:
    """What a sync did, in documents, and what it left out: name -> why."""

    added: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    embedded: int = 0
    progress: float = 0.0  # the share of the files that was looked at
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "SyncReport") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine | value if isinstance(value, dict) else mine + value)


@dataclass(frozen=True)
class VerifyReport:
    """Whether the catalog and the dense index are whole and say the same."""

    documents: int
    chunks: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems
