"""Repetition and copies are found where they are."""

import random

import pytest

from foliogpt.evaluation.generated import distinct, longest_copies, repetition


def longest_by_hand(sample: str, documents: list[str]) -> int:
    return max(
        (j - i for i in range(len(sample)) for j in range(i + 1, len(sample) + 1)
         if any(sample[i:j] in document for document in documents)),
        default=0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alphabet", ["ab", "abcdefghij ", "aé漢😀"])
def test_the_longest_copy_is_the_longest(seed, alphabet, monkeypatch):
    if seed % 2:  # most stretches are longer than the n-grams that they are found by
        monkeypatch.setattr("foliogpt.evaluation.generated.WIDTHS", (2, 1))
    draw = random.Random(seed)
    documents = ["".join(draw.choices(alphabet, k=draw.randint(0, 70))) for _ in range(5)]
    samples = ["".join(draw.choices(alphabet, k=draw.randint(0, 40))) for _ in range(6)]
    for sample, copy in zip(samples, longest_copies(samples, documents), strict=True):
        assert len(copy) == longest_by_hand(sample, documents)
        assert copy in sample
        assert copy == "" or any(copy in document for document in documents)


def test_a_copy_does_not_continue_in_the_next_document():
    assert longest_copies(["abcdef"], ["abc", "def"]) == ["abc"]


def test_a_text_of_one_symbol_is_searched():
    assert longest_copies(["7" * 300], ["7" * 5000]) == ["7" * 300]


def test_nothing_is_copied_from_nothing():
    assert longest_copies(["abc", ""], []) == ["", ""]
    assert longest_copies(["", ""], ["abc"]) == ["", ""]


def test_distinct_and_repetition():
    assert distinct([list("abab"), list("ab")], 1).value == pytest.approx(2 / 6)
    assert distinct([list("abab"), list("ab")], 2).value == pytest.approx(2 / 4)
    assert repetition([list("ababab"), list("abcdef")], 2).value == pytest.approx((1 - 2 / 5) / 2)
    assert distinct([[], list("a")], 2).value == 0
    assert repetition([[], list("abc")], 4).value == 0
