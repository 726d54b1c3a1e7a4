"""A run is one trained network: its identity, its folder and what stands in it; knows no torch."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aetool.config import flatten
from aetool.errors import Interrupted, UserError

IDENTITY = ("model", "dataset", "loss", "penalty", "optimizer", "scheduler", "trainer", "seed")
WITHOUT_EFFECT = {  # keys of those groups that do not change the trained network
    "dataset": ("data_dir", "epochs", "batch_size"),  # the trainer's own say what was used
    "trainer": ("log_every", "checkpoint_every"),
}


def digest(values: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a train config that decides the trained network."""
    chosen = {group: config[group] for group in IDENTITY}
    for group, keys in WITHOUT_EFFECT.items():
        chosen[group] = {key: value for key, value in chosen[group].items() if key not in keys}
    return chosen


class Run:
    """The folder of a run: config.json, status.json, metrics.json and what the stages put there."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Run":
        """The run of a checked train config, whether it exists yet or not."""
        default = f"{config['model']['name']}-{config['dataset']['name']}-{digest(identity(config))}"
        return cls(Path(config["output"]) / (config["name"] or default), config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """An existing run; raises UserError where there is none."""
        directory = Path(directory)
        found = read_json(directory / "config.json")
        if found is None or not isinstance(found.get("config"), dict):
            raise UserError(f"run={directory}: not a run folder (it has no readable config.json)")
        return cls(directory, found["config"])

    @property
    def id(self) -> str:
        return digest(identity(self.config))

    @property
    def status(self) -> dict[str, Any]:
        """state (running, completed, failed, interrupted), stage, step, warnings, …; empty before the first claim."""
        return read_json(self.directory / "status.json") or {}

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The final numbers of each stage."""
        return read_json(self.directory / "metrics.json") or {}

    @contextlib.contextmanager
    def claim(self, overwrite: bool = False) -> Iterator[None]:
        """Holds the folder for this process and keeps status.json true, whatever ends the work.

        Raises UserError when another process holds it, when it belongs to another config, or cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory / ".lock").acquire(timeout=0)
        except Timeout:
            holder = f"process {self.status.get('pid')} on {self.status.get('host')}"
            raise UserError(f"{self.directory}: in use by {holder}; wait for it or stop it") from None
        except OSError as error:
            raise UserError(f"output={self.directory.parent}: cannot write there: {error}") from error
        with lock:
            if overwrite:
                self._clear()
            self._settle_config()
            self.update(state="running", pid=os.getpid(), host=socket.gethostname(), started=_now())
            try:
                yield
            except (Interrupted, KeyboardInterrupt):
                self.update(state="interrupted")
                raise
            except BaseException as error:
                self.update(state="failed", error=f"{type(error).__name__}: {error}")
                raise
            self.update(state="completed")

    def update(self, **values: Any) -> None:
        """Changes status.json."""
        before = self.status
        if values.get("state") == "running":
            before.pop("error", None)
        write_json(self.directory / "status.json", before | {"updated": _now()} | values)

    def warn(self, warnings: list[str]) -> None:
        """Adds to the warnings in status.json, each once."""
        before = self.status.get("warnings", [])
        new = [warning for warning in warnings if warning not in before]
        if new:
            self.update(warnings=before + new)

    def add_metrics(self, stage: str, values: dict[str, float]) -> None:
        write_json(self.directory / "metrics.json", self.metrics | {stage: values})

    def measured(self, kind: str, settings: dict[str, Any]) -> Path:
        """The folder of one measurement, keyed by what it was measured with."""
        return self.directory / f"{kind}-{digest(settings)}"

    def _settle_config(self) -> None:
        path = self.directory / "config.json"
        found = read_json(path)
        if found is None:
            write_json(path, {"aetool": version("aetool"), "id": self.id, "config": self.config})
            return
        saved, now = dict(flatten(identity(found["config"]))), dict(flatten(identity(self.config)))
        differing = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
        leaves = [key for key in differing if not isinstance(now.get(key, saved.get(key)), dict)]
        if leaves:
            lines = [f"{key}: {saved.get(key)} → {now.get(key)}" for key in leaves]
            first = f"{self.directory} holds another run (saved → now); overwrite=true replaces it"
            raise UserError("\n".join([first, *lines]))

    def _clear(self) -> None:
        contents = [path for path in self.directory.iterdir() if path.name != ".lock"]
        if contents and not (self.directory / "config.json").exists():
            raise UserError(f"overwrite=true: {self.directory} is not a run folder; remove it yourself")
        for path in contents:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when it is missing or not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes beside the target and renames, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
