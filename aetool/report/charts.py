"""The figures of a comparison; no torch."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aetool.evaluation.background import figure_process
from aetool.evaluation.catalogue import FIGURE, SELECTION
from aetool.files import make_folder
from aetool.report import heatmaps, layout, learning, lines, plots, scatter
from aetool.report.comparison import Comparison
from aetool.report.groups import is_finetune
from aetool.report.plots import Chart

log = logging.getLogger("aetool")


@contextmanager
def saving(figures: Iterable[Chart], folder: Path) -> Iterator[None]:
    """Writes figures as PNG files in the process that draws, while the block runs; warns of those that cannot be drawn.

    Raises WriteError.
    """
    make_folder(folder)
    submit = figure_process().submit
    drawn = [(path := folder / f"{one.name}.png", submit(plots.save, one.figure, path.absolute())) for one in figures]
    yield
    for path, one in drawn:
        if (problem := one.result()) is not None:
            log.warning(f"{path} could not be drawn: {problem}")


def draw(comparison: Comparison) -> Iterator[Chart]:
    """The figures in which something differs, one by one."""
    groups, keys = comparison.groups, comparison.keys
    chosen = [one for one in comparison.metrics if FIGURE in one.shown and layout.differs(groups, one)]
    main = next((test for _, test in SELECTION if test in comparison.metrics), None)
    if main in chosen and layout.compares_models(groups):
        yield lines.models(groups, keys, main)
    drawn = False
    for chart in heatmaps.heatmaps(groups, keys, chosen):
        drawn = True
        yield chart
    if not drawn:
        yield from lines.lines(groups, keys, chosen)
    for front in comparison.fronts:
        yield from scatter.pareto(front, keys)
    yield from learning.curves([group for group in groups if not is_finetune(group)], keys, "curves")
    yield from learning.curves([group for group in groups if is_finetune(group)], keys, "curves-fine-tuning")
