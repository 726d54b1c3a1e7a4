"""Which figures say something about a comparison, and how to read them; no torch."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from aetool.errors import UserError
from aetool.evaluation.catalogue import PROBE, Metric
from aetool.report import learning, plots, scatter
from aetool.report.comparison import Comparison
from aetool.report.findings import ranked
from aetool.report.groups import Group, Stat, tuned
from aetool.report.layout import (
    CODE_SIZE,
    LAMBDAS,
    PANELS,
    distinguishing,
    families,
    fewer_datasets,
    further,
    name,
    named,
    numeric,
    panels_of,
    series,
    spans,
    value,
)  # fmt: skip
from aetool.report.pareto import Front
from aetool.report.plots import Chart, Grid, Panel

CHOSEN = (
    f"{PROBE}/code/val/accuracy",
    f"{PROBE}/code/test/accuracy",
    f"{PROBE}/code/gain_over_pca",
    "finetune/test/accuracy",
    "evaluate/test/fvu",
    "evaluate/test/l0",
    "evaluate/test/dead_fraction",
)
RANKED = (f"{PROBE}/code/test/accuracy", "finetune/test/accuracy", "evaluate/test/fvu")  # families: the first there is
BASELINES = {"PCA": "pca", "pixels": "pixels", "untrained": "untrained/code"}
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
    """The figures that say something here, one after the other."""
    groups = comparison.groups
    metrics = {metric.key: metric for metric in comparison.metrics}
    chosen = [metrics[key] for key in CHOSEN if key in metrics and _varies(groups, key)]
    main = next((metrics[key] for key in RANKED if metrics.get(key) in chosen), None)
    if main and families(groups):
        yield _dots(groups, comparison.keys, main)
    drawn = False
    for chart in _heatmaps(groups, comparison.keys, chosen):
        drawn = True
        yield chart
    if not drawn:
        yield from _lines(groups, comparison.keys, chosen)
    for front in comparison.fronts:
        yield from _pareto(front, comparison.keys)
    yield from learning.curves([group for group in groups if not tuned(group)], comparison.keys, "curves")
    yield from learning.curves([group for group in groups if tuned(group)], comparison.keys, "curves-fine-tuning")


def _bars(groups: Iterable[Group]) -> str:
    return " Error bars: one standard deviation over seeds." if any(len(group.rows) > 1 for group in groups) else ""


def _varies(groups: Sequence[Group], key: str) -> bool:
    return len({stat.mean for group in groups if (stat := group.stat(key))}) > 1


def _heatmaps(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    numbers = numeric(groups, keys)
    rows = next((key for key in numbers if key in LAMBDAS), None)
    if rows is None or CODE_SIZE not in numbers:
        return
    found = series(groups, keys, (rows, CODE_SIZE))
    parts = [part for part in found if spans(part, rows) and spans(part, CODE_SIZE)]
    titles = named(parts, [key for key in keys if key not in (rows, CODE_SIZE)])
    for metric in metrics:
        grids = []
        for title, part in islice(titles.items(), PANELS):
            stats = {(value(group, rows), value(group, CODE_SIZE)): group.stat(metric.key) for group in part}
            best = _best(part)
            framed = (value(best, rows), value(best, CODE_SIZE)) if best else None
            grids.append(Grid(title, {cell: stat for cell, stat in stats.items() if stat}, framed))
        grids = [grid for grid in grids if grid.cells]
        if not grids:
            continue
        caption = f"{_title(metric)}, over {rows} (rows) and {CODE_SIZE} (columns), "
        caption += "mean ± standard deviation over seeds where there are several; hatched: no such run."
        if metric.better:
            caption += f" {metric.better.capitalize()} is better, and brighter."
        caption += " Framed: the best by validation." if any(grid.framed for grid in grids) else ""
        caption += further(len(titles) - PANELS, "combinations")
        figure = plots.heatmaps(grids, metric.title, metric.form, metric.better, (rows, CODE_SIZE))
        yield Chart(f"heatmap-{_slug(metric.label)}", caption, figure)


def _best(groups: Sequence[Group]) -> Group | None:
    """The best by validation, where it is better than the next."""
    found = ranked(groups)
    if found is None:
        return None
    (first, *others), val, _ = found
    means = [stat.mean for group in (first, *others[:1]) if (stat := group.stat(val.key))]
    return first if len(set(means)) == len(means) else None


def _lines(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    for key in numeric(groups, keys):
        everything = series(groups, keys, [key])
        parts = [part for part in everything if spans(part, key)]
        if parts:
            break
    else:
        return
    rest = [other for other in keys if other != key]
    apart = distinguishing([part[0] for part in everything], rest)
    for metric in metrics:
        if not any(_varies(part, metric.key) for part in parts):
            continue
        drawn, left_out = [], 0
        for title, members in panels_of(groups).items():
            ids = set(map(id, members))
            own = [part for part in parts if id(part[0]) in ids]
            shown = own[:SERIES]
            left_out += len(own) - len(shown)
            lines = {
                label: sorted((value(group, key), stat) for group in part if (stat := group.stat(metric.key)))
                for label, part in named(shown, rest).items()
            }
            lines = {label or metric.label: points for label, points in lines.items() if points}
            baselines = {
                label: flat for label, other in beside(metric.key).items() if (flat := _agreed(shown, key, other))
            }
            if lines:
                alone = name(own[0][0], apart) if len(own) == 1 else ""
                drawn.append(Panel(alone or title, lines, baselines))
        if drawn:
            caption = f"{_title(metric)} against {key}.{_bars(groups)}"
            caption += f" {metric.better.capitalize()} is better." if metric.better else ""
            caption += " Dashed grey: baselines of the same code size." if any(p.baselines for p in drawn) else ""
            caption += further(left_out, "lines") + fewer_datasets(groups)
            yield Chart(f"lines-{_slug(metric.label)}", caption, plots.lines(drawn, metric.title, key))


def _agreed(parts: Sequence[list[Group]], key: str, metric: str) -> list[tuple[Any, float]]:
    """A baseline against a config key, where it is the same for all lines."""
    found: dict[Any, set[float]] = {}
    for group in (group for part in parts for group in part):
        stat = group.stat(metric)
        if stat:
            found.setdefault(value(group, key), set()).add(stat.mean)
    if any(len(means) > 1 for means in found.values()):
        return []
    return sorted((x, mean) for x, means in found.items() for mean in means)


def beside(key: str) -> dict[str, str]:
    """The metrics that stand beside this one, by the name of the baseline."""
    stage, _, rest = key.partition("/")
    if rest.startswith("code/"):
        return {label: f"{stage}/{part}/{rest.removeprefix('code/')}" for label, part in BASELINES.items()}
    return {"PCA": f"{stage}/pca/{rest}"}


def _dots(groups: Sequence[Group], keys: Sequence[str], metric: Metric) -> Chart:
    panels, left_out = [], 0
    for title, part in panels_of(groups).items():
        stats = {index: stat for index, group in enumerate(part) if (stat := group.stat(metric.key))}
        order = sorted(stats, key=lambda index: stats[index].mean, reverse=metric.better == "higher")
        left_out += max(0, len(order) - DOTS)
        apart = distinguishing(part, keys)
        labels = _unique([name(part[index], apart) for index in order[:DOTS]])
        points = {label: [("", stats[index])] for label, index in zip(labels, order, strict=False)}
        baselines = {}
        for label, other in beside(metric.key).items():
            marks = [(line, part[index].stat(other)) for line, index in zip(labels, order, strict=False)]
            baselines[label] = [(line, stat.mean) for line, stat in marks if stat]
        if points:
            title += f"\nlabels: {', '.join(apart)}" if len(apart) > 1 else ""
            panels.append(Panel(title, points, {label: marks for label, marks in baselines.items() if marks}))
    caption = f"{_title(metric)}, the best on top.{_bars(groups)} Baselines beside each, where measured: "
    caption += "PCA of the same code size, the raw pixels, and an untrained encoder."
    caption += further(left_out, "groups") + fewer_datasets(groups)
    return Chart("families", caption, plots.dots(panels, metric.title))


def _pareto(front: Front, keys: Sequence[str]) -> Iterator[Chart]:
    groups = [*front.best, *front.dominated]
    apart = distinguishing(groups, keys)

    def points(part: Sequence[Group]) -> list[tuple[str, Stat, Stat]]:
        stats = [(name(group, apart), group.stat(front.x.key), group.stat(front.y.key)) for group in part]
        return sorted(((label, x, y) for label, x, y in stats if x and y), key=lambda point: point[1].mean)

    best, dominated = points(front.best), points(front.dominated)
    everything = [*best, *dominated]
    flat = any(
        len({stat.mean for stat in axis}) < 2 for axis in ([x for _, x, _ in everything], [y for *_, y in everything])
    )
    if not best or flat or len(everything) < 3:
        return
    baselines = {}
    for label, key in beside(front.y.key).items():
        levels = {stat.mean for group in groups if (stat := group.stat(key))}
        if levels:
            level = max(levels) if front.y.better == "higher" else min(levels)
            baselines[label if len(levels) == 1 else f"{label}, the best"] = level
    title = f"{front.scope}: " if front.scope else ""
    title += f"{front.y.label} against {front.x.label}"
    if apart:
        title += f"\nlabels: {', '.join(apart)}"
    caption = f"{_title(front.y)}, against {front.x.title}. On the joined front no other group is as good in both and "
    caption += f"better in one.{f' Faded: {len(dominated)} dominated.' if dominated else ''}{_bars(groups)}"
    faded = [(x, y) for _, x, y in dominated]
    figure = scatter.pareto(best, faded, baselines, (title, front.x.title, front.y.title))
    name_of = [front.x.label, front.y.label, front.scope]
    yield Chart("-".join(["pareto", *map(_slug, filter(None, name_of))]), caption, figure)


def _title(metric: Metric) -> str:
    return metric.title[0].upper() + metric.title[1:]


def _slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())


def _unique(labels: Sequence[str]) -> list[str]:
    return [label if label not in labels[:index] else f"{label} ({index})" for index, label in enumerate(labels)]
