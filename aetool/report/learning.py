"""Learning curves as runs write them down."""

import json
import math
from pathlib import Path

POINTS = 200  # of a curve
Losses = dict[str, list[tuple[float, float]]]  # (step, loss) by split


def losses(path: Path, part: str) -> Losses:
    """The losses of training and of validation in a metrics.jsonl, thinned out; `part` is `loss` or a part of it.

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
            if row.get("stage") == "pretrain" and isinstance(loss, int | float) and math.isfinite(loss):
                points.append((step, loss))
    return {split: points[:: math.ceil(len(points) / POINTS)] for split, points in found.items() if points}
