"""Checkpoints, which are either complete or absent.

A checkpoint is a folder `step-00001234` with model.safetensors, state.pt and manifest.json. It is written to a
temporary folder, synced and renamed. The manifest, written last, holds each file's size and SHA-256, because neither
format has a checksum.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aetool import faults
from aetool.errors import NoValidCheckpointError, UserError
from aetool.files import JsonObject, replacing_folder
from aetool.storage.folder import RunFolder
from aetool.storage.stored import read_stored, write_stored

FORMAT = 1
State = dict[str, Any]  # what torch.load reads with weights_only=True
FILES = {"model.safetensors", "state.pt"}
log = logging.getLogger("aetool")


class Checkpoint(NamedTuple):
    path: Path
    manifest: JsonObject

    @property
    def step(self) -> int:
        return self.manifest["step"]

    def model(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, on the CPU."""
        return load_file(self.path / "model.safetensors")

    def state(self) -> State:
        """Everything else that training needs to resume."""
        return torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)


class Checkpoints:
    """The checkpoints of a run: the newest `keep` (None: all), and the best one.

    Without `writes`, as in all but one process of a distributed run, `save` does nothing.
    """

    def __init__(
        self, directory: Path, info: JsonObject | None = None, keep: int | None = None, writes: bool = True
    ) -> None:
        self.directory, self.writes = directory, writes
        self.info = info or {}  # what every manifest says of the run
        self.keep = keep
        self.warnings: list[str] = []

    def save(self, step: int, model: dict[str, Tensor], state: State, best_step: int) -> None:
        """Writes the checkpoint of `step` and removes those that are neither new nor the best.

        Raises UserError when the disk is full; earlier checkpoints are unaffected.
        """
        if not self.writes:
            return
        target = self.directory / f"step-{step:08d}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = self.directory / f".{target.name}.tmp"
            with replacing_folder(target, temporary):
                faults.point("checkpoint/model")
                tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.items()}
                save_file(tensors, temporary / "model.safetensors")
                faults.point("checkpoint/state")
                torch.save(state, temporary / "state.pt")
                files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
                faults.point("checkpoint/manifest")
                manifest = {"format": FORMAT, "step": step, **self.info, "files": files}
                write_stored(temporary / "manifest.json", manifest, _of(temporary))
                faults.point("checkpoint/rename")
        except (OSError, RuntimeError) as error:  # torch.save reports a failed write as a RuntimeError
            needed = sum(value.nbytes for value in model.values()) * 3
            free = shutil.disk_usage(self.directory).free
            raise UserError(f"cannot write {target}: {error} (needs about {needed} bytes, {free} are free)") from error
        faults.point("checkpoint/rotate")
        self._rotate({step, best_step})

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that matches its manifest; None if there are none at all.

        Raises NoValidCheckpointError if there are some but none is valid, since starting over would discard work.
        """
        paths = self._paths()
        for path in reversed(paths):
            found = self._valid(path)
            if found is not None:
                return found
        if paths:
            raise NoValidCheckpointError(
                f"no checkpoint in {self.directory} is valid ({'; '.join(self.warnings)}); start over with "
                "overwrite=true"
            )
        return None

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint of this step if it is there and valid."""
        path = self.directory / f"step-{step:08d}"
        return self._valid(path) if path.is_dir() else None

    def steps(self) -> list[int]:
        """Of the checkpoints that are valid, ascending."""
        return [found.step for found in map(self._valid, self._paths()) if found is not None]

    def _valid(self, path: Path) -> Checkpoint | None:
        try:
            manifest, problem, *_ = read_stored(path / "manifest.json", _of(path))
            if problem:
                raise ValueError(problem)
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
            if manifest["step"] != int(path.name.removeprefix("step-")) or set(manifest["files"]) != FILES:
                raise ValueError("manifest.json is of another checkpoint")
            for name, description in manifest["files"].items():
                if _describe(path / name) != description:
                    raise ValueError(f"{name} is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            warning = f"checkpoint {path.name} skipped: {error}"
            if warning not in self.warnings:
                self.warnings.append(warning)
                log.warning(warning)
            return None
        return Checkpoint(path, manifest)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.glob("step-*") if path.is_dir())

    def _rotate(self, keep: set[int]) -> None:
        for path in self.directory.glob(".step-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        if self.keep is None:
            return
        names = {f"step-{step:08d}" for step in keep}
        for path in self._paths()[: -self.keep]:
            damaged = any(path.name in warning for warning in self.warnings)
            if path.name not in names and not damaged:
                shutil.rmtree(path, ignore_errors=True)
                faults.point("checkpoint/removed")


def _of(path: Path) -> str:
    """What the manifest in this folder is of: the run."""
    return RunFolder(path.parents[1]).key


def _describe(path: Path) -> JsonObject:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
