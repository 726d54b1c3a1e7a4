"""Parallel coordinates: a line per group over its settings and results, inline in the report; hovering names it."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from aetool.evaluation.catalogue import (
    TEST_ACCURACY,
    TEST_FVU,
    TUNED_ACCURACY,
    TUNED_VAL_ACCURACY,
    VAL_ACCURACY,
    VAL_L0,
)
from aetool.report.findings import ranked, title
from aetool.report.groups import Group, Value, format_value, number, rank
from aetool.report.tables import HEADS

SETTINGS, LINES = 5, 200  # most axes of config keys, most groups
RESULTS = (VAL_L0, TEST_FVU, VAL_ACCURACY, TEST_ACCURACY, TUNED_VAL_ACCURACY, TUNED_ACCURACY)
WIDTH, HEIGHT, TOP, SIDE = 1000, 320, 40, 70  # of the drawing, in units of its own
LOG = 20.0  # ratio of the largest to the smallest value, above which an axis is logarithmic


class Axis(NamedTuple):
    name: str
    words: list[str]  # of each group; "" where it has no value
    heights: list[float | None]  # of each group, 0 (bottom) to 1
    ends: tuple[str, str]  # words at the bottom and the top


def parallel(groups: Sequence[Group], keys: Sequence[str]) -> str | None:
    """The drawing as SVG; None if there is too little or too much to show."""
    axes = _axes(groups, keys)
    if not 3 <= len(groups) <= LINES or len(axes) < 3:
        return None
    found = ranked(groups)
    order = found[0] if found else []
    order = [*order, *(group for group in groups if group not in order)]
    best = order[0]
    step = (WIDTH - 2 * SIDE) / (len(axes) - 1)
    parts = [f'<svg class="parallel" viewBox="0 0 {WIDTH} {HEIGHT + 2 * TOP}" role="img" aria-label="{_label(axes)}">']
    for index, axis in enumerate(axes):
        x = SIDE + index * step
        parts.append(f'<line x1="{x:.0f}" y1="{TOP}" x2="{x:.0f}" y2="{TOP + HEIGHT}"/>')
        for y, words in ((TOP - 22, axis.name), (TOP - 6, axis.ends[1]), (TOP + HEIGHT + 16, axis.ends[0])):
            parts.append(f'<text x="{x:.0f}" y="{y}">{escape(words)}</text>')
    for group in reversed(order):  # the best one on top
        at = list(groups).index(group)
        points = [
            (SIDE + index * step, TOP + HEIGHT * (1 - height))
            for index, axis in enumerate(axes)
            if (height := axis.heights[at]) is not None
        ]
        said = [title(group, groups), *(f"{axis.name}: {axis.words[at]}" for axis in axes if axis.words[at])]
        line = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.0f}" cy="{y:.1f}" r="4"/>' for x, y in points)
        mark = ' class="best"' if group is best and found else ""
        text = escape("\n".join(said))
        parts.append(f'<g{mark} tabindex="0"><title>{text}</title><polyline points="{line}"/>{dots}</g>')
    return "\n".join([*parts, "</svg>"])


def _axes(groups: Sequence[Group], keys: Sequence[str]) -> list[Axis]:
    """Config keys that differ, then results."""
    settings = [_setting(key, [group.value(key) for group in groups]) for key in keys if key != "seed"]
    axes = [axis for axis in settings if axis is not None][:SETTINGS]
    for metric in RESULTS:
        stats = [group.stat(metric.key) for group in groups]
        values = [None if stat is None else stat.mean for stat in stats]
        axis = _scale(metric.label, values, metric.text)
        axes += [axis] if axis else []
    return axes


def _setting(key: str, values: Sequence[Value]) -> Axis | None:
    """Numbers by size; other values in their order, evenly."""
    name, numbers = HEADS.get(key, key), [number(value) for value in values]
    if None not in numbers:
        return _scale(name, numbers, lambda value: format_value(value))
    words = [format_value(value) for value in values]
    order = [format_value(value) for value in sorted({format_value(v): v for v in values}.values(), key=rank)]
    if len(order) < 2:
        return None
    return Axis(name, words, [order.index(word) / (len(order) - 1) for word in words], (order[0], order[-1]))


def _scale(name: str, values: Sequence[float | None], text: Callable[[float], str]) -> Axis | None:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    if low == high:
        return None
    scale: Callable[[float], float] = math.log if low > 0 and high / low > LOG else float
    heights = [None if v is None else (scale(v) - scale(low)) / (scale(high) - scale(low)) for v in values]
    return Axis(name, ["" if v is None else text(v) for v in values], heights, (text(low), text(high)))


def _label(axes: Sequence[Axis]) -> str:
    return escape(f"Lines over {', '.join(axis.name for axis in axes)}", quote=True)
