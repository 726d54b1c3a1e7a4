"""The record of a run: metrics.jsonl, mirrored to TensorBoard."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aetool import faults
from aetool.files import Appended, JsonObject, sync
from aetool.storage.events import Events, event_file

OF_ROW = ("stage", "step", "epoch", "seconds")  # keys of every row; all others are values
TAGS = {"train/loss": "loss/train", "val/loss": "loss/val"}  # of keys of the record: side by side, before all others


def read_rows(directory: Path) -> list[JsonObject]:
    """The rows of metrics.jsonl, none if it is missing; a line truncated by a power cut is skipped."""
    rows = []
    path = directory / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and _is_number(row.get("step")):
                rows.append(row)
    return rows


class Record(Events):
    """Appends the rows of training to metrics.jsonl and mirrors them to TensorBoard."""

    def __init__(self, directory: Path) -> None:
        """Raises WriteError, like `row`."""
        super().__init__(directory)
        self._rows = Appended(directory / "metrics.jsonl", "record")
        self._laid_out = False

    @property
    def position(self) -> int:
        """Length of metrics.jsonl in bytes, to which `rewind` truncates it."""
        return self._rows.position

    def sync(self) -> None:
        """Waits until what is recorded is on the disk, so that no checkpoint is ahead of it."""
        sync(self._rows.path)

    def rewind(self, position: int, step: int) -> None:
        """Drops the rows after a checkpoint at `step`; TensorBoard's events are written anew from those before it."""
        content = self._rows.path.read_bytes()
        if len(content) < position:
            self.warnings.append("metrics.jsonl is shorter than it was: rows before this step are lost")
        self._rows.truncate(content.rfind(b"\n", 0, position) + 1)
        rows = read_rows(self.directory)
        # Its row of validation is the last thing that is recorded of a step, but for its picture.
        validated = any(row["step"] == step and "val/loss" in row for row in rows)
        self._guarded(lambda: self._show_anew(rows, step if validated else step - 1))

    def _show_anew(self, rows: Sequence[JsonObject], step: int) -> None:
        """Writes a new event file with these rows, and the images up to a step, in the place of all earlier ones.

        After a kill, these have what came after the checkpoint. TensorBoard's own purging depends on the order of the
        files by name, which holds seconds and process ids.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        before = self._files()
        if not before and not rows:
            return  # as in a new run
        kept = list(event_file().pictures(before, step))
        self._purge_step = 0  # for a TensorBoard that has already read the files from before
        began = time.time() - max(map(_seconds, rows), default=0.0)
        for row in rows:
            self._mirror(row, began + _seconds(row))
        for event in kept:
            self._show("add", event)
        self._show("sync")
        if not self._broken:
            self._remove(before)

    def row(self, stage: str, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        row = {"stage": stage, "step": step, "epoch": epoch, "seconds": round(seconds, 3), **values}
        self._rows.write(json.dumps({k: v if _finite(v) else None for k, v in row.items()}).encode() + b"\n")
        faults.point("row")
        self._mirror(row)

    def _mirror(self, row: JsonObject, wall_time: float | None = None) -> None:
        """Shows a row in TensorBoard."""
        if not self._laid_out:
            self.layout(str(row.get("stage")))
            self._laid_out = True
        values = {TAGS.get(key, key): value for key, value in row.items() if key not in OF_ROW}
        plain = {tag: math.nan if value is None else value for tag, value in values.items()}
        self.scalars(row["step"], {tag: value for tag, value in plain.items() if _is_number(value)}, wall_time)

    def close(self) -> None:
        super().close()
        self._rows.close()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _seconds(row: JsonObject) -> float:
    value = row.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0


class NoRecord(Record):
    """The record of a process that does not write one."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @property
    def position(self) -> int:
        return 0

    def sync(self) -> None:
        """There is nothing to wait for."""

    def rewind(self, position: int, step: int) -> None:
        """There is nothing to drop."""

    def row(self, stage: str, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        """Nothing is written."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""
