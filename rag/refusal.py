"""Refusal: whether what was found has to do with the question, by two features and a line between them.

Neither is enough: near vectors are found for whatever is asked, and the words of a question may stand anywhere.
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

BEST = 5  # passages that are looked at, however many are asked for
READ = 3  # of them sentence by sentence
CHANCE = 0.085  # by which an index of ten times as many chunks brings its best passage nearer to whatever is asked
DIRECTIONS = 90
SETTING = "refusal_line"
KEEP = 0.95  # of the answerable questions
FEWEST = 20  # questions of a kind; a threshold that rests on fewer is chance
REFUSALS = {"never": -math.inf, "default": 0.0, "strict": 0.06}  # what is added to the least score


@dataclass(frozen=True)
class Features:
    """What tells whether a question can be answered."""

    # The mean of the best chunk's cosine and the best sentence's, less what the size of the index explains.
    nearness: float
    # The share of the question's words, weighted by how rare a word is, that one of the best passages has (several
    # together have a word or two of whatever is asked); 1 if the passages are in another script.
    coverage: float


@dataclass(frozen=True)
class Threshold:
    """Questions are answered from `nearness * features.nearness + coverage * features.coverage >= least` on."""

    nearness: float
    coverage: float
    least: float

    def answers(self, features: Features, refuse: str = "default") -> bool:
        score = self.nearness * features.nearness + self.coverage * features.coverage
        return score >= self.least + REFUSALS[refuse]


# Drawn on ten sets of 3 to 5,000 chunks; docs/rag.md says what it does to a set that is left out.
DEFAULTS = {MINILM: Threshold(0.8, 0.2, 0.27)}
OTHERWISE = Threshold(0.0, 1.0, 0.05)  # cosines of another embedder may be anything


def features(question: str, hits: Sequence[Hit], catalog: Catalog, embedder: Embedder) -> Features:
    """The features of a question and what a search found for it, the best first."""
    best = hits[:BEST]
    if not best:
        return Features(0.0, 0.0)
    total, asked = catalog.counts()[1], embedder.encode_query(question)
    texts = [hit.text[start:end] for hit in best[:READ] for start, end in sentences(hit.text)]
    sentence = (embedder.encode(texts) @ asked).max() if texts else 0.0
    found, vectors = catalog.vectors([hit.chunk for hit in best])
    nearest = (vectors @ asked).max() if found else 0.0
    nearness = float(nearest + sentence) / 2 - CHANCE * math.log10(max(total, 1))
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
    """LATIN, CYRILLIC, CJK and so on: the scripts that a text has letters or figures of."""
    return {unicodedata.name(sign, "").partition(" ")[0] for sign in set(text) if sign.isalnum()}


def calibrate(answerable: Sequence[Features], unanswerable: Sequence[Features], keep: float = KEEP) -> Threshold:
    """The line that refuses the most unanswerable questions, of those that keep a share of the answerable ones."""
    if not answerable or not unanswerable:
        raise ValueError("Calibration needs questions that can be answered, and questions that cannot.")
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}: give the share of answerable questions to keep, above 0 and up to 1.")
    good, bad = (np.array([astuple(each) for each in kind]) for kind in (answerable, unanswerable))
    angles = np.linspace(0, math.pi / 2, DIRECTIONS + 1)
    directions = np.stack([np.cos(angles), np.sin(angles)])  # (2, directions): more of either never speaks against
    directions /= directions.sum(axis=0)
    allowed = math.floor((1 - keep) * len(good) + 1e-9)  # so many of the answerable may be lost
    # As in `Threshold.answers`: a matrix product differs in the last bit, and would lose the question on the line.
    good, bad = (each[:, :1] * directions[0] + each[:, 1:] * directions[1] for each in (good, bad))
    least = np.sort(good, axis=0)[allowed]
    refused = (bad < least).mean(axis=0)
    best = np.flatnonzero(refused == refused.max())
    chosen = best[len(best) // 2]  # in the middle of equally good ones
    return Threshold(*map(float, (*directions[:, chosen], least[chosen])))


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


@dataclass(frozen=True)
class Refusal:
    """What a line between questions does."""

    answerable: int  # questions whose answer is found
    unanswerable: int  # others
    threshold: Threshold  # the best line, of all the questions
    # By the line's name, "answered" (of the answerable) and "refused" (of the others), each question judged by a line
    # that was drawn without it; "refused, marked" is of those that the data set calls unanswerable.
    figures: dict[str, dict[str, Metric]]

    def __str__(self) -> str:
        answerable = f"{self.answerable:,} questions whose answer is in the first {BEST} passages"
        return f"Refusal, of {answerable}, and {self.unanswerable:,} without the documents that answer them:"


def measure(
    answerable: Sequence[Features], unanswerable: Sequence[Features], marked: Sequence[Features], current: Threshold
) -> Refusal:
    """Draw the best line between two kinds of questions, and see what it and the `current` one do.

    What is answerable was found, what is unanswerable was asked without the documents that answer it, and nothing is
    fitted to what is `marked` as unanswerable by a data set.
    """
    check_enough(len(answerable), len(unanswerable))
    kinds = answerable, unanswerable, marked
    now, best = [[current.answers(each) for each in kind] for kind in kinds], calibrate(answerable, unanswerable)
    figures = {"the index's threshold": _figures(*now), "calibrated": _figures(*_held_out(*kinds))}
    return Refusal(len(answerable), len(unanswerable), best, figures)


def check_enough(answerable: int, unanswerable: int) -> None:
    if min(answerable, unanswerable) < FEWEST:
        raise ValueError(
            f"A threshold needs {FEWEST} questions whose answer is found and {FEWEST} that nothing answers, and there "
            f"are {answerable} and {unanswerable}: give more, of several documents."
        )


def _held_out(*kinds: Sequence[Features]) -> list[list[bool]]:
    """Whether each question is answered, by the line that is best for the other half of the questions."""
    answered = [[False] * len(kind) for kind in kinds]
    for half in (0, 1):
        threshold = calibrate(kinds[0][1 - half :: 2], kinds[1][1 - half :: 2])
        for kind, found in zip(kinds, answered, strict=True):
            found[half::2] = [threshold.answers(each) for each in kind[half::2]]
    return answered


def _figures(answerable: list[bool], unanswerable: list[bool], marked: list[bool]) -> dict[str, Metric]:
    figures = {"answered": mean("answered", answerable), "refused": mean("refused", ~np.array(unanswerable))}
    return figures | ({"refused, marked": mean("refused, marked", ~np.array(marked))} if marked else {})
