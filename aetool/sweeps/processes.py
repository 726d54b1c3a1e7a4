"""Points of a sweep in separate processes, so that the failure of one does not affect the others."""

import contextlib
import importlib
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from aetool.errors import Interrupted, WriteError, deferred_signals, poll_signals
from aetool.files import make_folder, writing
from aetool.storage.run import WAITS
from aetool.sweeps.outcome import Outcome, last_words
from aetool.sweeps.room import Room
from aetool.system.environment import variable

PRELOADED = ["aetool.commands.train", "aetool.commands.finetune"]  # once for all points: importing torch takes seconds
POLLED = 0.5  # seconds between looks at signals and progress


class Job(NamedTuple):
    """A running point."""

    process: Any  # a multiprocessing.Process of the start method at hand
    said: Connection  # its exit code, once it has ended by itself
    slot: int
    log: Path

    def outcome(self) -> Outcome:
        """The exit code of a finished process. If it did not report one, it was killed or called sys.exit()."""
        self.process.join()
        try:
            code = self.said.recv()
        except EOFError:
            code = None
        if code is None and self.process.exitcode >= 0:
            return Outcome("failed", self.process.exitcode or 1, last_words(self.log) or "its process exited")
        return Outcome.of_process(self.process.exitcode if code is None else code, last_words(self.log))


def in_processes(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    room: Room,
    retries: int = 0,
    claimed: Sequence[Callable[[int], bool]] = (),
    watch: Callable[[Mapping[int, Job]], None] = lambda running: None,
) -> Generator[tuple[int, Outcome], None, None]:
    """Runs `aetool` commands, given as words; yields the outcome of each with its index, as they end.

    A command's output goes to its log, which starts anew; a retry appends. `watch` is called twice a second. A killed
    process is restarted up to `retries` times; it resumes, even with `overwrite`, if the previous process had `claimed`
    the run, given its process id. On a signal to this process, the others are asked to stop, their outcomes are
    yielded, and Interrupted is raised; closing the iterator also stops them.
    """
    context = _context()
    waiting, running = deque(range(len(commands))), dict[int, Job]()
    words, left = list(commands), [retries] * len(commands)
    free = list(reversed(range(room.jobs)))
    with deferred_signals():
        try:
            while waiting or running:
                while waiting and free:
                    index, slot = waiting.popleft(), free.pop()
                    try:
                        _open_log(logs[index], anew=left[index] == retries)
                    except WriteError as error:
                        free.append(slot)
                        yield index, Outcome.of_error(error)
                        continue
                    running[index] = _start(context, [*words[index], *room.slots[slot]], logs[index], slot)
                wait([job.process.sentinel for job in running.values()], POLLED)
                poll_signals()
                for index, job in _ended(running, free):
                    outcome = job.outcome()
                    if outcome.was_killed and left[index]:
                        left[index] -= 1
                        waiting.appendleft(index)
                        if claimed and claimed[index](job.process.pid):
                            words[index] = [*commands[index], "overwrite=false"]
                    else:
                        yield index, outcome
                watch(running)
            poll_signals()
        except Interrupted:
            _stop(running)
            yield from ((index, job.outcome()) for index, job in _ended(running, free))
            raise
        finally:
            _stop(running)


def _context() -> Any:
    """Of new processes: forks of one that has imported torch, where the system has forks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _ended(running: dict[int, Job], free: list[int]) -> Iterator[tuple[int, Job]]:
    """Removes finished jobs from the running ones and frees their slots."""
    for index, job in list(running.items()):
        if not job.process.is_alive():
            del running[index]
            free.append(job.slot)
            yield index, job


def _stop(running: Mapping[int, Job]) -> None:
    """Asks them to save and stop, and waits until they have."""
    for job in running.values():
        job.process.terminate()
    for job in running.values():
        job.process.join()


class _Log(io.TextIOWrapper):
    """What a point prints. What a full disk has no room for is lost; that the disk is full, its run reports."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)


def _open_log(path: Path, anew: bool) -> None:
    """Creates the file, or empties it if it is to start `anew`; raises WriteError."""
    make_folder(path.parent)
    with writing(path), path.open("wb" if anew else "ab"):
        pass


def _start(context: Any, words: Sequence[str], log: Path, slot: int) -> Job:
    said, saying = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(list(words), str(log), saying))
    with without_working_folder():
        process.start()
    saying.close()
    return Job(process, said, slot, log)


@contextlib.contextmanager
def without_working_folder() -> Iterator[None]:
    """Python processes started within the block leave the working folder off their import path.

    They would put it first otherwise, as after `python -c`, and import what lies there.
    """
    with variable("PYTHONSAFEPATH", "1"):
        yield


def _work(words: list[str], log: str, saying: Connection) -> None:
    """In the new process: runs one command and reports its exit code."""
    os.environ[WAITS] = "1"
    os.setsid()  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
    file = Path(log).open("ab", buffering=0)  # noqa: SIM115 - closed with the process
    stream = _Log(file, encoding="utf-8", write_through=True)  # type: ignore[type-var] # without a buffer
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    threading.Thread(target=_end_with_parent, daemon=True).start()
    saying.send(importlib.import_module("aetool.cli").main(words))  # as a shell would, with what is imported already


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
