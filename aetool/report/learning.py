"""Learning curves, read from the records of runs and overlaid."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from aetool.report import layout
from aetool.report.groups import Group, directory, is_finetune, number
from aetool.report.plots import BESIDE, PALETTE, STYLES, Chart, legend, sheet, style, titled

POINTS = 200  # of a curve
DASHES = ("-", "--", ":", "-.")
STAGES = ("pretrain", "finetune")  # of which a run has one
Losses = dict[str, list[tuple[float, float]]]  # (step, loss) by split


class Curve(NamedTuple):
    """The losses of one run."""

    label: str
    dash: str  # what it differs in from others of its label
    rank: float | None  # in [0, 1] where the runs have an order
    points: Losses


def curves(groups: Sequence[Group], keys: Sequence[str], file: str) -> Iterator[Chart]:
    """The learning curves of all runs in one figure, if there are any."""
    candidates = [key for key in layout.minimal_keys(groups, keys) if key != "dataset.name"]
    first = ("model.name", *layout.LAMBDAS) if layout.compares_models(groups) else (*layout.LAMBDAS, "model.name")
    coloured = next((key for key in (*first, *candidates) if key in candidates), None)
    ordered = coloured is not None and coloured in layout.numeric_keys(groups, keys)
    order = sorted({layout.numeric(group, coloured) for group in groups}) if ordered and coloured else []
    penalties_differ = layout.varies(groups, "penalty.weight") or layout.varies(groups, "penalty")
    rest = [key for key in candidates if key != coloured]
    dashes = list(dict.fromkeys(layout.group_name(group, rest) for group in groups)) if rest else []
    cycled = not ordered and len(layout.split_by(groups, [coloured] if coloured else [])) > len(PALETTE)
    if len(dashes) > len(DASHES) or cycled:
        dashes = []
    part = "loss/reconstruction" if penalties_differ else "loss"
    panels: dict[str, list[Curve]] = {}
    for panel, own in layout.panels(groups).items():
        for group in own:
            rank = order.index(layout.numeric(group, coloured)) / (len(order) - 1) if order and coloured else None
            label = layout.group_name(group, [coloured]) if coloured else ""
            for row in group.rows:
                points = losses(directory(row) / "metrics.jsonl", part)
                if any(len(curve) > 1 for curve in points.values()):
                    dash = layout.group_name(group, rest) if dashes else ""
                    panels.setdefault(panel, []).append(Curve(label, dash, rank, points))
    if not panels:
        return
    caption = f"Learning curves{' of fine-tuning' if is_finetune(groups[0]) else ''}, one line per run. "
    caption += f"Colour: {coloured}; seeds share a colour. " if coloured else ""
    caption += f"{'Dashes' if dashes else 'Not told apart'}: {', '.join(rest)}. " if rest else ""
    caption += "Reconstruction loss only, without the penalty. " if penalties_differ else ""
    caption += "Levels compare only between runs with the same loss and dataset." + layout.omitted_panels(groups)
    title = "reconstruction loss" if penalties_differ else "loss"
    yield Chart(file, caption, _draw(panels, title, coloured or "", ", ".join(rest) if dashes else ""))


def _draw(panels: Mapping[str, list[Curve]], title: str, key: str, dashed: str) -> Any:
    """Training and validation loss over steps: a line for each run, a row of axes for each panel.

    Colour encodes `key`, dashes encode `dashed`.
    """
    dashes = list(dict.fromkeys(run.dash for runs in panels.values() for run in runs))
    everything = [run.points for runs in panels.values() for run in runs]
    splits = [split for split in ("training", "validation") if any(len(one.get(split, [])) > 1 for one in everything)]
    figure, places = sheet(len(panels) * len(splits), len(splits), 4.6, 3.4)
    for axes, ((panel, runs), split) in zip(places, product(panels.items(), splits), strict=True):
        several = _lines(axes, sorted(runs, key=lambda run: run.rank or 0), split, dashes)
        titled(axes, f"{panel}: {split}" if panel else split, "step", title if split == splits[0] else "")
        if split == splits[-1] and several:
            if dashed:
                axes.plot([], [], color="none", label=dashed)
                for dash, pattern in zip(dashes, DASHES, strict=False):
                    axes.plot([], [], color="#777777", linestyle=pattern, linewidth=1, label=dash)
            legend(axes, key, **BESIDE)
    return figure


def _lines(axes: Any, runs: Sequence[Curve], split: str, dashes: Sequence[str]) -> bool:
    """Returns whether there are several labels."""
    from matplotlib import colormaps

    labels = list(dict.fromkeys(run.label for run in runs))
    entries = len(PALETTE) * len(STYLES) if runs[0].rank is None else 10
    shown = set(labels[:: math.ceil(len(labels) / entries)])
    heights = []
    for run in runs:
        points = run.points.get(split)
        if points:
            looks = style(labels.index(run.label))
            if run.rank is not None:
                looks = {"color": colormaps["viridis"](0.92 * run.rank), "linestyle": "-"}
            if len(dashes) > 1:
                looks["linestyle"] = DASHES[dashes.index(run.dash)]
            label = run.label if run.label in shown else None
            shown.discard(run.label)  # one entry for all seeds
            heights += [loss for _, loss in points]
            axes.plot(*zip(*points, strict=True), label=label, **looks, alpha=0.8, linewidth=1)
    if heights and min(heights) > 0:
        axes.set_yscale("log")
    return bool(heights) and len(labels) > 1


def losses(path: Path, part: str) -> Losses:
    """The training losses in a metrics.jsonl, subsampled; `part` is `loss` or a part of it.

    Empty if there are none; malformed lines are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    names = {"training": f"train/{part}", "validation": f"val/{part}"}
    found: Losses = {split: [] for split in names}
    for line in lines:
        try:
            row = json.loads(line)
            step, stage = row["step"], row["stage"]
        except (ValueError, KeyError, TypeError):
            continue
        for split, name in names.items():
            loss = number(row.get(name))
            if stage in STAGES and loss is not None:
                found[split].append((step, loss))
    return {split: points[:: math.ceil(len(points) / POINTS)] for split, points in found.items() if points}
