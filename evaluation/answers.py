"""Exact match and F1 of answers to questions, as SQuAD's own script counts them (Rajpurkar et al., 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from .bootstrap import Metric, mean

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and needless whitespace."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are the same when normalised."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of the shares of words that both have; where one has none, 1 if the other has none either."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not true:
        return float(predicted == true)
    common = (Counter(predicted) & Counter(true)).total()
    return 2 * common / (len(predicted) + len(true))


def answer_metrics(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> list[Metric]:
    """Means of the best exact match and F1 over each question's right answers; if there is none, "" is right."""
    pairs = list(zip(predictions, references, strict=True))
    return [
        mean("exact_match", [_best(exact_match, *pair) for pair in pairs]),
        mean("f1", [_best(token_f1, *pair) for pair in pairs]),
    ]


def _best(score: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    meaningful = [reference for reference in references if normalize_answer(reference)] or [""]
    return max(score(prediction, reference) for reference in meaningful)
