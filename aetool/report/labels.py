"""Test accuracy against the number of labels: the table, the figure, and whether pretraining pays off; no torch."""

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aetool.console import PlainConsole
from aetool.files import write_text
from aetool.measures.statistics import (
    CONFIDENCE,
    Interval,
    Stat,
    difference,
    holm,
    least_clear,
    means,
    paired_accuracy_interval,
)
from aetool.report import charts
from aetool.report.plots import BESIDE, Chart, legend, sheet, style, titled
from aetool.report.tables import Column, markdown, markdown_text, print_measures, write_csv

NAMES = {  # of classifiers, in the order of tables: what each is
    "code": "the frozen code",
    "fine-tuned": "fine-tuning",
    "scratch": "training from scratch",
    "untrained": "the untrained encoder",
    "PCA": "PCA",
    "pixels": "pixels",
}
PRETRAINED = ("code", "fine-tuned")
SEEDLESS = ("PCA", "pixels")  # the same for every seed of the run
NOTE = (
    f"Differences in points, each with that of its {100 * CONFIDENCE:.0f} % intervals over seeds, label draws and test "
    "images in which it is least clear; significance after Holm's correction over the comparisons of a line."
)

Budget = int | None  # labels per class; None: all


class Accuracies(NamedTuple):
    """Results of a classifier under one label budget."""

    val: list[float]  # validation accuracies
    correct: dict[tuple[int, int], NDArray[np.bool_]]  # test images, (N,), by seed of the run and label draw


Curves = dict[Budget, dict[str, Accuracies]]  # by budget, ascending, and by classifier


def budget_name(budget: Budget) -> str:
    return "all" if budget is None else str(budget)


def described(budget: Budget) -> str:
    """`10 labels per class`."""
    return "all labels" if budget is None else f"{budget} label{'s' * (budget > 1)} per class"


def stat(name: str, tested: Accuracies) -> Stat:
    """Test accuracy over seeds and label draws."""
    values = {(0 if name in SEEDLESS else seed, draw): one.mean() for (seed, draw), one in tested.correct.items()}
    return Stat.of(list(map(float, values.values())))


def sentences(curves: Curves) -> Iterator[str]:
    """For every budget, whether the pretrained classifier with the best validation accuracy beats all others."""
    for budget, found in curves.items():
        best = max((name for name in PRETRAINED if name in found), key=lambda name: statistics.fmean(found[name].val))
        rivals = [name for name in NAMES if name in found and name not in PRETRAINED]
        gaps = [_gap(found[best], found[name]) for name in rivals]
        said: dict[str, list[str]] = {"better than": [], "worse than": [], "not significantly different from": []}
        for name, gap, p in zip(rivals, gaps, holm([gap.p for gap in gaps]), strict=True):
            clear = p <= 1 - CONFIDENCE
            verdict = list(said)[0 if clear and gap.mean > 0 else 1 if clear else 2]
            bounds = f"{100 * max(gap.low, -1):+.1f} to {100 * min(gap.high, 1):+.1f}"
            said[verdict].append(f"{NAMES[name]} ({100 * gap.mean:+.1f}, {bounds})")
        if rivals:
            parts = [f"{verdict} {', '.join(names)}" for verdict, names in said.items() if names]
            yield f"{described(budget)}: {NAMES[best]} is {'; '.join(parts)}"


def _gap(first: Accuracies, second: Accuracies) -> Interval:
    """The difference in test accuracy, with the least conclusive interval: over seeds, draws, or test images."""
    images = (np.mean(list(one.correct.values()), axis=0).tolist() for one in (first, second))
    over_images = paired_accuracy_interval(*images)
    over = (difference(_means(first, axis), _means(second, axis)) for axis in (0, 1))
    return least_clear(over_images, *over) or over_images


def _means(tested: Accuracies, axis: int) -> dict[int, float]:
    """Test accuracy by seed (axis 0) or by label draw (1)."""
    return means((key[axis], float(images.mean())) for key, images in tested.correct.items())


def heading(curves: Curves) -> str:
    """Explanation of the numbers in the table."""
    keys = {key for found in curves.values() for tested in found.values() for key in tested.correct}
    seeds, draws = (len({key[axis] for key in keys}) for axis in (0, 1))
    over = f"{seeds} seed{'s' * (seeds > 1)}, {draws} label draw{'s' * (draws > 1)}"
    return f"test accuracy in %, mean ± std ({over}), by labels per class"


def print_curves(curves: Curves) -> None:
    """The table, and one sentence per budget."""
    lines = {
        budget_name(budget): {name: _cell(stat(name, found[name]), ".1f", "±") for name in NAMES if name in found}
        for budget, found in curves.items()
    }
    print_measures(heading(curves), lines)
    console = PlainConsole()
    for sentence in (said := list(sentences(curves))):
        console.print(f"• {sentence}")
    if said:
        console.print(NOTE, style="dim")


def _cell(found: Stat, form: str, sign: str) -> str:
    mean, std = (format(100 * value, form) for value in found[:2])
    return f"{mean}{sign}{std}" if found.n > 1 else mean


def write_curves(curves: Curves, folder: Path, title: str, images: float, command: str) -> Iterable[str]:
    """table.csv, table.md and labels.png in the folder; `images` is the number of training images per class.

    Returns the names of the files. Raises UserError if they cannot be written.
    """
    rows = [
        {"labels_per_class": budget_name(budget), "classifier": name}
        | dict(zip(("test_accuracy", "std", "n"), stat(name, tested), strict=True))
        | {"val_accuracy": statistics.fmean(tested.val)}
        for budget, found in curves.items()
        for name, tested in found.items()
    ]
    with charts.saving([draw(curves, title, images)], folder):
        write_csv(folder / "table.csv", rows)
        write_text(folder / "table.md", _markdown(curves, title, command), "replace")
    return "table.csv", "table.md", "labels.png"


def _markdown(curves: Curves, title: str, command: str) -> str:
    columns = [Column("labels per class", list(map(budget_name, curves)))]
    for name in NAMES:
        if any(name in found for found in curves.values()):
            cells = [_cell(stat(name, found[name]), ".2f", " ± ") if name in found else "" for found in curves.values()]
            columns.append(Column(name, cells))
    said = [f"- {sentence}\n" for sentence in sentences(curves)]
    notes = ["\n", *said, f"\n{NOTE}\n"] if said else []
    head, end = markdown_text(f"{title}: {heading(curves)}"), markdown_text(f"`{command}`")
    return f"{head}\n\n{markdown(columns)}{''.join(notes)}\n{end}\n"


def draw(curves: Curves, title: str, images: float) -> Chart:
    """Accuracies on a logarithmic axis, with all labels at its right end.

    Bands show one standard deviation to either side; a single budget has bars.
    """
    figure, (axes,) = sheet(1, 1, 7.2, 4.2)
    largest = max((budget for budget in curves if budget is not None), default=1)
    places = {budget: max(images, 2.0 * largest) if budget is None else float(budget) for budget in curves}
    for index, name in enumerate(NAMES):
        stats = {places[budget]: stat(name, found[name]) for budget, found in curves.items() if name in found}
        if stats:
            mean, std = (100 * np.array([one[axis] for one in stats.values()]) for axis in (0, 1))
            looks = style(index) | {"linestyle": "-" if name in PRETRAINED else "--"}
            bars = std if len(stats) == 1 else None  # a band would have no width
            axes.errorbar(list(stats), mean, bars, marker="o", markersize=4, label=NAMES[name], **looks)
            axes.fill_between(list(stats), mean - std, mean + std, color=looks["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(list(places.values()), list(map(budget_name, places)))
    titled(axes, title, "labels per class", "test accuracy, %")
    legend(axes, **BESIDE)
    return Chart("labels", "Test accuracy over the number of labels; bands or bars: one standard deviation.", figure)
