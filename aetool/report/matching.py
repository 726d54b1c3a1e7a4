"""Families of runs at a matched budget: the same number of active units, parameters, FLOPs or seconds."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from aetool.console import PlainConsole
from aetool.errors import UserError
from aetool.evaluation.catalogue import METRICS, TEST_ACCURACY, TEST_FVU, TUNED_ACCURACY, VAL_ACCURACY, VAL_L0, Metric
from aetool.report.groups import Group, comparable_sets, format_value
from aetool.report.tables import print_measures

BUDGETS = {  # by what the user types
    "l0": VAL_L0,
    **{
        name: next(metric for metric in METRICS if metric.key == key)
        for name, key in (
            ("parameters", "evaluate/parameters"),
            ("flops", "evaluate/flops"),
            ("seconds", "pretrain/seconds"),
        )
    },
}
MEASURED = (TEST_ACCURACY, VAL_ACCURACY, TUNED_ACCURACY, TEST_FVU)  # what is compared at the budget


class Budget(NamedTuple):
    """The quantity in which families are matched."""

    metric: Metric
    value: float | None  # None: the middle of the range that all families cover

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Of `l0` or `l0=50`; raises UserError for anything else."""
        name, equals, value = text.partition("=")
        if name not in BUDGETS:
            raise UserError(f"--match {text}: expected one of {', '.join(BUDGETS)}, or with a value: l0=50")
        try:
            number = float(value) if equals else None
        except ValueError:
            number = math.nan
        if number is not None and not (math.isfinite(number) and number > 0):
            raise UserError(f"--match {text}: expected a number > 0 after {name}=")
        return cls(BUDGETS[name], number)


def print_matched(groups: Sequence[Group], budget: Budget, console: Console | None = None) -> None:
    """A table of the families of each dataset at the budget; raises UserError if no two of them can be matched."""
    tables = {name: _table(members, budget) for name, members in comparable_sets(groups).items()}
    if not any(tables.values()):
        label, words = budget.metric.label, "" if budget.value is None else f" at {format_value(budget.value)}"
        raise UserError(f"--match: no two families have runs around the same {label}{words}; sweep over lambda or size")
    for name, table in tables.items():
        if table:
            title, lines = table
            print_measures(f"{name}: {title}" if name else title, lines, console or PlainConsole())


def _table(groups: Sequence[Group], budget: Budget) -> tuple[str, dict[str, dict[str, str]]] | None:
    """The title and the rows of a table; None if no two families can be matched."""
    curves = {name: curve for name, curve in _families(groups, budget.metric).items() if len(curve) > 1}
    low = max((min(curve) for curve in curves.values()), default=0.0)
    high = min((max(curve) for curve in curves.values()), default=0.0)
    at = math.sqrt(low * high) if budget.value is None else budget.value
    matched = {name: between for name, curve in curves.items() if (between := _neighbours(curve, at))}
    if len(matched) < 2:
        return None
    lines: dict[str, dict[str, str]] = {}
    for name, ends in matched.items():
        found = {metric: _interpolated(ends, metric, at) for metric in MEASURED}
        cells = {metric.label: metric.text(value) for metric, value in found.items() if value is not None}
        lines[name] = cells | {"between": " and ".join(f"{x:.4g}" for x in dict.fromkeys(ends))}
    return f"at {budget.metric.label} {at:.4g}, interpolated between neighbouring settings", lines


def _families(groups: Sequence[Group], budget: Metric) -> dict[str, dict[float, Group]]:
    """The groups of each model by their budget, ascending."""
    found: dict[str, dict[float, Group]] = {}
    for group in groups:
        stat = group.stat(budget.key)
        if stat is not None and stat.mean > 0:
            found.setdefault(format_value(group.value("model.name")), {})[stat.mean] = group
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}


def _neighbours(curve: Mapping[float, Group], at: float) -> dict[float, Group] | None:
    """The group at a budget, or those below and above it; None outside of the curve."""
    if not min(curve) <= at <= max(curve):
        return None
    below, above = max(x for x in curve if x <= at), min(x for x in curve if x >= at)
    return {below: curve[below], above: curve[above]}


def _interpolated(ends: Mapping[float, Group], metric: Metric, at: float) -> float | None:
    """A metric at a budget, linear in the budget's logarithm."""
    if any(group.stat(metric.key) is None for group in ends.values()):
        return None
    x, y = min(ends), max(ends)
    share = 0.0 if x == y else (math.log(at) - math.log(x)) / (math.log(y) - math.log(x))
    return (1 - share) * ends[x].mean(metric.key) + share * ends[y].mean(metric.key)
