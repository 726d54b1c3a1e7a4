"""Figures drawn in a separate process while measuring continues.

Drawing the figures of a small run takes as long as measuring it, and importing matplotlib takes half a second. The
process starts with the first figure. It ends when its stdin is closed, and so ends with the command even if that is
killed.
"""

import atexit
import contextlib
import functools
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

import aetool
from aetool.errors import WriteError
from aetool.storage.run import Run

Draw = Callable[..., None]  # a function of `figures`: takes the path first
log = logging.getLogger("aetool")


class Figure(NamedTuple):
    """A figure that is being drawn."""

    path: Path
    error: "Future[str | None]"  # why it could not be drawn; raises WriteError where it cannot be written

    def picture(self) -> np.ndarray | None:
        """(height, width, 3) uint8, once it is drawn; None where that failed. Raises WriteError."""
        from PIL import Image

        if self.error.result() is not None:
            return None
        with Image.open(self.path) as image:
            return np.asarray(image)


class Figures:
    """The figures of a run, all drawn by the end of the outermost `with` block.

    One that cannot be drawn is a warning. One that cannot be written is a WriteError, as drawing it again may succeed.
    """

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        self._figures: list[Figure] = []
        self._actions: list[Callable[[], None]] = []
        self._depth = 0

    def draw(self, function: Draw, path: Path, *arguments: Any) -> Figure:
        """Queues a figure, drawn at `path` by a function of `figures`; the arguments are copied."""
        path = path.absolute()
        figure = Figure(path, figure_process().submit(function, path, *arguments))
        self._figures.append(figure)
        return figure

    def afterwards(self, action: Callable[[], None]) -> None:
        """Calls `action` at the end of the block, even after an exception; it may `wait` for the figures."""
        self._actions.append(action)

    def wait(self) -> None:
        """Waits until all figures are drawn; failed ones add a warning to the run. Raises WriteError."""
        figures, self._figures = self._figures, []
        wait([figure.error for figure in figures])
        failed = [(figure.path.name, error) for figure in figures if (error := figure.error.result()) is not None]
        warnings = [f"{name} could not be drawn: {error}" for name, error in failed]
        for warning in warnings:
            log.warning(warning)
        self.run.warn(warnings)

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        actions, self._actions = self._actions, []
        with contextlib.ExitStack() as stack:  # calls all of them, whatever one raises
            if error is not None:  # which is said instead
                stack.enter_context(contextlib.suppress(WriteError))
            stack.callback(self.wait)
            for action in reversed(actions):
                stack.callback(action)


class FigureProcess:
    """Runs calls one after another in another process, which is started for the first call and restarted if it dies."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "figures")  # waits for the answers
        self._process: subprocess.Popen[bytes] | None = None

    def submit(self, function: Draw, *arguments: Any) -> "Future[str | None]":
        """The error of a call, or None; WriteError is raised."""
        return self._thread.submit(self._call, pickle.dumps((function, arguments)))

    def close(self) -> None:
        """Ends the process after the current call."""
        self._thread.shutdown(cancel_futures=True)
        if self._process is not None:
            self._process.communicate()

    def _call(self, call: bytes) -> str | None:
        try:
            if self._process is None:
                self._process = _start()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(call)
            self._process.stdin.flush()
            error = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as caught:  # a ValueError: no answer, or half of one
            if self._process is not None:
                self._process.kill()
                self._process.communicate()
                self._process = None
            return f"the process that draws has ended ({type(caught).__name__}: {caught})"
        if error is None:
            return None
        kind, text = error
        if kind == WriteError.__name__:
            raise WriteError(text)
        return f"{kind}: {text}"


def _start() -> "subprocess.Popen[bytes]":
    """A separate session shields it from the terminal's Ctrl-C, which this process handles."""
    path = [str(Path(aetool.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "aetool.evaluation.figure_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        start_new_session=True,
    )


@functools.cache
def figure_process() -> FigureProcess:
    """The one of this process."""
    process = FigureProcess()
    atexit.register(process.close)
    return process
