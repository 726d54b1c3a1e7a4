"""Confidence intervals against scipy, and where there are too few values for one."""

import math

import numpy as np
import pytest
import scipy.stats

from aetool.measures.statistics import (
    Interval,
    Stat,
    difference,
    paired_accuracy_interval,
    paired_t_interval,
    welch_interval,
)

FIRST, SECOND = [0.9, 0.95, 0.91, 0.97], [0.88, 0.94, 0.90, 0.93]


def test_mean_and_sample_deviation():
    assert Stat.of(FIRST) == pytest.approx((np.mean(FIRST), np.std(FIRST, ddof=1), 4))
    assert Stat.of([0.5]) == Stat(0.5, 0.0, 1)
    with pytest.raises(ValueError, match="at least one"):
        Stat.of([])


def test_paired_values_are_students():
    found = paired_t_interval([a - b for a, b in zip(FIRST, SECOND, strict=True)])
    expected = scipy.stats.ttest_rel(FIRST, SECOND).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(FIRST) - np.mean(SECOND), expected.low, expected.high))


def test_unpaired_values_are_welchs():
    found = welch_interval(FIRST, SECOND[:2])
    expected = scipy.stats.ttest_ind(FIRST, SECOND[:2], equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(FIRST) - np.mean(SECOND[:2]), expected.low, expected.high))


def test_the_seeds_decide_which_one_it_is():
    first, second = dict(enumerate(FIRST)), dict(enumerate(SECOND))
    shuffled = {key: second[key] for key in (2, 0, 3, 1)}
    assert difference(first, shuffled) == paired_t_interval([first[key] - second[key] for key in first])
    others = {key + 1: value for key, value in second.items()}
    assert difference(first, others) == welch_interval(FIRST, SECOND)


def test_too_few_values_leave_it_open():
    for found in (paired_t_interval([0.1]), paired_t_interval([0.1, 0.1]), welch_interval([0.9], [0.8, 0.7])):
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert not found.excludes_zero
    assert paired_t_interval([0.1] * 3).excludes_zero


def test_values_without_a_spread_are_certain():
    assert welch_interval([0.9, 0.9], [0.8, 0.8, 0.8]) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_an_interval_without_zero_is_a_difference(low, high, expected):
    assert Interval((low + high) / 2, low, high).excludes_zero is expected


class TestPairedAccuracy:
    def test_it_is_the_normal_interval_of_the_differences(self):
        generator = np.random.default_rng(0)
        first, second = generator.random(300) < 0.9, generator.random(300) < 0.8
        gaps = first.astype(float) - second
        expected = scipy.stats.norm.interval(0.95, gaps.mean(), scipy.stats.sem(gaps))
        found = paired_accuracy_interval(first.tolist(), second.tolist())
        assert found == pytest.approx((gaps.mean(), *expected), abs=1e-5)  # 1.96 for 1.95996…

    def test_the_same_answers_differ_by_nothing(self):
        assert paired_accuracy_interval([True, False], [True, False]) == (0, 0, 0)

    def test_one_image_leaves_it_open(self):
        assert paired_accuracy_interval([True], [False]) == (1, -math.inf, math.inf)

    def test_other_images_are_an_error(self):
        with pytest.raises(ValueError, match="shorter"):
            paired_accuracy_interval([True, False], [True])
        with pytest.raises(ValueError, match="no images"):
            paired_accuracy_interval([], [])
