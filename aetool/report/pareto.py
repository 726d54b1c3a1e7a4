"""Pareto fronts: the groups that no other group dominates in two metrics."""

from collections.abc import Sequence
from typing import NamedTuple

from aetool.evaluation.catalogue import FRONTS, TUNED_VAL_ACCURACY, VAL_ACCURACY, Metric
from aetool.report.groups import Group


class Front(NamedTuple):
    """Groups on the Pareto front of two metrics, and the dominated ones."""

    x: Metric
    y: Metric
    best: list[Group]  # along the front, by x
    dominated: list[Group]
    mark: str = ""  # one letter, for tables
    subset: str = ""  # see groups.comparable_sets


def fronts(groups: Sequence[Group], subset: str = "") -> list[Front]:
    """The fronts of the catalogue along which several groups lie."""
    finetuned = not any(group.stat(VAL_ACCURACY.key) for group in groups)
    found = []
    for mark, x, y in FRONTS:
        y = TUNED_VAL_ACCURACY if finetuned and y is VAL_ACCURACY else y
        measured = [group for group in groups if group.stat(x.key) and group.stat(y.key)]
        costs = [(x.cost(group.mean(x.key)), y.cost(group.mean(y.key))) for group in measured]
        if len({cost for cost, _ in costs}) > 1:
            on = pareto_front(costs)
            best = sorted((measured[i] for i in on), key=lambda group: group.mean(x.key))
            found.append(Front(x, y, best, [measured[i] for i in range(len(measured)) if i not in on], mark, subset))
    return found


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other dominates, by their first cost, ascending; lower is better.

    A point is dominated if another is as good in both costs and better in one; equal points do not dominate each other.
    n log n: in ascending order of the first cost, a point must have a lower second cost than all before it.
    """
    found: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: costs[index]):
        if not found or costs[index][1] < costs[found[-1]][1] or costs[index] == costs[found[-1]]:
            found.append(index)
    return found
