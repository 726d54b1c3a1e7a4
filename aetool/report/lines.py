"""Metrics against one config key, and models side by side."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from aetool.evaluation.catalogue import BASELINES, Metric
from aetool.report import layout
from aetool.report.groups import Group, format_value
from aetool.report.plots import BESIDE, PALETTE, Chart, baseline_style, legend, sheet, style, titled, wide

SERIES = 12  # lines of one panel
DOTS = 40  # groups of one panel


def lines(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    """The metrics against the first number along which some runs differ."""
    for key in layout.numeric_keys(groups, keys):
        everything = layout.series(groups, keys, [key])
        parts = [part for part in everything if layout.varies(part, key)]
        if parts:
            break
    else:
        return
    rest = [other for other in keys if other != key]
    naming = layout.minimal_keys([part[0] for part in everything], rest)
    for metric in metrics:
        if not any(layout.differs(part, metric) for part in parts):
            continue
        panels, hidden = [], 0
        for title, members in layout.panels(groups).items():
            own = [part for part in parts if any(part[0] is group for group in members)]
            hidden += max(0, len(own) - SERIES)
            named = layout.by_name(own[:SERIES], rest)
            told = ", ".join(layout.minimal_keys([part[0] for part in named.values()], rest))
            if any(group.stat(metric.key) for part in named.values() for group in part):
                alone = layout.group_name(own[0][0], naming) if len(own) == 1 else ""
                panels.append((alone or title, named, told))
        if panels:
            figure, places = sheet(len(panels), min(len(panels), 2), 5.6, 3.6, metric.heading)
            baselines = False
            for axes, (title, named, told) in zip(places, panels, strict=True):
                baselines |= _draw(axes, named, key, metric, told)
                titled(axes, title, key)
            caption = f"{layout.sentence(metric)} against {key}.{layout.error_bars(groups)}"
            caption += f" {metric.direction.capitalize()} is better." if metric.direction else ""
            caption += " Dashed grey: baselines at the same code size." if baselines else ""
            caption += layout.omitted(hidden, "lines") + layout.omitted_panels(groups)
            yield Chart(f"lines-{layout.slug(metric.label)}", caption, figure)


def _draw(axes: Any, parts: dict[str, list[Group]], key: str, metric: Metric, told: str) -> bool:
    """Lines with error bars, labelled by values of the keys `told`; on a logarithmic axis zero is left of a break.

    Returns whether there are baselines.
    """
    series = {
        label: sorted((layout.numeric(group, key), stat) for group in part if (stat := group.stat(metric.key)))
        for label, part in parts.items()
    }
    place = _positions(axes, sorted({x for points in series.values() for x, _ in points}))
    series = {label: points for label, points in series.items() if points}
    for index, (label, points) in enumerate(series.items()):
        axes.errorbar(
            [place(x) for x, _ in points], [stat.mean for _, stat in points], [stat.std for _, stat in points],
            label=label or metric.label, marker="o", markersize=4, capsize=3, **style(index),
        )  # fmt: skip
    baselines = _agreed([group for part in parts.values() for group in part], key, metric)
    for index, (label, flat) in enumerate(baselines.items()):
        axes.plot([place(x) for x in flat], list(flat.values()), label=label, **baseline_style(index))
    if wide([stat.mean for points in series.values() for _, stat in points]):
        axes.set_yscale("log")
    entries = len(series) + len(baselines)
    if entries > 1:
        legend(axes, told, **(BESIDE if entries > 4 else {}))
    return bool(baselines)


def _positions(axes: Any, values: Sequence[float]) -> Any:
    """Makes the x axis logarithmic if the values span a decade; returns the position of a value on it."""
    positive = [value for value in values if value > 0]
    if min(values) < 0 or not positive or positive[-1] < 8 * positive[0]:
        if len(values) <= 10:
            axes.set_xticks(values, [format_value(value) for value in values], fontsize=8)
        return float
    ratio = max(3.0, min(b / a for a, b in pairwise(positive)))
    zero = positive[0] / ratio
    ticks = values if len(values) <= 10 else [*values[: -1 : math.ceil(len(values) / 8)], values[-1]]
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([value or zero for value in ticks], [format_value(value) for value in ticks], fontsize=8)
    if values[0] == 0:
        axes.axvline(zero * math.sqrt(ratio), color="#aaaaaa", linestyle=(0, (1, 3)), linewidth=1)
    return lambda value: value or zero


def _agreed(groups: Sequence[Group], key: str, metric: Metric) -> dict[str, dict[float, float]]:
    """Means of baselines by config value, ascending, where they are the same for all lines."""
    found = {}
    for label, other in layout.baseline_keys(metric).items():
        pairs = {(layout.numeric(group, key), stat.mean) for group in groups if (stat := group.stat(other))}
        if pairs and len(pairs) == len(dict(pairs)):
            found[label] = dict(sorted(pairs))
    return found


def models(groups: Sequence[Group], keys: Sequence[str], metric: Metric) -> Chart:
    """A line of dots per group, best on top; baselines as marks, as a line where they are all the same."""
    panels, hidden, baselines = {}, 0, dict[str, str]()
    for title, part in layout.panels(groups).items():
        measured = [group for group in part if group.stat(metric.key)]
        order = sorted(measured, key=lambda group: metric.cost(group.mean(metric.key)))
        hidden += max(0, len(order) - DOTS)
        naming = layout.minimal_keys(part, keys)
        if order:
            title += f"\nlabels: {', '.join(naming)}" if len(naming) > 1 else ""
            panels[title] = {layout.group_name(group, naming): group for group in order[:DOTS]}
    figure, places = sheet(len(panels), len(panels), 5.4, 1.5 + 0.26 * max(map(len, panels.values())))
    for axes, (title, named) in zip(places, panels.items(), strict=True):
        baselines |= {name: BASELINES[name] for name in _dots(axes, named, metric)}
        titled(axes, title, metric.heading)
        legend(axes)
    caption = f"{layout.sentence(metric)}, best on top.{layout.error_bars(groups)}"
    caption += f" Baselines: {'; '.join(map(', '.join, baselines.items()))}." if baselines else ""
    caption += layout.omitted(hidden, "groups") + layout.omitted_panels(groups)
    return Chart("models", caption, figure)


def _dots(axes: Any, named: dict[str, Group], metric: Metric) -> list[str]:
    """Returns the names of the baselines drawn."""
    names, stats = list(named), [stat for group in named.values() if (stat := group.stat(metric.key))]
    axes.errorbar(
        [stat.mean for stat in stats], range(len(names)), xerr=[stat.std for stat in stats], fmt="o", markersize=6,
        capsize=3, color=PALETTE[0], label="code", zorder=3,
    )  # fmt: skip
    found: list[str] = []
    for label, key in layout.baseline_keys(metric).items():
        means = {place: stat.mean for place, group in enumerate(named.values()) if (stat := group.stat(key))}
        index, values = len(found), list(means.values())
        color = PALETTE[index + 1]
        if len(values) > 1 and max(values) - min(values) < 1e-9:
            axes.axvline(values[0], label=label, **baseline_style(index) | {"color": color})
        elif values:
            axes.plot(values, list(means), "|x+"[index % 3], color=color, ms=9, label=label)
        found += [label] if values else []
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    return found
