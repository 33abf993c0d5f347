"""What is indexed: documents, and what a search gives back."""

import hashlib
import json
import re
from dataclasses import dataclass, field

Scalar = str | int | float | bool
DOCUMENT = "document"  # the name of a document, wherever its metadata is looked at
SURROGATE = re.compile(r"[\ud800-\udfff]")  # no encoding has them


@dataclass(frozen=True)
class Heading:
    """A heading: where its section starts in the document's text, how deep it is (1 is the highest), and its words."""

    start: int
    level: int
    text: str


@dataclass(frozen=True)
class Document:
    """A text that can be found and cited.

    Args:
        name: identifies the document; a file's is its path, a row's is `<path>:<row>`.
        text: all of it. What is found is `text[start:end]`.
        title: what the document is about, known to every part of it.
        metadata: what `where` filters by.
        headings: its structure, by position.
        pages: where each page starts, if it has pages.

    Raises:
        ValueError: a name, a text or metadata that cannot be stored.
    """

    name: str
    text: str
    title: str = ""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()

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
                raise ValueError(
                    f"Metadata of {self.name}: {key!r} is {value!r}; give text, numbers or booleans under names "
                    f'other than "{DOCUMENT}" and without quotation marks.'
                )

    @property
    def hash(self) -> str:
        """Of everything but the name: two equal ones need not be indexed again."""
        structure = [[h.start, h.level, h.text] for h in self.headings], self.pages
        everything = json.dumps([self.text, self.title, self.metadata, structure], sort_keys=True)
        return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Hit:
    """A passage that was found: `text` is `document[start:end]`, where `document` is the text of the document.

    `score` is what the hits are ordered by: the cosine (dense), minus BM25 as SQLite counts it (lexical), the fused
    ranks (hybrid), or what the reranker says. `cosine` is there where the dense search found the passage.
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
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifyReport:
    """Whether the catalog and the dense index are whole and say the same."""

    documents: int
    chunks: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems
