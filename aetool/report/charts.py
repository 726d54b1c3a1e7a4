"""Which figures say something about a comparison, and how to read them; no torch."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from aetool.errors import UserError
from aetool.report import plots, scatter
from aetool.report.comparison import Comparison, Front
from aetool.report.groups import Group, Stat
from aetool.report.labels import distinguishing, name, split, value
from aetool.report.learning import losses
from aetool.report.metrics import PROBE, Metric
from aetool.report.plots import Curve, Grid, Panel

LAMBDAS, CODE_SIZE = ("penalty.weight", "penalty.target_l0"), "model.code_size"
CHOSEN = (
    f"{PROBE}/code/val_accuracy",
    f"{PROBE}/code/test_accuracy",
    f"{PROBE}/code/gain_over_pca",
    "finetune/test_accuracy",
    "evaluate/test/fvu",
    "evaluate/test/l0",
    "evaluate/test/dead_fraction",
)
REFERENCES = {"PCA": "pca", "pixels": "pixels", "random encoder": "random"}
PANELS = 6
SERIES = 12  # lines of one panel
DOTS = 40  # groups of one panel


class Chart(NamedTuple):
    """A figure and what stands under it."""

    name: str  # of its file
    caption: str  # what it shows and how to read it
    figure: Any  # matplotlib's Figure


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes the figures as PNG files; raises UserError when that fails."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in draw(comparison):
            paths.append(folder / f"{chart.name}.png")
            render(chart.figure, paths[-1], "png")
    except OSError as error:
        raise UserError(f"{folder}: figures cannot be written: {error}") from error
    return paths


def render(figure: Any, target: Any, form: str) -> None:
    """Writes a figure to a path or a file object, the same bytes each time."""
    from matplotlib import rc_context

    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} if form == "svg" else None
    with rc_context({"svg.hashsalt": "aetool"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(target, format=form, metadata=metadata)


def draw(comparison: Comparison) -> Iterator[Chart]:
    """The figures that say something here, one after the other."""
    groups = [group for group in comparison.groups if any(row["state"] == "completed" for row in group.rows)]
    metrics = {metric.key: metric for metric in comparison.metrics}
    chosen = [metrics[key] for key in CHOSEN if key in metrics and _varies(groups, key)]
    yield from _dots(groups, comparison.keys, [metric for metric in chosen if metric.key == CHOSEN[1]])
    drawn = False
    for chart in _heatmaps(groups, comparison.keys, chosen):
        drawn = True
        yield chart
    if not drawn:
        yield from _lines(groups, comparison.keys, chosen)
    for front in comparison.fronts:
        yield from _pareto(front, comparison.keys)
    yield from _curves(groups, comparison.keys)


def _bars(groups: Iterable[Group]) -> str:
    return " Error bars: one standard deviation over seeds." if any(len(group.rows) > 1 for group in groups) else ""


def _varies(groups: Sequence[Group], key: str) -> bool:
    return len({stat.mean for group in groups if (stat := group.stat(key))}) > 1


def _numeric(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """Config keys with several numbers, lambda and the code size first."""
    first = [key for key in (*LAMBDAS, CODE_SIZE) if key in keys]
    found = []
    for key in dict.fromkeys([*first, *keys]):
        values = [value(group, key) for group in groups]
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one) for one in values)
        if key != "seed" and numbers and len(set(values)) > 1:
            found.append(key)
    return found


def _series(groups: Sequence[Group], keys: Sequence[str], axes: Sequence[str]) -> list[list[Group]]:
    """Groups that differ along the axes alone; a number that follows from them is no difference of its own."""
    along = split(groups, axes)
    numeric = _numeric(groups, keys)
    follows = [key for key in numeric if all(len(split(same, [key])) == 1 for same in along.values())]
    others = [key for key in keys if key not in (*axes, *follows, "seed")]
    return list(split(groups, [*others, "model.name", "dataset.name"]).values())


def _named(parts: Sequence[list[Group]], keys: Sequence[str]) -> dict[str, list[Group]]:
    """Parts by what tells them apart."""
    apart = distinguishing([part[0] for part in parts], keys)
    return {name(part[0], apart): part for part in parts}


def _heatmaps(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    numeric = _numeric(groups, keys)
    rows = next((key for key in numeric if key in LAMBDAS), None)
    if rows is None or CODE_SIZE not in numeric:
        return
    found = _series(groups, keys, (rows, CODE_SIZE))
    parts = [part for part in found if _spans(part, rows) and _spans(part, CODE_SIZE)]
    named = _named(parts, [key for key in keys if key not in (rows, CODE_SIZE)])
    for metric in metrics:
        grids = []
        for title, part in islice(named.items(), PANELS):
            stats = {(value(group, rows), value(group, CODE_SIZE)): group.stat(metric.key) for group in part}
            grids.append(Grid(title, {cell: stat for cell, stat in stats.items() if stat}))
        grids = [grid for grid in grids if grid.cells]
        if not grids:
            continue
        caption = f"{_title(metric)} over {rows} (rows) and {CODE_SIZE} (columns), "
        caption += "mean ± standard deviation over seeds where there are several; hatched: no such run."
        if metric.better:
            caption += f" {metric.better.capitalize()} is better: brighter cells are better, the best is framed."
        caption += _left_out(len(named) - PANELS, "further combinations")
        figure = plots.heatmaps(grids, metric.title, metric.form, metric.better, (rows, CODE_SIZE))
        yield Chart(f"heatmap-{_slug(metric.label)}", caption, figure)


def _spans(part: Sequence[Group], key: str) -> bool:
    return len({str(value(group, key)) for group in part}) > 1


def _lines(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    for key in _numeric(groups, keys):
        parts = [part for part in _series(groups, keys, [key]) if _spans(part, key)]
        if parts:
            break
    else:
        return
    rest = [other for other in keys if other != key]
    panels = _by_dataset([part[0] for part in parts])
    for metric in metrics:
        drawn, left_out = [], 0
        for title, heads in panels.items():
            own = [part for part in parts if part[0] in heads]
            shown = own[:SERIES]
            left_out += len(own) - len(shown)
            series = {
                label: sorted((value(group, key), stat) for group in part if (stat := group.stat(metric.key)))
                for label, part in _named(shown, rest).items()
            }
            series = {label or metric.label: points for label, points in series.items() if points}
            members = sorted((value(group, key), index) for index, group in enumerate(shown[0]))
            references = {
                label: [(x, stat.mean) for x, index in members if (stat := shown[0][index].stat(other))]
                for label, other in beside(metric.key).items()
            }
            agree = len({value(part[0], "model.code_size") for part in shown}) == 1 or key == CODE_SIZE
            found = {label: flat for label, flat in references.items() if flat and (agree or label == "pixels")}
            if series:
                drawn.append(Panel(title, series, found))
        if drawn:
            caption = f"{_title(metric)} against {key}.{_bars(groups)}"
            caption += f" {metric.better.capitalize()} is better." if metric.better else ""
            caption += " Dashed grey: references of the same code size." if any(p.references for p in drawn) else ""
            caption += _left_out(left_out, "further lines")
            yield Chart(f"lines-{_slug(metric.label)}", caption, plots.lines(drawn, metric.title, key))


def _by_dataset(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by dataset, at most as many as there is room for; the title is empty where there is one."""
    found = split(groups, ["dataset.name"])
    return {title if len(found) > 1 else "": part for (title,), part in islice(found.items(), PANELS)}


def beside(key: str) -> dict[str, str]:
    """The metrics that stand beside this one, by the name of the reference."""
    stage, _, rest = key.partition("/")
    if rest.startswith("code/"):
        return {label: f"{stage}/{part}/{rest.removeprefix('code/')}" for label, part in REFERENCES.items()}
    return {"PCA": f"{stage}/pca/{rest}"}


def _dots(groups: Sequence[Group], keys: Sequence[str], metrics: Sequence[Metric]) -> Iterator[Chart]:
    if len({value(group, "model.name") for group in groups}) < 3:
        return
    for metric in metrics:
        panels, left_out = [], 0
        for title, part in _by_dataset(groups).items():
            stats = {index: stat for index, group in enumerate(part) if (stat := group.stat(metric.key))}
            ranked = sorted(stats, key=lambda index: stats[index].mean, reverse=True)
            left_out += max(0, len(ranked) - DOTS)
            labels = _unique([name(part[index], distinguishing(part, keys)) for index in ranked[:DOTS]])
            series = {label: [("", stats[index])] for label, index in zip(labels, ranked, strict=False)}
            references = {}
            for label, other in beside(metric.key).items():
                marks = [(line, part[index].stat(other)) for line, index in zip(labels, ranked, strict=False)]
                references[label] = [(line, stat.mean) for line, stat in marks if stat]
            if series:
                panels.append(Panel(title, series, {label: marks for label, marks in references.items() if marks}))
        if panels:
            caption = (
                f"{_title(metric)}, sorted.{_bars(groups)} References beside each: PCA of the same code size, the raw "
            )
            caption += "pixels, and an untrained encoder, where measured." + _left_out(left_out, "further groups")
            yield Chart("families", caption, plots.dots(panels, metric.title))


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
    references = {}
    for label, key in beside(front.y.key).items():
        levels = {stat.mean for group in groups if (stat := group.stat(key))}
        if levels:
            level = max(levels) if front.y.better == "higher" else min(levels)
            references[label if len(levels) == 1 else f"{label}, the best"] = level
    title = f"{front.scope}: " if front.scope else ""
    title += f"{front.y.label} against {front.x.label}"
    if apart:
        title += f"\nlabels: {', '.join(apart)}"
    caption = f"{_title(front.y)}, against {front.x.title}. On the joined front no other group is as good in both and "
    caption += f"better in one.{f' Faded: {len(dominated)} dominated.' if dominated else ''}{_bars(groups)}"
    faded = [(x, y) for _, x, y in dominated]
    figure = scatter.pareto(best, faded, references, (title, front.x.title, front.y.title))
    name_of = [front.x.label, front.y.label, front.scope]
    yield Chart("-".join(["pareto", *map(_slug, filter(None, name_of))]), caption, figure)


def _curves(groups: Sequence[Group], keys: Sequence[str]) -> Iterator[Chart]:
    numeric = _numeric(groups, keys)
    apart = [key for key in distinguishing(groups, keys) if key != "dataset.name"]
    chosen = next((key for key in (*LAMBDAS, "model.name", *apart) if key in apart), None)
    order = sorted({value(group, chosen) for group in groups}) if chosen in numeric else []
    part = "loss/reconstruction" if _spans(groups, "penalty.weight") else "loss"
    runs = []
    for panel, own in _by_dataset(groups).items():
        for group in own:
            found = value(group, chosen) if chosen else ""
            rank = order.index(found) / (len(order) - 1) if order else None
            for row in group.rows:
                points = losses(Path(row["directory"]) / "metrics.jsonl", part)
                if any(len(curve) > 1 for curve in points.values()):
                    runs.append(Curve(panel, name(group, [chosen]) if chosen else "", rank, points))
    runs.sort(key=lambda run: run.rank or 0)
    if not runs:
        return
    caption = "Learning curves, a line a run. "
    caption += f"Colour: {chosen}; seeds have the same. " if chosen else ""
    if part == "loss/reconstruction":
        caption += "The reconstruction term alone: the whole loss holds lambda times the penalty, and lambda differs. "
    caption += "Compare levels only where the loss and the dataset are the same."
    height = "reconstruction loss" if part == "loss/reconstruction" else "loss"
    yield Chart("curves", caption, plots.curves(runs, height, chosen or ""))


def _title(metric: Metric) -> str:
    return metric.title[0].upper() + metric.title[1:]


def _slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())


def _unique(labels: Sequence[str]) -> list[str]:
    return [label if label not in labels[:index] else f"{label} ({index})" for index, label in enumerate(labels)]


def _left_out(count: int, what: str) -> str:
    return f" {count} {what} are left out." if count > 0 else ""
