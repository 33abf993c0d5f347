"""What generated text is like: how varied, how repetitive, and how much of it is copied from the training text."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .bootstrap import Metric, mean, ratio

PIECE = 16_000_000  # symbols of the training text that are sorted at once: about a gigabyte of memory
BETWEEN = 0  # the symbol between documents, which nothing generated has


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


def longest_copies(samples: Sequence[Sequence[int]], documents: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """For each sample its longest stretch that some document has word for word: where it begins, and its length.

    Symbols are characters' code points, or token ids. The documents are sorted by all their suffixes (Manber and Myers,
    1990), a piece of some megabytes at a time, and each suffix of a sample is looked up in that order.
    """
    longest = [(0, 0)] * len(samples)
    limit = max(map(len, samples), default=0)
    suffixes = [[_as_bytes(sample[i:]) for i in range(len(sample))] for sample in samples]
    for text in _pieces(documents, overlap=limit) if limit else ():
        order, text_bytes = suffix_order(text, limit), _as_bytes(text, shift=0)

        def at(place: int, text_bytes: bytes = text_bytes) -> bytes:
            return text_bytes[4 * place : 4 * (place + limit)]

        for index, beginnings in enumerate(suffixes):
            for begin, suffix in enumerate(beginnings):
                if len(suffix) // 4 <= longest[index][1]:
                    break
                place = bisect_left(order, suffix, key=at)
                for neighbour in order[max(0, place - 1) : place + 1]:
                    shared = _shared(suffix, at(neighbour))
                    if shared > longest[index][1]:
                        longest[index] = (begin, shared)
    return longest


def suffix_order(text: np.ndarray, limit: int) -> np.ndarray:
    """The places of `text` (N,), whole numbers, in the order of what begins there, as far as `limit` symbols tell.

    By doubling: once all are sorted by their first L symbols, those that still tie are sorted by the ranks of what
    comes L symbols later. In natural text few tie after a dozen symbols.
    """
    width = int(text.max(initial=0)).bit_length() or 1
    length = max(1, min(63 // width, limit))  # symbols that fit into one number
    padded = np.concatenate([text.astype(np.uint64), np.zeros(length, np.uint64)])
    keys = np.zeros(len(text), np.uint64)
    for i in range(length):
        keys = keys << np.uint64(width) | padded[i : i + len(text)]
    order = np.argsort(keys)
    rank = np.empty(len(text) + 1, np.int64)
    rank[-1] = -1  # of what is beyond the end
    starts = _starts(keys[order])
    rank[order] = np.maximum.accumulate(np.where(starts, np.arange(len(text)), 0))
    while length < limit:
        alone = starts & np.append(starts[1:], True)
        tied = np.flatnonzero(~alone)
        if not len(tied):
            break
        places = order[tied]
        later = rank[np.minimum(places + length, len(text))] + 1
        keys = rank[places] << 32 | later
        by_key = np.argsort(keys)
        order[tied] = places[by_key]
        starts[tied] = _starts(keys[by_key])
        rank[order[tied]] = np.maximum.accumulate(np.where(starts[tied], tied, 0))
        length *= 2
    return order


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where a group of equal keys begins."""
    return np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]


def _pieces(documents: Iterable[Sequence[int]], overlap: int) -> Iterator[np.ndarray]:
    """The documents as arrays of limited length, which overlap so that no copy is cut."""
    parts, size = [], 0
    for document in documents:
        symbols = np.asarray(document, np.int64) + 1
        for start in range(0, max(1, len(symbols)), PIECE):
            part = symbols[start : start + PIECE + overlap]
            parts += [part, np.array([BETWEEN])]
            size += len(part) + 1
            if size >= PIECE:
                yield np.concatenate(parts)
                parts, size = [], 0
    if size:
        yield np.concatenate(parts)


def _shared(one: bytes, other: bytes) -> int:
    """How many symbols two suffixes begin with alike."""
    size = min(len(one), len(other))
    differ = np.frombuffer(one[:size], ">u4") != np.frombuffer(other[:size], ">u4")
    return int(differ.argmax()) if differ.any() else size // 4


def _as_bytes(symbols: Sequence[int] | np.ndarray, shift: int = 1) -> bytes:
    """Four bytes a symbol, the first the most significant, so that bytes sort as numbers do."""
    return (np.asarray(symbols, np.int64) + shift).astype(">u4").tobytes()
