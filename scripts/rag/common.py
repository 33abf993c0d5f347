"""What the commands of `folio rag` share: which index, which passages, and how they are shown."""

import json
import os
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from ...evaluation.arguments import option
from ..inputs import CONTROL

SHOWN_CHARACTERS = 400


@dataclass
class IndexArguments:
    index: str = field(metadata={"help": "the folder of the index"})
    url: str | None = option(None, "the Chroma server that has the vectors; by default the folder has them")
    embedder: str | None = option(
        None, "a sentence-transformers model; by default the index's own, or all-MiniLM-L6-v2 (English)"
    )


@dataclass
class SearchArguments:
    k: int = option(5, "how many passages")
    mode: str = option("hybrid", "hybrid, dense (by meaning) or lexical (by words)")
    where: str | None = option(None, 'of which documents, as JSON: {"type": "pdf"}')
    reranker: str | None = option(None, "a cross-encoder that reads the best ones again")


def open_index(index: IndexArguments, **options):
    from ...rag import Rag

    return Rag.open(index.index, url=index.url, embedder=index.embedder, **options)


def where_of(args: SearchArguments) -> dict | None:
    try:
        return None if args.where is None else json.loads(args.where)
    except ValueError as error:
        raise ValueError(f'--where is not JSON ({error}): give a mapping such as \'{{"type": "pdf"}}\'.') from None


def print_passage(found, before: str, after: str, text: str, indent: str) -> None:
    """Print where a hit or a citation stands, and its text below; nothing in them steers the terminal."""
    page = f", page {found.page}" if found.page else ""
    print(f"{before} {shown(found.document)}{page} [{found.start}:{found.end}]{after}".translate(CONTROL))
    text = textwrap.shorten(text.translate(CONTROL), SHOWN_CHARACTERS, placeholder=" ...")
    print(textwrap.indent(textwrap.fill(text, 100), indent))


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}", end="\033[K\r", file=sys.stderr)


def shown(name: str) -> str:
    """A path as it looks from here."""
    return os.path.relpath(name) if name.startswith(f"{Path.cwd().as_posix()}/") else name
