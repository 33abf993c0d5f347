"""Ask an index a question: the answer, and where each part of it stands.

    folio rag ask "How is a model exported?" --index runs/index
    folio rag ask "How is a model exported?" --index runs/index --writer runs/chat
    folio rag ask "How is a model exported?" --index runs/index --writer runs/chat --max_new_tokens 90 --temperature 0.7

By default the answer is the sentences of the documents that are nearest to the question, verbatim. --writer takes any
causal language model that was made for chats, by directory or Hub name; what it quotes is looked up in the documents,
and a sentence that rests on nothing there is marked. If nothing that was found has to do with the question, or the
model finds no answer in it, there is none, and the command says why.

Any other option is a field of transformers' GenerationConfig, for the model that writes.
"""

import contextlib
from dataclasses import dataclass

from ...evaluation.arguments import option
from ..inputs import CONTROL
from .common import IndexArguments, SearchArguments, open_index, print_passage, where_of

QUOTE = "quote"


@dataclass
class AskArguments(SearchArguments, IndexArguments):
    writer: str = option(
        QUOTE, "quote, or a causal language model's directory or Hub name (./quote for a folder of that name)"
    )
    seed: int | None = option(None, "makes sampling repeatable")


def ask(argv: list[str]) -> None:
    from ...rag.retrieval import check
    from ..arguments import parse_with_generation
    from ..generation import options_named

    question, argv = _question(argv)
    args, options = parse_with_generation(argv, AskArguments, "folio rag ask QUESTION", __doc__)
    where = where_of(args)
    if args.seed is not None:
        options["seed"] = args.seed
    if options and args.writer == QUOTE:
        raise ValueError(f"--{next(iter(options))} is for a model that writes: give --writer MODEL, or leave it out.")
    with open_index(args, reranker=args.reranker) as rag, contextlib.ExitStack() as stack:
        writer = None
        if args.writer != QUOTE:
            from ...rag import load_writer

            check(question, args.k, args.mode, where)  # before a model is loaded; `answer` checks what it is asked
            writer = stack.enter_context(load_writer(args.writer, **options))
            with options_named(options):
                writer.try_out()
        answer = rag.answer(
            question, writer, args.k, args.mode, where,
            stream=lambda piece: print(piece.translate(CONTROL), end="", flush=True),
        )  # fmt: skip
    if answer.refused:
        print(f"No answer: {answer.reason}.")
        return
    print("\n")
    for number, citation in enumerate(answer.citations, 1):
        print_passage(citation, f"[{number}]", "", citation.quote, "    ")


def _question(argv: list[str]) -> tuple[str, list[str]]:
    """The word that is neither an option nor the value of one, and the other words; "" if there is none."""
    for place, word in enumerate(argv):
        before = argv[place - 1] if place else ""
        if not word.startswith("-") and not (before.startswith("--") and "=" not in before):
            return word, [*argv[:place], *argv[place + 1 :]]
    return "", argv
