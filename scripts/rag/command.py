"""Ask your documents: an index that follows them, search by meaning, by words, or both, and cited answers.

    folio rag sync docs --index runs/index
    folio rag search "How is a model exported?" --index runs/index
    folio rag search "json.dumps" --index runs/index --mode lexical --where '{"type": "md"}'
    folio rag ask "How is a model exported?" --index runs/index
    folio rag verify --index runs/index
    folio rag rebuild --index runs/index
    folio rag serve-index --index runs/index --port 8001
    folio rag eval known-items --index runs/index

PATH is a file, a folder, or python-manual for the manual of the Python that is running. `folio rag sync --help` lists
the options of sync; so for the others.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ...evaluation.arguments import option
from ..inputs import CONTROL
from .ask import ask
from .common import IndexArguments, SearchArguments, open_index, print_passage, show_progress, shown, where_of
from .evaluate import evaluate

SHOWN_FAILURES = 20


@dataclass
class SyncArguments:
    delete_missing: bool = option(False, "forget documents that are no longer there")
    text_column: str = option("text", "the column with the text, of CSV, TSV and JSONL")


@dataclass
class ServeArguments:
    index: str = field(metadata={"help": "the folder of the index"})
    port: int = option(8001, "the port on this machine, at 127.0.0.1 alone")


def main(argv: list[str]) -> None:
    jobs = {
        "sync": sync, "search": search, "ask": ask, "eval": evaluate, "verify": verify, "rebuild": rebuild,
        "serve-index": serve_index,
    }  # fmt: skip
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
    elif argv[0] in jobs:
        jobs[argv[0]](argv[1:])
    else:
        raise ValueError(f"There is no `folio rag {argv[0]}`: choose {', '.join(jobs)}.")


def sync(argv: list[str]) -> None:
    from ..arguments import parse

    what = "Bring an index up to date with documents."
    path, index, args = parse(argv, [IndexArguments, SyncArguments], "folio rag sync", what, positional=("PATH",))
    with open_index(index) as rag:
        report = rag.sync(path, args.delete_missing, args.text_column, progress=_show_report)
    for name, why in list(report.failed.items())[:SHOWN_FAILURES]:
        print(f"left out: {shown(name)} {why}".translate(CONTROL), file=sys.stderr)
    if len(report.failed) > SHOWN_FAILURES:
        print(f"left out: {len(report.failed) - SHOWN_FAILURES} more", file=sys.stderr)
    skipped = f", {len(report.skipped)} links and the like skipped" if report.skipped else ""
    print(
        f"{report.added:,} added, {report.updated:,} updated, {report.deleted:,} deleted, {report.unchanged:,} "
        f"unchanged{skipped}; {report.embedded:,} chunks embedded"
    )
    print(f"Try it: {shlex.join(['folio', 'rag', 'ask', 'your question', '--index', index.index])}")


def search(argv: list[str]) -> None:
    from ..arguments import parse

    what = "Find the passages nearest to a question."
    query, index, args = parse(argv, [IndexArguments, SearchArguments], "folio rag search", what, positional=("Q",))
    where = where_of(args)
    with open_index(index, reranker=args.reranker) as rag:
        hits = rag.search(query, args.k, args.mode, where)
    if not hits:
        print("Nothing was found.")
    for number, hit in enumerate(hits, 1):
        heading = f"  {hit.heading or hit.title}".rstrip()
        print_passage(hit, f"{number}.", f"{heading}  ({hit.score:.4f})", hit.text, "   ")
        print()


def verify(argv: list[str]) -> None:
    from ..arguments import parse

    (index,) = parse(argv, [IndexArguments], "folio rag verify", "Compare all that the catalog and the index hold.")
    with open_index(index) as rag:
        report = rag.verify()
    if not report.ok:
        repair = shlex.join(["folio", "rag", "rebuild", "--index", index.index])
        problems = "; ".join(report.problems).rstrip(".")
        raise RuntimeError(f"{index.index} is not whole: {problems}. Repair it with: {repair}")
    print(f"{report.documents:,} documents in {report.chunks:,} chunks: all there, and the same in both.")


def rebuild(argv: list[str]) -> None:
    from ..arguments import parse

    (index,) = parse(argv, [IndexArguments], "folio rag rebuild", "Make the dense index anew from the catalog.")
    with open_index(index) as rag:
        embedded = rag.rebuild()
        report = rag.verify()
    print(f"{report.chunks:,} chunks written, {embedded:,} of them embedded.")


def serve_index(argv: list[str]) -> None:
    from ..arguments import parse

    (args,) = parse(argv, [ServeArguments], "folio rag serve-index", "Serve the vectors of an index, to this machine.")
    from ...rag.server import serve

    serve(Path(args.index).expanduser().absolute(), args.port)


def _show_report(report) -> None:
    show_progress(f"{report.added + report.updated:,} documents, {report.embedded:,} chunks")
