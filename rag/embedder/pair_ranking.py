"""How well held-out pairs are found: the share whose text is among the first k, with intervals."""

import sqlite3
from collections.abc import Callable

import numpy as np

from ...evaluation.bootstrap import interval, mean
from ..embedding import Embedder
from ..lexical import TOKENIZER, indexed_words, match_expression
from .pairs import GIVEN, SENTENCE, TITLE, Pair

DEPTH = (1, 10)
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


def by_vectors(embedder: Embedder, anchors: list[str], texts: list[str]) -> list[list[int]]:
    """Ranks texts by the cosines of their vectors."""
    vectors, questions = embedder.encode(texts), np.stack([embedder.encode_query(anchor) for anchor in anchors])
    return np.argsort(-questions @ vectors.T, axis=1, kind="stable")[:, : max(DEPTH)].tolist()


def by_words(anchors: list[str], texts: list[str], depth: int = max(DEPTH)) -> list[list[int]]:
    """Ranks texts by BM25, as the lexical search of an index does."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
    connection.executemany("INSERT INTO words VALUES (?)", [[indexed_words(text)] for text in texts])
    query = "SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?"
    expressions = [match_expression(anchor) for anchor in anchors]
    return [[n for (n,) in connection.execute(query, [e, depth])] if e else [] for e in expressions]


def by_reranker(model, anchors: list[str], texts: list[str]) -> list[list[int]]:
    """Ranks the texts that are first by words by a cross-encoder's scores."""
    found = by_words(anchors, texts)
    asked = [(anchor, texts[n]) for anchor, numbers in zip(anchors, found, strict=True) for n in numbers]
    scores = iter(model.predict(asked, show_progress_bar=False).tolist() if asked else [])
    scored = [[(-next(scores), n) for n in numbers] for numbers in found]
    return [[n for _, n in sorted(each)] for each in scored]
