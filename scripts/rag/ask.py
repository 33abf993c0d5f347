"""Ask an index a question: the answer, and where each part of it stands.

    folio rag ask "How is a model exported?" --index runs/index
    folio rag ask "How is a model exported?" --index runs/index --writer runs/chat

By default the answer is the sentences of the documents that are nearest to the question, verbatim. --writer takes any
causal language model that was made for chats, by directory or Hub name; what it quotes is looked up in the documents,
and a sentence that rests on nothing there is marked. If nothing that was found has to do with the question, or the
model finds no answer in it, there is none, and the command says why.
"""

import contextlib
import textwrap
from dataclasses import dataclass, field

from .common import IndexArguments, SearchArguments, open_index, shown, where_of

QUOTE = "quote"
SHOWN_CHARACTERS = 400


@dataclass
class WriterArguments:
    writer: str = field(
        default=QUOTE,
        metadata={
            "help": "quote, or a causal language model's directory or Hub name (./quote for a folder of that name)"
        },
    )


def ask(argv: list[str]) -> None:
    from ...rag.retrieval import check
    from ..arguments import parse
    from ..generation import CONTROL

    groups, what = [IndexArguments, SearchArguments, WriterArguments], "Answer a question from the documents."
    question, index, search, chosen = parse(argv, groups, "folio rag ask", what, positional=("QUESTION",))
    where = where_of(search)
    check(question, search.k, search.mode, where)  # before a model is loaded
    with open_index(index, reranker=search.reranker) as rag, contextlib.ExitStack() as stack:
        writer = None
        if chosen.writer != QUOTE:
            from ...rag import load_writer

            writer = stack.enter_context(load_writer(chosen.writer))
        answer = rag.answer(
            question, writer, search.k, search.mode, where,
            stream=lambda piece: print(piece.translate(CONTROL), end="", flush=True),
        )  # fmt: skip
    if answer.refused:
        print(f"No answer: {answer.reason}.")
        return
    print("\n")
    for number, citation in enumerate(answer.citations, 1):
        page = f", page {citation.page}" if citation.page else ""
        print(f"[{number}] {shown(citation.document)}{page} [{citation.start}:{citation.end}]".translate(CONTROL))
        quote = textwrap.shorten(citation.quote.translate(CONTROL), SHOWN_CHARACTERS, placeholder=" ...")
        print(textwrap.indent(textwrap.fill(quote, 100), "    "))
