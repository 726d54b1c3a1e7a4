"""Learning curves: read from the records of runs, and laid over each other."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from aetool.report import layout, plots
from aetool.report.groups import Group, directory, is_finetune
from aetool.report.plots import Chart, Curve

POINTS = 200  # of a curve
STAGES = ("pretrain", "finetune")  # of which a run has one
Losses = dict[str, list[tuple[float, float]]]  # (step, loss) by split


def curves(groups: Sequence[Group], keys: Sequence[str], file: str) -> Iterator[Chart]:
    """The learning curves of all runs in one figure, if there are any."""
    candidates = [key for key in layout.minimal_keys(groups, keys) if key != "dataset.name"]
    first = ("model.name", *layout.LAMBDAS) if layout.compares_models(groups) else (*layout.LAMBDAS, "model.name")
    coloured = next((key for key in (*first, *candidates) if key in candidates), None)
    ordered = coloured is not None and coloured in layout.numeric_keys(groups, keys)
    order = sorted({layout.numeric(group, coloured) for group in groups}) if ordered and coloured else []
    penalties_differ = layout.varies(groups, "penalty.weight") or layout.varies(groups, "penalty")
    part = "loss/reconstruction" if penalties_differ else "loss"
    runs = []
    for panel, own in layout.panels(groups).items():
        for group in own:
            rank = order.index(layout.numeric(group, coloured)) / (len(order) - 1) if order and coloured else None
            for row in group.rows:
                points = losses(directory(row) / "metrics.jsonl", part)
                if any(len(curve) > 1 for curve in points.values()):
                    runs.append(Curve(panel, layout.group_name(group, [coloured]) if coloured else "", rank, points))
    runs.sort(key=lambda run: run.rank or 0)
    if not runs:
        return
    caption = f"Learning curves{' of fine-tuning' if is_finetune(groups[0]) else ''}, one line per run. "
    caption += f"Colour: {coloured}; seeds share a colour. " if coloured else ""
    caption += "Reconstruction loss only, without the penalty. " if penalties_differ else ""
    caption += "Levels compare only between runs with the same loss and dataset." + layout.omitted_panels(groups)
    title = "reconstruction loss" if penalties_differ else "loss"
    yield Chart(file, caption, plots.curves(runs, title, coloured or ""))


def losses(path: Path, part: str) -> Losses:
    """The losses of training in a metrics.jsonl, thinned out; `part` is `loss` or a part of it.

    Empty if there are none; malformed lines are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: Losses = {"training": [], "validation": []}
    for line in lines:
        try:
            row = json.loads(line)
            pairs = [(row["step"], row.get(f"train/{part}")), (row["step"], row.get(f"val/{part}"))]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for points, (step, loss) in zip(found.values(), pairs, strict=True):
            if row.get("stage") in STAGES and isinstance(loss, int | float) and math.isfinite(loss):
                points.append((step, loss))
    return {split: points[:: math.ceil(len(points) / POINTS)] for split, points in found.items() if points}
