"""Figures of predicted labels and of entities in tagged words, and a classifier that a model has to beat."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from ..jobs.extras import extra
from .bootstrap import Metric, divide, mean, ratio


def label_metrics(references: Sequence[set[str]], predictions: Sequence[set[str]]) -> list[Metric]:
    """Accuracy, macro F1 and micro F1 of the labels of rows: one each, or any number.

    A row is accurate if its set of labels is exactly right. Macro F1 is the mean over labels, rare ones alike; micro F1
    counts all rows together. As in scikit-learn, labels are those in either list, and F1 is 0 if nothing is right.
    """
    labels = sorted(set().union(*references, *predictions))
    true, predicted = _indicators(references, labels), _indicators(predictions, labels)
    rows = np.hstack([true * predicted, predicted, true])  # (N, 3 * labels)
    return [
        mean("accuracy", (true == predicted).all(1)),
        Metric("f1_macro", rows, partial(_f1, average="macro")),
        Metric("f1_micro", rows, partial(_f1, average="micro")),
    ]


def confusion_matrix(references: Sequence[str], predictions: Sequence[str]) -> dict:
    """How often each label (a row) was taken for each (a column); both in the order of `labels`."""
    labels = sorted(set(references) | set(predictions))
    counts = Counter(zip(references, predictions, strict=True))
    return {"labels": labels, "counts": [[counts[true, predicted] for predicted in labels] for true in labels]}


def entity_metrics(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> list[Metric]:
    """F1, precision and recall of entities, and the accuracy of tags, for tags such as B-PER, I-PER, O.

    An entity is right if its first word, last word and type are (CoNLL-2000; seqeval's default reading of the tags).
    """
    with extra("evaluate", "F1 of entities"):
        from seqeval.metrics.sequence_labeling import get_entities

    counts = []  # right, predicted, true entities of a row
    for true, predicted in zip(references, predictions, strict=True):
        entities, found = set(get_entities(list(true))), set(get_entities(list(predicted)))
        counts.append((len(entities & found), len(found), len(entities)))
    rows = np.array(counts, float).reshape(-1, 3)
    right = [sum(a == b for a, b in zip(*row, strict=True)) for row in zip(references, predictions, strict=True)]
    return [
        Metric("entity_f1", rows, partial(_f1, average="micro")),
        ratio("entity_precision", rows[:, 0], rows[:, 1]),
        ratio("entity_recall", rows[:, 0], rows[:, 2]),
        ratio("accuracy", right, [len(row) for row in references]),
    ]


def tfidf_predictions(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], seed: int = 0
) -> list[str]:
    """Labels that TF-IDF with logistic regression gives to `texts`; raises ImportError without scikit-learn.

    scikit-learn's defaults, but for pairs of words and a logarithm of counts; they take seconds on a CPU and are hard
    to beat on little data (Wang and Manning, 2012).
    """
    with extra("evaluate", "The baseline"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(words, LogisticRegression(max_iter=1000, random_state=seed))
    return pipeline.fit(train_texts, train_labels).predict(texts).tolist()


def _indicators(rows: Sequence[set[str]], labels: list[str]) -> np.ndarray:
    return np.array([[label in row for label in labels] for row in rows], float).reshape(len(rows), len(labels))


def _f1(totals: np.ndarray, average: str) -> np.ndarray:
    """F1 from the counts of right, predicted and true labels, (R, 3 * labels)."""
    right, predicted, true = np.split(totals, 3, axis=1)
    if average == "micro":
        return divide(2 * right.sum(1), (predicted + true).sum(1))
    occurs = (predicted + true) > 0
    return divide((divide(2 * right, predicted + true) * occurs).sum(1), occurs.sum(1))
