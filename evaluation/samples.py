"""What generated text is like: how varied, how repetitive, and how much of it is copied from the training text."""

from collections.abc import Iterator, Sequence

from .bootstrap import Metric, mean, ratio

WIDTHS = 16, 8, 4, 2, 1  # of the n-grams that copies are looked up by; few places of unrelated texts share the longest


def distinct(samples: Sequence[Sequence], n: int) -> Metric:
    """Share of the n-grams of all samples together that are different ones (distinct-n, Li et al., 2016).

    It has no interval: among samples that are drawn twice, there is less that is different.
    """
    grams = [gram for sample in samples for gram in ngrams(sample, n)]
    return ratio(f"distinct_{n}", [len(set(grams))], [len(grams)], None)


def repetition(samples: Sequence[Sequence], n: int = 4) -> Metric:
    """Mean share of a sample's n-grams that it has had before (seq-rep-n, Welleck et al., 2020)."""
    shares = []
    for sample in samples:
        grams = list(ngrams(sample, n))
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return mean(f"repetition_{n}", shares, higher_is_better=False)


def ngrams(sample: Sequence, n: int) -> Iterator[tuple]:
    return zip(*(sample[i:] for i in range(n)), strict=False)


def longest_copies(samples: Sequence[str], documents: Sequence[str]) -> list[str]:
    """Find the longest stretch of each sample that some document has word for word."""
    longest = [""] * len(samples)
    for width in WIDTHS:
        seeds: dict[str, set[int]] = {}  # the n-grams of samples without a copy so far, and which samples have them
        for index, sample in enumerate(samples):
            for i in range(0 if longest[index] else len(sample) - width + 1):
                seeds.setdefault(sample[i : i + width], set()).add(index)
        for document in documents if seeds else ():
            for place in range(len(document)):
                for index in seeds.get(document[place : place + width], ()):
                    longest[index] = _longer(samples[index], longest[index], document, place)
    return longest


def _longer(sample: str, copy: str, document: str, place: int) -> str:
    """The copy that begins at `place` of a document, if it is longer than the `copy` that is known."""
    while place + len(copy) < len(document) and document[place : place + len(copy) + 1] in sample:
        copy = document[place : place + len(copy) + 1]
    return copy
