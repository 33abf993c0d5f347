"""Retrieval: by vectors, by words, or both fused by rank; then, if wanted, read again by a cross-encoder."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..jobs.extras import extra
from .documents import SURROGATE, Hit
from .embedding import Embedder, load_safely
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

Ranking = list[tuple[int, float]]  # chunk, score; the best first


class Retriever:
    """Searches a store.

    Args:
        reranker: a CrossEncoder by directory or name, or anything with `predict(pairs of texts) -> scores`.
        rewrite: question -> what is searched for instead, one text or several.
    """

    def __init__(self, store: Store, reranker: Any, rewrite: Callable[[str], str | list[str]] | None) -> None:
        self.store, self.rewrite = store, rewrite
        self._reranker = reranker
        self._said_unread = False

    def on(self, store: Store) -> "Retriever":
        """The same for another store."""
        return Retriever(store, self._reranker, self.rewrite)

    def search(self, query: str, k: int, mode: str, where: dict | None) -> list[Hit]:
        catalog = self.store.catalog
        if not catalog.counts()[1]:
            raise ValueError(f"The index in {self.store.path} is empty: folio rag sync PATH --index {self.store.path}")
        depth = max(k, DEPTH)
        dense: list[Ranking] = []
        lexical: list[Ranking] = []
        for text in self._queries(query):
            if mode == "dense" or (mode == "hybrid" and self._is_read(text)):
                dense.append(self.store.nearest(self.store.embedder.encode_query(text), depth, where))
            if mode != "dense":
                lexical.append(catalog.lexical(text, depth, where))
        rankings = dense + lexical
        ranking = rankings[0] if len(rankings) == 1 else fuse(rankings)
        cosines: dict[int, float] = {}
        for id, cosine in (pair for each in dense for pair in each):
            cosines[id] = max(cosine, cosines.get(id, cosine))
        wanted = k if self._reranker is None else max(k, RERANK_DEPTH)
        chunks = ((catalog.chunk(id), id, score) for id, score in ranking)  # one may have gone since it was found
        found = (Hit(**chunk, score=score, cosine=cosines.get(id)) for chunk, id, score in chunks if chunk)
        hits = list(islice(_without_copies(found), wanted))
        return (hits if self._reranker is None else self._reranked(query, hits))[:k]

    def _is_read(self, query: str) -> bool:
        """Whether the embedder knows the script of a question; if not, it finds passages by chance."""
        embedder = self.store.embedder
        if not isinstance(embedder, Embedder) or embedder.reads(query):
            return True
        if not self._said_unread:
            self._said_unread = True
            logger.warning(
                "%s does not know the script of this question, so only words are searched. For other languages, index "
                "with a multilingual embedder: --embedder intfloat/multilingual-e5-small",
                embedder.name,
            )
        return False

    def _queries(self, query: str) -> list[str]:
        if self.rewrite is None:
            return [query]
        texts = self.rewrite(query)
        texts = [texts] if isinstance(texts, str) else [text for text in texts if text.strip()]
        return texts or [query]

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        if isinstance(self._reranker, (str, Path)):
            self._reranker = load_reranker(self._reranker)
        scores = self._reranker.predict([(query, _with_context(hit)) for hit in hits]) if hits else []
        rescored = [Hit(**{**vars(hit), "score": float(score)}) for hit, score in zip(hits, scores, strict=True)]
        return sorted(rescored, key=lambda hit: -hit.score)


def _without_copies(hits: Iterable[Hit]) -> Iterator[Hit]:
    """Of passages with the same words the first: copies of a file would fill all places."""
    seen = set()
    for hit in hits:
        if (words := " ".join(hit.text.split())) not in seen:
            seen.add(words)
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


def load_reranker(name: str | Path):
    """A CrossEncoder, loaded as `load_safely` does.

    Raises ImportError if the extra is not installed; OSError, ValueError if it is not there, or is none.
    """
    with extra("rag", "A reranker"):
        from sentence_transformers import CrossEncoder
        from sentence_transformers.util import is_sentence_transformer_model
    from ..modeling import FolioModel  # noqa: F401  its import makes our own checkpoints known to transformers

    path = Path(name).expanduser()
    source = str(path if path.exists() else name)
    model = load_safely(CrossEncoder, source, f"The reranker {name}")
    kind = ((model.config and model.config.architectures) or [""])[0]
    # Of anything else the head is new, and its scores are drawn by chance; a causal model's modules say how it scores.
    says_how = kind.endswith("CausalLM") and is_sentence_transformer_model(source)
    if model.num_labels != 1 or not (says_how or kind.endswith("ForSequenceClassification")):
        raise ValueError(
            f"The reranker {name} is a {kind} with {model.num_labels} scores, not a cross-encoder with one: train one "
            "with folio embedder train --reranker."
        )
    return model


def _with_context(hit: Hit) -> str:
    """A passage below its title and heading, as an embedder sees it."""
    context = dict.fromkeys(part for part in (hit.title, hit.heading) if part and part not in hit.text)
    return "\n".join([*context, hit.text])
