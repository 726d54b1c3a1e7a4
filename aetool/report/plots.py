"""Shared by figures over many runs: style, axes, legends and files. No pyplot, no global state."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aetool import faults
from aetool.files import replacing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")  # Okabe and Ito 2008
STYLES = ("-", "--", ":")
BASELINE_STYLES = ("--", "-.", ":")
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}  # a legend right of its axes
TITLE = 60  # characters of a line of a title
WIDE = 50, 1e6  # a scale is logarithmic if largest / smallest value is between these


class Chart(NamedTuple):
    name: str  # file name without its suffix
    caption: str  # what it shows and how to read it
    figure: Any  # matplotlib's Figure


def save(figure: Any, path: Path) -> None:
    """Writes a figure to a PNG file; raises WriteError."""
    with replacing(path) as temporary:
        faults.point("figure")
        render(figure, temporary, "png")


def render(figure: Any, target: Any, form: str) -> None:
    """Writes a figure to a path or a file object, the same bytes each time."""
    from matplotlib import rc_context

    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} if form == "svg" else None
    with rc_context({"svg.hashsalt": "aetool"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(target, format=form, metadata=metadata)


def sheet(count: int, columns: int, width: float, height: float, title: str = "") -> tuple[Any, list[Any]]:
    """A figure with `count` axes in rows of `columns`, each of this size in inches."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), dpi=120, layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places[count:]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure, places[:count]


def titled(axes: Any, title: str, x: str = "", y: str = "", grid: bool = True) -> None:
    lines = [textwrap.fill(line, TITLE) for line in title.split("\n")]
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    if grid:
        axes.grid(alpha=0.3)


def wide(values: Sequence[float]) -> bool:
    """Whether values are drawn on a logarithmic scale."""
    return min(values) > 0 and WIDE[0] < max(values) / min(values) < WIDE[1]


def style(index: int) -> dict[str, Any]:
    """Colour and dash of a series: 21 distinct combinations."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index // len(PALETTE) % len(STYLES)]}


def baseline_style(index: int) -> dict[str, Any]:
    return {"color": "#777777", "linestyle": BASELINE_STYLES[index % len(BASELINE_STYLES)], "linewidth": 1.2}


def legend(axes: Any, title: str = "", **place: Any) -> None:
    """Lines without error bars, such as baselines, last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: hasattr(handles[index], "get_linestyle"))
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    drawn = axes.legend(handles, labels, title=title or None, fontsize=8, title_fontsize=8, framealpha=0.9, **place)
    for words in [*drawn.get_texts(), drawn.get_title()]:
        words.set_parse_math(False)
