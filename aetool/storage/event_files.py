"""Reading TensorBoard's event files."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event


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
