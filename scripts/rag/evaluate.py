"""Say how good an index is, in which mode best, with 95 % intervals; and teach it what to refuse.

    folio rag eval known-items --index runs/index
    folio rag eval known-items --index runs/index --calibrate
    folio rag eval squad.json --index runs/squad --writer runs/chat
    folio rag eval scifact --index runs/scifact --output scifact.json

DATA is known-items, for questions made of the index's own documents and asked of a copy of it; a folder in BEIR's
layout; or questions in SQuAD's form, a file or hub:NAME. Documents that come with it are indexed at --index, which has
to be an index of theirs alone, or a new one.
"""

import contextlib
from dataclasses import dataclass, field

from ...evaluation.arguments import option
from .ask import QUOTE
from .common import IndexArguments, open_index, show_progress


@dataclass
class EvalArguments:
    modes: list[str] = field(
        default_factory=lambda: ["dense", "lexical", "hybrid"], metadata={"help": "which ones to compare"}
    )
    questions: int | None = option(None, "ask so many at most, drawn by chance; else 300 known items, or all there are")
    reranker: str | None = option(None, "a cross-encoder that reads the best ones again")
    writer: str | None = option(None, "judge answers, too: quote, or a causal language model's directory or Hub name")
    calibrate: bool = option(False, "refuse, from now on, by the line that these questions draw")
    output: str | None = option(None, "write the figures into this JSON file as well")


def evaluate(argv: list[str]) -> None:
    from ..arguments import parse

    data, index, args = parse(argv, [IndexArguments, EvalArguments], "folio rag eval", __doc__, positional=("DATA",))
    from ...evaluation.results import check_writable, write_json
    from ...rag import load_writer

    if args.output:
        check_writable(args.output)
    with open_index(index, reranker=args.reranker) as rag, contextlib.ExitStack() as stack:
        writer = args.writer
        if writer not in (None, QUOTE):
            writer = stack.enter_context(load_writer(writer))
        report = rag.evaluate(data, args.modes, args.questions, writer, args.calibrate, show_progress)
    show_progress("")
    print(report)
    if args.output:
        write_json(args.output, report.to_dict())
    if args.calibrate:
        print("\nFrom now on the index refuses by the line that these questions drew.")
