"""The record of a run: metrics.jsonl, mirrored to TensorBoard."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from aetool.files import JsonObject, detach, replacing

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

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._show("add_scalar", name, value, step)

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
            with replacing(folder / "codes.tsv") as path, path.open("w") as file:
                np.savetxt(file, points, fmt="%.4g", delimiter="\t")
            with replacing(folder / "sprites.png") as path:
                Image.fromarray(sprites).quantize(256).save(path, "PNG")  # a third of the bytes
            words = [" ".join(label.split()) or "-" for label in labels]  # tabs and newlines would part them
            with replacing(folder / "labels.tsv") as path:
                path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
            text = "\n".join(['embeddings {\ntensor_name: "code"', *lines, f"sprite {{ {sprite} }}", "}\n"])
            with replacing(self.directory / PROJECTOR_CONFIG) as path:
                path.write_text(text, encoding="utf-8")
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

        suffix = f".{self.stage}" if self.stage else ""
        if self.stage:
            for path in self.directory.glob("events.out.tfevents.*"):
                if path.name.endswith(suffix):
                    path.unlink()
        self._writer = SummaryWriter(str(self.directory), purge_step=self._purge_step, filename_suffix=suffix)

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
            if isinstance(row, dict):
                rows.append(row)
    return rows


class Record(Events):
    """Appends the rows of training to metrics.jsonl and mirrors them to TensorBoard."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        detach(directory / "metrics.jsonl")
        self._file = (directory / "metrics.jsonl").open("ab")
        self._laid_out = False

    @property
    def position(self) -> int:
        """Length of metrics.jsonl in bytes, to which `rewind` truncates it."""
        return self._file.tell()

    def rewind(self, position: int, step: int) -> None:
        """Drops the rows after a checkpoint at `step`."""
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
        if not self._laid_out:
            self.layout(stage)
            self._laid_out = True
        self.scalars(step, {TAGS.get(key, key): value for key, value in values.items()})

    def close(self) -> None:
        self._file.close()
        super().close()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class NoRecord(Record):
    """The record of a process that does not write one."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @property
    def position(self) -> int:
        return 0

    def rewind(self, position: int, step: int) -> None:
        """There is nothing to drop."""

    def row(self, stage: str, step: int, epoch: int, seconds: float, values: Mapping[str, float]) -> None:
        """Nothing is written."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""
