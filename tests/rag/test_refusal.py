"""The refusal of questions."""

import math

import numpy as np
import pytest

from foliogpt.rag import Document, Rag
from foliogpt.rag.embedding import MINILM
from foliogpt.rag.refusal import (
    DEFAULT_THRESHOLD,
    DEFAULTS,
    SIZE_PENALTY,
    Features,
    Threshold,
    calibrate,
    features,
    store_threshold,
    threshold_of,
)


@pytest.fixture
def indexed(rag):
    rag.sync(Document(f"d{n}", f"the {animal} is sleeping") for n, animal in enumerate(("cat", "dog", "bird", "fish")))
    return rag


def features_of(rag, question: str, mode: str = "hybrid") -> Features:
    return features(question, rag.search(question, 5, mode), rag._store.catalog, rag._store.embedder)


def test_rare_words_count_more_and_words_are_stemmed(indexed):
    assert features_of(indexed, "sleeps the dog").coverage == 1
    common, rare = features_of(indexed, "sleep zebra"), features_of(indexed, "cat zebra")
    assert 0 < common.coverage < rare.coverage < 1
    for mode in ("dense", "lexical", "hybrid"):
        near = features_of(indexed, "the dog is sleeping", mode).nearness
        assert near == pytest.approx(1 - SIZE_PENALTY * math.log10(4), abs=1e-4)


def test_passages_do_not_share_the_words_of_a_question(indexed):
    apart = features_of(indexed, "cat dog")
    assert apart.coverage == pytest.approx(0.5)
    indexed.sync([Document("both", "a cat and a dog")])
    assert features_of(indexed, "cat dog").coverage == 1


def test_nothing_found_has_no_features(indexed):
    assert features("cat", [], indexed._store.catalog, indexed._store.embedder) == Features(0, 0)


def test_coverage_is_ignored_for_passages_in_another_script(indexed):
    assert features_of(indexed, "猫在哪里睡觉？").coverage == 1
    assert features_of(indexed, "zebra").coverage == 0
    assert not indexed.answer("猫在哪里睡觉？").refused


def test_one_sentence_of_a_long_passage_is_near_enough(rag):
    rag.sync([Document("d", "A king has a sword. " * 9 + "The cat sleeps on the mat. " + "Red wine is dear. " * 9)])
    (hit,) = rag.search("the cat sleeps on the mat", 1)
    found = features_of(rag, "the cat sleeps on the mat")
    assert hit.cosine < 0.7
    assert found.nearness == pytest.approx((hit.cosine + 1) / 2, abs=1e-3)


def test_calibrate_keeps_its_share_and_refuses_more_than_either_feature_alone():
    generator = np.random.default_rng(0)
    good = [Features(*pair) for pair in generator.normal((0.6, 0.6), 0.1, (1000, 2))]
    bad = [Features(*pair) for pair in generator.normal((0.4, 0.4), 0.1, (1000, 2))]
    threshold = calibrate(good, bad, keep=0.9)
    kept = np.mean([threshold.answers(each) for each in good])
    assert 0.9 <= kept < 0.902
    refused = np.mean([not threshold.answers(each) for each in bad])
    for name in ("nearness", "coverage"):
        values = np.array([getattr(each, name) for each in good])
        alone = np.mean([getattr(each, name) < np.quantile(values, 0.1) for each in bad])
        assert refused > alone + 0.1


def test_all_of_the_answerable_can_be_kept():
    good, bad = [Features(0.5, 0.2), Features(0.2, 0.5)], [Features(0.1, 0.1)]
    threshold = calibrate(good, bad, keep=1)
    assert all(map(threshold.answers, good))
    assert not threshold.answers(bad[0])


def test_calibrate_keeps_the_question_on_the_threshold():
    generator = np.random.default_rng(0)
    for _ in range(100):
        good = [Features(*map(float, pair)) for pair in generator.uniform(0.4, 1, (30, 2))]
        bad = [Features(*map(float, pair)) for pair in generator.uniform(0.2, 0.7, (30, 2))]
        assert all(map(calibrate(good, bad, keep=1).answers, good))


def test_a_threshold_holds_for_the_embedder_that_it_was_made_with(indexed, tmp_path):
    from embedders import WordEmbedder

    catalog = indexed._store.catalog
    assert threshold_of(catalog) == DEFAULT_THRESHOLD
    catalog.set_setting("embedder", MINILM)
    assert threshold_of(catalog) == DEFAULTS[MINILM]
    catalog.set_setting("embedder", "words-0")
    never = Threshold(1.0, 0.0, 2.0)
    store_threshold(catalog, never)
    assert threshold_of(catalog) == never
    assert indexed.answer("the cat is sleeping").refused
    with Rag.open(tmp_path / "index", embedder=WordEmbedder(seed=1)) as other:
        other.rebuild()
        assert threshold_of(other._store.catalog) == DEFAULT_THRESHOLD
