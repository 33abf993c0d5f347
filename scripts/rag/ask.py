"""Ask an index a question, and get an answer with its sources.

    folio rag ask "How is a model exported?" --index runs/index
    folio rag ask "How is a model exported?" --index runs/index --reader runs/reader
    folio rag ask "How is a model exported?" --index runs/index --generator runs/chat
    folio rag ask "How is a model exported?" --index runs/index --generator runs/chat --max_new_tokens 90

By default the answer quotes the sentences of your documents that are nearest to the question. --generator takes any
causal language model with a chat template; its quotations are looked up in the documents, and a sentence without a
valid one is marked. If no passage is relevant, or the model finds no answer, you get the reason and the nearest
passages. --refuse never answers every question, --refuse strict only those that the passages are clearly about.

--reader takes a model of `folio finetune qa`, and puts the words that it marks before the rest. With --generator, other
options are fields of transformers' GenerationConfig.
"""

import contextlib
from dataclasses import dataclass

from ...evaluation.arguments import option
from .common import IndexArguments, SearchArguments, open_index, print_passage

QUOTE = "quote"


@dataclass
class AskArguments(SearchArguments, IndexArguments):
    k: int = option(10, "number of passages to answer from")
    generator: str = option(QUOTE, "how to answer: quote copies sentences; otherwise a chat model's directory or name")
    reader: str | None = option(None, "model of folio finetune qa, for a short answer before the rest")
    refuse: str = option("default", "refusal of questions without relevant passages: never, default or strict")
    seed: int | None = option(None, "random seed of sampling")


def ask(argv: list[str]) -> None:
    from ...rag import load_generator
    from ...rag.quotations import shown
    from ...rag.retrieval import check
    from ...rag.short_answers import load_reader
    from ..arguments import parse_with_generation
    from ..generation import options_named

    question, args, options = parse_with_generation(argv, AskArguments, "folio rag ask", __doc__, ["QUESTION"])
    where = args.condition()
    if args.seed is not None:
        options["seed"] = args.seed
    if options and args.generator == QUOTE:
        raise ValueError(f"--{next(iter(options))} needs a model: give --generator MODEL, or omit it.")
    with open_index(args, reranker=args.reranker) as rag, contextlib.ExitStack() as stack:
        generator = None
        reader = load_reader(args.reader) if args.reader else None
        if args.generator != QUOTE:
            check(question, args.k, args.mode, where)  # before a model is loaded
            generator = stack.enter_context(load_generator(args.generator, **options))
            with options_named(options):
                generator.try_out()
        answer = rag.answer(
            question, generator, args.k, args.mode, where,
            stream=lambda piece: print(piece, end="", flush=True), refuse=args.refuse, reader=reader,
        )  # fmt: skip
    if answer.refused:
        print(f"No answer: {answer.reason}.")
        if answer.nearest:
            print("\nThe nearest passages, though none may answer it:")
    else:
        print("\n")
    for number, citation in enumerate(answer.nearest if answer.refused else answer.citations, 1):
        print_passage(citation, f"[{number}]", "", shown(citation.quote), "    ")
