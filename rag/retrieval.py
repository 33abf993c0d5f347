"""Retrieval: by vectors, by words, or both fused by rank; then, if wanted, read again by a cross-encoder."""

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
RERANKER_WEIGHT = 0.3  # beside the search's 1: a weak one took SciFact's nDCG from .741 to .733, and to .581 alone

Ranking = list[tuple[int, float]]  # chunk, score; the best first


class Retriever:
    """Searches a store; `Rag.open` says what `reranker` and `rewrite` are."""

    def __init__(self, store: Store, reranker: Any, rewrite: Callable[[str], str | list[str]] | None) -> None:
        self.store, self.reranker, self.rewrite = store, reranker, rewrite
        self._said_unread = False

    def search(self, query: str, k: int, mode: str, where: dict | None) -> list[Hit]:
        catalog = self.store.catalog
        if not catalog.counts()[1]:
            raise ValueError(f"The index in {self.store.path} is empty: folio rag sync PATH --index {self.store.path}")
        depth = max(k, DEPTH)
        rewritten = self.rewrite(query) if self.rewrite else query
        texts = [rewritten] if isinstance(rewritten, str) else rewritten
        dense: list[Ranking] = []
        lexical: list[Ranking] = []
        for text in [text for text in texts if text.strip()] or [query]:
            if mode == "dense" or (mode == "hybrid" and self._is_read(text)):
                dense.append(self.store.nearest(self.store.embedder.encode_query(text), depth, where))
            if mode != "dense":
                lexical.append(catalog.lexical(text, depth, where))
        rankings = dense + lexical
        ranking = rankings[0] if len(rankings) == 1 else fuse(rankings)
        cosines = dict(sorted((pair for each in dense for pair in each), key=lambda pair: pair[1]))  # the highest stays
        chunks = ((catalog.chunk(id), id, score) for id, score in ranking)  # one may have gone since it was found
        found = (Hit(**chunk, score=score, cosine=cosines.get(id)) for chunk, id, score in chunks if chunk)
        copies = _without_copies(found, is_filtered=where is not None)
        hits = list(islice(copies, k if self.reranker is None else max(k, RERANK_DEPTH)))
        return self._reranked(query, hits)[:k] if self.reranker is not None and hits else hits

    def _is_read(self, query: str) -> bool:
        """Whether the embedder knows the script of a question; if not, it finds passages by chance."""
        embedder = self.store.embedder
        if not (reads := embedder.reads(query)) and not self._said_unread:
            self._said_unread = True
            logger.warning(
                "%s does not know the script of this question, so only words are searched. For other languages, index "
                "with a multilingual embedder: --embedder intfloat/multilingual-e5-small",
                embedder.name,
            )
        return reads

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        """By the scores of the search and of the reranker together, as each knows what the other misses."""
        if isinstance(self.reranker, (str, Path)):
            self.reranker = load_reranker(self.reranker)
        contexts = [context_of(hit.title, hit.heading, hit.text) for hit in hits]
        texts = [f"{context}\n{hit.text}" if context else hit.text for context, hit in zip(contexts, hits, strict=True)]
        scores = self.reranker.predict([(query, text) for text in texts])
        both = together([hit.score for hit in hits], scores)
        rescored = [replace(hit, score=float(score)) for hit, score in zip(hits, both, strict=True)]
        return sorted(rescored, key=lambda hit: -hit.score)


def _without_copies(hits: Iterable[Hit], is_filtered: bool) -> Iterator[Hit]:
    """Of passages with the same words the first: copies of a file would fill all places."""
    seen = set()
    for hit in hits:  # whoever filters by metadata tells rows with the same words apart by them
        key = " ".join(hit.text.split()), repr(sorted(hit.metadata.items())) if is_filtered else ""
        if key not in seen:
            seen.add(key)
            yield hit


def check(query: str, k: int, mode: str, where: dict | None) -> None:
    """Refuse what cannot be searched for."""
    if not isinstance(query, str) or not query.strip():
        raise ValueError("The question is empty: ask something.")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"The question has {len(query):,} characters: ask in at most {MAX_QUERY_CHARACTERS:,}.")
    if SURROGATE.search(query):
        raise ValueError("The question holds half a character (a surrogate): correct it.")
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; give how many passages are wanted, at least 1.")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}.")
    if where is not None:
        where_sql(where)


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """Reciprocal rank fusion: what several rankings have near their top comes first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (id, _) in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def together(found: Sequence[float], reranked: Sequence[float]) -> np.ndarray:
    """The scores of a search and of a reranker, each measured by its own spread, weighted and added."""
    first, second = ((np.asarray(each) - np.mean(each)) / (np.std(each) or 1) for each in (found, reranked))
    return first + RERANKER_WEIGHT * second


def load_reranker(name: str | Path):
    """A CrossEncoder, loaded as `load_safely` does; OSError, ValueError if it is not there, or is none."""
    model = load_safely("CrossEncoder", name, "A reranker")
    from sentence_transformers.util import is_sentence_transformer_model

    kind = ((model.config and model.config.architectures) or [""])[0]
    # Of anything else the head is new, and its scores are drawn by chance; a causal model's modules say how it scores.
    says_how = kind.endswith("CausalLM") and is_sentence_transformer_model(str(Path(name).expanduser()))
    if model.num_labels != 1 or not (says_how or kind.endswith("ForSequenceClassification")):
        raise ValueError(
            f"The reranker {name} is a {kind} with {model.num_labels} scores, not a cross-encoder with one: train one "
            "with folio embedder train --reranker."
        )
    return model
