"""Metrics of generated answers: exact match and F1 as SQuAD's own script counts them, ROUGE, BLEU."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..jobs.extras import extra
from .bootstrap import Metric, mean

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
ROUGE = ("rouge1", "rouge2", "rougeL")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Convert to lower case, without punctuation, articles and needless whitespace."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if both are the same when normalized, 0 otherwise."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Compute the harmonic mean of the shares of common words; if one text has no words, 1 if neither has."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not true:
        return float(predicted == true)
    common = (Counter(predicted) & Counter(true)).total()
    return 2 * common / (len(predicted) + len(true))


def answer_metrics(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> list[Metric]:
    """Compute the means of the best exact match and F1 over each question's right answers; without any, "" is right.

    Source: Rajpurkar et al., 2016 and 2018.
    """
    meaningful = [[text for text in right if normalize_answer(text)] or [""] for right in references]
    rows = list(zip(predictions, meaningful, strict=True))
    return [
        mean(name, [max(score(answer, text) for text in right) for answer, right in rows])
        for name, score in (("exact_match", exact_match), ("f1", token_f1))
    ]


def overlap_metrics(references: Sequence[str], predictions: Sequence[str]) -> list[Metric]:
    """Compute ROUGE-1, -2 and -L (F-measure with stemming, by rouge-score) and BLEU (sacrebleu), all from 0 to 1.

    An empty prediction, or reference, shares nothing: 0. ROUGE is the mean over the rows; BLEU counts the phrases of
    all rows together, as it is defined (Papineni et al., 2002; Lin, 2004).
    """
    with extra("evaluate", "ROUGE"):
        from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE, use_stemmer=True)
    scores = [scorer.score(true, predicted) for true, predicted in zip(references, predictions, strict=True)]
    rouge = [mean(name, [score[name].fmeasure for score in scores]) for name in ROUGE]
    return [*rouge, bleu(references, predictions)]


def bleu(references: Sequence[str], predictions: Sequence[str]) -> Metric:
    """Compute corpus BLEU from each row's lengths and counts of shared and of all n-grams."""
    with extra("evaluate", "BLEU"):
        from sacrebleu.metrics.bleu import BLEU

    def of_totals(totals: np.ndarray) -> np.ndarray:
        rows = np.rint(totals).astype(int).tolist()
        scores = [BLEU.compute_bleu(row[2:6], row[6:], *row[:2], smooth_method="exp").score for row in rows]
        return np.array(scores) / 100

    pairs = zip(references, predictions, strict=True)
    scores = [BLEU().corpus_score([predicted], [[true]]) for true, predicted in pairs]
    rows = [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores]
    return Metric("bleu", np.array(rows, float).reshape(-1, 10), of_totals)
