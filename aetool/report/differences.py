"""Whether the best group differs from its baselines and from other groups, in sentences.

The group is chosen by validation metrics; differences are in its test metric. A difference is significant if it exceeds
the variation over seeds, over label draws (Student's t) and over test images (paired), where available; multiple
comparisons are corrected by Holm's method.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from aetool.evaluation.catalogue import (
    COMPARED,
    PROBE,
    TEST_ACCURACY,
    TUNED_ACCURACY,
    Metric,
    baseline_key,
)
from aetool.evaluation.headline import subject_of
from aetool.evaluation.measurement import read_results
from aetool.measures.statistics import (
    CONFIDENCE,
    Interval,
    difference,
    holm,
    least_clear,
    paired_accuracy_interval,
)
from aetool.report.findings import is_accuracy, ranked, title
from aetool.report.groups import Group, Row, Seed, directory, replicate
from aetool.storage.folder import RunFolder

ONE_SEED = "only one seed per setting: differences cannot be assessed; add seed=0,1,2"
RIVALS = 4  # groups that the best one is compared with
NAMES = {"untrained": "the untrained encoder", "pca": "PCA"}


@dataclass(frozen=True)
class Side:
    """A metric of the runs of a group, or of one of their baselines."""

    name: str
    group: Group
    key: str

    @cached_property
    def by_seed(self) -> dict[Seed, float]:
        """Means over label draws."""
        return self.group.by_seed(self.key)

    @cached_property
    def by_draw(self) -> dict[int | None, float]:
        """Means over seeds; empty if no seed has several label draws."""
        return self.group.by_draw(self.key)

    @property
    def is_single(self) -> bool:
        """Whether it is a single run, whose spread is unknown."""
        return len(self.by_seed) < 2 and not self.by_draw

    @cached_property
    def correct(self) -> list[float] | None:
        """How often each test image is classified correctly over the runs; None if that was not stored."""
        runs = [None if one is None else one.frequencies for one in self._kept]
        if not runs or None in runs or len({len(run) for run in runs if run}) > 1:
            return None
        return [statistics.fmean(image) for image in zip(*(run for run in runs if run), strict=True)]

    @cached_property
    def unreadable(self) -> list[str]:
        """Missing or damaged files of correctly classified test images."""
        return [one.state for one in self._kept if one is not None and one.frequencies is None]

    @cached_property
    def _kept(self) -> "list[_Kept | None]":
        rows = {replicate(row): row for row in self.group.rows if self.key in row}
        return [_kept(row, self.key) for row in rows.values()]


class Difference(NamedTuple):
    """First minus second, positive if the first is better."""

    first: Side
    second: Side
    over_seeds: Interval
    over_draws: Interval | None
    over_images: Interval | None
    unreadable: Sequence[str] = ()  # files without which there is no interval over test images

    @property
    def p(self) -> float | None:
        found = least_clear(self.over_seeds, self.over_draws, self.over_images)
        return found.p if found else None


def from_baselines(groups: Sequence[Group]) -> list[str]:
    """Whether the best group by validation has a higher test accuracy than its baselines."""
    found = ranked(groups)
    if found is None or found[2] is not TEST_ACCURACY:
        return []
    (best, *_), _, test = found
    own = Side(title(best, groups), best, test.key)
    others = [Side(NAMES.get(name, name), best, baseline_key(test.key, name)) for name in COMPARED]
    differences = [_difference(own, other, test) for other in others if other.by_seed]
    return _sentences([one for one in differences if one.p is not None or one.unreadable], test)


def between_groups(groups: Sequence[Group]) -> list[str]:
    """Whether the best group by validation is better on test than the runners-up."""
    found = ranked(groups)
    if found is None or len(found[0]) < 2:
        return []
    order, _, test = found
    best, *others = (Side(title(group, order), group, test.key) for group in order)
    if all(side.is_single for side in (best, *others)):
        return [ONE_SEED]
    if best.is_single:
        return [f"{best.name} has only one seed: its differences cannot be assessed"]
    return _sentences([_difference(best, other, test) for other in others[:RIVALS]], test)


def _difference(first: Side, second: Side, metric: Metric) -> Difference:
    one, other = (first, second) if metric.direction == "higher" else (second, first)
    over_seeds = difference(one.by_seed, other.by_seed)
    over_draws = difference(one.by_draw, other.by_draw) if one.by_draw and other.by_draw else None
    single = first.group is not second.group and min(len(first.by_seed), len(second.by_seed)) < 2
    if single:
        return Difference(first, second, over_seeds, over_draws, None)
    over_images = None
    if one.correct and other.correct and len(one.correct) == len(other.correct):
        over_images = paired_accuracy_interval(one.correct, other.correct)
    return Difference(first, second, over_seeds, over_draws, over_images, first.unreadable or second.unreadable)


def _sentences(found: Sequence[Difference], metric: Metric) -> list[str]:
    assessed = [p for one in found if (p := one.p) is not None]
    adjusted = iter(holm(assessed))
    return [_sentence(one, metric, None if one.p is None else next(adjusted), len(assessed)) for one in found]


def _sentence(found: Difference, metric: Metric, p: float | None, comparisons: int) -> str:
    first, second = found.first, found.second
    if p is None:
        few = (
            "only one seed" if min(len(first.by_seed), len(second.by_seed)) < 2 else "the same difference on every seed"
        )
        return f"{first.name} and {second.name}: {few}, the difference cannot be assessed{_unknown(found)}"
    form = f"z{metric.format.lstrip('+')}"  # z: no -0.0000
    corrected = f" by Holm over {comparisons} comparisons" if comparisons > 1 else ""
    basis = f"{_basis(found, form)}; p = {p:.2g}{corrected})"
    name, mean = "test accuracy" if is_accuracy(metric) else f"test {metric.label}", found.over_seeds.mean
    if p > 1 - CONFIDENCE:
        return f"no significant difference between {first.name} and {second.name} in {name}: {mean:{form}} {basis}"
    how = "better" if mean > 0 else "worse"
    return f"{first.name} is {how} than {second.name} in {name} by {abs(mean):{form}} {basis}"


def _basis(found: Difference, form: str) -> str:
    """The intervals, in brackets that are left open."""
    one, other = found.first.by_seed, found.second.by_seed
    seeds = f"{len(one)} seeds, paired" if one.keys() == other.keys() else f"{len(one)} and {len(other)} seeds"
    over = {
        seeds: found.over_seeds,
        f"over {len(found.first.by_draw)} label draws": found.over_draws,
        "over test images": found.over_images,
    }
    (basis, interval), *rest = ((name, gap) for name, gap in over.items() if gap and gap.is_known)
    unknown = "" if basis == seeds else ", one seed" if len(one) < 2 else ", the same difference on every seed"
    beside = "".join(f"; {name} {_bounds(gap, form)}" for name, gap in rest)
    return f"{_bounds(interval, form)} ({CONFIDENCE * 100:.0f} %, {basis}{unknown}{beside}{_unknown(found)}"


def _unknown(found: Difference) -> str:
    return f"; over test images unknown: {found.unreadable[0]}" if found.unreadable else ""


def _bounds(interval: Interval, form: str) -> str:
    return f"[{format(interval.low, form)}, {format(interval.high, form)}]"


@dataclass(frozen=True)
class _Kept:
    """The file in which a measurement stores which test images are classified correctly."""

    path: Path
    subject: str
    files: Mapping[str, str]  # the SHA-256 of files in its folder by name

    @cached_property
    def frequencies(self) -> list[float] | None:
        """How often each test image is classified correctly; None if the file is missing or damaged."""
        from aetool.evaluation.correctness import frequencies, read_correct  # numpy takes a tenth of a second

        found = read_correct(self.path, self.files).get(self.subject)
        return None if found is None else frequencies(found)

    @property
    def state(self) -> str:
        return f"{self.path} is {'damaged' if self.path.exists() else 'missing'}"


def _kept(row: Row, key: str) -> _Kept | None:
    """That file for the measurement behind an accuracy in a row; None if not found."""
    stage, _, name = key.partition("/")
    subject = name.removesuffix(f"/{TEST_ACCURACY.name}")
    if key == TUNED_ACCURACY.key:
        return _Kept(directory(row) / "correct.npz", stage, RunFolder(directory(row)).stored_metrics.files)
    if stage == PROBE:
        stage, subject = f"probe-{row.get('probe')}", subject_of(name, str(row.get("probe.tap")))
    for folder in sorted(directory(row).glob("probe-*")):
        found = read_results(folder)
        if found.values and all(row.get(f"{stage}/{metric}") == value for metric, value in found.values.items()):
            return _Kept(folder / "correct.npz", subject, found.files)
    return None
