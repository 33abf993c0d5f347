"""Refusal: whether what was found has to do with the question, by two features and a line between them.

Neither is enough: near vectors are found for whatever is asked, and the words of a question may stand anywhere.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .catalog import Catalog
from .documents import Hit
from .embedding import MINILM
from .lexical import question_terms, rarity

BEST = 5  # passages that are looked at, however many are asked for
DIRECTIONS = 90
SETTING = "refusal_line"


@dataclass(frozen=True)
class Features:
    """What tells whether a question can be answered.

    Attributes:
        cosine: of the question and the best chunk.
        coverage: the share of the question's words, weighted by how rare a word is, that one of the best passages has;
            of several passages together it tells less, since each of them brings a word or two of whatever is asked.
    """

    cosine: float
    coverage: float


@dataclass(frozen=True)
class Threshold:
    """Questions are answered from `cosine * features.cosine + coverage * features.coverage >= least` on."""

    cosine: float
    coverage: float
    least: float

    def score(self, features: Features) -> float:
        return self.cosine * features.cosine + self.coverage * features.coverage

    def answers(self, features: Features) -> bool:
        return self.score(features) >= self.least


# Drawn on 1,000 questions of SQuAD; docs/rag.md says what it does to others.
DEFAULTS = {MINILM: Threshold(0.6, 0.4, 0.44)}
OTHERWISE = Threshold(0.0, 1.0, 0.33)  # cosines of another embedder may be anything


def features(question: str, hits: Sequence[Hit], catalog: Catalog) -> Features:
    """The features of a question and what was found for it, the best first.

    Args:
        hits: with cosines, as "dense" and "hybrid" searches give them.
    """
    best = hits[:BEST]
    cosines = [hit.cosine for hit in best if hit.cosine is not None]
    total = catalog.counts()[1]
    known, all_weights = dict.fromkeys((hit.chunk for hit in best), 0.0), 0.0
    for term in question_terms(question):
        frequency, having = catalog.frequency(term, list(known))
        weight = rarity(frequency, total)
        all_weights += weight
        for chunk in having:
            known[chunk] += weight
    covered = max(known.values(), default=0.0)
    return Features(max(cosines, default=0.0), covered / all_weights if all_weights else 0.0)


def calibrate(answerable: Sequence[Features], unanswerable: Sequence[Features], keep: float = 0.95) -> Threshold:
    """The line that refuses the most of the unanswerable questions, of those that keep a share of the answerable ones.

    Raises:
        ValueError: there are no questions of one kind, or `keep` is no share.
    """
    if not answerable or not unanswerable:
        raise ValueError("Calibration needs questions that can be answered, and questions that cannot.")
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}: give the share of answerable questions to keep, above 0 and up to 1.")
    good, bad = (np.array([[f.cosine, f.coverage] for f in each], float) for each in (answerable, unanswerable))
    angles = np.linspace(0, math.pi / 2, DIRECTIONS + 1)
    directions = np.stack([np.cos(angles), np.sin(angles)])  # (2, directions): more of either never speaks against
    directions = directions / directions.sum(axis=0)
    allowed = math.floor((1 - keep) * len(good) + 1e-9)  # so many of the answerable may be lost
    # Multiplied and added as `Threshold.score` does it: a matrix product differs in the last bit, and would lose the
    # question that the line runs through.
    good, bad = (each[:, :1] * directions[0] + each[:, 1:] * directions[1] for each in (good, bad))
    least = np.sort(good, axis=0)[allowed]
    refused = (bad < least).mean(axis=0)
    best = np.flatnonzero(refused == refused.max())
    chosen = best[len(best) // 2]  # in the middle of equally good ones
    return Threshold(*(float(value) for value in (*directions[:, chosen], least[chosen])))


def threshold_of(catalog: Catalog) -> Threshold:
    """The threshold of an index: what was stored for its embedder, or a default."""
    stored = json.loads(catalog.meta.get(SETTING) or "{}")
    if stored and stored.pop("model") == catalog.model[0]:
        return Threshold(**stored)
    return DEFAULTS.get(catalog.meta.get("embedder"), OTHERWISE)


def store_threshold(catalog: Catalog, threshold: Threshold) -> None:
    """Keep a threshold in an index, for as long as it has this embedder."""
    with catalog.transaction():
        catalog.meta[SETTING] = json.dumps({**asdict(threshold), "model": catalog.model[0]})
