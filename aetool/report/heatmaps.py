"""Heatmaps of metrics over lambda and the code size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from aetool.evaluation.catalogue import Metric
from aetool.report import layout
from aetool.report.findings import ranked
from aetool.report.groups import Group, format_stat, format_value
from aetool.report.plots import PALETTE, Chart, sheet, titled, wide


def heatmaps(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    """One heatmap per metric, if both were swept."""
    numbers = layout.numeric_keys(groups, keys)
    y, x = next((key for key in numbers if key in layout.LAMBDAS), None), layout.CODE_SIZE
    if y is None or x not in numbers:
        return
    parts = [part for part in layout.series(groups, keys, (y, x)) if layout.varies(part, y) and layout.varies(part, x)]
    titles = layout.by_name(parts, [key for key in keys if key not in (y, x)])
    best = {title: _best(part) for title, part in titles.items()}
    for metric in metrics:
        shown = islice(titles.items(), layout.PANELS)
        panels = {title: part for title, part in shown if any(group.stat(metric.key) for group in part)}
        if not panels:
            continue
        caption = f"{layout.sentence(metric)}, over {y} (rows) and {x} (columns): "
        caption += "mean ± standard deviation over seeds. Hatched: no run."
        caption += f" {metric.direction.capitalize()} is better, and brighter." if metric.direction else ""
        caption += " Framed: the best by validation." if any(best[title] for title in panels) else ""
        caption += layout.omitted(len(titles) - layout.PANELS, "combinations")
        yield Chart(f"heatmap-{layout.slug(metric.label)}", caption, _draw(panels, best, metric, y, x))


def _best(groups: Sequence[Group]) -> Group | None:
    """The best by validation, if it is better than the next."""
    found = ranked(groups)
    if found is None:
        return None
    (first, *others), val, _ = found
    return first if all(first.mean(val.key) != other.mean(val.key) for other in others[:1]) else None


def _draw(panels: Mapping[str, list[Group]], best: Mapping[str, Group | None], metric: Metric, y: str, x: str) -> Any:
    """Rows by columns: the better a cell, the brighter; cells without a run are hatched."""
    cells = {
        title: {(layout.numeric(one, y), layout.numeric(one, x)): one for one in part if one.stat(metric.key)}
        for title, part in panels.items()
    }
    rows, columns = (sorted({place[axis] for part in cells.values() for place in part}) for axis in (0, 1))
    width, height = min(9.0, 1.9 + 0.78 * len(columns)), min(7.0, 1.2 + 0.52 * len(rows))
    figure, places = sheet(len(cells), min(len(cells), 2), max(4.2, width), max(2.6, height), metric.heading)
    for axes, (title, part) in zip(places, cells.items(), strict=True):
        table = [[part.get((row, column)) for column in columns] for row in rows]
        _heatmap(figure, axes, table, best[title], metric)
        titled(axes, title, x, y, grid=False)
        for put, values in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
            step = math.ceil(len(values) / 16)
            words = [format_value(value) for value in values[::step]]
            put(range(0, len(values), step), words, fontsize=8, parse_math=False)
    return figure


def _heatmap(figure: Any, axes: Any, table: list[list[Group | None]], best: Group | None, metric: Metric) -> None:
    from matplotlib.colors import LogNorm, Normalize

    means = [[group.mean(metric.key) if group else math.nan for group in line] for line in table]
    known = [mean for line in means for mean in line if not math.isnan(mean)]
    norm = (LogNorm if wide(known) else Normalize)(min(known), max(known))
    colours = "cividis_r" if metric.direction == "lower" else "cividis"
    picture = axes.imshow(means, cmap=colours, norm=norm, aspect="auto")
    figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
    readable, roomy = max(len(table), len(table[0])) <= 14, len(table[0]) <= 8
    for y, line in enumerate(table):
        for x, group in enumerate(line):
            stat = group.stat(metric.key) if group else None
            if stat is None:
                _box(axes, x, y, hatch="////", edgecolor="#999999", linewidth=0)
                continue
            if readable:
                words = format_stat(stat if roomy else stat._replace(n=1), metric.format).replace(" ±", "\n±")
                color = "black" if sum(picture.to_rgba(stat.mean)[:3]) > 1.5 else "white"
                axes.text(x, y, words, ha="center", va="center", fontsize=8, color=color)
            if group is best:
                _box(axes, x, y, edgecolor=PALETTE[1], linewidth=2.5)


def _box(axes: Any, x: int, y: int, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, clip_on=False, zorder=3, **style))
