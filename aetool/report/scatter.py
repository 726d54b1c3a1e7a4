"""Drawing of a Pareto front, with labels that do not overlap. No pyplot, no global state."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from aetool.measures.statistics import Stat
from aetool.report.plots import PALETTE, legend, sheet, titled, wide

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
SHIFT = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}  # fraction of the label before its anchor


def pareto(
    front: Sequence[tuple[str, Stat, Stat]], dominated: Sequence[tuple[Stat, Stat]], baselines: dict[str, float],
    titles: tuple[str, str, str],
) -> Any:  # fmt: skip
    """Points (x, y) with error bars: the front joined and labelled, dominated points faded."""
    figure, (axes,) = sheet(1, 1, 5.6, 4)
    for index, (label, level) in enumerate(baselines.items()):
        dash = ("--", "-.", ":")[index % 3]
        axes.axhline(level, color="#777777", linestyle=dash, linewidth=1.2, label=label, zorder=1)
    if dominated:
        _cloud(axes, dominated, label="dominated", fmt="o", mfc="white", color="#999999", alpha=0.8, zorder=2)
    points = [(x, y) for _, x, y in front]
    _cloud(axes, points, label="Pareto front", fmt="o-", color=PALETTE[0], zorder=3)
    if wide([x.mean for x, _ in [*points, *dominated]]):
        axes.set_xscale("log")
    axes.margins(0.12)  # room for labels
    axes.grid(alpha=0.3)
    titled(axes, titles[0], titles[1], titles[2])
    legend(axes)
    _annotate(figure, axes, front, dominated)
    return figure


def _cloud(axes: Any, points: Sequence[tuple[Stat, Stat]], **looks: Any) -> None:
    x, y = zip(*points, strict=True)
    errors = {"xerr": [stat.std for stat in x], "yerr": [stat.std for stat in y]}
    axes.errorbar([s.mean for s in x], [s.mean for s in y], **errors, elinewidth=0.8, capsize=2, markersize=6, **looks)


def _annotate(
    figure: Any, axes: Any, front: Sequence[tuple[str, Stat, Stat]], dominated: Sequence[tuple[Stat, Stat]]
) -> None:
    """Labels the front where there is room: no label covers another, a point or the legend; few cover the line."""
    from matplotlib.path import Path
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    everything = [(x, y) for _, x, y in front] + list(dominated)
    places = [axes.transData.transform((x.mean, y.mean)) for x, y in everything]
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
