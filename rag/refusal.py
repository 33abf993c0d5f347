"""Refusal: a threshold on two features decides if the passages that were found can answer the question.

Neither feature is enough: any question has near vectors, and its words may be anywhere.
"""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np

from ..evaluation.bootstrap import Metric, mean
from .catalog import Catalog
from .documents import Hit
from .embedding import MINILM, Embedder
from .lexical import question_terms, rarity
from .sentences import sentences

BEST_PASSAGES = 5  # passages that the features are computed from, whatever --k is
SENTENCE_PASSAGES = 3  # of these, passages that are read by sentences
SIZE_PENALTY = 0.085  # increase of the best cosine of an unrelated question if an index has ten times as many chunks
DIRECTIONS = 90
SETTING = "refusal_line"
KEEP = 0.95  # share of the answerable questions
MIN_QUESTIONS = 20  # of a kind; a threshold on fewer is random
REFUSALS = {"never": -math.inf, "default": 0.0, "strict": 0.06}  # added to the least score


@dataclass(frozen=True)
class Features:
    # The mean of the best chunk's cosine and the best sentence's, minus the effect of the index's size.
    nearness: float
    # The share of the question's words, weighted by rarity, that one of the best passages has (several together have
    # a word or two of any question); 1 if the passages are in another script.
    coverage: float


@dataclass(frozen=True)
class Threshold:
    """Questions with `nearness * features.nearness + coverage * features.coverage >= least` are answered."""

    nearness: float
    coverage: float
    least: float

    def answers(self, features: Features, refuse: str = "default") -> bool:
        score = self.nearness * features.nearness + self.coverage * features.coverage
        return score >= self.least + REFUSALS[refuse]


# Fitted on ten sets of 3 to 5,000 chunks; docs/rag.md has the results on sets that are held out.
DEFAULTS = {MINILM: Threshold(0.8, 0.2, 0.27)}
DEFAULT_THRESHOLD = Threshold(0.0, 1.0, 0.05)  # cosines of another embedding model may have any range


def features(question: str, hits: Sequence[Hit], catalog: Catalog, embedder: Embedder) -> Features:
    best = hits[:BEST_PASSAGES]
    if not best:
        return Features(0.0, 0.0)
    total, asked = catalog.counts()[1], embedder.encode_query(question)
    texts = [hit.text[start:end] for hit in best[:SENTENCE_PASSAGES] for start, end in sentences(hit.text)]
    sentence = (embedder.encode(texts) @ asked).max() if texts else 0.0
    found, vectors = catalog.vectors([hit.chunk for hit in best])
    nearest = (vectors @ asked).max() if found else 0.0
    nearness = float(nearest + sentence) / 2 - SIZE_PENALTY * math.log10(max(total, 1))
    if not _scripts(question) & _scripts(" ".join(texts)):
        return Features(nearness, 1.0)
    known, all_weights = dict.fromkeys((hit.chunk for hit in best), 0.0), 0.0
    for term in question_terms(question):
        frequency, having = catalog.frequency(term, list(known))
        all_weights += (weight := rarity(frequency, total))
        for chunk in having:
            known[chunk] += weight
    return Features(nearness, max(known.values()) / all_weights if all_weights else 0.0)


def _scripts(text: str) -> set[str]:
    """Return the scripts of a text's letters and digits: LATIN, CYRILLIC, CJK and so on."""
    return {unicodedata.name(sign, "").partition(" ")[0] for sign in set(text) if sign.isalnum()}


def calibrate(answerable: Sequence[Features], unanswerable: Sequence[Features], keep: float = KEEP) -> Threshold:
    """Fit the threshold that refuses the most unanswerable questions while a share `keep` of the others is answered."""
    good, bad = (np.array([astuple(each) for each in kind]) for kind in (answerable, unanswerable))
    angles = np.linspace(0, math.pi / 2, DIRECTIONS + 1)
    directions = np.stack([np.cos(angles), np.sin(angles)])  # (2, directions): neither weight is negative
    directions /= directions.sum(axis=0)
    allowed = math.floor((1 - keep) * len(good) + 1e-9)  # number of answerable questions that may be refused
    # As in `Threshold.answers`: a matrix product differs in the last bit, and would refuse the question on the line.
    good, bad = (each[:, :1] * directions[0] + each[:, 1:] * directions[1] for each in (good, bad))
    least = np.sort(good, axis=0)[allowed]
    refused = (bad < least).mean(axis=0)
    best = np.flatnonzero(refused == refused.max())
    chosen = best[len(best) // 2]  # the middle of equally good ones
    return Threshold(*map(float, (*directions[:, chosen], least[chosen])))


def threshold_of(catalog: Catalog) -> Threshold:
    """Return the threshold of an index: the stored one if it is of the same embedding model, or a default."""
    stored = json.loads(catalog.setting(SETTING) or "{}")
    if stored and stored.pop("model") == catalog.model[0]:
        return Threshold(**stored)
    return DEFAULTS.get(catalog.setting("embedder"), DEFAULT_THRESHOLD)


def store_threshold(catalog: Catalog, threshold: Threshold) -> None:
    with catalog.transaction():
        catalog.set_setting(SETTING, json.dumps({**asdict(threshold), "model": catalog.model[0]}))


@dataclass(frozen=True)
class Refusal:
    answerable: int  # number of questions whose answer is found
    unanswerable: int  # number of others
    threshold: Threshold  # the best one, fitted on all questions
    # By the threshold's name: "answered" (of the answerable), "refused" (of the others, which were asked without the
    # documents that answer them), and "refused, marked" (of those that the dataset marks as unanswerable).
    figures: dict[str, dict[str, Metric]]

    def __str__(self) -> str:
        answerable = f"{self.answerable:,} questions whose answer is in the first {BEST_PASSAGES} passages"
        return f"Refusal, of {answerable}, and {self.unanswerable:,} without the documents that answer them:"


def measure(
    answerable: Sequence[Features], unanswerable: Sequence[Features], marked: Sequence[Features], current: Threshold
) -> Refusal:
    """Fit a threshold to two kinds of questions, and measure it and the `current` one, also on `marked` questions."""
    check_enough(len(answerable), len(unanswerable))
    kinds = answerable, unanswerable, marked
    now, best = [[current.answers(each) for each in kind] for kind in kinds], calibrate(answerable, unanswerable)
    figures = {"the index's threshold": _metrics(*now), "calibrated": _metrics(*_answered_held_out(*kinds))}
    return Refusal(len(answerable), len(unanswerable), best, figures)


def check_enough(answerable: int, unanswerable: int) -> None:
    if min(answerable, unanswerable) < MIN_QUESTIONS:
        has = f"there are {answerable} and {unanswerable}: give more, of several documents"
        needs = f"{MIN_QUESTIONS} questions whose answer is found and {MIN_QUESTIONS} that nothing answers"
        raise ValueError(f"A threshold needs {needs}, and {has}.")


def _answered_held_out(*kinds: Sequence[Features]) -> list[list[bool]]:
    """Return True for each question that is answered with the threshold fitted on the other half of the questions."""
    answered = [[False] * len(kind) for kind in kinds]
    for half in (0, 1):
        threshold = calibrate(kinds[0][1 - half :: 2], kinds[1][1 - half :: 2])
        for kind, found in zip(kinds, answered, strict=True):
            found[half::2] = [threshold.answers(each) for each in kind[half::2]]
    return answered


def _metrics(answerable: list[bool], unanswerable: list[bool], marked: list[bool]) -> dict[str, Metric]:
    metrics = {"answered": mean("answered", answerable), "refused": mean("refused", ~np.array(unanswerable))}
    return metrics | ({"refused, marked": mean("refused, marked", ~np.array(marked))} if marked else {})
