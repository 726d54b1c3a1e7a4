"""Progress of a run, read from its folder while another process trains it; imports no torch."""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from aetool.storage.folder import RunFolder

TAIL = 8192  # bytes at the end of metrics.jsonl that hold its last row


class Live(NamedTuple):
    """The progress of a run."""

    stage: str  # pretrain, evaluate, probe-linear, …; "" before the first
    step: int
    total_steps: int | None  # of its training; None where unknown
    epoch: int  # epochs finished
    loss: float | None  # of the last row of the record
    seconds: float  # of training up to that row

    @property
    def fraction(self) -> float:
        """Fraction of the training steps, in [0, 1]."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training left at the mean speed so far; None before the first row."""
        if not self.total_steps or not self.step:
            return None
        return self.seconds * (self.total_steps - self.step) / self.step


def live(directory: Path) -> Live:
    """Never raises, whatever is in the folder."""
    status = RunFolder(directory).status
    row = _last_row(directory / "metrics.jsonl")
    losses = (row.get(f"{part}/loss") for part in ("train", "val"))
    total = status.get("total_steps")
    return Live(
        str(status.get("stage", "")),
        max(_integer(row.get("step")), _integer(status.get("step"))),
        total if isinstance(total, int) else None,
        _integer(row.get("epoch")),
        next((value for value in losses if isinstance(value, float)), None),
        float(_integer(row.get("seconds"))),
    )


def _integer(value: object) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def _last_row(path: Path) -> dict[str, object]:
    """The last complete row; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-min(TAIL, path.stat().st_size), os.SEEK_END)
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row
    return {}
