"""Batches for contrastive training."""

import random

import pytest

pytest.importorskip("sentence_transformers", reason="needs foliogpt[rag]")
from datasets import Dataset

from foliogpt.rag.embedder.batches import LengthBuckets


def rows_of(count: int, anchors: int) -> Dataset:
    chance = random.Random(0)
    anchor = [f"a{chance.randrange(anchors)}" for _ in range(count)]
    return Dataset.from_dict({"anchor": anchor, "positive": [f"p{n} " * chance.randint(1, 200) for n in range(count)]})


@pytest.mark.parametrize("anchors", [10_000, 30])
def test_each_row_is_in_one_batch_and_no_text_twice_in_any(anchors):
    data = rows_of(500, anchors)
    batches = list(sampler := LengthBuckets(data, 16))
    assert len(batches) == len(sampler)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows) >= 499
    for batch in batches:
        assert 2 <= len(batch) <= 16
        assert len({data[row]["anchor"] for row in batch}) == len(batch)


def test_little_is_padding():
    data = rows_of(500, 10_000)
    lengths = [len(text) for text in data["positive"]]

    def padding(batches) -> float:
        return 1 - sum(lengths) / sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)

    at_random = [list(range(start, min(start + 16, 500))) for start in range(0, 500, 16)]
    assert padding(LengthBuckets(data, 16)) < 0.15 < 0.3 < padding(at_random)


def test_each_epoch_has_other_batches_and_each_seed():
    data = rows_of(200, 10_000)
    first, other = LengthBuckets(data, 16, seed=1), LengthBuckets(data, 16, seed=2)
    assert list(first) == list(LengthBuckets(data, 16, seed=1)) != list(other)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before


def test_rows_that_are_all_the_same_make_no_batch():
    data = Dataset.from_dict({"anchor": ["a"] * 5, "positive": ["p"] * 5})
    assert list(LengthBuckets(data, 4)) == []
