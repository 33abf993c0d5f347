"""Exact match and F1 of answers to questions, as SQuAD's own script counts them (Rajpurkar et al., 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

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
    meaningful = [[text for text in right if normalize_answer(text)] or [""] for right in references]
    rows = list(zip(predictions, meaningful, strict=True))
    return [
        mean(name, [max(score(said, text) for text in right) for said, right in rows])
        for name, score in (("exact_match", exact_match), ("f1", token_f1))
    ]
