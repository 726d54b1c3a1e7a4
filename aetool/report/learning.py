"""Learning curves, as runs write them down and laid over each other."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from aetool.report import plots
from aetool.report.groups import Group, tuned
from aetool.report.layout import (
    LAMBDAS,
    distinguishing,
    families,
    fewer_datasets,
    name,
    numeric,
    panels_of,
    spans,
    value,
)
from aetool.report.plots import Chart, Curve

POINTS = 200  # of a curve
STAGES = ("pretrain", "finetune")  # of which a run has one
Losses = dict[str, list[tuple[float, float]]]  # (step, loss) by split


def curves(groups: Sequence[Group], keys: Sequence[str], file: str) -> Iterator[Chart]:
    """The curves of all runs in one figure, where there are any."""
    numbers = numeric(groups, keys)
    apart = [key for key in distinguishing(groups, keys) if key != "dataset.name"]
    first = ("model.name", *LAMBDAS) if families(groups) else (*LAMBDAS, "model.name")
    chosen = next((key for key in (*first, *apart) if key in apart), None)
    order = sorted({value(group, chosen) for group in groups}) if chosen in numbers else []
    alone = spans(groups, "penalty.weight") or spans(groups, "penalty")
    part = "loss/reconstruction" if alone else "loss"
    runs = []
    for panel, own in panels_of(groups).items():
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
    caption = f"Learning curves{' of fine-tuning' if tuned(groups[0]) else ''}, a line a run. "
    caption += f"Colour: {chosen}; seeds have the same. " if chosen else ""
    caption += "The reconstruction term alone, without lambda times the penalty, which differs. " if alone else ""
    caption += "Compare levels only where the loss and the dataset are the same." + fewer_datasets(groups)
    yield Chart(file, caption, plots.curves(runs, "reconstruction loss" if alone else "loss", chosen or ""))


def losses(path: Path, part: str) -> Losses:
    """The losses of pretraining, or of fine-tuning, in a metrics.jsonl, thinned out; `part` is `loss` or a part of it.

    Empty where there are none; lines that are not rows are passed over.
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
