"""A run is one trained network: its identity and its folder; imports no torch."""

import contextlib
import errno
import logging
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import AcquireReturnProxy, FileLock, Timeout

from aetool import faults
from aetool.config.identity import digest, identity
from aetool.config.schema import FinetuneRunConfig, RunConfig, TrainConfig
from aetool.errors import Interrupted, Paused, UserError, WriteError, poll_signals
from aetool.files import detach, dispensable, flatten, make_folder, sync, writing
from aetool.storage.folder import CONFIG, LOCK, LOG, METRICS, STATUS, WRITTEN, RunFolder
from aetool.storage.notebook import html_table
from aetool.storage.stored import checksums, write_stored
from aetool.system.environment import variable
from aetool.terminal import PrintableFormatter

C = TypeVar("C", bound=RunConfig)
WAITS = "AETOOL_WAITS"  # environment variable: this process waits for runs that others hold
log = logging.getLogger("aetool")


class Run(RunFolder, Generic[C]):
    """The folder of a run whose config is known and checked."""

    def __init__(self, directory: Path, config: C, command: str | None = None) -> None:
        super().__init__(directory)
        self.config = config
        self.command = command  # that starts it

    @classmethod
    def of(cls, config: C, command: str | None = None) -> "Run[C]":
        """The run of a checked config, whether it exists yet or not.

        Without `name=…`, its folder is the one whose name ends in its id, whatever the rest of the name.
        """
        output = Path(config.output)
        if config.name:
            return cls(output / config.name, config, command)
        suffix = f"-{digest(identity(config))}"
        found = (path.parent for path in sorted(output.glob(f"*{suffix}/{CONFIG}")))
        return cls(next(found, output / f"{readable_name(config)}{suffix}"), config, command)

    def __repr__(self) -> str:
        return f"<Run {self.directory}: {self.status.get('state', 'not started')}>"

    def _repr_html_(self) -> str:
        flat = {f"{stage}/{name}": value for stage, found in self.metrics.items() for name, value in found.items()}
        return html_table(str(self.directory), {self.status.get("state", "not started"): flat})

    @property
    def id(self) -> str:
        return digest(identity(self.config))

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Locks the folder against other processes, and creates it if necessary.

        A point of a sweep waits for another process that holds it, such as the same sweep started twice or another
        point of this run. Otherwise raises UserError, as it does if the folder holds a link, or is removed meanwhile;
        WriteError if it cannot be written.
        """
        self.refuse_links()
        make_folder(self.directory)
        with writing(self.directory):
            lock = self._acquire()
        with lock, self._logged():
            try:
                yield
            except (OSError, WriteError) as error:
                if self.directory.is_dir() or os.strerror(errno.ENOENT) not in str(error):
                    raise
                raise UserError(f"{self.directory}: removed while it was in use") from error

    def _acquire(self) -> AcquireReturnProxy:
        file = FileLock(self.directory / LOCK)
        with contextlib.suppress(Timeout):
            return file.acquire(timeout=0)
        status = self.status  # empty where the other process is just starting
        holder = f"process {status['pid']} on {status['host']}" if "pid" in status else "another process"
        used = f"{self.directory}: in use by {holder}"
        if WAITS not in os.environ:
            raise UserError(f"{used}; wait for it or stop it")
        log.info(f"{used}; waiting for it")
        while True:
            poll_signals()
            with contextlib.suppress(Timeout):
                return file.acquire(timeout=1)

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Also writes log messages to aetool.log, with the time."""
        detach(self.directory / LOG)
        handler = _LogFile(self.directory / LOG)
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("aetool").addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger("aetool").removeHandler(handler)
            handler.close()

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Locks the folder for training, and keeps status.json correct however the work ends.

        With `overwrite`, an earlier run is deleted first. Raises UserError like `hold` and `agree`. A user error leaves
        no new folder behind.
        """
        with self.hold():
            fresh = (self.config.overwrite and self._clear()) or not self.agree()
            start = time.monotonic() - self.status.get("seconds", 0.0)  # as if it had never been interrupted
            try:
                self._begin(fresh)
                yield
            except BaseException as error:
                if fresh and isinstance(error, UserError) and not (self.directory / "checkpoints").exists():
                    self._remove()
                elif self.directory.is_dir():
                    with dispensable("it does not say how the work ended"):  # which is for `error` to say
                        self.update(seconds=_seconds_since(start), **_end(error))
                raise
            self.update(seconds=_seconds_since(start), state="completed")

    def _begin(self, fresh: bool) -> None:
        """Writes config.json, and status.json as of now."""
        made = {"aetool": version("aetool"), "id": self.id, "command": self.command}
        made |= {key: value for key, value in self.saved.items() if key in made and not fresh}  # of the start
        plain = self.config.model_dump()
        write_stored(self.directory / CONFIG, made | {"identity": identity(self.config), "config": plain})
        for folder in (self.directory, self.directory.parent):  # no checkpoint may outlive it in a power cut
            with writing(folder):
                sync(folder)
        self.update(state="running", pid=os.getpid(), host=socket.gethostname(), started=_now())

    def agree(self) -> bool:
        """Whether the folder already holds this run; False if it is empty or absent.

        Raises UserError when it holds another run, with the differences, or something else.
        """
        self.refuse_links()
        path = self.directory / CONFIG
        if not path.exists():
            if self.directory.is_dir() and any(not entry.name.startswith(".") for entry in self.directory.iterdir()):
                raise UserError(f"{self.directory}: not empty and not a run folder; choose another name=")
            return False
        found, problem, *_ = self.stored_config
        if found and "config" not in found:
            raise UserError(f"{self.directory}: not a run folder; choose another name=")
        stored = found.get("identity")
        if not isinstance(stored, dict):
            problem = problem or f"{CONFIG} is damaged"
            raise UserError(f"{self.directory}: {problem}; restore it, or start over with overwrite=true")
        saved, now = dict(flatten(stored)), dict(flatten(identity(self.config)))
        differing = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
        leaves = [key for key in differing if not isinstance(now.get(key, saved.get(key)), dict)]
        if leaves:
            lines = [f"{key}: {saved.get(key)} → {now.get(key)}" for key in leaves]
            first = f"{self.directory} holds another run (saved → now); overwrite=true replaces it"
            raise UserError("\n".join([first, *lines]))
        return True

    def update(self, **values: Any) -> None:
        """Changes status.json, raising WriteError; in the place of a damaged one, also warns of that."""
        stored = self.stored_status
        before = stored.values
        if values.get("state") == "running":
            before.pop("error", None)
        if stored.damage:
            lost = f"{stored.damage}: its earlier warnings and times are lost"
            log.warning(f"{self.directory}: {lost}")
            values["warnings"] = [lost, *values.get("warnings", [])]
        write_stored(self.directory / STATUS, before | {"updated": _now()} | values, self.key)

    def warn(self, warnings: list[str]) -> None:
        """Adds to the warnings in status.json, each once."""
        before = self.warnings
        new = [warning for warning in warnings if warning not in before]
        if new:
            self.update(warnings=before + new)

    def warn_now(self, warning: str) -> None:
        """Adds to the warnings, and logs it."""
        log.warning(f"{self.directory}: {warning}")
        self.warn([warning])

    def add_metrics(self, stage: str, values: Mapping[str, float], files: Collection[str] = ()) -> None:
        """Adds or replaces a stage in metrics.json, with the checksums of files in the folder that belong to it."""
        stored = self.stored_metrics
        before, known = stored.values, stored.files
        sums = {**known, **checksums(self.directory, files)}
        if before.get(stage) != values or sums != known:
            write_stored(self.directory / METRICS, before | {stage: dict(values)}, self.key, sums)

    def _remove(self) -> None:
        with contextlib.suppress(OSError, WriteError):  # something else stands there
            self._clear()
            (self.directory / LOCK).unlink()
            self.directory.rmdir()

    def _clear(self) -> bool:
        """Removes the files that runs write, config.json last, and nothing else; returns whether there was a run."""
        saved = self.saved
        if not (self.directory / CONFIG).exists() or (saved and "config" not in saved):
            return False
        with writing(self.directory):
            for pattern in WRITTEN:
                for path in self.directory.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return True


class _LogFile(logging.Handler):
    """Appends to a file. Where that fails, warns once and leaves it; logging itself would print tracebacks."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.failed = path, False

    def emit(self, record: logging.LogRecord) -> None:
        if self.failed:
            return
        try:
            with writing(self.path), self.path.open("a", encoding="utf-8", errors="replace") as file:
                faults.point("log")
                file.write(f"{self.format(record)}\n")
        except WriteError as error:
            self.failed = True
            if self.path.parent.is_dir():  # otherwise the run itself fails
                log.warning("%s: it ends here", error)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within the block, waits for a run that another process holds."""
    with variable(WAITS, "1"):
        yield


def readable_name(config: RunConfig) -> str:
    """The settings in which runs differ most often: `sparse-mnist-lambda0.1-code256-seed0`."""
    words = [config.model.name, config.dataset.name]
    if isinstance(config, FinetuneRunConfig):
        words.insert(0, "finetune" if config.parent else "scratch")
    if isinstance(config, TrainConfig) and config.penalty.terms:
        target = config.penalty.target_l0
        words.append(f"lambda{config.penalty.weight:g}" if target is None else f"l0-{target:g}")
    size = config.model.arguments.get("code_size")
    words += [f"code{size}"] if size else []
    return "-".join([*words, f"seed{config.seed}"])


def _end(error: BaseException) -> dict[str, str]:
    """What status.json says of a run that this ends."""
    if isinstance(error, Paused):
        return {"state": "paused"}
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return {"state": "interrupted"}
    return {"state": "failed", "error": f"{type(error).__name__}: {error}"}


def _seconds_since(start: float) -> float:
    return round(time.monotonic() - start, 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
