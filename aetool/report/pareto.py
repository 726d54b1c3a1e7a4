"""Pareto fronts: the groups that no other beats in two metrics at once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from aetool.evaluation.catalogue import CODED_PSNR, RATE, TUNED_VAL_ACCURACY, VAL_ACCURACY, VAL_FVU, VAL_L0, Metric
from aetool.report.groups import Group

Better = Literal["higher", "lower"]
FRONTS = (  # mark, what is compared
    ("s", VAL_L0, VAL_FVU),
    ("r", RATE, CODED_PSNR),
    ("a", VAL_L0, VAL_ACCURACY),
)


class Front(NamedTuple):
    """Which groups no other beats in both metrics (a run as good in both and better in one dominates)."""

    x: Metric
    y: Metric
    best: list[Group]  # along the front, by x
    dominated: list[Group]
    mark: str = ""  # one letter, for tables
    scope: str = ""  # see groups.scopes


def fronts(groups: Sequence[Group], scope: str = "") -> list[Front]:
    """Those of FRONTS for which there is something to weigh up."""
    tuned = not any(group.stat(VAL_ACCURACY.key) for group in groups)
    found = []
    for mark, x, y in FRONTS:
        y = TUNED_VAL_ACCURACY if tuned and y is VAL_ACCURACY else y
        having = [group for group in groups if group.stat(x.key) and group.stat(y.key)]
        points = [(_mean(group, x), _mean(group, y)) for group in having]
        if len({point[0] for point in points}) > 1:
            on = front(points, (x.better or "lower", y.better or "lower"))
            off = sorted(set(range(len(points))) - set(on))
            found.append(Front(x, y, [having[i] for i in on], [having[i] for i in off], mark, scope))
    return found


def _mean(group: Group, metric: Metric) -> float:
    stat = group.stat(metric.key)
    return stat.mean if stat else float("nan")


def front(points: Sequence[tuple[float, float]], better: tuple[Better, Better]) -> list[int]:
    """Indices of the points on the front, by their first number, ascending.

    A point is off the front when another is as good in both numbers and better in one. Equal points do not beat each
    other. n log n: walking from the best first number on, a point must be better in the second than all before it.
    """
    signs = [1.0 if one == "lower" else -1.0 for one in better]
    costs = [(signs[0] * x, signs[1] * y) for x, y in points]
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: costs[index]):
        if not found or costs[index][1] < costs[found[-1]][1] or costs[index] == costs[found[-1]]:
            found.append(index)
    return sorted(found, key=lambda index: points[index])
