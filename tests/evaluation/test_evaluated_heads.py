"""Metrics of labels are scikit-learn's, those of entities seqeval's."""

import random

import pytest

from foliogpt.evaluation.bootstrap import interval
from foliogpt.evaluation.heads import confusion_matrix, entity_metrics, label_metrics

sklearn = pytest.importorskip("sklearn.metrics")
seqeval = pytest.importorskip("seqeval.metrics")


def values(metrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


@pytest.mark.parametrize("seed", range(5))
def test_label_metrics_are_those_of_scikit_learn(seed):
    draw = random.Random(seed)
    true, predicted = ([draw.choice("aabcd") for _ in range(50)] for _ in range(2))
    found = values(label_metrics(true, predicted))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    assert found["f1_macro"] == pytest.approx(sklearn.f1_score(true, predicted, average="macro"))
    matrix = confusion_matrix(true, predicted)
    assert matrix["counts"] == sklearn.confusion_matrix(true, predicted, labels=matrix["labels"]).tolist()


def test_label_metrics_of_a_single_class():
    assert values(label_metrics(["a"] * 3, ["a"] * 3)) == {"accuracy": 1, "f1_macro": 1}
    assert values(label_metrics(["a"] * 3, ["b"] * 3)) == {"accuracy": 0, "f1_macro": 0}


def test_macro_f1_leaves_out_a_class_that_a_resampled_dataset_lacks():
    rows = ["rare", *["common"] * 30]
    f1 = label_metrics(rows, rows)[1]
    assert interval(f1) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_entity_metrics_are_those_of_seqeval(seed):
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


def test_entity_metrics_of_text_without_entities():
    found = values(entity_metrics([["O", "O"], []], [["O", "O"], []]))
    assert found == {"entity_f1": 0, "entity_precision": 0, "entity_recall": 0, "accuracy": 1}
