"""Checkpoints, which are either complete or absent.

A checkpoint is a folder `step-00001234` with model.safetensors, state.pt and manifest.json. It is written to a
temporary folder, synced and renamed. The manifest, written last, holds each file's size and SHA-256, because neither
format has a checksum.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aetool import faults
from aetool.errors import OUT_OF_MEMORY, DamagedError, NoValidCheckpointError, UserError, exit_code
from aetool.files import JsonObject, make_folder, replacing_folder, sha256_of, writing
from aetool.storage.folder import RunFolder
from aetool.storage.stored import read_stored, write_stored

FORMAT = 1
State = dict[str, Any]  # what torch.load reads with weights_only=True
FILES = {"model.safetensors", "state.pt"}
BESIDES = 1 << 15  # bytes of a checkpoint besides its tensors, about
log = logging.getLogger("aetool")


class Checkpoint(NamedTuple):
    path: Path
    manifest: JsonObject  # valid by _Manifest

    @property
    def step(self) -> int:
        return self.manifest["step"]

    def model(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, on the CPU; raises DamagedError."""
        with self._reading("model.safetensors") as file:
            return load_file(file)

    def state(self) -> State:
        """Everything else that training needs to resume; raises DamagedError."""
        with self._reading("state.pt") as file:
            return torch.load(file, map_location="cpu", weights_only=True)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        try:
            yield self.path / name
        except Exception as error:  # whatever a library raises for bytes that are not of its format
            if exit_code(error) == OUT_OF_MEMORY:
                raise
            raise DamagedError(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from error


class _Strict(BaseModel, strict=True, allow_inf_nan=False):
    pass


class _Preprocessing(_Strict):
    mean: list[float]
    std: list[PositiveFloat]
    logits: bool


class _File(_Strict):
    bytes: NonNegativeInt
    sha256: str


class _Manifest(_Strict):
    """What manifest.json must hold; the rest is of the versions and settings that the run was trained with."""

    format: PositiveInt  # this one
    step: NonNegativeInt
    image_shape: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    preprocessing: _Preprocessing
    fingerprint: str
    files: dict[str, _File]


class Checkpoints:
    """The checkpoints of a run: the newest `keep` (None: all), and the best one.

    Without `writes`, as in all but one process of a distributed run, `save` does nothing. A checkpoint that is damaged,
    or found to be by a function `read` that is given it, is skipped with a warning. Raises UserError for one of another
    format.
    """

    def __init__(
        self, directory: Path, info: JsonObject | None = None, keep: int | None = None, writes: bool = True
    ) -> None:
        self.directory, self.writes = directory, writes
        self.info = info or {}  # what every manifest says of the run
        self.keep = keep
        self.warnings: list[str] = []
        self._damaged: set[str] = set()  # names of those that were found to be

    def save(self, step: int, model: dict[str, Tensor], state: State, best_step: int) -> None:
        """Writes the checkpoint of `step` and removes those that are neither new nor the best.

        At every instant a complete checkpoint exists, from the first one on (see `recover`). A damaged one of the same
        step is kept under another name. Raises WriteError when the disk is full; earlier checkpoints are unaffected.
        """
        if not self.writes:
            return
        target = self.directory / f"step-{step:08d}"
        make_folder(self.directory, parents=False)
        temporary = self.directory / f".{target.name}.tmp"
        needed = sum(value.nbytes for value in model.values()) * 3 + BESIDES  # with the two averages of Adam
        if target.name in self._damaged:
            with writing(target):
                target.rename(target.with_name(f"damaged-{time.monotonic_ns()}-{target.name}"))
            self._damaged.remove(target.name)
        with replacing_folder(target, temporary, needed):
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
        faults.point("checkpoint/rotate")
        self._rotate({step, best_step})

    def recover(self) -> None:
        """Finishes what a killed process was doing: a complete checkpoint gets its name, all else goes.

        For the process that writes. A complete one replaces that of the same step, which is never newer.
        """
        for path in sorted(self.directory.glob(".step-*")):
            if path.suffix == ".tmp":
                with contextlib.suppress(DamagedError):
                    _read(path)
                    target = path.with_name(path.stem.removeprefix("."))
                    _remove(target)
                    path.rename(target)
                    continue
            _remove(path)

    def newest(self, read: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
        """The newest checkpoint that is not damaged; None if there are none at all.

        Raises NoValidCheckpointError if there are some but none is valid, since starting over would discard work.
        """
        paths = self._paths()
        for path in reversed(paths):
            found = self._valid(path, read)
            if found is not None:
                return found
        if paths:
            raise NoValidCheckpointError(
                f"no checkpoint in {self.directory} is valid ({'; '.join(self.warnings)}); start over with "
                "overwrite=true"
            )
        return None

    def at(self, step: int, read: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
        """The checkpoint of this step if it is there and not damaged."""
        path = self.directory / f"step-{step:08d}"
        return self._valid(path, read) if path.exists() else None

    def steps(self) -> list[int]:
        """Of the checkpoints that are not damaged, ascending."""
        return [found.step for found in map(self._valid, self._paths()) if found is not None]

    def examined(self) -> tuple[list[int], dict[str, str]]:
        """The steps of those that are not damaged, ascending, and what is wrong with the others, by name."""
        whole, damaged = [], {}
        for path in self._paths():
            try:
                whole.append(_read(path).step)
            except DamagedError as error:
                damaged[path.name] = str(error)
        return whole, damaged

    def _valid(self, path: Path, read: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
        try:
            found = _read(path)
            if read is not None:
                read(found)
            return found
        except DamagedError as error:
            self._damaged.add(path.name)
            warning = f"checkpoint {path.name} skipped: {error}"
            if warning not in self.warnings:
                self.warnings.append(warning)
                log.warning(warning)
            return None

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def _rotate(self, keep: set[int]) -> None:
        if self.keep is None:
            return
        names = {f"step-{step:08d}" for step in keep}
        for path in self._paths()[: -self.keep]:
            if path.name not in names and path.name not in self._damaged:
                with contextlib.suppress(OSError):
                    removed = path.rename(path.with_name(f".{path.name}.old"))  # a kill leaves no half of one
                    faults.point("checkpoint/removed")
                    _remove(removed)


def _remove(path: Path) -> None:
    """A folder, or a file in the place of one, as far as possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path) -> Checkpoint:
    """Raises DamagedError if the folder, under its own name or its temporary one, is not a complete checkpoint."""
    try:
        stored = read_stored(path / "manifest.json", _of(path))
        if stored.problem:
            raise DamagedError(stored.problem)
        manifest = stored.values
        _check_format(path, manifest)
        checked = _Manifest.model_validate(manifest)
        if path.name.strip(".").removesuffix(".tmp") != f"step-{checked.step:08d}" or set(checked.files) != FILES:
            raise DamagedError("manifest.json is of another checkpoint")
        if not len(checked.preprocessing.mean) == len(checked.preprocessing.std) == checked.image_shape[0]:
            raise DamagedError("manifest.json, preprocessing: not a mean and std of each channel")
        for name, description in checked.files.items():
            if _describe(path / name) != description.model_dump():
                raise DamagedError(f"{name} is damaged")
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(f"manifest.json, {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except OSError as error:
        raise DamagedError(str(error)) from error
    return Checkpoint(path, manifest)


def _check_format(path: Path, manifest: JsonObject) -> None:
    """Raises UserError for a checkpoint of another version: an older one in its place would discard work."""
    found = manifest.get("format")
    if type(found) is not int or found < 1 or found == FORMAT:
        return
    age, remedy = ("a newer", "upgrade aetool") if found > FORMAT else ("an older", "resume with that version")
    formats = f"checkpoint format {found}, this one reads {FORMAT}"
    raise UserError(f"{path}: written by {age} aetool ({formats}); {remedy}, or start over with overwrite=true")


def _of(path: Path) -> str:
    """What the manifest in this folder is of: the run."""
    return RunFolder(path.parents[1]).key


def _describe(path: Path) -> JsonObject:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
