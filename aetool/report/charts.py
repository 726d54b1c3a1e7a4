"""Which figures a comparison is drawn in, and their captions; no torch."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from aetool.errors import UserError
from aetool.evaluation.catalogue import BASELINES, FIGURE, SELECTION, Metric, baseline_key
from aetool.measures.statistics import Stat
from aetool.report import layout, learning, plots, scatter
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked
from aetool.report.groups import Group, is_finetune
from aetool.report.pareto import Front
from aetool.report.plots import Chart, Grid, Panel, Ranking

DRAWN = ("pca", "pixels", "untrained")  # baselines in figures
SERIES = 12  # lines of one panel
DOTS = 40  # groups of one panel


def save(figures: Iterable[Chart], folder: Path) -> None:
    """Writes figures as PNG files; raises UserError when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in figures:
            plots.render(chart.figure, folder / f"{chart.name}.png", "png")
    except OSError as error:
        raise UserError(f"{folder}: figures cannot be written: {error}") from error


def draw(comparison: Comparison) -> Iterator[Chart]:
    """The figures in which something differs, one after the other."""
    groups = comparison.groups
    chosen = [metric for metric in comparison.metrics if FIGURE in metric.shown and _differs(groups, metric)]
    main = next((test for _, test in SELECTION if test in comparison.metrics), None)
    if main in chosen and layout.compares_models(groups):
        yield _models(groups, comparison.keys, main)
    heatmaps = _heatmaps(groups, comparison.keys, chosen)
    first = next(heatmaps, None)
    if first:
        yield first
        yield from heatmaps
    else:
        yield from _lines(groups, comparison.keys, chosen)
    for front in comparison.fronts:
        yield from _pareto(front, comparison.keys)
    yield from learning.curves([group for group in groups if not is_finetune(group)], comparison.keys, "curves")
    yield from learning.curves([group for group in groups if is_finetune(group)], comparison.keys, "curves-fine-tuning")


def baseline_keys(metric: Metric) -> dict[str, str]:
    """The keys of the baselines of a metric, by the name of the baseline."""
    return {name: baseline_key(metric.key, name) for name in DRAWN}


def _bars(groups: Iterable[Group]) -> str:
    return " Error bars: one standard deviation over seeds." if any(len(group.rows) > 1 for group in groups) else ""


def _differs(groups: Sequence[Group], metric: Metric) -> bool:
    return len({stat.mean for group in groups if (stat := group.stat(metric.key))}) > 1


def _heatmaps(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    numbers = layout.numeric_keys(groups, keys)
    rows = next((key for key in numbers if key in layout.LAMBDAS), None)
    if rows is None or layout.CODE_SIZE not in numbers:
        return
    found = layout.series(groups, keys, (rows, layout.CODE_SIZE))
    parts = [part for part in found if layout.varies(part, rows) and layout.varies(part, layout.CODE_SIZE)]
    titles = layout.by_name(parts, [key for key in keys if key not in (rows, layout.CODE_SIZE)])
    for metric in metrics:
        grids = []
        for title, part in islice(titles.items(), layout.PANELS):
            stats = {
                (layout.numeric(group, rows), layout.numeric(group, layout.CODE_SIZE)): group.stat(metric.key)
                for group in part
            }
            best = _best(part)
            framed = (layout.numeric(best, rows), layout.numeric(best, layout.CODE_SIZE)) if best else None
            grids.append(Grid(title, {cell: stat for cell, stat in stats.items() if stat}, framed))
        grids = [grid for grid in grids if grid.cells]
        if not grids:
            continue
        caption = f"{_title(metric)}, over {rows} (rows) and {layout.CODE_SIZE} (columns): "
        caption += "mean ± standard deviation over seeds. Hatched: no run."
        if metric.direction:
            caption += f" {metric.direction.capitalize()} is better, and brighter."
        caption += " Framed: the best by validation." if any(grid.framed for grid in grids) else ""
        caption += layout.omitted(len(titles) - layout.PANELS, "combinations")
        yield Chart(f"heatmap-{_slug(metric.label)}", caption, plots.heatmaps(grids, metric, (rows, layout.CODE_SIZE)))


def _best(groups: Sequence[Group]) -> Group | None:
    """The best by validation, if it is better than the next."""
    found = ranked(groups)
    if found is None:
        return None
    (first, *others), val, _ = found
    return first if all(first.mean(val.key) != other.mean(val.key) for other in others[:1]) else None


def _lines(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
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
        if not any(_differs(part, metric) for part in parts):
            continue
        drawn, hidden = [], 0
        for title, members in layout.panels(groups).items():
            own = [part for part in parts if any(part[0] is group for group in members)]
            hidden += max(0, len(own) - SERIES)
            lines = _panel(own[:SERIES], rest, key, metric)
            if lines:
                alone = layout.group_name(own[0][0], naming) if len(own) == 1 else ""
                drawn.append(Panel(alone or title, lines, _agreed(own[:SERIES], key, metric)))
        if drawn:
            caption = f"{_title(metric)} against {key}.{_bars(groups)}"
            caption += f" {metric.direction.capitalize()} is better." if metric.direction else ""
            caption += " Dashed grey: baselines at the same code size." if any(p.baselines for p in drawn) else ""
            caption += layout.omitted(hidden, "lines") + layout.omitted_panels(groups)
            yield Chart(f"lines-{_slug(metric.label)}", caption, plots.lines(drawn, metric.heading, key))


def _panel(
    parts: Sequence[list[Group]], naming: Sequence[str], key: str, metric: Metric
) -> dict[str, list[tuple[float, Stat]]]:
    """The points of each line, by its name."""
    lines = {
        label: sorted((layout.numeric(group, key), stat) for group in part if (stat := group.stat(metric.key)))
        for label, part in layout.by_name(parts, naming).items()
    }
    return {label or metric.label: points for label, points in lines.items() if points}


def _agreed(parts: Sequence[list[Group]], key: str, metric: Metric) -> dict[str, list[tuple[float, float]]]:
    """Baselines against a config key, as far as they are the same for all lines."""
    found = {}
    for label, other in baseline_keys(metric).items():
        levels: dict[float, set[float]] = {}
        for group in (group for part in parts for group in part):
            stat = group.stat(other)
            if stat:
                levels.setdefault(layout.numeric(group, key), set()).add(stat.mean)
        if levels and all(len(means) == 1 for means in levels.values()):
            found[label] = sorted((x, mean) for x, means in levels.items() for mean in means)
    return found


def _models(groups: Sequence[Group], keys: Sequence[str], metric: Metric) -> Chart:
    drawn, hidden = [], 0
    for title, part in layout.panels(groups).items():
        measured = [group for group in part if group.stat(metric.key)]
        order = sorted(measured, key=lambda group: metric.cost(group.mean(metric.key)))
        hidden += max(0, len(order) - DOTS)
        naming = layout.minimal_keys(part, keys)
        shown = dict(zip(_unique([layout.group_name(group, naming) for group in order[:DOTS]]), order, strict=False))
        stats = {label: stat for label, group in shown.items() if (stat := group.stat(metric.key))}
        baselines = {
            name: {label: stat.mean for label, group in shown.items() if (stat := group.stat(key))}
            for name, key in baseline_keys(metric).items()
        }
        if stats:
            title += f"\nlabels: {', '.join(naming)}" if len(naming) > 1 else ""
            drawn.append(Ranking(title, stats, {name: means for name, means in baselines.items() if means}))
    names = dict.fromkeys(name for ranking in drawn for name in ranking.baselines)
    caption = f"{_title(metric)}, best on top.{_bars(groups)}"
    caption += f" Baselines: {'; '.join(f'{name}, {BASELINES[name]}' for name in names)}." if names else ""
    caption += layout.omitted(hidden, "groups") + layout.omitted_panels(groups)
    return Chart("models", caption, plots.dots(drawn, metric.heading))


def _pareto(front: Front, keys: Sequence[str]) -> Iterator[Chart]:
    groups = [*front.best, *front.dominated]
    naming = layout.minimal_keys(groups, keys)

    def points(part: Sequence[Group]) -> list[tuple[str, Stat, Stat]]:
        stats = [(layout.group_name(group, naming), group.stat(front.x.key), group.stat(front.y.key)) for group in part]
        return sorted(((label, x, y) for label, x, y in stats if x and y), key=lambda point: point[1].mean)

    best, dominated = points(front.best), points(front.dominated)
    flat = not _differs(groups, front.x) or not _differs(groups, front.y)
    if not best or flat or len(best) + len(dominated) < 3:
        return
    baselines = {}
    for label, key in baseline_keys(front.y).items():
        levels = {stat.mean for group in groups if (stat := group.stat(key))}
        if levels:
            baselines[label if len(levels) == 1 else f"{label}, best"] = min(levels, key=front.y.cost)
    title = f"{front.subset}: " if front.subset else ""
    title += f"{front.y.label} against {front.x.label}"
    title += f"\nlabels: {', '.join(naming)}" if naming else ""
    caption = f"{_title(front.y)}, against {front.x.heading}: the Pareto front, and "
    caption += f"{len(dominated)} dominated {'group' if len(dominated) == 1 else 'groups'} faded.{_bars(groups)}"
    faded = [(x, y) for _, x, y in dominated]
    figure = scatter.pareto(best, faded, baselines, (title, front.x.heading, front.y.heading))
    words = [front.x.label, front.y.label, front.subset]
    yield Chart("-".join(["pareto", *map(_slug, filter(None, words))]), caption, figure)


def _title(metric: Metric) -> str:
    return metric.heading[0].upper() + metric.heading[1:]


def _slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())


def _unique(labels: Sequence[str]) -> list[str]:
    return [label if label not in labels[:index] else f"{label} ({index})" for index, label in enumerate(labels)]
