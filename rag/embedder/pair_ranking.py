"""Pairs in ranked texts: how well held-out ones are found, and which wrong texts come near the right one."""

import random
import sqlite3
from collections.abc import Callable

import numpy as np

from ...evaluation.bootstrap import interval, mean
from ..embedding import Embedder
from ..lexical import TOKENIZER, indexed_words, match_expression
from ..retrieval import Ranking, fuse, together
from .pairs import GIVEN, SENTENCE, TITLE, Pair

DEPTH = (1, 10)
NEAREST, MOST_TEXTS = 20, 5000  # texts that a wrong one is drawn from, and how many are looked at in all
NOTHING_TO_TELL_APART = (
    "No two of the pairs to learn from can stand beside each other, since their questions or texts are the same: give "
    "pairs with different ones."
)
Ranker = Callable[[list[str], list[str]], list[list[int]]]  # anchors, texts -> for each anchor, texts by number


class Held:
    """Held-out pairs of one kind: all their texts, and which of them, by number, each anchor was paired with."""

    def __init__(self, pairs: list[Pair]) -> None:
        numbers = {text: n for n, text in enumerate(dict.fromkeys(pair.positive for pair in pairs))}
        self.texts = list(numbers)
        self.wanted: dict[str, set[int]] = {}
        for pair in pairs:
            self.wanted.setdefault(pair.anchor, set()).add(numbers[pair.positive])

    def figures(self, ranker: Ranker) -> dict[str, dict]:
        """recall@1 and recall@10: the share of anchors that have one of their texts among the first."""
        ranked = list(zip(self.wanted.values(), ranker(list(self.wanted), self.texts), strict=True))
        found = (mean(f"recall@{k}", [not wanted.isdisjoint(ranking[:k]) for wanted, ranking in ranked]) for k in DEPTH)
        return {each.name: {"value": each.value, "interval": interval(each)} for each in found}


def held_by_kind(pairs: list[Pair]) -> dict[str, Held]:
    """The held-out pairs of each kind. Of a source one sentence is asked for: others stand in each other's texts."""
    parts = {kind: [pair for pair in pairs if pair.kind == kind] for kind in (TITLE, SENTENCE, GIVEN)}
    parts[SENTENCE] = list({pair.source: pair for pair in parts[SENTENCE]}.values())
    return {kind: Held(part) for kind, part in parts.items() if part}


def by_vectors(embedder: Embedder, anchors: list[str], texts: list[str], depth: int = max(DEPTH)) -> list[list[int]]:
    """Ranks texts by the cosines of their vectors."""
    vectors = embedder.encode(texts)
    cosines = (vectors @ embedder.encode_query(anchor) for anchor in anchors)
    return [np.argsort(-each, kind="stable")[:depth].tolist() for each in cosines]


def by_words(anchors: list[str], texts: list[str], depth: int = max(DEPTH)) -> list[list[int]]:
    """Ranks texts by BM25, as the lexical search of an index does."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
    connection.executemany("INSERT INTO words VALUES (?)", [[indexed_words(text)] for text in texts])
    query = "SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?"
    expressions = [match_expression(anchor) for anchor in anchors]
    return [[n for (n,) in connection.execute(query, [e, depth])] if e else [] for e in expressions]


def by_search(embedder: Embedder | None, reranker, anchors: list[str], texts: list[str]) -> list[list[int]]:
    """Ranks texts as a hybrid search does, with a cross-encoder unless it is None."""
    ranked = []
    for anchor, ranking in zip(anchors, _searched(embedder, anchors, texts, max(DEPTH)), strict=True):
        if reranker is not None and ranking:
            scores = reranker.predict([(anchor, texts[n]) for n, _ in ranking], show_progress_bar=False)
            both = together([score for _, score in ranking], scores)
            ranking = [pair for _, pair in sorted(zip(-both, ranking, strict=True))]
        ranked.append([n for n, _ in ranking])
    return ranked


def _searched(embedder: Embedder | None, anchors: list[str], texts: list[str], depth: int) -> list[Ranking]:
    """What a hybrid search finds first; by words alone without an embedder, or one that does not read the anchor."""
    words = by_words(anchors, texts, depth)
    near = by_vectors(embedder, anchors, texts, depth) if embedder else words
    found = []
    for anchor, *both in zip(anchors, words, near, strict=True):
        lists = both if embedder and embedder.reads(anchor) else both[:1]
        found.append(fuse([[(n, 0.0) for n in numbers] for numbers in lists])[:depth])
    return found


def with_hard_negatives(
    pairs: list[Pair], chosen: list[Pair], count: int, seed: int, embedder: Embedder | None = None
) -> list[tuple[Pair, list[str]]]:
    """The `chosen` pairs with `count` wrong texts each: the pair's own, then such as a search finds, then others.

    Wrong texts are of the pair's own kind, so that nothing but what they say tells them from the right one. A pair that
    has no wrong text is left out; ValueError if none has one.
    """
    right: dict[str, set[str]] = {}  # texts and sources that answer a question
    for pair in pairs:
        right.setdefault(pair.anchor, set()).update((pair.source, pair.positive))
    chance, found = random.Random(seed), []
    for kind in dict.fromkeys(pair.kind for pair in chosen):
        asked = [pair for pair in chosen if pair.kind == kind]
        of = {pair.positive: pair.source for pair in pairs if pair.kind == kind}
        texts = list({source: text for text, source in of.items()}.values())  # of each source one
        texts = chance.sample(texts, MOST_TEXTS) if len(texts) > MOST_TEXTS else texts
        rankings = _searched(embedder, [pair.anchor for pair in asked], texts, NEAREST)
        for pair, ranking in zip(asked, rankings, strict=True):
            known = right[pair.anchor]
            near = [texts[n] for n, _ in ranking if known.isdisjoint((texts[n], of[texts[n]]))]
            wrong = [pair.negative] * bool(pair.negative) + chance.sample(near, min(count, len(near)))
            if len(wrong) < count:
                others = [text for text in texts if text not in wrong and known.isdisjoint((text, of[text]))]
                wrong += chance.sample(others, min(count - len(wrong), len(others)))
            if wrong:
                found.append((pair, [wrong[n % len(wrong)] for n in range(count)]))
    if not found:
        raise ValueError(NOTHING_TO_TELL_APART)
    return found
