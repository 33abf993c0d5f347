"""Figures of labels are scikit-learn's, of entities seqeval's."""

import random

import numpy as np
import pytest

from foliogpt.evaluation.bootstrap import interval
from foliogpt.evaluation.classification import confusion_matrix, entity_metrics, label_metrics

sklearn = pytest.importorskip("sklearn.metrics")
seqeval = pytest.importorskip("seqeval.metrics")


def values(metrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_f1_are_those_of_scikit_learn(seed):
    draw = random.Random(seed)
    true, predicted = ([draw.choice("aabcd") for _ in range(50)] for _ in range(2))
    found = values(label_metrics([{one} for one in true], [{one} for one in predicted]))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    for average in ("macro", "micro"):
        assert found[f"f1_{average}"] == pytest.approx(sklearn.f1_score(true, predicted, average=average))
    matrix = confusion_matrix(true, predicted)
    assert matrix["counts"] == sklearn.confusion_matrix(true, predicted, labels=matrix["labels"]).tolist()


def test_several_labels_a_row_are_counted_as_scikit_learn_does():
    true, predicted = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]]), np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]])
    names = [[{"abc"[i] for i in np.flatnonzero(row)} for row in rows] for rows in (true, predicted)]
    found = values(label_metrics(*names))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    for average in ("macro", "micro"):
        assert found[f"f1_{average}"] == pytest.approx(sklearn.f1_score(true, predicted, average=average))


def test_one_class_alone_has_figures():
    assert values(label_metrics([{"a"}] * 3, [{"a"}] * 3)) == {"accuracy": 1, "f1_macro": 1, "f1_micro": 1}
    assert values(label_metrics([{"a"}] * 3, [{"b"}] * 3)) == {"accuracy": 0, "f1_macro": 0, "f1_micro": 0}


def test_a_class_that_a_resampled_data_set_lacks_does_not_count_as_wrong():
    rows = [{"rare"}, *[{"common"}] * 30]
    f1 = label_metrics(rows, rows)[1]
    assert interval(f1) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_entities_are_counted_as_seqeval_does(seed):
    draw = random.Random(seed)
    true, predicted = (
        [[draw.choice(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]) for _ in range(12)] for _ in range(20)]
        for _ in range(2)
    )
    found = values(entity_metrics(true, predicted))
    assert found["entity_f1"] == pytest.approx(seqeval.f1_score(true, predicted))
    assert found["entity_precision"] == pytest.approx(seqeval.precision_score(true, predicted))
    assert found["entity_recall"] == pytest.approx(seqeval.recall_score(true, predicted))
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(true, predicted))


def test_text_without_entities_has_figures():
    found = values(entity_metrics([["O", "O"], []], [["O", "O"], []]))
    assert found == {"entity_f1": 0, "entity_precision": 0, "entity_recall": 0, "accuracy": 1}
