"""Evaluate the search and the answers of an index in each mode, with 95 % intervals, and calibrate its refusal.

    folio rag eval known-items --index runs/index
    folio rag eval known-items --index runs/index --calibrate
    folio rag eval squad.json --index runs/squad --generator runs/chat
    folio rag eval scifact --index runs/scifact --output scifact.json

DATA is known-items, for questions generated from the documents of the index and asked of a copy of it; a folder in
BEIR's layout; or questions in SQuAD's form, a file or hub:NAME. Documents of a dataset are indexed at --index, which
must be new or have no others.
"""

import contextlib
from dataclasses import dataclass, field

from ...evaluation.arguments import option
from .ask import QUOTE
from .common import IndexArguments, open_index, show_progress


@dataclass
class EvalArguments:
    modes: list[str] = field(
        default_factory=lambda: ["dense", "lexical", "hybrid"], metadata={"help": "modes of search to compare"}
    )
    questions: int | None = option(None, "maximum number of random questions; by default 300 for known-items, or all")
    reranker: str | None = option(None, "cross-encoder that reranks the best 50 passages")
    generator: str | None = option(None, "evaluate the answers of: quote, or a chat model's directory or Hub name")
    calibrate: bool = option(False, "fit the threshold of refusal on these questions and save it in the index")
    output: str | None = option(None, "JSON file for the metrics")


def evaluate(argv: list[str]) -> None:
    from ..arguments import parse

    data, index, args = parse(argv, [IndexArguments, EvalArguments], "folio rag eval", __doc__, positional=("DATA",))
    from ...evaluation.results import check_writable, write_json
    from ...rag import load_generator

    if args.output:
        check_writable(args.output)
    with open_index(index, reranker=args.reranker) as rag, contextlib.ExitStack() as stack:
        generator = args.generator
        if generator not in (None, QUOTE):
            generator = stack.enter_context(load_generator(generator))
        report = rag.evaluate(data, args.modes, args.questions, generator, args.calibrate, show_progress)
    show_progress("")
    print(report)
    if args.output:
        write_json(args.output, report.to_dict())
    if args.calibrate:
        print("\nSaved a new threshold of refusal in the index.")
