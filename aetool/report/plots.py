"""Drawing of the figures over many runs; charts.py chooses what they show. No pyplot, no global state."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from aetool.evaluation.catalogue import Metric
from aetool.measures.statistics import Stat
from aetool.report.groups import format_stat, format_value

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")  # Okabe and Ito 2008
STYLES = ("-", "--", ":")
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}  # a legend right of its axes
TITLE = 60  # characters of a line of a title
WIDE = 50, 1e6  # a scale is logarithmic if largest / smallest value is between these


class Chart(NamedTuple):
    """A figure and its caption."""

    name: str  # file name without its suffix
    caption: str  # what it shows and how to read it
    figure: Any  # matplotlib's Figure


class Panel(NamedTuple):
    """One axes of a figure: points by the name of their series; a point is (x, statistics)."""

    title: str
    series: dict[str, list[tuple[float, Stat]]]
    baselines: dict[str, list[tuple[float, float]]]


class Grid(NamedTuple):
    """One heatmap: statistics by (row value, column value)."""

    title: str
    cells: dict[tuple[float, float], Stat]
    framed: tuple[float, float] | None  # the best cell


class Ranking(NamedTuple):
    """One axes of dots: statistics by name from top to bottom, and the baselines of each."""

    title: str
    stats: dict[str, Stat]
    baselines: dict[str, dict[str, float]]  # by baseline, then by name


class Curve(NamedTuple):
    """The losses of one run: points (step, loss) by split; `rank` in [0, 1] where the runs have an order."""

    panel: str
    label: str
    rank: float | None
    points: dict[str, list[tuple[float, float]]]


def render(figure: Any, target: Any, form: str) -> None:
    """Writes a figure to a path or a file object, the same bytes each time."""
    from matplotlib import rc_context

    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} if form == "svg" else None
    with rc_context({"svg.hashsalt": "aetool"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(target, format=form, metadata=metadata)


def sheet(columns: int, rows: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of `rows` × `columns` axes, each of this size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=120, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def titled(axes: Any, title: str, x: str = "", y: str = "") -> None:
    lines = [textwrap.fill(line, TITLE) for line in title.split("\n")]
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)


def heatmaps(grids: Sequence[Grid], metric: Metric, keys: tuple[str, str]) -> Any:
    """Rows by columns: the better a cell, the brighter; cells without a run are hatched."""
    rows = sorted({row for grid in grids for row, _ in grid.cells})
    columns = sorted({column for grid in grids for _, column in grid.cells})
    across = min(len(grids), 2)
    down = math.ceil(len(grids) / across)
    size = min(9.0, 1.9 + 0.78 * len(columns)), min(7.0, 1.2 + 0.52 * len(rows))
    figure, places = sheet(across, down, max(4.2, size[0]), max(2.6, size[1]))
    for axes in places[len(grids) :]:
        axes.set_axis_off()
    for axes, grid in zip(places, grids, strict=False):
        _heatmap(figure, axes, grid, metric, rows, columns)
        titled(axes, grid.title, keys[1], keys[0])
    figure.suptitle(metric.heading, fontsize=11, parse_math=False)
    return figure


def _heatmap(
    figure: Any, axes: Any, grid: Grid, metric: Metric, rows: Sequence[float], columns: Sequence[float]
) -> None:
    from matplotlib.colors import LogNorm, Normalize

    means = [stat.mean for stat in grid.cells.values()]
    norm = (LogNorm if wide(means) else Normalize)(min(means), max(means))
    found = [[grid.cells.get((row, column)) for column in columns] for row in rows]
    table = [[stat.mean if stat else math.nan for stat in line] for line in found]
    colours = "cividis_r" if metric.direction == "lower" else "cividis"
    picture = axes.imshow(table, cmap=colours, norm=norm, aspect="auto")
    figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
    readable, roomy = max(len(rows), len(columns)) <= 14, len(columns) <= 8
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            stat = found[y][x]
            if stat is None:
                _box(axes, x, y, hatch="////", edgecolor="#999999", linewidth=0)
                continue
            if readable:
                words = format_stat(stat if roomy else stat._replace(n=1), metric.format).replace(" ±", "\n±")
                color = "black" if sum(picture.to_rgba(stat.mean)[:3]) > 1.5 else "white"
                axes.text(x, y, words, ha="center", va="center", fontsize=8, color=color)
            if (row, column) == grid.framed:
                _box(axes, x, y, edgecolor=PALETTE[1], linewidth=2.5)
    _ticks(axes.set_xticks, columns)
    _ticks(axes.set_yticks, rows)


def _box(axes: Any, x: int, y: int, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, clip_on=False, zorder=3, **style))


def _ticks(put: Any, values: Sequence[float]) -> None:
    step = math.ceil(len(values) / 16)
    put(range(0, len(values), step), [format_value(value) for value in values[::step]], fontsize=8, parse_math=False)


def lines(panels: Sequence[Panel], title: str, key: str) -> Any:
    """A metric against a config key, with error bars; on a logarithmic axis zero is left of a break."""
    figure, places = sheet(min(len(panels), 2), math.ceil(len(panels) / 2), 5.6, 3.6)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(places, panels, strict=False):
        values = sorted({x for points in panel.series.values() for x, _ in points})
        place = _positions(axes, values)
        for index, (label, points) in enumerate(panel.series.items()):
            x = [place(value) for value, _ in points]
            axes.errorbar(
                x, [stat.mean for _, stat in points], [stat.std for _, stat in points], label=label, marker="o",
                markersize=4, capsize=3, **style(index),
            )  # fmt: skip
        for index, (label, flat) in enumerate(panel.baselines.items()):
            x, y = [place(value) for value, _ in flat], [mean for _, mean in flat]
            axes.plot(x, y, color="#777777", linestyle=("--", "-.", ":")[index % 3], linewidth=1.2, label=label)
        if wide([stat.mean for points in panel.series.values() for _, stat in points]):
            axes.set_yscale("log")
        titled(axes, panel.title, key)
        axes.grid(alpha=0.3)
        entries = len(panel.series) + len(panel.baselines)
        if entries > 1:
            legend(axes, **(BESIDE if entries > 4 else {}))
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


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


def wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and WIDE[0] < max(values) / min(values) < WIDE[1]


def dots(rankings: Sequence[Ranking], title: str) -> Any:
    """One line per group, best on top, with error bars; baselines as marks, as a line where they are all the same."""
    tallest = max(len(ranking.stats) for ranking in rankings)
    figure, places = sheet(len(rankings), 1, 5.4, 1.5 + 0.26 * tallest)
    for axes, ranking in zip(places, rankings, strict=True):
        names, stats = list(ranking.stats), ranking.stats.values()
        axes.errorbar(
            [stat.mean for stat in stats], range(len(names)), xerr=[stat.std for stat in stats], fmt="o", markersize=6,
            capsize=3, color=PALETTE[0], label="code", zorder=3,
        )  # fmt: skip
        for index, (label, means) in enumerate(ranking.baselines.items()):
            color, values = PALETTE[index + 1], list(means.values())
            if len(values) > 1 and max(values) - min(values) < 1e-9:
                axes.axvline(values[0], color=color, linestyle=("--", "-.", ":")[index % 3], linewidth=1.2, label=label)
            else:
                axes.plot(
                    values, [names.index(name) for name in means], "|x+"[index % 3], color=color, ms=9, label=label
                )
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
        titled(axes, ranking.title, title)
        legend(axes)
    return figure


def curves(runs: Sequence[Curve], title: str, key: str) -> Any:
    """Training and validation loss over steps: a line for each run, a row of axes for each panel."""
    from matplotlib import colormaps

    panels = list(dict.fromkeys(run.panel for run in runs))
    drawn = {split for run in runs for split, points in run.points.items() if len(points) > 1}
    splits = [split for split in ("training", "validation") if split in drawn]
    figure, places = sheet(len(splits), len(panels), 4.6, 3.4)
    for index, axes in enumerate(places):
        row, column = divmod(index, len(splits))
        panel, split = panels[row], splits[column]
        own = [run for run in runs if run.panel == panel]
        labels = list(dict.fromkeys(run.label for run in own))
        entries = len(PALETTE) * len(STYLES) if own[0].rank is None else 10
        shown = set(labels[:: math.ceil(len(labels) / entries)])
        heights = []
        for run in own:
            points = run.points.get(split, [])
            looks = style(labels.index(run.label))
            if run.rank is not None:
                looks = {"color": colormaps["viridis"](0.92 * run.rank), "linestyle": "-"}
            if points:
                known = run.label if run.label in shown else None
                shown.discard(run.label)  # one entry for all seeds
                heights += [loss for _, loss in points]
                axes.plot(*zip(*points, strict=True), label=known, **looks, alpha=0.8, linewidth=1)
        if heights and min(heights) > 0:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        titled(axes, f"{panel}: {split}" if panel else split, "step", title if column == 0 else "")
        if split == splits[-1] and heights and len(labels) > 1:
            legend(axes, key, **BESIDE)
    return figure


def style(index: int) -> dict[str, Any]:
    """Colour and dash of a series: 21 distinct combinations."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index // len(PALETTE) % len(STYLES)]}


def legend(axes: Any, title: str = "", **place: Any) -> None:
    """Lines without error bars, such as baselines, last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: hasattr(handles[index], "get_linestyle"))
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    drawn = axes.legend(handles, labels, title=title or None, fontsize=8, title_fontsize=8, framealpha=0.9, **place)
    for words in [*drawn.get_texts(), drawn.get_title()]:
        words.set_parse_math(False)
