"""Intervals cover what they should, and pairing makes them narrower."""

import numpy as np
import pytest
from scipy import stats

from foliogpt.evaluation import bootstrap
from foliogpt.evaluation.bootstrap import Metric, interval, mean, paired_interval, ratio


def test_a_95_percent_interval_covers_the_truth_about_95_times_of_100(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        low, high = interval(mean("accuracy", generator.random(120) < 0.7), seed=trial)
        covered += low <= 0.7 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_a_paired_interval_covers_a_difference_and_is_narrower_than_two_intervals(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(1)
    covered, widths = 0, []
    for trial in range(400):
        difficulty, noise = generator.normal(3, 2, 100), generator.normal(0, 0.3, (2, 100))
        before, after = mean("loss", difficulty + noise[0]), mean("loss", difficulty - 0.2 + noise[1])
        low, high = paired_interval(before, after, seed=trial)
        covered += low <= -0.2 <= high
        widths.append((high - low) / np.diff(interval(after, seed=trial))[0])
    assert 0.92 <= covered / 400 <= 0.98
    assert np.mean(widths) < 0.5


def test_a_metric_that_is_no_mean_is_computed_from_the_sums_of_the_resampled_rows():
    generator = np.random.default_rng(2)
    nats, tokens = generator.random(40) * 100, generator.integers(1, 90, 40)
    metric = ratio("loss", nats, tokens, False)
    assert metric.value == pytest.approx(nats.sum() / tokens.sum())
    draws = np.random.default_rng(0).integers(0, 40, (2000, 40))
    tail = 100 * stats.norm.cdf(stats.t.ppf(0.025, 39) * np.sqrt(40 / 39))
    expected = np.percentile(nats[draws].sum(1) / tokens[draws].sum(1), [tail, 100 - tail])
    assert interval(metric) == pytest.approx(expected, rel=1e-3)


def test_resampling_in_pieces_is_resampling_at_once(monkeypatch):
    metric = mean("f1", np.random.default_rng(3).random(70))
    at_once = interval(metric)
    monkeypatch.setattr("foliogpt.evaluation.bootstrap.NUMBERS_AT_ONCE", 700)
    assert interval(metric) == at_once


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_intervals_are_none_when_there_are_too_few_rows(rows):
    """Five coins all show the same side once in 16 times: whatever is made of five signs errs more often than 5 %."""
    worse, better = mean("a", np.zeros(rows)), mean("a", np.ones(rows))
    assert interval(better) is None
    assert paired_interval(worse, better) is None


@pytest.mark.parametrize("rows", [6, 8, 15])
def test_few_rows_seldom_make_equal_models_differ(monkeypatch, rows):
    """A percentile interval of 2.5 % at each end does in 13 % of the cases with 6 rows."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    generator = np.random.default_rng(rows)
    told_apart = 0
    for trial in range(600):
        before, after = generator.normal(3, 1, rows) + generator.normal(0, 0.3, (2, rows))
        low, high = paired_interval(mean("loss", before), mean("loss", after), seed=trial)
        told_apart += not low <= 0 <= high
    assert told_apart / 600 < 0.08


def test_the_same_seed_gives_the_same_interval_and_equal_models_do_not_differ():
    metric = mean("accuracy", [1, 0, 1, 1, 0, 1, 1])
    assert interval(metric, seed=5) == interval(metric, seed=5)
    assert paired_interval(metric, metric) == (0, 0)


def test_paired_interval_rejects_metrics_of_other_rows():
    with pytest.raises(ValueError, match="2 rows before and 3 after"):
        paired_interval(mean("accuracy", [1, 0]), mean("accuracy", [1, 0, 1]))


def test_nothing_to_divide_by_is_zero():
    assert Metric("f", np.zeros((3, 2)), ratio("f", [0], [0]).of_totals).value == 0
