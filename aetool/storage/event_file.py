"""TensorBoard's event files; importing this module needs TensorBoard.

TensorBoard's own writer has a thread, which prints a traceback where the disk is full and hides the error until later.
"""

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from aetool.files import Appended, sync

_numbers = itertools.count()  # of the files of this process


class EventFile:
    """A new event file in a folder; every method raises WriteError.

    With `purge_step`, TensorBoard forgets what earlier files say of this step and later ones.
    """

    def __init__(self, directory: Path, suffix: str, purge_step: int | None) -> None:
        stamp = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = Appended(directory / f"events.out.tfevents.{stamp}{suffix}", "events")
        self._records = RecordWriter(self._file)
        try:
            self._add(file_version="brain.Event:2")
            if purge_step is not None:
                self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        except BaseException:
            self._file.close()
            raise

    def scalars(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """`wall_time` in seconds since the epoch; None: now."""
        shown = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._add(step=step, summary=Summary(value=shown), wall_time=wall_time)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """(H, W, 3) uint8."""
        height, width, channels = image.shape
        png = io.BytesIO()
        Image.fromarray(image).save(png, format="png")
        shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, image=shown)]))

    def lines(self, title: str, charts: Mapping[str, Sequence[str]]) -> None:
        """Charts of the custom scalars tab by title, with regular expressions of the tags on each."""
        drawn = {name: {"multiline": layout_pb2.MultilineChartContent(tag=tags)} for name, tags in charts.items()}
        self._charts(title, drawn)

    def margins(self, title: str, charts: Mapping[str, Sequence[str]]) -> None:
        """Charts with a band for each tag, from `<tag>/low` to `<tag>/high`."""
        series = layout_pb2.MarginChartContent.Series
        drawn = {}
        for name, tags in charts.items():
            curves = [series(value=tag, lower=f"{tag}/low", upper=f"{tag}/high") for tag in tags]
            drawn[name] = {"margin": layout_pb2.MarginChartContent(series=curves)}
        self._charts(title, drawn)

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Declares hyper-parameters; numbers stay numbers, anything else is shown as text."""
        numbers = (int, float)
        plain = {k: v if isinstance(v, numbers) and not isinstance(v, bool) else str(v) for k, v in hparams.items()}
        self._add(summary=hparams_pb(plain))

    def add(self, event: Event) -> None:
        """An event of another file."""
        self._records.write(event.SerializeToString())

    def sync(self) -> None:
        """Waits until it is on the disk."""
        sync(self._file.path)

    def close(self) -> None:
        self._file.close()

    def _charts(self, title: str, drawn: Mapping[str, Mapping[str, Any]]) -> None:
        charts = [layout_pb2.Chart(title=name, **content) for name, content in drawn.items()]
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title=title, chart=charts)])
        text = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
        value = Summary.Value(tag="custom_scalars__config__", tensor=text, metadata=plugin)
        self._add(summary=Summary(value=[value]))

    def _add(self, wall_time: float | None = None, **content: Any) -> None:
        self.add(Event(wall_time=time.time() if wall_time is None else wall_time, **content))


def pictures(files: Sequence[Path], step: int) -> Iterator[Event]:
    """The images of event files up to a step, each once; a file truncated by a kill is read as far as it goes."""
    seen = set()
    for path in files:
        with contextlib.suppress(DecodeError):
            for event in map(Event.FromString, RawEventFileLoader(str(path)).Load()):
                key = (event.step, *(value.tag for value in event.summary.value if value.HasField("image")))
                if event.step <= step and len(key) > 1 and key not in seen:
                    seen.add(key)
                    yield event
