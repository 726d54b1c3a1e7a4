"""The findings of a comparison, in sentences.

Groups are chosen only by validation metrics; the test metric of the chosen ones is reported.
"""

import math
import shlex
from collections.abc import Mapping, Sequence

from aetool.evaluation.catalogue import CODE_SIZE, DIVERGED, PROTOCOL, SELECTION, VAL_FVU, VAL_L0, Metric, error_key
from aetool.measures.statistics import Stat
from aetool.report.groups import Group, Replicate, Row, Value, format_stat, format_value, number, replicate

DENSE = 0.99  # fraction of active units from which a code counts as dense
NAMES = ("model.name", "dataset.name")  # keys whose value alone is clear


def title(group: Group, among: Sequence[Group]) -> str:
    """The shortest name that distinguishes a group from the others: sparse (penalty.weight=0.01)."""
    rivals = [other for other in among if other is not group]
    names: list[str] = []
    keys: list[str] = []
    for key, value in group.values.items():
        alike = [other for other in rivals if format_value(other.values.get(key)) == format_value(value)]
        if len(alike) < len(rivals):
            if key in NAMES:
                names.append(format_value(value))
            else:
                keys.append(f"{key}={format_value(value)}")
            rivals = alike
    words = ", ".join(keys)
    return f"{' '.join(names)} ({words})" if names and keys else " ".join(names) or words or "the run"


def ranked(groups: Sequence[Group]) -> tuple[list[Group], Metric, Metric] | None:
    """The groups from best to worst, the validation metric that ranks them and its test metric; None without metrics.

    Ties go to the group with fewer active units.
    """
    for val, test in SELECTION:
        having = [group for group in groups if group.stat(val.key) and group.stat(test.key)]
        if having:
            return sorted(having, key=lambda group: (_cost(group, val), _active(group))), val, test
    return None


def recommendation(groups: Sequence[Group]) -> str | None:
    """The smallest code that is about as good as the best one; None if there is no choice.

    "About as good" means within one standard error of the best validation metric (Breiman et al. 1984, section 3.4.3),
    over seeds, or over validation images if seeds show no spread. Size is the number of active units, or of values if
    codes are dense.
    """
    found = ranked(groups)
    if found is None or len(found[0]) < 2:
        return None
    order, val, test = found
    best, of = order[0], _stat(order[0], val)
    size, unit = (CODE_SIZE, "values in the code") if _dense(order) else (VAL_L0, "active units")
    sized = [group for group in order if group.stat(size.key)]
    if best not in sized:
        return None
    error = _standard_error(best, val)
    margin, basis = error or (0.0, "")
    close = [group for group in sized if _cost(group, val) <= _cost(best, val) + margin] if error else [best]
    small = min(close, key=lambda group: (group.mean(size.key), _cost(group, val)))
    accuracy = is_accuracy(val)
    width = f"one standard error ({margin:{val.format}} over {basis})"
    what = f"the best validation {'accuracy' if accuracy else 'FVU'} ({format_stat(of, val.format)})"
    reported = _stat(small, test)
    tested = f"test {format_stat(reported, test.format)}" + (" (one seed)" if reported.n == 1 else "")
    few, many = small.mean(size.key), best.mean(size.key)
    if not few < many:
        varies = len({group.mean(size.key) for group in sized}) > 1
        alone = f" with {_count(many)} {unit}" if varies else ""
        alone += f"; no smaller code is within {width}" if varies and error else ""
        return f"{title(best, order)} has {what}{alone}: {tested}"
    fewer = f"{f'{many / few:.1f}× fewer' if few > 0 else 'no'} {unit} ({_count(few)} instead of {_count(many)})"
    return f"{title(small, order)} is within {width} of {what}, {title(best, order)}, with {fewer}: {tested}"


def unlike(name: str, differing: Mapping[str, Sequence[Value]], compared: Sequence[str]) -> str:
    """`mnist: not like for like: trainer.epochs 30 / 100; compared: trainer.epochs=30`."""
    values = "; ".join(f"{key} {' / '.join(map(format_value, found))}" for key, found in differing.items())
    prefix = f"{name}: " if name else ""
    return f"{prefix}not like for like: {values}; compared: {', '.join(compared)}"


def is_accuracy(metric: Metric) -> bool:
    return metric.key.endswith("/accuracy")


def excluded(rows: Sequence[Row]) -> list[str]:
    """The runs that are not compared, and why."""
    return [
        f"{row['run']}: {row['state']}" + (f": {row['reason']}" if row.get("reason") else "")
        for row in rows
        if row["state"] != "completed"
    ]


def duplicates(groups: Sequence[Group]) -> list[str]:
    """Runs of a group with the same seed, of which only the last counts."""
    found: dict[tuple[int, Replicate], list[Value]] = {}
    for index, group in enumerate(groups):
        for row in group.rows:
            found.setdefault((index, replicate(row)), []).append(row["directory"])
    return [
        f"{', '.join(map(str, others))}: same config and seed as {last}, which is used instead"
        for *others, last in found.values()
        if others
    ]


def outdated(rows: Sequence[Row]) -> list[str]:
    """Stages of completed runs that were measured with another protocol, and the command that re-evaluates them."""
    found: dict[tuple[str, Value, bool], list[str]] = {}
    for row in rows:
        stages = dict.fromkeys(key.partition("/")[0] for key in row if key.startswith(("evaluate/", "probe-")))
        for stage in stages if row["state"] == "completed" else ():
            protocol = row.get(f"{stage}/protocol")
            if protocol != PROTOCOL:
                is_own = stage == f"probe-{row.get('probe')}"
                found.setdefault((stage, protocol, is_own), []).append(str(row["directory"]))
    return [_outdated(stage, protocol, is_own, runs) for (stage, protocol, is_own), runs in found.items()]


def diverged(rows: Sequence[Row]) -> list[str]:
    """Completed runs whose training has diverged."""
    found = ((row["run"], number(row.get(VAL_FVU.key))) for row in rows if row["state"] == "completed")
    return [
        f"{name}: diverged: the error is {fvu:.3g} times that of the mean image on validation"
        for name, fvu in found
        if fvu is not None and fvu > DIVERGED
    ]


def _outdated(stage: str, protocol: Value, is_own: bool, runs: Sequence[str]) -> str:
    """`is_own`: it is that of the run's own probe, which `aetool probe` repeats without being given its settings."""
    words = ["aetool", stage.partition("-")[0]]
    words += ["-m"] if len(runs) > 1 else []
    words.append(f"run={','.join(runs)}")
    name, _, budget = stage.partition("-")[2].partition("-")
    if name and not is_own:
        words.append(f"probe={name}")
    if budget and not is_own:
        value, _, kind = budget.partition("-")
        words.append(f"probe.{'label_fraction' if kind == 'of-labels' else 'labels_per_class'}={value}")
    which, them = (runs[0], "it") if len(runs) == 1 else (f"{len(runs)} runs", "them")
    how = "without a protocol version" if protocol is None else f"by protocol {protocol}"
    return f"{which}: {stage} was measured {how}, current is {PROTOCOL}; re-evaluate {them}: {shlex.join(words)}"


def _stat(group: Group, metric: Metric) -> Stat:
    found = group.stat(metric.key)
    assert found is not None
    return found


def _standard_error(group: Group, metric: Metric) -> tuple[float, str] | None:
    """The standard error of a validation metric, and what it is over; None if unknown."""
    stat, sampling = _stat(group, metric), group.stat(error_key(metric.key))
    if stat.std > 0:
        return stat.std / math.sqrt(stat.n), "seeds"
    return (sampling.mean, "validation images") if sampling else None


def _active(group: Group) -> float:
    active = group.stat(VAL_L0.key)
    return active.mean if active else math.inf


def _cost(group: Group, metric: Metric) -> float:
    return metric.cost(group.mean(metric.key))


def _dense(groups: Sequence[Group]) -> bool:
    """Whether the number of active units adds nothing to the code size."""
    pairs = [(group.stat(VAL_L0.key), group.stat(CODE_SIZE.key)) for group in groups]
    return all(active is None or (size is not None and active.mean >= DENSE * size.mean) for active, size in pairs)


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")
