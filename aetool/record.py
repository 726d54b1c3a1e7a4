"""What a run writes down while it goes: metrics.jsonl, which is the record, and TensorBoard, which shows it."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("aetool")


class Record:
    """Appends rows to metrics.jsonl and mirrors them to TensorBoard events in the same folder.

    A TensorBoard that cannot be written is said once and kept in `warnings`; training goes on.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warnings: list[str] = []
        self._file = (directory / "metrics.jsonl").open("ab")
        self._writer: Any = None
        self._broken = False
        self._purge_step: int | None = None

    @property
    def position(self) -> int:
        """Length of metrics.jsonl in bytes; `rewind` takes it back to here."""
        return self._file.tell()

    def rewind(self, position: int, step: int) -> None:
        """Forgets the rows after a checkpoint at `step`."""
        size = self._file.seek(0, os.SEEK_END)
        if size < position:
            self.warnings.append("metrics.jsonl is shorter than it was: rows before this step are lost")
        self._file.truncate(min(position, size))
        self._file.seek(0, os.SEEK_END)
        self._purge_step = step + 1

    def row(self, stage: str, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        row = {"stage": stage, "step": step, "epoch": epoch, "seconds": round(seconds, 3), **values}
        self._file.write(json.dumps({k: v if _finite(v) else None for k, v in row.items()}).encode() + b"\n")
        self._file.flush()
        self.scalars(step, values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._show("add_scalar", name, value, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8."""
        self._show("add_image", name, image, step, dataformats="HWC")

    def hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """Declares hyper-parameters and metrics for the HParams tab, in this folder.

        SummaryWriter.add_hparams would make a run folder of its own for them.
        """
        from torch.utils.tensorboard.summary import hparams as summaries

        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in hparams.items()}
        finite = {name: value for name, value in metrics.items() if _finite(value)}
        self.scalars(step, finite)
        for summary in summaries(plain, finite):
            self._show("_add_summary", summary)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _show(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._broken:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard.writer import SummaryWriter

                self._writer = SummaryWriter(str(self.directory), purge_step=self._purge_step)
            if method == "_add_summary":
                self._writer._get_file_writer().add_summary(*arguments)
            else:
                getattr(self._writer, method)(*arguments, **options)
        except OSError as error:
            self._broken = True
            self.warnings.append(f"TensorBoard cannot write to {self.directory}: {error}; metrics.jsonl goes on")
            log.warning(self.warnings[-1])


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
