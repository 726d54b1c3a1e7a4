"""Means over seeds, and confidence intervals of differences; no torch."""

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

CONFIDENCE = 0.95  # level of every interval
NORMAL = 1.96  # standard errors on either side of a mean that hold this level in a normal distribution

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
    """A mean and its confidence interval; infinite where there are too few values to estimate one."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def difference(first: Mapping[Key, float], second: Mapping[Key, float]) -> Interval:
    """Mean of `first` minus mean of `second`, values by seed: paired if the seeds are the same, else Welch's interval.

    Raises ValueError if one of them is empty.
    """
    if first.keys() == second.keys():
        return paired_t_interval([first[key] - second[key] for key in first])
    return welch_interval(list(first.values()), list(second.values()))


def paired_t_interval(differences: Sequence[float]) -> Interval:
    """Student's t-interval of the mean of paired differences; infinite for one difference or two equal ones."""
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2 or (n == 2 and math.isclose(*differences)):  # accuracies are counts of images and can agree by chance
        return Interval(mean, -math.inf, math.inf)
    return _t_interval(mean, statistics.stdev(differences) / math.sqrt(n), n - 1)


def welch_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Welch's t-interval of the difference of two means (Welch 1947); infinite where one side has a single value."""
    mean = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Interval(mean, -math.inf, math.inf)
    a, b = (statistics.variance(values) / len(values) for values in (first, second))
    if a + b == 0:
        return Interval(mean, mean, mean)
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    return _t_interval(mean, math.sqrt(a + b), freedom)


def paired_accuracy_interval(first: Iterable[bool], second: Iterable[bool]) -> Interval:
    """Accuracy of one classifier minus that of another, from which of the same images each classifies correctly.

    A normal interval, infinite for a single image. Raises ValueError if the lengths differ or there are no images.
    """
    differences = [int(a) - int(b) for a, b in zip(first, second, strict=True)]
    n, total = len(differences), sum(differences)
    if n == 0:
        raise ValueError("no images")
    mean = total / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    variance = (sum(map(abs, differences)) - total * mean) / (n - 1)
    half = NORMAL * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half)


def _t_interval(mean: float, error: float, freedom: float) -> Interval:
    from scipy.special import stdtrit  # takes a quarter of a second to import; tables without a difference do without

    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return Interval(mean, mean - half, mean + half)
