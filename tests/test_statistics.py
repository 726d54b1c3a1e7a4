"""Confidence intervals against scipy, and where there are too few values for one."""

import math

import numpy as np
import pytest
import scipy.stats

from aetool.measures.statistics import (
    Interval,
    Stat,
    accuracy_error,
    difference,
    holm,
    least_clear,
    paired_accuracy_interval,
    paired_t_interval,
    welch_interval,
    wilson_interval,
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
    p = scipy.stats.ttest_rel(FIRST, SECOND).pvalue
    assert found == pytest.approx((np.mean(FIRST) - np.mean(SECOND), expected.low, expected.high, p))


def test_unpaired_values_are_welchs():
    found = welch_interval(FIRST, SECOND[:2])
    expected = scipy.stats.ttest_ind(FIRST, SECOND[:2], equal_var=False).confidence_interval(0.95)
    p = scipy.stats.ttest_ind(FIRST, SECOND[:2], equal_var=False).pvalue
    assert found == pytest.approx((np.mean(FIRST) - np.mean(SECOND[:2]), expected.low, expected.high, p))


def test_the_seeds_decide_which_one_it_is():
    first, second = dict(enumerate(FIRST)), dict(enumerate(SECOND))
    shuffled = {key: second[key] for key in (2, 0, 3, 1)}
    assert difference(first, shuffled) == paired_t_interval([first[key] - second[key] for key in first])
    others = {key + 1: value for key, value in second.items()}
    assert difference(first, others) == welch_interval(FIRST, SECOND)


def test_too_few_values_leave_it_open():
    for found in (paired_t_interval([0.1]), paired_t_interval([0.1, 0.1]), welch_interval([0.9], [0.8, 0.7])):
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert found.low < 0 < found.high


@pytest.mark.parametrize("found", [paired_t_interval([0.1 + 0.2, 0.3, 0.3]), welch_interval([0.9] * 2, [0.8] * 3)])
def test_values_without_a_spread_are_no_certainty(found):
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1)
    assert found.low < 0 < found.high
    assert not found.is_known


class TestPairedAccuracy:
    """Against the intervals that Bonett & Price's method gives in the literature, and as the sample grows."""

    @staticmethod
    def found(both: int, first: int, second: int, neither: int) -> Interval:
        one = [True] * (both + first) + [False] * (second + neither)
        other = [True] * both + [False] * first + [True] * second + [False] * neither
        return paired_accuracy_interval(one, other)

    def test_the_airway_example_of_fagerland_2014(self):
        found = self.found(1, 1, 7, 12)
        assert found.mean == pytest.approx(-6 / 21)
        assert (found.low, found.high) == pytest.approx((-0.508, -0.013), abs=5e-4)

    def test_the_example_of_statpsych(self):
        """ci.prop.ps(.05, 12, 4, 26, 6) of the R package by Bonett."""
        found = self.found(12, 26, 4, 6)
        assert (found.low, found.high) == pytest.approx((0.2548067, 0.6251933), abs=1e-6)

    def test_many_images_have_the_normal_interval(self):
        generator = np.random.default_rng(0)
        first, second = generator.random(100_000) < 0.9, generator.random(100_000) < 0.8
        gaps = first.astype(float) - second
        expected = scipy.stats.norm.interval(0.95, gaps.mean(), scipy.stats.sem(gaps))
        found = paired_accuracy_interval(first.tolist(), second.tolist())
        assert found[:3] == pytest.approx((gaps.mean(), *expected), abs=1e-5)

    def test_it_covers_small_differences_as_often_as_it_says(self):
        """With 360 images, of which the classifiers disagree on 2 % only."""
        generator = np.random.default_rng(0)
        counts = generator.multinomial(360, [0.015, 0.005, 0.98], size=1000)
        covered = [
            (found := self.found(neither, first, second, 0)).low <= 0.01 <= found.high
            for first, second, neither in counts.tolist()
        ]
        assert 0.94 < np.mean(covered) < 0.99

    @pytest.mark.parametrize(("first", "significant"), [(4, False), (5, False), (6, True)])
    def test_a_few_images_are_judged_as_by_the_exact_test(self, first, significant):
        """McNemar's: a fair coin that shows the same side `first` times."""
        found = self.found(350, first, 0, 10 - first)
        exact = scipy.stats.binomtest(first, first).pvalue
        assert [not found.low <= 0 <= found.high, found.p < 0.05, exact < 0.05] == [significant] * 3

    def test_the_same_answers_are_no_certainty(self):
        found = paired_accuracy_interval([True, False], [True, False])
        assert found.mean == 0
        assert found.low < 0 < found.high
        assert found.p == 1

    def test_the_mean_over_seeds_is_judged_as_one_classifier_where_seeds_agree(self):
        right = [[True, True, False, True], [True, False, False, True]]
        means = [[float(one) for one in side] for side in right]
        assert paired_accuracy_interval(*means) == paired_accuracy_interval(*right)

    def test_other_images_are_an_error(self):
        with pytest.raises(ValueError, match="shorter"):
            paired_accuracy_interval([True, False], [True])
        with pytest.raises(ValueError, match="no images"):
            paired_accuracy_interval([], [])


class TestAccuracy:
    @pytest.mark.parametrize(("correct", "n"), [(0, 10), (7, 10), (10, 10), (355, 360), (9806, 10000)])
    def test_wilsons_interval_is_scipys(self, correct, n):
        expected = scipy.stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(correct / n, n) == pytest.approx((expected.low, expected.high))

    def test_wilsons_interval_by_hand(self):
        """Newcombe 1998 (Stat. Med. 17:857), table I: 81 of 263."""
        assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)

    def test_the_standard_error_is_that_of_the_mean_of_the_answers(self):
        answers = np.repeat([1.0, 0.0], [90, 10])
        assert accuracy_error(0.9, 100) == pytest.approx(answers.std() / 10)


class TestSeveralComparisons:
    def test_holm_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_no_p_value_exceeds_one(self):
        assert holm([0.9, 0.6]) == [1, 1]
        assert holm([]) == []

    def test_a_difference_has_to_exceed_every_known_variation(self):
        unknown = Interval(0.1, -math.inf, math.inf, 1.0)
        clear, unclear = Interval(0.1, 0.05, 0.15, 0.01), Interval(0.1, -0.01, 0.21, 0.2)
        assert least_clear(clear, unclear) == unclear
        assert least_clear(unknown, clear) == least_clear(clear, None) == clear
        assert least_clear(unknown, None) is None
