"""How good a ranking is: recall, reciprocal rank and discounted cumulative gain, of what is relevant by how much.

Sources: nDCG as trec_eval and BEIR count it, K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR
techniques", 2002, with the grades themselves as gains.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from ..documents import Hit
from .datasets import Dataset, Place, Question

Ranking = Sequence[Hashable]


def recall(ranking: Ranking, relevant: Mapping, k: int) -> float:
    """The share of what is relevant that the first `k` have."""
    return len(set(ranking[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranking: Ranking, relevant: Mapping, k: int) -> float:
    """One over the rank of the first relevant one of `k`, or 0."""
    return next((1 / rank for rank, name in enumerate(ranking[:k], 1) if name in relevant), 0.0)


def ndcg(ranking: Ranking, relevant: Mapping, k: int) -> float:
    """The gain of the first `k`, discounted by rank, over that of the best ranking there is."""

    def gain(grades: Iterable[float]) -> float:
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))

    best = sorted(relevant.values(), reverse=True)
    return gain(relevant.get(name, 0) for name in ranking[:k]) / gain(best[:k])


def ranked_places(hits: Iterable[Hit], question: Question, dataset: Dataset) -> list[Place]:
    """The sections that passages stand for, each at its best rank. A passage of several stands for a relevant one."""
    found: dict[Place, None] = {}
    for hit in hits:
        places = dataset.places(hit)
        right = [place for place in places if place in question.relevant]
        found |= dict.fromkeys(right or places[:1])
    return list(found)


def has_span(hits: Iterable[Hit], question: Question) -> bool:
    """Whether one of the passages has the whole of an answer's span."""
    return any(
        hit.document == document and hit.start <= start and end <= hit.end
        for hit in hits
        for document, start, end in question.spans
    )
