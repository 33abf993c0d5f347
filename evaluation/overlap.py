"""ROUGE and BLEU: how many words and phrases a text shares with the one it should be."""

from collections.abc import Sequence

import numpy as np

from ..jobs.extras import extra
from .bootstrap import Metric, mean

ROUGE = ("rouge1", "rouge2", "rougeL")


def overlap_metrics(references: Sequence[str], predictions: Sequence[str]) -> list[Metric]:
    """ROUGE-1, -2 and -L (F-measure, with stemming, as Google's rouge-score) and BLEU (sacrebleu), all from 0 to 1.

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
    """Corpus BLEU, of which every row adds its lengths and its counts of shared and of all n-grams."""
    with extra("evaluate", "BLEU"):
        from sacrebleu.metrics.bleu import BLEU

    def of_totals(totals: np.ndarray) -> np.ndarray:
        rows = np.rint(totals).astype(int).tolist()
        bleus = [BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], smooth_method="exp") for row in rows]
        return np.array([bleu.score for bleu in bleus]) / 100

    pairs = zip(references, predictions, strict=True)
    scores = [BLEU().corpus_score([predicted], [[true]]) for true, predicted in pairs]
    rows = [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores]
    return Metric("bleu", np.array(rows, float).reshape(-1, 10), of_totals)
