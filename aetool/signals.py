"""SIGINT and SIGTERM as a request that long work polls for."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aetool.errors import Interrupted

_received: list[int] = []


def _handle(signum: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + signum)  # a second signal means now
    _received.append(signum)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first SIGINT or SIGTERM only waits to be polled, a second one exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.signal(number, _handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def poll() -> None:
    """Raises Interrupted when a signal has arrived."""
    if _received:
        raise Interrupted(_received[0])
