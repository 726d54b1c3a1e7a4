"""Means over seeds, confidence intervals and tests for accuracies and their differences; no torch.

The quantiles are scipy's, imported when first needed: tables without a difference do without.
"""

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

CONFIDENCE = 0.95  # level of every interval

Key = TypeVar("Key", bound=Hashable)


class Stat(NamedTuple):
    """Mean and sample standard deviation (n - 1) of n values; the deviation of a single value is 0."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Stat":
        """Raises ValueError if there are no values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


class Interval(NamedTuple):
    """A mean difference, its confidence interval, and the p-value of no difference, two-sided.

    If the values give no information about their spread, the interval is infinite and p is 1.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.low)


def means(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """The mean of the values of each key."""
    found: dict[Key, list[float]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}


def difference(first: Mapping[Key, float], second: Mapping[Key, float]) -> Interval:
    """Mean of `first` minus mean of `second`, values by seed: paired if the seeds are the same, else Welch's interval.

    Raises ValueError if one of them is empty.
    """
    if first.keys() == second.keys():
        return paired_t_interval([first[key] - second[key] for key in first])
    return welch_interval(list(first.values()), list(second.values()))


def paired_t_interval(differences: Sequence[float]) -> Interval:
    """Student's t-interval of the mean of paired differences.

    Unknown for one difference, and for equal ones: accuracies are counts of images and can agree by chance.
    """
    mean, n = statistics.fmean(differences), len(differences)
    if all(math.isclose(value, differences[0], abs_tol=1e-12) for value in differences):
        return _unknown(mean)
    return _t_interval(mean, statistics.stdev(differences) / math.sqrt(n), n - 1)


def welch_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Welch's t-interval for the difference of two means (Welch 1947).

    Unknown if one side has a single value, or neither side varies.
    """
    mean = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return _unknown(mean)
    a, b = (statistics.variance(values) / len(values) for values in (first, second))
    if a + b == 0:
        return _unknown(mean)
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    return _t_interval(mean, math.sqrt(a + b), freedom)


def paired_accuracy_interval(first: Iterable[float], second: Iterable[float]) -> Interval:
    """Accuracy of one classifier minus that of another on the same images, each in [0, 1]: whether an image is
    classified correctly, or how often, over seeds or label draws.

    The normal interval of the paired differences after adding one image that only the first gets right and one that
    only the second does, so that it holds for small differences too (Bonett & Price 2012; recommended by Fagerland,
    Lydersen & Laake 2014). Raises ValueError if the lengths differ or there are no images.
    """
    from scipy.special import ndtr, ndtri

    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    if not differences:
        raise ValueError("no images")
    total, n = math.fsum(differences), len(differences) + 2
    centre = total / n
    error = math.sqrt(((math.fsum(d * d for d in differences) + 2) / n - centre**2) / n)
    half = float(ndtri(0.5 + CONFIDENCE / 2)) * error
    p = 2 * float(ndtr(-abs(centre) / error))
    return Interval(total / len(differences), max(centre - half, -1.0), min(centre + half, 1.0), p)


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """The bounds of an accuracy measured on n images (Wilson 1927)."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + CONFIDENCE / 2))
    centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def accuracy_error(accuracy: float, n: int) -> float:
    """Standard error of the accuracy on n images."""
    return math.sqrt(accuracy * (1 - accuracy) / n)


def least_clear(*intervals: Interval | None) -> Interval | None:
    """The known interval with the largest p-value, for a difference that has to exceed every source of variation.

    None if none is known.
    """
    known = (one for one in intervals if one is not None and one.is_known)
    return max(known, key=lambda one: one.p, default=None)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted to control the family-wise error rate (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _t_interval(mean: float, error: float, freedom: float) -> Interval:
    from scipy.special import stdtr, stdtrit

    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return Interval(mean, mean - half, mean + half, 2 * float(stdtr(freedom, -abs(mean) / error)))


def _unknown(mean: float) -> Interval:
    return Interval(mean, -math.inf, math.inf, 1.0)
