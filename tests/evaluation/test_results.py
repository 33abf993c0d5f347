"""Results are written as strict JSON, and verdicts follow from the intervals."""

import json

import numpy as np
import pytest

from foliogpt.evaluation.bootstrap import mean
from foliogpt.evaluation.results import Evaluation, summarize, verdicts, write_json


def test_write_json_writes_null_for_nan_and_infinity(tmp_path):
    numbers = [float("nan"), np.float32("-inf"), np.int64(3), np.bool_(True), (1.5, None)]
    write_json(tmp_path / "new" / "x.json", {"numbers": numbers, 2: "é"})
    text = (tmp_path / "new" / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"numbers": [None, None, 3, True, [1.5, None]], "2": "é"}
    assert "é" in text


@pytest.mark.parametrize(
    ("higher_is_better", "shift", "says"),
    [
        (True, 1, "this model is better than before"),
        (False, 1, "this model is worse than before"),
        (False, -1, "this model is better than before"),
        (True, 0, "is not significant"),
    ],
)
def test_verdicts_follow_the_paired_interval_and_the_direction_of_the_metric(higher_is_better, shift, says):
    values = np.random.default_rng(0).normal(size=40)
    before, after = (mean("score", rows, higher_is_better) for rows in (values, values + shift))
    entries = summarize(Evaluation("lm", [after], 40), Evaluation("lm", [before], 40))
    (verdict,) = verdicts(after, entries["score"])
    assert says in verdict


def test_verdicts_are_empty_for_a_metric_without_a_better_direction():
    metric = mean("tokens", np.arange(9), higher_is_better=None)
    both = Evaluation("samples", [metric], 9, baselines={"the texts": [metric]})
    assert verdicts(metric, summarize(both)["tokens"]) == []
