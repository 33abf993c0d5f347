"""Ask an index a question: the answer, and where each part of it stands.

    folio rag ask "How is a model exported?" --index runs/index
    folio rag ask "How is a model exported?" --index runs/index --reader runs/reader
    folio rag ask "How is a model exported?" --index runs/index --writer runs/chat
    folio rag ask "How is a model exported?" --index runs/index --writer runs/chat --max_new_tokens 90 --temperature 0.7

By default the answer is the sentences of the documents that are nearest to the question, verbatim. --writer takes any
causal language model that was made for chats, by directory or Hub name; what it quotes is looked up in the documents,
and a sentence that rests on nothing there is marked. If nothing that was found has to do with the question, or the
model finds no answer in it, there is none; the command says why and shows the nearest passages. --refuse never answers
whatever is asked, --refuse strict only what the passages are clearly about.

--reader takes a model of `folio finetune qa`, which marks the words that answer the question, if it finds any. They
stand before the rest.

Any other option is a field of transformers' GenerationConfig, for the model that writes.
"""

import contextlib
from dataclasses import dataclass

from ...evaluation.arguments import option
from .common import IndexArguments, SearchArguments, open_index, print_passage, where_of, words_of

QUOTE = "quote"


@dataclass
class AskArguments(SearchArguments, IndexArguments):
    k: int = option(10, "how many passages to answer from")
    writer: str = option(
        QUOTE, "quote, or a causal language model's directory or Hub name (./quote for a folder of that name)"
    )
    reader: str | None = option(None, "a model of folio finetune qa, for a short answer before the rest")
    refuse: str = option("default", "questions that the passages do not answer: never, default or strict")
    seed: int | None = option(None, "makes sampling repeatable")


def ask(argv: list[str]) -> None:
    from ...rag import load_writer
    from ...rag.quotations import shown
    from ...rag.retrieval import check
    from ...rag.short_answers import load_reader
    from ..arguments import parse_with_generation
    from ..generation import options_named

    words, argv = words_of(argv)
    question = words[0] if words else ""
    args, options = parse_with_generation([*argv, *words[1:]], AskArguments, "folio rag ask QUESTION", __doc__)
    where = where_of(args)
    if args.seed is not None:
        options["seed"] = args.seed
    if options and args.writer == QUOTE:
        raise ValueError(f"--{next(iter(options))} is for a model that writes: give --writer MODEL, or leave it out.")
    with open_index(args, reranker=args.reranker) as rag, contextlib.ExitStack() as stack:
        writer = None
        reader = load_reader(args.reader) if args.reader else None
        if args.writer != QUOTE:
            check(question, args.k, args.mode, where)  # before a model is loaded; `answer` checks what it is asked
            writer = stack.enter_context(load_writer(args.writer, **options))
            with options_named(options):
                writer.try_out()
        answer = rag.answer(
            question, writer, args.k, args.mode, where,
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
