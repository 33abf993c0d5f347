"""Retrieval by vectors, by words, or both fused by rank, and reranking by a cross-encoder."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .documents import SURROGATE, Hit, context_of
from .embedding import load_safely
from .filters import where_sql
from .store import Store

logger = logging.getLogger(__name__)

MODES = ("hybrid", "dense", "lexical")
MAX_QUERY_CHARACTERS = 10_000
# Reciprocal rank fusion. Source: G. Cormack, C. Clarke and S. Büttcher, "Reciprocal Rank Fusion outperforms Condorcet
# and individual Rank Learning Methods", 2009; k is theirs.
RRF_K = 60
DEPTH = 100
RERANK_DEPTH = 50
RERANKER_WEIGHT = 0.3  # the search has 1: a weak reranker took SciFact's nDCG from .741 to .733, and to .581 alone

Ranking = list[tuple[int, float]]  # chunk, score; the best first


class Retriever:
    """The search of a store. `Rag.open` describes `reranker` and `rewrite`."""

    def __init__(self, store: Store, reranker: Any, rewrite: Callable[[str], str | list[str]] | None) -> None:
        self.store, self.reranker, self.rewrite = store, reranker, rewrite
        self._has_warned = False

    def search(self, query: str, k: int, mode: str, where: dict | None) -> list[Hit]:
        check(query, k, mode, where)
        catalog = self.store.catalog
        if not catalog.counts()[1]:
            raise ValueError(f"The index in {self.store.path} is empty: folio rag sync PATH --index {self.store.path}")
        depth = max(k, DEPTH)
        rewritten = self.rewrite(query) if self.rewrite else query
        texts = [rewritten] if isinstance(rewritten, str) else rewritten
        dense, lexical = [], []
        for text in [text for text in texts if text.strip()] or [query]:
            if mode == "dense" or (mode == "hybrid" and self._reads(text)):
                dense.append(self.store.nearest(self.store.embedder.encode_query(text), depth, where))
            if mode != "dense":
                lexical.append(catalog.lexical(text, depth, where))
        rankings = dense + lexical
        ranking = rankings[0] if len(rankings) == 1 else fuse(rankings)
        cosines = dict(sorted((pair for each in dense for pair in each), key=lambda pair: pair[1]))  # the highest stays
        chunks = ((catalog.chunk(id), id, score) for id, score in ranking)  # another process may have deleted one
        found = (Hit(**chunk, score=score, cosine=cosines.get(id)) for chunk, id, score in chunks if chunk)
        unique = _without_copies(found, is_filtered=where is not None)
        hits = list(islice(unique, k if self.reranker is None else max(k, RERANK_DEPTH)))
        return self._reranked(query, hits)[:k] if self.reranker is not None and hits else hits

    def _reads(self, query: str) -> bool:
        """Return True if the embedding model knows the script of a question. Otherwise its passages are random."""
        embedder = self.store.embedder
        if not (reads := embedder.reads(query)) and not self._has_warned:
            self._has_warned = True
            remedy = "index with a multilingual embedding model: --embedder intfloat/multilingual-e5-small"
            problem = f"{embedder.name} does not know the script of this question, so only words are searched."
            logger.warning("%s For other languages, %s", problem, remedy)
        return reads

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        if isinstance(self.reranker, (str, Path)):
            self.reranker = load_reranker(self.reranker)
        contexts = [context_of(hit.title, hit.heading, hit.text) for hit in hits]
        pairs = [(query, f"{each}\n{hit.text}" if each else hit.text) for each, hit in zip(contexts, hits, strict=True)]
        scores = combine_scores([hit.score for hit in hits], self.reranker.predict(pairs))
        rescored = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(rescored, key=lambda hit: -hit.score)


def _without_copies(hits: Iterable[Hit], is_filtered: bool) -> Iterator[Hit]:
    """Yield the first of passages with the same words, as copies of a file would fill all places."""
    seen = set()
    for hit in hits:  # with a filter, other metadata distinguish rows with the same words
        key = " ".join(hit.text.split()), repr(sorted(hit.metadata.items())) if is_filtered else ""
        if key not in seen:
            seen.add(key)
            yield hit


def check(query: str, k: int, mode: str, where: dict | None) -> None:
    """Raise ValueError for a question or options that cannot be searched with."""
    if not isinstance(query, str) or not query.strip():
        raise ValueError("The question is empty: ask something.")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"The question has {len(query):,} characters: ask in at most {MAX_QUERY_CHARACTERS:,}.")
    if SURROGATE.search(query):
        raise ValueError("The question has half a character (a surrogate): correct it.")
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}: give a number of passages, at least 1.")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: choose one of {', '.join(MODES)}.")
    if where is not None:
        where_sql(where)


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """Merge rankings by reciprocal rank fusion: chunks near the top of several of them come first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (id, _) in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def combine_scores(found: Sequence[float], reranked: Sequence[float]) -> np.ndarray:
    """Add the scores of a search and the weighted ones of a reranker, each standardized by its own mean and spread."""
    first, second = ((np.asarray(each) - np.mean(each)) / (np.std(each) or 1) for each in (found, reranked))
    return first + RERANKER_WEIGHT * second


def load_reranker(name: str | Path):
    """Load a CrossEncoder with `load_safely`; OSError or ValueError if there is none with one score."""
    model = load_safely("CrossEncoder", name, "A reranker")
    from sentence_transformers.util import is_sentence_transformer_model

    kind = ((model.config and model.config.architectures) or [""])[0]
    # Other models get a new head with random scores. A causal model's modules define how it scores.
    is_causal = kind.endswith("CausalLM") and is_sentence_transformer_model(str(Path(name).expanduser()))
    if model.num_labels != 1 or not (is_causal or kind.endswith("ForSequenceClassification")):
        found = f"The reranker {name} is a {kind} with {model.num_labels} scores, not a cross-encoder with one"
        raise ValueError(f"{found}: train one with folio embedder train --reranker.")
    return model
