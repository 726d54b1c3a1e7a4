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

from aetool.config.check import flatten
from aetool.errors import Interrupted, UserError

IDENTITY = ("model", "dataset", "loss", "penalty", "corruption", "optimizer", "scheduler", "trainer", "seed")
IDENTITY_OF_FINETUNE = (
    "model",
    "dataset",
    "optimizer",
    "scheduler",
    "trainer",
    "seed",
    "tap",
    "max_features",
    "layer_decay",
    "frozen_epochs",
    "label_smoothing",
    "labels_per_class",
    "label_fraction",
    "augment",
    "parent",
)
WITHOUT_EFFECT = {  # keys of those groups that do not change the trained network
    "dataset": ("data_dir", "epochs", "batch_size", "augmentation"),  # the stages' own keys say what was used
    "trainer": ("log_every", "checkpoint_every", "keep_checkpoints"),
}

CONFIG, LOCK = "config.json", ".lock"
WRITTEN = (  # what stands in the folder of a run
    CONFIG,
    "status.json",
    "metrics.json*",
    "checkpoints",
    "figures",
    "evaluate-*",
    "probe-*",
    "predictions.npy",
    "sample-*",
    "codes-*",
    "events.out.tfevents.*",
    "projector",
    "projector_config.pbtxt",
)


def digest(values: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that decides the trained network.

    The config of a fine-tune has a `parent`, the run and the step that it starts from, or None from scratch.
    """
    groups = IDENTITY_OF_FINETUNE if "parent" in config else IDENTITY
    chosen = {group: config[group] for group in groups}
    for group, keys in WITHOUT_EFFECT.items():
        chosen[group] = {key: value for key, value in chosen[group].items() if key not in keys}
    if chosen.get("augment"):
        chosen["augmentation"] = config["dataset"].get("augmentation")
    return chosen


class Run:
    """The folder of a run: config.json, status.json, metrics.json and what the stages put there."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Run":
        """The run of a checked config, whether it exists yet or not."""
        kind = "" if "parent" not in config else "finetune-" if config["parent"] else "scratch-"
        default = f"{kind}{config['model']['name']}-{config['dataset']['name']}-{digest(identity(config))}"
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
    def hold(self) -> Iterator[None]:
        """Keeps other processes out of the folder, which is made where it does not exist.

        Raises UserError when another process holds it or it cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory / LOCK).acquire(timeout=0)
        except Timeout:
            holder = f"process {self.status.get('pid')} on {self.status.get('host')}"
            raise UserError(f"{self.directory}: in use by {holder}; wait for it or stop it") from None
        except OSError as error:
            raise UserError(f"{self.directory}: cannot write there: {error}") from error
        with lock:
            yield

    @contextlib.contextmanager
    def claim(self, overwrite: bool = False) -> Iterator[None]:
        """Holds the folder for training, and keeps status.json true whatever ends the work.

        Raises UserError as `hold` and `agree` do. A user error leaves no folder behind that was not there before.
        """
        with self.hold():
            fresh = (overwrite and self._clear()) or not self.agree()
            made = {"aetool": version("aetool"), "id": self.id}  # those of the start stay
            made = made if fresh else read_json(self.directory / CONFIG) or made
            write_json(self.directory / CONFIG, made | {"config": self.config})
            self.update(state="running", pid=os.getpid(), host=socket.gethostname(), started=_now())
            try:
                yield
            except (Interrupted, KeyboardInterrupt):
                self.update(state="interrupted")
                raise
            except BaseException as error:
                if fresh and isinstance(error, UserError) and not (self.directory / "checkpoints").exists():
                    self._clear()
                    with contextlib.suppress(OSError):  # something else stands there
                        (self.directory / LOCK).unlink()
                        self.directory.rmdir()
                else:
                    self.update(state="failed", error=f"{type(error).__name__}: {error}")
                raise
            self.update(state="completed")

    def agree(self) -> bool:
        """Whether the folder holds this run already; False where it is empty or absent.

        Raises UserError when it holds another run, with the differences, or something else.
        """
        path = self.directory / CONFIG
        if not path.exists():
            if self.directory.is_dir() and any(entry.name != LOCK for entry in self.directory.iterdir()):
                raise UserError(f"{self.directory}: not empty and not a run folder; choose another name=")
            return False
        found = read_json(path)
        try:
            saved = dict(flatten(identity((found or {})["config"])))
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: cannot be read; restore it, or overwrite=true starts anew") from None
        now = dict(flatten(identity(self.config)))
        differing = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]
        leaves = [key for key in differing if not isinstance(now.get(key, saved.get(key)), dict)]
        if leaves:
            lines = [f"{key}: {saved.get(key)} → {now.get(key)}" for key in leaves]
            first = f"{self.directory} holds another run (saved → now); overwrite=true replaces it"
            raise UserError("\n".join([first, *lines]))
        return True

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

    def _clear(self) -> bool:
        """Removes what runs write, and nothing else; whether there was a run."""
        if not (self.directory / CONFIG).exists():
            return False
        for pattern in WRITTEN:
            for path in self.directory.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return True


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
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
