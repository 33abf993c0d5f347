"""What the commands of `folio rag` share: which index, which passages, and how names are shown."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class IndexArguments:
    index: str = field(metadata={"help": "the folder of the index"})
    url: str | None = field(
        default=None, metadata={"help": "the Chroma server that has the vectors; by default the folder has them"}
    )
    embedder: str | None = field(
        default=None,
        metadata={"help": "a sentence-transformers model; by default the index's own, or all-MiniLM-L6-v2 (English)"},
    )


@dataclass
class SearchArguments:
    k: int = field(default=5, metadata={"help": "how many passages"})
    mode: str = field(default="hybrid", metadata={"help": "hybrid, dense (by meaning) or lexical (by words)"})
    where: str | None = field(default=None, metadata={"help": 'of which documents, as JSON: {"type": "pdf"}'})
    reranker: str | None = field(default=None, metadata={"help": "a cross-encoder that reads the best ones again"})


def open_index(index: IndexArguments, **options):
    from ...rag import Rag

    return Rag.open(index.index, url=index.url, embedder=index.embedder, **options)


def where_of(args: SearchArguments) -> dict | None:
    try:
        return None if args.where is None else json.loads(args.where)
    except ValueError as error:
        raise ValueError(f'--where is not JSON ({error}): give a mapping such as \'{{"type": "pdf"}}\'.') from None


def shown(name: str) -> str:
    """A path as it looks from here."""
    return os.path.relpath(name) if name.startswith(f"{Path.cwd().as_posix()}/") else name
