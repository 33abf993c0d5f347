"""What the commands of `folio rag` share: which index, which passages, and how they are shown."""

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


def words_of(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words that are neither an option nor the value of one, all that follow "--" among them, and the others."""
    end = argv.index("--") if "--" in argv else len(argv)
    words, others = [], []
    for before, word in zip(["", *argv], argv[:end], strict=False):
        is_option = word.startswith("-") and " " not in word
        is_value = before.startswith("--") and "=" not in before and " " not in before
        (others if is_option or is_value else words).append(word)
    return words + argv[end + 1 :], others


def where_of(args: SearchArguments) -> dict | None:
    try:
        return None if args.where is None else json.loads(args.where)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'--where is not JSON ({error}): give a mapping such as \'{{"type": "pdf"}}\'.') from None


def print_passage(found, before: str, after: str, text: str, indent: str) -> None:
    """Print where a hit or a citation stands, and its text below."""
    page = f", page {found.page}" if found.page else ""
    name = shown(found.document).replace("\n", "\\n")  # a name may not begin the line of another
    print(f"{before} {name}{page} [{found.start}:{found.end}]{after}")
    text = textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=" ...")
    print(textwrap.indent(textwrap.fill(text, 100), indent))


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}", end="\033[K\r", file=sys.stderr)


def shown(name: str) -> str:
    """A path as it looks from here."""
    return os.path.relpath(name) if name.startswith(f"{Path.cwd().as_posix()}/") else name
