"""Metrics of predicted labels and of entities in tagged words, and a baseline classifier."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..jobs.extras import extra
from .bootstrap import Metric, divide, mean, ratio


def label_metrics(references: Sequence[str], predictions: Sequence[str]) -> list[Metric]:
    """Compute accuracy and macro F1 of one label per row.

    Macro F1 is the mean over labels, rare ones alike. As in scikit-learn, labels are those in either list, and F1 is 0
    if nothing is right.
    """
    labels = sorted({*references, *predictions})
    true, predicted = (
        np.array([[row == label for label in labels] for row in rows], float) for rows in (references, predictions)
    )
    rows = np.hstack([true * predicted, predicted, true])  # (N, 3 * labels)
    return [mean("accuracy", (true == predicted).all(1)), Metric("f1_macro", rows, _macro_f1)]


def _macro_f1(totals: np.ndarray) -> np.ndarray:
    """Compute F1 from the counts of right, predicted and true labels, (R, 3 * labels), over labels that occur."""
    right, predicted, true = np.split(totals, 3, axis=1)
    count = predicted + true
    return divide(divide(2 * right, count).sum(1), (count > 0).sum(1))


def confusion_matrix(references: Sequence[str], predictions: Sequence[str]) -> dict:
    """Count how often each label (a row) was taken for each (a column), both in the order of `labels`."""
    labels = sorted({*references, *predictions})
    counts = Counter(zip(references, predictions, strict=True))
    return {"labels": labels, "counts": [[counts[true, predicted] for predicted in labels] for true in labels]}


def entity_metrics(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> list[Metric]:
    """Compute F1, precision and recall of entities, and the accuracy of tags, for tags such as B-PER, I-PER, O.

    An entity is right if its first word, last word and type are (CoNLL-2000; seqeval's default reading of the tags).
    """
    with extra("evaluate", "F1 of entities"):
        from seqeval.metrics.sequence_labeling import get_entities

    counts = []  # right, predicted and true entities, right tags and tags of a row
    for true, predicted in zip(references, predictions, strict=True):
        entities, found = set(get_entities(list(true))), set(get_entities(list(predicted)))
        same = sum(a == b for a, b in zip(true, predicted, strict=True))
        counts.append((len(entities & found), len(found), len(entities), same, len(true)))
    right, found, true, same, tags = np.array(counts, float).T
    return [
        ratio("entity_f1", 2 * right, found + true),
        ratio("entity_precision", right, found),
        ratio("entity_recall", right, true),
        ratio("accuracy", same, tags),
    ]


def tfidf_predictions(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], seed: int = 0
) -> list[str]:
    """Predict the labels of `texts` by TF-IDF with logistic regression; raises ImportError without scikit-learn.

    The settings are scikit-learn's defaults, but for pairs of words and a logarithm of counts. It takes seconds on a
    CPU and is hard to beat on little data (Wang and Manning, 2012).
    """
    with extra("evaluate", "The baseline"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(words, LogisticRegression(max_iter=1000, random_state=seed))
    return pipeline.fit(train_texts, train_labels).predict(texts).tolist()
