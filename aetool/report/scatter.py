"""Figures of Pareto fronts, with labels that do not overlap."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from aetool.evaluation.catalogue import Metric
from aetool.measures.statistics import Stat
from aetool.report import layout
from aetool.report.groups import Group
from aetool.report.pareto import Front
from aetool.report.plots import PALETTE, Chart, baseline_style, legend, sheet, titled, wide

SIDES = (  # positions of a label around its point: offset in points, alignment
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (8, 8, "left", "bottom"),
    (-8, 8, "right", "bottom"),
    (8, -8, "left", "top"),
    (-8, -8, "right", "top"),
)
Point = tuple[str, Stat, Stat]  # label, x, y
SHIFT = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}  # fraction of the label before its anchor


def pareto(front: Front, keys: Sequence[str]) -> Iterator[Chart]:
    """The groups of a front, joined and labelled, and the dominated ones, faded; nothing where there are few."""
    groups = [*front.best, *front.dominated]
    naming = layout.minimal_keys(groups, keys)
    best, dominated = _points(front, front.best, naming), _points(front, front.dominated, naming)
    flat = not layout.differs(groups, front.x) or not layout.differs(groups, front.y)
    if not best or flat or len(best) + len(dominated) < 3:
        return
    title = f"{front.subset}: " if front.subset else ""
    title += f"{front.y.label} against {front.x.label}"
    title += f"\nlabels: {', '.join(naming)}" if naming else ""
    caption = (
        f"{layout.sentence(front.y)}, against {front.x.heading}: the Pareto front, and {len(dominated)} dominated "
    )
    caption += f"{'group' if len(dominated) == 1 else 'groups'} faded.{layout.error_bars(groups)}"
    figure, (axes,) = sheet(1, 1, 5.6, 4)
    for index, (label, level) in enumerate(_baselines(front.y, groups).items()):
        axes.axhline(level, label=label, zorder=1, **baseline_style(index))
    if dominated:
        _cloud(axes, dominated, label="dominated", fmt="o", mfc="white", color="#999999", alpha=0.8, zorder=2)
    _cloud(axes, best, label="Pareto front", fmt="o-", color=PALETTE[0], zorder=3)
    if wide([x.mean for _, x, _ in [*best, *dominated]]):
        axes.set_xscale("log")
    axes.margins(0.12)  # room for labels
    titled(axes, title, front.x.heading, front.y.heading)
    legend(axes)
    _annotate(figure, axes, best, dominated)
    words = [front.x.label, front.y.label, front.subset]
    yield Chart("-".join(["pareto", *map(layout.slug, filter(None, words))]), caption, figure)


def _points(front: Front, groups: Sequence[Group], naming: Sequence[str]) -> list[Point]:
    stats = [(layout.group_name(group, naming), group.stat(front.x.key), group.stat(front.y.key)) for group in groups]
    return sorted(((label, x, y) for label, x, y in stats if x and y), key=lambda point: point[1].mean)


def _baselines(metric: Metric, groups: Sequence[Group]) -> dict[str, float]:
    """The best level of each baseline."""
    found = {}
    for label, key in layout.baseline_keys(metric).items():
        levels = {stat.mean for group in groups if (stat := group.stat(key))}
        if levels:
            found[label if len(levels) == 1 else f"{label}, best"] = min(levels, key=metric.cost)
    return found


def _cloud(axes: Any, points: Sequence[Point], **looks: Any) -> None:
    _, x, y = zip(*points, strict=True)
    errors = {"xerr": [stat.std for stat in x], "yerr": [stat.std for stat in y]}
    axes.errorbar([s.mean for s in x], [s.mean for s in y], **errors, elinewidth=0.8, capsize=2, markersize=6, **looks)


def _annotate(figure: Any, axes: Any, front: Sequence[Point], dominated: Sequence[Point]) -> None:
    """Labels the front where there is room: no label covers another, a point or the legend; few cover the line."""
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    places = [axes.transData.transform((x.mean, y.mean)) for _, x, y in [*front, *dominated]]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    if axes.get_legend():
        taken.append(axes.get_legend().get_window_extent())
    line, frame, scale = Path(places[: len(front)]), axes.get_window_extent(), figure.dpi / 72
    for (label, x, y), (left, bottom) in zip(front, places, strict=False):
        note = axes.annotate(
            label, (x.mean, y.mean), (0, 0), textcoords="offset points", fontsize=8, parse_math=False, zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        note.set_in_layout(False)
        size = note.get_window_extent()
        for crossing, (dx, dy, horizontal, vertical) in product((False, True), SIDES):
            x0 = left + scale * dx - SHIFT[horizontal] * size.width
            y0 = bottom + scale * dy - SHIFT[vertical] * size.height
            box = Bbox.from_bounds(x0, y0, size.width, size.height)
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            free = crossing or not line.intersects_bbox(box, filled=False)
            if inside and free and not any(box.overlaps(other) for other in taken):
                note.set(position=(dx, dy), horizontalalignment=horizontal, verticalalignment=vertical)
                taken.append(box)
                break
        else:
            note.remove()
