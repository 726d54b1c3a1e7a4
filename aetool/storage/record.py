"""The record of a run: metrics.jsonl, mirrored to TensorBoard."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from aetool import faults
from aetool.files import JsonObject, sync

log = logging.getLogger("aetool")

PROJECTOR = "projector"  # folder of what TensorBoard's embedding projector shows
PROJECTOR_CONFIG = "projector_config.pbtxt"  # where TensorBoard looks for it
_TRAINING = {  # charts of the custom scalars tab: regular expressions of the tags on each
    "loss": ["loss/train$", "loss/val$"],
    "learning rate": ["train/lr.*"],
    "gradient norm": ["train/gradient_norm$"],
}
LAYOUTS = {  # the custom scalars tab, by stage
    "pretrain": {
        "loss": _TRAINING["loss"],
        "reconstruction": ["(train|val)/loss/.+"],
        "penalty": ["(train|val)/penalty/.+"],
        "lambda": ["train/lambda$"],
        "active units (L0)": ["val/l0$"],
        "dead fraction": ["(train|val)/dead_fraction$"],
        "learning rate": _TRAINING["learning rate"],
        "gradient norm": _TRAINING["gradient norm"],
    },
    "finetune": {**_TRAINING, "accuracy": ["train/accuracy$", "val/accuracy$"]},
}


TAGS = {"train/loss": "loss/train", "val/loss": "loss/val"}  # of keys of the record: side by side, before all others
OF_ROW = ("stage", "step", "epoch", "seconds")  # keys of every row; all others are values


class Events:
    """TensorBoard events in the folder of a run.

    With a `stage`, they are the results of that stage, in a file that replaces the one of an earlier measurement, so
    that nothing is shown twice. If TensorBoard cannot be written, logs one warning, keeps it in `warnings` and
    continues. Also a context manager, which closes it.
    """

    def __init__(self, directory: Path, stage: str | None = None) -> None:
        self.directory = directory
        self.stage = stage
        self.warnings: list[str] = []
        self._writer: Any = None
        self._broken = False
        self._purge_step: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """`wall_time` in seconds since the epoch; None: now."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._show("_add_summary", Summary(value=found), step, wall_time)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image (H, W, 3) uint8."""
        self._show("add_image", name, image, step, dataformats="HWC")

    def images(self, step: int, images: Mapping[str, np.ndarray | None]) -> None:
        """Images (H, W, 3) uint8 by name; None is skipped."""
        for name, image in images.items():
            if image is not None:
                self.image(name, image, step)

    def layout(self, stage: str) -> None:
        """The charts of a stage in the custom scalars tab."""
        charts = {name: ["Multiline", tags] for name, tags in LAYOUTS.get(stage, {}).items()}
        if charts:
            self._show("add_custom_scalars", {stage: charts})

    def margins(self, charts: Mapping[str, Sequence[str]]) -> None:
        """Charts of the custom scalars tab by title: for each tag a curve with a band from `<tag>/low` to `<tag>/high`.

        SummaryWriter.add_custom_scalars takes a single curve for such a chart.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.custom_scalar import layout_pb2 as proto

        drawn = []
        for title, tags in charts.items():
            curves = [proto.MarginChartContent.Series(value=t, lower=f"{t}/low", upper=f"{t}/high") for t in tags]
            drawn.append(proto.Chart(title=title, margin=proto.MarginChartContent(series=curves)))
        layout = proto.Layout(category=[proto.Category(title="mean ± std over seeds", chart=drawn)])
        text = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
        value = Summary.Value(tag="custom_scalars__config__", tensor=text, metadata=plugin)
        self._show("_add_summary", Summary(value=[value]))

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Declares hyper-parameters in this folder; every scalar of the run is a metric beside them.

        Runs with the same ones are one row, with the means of their metrics. SummaryWriter.add_hparams would make a run
        folder of its own, and declare an "experiment": TensorBoard takes one run's for all, and shows no key or metric
        that this one run lacks. Without, it collects those of all runs.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        numbers = (int, float)
        plain = {k: v if isinstance(v, numbers) and not isinstance(v, bool) else str(v) for k, v in hparams.items()}
        self._show("_add_summary", hparams_pb(plain))

    def embedding(self, points: np.ndarray, sprites: np.ndarray, size: tuple[int, int], labels: Sequence[str]) -> None:
        """Points (N, D) for the embedding projector, in the place of those from before.

        `sprites` (H, W, 3) uint8: their thumbnails of `size` (width, height) row by row, as many in a row as in a
        column; `labels`: N words, or none.
        """
        from PIL import Image

        folder = self.directory / PROJECTOR
        files = {"tensor_path": "codes.tsv"} | ({"metadata_path": "labels.tsv"} if labels else {})
        lines = [f'{key}: "{PROJECTOR}/{name}"' for key, name in files.items()]
        width, height = size
        sprite = f'image_path: "{PROJECTOR}/sprites.png" single_image_dim: {width} single_image_dim: {height}'
        try:
            folder.mkdir(exist_ok=True)
            # Text, as TensorBoard reads a binary file as text first, and fails where that seems to succeed.
            np.savetxt(folder / "codes.tsv", points, fmt="%.4g", delimiter="\t")
            Image.fromarray(sprites).quantize(256).save(folder / "sprites.png")  # a third of the bytes
            words = [" ".join(label.split()) or "-" for label in labels]  # tabs and newlines would part them
            (folder / "labels.tsv").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
            text = "\n".join(['embeddings {\ntensor_name: "code"', *lines, f"sprite {{ {sprite} }}", "}\n"])
            (self.directory / PROJECTOR_CONFIG).write_text(text, encoding="utf-8")
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _show(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._broken:
            return
        try:
            if self._writer is None:
                self._open()
            if method == "_add_summary":
                self._writer._get_file_writer().add_summary(*arguments)
            else:
                getattr(self._writer, method)(*arguments, **options)
        except OSError as error:
            self._broken = True
            self._warn(error)

    def _open(self) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        if self.stage:
            for path in self._files():
                path.unlink()
        suffix = f".{self.stage}" if self.stage else ""
        self._writer = SummaryWriter(str(self.directory), purge_step=self._purge_step, filename_suffix=suffix)

    def _files(self) -> list[Path]:
        """The event files of this stage; those of training end in a number."""
        ends = {path: path.suffix[1:] for path in sorted(self.directory.glob("events.out.tfevents.*"))}
        return [path for path, end in ends.items() if (end == self.stage if self.stage else end.isdigit())]

    def _warn(self, error: OSError) -> None:
        self.warnings.append(f"TensorBoard cannot write to {self.directory}: {error}; metrics.jsonl is still written")
        log.warning(self.warnings[-1])


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
        super().__init__(directory)
        self._path = directory / "metrics.jsonl"
        self._file = self._path.open("ab")
        self._laid_out = False

    @property
    def position(self) -> int:
        """Length of metrics.jsonl in bytes, to which `rewind` truncates it."""
        return self._file.tell()

    def sync(self) -> None:
        """Waits until what is recorded is on the disk, so that no checkpoint is ahead of it."""
        sync(self._path)
        if self._writer is not None:
            self._show("flush")

    def rewind(self, position: int, step: int) -> None:
        """Drops the rows after a checkpoint at `step`; TensorBoard's events are written anew from those before it."""
        content = self._path.read_bytes()
        if len(content) < position:
            self.warnings.append("metrics.jsonl is shorter than it was: rows before this step are lost")
        self._file.truncate(content.rfind(b"\n", 0, position) + 1)
        self._file.seek(0, os.SEEK_END)
        rows = read_rows(self.directory)
        # Its row of validation is the last thing that is recorded of a step, but for its picture.
        validated = any(row["step"] == step and "val/loss" in row for row in rows)
        self._show_anew(rows, step if validated else step - 1)

    def _show_anew(self, rows: Sequence[JsonObject], step: int) -> None:
        """Writes a new event file with these rows, and the images up to a step, in the place of all earlier ones.

        After a kill, these lack what was not flushed, and have what came after the checkpoint. TensorBoard's own
        purging depends on the order of the files by name, which holds seconds and process ids.
        """
        from aetool.storage.event_files import pictures

        before = self._files()
        kept = list(pictures(before, step))
        self._purge_step = 0  # for a TensorBoard that has already read the files from before
        began = time.time() - max(map(_seconds, rows), default=0.0)
        for row in rows:
            self._mirror(row, began + _seconds(row))
        for event in kept:
            self._show("_add_summary", event.summary, event.step, event.wall_time)
        if not self._broken:
            self.sync()
            for path in before:
                path.unlink()

    def row(self, stage: str, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        row = {"stage": stage, "step": step, "epoch": epoch, "seconds": round(seconds, 3), **values}
        self._file.write(json.dumps({k: v if _finite(v) else None for k, v in row.items()}).encode() + b"\n")
        self._file.flush()
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
        self._file.close()
        super().close()


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
