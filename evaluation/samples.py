"""Variety, repetition and copies of the training text in generated text."""

from collections.abc import Iterator, Sequence

from .bootstrap import Metric, mean, ratio

WIDTHS = 16, 8, 4, 2, 1  # of the n-grams that copies are looked up by; few places of unrelated texts share the longest


def distinct(samples: Sequence[Sequence], n: int) -> Metric:
    """Compute the share of different n-grams among those of all samples together (distinct-n, Li et al., 2016).

    It has no interval: a resample has samples twice, so fewer of its n-grams are different.
    """
    grams = [gram for sample in samples for gram in ngrams(sample, n)]
    return ratio(f"distinct_{n}", [len(set(grams))], [len(grams)], None)


def repetition(samples: Sequence[Sequence], n: int = 4) -> Metric:
    """Compute the mean share of a sample's n-grams that it has had before (seq-rep-n, Welleck et al., 2020)."""
    shares = []
    for sample in samples:
        grams = list(ngrams(sample, n))
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return mean(f"repetition_{n}", shares, higher_is_better=False)


def ngrams(sample: Sequence, n: int) -> Iterator[tuple]:
    return zip(*(sample[i:] for i in range(n)), strict=False)


def longest_copies(samples: Sequence[str], documents: Sequence[str]) -> list[str]:
    """Find the longest passage of each sample that a document contains word for word."""
    longest = [""] * len(samples)
    for width in WIDTHS:
        seeds: dict[str, set[int]] = {}  # the n-grams of samples without a copy so far, and which samples have them
        for index, sample in enumerate(samples):
            for i in range(0 if longest[index] else len(sample) - width + 1):
                seeds.setdefault(sample[i : i + width], set()).add(index)
        for document in documents if seeds else ():
            for place in range(len(document)):
                for index in seeds.get(document[place : place + width], ()):
                    size = len(longest[index])
                    while place + size < len(document) and document[place : place + size + 1] in samples[index]:
                        size += 1
                    longest[index] = max(longest[index], document[place : place + size], key=len)
    return longest
