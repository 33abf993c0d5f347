"""Rows to fine-tune a model on, so that it answers from passages: chats as `Rag.answer` would hold them.

A known item's question is asked, the passages are what a search finds, the right one at a place drawn by chance, and
the answer quotes a sentence of it. In some rows the right one is missing, and the answer is that the text does not say.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foliogpt.rag.answering import NO_ANSWER, Passage, answer_messages, escape_boundaries
from foliogpt.rag.documents import Hit
from foliogpt.rag.evaluation.datasets import Dataset, Question
from foliogpt.rag.lexical import coverage
from foliogpt.rag.rag import Rag
from foliogpt.rag.sentences import sentences

PASSAGES = 3
WITHOUT_ANSWER = 0.25  # the share of the rows
DEPTH = 20  # passages that are looked at
QUOTED = range(4, 41)  # words of a sentence that is quoted


@dataclass(frozen=True)
class Exercise:
    """A question, passages to answer it from, and which of them it is answered by; None if it is none of them."""

    question: str
    passages: tuple[Passage, ...]
    right: int | None
    answer: str

    @property
    def messages(self) -> list[dict]:
        """The chat, with the answer that is right."""
        return [*answer_messages(self.question, self.passages), {"role": "assistant", "content": self.answer}]


def write_answering_rows(path: str | Path, exercises: Sequence[Exercise]) -> None:
    """Write exercises as chats in JSONL, which `folio finetune sft` takes."""
    rows = [json.dumps({"messages": exercise.messages}, ensure_ascii=False) + "\n" for exercise in exercises]
    Path(path).write_text("".join(rows), encoding="utf-8")


def exercises(
    rag: Rag,
    dataset: Dataset,
    questions: Sequence[Question],
    fits: Callable[[list[dict]], bool],
    without_answer: float = WITHOUT_ANSWER,
    seed: int = 0,
) -> Iterator[Exercise]:
    """Make an exercise of each question of a data set, whose documents `rag` has, that a quotation answers.

    Args:
        fits: whether a chat without its answer leaves enough of the context; the worst passages go until it does.
        without_answer: the share of exercises whose passages do not have the answer.
    """
    for question in questions:
        chance = random.Random(f"{seed} {question.id}")
        answering = {document for document, _ in question.relevant}
        hits = rag.search(question.text, DEPTH)
        others = [_passage(hit) for hit in hits if hit.document not in answering]
        if chance.random() < without_answer:
            passages, right, answer = _fitted(question.text, others[:PASSAGES], None, fits), None, NO_ANSWER
        else:
            best = _right(rag, dataset, question)
            if best is None or (quote := _quote(question.text, best)) is None:
                continue
            passages = others[: PASSAGES - 1]
            passages.insert(chance.randint(0, len(passages)), best)
            if not (passages := _fitted(question.text, passages, best, fits)):
                continue
            right = passages.index(best)
            answer = f'"{quote}" [{right + 1}]'
        if passages:
            yield Exercise(question.text, tuple(passages), right, answer)


def _right(rag: Rag, dataset: Dataset, question: Question) -> Passage | None:
    """The best passage of the section that the question was taken from."""
    for document in sorted({document for document, _ in question.relevant}):
        for hit in rag.search(question.text, DEPTH, where={"document": document}):
            if not question.relevant.keys().isdisjoint(dataset.places(hit)):
                return _passage(hit)
    return None


def _passage(hit: Hit) -> Passage:
    return Passage(hit.document, hit.start, hit.end, hit.text, hit.title)


def _quote(question: str, passage: Passage) -> str | None:
    """The sentence that shares the most with the question, the first of equally good ones; None if there is none."""
    found = [" ".join(escape_boundaries(passage.text[start:end]).split()) for start, end in sentences(passage.text)]
    found = [text for text in found if len(text.split()) in QUOTED and '"' not in text]
    shares = dict(zip(found, coverage(question, found), strict=True))
    return max(shares, key=shares.__getitem__, default=None)


def _fitted(
    question: str, passages: list[Passage], right: Passage | None, fits: Callable[[list[dict]], bool]
) -> list[Passage]:
    """The passages without the last ones, but the right one, for which there is no room."""
    while passages and not fits(answer_messages(question, passages)):
        wrong = [passage for passage in passages if passage is not right]
        passages = [passage for passage in passages if wrong and passage is not wrong[-1]]
    return passages
