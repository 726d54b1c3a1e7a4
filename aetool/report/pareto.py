"""The Pareto front: what nothing else beats in two metrics at once; pure functions of numbers."""

from collections.abc import Sequence
from typing import Literal

Better = Literal["higher", "lower"]


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
