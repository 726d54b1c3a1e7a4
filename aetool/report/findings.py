"""What a comparison allows to say, in sentences.

Groups are chosen by validation metrics alone; what is reported of the chosen ones is their test metric.
"""

import math
from collections.abc import Sequence
from typing import Any

from aetool.evaluation.catalogue import CHOICES, CODE_SIZE, VAL_L0, Metric
from aetool.report.groups import CONFIDENCE, Group, Row, Stat, difference, seed, typed

TOLERANCE = 0.005  # of a single seed: 0.5 points of accuracy, 0.005 of the variance
DENSE = 0.99  # share of active units from which a code counts as dense
NAMES = ("model.name", "dataset.name")  # that stand for themselves
ONE_SEED = "one seed each: nothing can be said of differences; add seed=0,1,2"
RIVALS = 4  # groups that the best one is compared with


def title(group: Group, among: Sequence[Group]) -> str:
    """The name of a group, by as few keys as tell it from the others: sparse (penalty.weight=0.01)."""
    rivals, words = [other for other in among if other is not group], []
    for key, value in group.values.items():
        alike = [other for other in rivals if typed(other.values.get(key)) == typed(value)]
        if len(alike) < len(rivals):
            words.append(typed(value) if key in NAMES else f"{key}={typed(value)}")
            rivals = alike
    names = [word for word in words if "=" not in word]
    keys = ", ".join(word for word in words if "=" in word)
    return f"{' '.join(names)} ({keys})" if names and keys else " ".join(names) or keys or "the run"


def ranked(groups: Sequence[Group]) -> tuple[list[Group], Metric, Metric] | None:
    """The groups from best to worst, by which validation metric, and its test metric; None where none has one.

    Among equals the one with fewer active units comes first.
    """
    for val, test in CHOICES:
        having = [group for group in groups if group.stat(val.key) and group.stat(test.key)]
        if having:
            return sorted(having, key=lambda group: (_cost(group, val), _active(group))), val, test
    return None


def knee(groups: Sequence[Group]) -> str | None:
    """The smallest code that is about as good as the best one; None where there is nothing to choose.

    "About as good" is within one standard deviation of the best group over its seeds, on the validation split (as the
    rule of Breiman et al. 1984, which takes the standard error). Small is few active units, and where codes are dense,
    few numbers.
    """
    found = ranked(groups)
    if found is None or len(found[0]) < 2:
        return None
    order, val, test = found
    best, of = order[0], _stat(order[0], val)
    size, unit = (CODE_SIZE, "numbers in the code") if _dense(order) else (VAL_L0, "active units")
    sized = [group for group in order if group.stat(size.key)]
    if best not in sized:
        return None
    margin = of.std if of.n > 1 else TOLERANCE
    close = [group for group in sized if _cost(group, val) <= _cost(best, val) + margin]
    small = min(close, key=lambda group: (_stat(group, size).mean, _cost(group, val)))
    accuracy = "accuracy" in val.title
    width = "one std" if of.n > 1 else "0.5 points" if accuracy else f"{TOLERANCE}"
    what = f"the best validation {'accuracy' if accuracy else 'FVU'} ({spread(of, val.form)})"
    tested = f"test {spread(_stat(small, test), test.form)}" + (" (one seed)" if _stat(small, test).n == 1 else "")
    few, many = _stat(small, size).mean, _stat(best, size).mean
    if not few < many:
        varies = len({_stat(group, size).mean for group in sized}) > 1
        alone = f" with {_count(many)} {unit}; no smaller code is within {width}" if varies else ""
        return f"{title(best, order)} has {what}{alone}: {tested}"
    fewer = f"{f'{many / few:.1f}× fewer' if few > 0 else 'no'} {unit} ({_count(few)} instead of {_count(many)})"
    return f"{title(small, order)} is within {width} of {what}, {title(best, order)}, with {fewer}: {tested}"


def differences(groups: Sequence[Group]) -> list[str]:
    """Whether the best group by validation is better on test than the next ones, by intervals over seeds."""
    found = ranked(groups)
    if found is None or len(found[0]) < 2:
        return []
    order, _, test = found
    if all(_stat(group, test).n == 1 for group in order):
        return [ONE_SEED]
    best, *others = order
    if _stat(best, test).n == 1:
        return [f"{title(best, order)} has one seed: nothing can be said of how it differs from others"]
    return [_compared(best, other, (title(best, order), title(other, order)), test) for other in others[:RIVALS]]


def _compared(best: Group, other: Group, names: tuple[str, str], metric: Metric) -> str:
    first, second = names
    pair = (best, other) if metric.better == "higher" else (other, best)
    interval = difference(*pair, metric.key)
    seeds = [group.numbers(metric.key).keys() for group in (best, other)]
    if interval is None or not math.isfinite(interval.low):
        few = "one seed allows" if min(map(len, seeds)) < 2 else "two seeds with the same difference allow"
        return f"{first} against {second}: {few} no statement"
    form = f"z{metric.form.lstrip('+')}"  # z: no -0.0000
    bounds = f"[{format(interval.low, form)}, {format(interval.high, form)}]"
    paired = f"{len(seeds[0])} seeds, paired" if seeds[0] == seeds[1] else f"{len(seeds[0])} and {len(seeds[1])} seeds"
    basis = f"{bounds} ({CONFIDENCE * 100:.0f} %, {paired})"
    name = "test accuracy" if "accuracy" in metric.title else f"test {metric.label}"
    if not interval.excludes_zero:
        return f"no difference shown between {first} and {second} in {name}: {format(interval.mean, form)} {basis}"
    how = "better" if interval.low > 0 else "worse"
    return f"{first} is {how} than {second} in {name} by {format(abs(interval.mean), form)} {basis}"


def troubles(rows: Sequence[Row]) -> list[str]:
    """What is not in the comparison, and why."""
    found = []
    for row in rows:
        if row["state"] != "completed":
            why = f": {row['trouble']}" if row.get("trouble") else ""
            found.append(f"{row['run']}: {row['state']}{why}")
    return found


def repeated(groups: Sequence[Group]) -> list[str]:
    """Runs of a group that share a seed: only the last of them counts."""
    found = []
    for group in groups:
        seeds: dict[Any, list[Row]] = {}
        for row in group.rows:
            seeds.setdefault(seed(row), []).append(row)
        for same in seeds.values():
            if len(same) > 1:
                names = ", ".join(str(row["directory"]) for row in same[:-1])
                found.append(f"{names}: same config and seed as {same[-1]['directory']}, which counts")
    return found


def spread(stat: Stat, form: str) -> str:
    """`0.9712 ± 0.0009`; a single value has no spread."""
    mean = format(stat.mean, form)
    return f"{mean} ± {format(stat.std, form.lstrip('+'))}" if stat.n > 1 else mean


def _stat(group: Group, metric: Metric) -> Stat:
    found = group.stat(metric.key)
    assert found is not None
    return found


def _active(group: Group) -> float:
    active = group.stat(VAL_L0.key)
    return active.mean if active else math.inf


def _cost(group: Group, metric: Metric) -> float:
    mean = _stat(group, metric).mean
    return -mean if metric.better == "higher" else mean


def _dense(groups: Sequence[Group]) -> bool:
    """Whether the number of active units says nothing that the code size does not."""
    pairs = [(group.stat(VAL_L0.key), group.stat(CODE_SIZE.key)) for group in groups]
    return all(active is None or (size is not None and active.mean >= DENSE * size.mean) for active, size in pairs)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
