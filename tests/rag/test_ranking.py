"""Metrics of rankings, against values that were computed by hand."""

import pytest

from foliogpt.rag import Hit
from foliogpt.rag.evaluation.datasets import Dataset, Question
from foliogpt.rag.evaluation.evaluate import ndcg, ranked_places, retrieval_metrics

GRADES = {"a": 1, "b": 2}


def hit(document: str, start: int = 0, end: int = 10) -> Hit:
    return Hit(document, start, end, "", None, "", "", {}, 1.0, None, 1)


@pytest.mark.parametrize(
    ("ranking", "gain"),
    [
        ("ba", 1.0),
        ("axb", (1 + 2 / 2) / (2 + 1 / 1.584962500721156)),  # discounts: log2 of 2, 3, 4
        ("xxa", (1 / 2) / (2 + 1 / 1.584962500721156)),
        ("xyz", 0.0), ("", 0.0),
    ],
)  # fmt: skip
def test_ndcg_weighs_grades_by_rank(ranking, gain):
    assert ndcg(ranking, GRADES, 3) == pytest.approx(gain)


def test_ndcg_is_one_when_the_first_k_are_all_relevant():
    assert ndcg("ab", dict.fromkeys("abcd", 1), 2) == 1


def metrics(hits: list[Hit], *spans: tuple[str, int, int]) -> dict[str, float]:
    question = Question("q", "?", {(name, 0): grade for name, grade in GRADES.items()}, spans)
    return retrieval_metrics(hits, question, Dataset("d", []))


def test_recall_and_reciprocal_rank_look_no_further_than_k():
    found = metrics([*map(hit, "uavxyzbw")])
    assert [found[f"recall@{k}"] for k in (1, 5, 10)] == [0, 0.5, 1]
    assert found["MRR@10"] == 1 / 2
    late = metrics([*map(hit, "0123456789"), hit("a")])
    assert (late["MRR@10"], late["recall@10"]) == (0, 0)
    assert metrics([*map(hit, "012345678"), hit("b")])["MRR@10"] == 1 / 10
    assert metrics([])["MRR@10"] == 0


def test_ranked_places_list_each_section_at_its_best_passage():
    dataset = Dataset("d", [], None, {"book": [0, 100, 200]})
    question = Question("q", "?", {("book", 1): 1})
    hits = [hit("a"), hit("book", 10, 20), hit("a"), hit("book", 30, 90), hit("book", 90, 101), hit("book", 200, 210)]
    assert ranked_places(hits, question, dataset) == [("a", 0), ("book", 0), ("book", 1), ("book", 2)]
    assert dataset.places(hit("book", 100, 200)) == [("book", 1)]


def test_span_recall_needs_a_passage_with_a_complete_span():
    spans = ("d", 5, 15), ("d", 40, 50)
    parts = [hit("d", 0, 14), hit("d", 14, 49), hit("e", 0, 100)]
    assert metrics(parts, *spans)["span recall@10"] == 0
    found = metrics([*parts, hit("e"), hit("d", 40, 50)], *spans)
    assert [found[f"span recall@{k}"] for k in (1, 5)] == [0, 1]
    assert "span recall@1" not in metrics(parts)
