"""Exact match and F1 are those of SQuAD's official script, version 2.0; ROUGE and BLEU are those of the libraries."""

import pytest

from foliogpt.evaluation.answers import (
    answer_metrics,
    bleu,
    exact_match,
    normalize_answer,
    overlap_metrics,
    token_f1,
)
from foliogpt.evaluation.bootstrap import interval

TRUE = ["The cat sat on the mat.", "He has never been to Paris before.", "Two dogs are barking at the old man."]
WRITTEN = ["The cat is on the mat.", "He was never in Paris.", "Two dogs are barking at a man, loudly."]


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [  # figures of the official script
        ("the Eiffel Tower!", ["Eiffel tower"], 1, 1),
        ("Anaconda", ["an anaconda", "Python"], 1, 1),
        ("Theatre", ["the atre"], 0, 0),
        ("in 1066, at Hastings", ["1066"], 0, 0.4),
        ("in 1066", ["1066", "in the year 1066"], 0, 0.8),
        ("U.S. Army", ["us army", "the army"], 1, 1),
        ("rock-and-roll", ["rock and roll"], 0, 0),
        ("red red blue", ["red blue blue"], 0, 2 / 3),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("the", ["a", "an"], 1, 1),
        ("cat", ["the", "cat"], 1, 1),
        ("  a  cat\n sat ", ["cat sat"], 1, 1),
        ("Ünïcode — yes", ["ünïcode yes"], 0, 0.8),
    ],
)
def test_answer_metrics_are_those_of_the_official_script(prediction, references, exact, f1):
    found = {metric.name: metric.value for metric in answer_metrics([references], [prediction])}
    assert found == pytest.approx({"exact_match": exact, "f1": f1})


def test_answer_metrics_are_means_over_questions():
    exact, f1 = answer_metrics([["blue"], ["dark red"], []], ["Blue.", "red", "green"])
    assert exact.value == pytest.approx(1 / 3)
    assert f1.value == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_normalize_answer_is_idempotent():
    for text in ("A the an", "It's — a (test)!", "ΑΒΓ the", ""):
        assert normalize_answer(normalize_answer(text)) == normalize_answer(text)
    assert exact_match("An.", "") == token_f1("An.", "") == 1


def test_bleu_is_that_of_the_whole_corpus():
    sacrebleu = pytest.importorskip("sacrebleu")
    assert bleu(TRUE, WRITTEN).value == pytest.approx(sacrebleu.corpus_bleu(WRITTEN, [TRUE]).score / 100)


def test_rouge_is_the_mean_of_the_scores_of_rows():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    found = {metric.name: metric.value for metric in overlap_metrics(TRUE, WRITTEN)}
    for name in ("rouge1", "rouge2", "rougeL"):
        one = scorer.RougeScorer([name], use_stemmer=True)
        scores = [one.score(true, written)[name].fmeasure for true, written in zip(TRUE, WRITTEN, strict=True)]
        assert found[name] == pytest.approx(sum(scores) / 3)


def test_empty_references_and_predictions_share_nothing():
    pytest.importorskip("rouge_score")
    for true, written in ((["", ""], ["a b", ""]), (["a b c d e"], [""]), (["!"], ["?"])):
        assert {metric.value for metric in overlap_metrics(true, written)} == {0}


def test_overlap_metrics_of_equal_texts_are_one_and_have_an_interval(monkeypatch):
    monkeypatch.setattr("foliogpt.evaluation.bootstrap.RESAMPLES", 50)
    pytest.importorskip("rouge_score")
    for metric in overlap_metrics(TRUE * 3, TRUE * 3):
        assert metric.value == pytest.approx(1)
        assert interval(metric) == pytest.approx((1, 1))
