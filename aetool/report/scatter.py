"""Figures of Pareto fronts with non-overlapping labels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from aetool.evaluation.catalogue import Metric
from aetool.measures.statistics import Stat
from aetool.report import layout
from aetool.report.groups import Group
from aetool.report.pareto import Front
from aetool.report.plots import BESIDE, PALETTE, Chart, baseline_style, legend, sheet, titled, wide

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
    """The groups of a front, joined and labelled, and the dominated ones, faded; nothing if there are few."""
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
    figure, (axes,) = sheet(1, 1, 6.8, 4)
    baselines = _baselines(front.y, groups)
    for index, (label, level) in enumerate(baselines.items()):
        axes.axhline(level, label=label, zorder=1, **baseline_style(index))
    if dominated:
        _cloud(axes, dominated, label="dominated", fmt="o", mfc="white", color="#999999", alpha=0.8, zorder=2)
    _cloud(axes, best, label="Pareto front", fmt="o-", color=PALETTE[0], zorder=3)
    if wide([x.mean for _, x, _ in [*best, *dominated]]):
        axes.set_xscale("log")
    axes.margins(0.12)  # room for labels
    titled(axes, title, front.x.heading, front.y.heading)
    legend(axes, **BESIDE)
    unnamed = _annotate(figure, axes, best, dominated, list(baselines.values()))
    caption += f" {unnamed} of the front are without a label: there is no room." if unnamed else ""
    words = [front.x.label, front.y.label, front.subset]
    yield Chart("-".join(["pareto", *map(layout.slug, filter(None, words))]), caption, figure)


def _points(front: Front, groups: Sequence[Group], naming: Sequence[str]) -> list[Point]:
    stats = [(layout.group_name(group, naming), group.stat(front.x.key), group.stat(front.y.key)) for group in groups]
    return sorted(((label, x, y) for label, x, y in stats if x and y), key=lambda point: point[1].mean)


def _baselines(metric: Metric, groups: Sequence[Group]) -> dict[str, float]:
    """The best level of each baseline; those at the same level are one line."""
    found: dict[float, list[str]] = {}
    for label, key in layout.baseline_keys(metric).items():
        levels = {stat.mean for group in groups if (stat := group.stat(key))}
        if levels:
            found.setdefault(min(levels, key=metric.cost), []).append(label if len(levels) == 1 else f"best {label}")
    return {", ".join(labels): level for level, labels in found.items()}


def _cloud(axes: Any, points: Sequence[Point], **looks: Any) -> None:
    _, x, y = zip(*points, strict=True)
    errors = {"xerr": [stat.std for stat in x], "yerr": [stat.std for stat in y]}
    axes.errorbar([s.mean for s in x], [s.mean for s in y], **errors, elinewidth=0.8, capsize=2, markersize=6, **looks)


def _annotate(
    figure: Any, axes: Any, front: Sequence[Point], dominated: Sequence[Point], levels: Sequence[float]
) -> int:
    """Labels the front where there is room: no label overlaps another label, a point, a line or an error bar.

    Every label is nearer to its own point than to any other. `levels` are those of the lines across. Returns how many
    points are left without a label.
    """
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    place, points, unnamed = axes.transData.transform, [*front, *dominated], 0
    places = [place((x.mean, y.mean)) for _, x, y in points]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    frame, scale = axes.get_window_extent(), figure.dpi / 72
    lines = [Path(places[: len(front)])]
    lines += [Path([(frame.x0, y), (frame.x1, y)]) for _, y in (place((points[0][1].mean, level)) for level in levels)]
    for _, x, y in points:
        left_end = max(x.mean - x.std, axes.get_xlim()[0])  # a logarithmic axis has no zero
        lines.append(Path(place([(left_end, y.mean), (x.mean + x.std, y.mean)])))
        lines.append(Path(place([(x.mean, y.mean - y.std), (x.mean, y.mean + y.std)])))
    for (label, x, y), at in zip(front, places, strict=False):
        note = axes.annotate(
            label, (x.mean, y.mean), (0, 0), textcoords="offset points", fontsize=8, parse_math=False, zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        note.set_in_layout(False)
        size = note.get_window_extent()
        for dx, dy, horizontal, vertical in SIDES:
            x0 = at[0] + scale * dx - SHIFT[horizontal] * size.width
            y0 = at[1] + scale * dy - SHIFT[vertical] * size.height
            box = Bbox.from_bounds(x0, y0, size.width, size.height)
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            free = not any(line.intersects_bbox(box, filled=False) for line in lines)
            nearest = all(_distance(box, at) <= _distance(box, other) for other in places)
            if inside and free and nearest and not any(box.overlaps(other) for other in taken):
                note.set(position=(dx, dy), horizontalalignment=horizontal, verticalalignment=vertical)
                taken.append(box)
                break
        else:
            note.remove()
            unnamed += 1
    return unnamed


def _distance(box: Any, place: Any) -> float:
    """From a box to a place outside it."""
    x, y = place
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
