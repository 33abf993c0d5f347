"""Ranking of the texts of pairs: recall of held-out pairs, and hard negatives for training."""

import random
import sqlite3
from collections.abc import Callable

import numpy as np

from ...evaluation.bootstrap import interval, mean
from ..embedding import Embedder
from ..lexical import TOKENIZER, indexed_words, match_expression
from ..retrieval import Ranking, combine_scores, fuse
from .pairs import GIVEN, SENTENCE, TITLE, Pair

DEPTH = (1, 10)
NEAREST, MAX_TEXTS = 20, 5000  # hard negatives are drawn from so many nearest texts, of so many in all
NO_NEGATIVES = "The training pairs all have the same question or text: give pairs with different ones."
Ranker = Callable[[list[str], list[str]], list[list[int]]]  # anchors, texts -> for each anchor, texts by number


def group_by_kind(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Group held-out pairs, with one sentence of each source, since its others are in the text to find."""
    parts = {kind: [pair for pair in pairs if pair.kind == kind] for kind in (TITLE, SENTENCE, GIVEN)}
    parts[SENTENCE] = list({pair.source: pair for pair in parts[SENTENCE]}.values())
    return {kind: part for kind, part in parts.items() if part}


def recall(held_out: dict[str, list[Pair]], ranker: Ranker) -> dict[str, dict[str, dict]]:
    """Compute recall@1 and recall@10 of each kind: the share of anchors with one of their texts among the first."""
    found: dict[str, dict[str, dict]] = {}
    for kind, pairs in held_out.items():
        right: dict[str, set[str]] = {}
        for pair in pairs:
            right.setdefault(pair.anchor, set()).add(pair.positive)
        texts = list(dict.fromkeys(pair.positive for pair in pairs))
        ranked = zip(right.values(), ranker(list(right), texts), strict=True)
        hits = [[texts[n] in wanted for n in ranking] for wanted, ranking in ranked]
        metrics = [mean(f"recall@{k}", [any(row[:k]) for row in hits]) for k in DEPTH]
        found[kind] = {each.name: {"value": each.value, "interval": interval(each)} for each in metrics}
    return found


def by_vectors(embedder: Embedder, anchors: list[str], texts: list[str], depth: int = max(DEPTH)) -> list[list[int]]:
    vectors = embedder.encode(texts)
    cosines = (vectors @ embedder.encode_query(anchor) for anchor in anchors)
    return [np.argsort(-each, kind="stable")[:depth].tolist() for each in cosines]


def by_words(anchors: list[str], texts: list[str], depth: int = max(DEPTH)) -> list[list[int]]:
    """Rank texts by BM25, as the lexical search of an index does."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "{TOKENIZER}")')
    connection.executemany("INSERT INTO words VALUES (?)", [[indexed_words(text)] for text in texts])
    query = "SELECT rowid - 1 FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?"
    expressions = [match_expression(anchor) for anchor in anchors]
    return [[n for (n,) in connection.execute(query, [e, depth])] if e else [] for e in expressions]


def by_search(embedder: Embedder | None, reranker, anchors: list[str], texts: list[str]) -> list[list[int]]:
    """Rank texts as a hybrid search does, with a cross-encoder unless it is None."""
    ranked = []
    for anchor, ranking in zip(anchors, _search(embedder, anchors, texts, max(DEPTH)), strict=True):
        if reranker is not None and ranking:
            scores = reranker.predict([(anchor, texts[n]) for n, _ in ranking], show_progress_bar=False)
            both = combine_scores([score for _, score in ranking], scores)
            ranking = [pair for _, pair in sorted(zip(-both, ranking, strict=True))]
        ranked.append([n for n, _ in ranking])
    return ranked


def _search(embedder: Embedder | None, anchors: list[str], texts: list[str], depth: int) -> list[Ranking]:
    """Search texts by words, and by vectors, too, if there is an embedder that reads the anchor's script."""
    words = by_words(anchors, texts, depth)
    near = by_vectors(embedder, anchors, texts, depth) if embedder else words
    found = []
    for anchor, *both in zip(anchors, words, near, strict=True):
        lists = both if embedder and embedder.reads(anchor) else both[:1]
        found.append(fuse([[(n, 0.0) for n in numbers] for numbers in lists])[:depth])
    return found


def hard_negatives(
    pairs: list[Pair], chosen: list[Pair], count: int, seed: int, embedder: Embedder | None = None
) -> list[tuple[Pair, list[str]]]:
    """Find `count` negatives for each of the `chosen` pairs: its own, then near texts of a search, then others.

    They are of the pair's kind, so that only their contents distinguish them from the positive; ValueError without any.
    """
    right: dict[str, set[str]] = {}  # texts and sources that answer a question
    for pair in pairs:
        right.setdefault(pair.anchor, set()).update((pair.source, pair.positive))
    generator, found = random.Random(seed), []
    for kind in dict.fromkeys(pair.kind for pair in chosen):
        queries = [pair for pair in chosen if pair.kind == kind]
        sources = {pair.positive: pair.source for pair in pairs if pair.kind == kind}
        texts = list({source: text for text, source in sources.items()}.values())  # one of each source
        texts = generator.sample(texts, MAX_TEXTS) if len(texts) > MAX_TEXTS else texts
        rankings = _search(embedder, [pair.anchor for pair in queries], texts, NEAREST)
        for pair, ranking in zip(queries, rankings, strict=True):
            known = right[pair.anchor]
            near = [texts[n] for n, _ in ranking if known.isdisjoint((texts[n], sources[texts[n]]))]
            wrong = [pair.negative] * bool(pair.negative) + generator.sample(near, min(count, len(near)))
            if len(wrong) < count:
                others = [text for text in texts if text not in wrong and known.isdisjoint((text, sources[text]))]
                wrong += generator.sample(others, min(count - len(wrong), len(others)))
            if wrong:
                found.append((pair, [wrong[n % len(wrong)] for n in range(count)]))
    if not found:
        raise ValueError(NO_NEGATIVES)
    return found
