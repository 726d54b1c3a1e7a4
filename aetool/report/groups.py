"""Runs that differ in the seed alone, taken together, and what their spread allows to say."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CONFIDENCE = 0.95  # of the intervals
DATASET = ("dataset.name", "dataset.path")  # tell images from others
Row = Mapping[str, Any]  # run, directory, state, dotted config keys, and metrics as stage/metric


class Interval(NamedTuple):
    """A mean and its confidence interval; infinite where there are too few values for one."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference may be called one."""
        return self.low > 0 or self.high < 0


class Stat(NamedTuple):
    """A metric over `n` seeds: mean and sample standard deviation (n - 1), 0 for one value."""

    mean: float
    std: float
    n: int


class Group(NamedTuple):
    """Runs that differ in the seed alone."""

    values: dict[str, Any]  # the config keys that tell it from other groups
    rows: list[Row]

    def numbers(self, key: str) -> dict[Any, float]:
        """A metric by seed, of the completed runs that have it."""
        found = {}
        for row in self.rows:
            value = row.get(key)
            if row["state"] == "completed" and isinstance(value, int | float) and math.isfinite(value):
                found[seed(row)] = float(value)
        return found

    def stat(self, key: str) -> Stat | None:
        values = list(self.numbers(key).values())
        if not values:
            return None
        return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def typed(value: Any) -> str:
    """A config value as one types it: 0.003, 1e-5, 128, true, [32,64]."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, float) and math.isfinite(value):
        mantissa, e, exponent = f"{value:.6g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if e else mantissa
    return f"[{','.join(map(typed, value))}]" if isinstance(value, list) else str(value)


def seed(row: Row) -> Any:
    """What a run differs in from the others of its group: its seed, and that of its parent where it is another."""
    own, parent = row.get("seed"), row.get("parent.seed")
    return own if parent in (None, own) else (own, parent)


def grouped(rows: Sequence[Row], keys: Sequence[str]) -> list[Group]:
    """Rows with the same values of `keys`, the seed left out, in order of appearance."""
    found: dict[tuple[str, ...], Group] = {}
    for row in rows:
        values = {key: row.get(key) for key in keys if key != "seed"}
        found.setdefault(tuple(map(typed, values.values())), Group(values, [])).rows.append(row)
    return list(found.values())


def tuned(group: Group) -> bool:
    """Whether it is of fine-tunes, or of the same network from scratch."""
    return "start" in group.rows[0]


def scopes(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups whose numbers compare: of the same images, and autoencoders apart from fine-tunes; a single one has the
    name ``""``."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        images = " ".join(str(group.rows[0][key]) for key in DATASET if group.rows[0].get(key) is not None)
        found.setdefault(f"{images}, fine-tuned" if tuned(group) else images, []).append(group)
    return found if len(found) > 1 else {"": list(groups)}


def difference(first: Group, second: Group, key: str) -> Interval | None:
    """`first` minus `second`, with its confidence interval over seeds; None where one of them lacks the metric.

    Paired by seed where both have the same seeds (Student's t over the differences), else Welch's t-interval. Two
    equal differences leave it open: accuracies are counts of images, so that two agree by chance.
    """
    from scipy.special import stdtrit  # a quarter of a second, which tables without a difference spare

    one, other = first.numbers(key), second.numbers(key)
    if not one or not other:
        return None
    if one.keys() == other.keys():
        pairs = [one[seed] - other[seed] for seed in one]
        mean, n = statistics.fmean(pairs), len(pairs)
        few = n < 2 or (n == 2 and math.isclose(*pairs))
        error = math.inf if few else statistics.stdev(pairs) / math.sqrt(n)
        freedom = n - 1.0
    else:
        mean = statistics.fmean(one.values()) - statistics.fmean(other.values())
        if min(len(one), len(other)) < 2:
            return Interval(mean, -math.inf, math.inf)
        parts = [statistics.variance(values.values()) / len(values) for values in (one, other)]
        error = math.sqrt(sum(parts))
        spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
        freedom = sum(parts) ** 2 / spread if spread else 1.0
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error if math.isfinite(error) else math.inf
    return Interval(mean, mean - half, mean + half)
