"""Rows that teach to answer from passages quote the right ones, and do not answer what they lack."""

import json
import re

import pytest

from benchmarks.answering_rows import exercises, write_answering_rows
from foliogpt.rag import Document, Rag
from foliogpt.rag.answering import NO_ANSWER
from foliogpt.rag.citations import verified
from foliogpt.rag.evaluation.known_items import known_items

THINGS = ["moon", "ship", "king", "bird", "river", "castle", "song", "bread"]
COLOURS = ["red", "blue", "green", "white", "dark", "old", "new", "light"]


@pytest.fixture
def dataset():
    documents = [
        Document(
            f"d{n}",
            f"The {thing} was {seen} that night, as everybody in {seen} town says. It is said that it came back in the "
            f"morning and nobody could tell why. An old book about the {thing} has all of the story, and it is long. "
            f"Whoever reads it will know more about the {thing} than all of the others do in the end.",
            thing,
        )
        for n, (thing, seen) in enumerate(zip(THINGS, COLOURS, strict=True))
    ]
    return known_items(documents)


@pytest.fixture
def filled(tmp_path, words, dataset):
    with Rag.open(tmp_path / "filled", embedder=words) as rag:
        rag.sync(dataset.documents)
        yield rag


def test_an_answer_quotes_the_passage_that_the_question_was_taken_from(filled, dataset):
    made = list(exercises(filled, dataset, dataset.questions, lambda messages: True, without_answer=0))
    assert len(made) == len(THINGS)
    for exercise, question in zip(made, dataset.questions, strict=True):
        ((document, _),) = question.relevant
        assert len(exercise.passages) == 3
        assert exercise.passages[exercise.right].document == document
        assert [p.document for p in exercise.passages].count(document) == 1
        (citation,) = verified(exercise.answer, exercise.passages).citations  # in the form that answers are read in
        assert citation.document == document
        assert exercise.messages[-1] == {"role": "assistant", "content": exercise.answer}
    assert len({exercise.right for exercise in made}) > 1  # it stands anywhere


def test_rows_have_no_answer_when_the_passages_lack_it(filled, dataset):
    made = list(exercises(filled, dataset, dataset.questions, lambda messages: True, without_answer=1))
    assert len(made) == len(THINGS)
    for exercise, question in zip(made, dataset.questions, strict=True):
        ((document, _),) = question.relevant
        assert exercise.right is None
        assert exercise.answer == NO_ANSWER
        assert document not in {passage.document for passage in exercise.passages}


def test_only_as_many_passages_as_have_room(filled, dataset):
    def two(messages):
        return messages[0]["content"].count("<source ") <= 2

    made = list(exercises(filled, dataset, dataset.questions, two, without_answer=0.5))
    assert {len(exercise.passages) for exercise in made} == {2}
    for exercise in made:
        if exercise.right is not None:
            assert verified(exercise.answer, exercise.passages).citations
    assert list(exercises(filled, dataset, dataset.questions, lambda messages: False)) == []


def test_the_same_seed_makes_the_same_rows_and_they_are_chats(filled, dataset, tmp_path):
    made = [list(exercises(filled, dataset, dataset.questions, lambda m: True, seed=seed)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    write_answering_rows(tmp_path / "rows.jsonl", made[0])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
    for row in rows:
        asked, said = (message["content"] for message in row["messages"])
        assert said == NO_ANSWER or re.fullmatch(r'".+" \[[123]\]', said)
        assert asked.count("<source ") == 3
