"""Options and output that the commands of `folio rag` share."""

import json
import os
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from ...jobs.options import option

SHOWN_CHARACTERS = 400


@dataclass
class IndexArguments:
    index: str = field(metadata={"help": "folder of the index"})
    url: str | None = option(None, "Chroma server that has the vectors; by default the folder has them")
    embedder: str | None = option(None, "sentence-transformers model; by default the index's own, or all-MiniLM-L6-v2")


@dataclass
class SearchArguments:
    k: int = option(5, "number of passages")
    mode: str = option("hybrid", "hybrid, dense (by meaning) or lexical (by words)")
    where: str | None = option(None, 'condition on the documents to search, as JSON: {"type": "pdf"}')
    reranker: str | None = option(None, "cross-encoder that reranks the best 50 passages")

    def condition(self) -> dict | None:
        """Read `where`; ValueError if it is not JSON."""
        try:
            return None if self.where is None else json.loads(self.where)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'--where is not JSON ({error}): give a mapping such as \'{{"type": "pdf"}}\'.') from None


def open_index(index: IndexArguments, **options):
    from ...rag import Rag

    return Rag.open(index.index, url=index.url, embedder=index.embedder, **options)


def print_passage(found, before: str, after: str, text: str, indent: str) -> None:
    """Print the position of a hit or a citation, and its text below."""
    page = f", page {found.page}" if found.page else ""
    name = display_path(found.document).replace("\n", "\\n")  # a name must not fake another line
    print(f"{before} {name}{page} [{found.start}:{found.end}]{after}")
    text = textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=" ...")
    print(textwrap.indent(textwrap.fill(text, 100), indent))


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}", end="\033[K\r", file=sys.stderr)


def display_path(name: str) -> str:
    """Return a path relative to the current folder if it is below it."""
    return os.path.relpath(name) if name.startswith(f"{Path.cwd().as_posix()}/") else name
