"""Ask your documents: an index in sync with them, search by meaning, by words, or both, and cited answers.

    folio rag sync docs --index runs/index
    folio rag search "How is a model exported?" --index runs/index
    folio rag search "json.dumps" --index runs/index --mode lexical --where '{"type": "md"}'
    folio rag ask "How is a model exported?" --index runs/index
    folio rag forget docs/old.md --index runs/index
    folio rag verify --index runs/index
    folio rag rebuild --index runs/index
    folio rag eval known-items --index runs/index

PATH is a file, a folder, or python-manual for the manual of the running Python; sync and forget take several. Put a
question or a path that begins with "-" last, after "--". `folio rag sync --help` lists the options of sync.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ...jobs.options import option
from .ask import ask
from .common import IndexArguments, SearchArguments, display_path, open_index, print_passage, show_progress
from .evaluate import evaluate

SHOWN_FAILURES = 20


@dataclass
class SyncArguments:
    prune: bool = option(False, "delete the documents of the folder whose files are gone")
    text_column: str = option("text", "column of the text in CSV, TSV and JSONL")


def sync(argv: list[str]) -> None:
    what = "Bring an index up to date with documents."
    paths, index, args = _parse(argv, [IndexArguments, SyncArguments], "sync", what, ["PATH..."])
    from ...rag import SyncReport

    total = SyncReport()
    with open_index(index) as rag:
        for path in paths:
            total.add(rag.sync(path, args.prune, args.text_column, progress=_show))
    show_progress("")
    for name, reason in list(total.failed.items())[:SHOWN_FAILURES]:
        print(f"left out: {display_path(name)} {reason}", file=sys.stderr)
    if len(total.failed) > SHOWN_FAILURES:
        print(f"left out: {len(total.failed) - SHOWN_FAILURES:,} more", file=sys.stderr)
    skipped = f", {len(total.skipped)} links and special files skipped" if total.skipped else ""
    changes = f"{total.added:,} added, {total.updated:,} updated, {total.deleted:,} deleted"
    print(f"{changes}, {total.unchanged:,} unchanged{skipped}; {total.embedded:,} chunks embedded")
    print(f"Try it: {shlex.join(['folio', 'rag', 'ask', 'your question', '--index', index.index])}")


def forget(argv: list[str]) -> None:
    what = "Delete documents by their names or those of their files or folders, with all traces in the index."
    names, index = _parse(argv, [IndexArguments], "forget", what, ["PATH..."])
    with open_index(index) as rag:
        count = rag.delete(*names)
    if not count:
        raise ValueError(f"The index has no document of {' or '.join(names)}; `folio rag search` shows names.")
    print(f"{count:,} documents forgotten.")


def search(argv: list[str]) -> None:
    what = "Find the passages nearest to a question."
    query, index, args = _parse(argv, [IndexArguments, SearchArguments], "search", what, ["Q"])
    where = args.condition()
    with open_index(index, reranker=args.reranker) as rag:
        hits = rag.search(query, args.k, args.mode, where)
    if not hits:
        print("No passage was found.")
    for number, hit in enumerate(hits, 1):
        heading = f"  {hit.heading or hit.title}".rstrip()
        print_passage(hit, f"{number}.", f"{heading}  ({hit.score:.4f})", hit.text, "   ")
        print()


def verify(argv: list[str]) -> None:
    (index,) = _parse(argv, [IndexArguments], "verify", "Compare all chunks and vectors of the catalog and the index.")
    with open_index(index) as rag:
        report = rag.verify()
    if not report.ok:
        repair = shlex.join(["folio", "rag", "rebuild", "--index", index.index])
        problems = "; ".join(report.problems).rstrip(".")
        raise RuntimeError(f"{index.index} is damaged: {problems}. Repair it with: {repair}")
    print(f"Complete, and equal in both: documents {report.documents:,}, chunks {report.chunks:,}.")


def rebuild(argv: list[str]) -> None:
    (index,) = _parse(argv, [IndexArguments], "rebuild", "Rebuild the dense index from the catalog.")
    with open_index(index) as rag:
        embedded = rag.rebuild()
        report = rag.verify()
    print(f"{report.chunks:,} chunks written, {embedded:,} of them embedded.")


def _parse(argv: list[str], groups: list[type], job: str, what: str, positional: Sequence[str] = ()) -> tuple:
    from ..arguments import parse  # here: it imports transformers

    return parse(argv, groups, f"folio rag {job}", f"{what}\n\n\n{__doc__}", positional=positional)


def _show(report) -> None:
    done = f"{report.added + report.updated:,} documents, {report.embedded:,} chunks"
    show_progress(f"{report.progress:.0%} of the files: {done}" if report.progress else done)


JOBS = {job.__name__: job for job in (sync, search, ask, forget, verify, rebuild)} | {"eval": evaluate}
