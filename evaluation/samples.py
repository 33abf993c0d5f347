"""What generated text is like: how varied, how repetitive, and how much of it is copied from the training text."""

from collections.abc import Iterable, Iterator, Sequence

from .bootstrap import Metric, mean, ratio

WIDTHS = 16, 8, 4, 2, 1  # of the n-grams that copies are looked up by; few places of unrelated texts share the longest
Symbols = str | Sequence[int]  # a text, or token ids


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


def longest_copies(samples: Iterable[Symbols], documents: Iterable[Symbols]) -> list[tuple[int, int]]:
    """Find where each sample's longest stretch begins that some document has word for word, and its length."""
    texts = list(map(_text, samples))
    longest = [(0, 0)] * len(texts)
    seeds = _seeds(texts, longest)
    for document in map(_text, documents):
        for place in range(len(document)):
            outgrown = False
            for width, found_in in seeds.items():
                for index in found_in.get(document[place : place + width], ()):
                    longest[index] = _longer(texts[index], longest[index], document, place)
                    outgrown = outgrown or _width(texts[index], longest[index]) != width
            if outgrown:
                seeds = _seeds(texts, longest)
    return longest


def _text(symbols: Symbols) -> str:
    return symbols if isinstance(symbols, str) else "".join(map(chr, symbols))


def _longer(text: str, copy: tuple[int, int], document: str, place: int) -> tuple[int, int]:
    """The copy that begins at `place` of a document, if it is longer than the `copy` of the text that is known."""
    begin, length = copy
    while place + length < len(document) and (at := text.find(document[place : place + length + 1])) >= 0:
        begin, length = at, length + 1
    return begin, length


def _width(text: str, copy: tuple[int, int]) -> int | None:
    """The width of the n-grams that longer copies than `copy` begin with; None if it is the whole text."""
    return None if copy[1] == len(text) else next(width for width in WIDTHS if width <= copy[1] + 1)


def _seeds(texts: Sequence[str], longest: Sequence[tuple[int, int]]) -> dict[int, dict[str, set[int]]]:
    """By width, the n-grams that longer copies begin with, and the indices of the texts that have them."""
    seeds = {}
    for index, (text, copy) in enumerate(zip(texts, longest, strict=True)):
        if width := _width(text, copy):
            grams = seeds.setdefault(width, {})
            for i in range(len(text) - width + 1):
                grams.setdefault(text[i : i + width], set()).add(index)
    return seeds
