"""ROUGE and BLEU are those of the libraries, and texts without a word have figures too."""

import pytest

from foliogpt.evaluation.bootstrap import interval
from foliogpt.evaluation.overlap import bleu, overlap_metrics

sacrebleu = pytest.importorskip("sacrebleu")
scorer = pytest.importorskip("rouge_score.rouge_scorer")

TRUE = ["The cat sat on the mat.", "He has never been to Paris before.", "Two dogs are barking at the old man."]
WRITTEN = ["The cat is on the mat.", "He was never in Paris.", "Two dogs are barking at a man, loudly."]


def test_bleu_is_that_of_the_whole_corpus():
    assert bleu(TRUE, WRITTEN).value == pytest.approx(sacrebleu.corpus_bleu(WRITTEN, [TRUE]).score / 100)


def test_rouge_is_the_mean_of_the_scores_of_rows():
    found = {metric.name: metric.value for metric in overlap_metrics(TRUE, WRITTEN)}
    for name in ("rouge1", "rouge2", "rougeL"):
        one = scorer.RougeScorer([name], use_stemmer=True)
        scores = [one.score(true, written)[name].fmeasure for true, written in zip(TRUE, WRITTEN, strict=True)]
        assert found[name] == pytest.approx(sum(scores) / 3)


def test_empty_references_and_predictions_share_nothing():
    for true, written in ((["", ""], ["a b", ""]), (["a b c d e"], [""]), (["!"], ["?"])):
        assert {metric.value for metric in overlap_metrics(true, written)} == {0}


def test_a_text_of_its_own_is_perfect_and_has_an_interval():
    for metric in overlap_metrics(TRUE * 3, TRUE * 3):
        assert metric.value == pytest.approx(1)
        assert interval(metric, resamples=50) == pytest.approx((1, 1))
