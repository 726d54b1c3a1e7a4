"""The prepared cache: `<cache_dir>/<name>/` with one .npy per array and a manifest.json.

A folder is either complete or absent. The SHA-256 of every array is verified on every load. Arrays too large to be
copied into memory are verified only if the file has changed since the last time, and by `aetool data check`.
"""

import contextlib
import glob
import hashlib
import itertools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from pydantic import BaseModel

from aetool import faults
from aetool.data.dataset import DAMAGED_ARRAY, HASHED, Arrays, fingerprint, is_large, validate
from aetool.errors import DataError, WriteError, poll_signals
from aetool.files import check_room, make_folder, read_json, replacing_folder, write_json, writing

logger = logging.getLogger("aetool")

MANIFEST = "manifest.json"
VERIFIED = "verified.json"  # next to the manifest: the state of each large file when last verified
LOCK_POLL_SECONDS = 0.1
ELSEWHERE = "Set AETOOL_CACHE to use another folder."


class StoredArray(BaseModel, extra="forbid"):
    """What `<key>.npy` holds, in C order; `dtype` is numpy's `dtype.str`."""

    shape: list[int]
    dtype: str
    sha256: str

    @classmethod
    def of(cls, path: Path, array: np.memmap, sha256: str | None = None) -> "StoredArray":
        """Of an array by memory map; the SHA-256 of its bytes is read from the file, unless it is known."""
        return cls(shape=list(array.shape), dtype=array.dtype.str, sha256=sha256 or _file_sha256(path, array.offset))


class Manifest(BaseModel, extra="forbid"):
    """Describes a prepared dataset; the keys of `arrays` are those of `Arrays.present`.

    `sha256` is that of the other fields; an earlier version wrote none.
    """

    format_version: Literal[1] = 1
    name: str
    source: str
    class_names: list[str]
    arrays: dict[str, StoredArray]
    sha256: str | None = None

    @property
    def digest(self) -> str:
        """What `sha256` must be."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


def default_cache_dir() -> Path:
    """`datasets` inside the folder that the variable AETOOL_CACHE names, or inside the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("AETOOL_CACHE") or user_cache_dir("aetool")).expanduser() / "datasets"


def prepared(
    name: str, cache_dir: Path, prepare: Callable[[Path], Arrays], sha256: Mapping[str, str] | None = None
) -> Arrays:
    """The arrays of dataset `name` by memory map, after running `prepare` once if they are not in the cache.

    `prepare` receives an empty folder on the disk of the cache. Arrays that it writes there as `<key>.npy` (see
    `new_images`) are kept, so they need not fit into memory; other arrays are saved.

    If two processes request the same dataset, it is prepared once. A dataset with parameters is named
    `<dataset>-<key>`. Given the `sha256` of every array, a dataset that an earlier version prepared differently is
    prepared again. Raises DataError when the cache is damaged, or `prepare` returns invalid arrays, and WriteError when
    the cache cannot be written.
    """
    if not is_prepared(name, cache_dir, sha256):
        with _locked(name, cache_dir):
            if not is_prepared(name, cache_dir, sha256):
                for left in cache_dir.glob(f".{glob.escape(name)}.tmp-*"):  # by a killed process
                    shutil.rmtree(left, ignore_errors=True)
                folder = cache_dir / name
                if (
                    not is_prepared(name, cache_dir)
                    and folder.exists()
                    and (not folder.is_dir() or any(folder.iterdir()))
                ):
                    raise DataError(f"{folder / MANIFEST}: missing, so this is no prepared dataset. {_repair(folder)}")
                temporary = cache_dir / f".{name}.tmp-arrays"
                with _or_elsewhere(), replacing_folder(folder, temporary):
                    _fill(temporary, name, prepare)
    return load(name, cache_dir)


def is_prepared(name: str, cache_dir: Path, sha256: Mapping[str, str] | None = None) -> bool:
    """Whether the dataset is in the cache: given the `sha256` of every array, that dataset and no other."""
    folder = cache_dir / name
    if sha256 is not None:
        with contextlib.suppress(DataError):  # a manifest that is damaged is for `load` to report
            return {key: stored.sha256 for key, stored in read_manifest(folder).arrays.items()} == dict(sha256)
    return (folder / MANIFEST).is_file()


def load(name: str, cache_dir: Path, verify_all: bool = False) -> Arrays:
    """The prepared arrays by memory map, verified against the manifest; DataError names every damaged file.

    A large file that has not changed since it was last verified is not hashed again, unless `verify_all`.
    """
    folder = cache_dir / name
    manifest = read_manifest(folder)
    verified = {} if verify_all else read_json(folder / VERIFIED) or {}
    arrays, problems, states = {}, [], {}
    for key, stored in manifest.arrays.items():
        path = folder / f"{key}.npy"
        try:
            array = arrays[key] = _mapped(path)
            state = [*_state(path), stored.sha256]
            known = is_large(array) and verified.get(key) == state
            same = StoredArray.of(path, array, stored.sha256 if known else None) == stored
            if not same or not array.flags.c_contiguous:
                problems.append(f"{path}: altered, it does not match the manifest.")
            elif is_large(array) and [*_state(path), stored.sha256] == state:  # it did not change meanwhile
                states[key] = state
        except DAMAGED_ARRAY as error:
            problems.append(f"{path}: missing, truncated or damaged ({error}).")
    if problems:
        raise DataError("\n".join([*problems, _repair(folder)]))
    if states != verified:
        with contextlib.suppress(WriteError):  # a cache that is read-only is verified every time
            write_json(folder / VERIFIED, states)
    found = Arrays.named(arrays)._replace(class_names=manifest.class_names, source=manifest.source)
    sha256 = {key: stored.sha256 for key, stored in manifest.arrays.items()}
    return found._replace(fingerprint=fingerprint(found, sha256))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared dataset; DataError when it cannot be read or has another format."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        if not {"train_images", "test_images"} <= manifest.arrays.keys() <= set(Arrays._fields):
            raise ValueError(f"arrays are {', '.join(manifest.arrays)}")
        if manifest.sha256 not in (None, manifest.digest):
            raise ValueError("altered")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: missing, damaged or of another format version. {_repair(folder)}") from error
    return manifest


def scratch_folder(name: str, cache_dir: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder inside the cache for downloads; `prepared` removes leftovers of killed processes."""
    return tempfile.TemporaryDirectory(prefix=f".{name}.tmp-", dir=cache_dir)


def new_images(path: Path, shape: tuple[int, ...]) -> IO[bytes]:
    """A new .npy file of uint8 images of this shape, opened for writing their bytes image by image."""
    file = path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file


@contextmanager
def _or_elsewhere() -> Iterator[None]:
    """Adds to a WriteError what the user can do about it."""
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error}. {ELSEWHERE}", error.reason) from error


def _fill(folder: Path, name: str, prepare: Callable[[Path], Arrays]) -> None:
    """Puts the arrays that `prepare` returns, and their manifest, into the folder."""
    arrays = prepare(folder)
    faults.point("prepare")
    validate(arrays)
    paths = {key: folder / f"{key}.npy" for key in arrays.present}
    left = {key: array for key, array in arrays.present.items() if not paths[key].exists()}
    check_room(folder, sum(array.nbytes for array in left.values()))
    for key, array in left.items():
        np.save(paths[key], np.ascontiguousarray(array), allow_pickle=False)
    stored = {key: StoredArray.of(path, _mapped(path)) for key, path in paths.items()}
    source = arrays.source.encode(errors="replace").decode()  # a path may be in another encoding
    manifest = Manifest(name=name, source=source, class_names=arrays.class_names, arrays=stored)
    manifest.sha256 = manifest.digest
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def _mapped(path: Path) -> np.memmap:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy's, of a header as Python 2 wrote it
        found: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _file_sha256(path: Path, start: int) -> str:
    """SHA-256 of the file after the first `start` bytes; read rather than mapped, as a map would count as resident
    memory.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while part := file.read(HASHED):
            poll_signals()
            digest.update(part)
    return digest.hexdigest()


def _state(path: Path) -> list[int]:
    """File attributes that change when a file is modified or replaced."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


@contextmanager
def _locked(name: str, cache_dir: Path) -> Iterator[None]:
    """Holds the dataset's file lock; polls it, so that signals are handled while another process prepares."""
    from filelock import FileLock, Timeout

    lock = FileLock(cache_dir / f".{name}.lock")
    with _or_elsewhere(), writing(cache_dir):
        make_folder(cache_dir)
        for attempt in itertools.count():
            try:
                lock.acquire(timeout=LOCK_POLL_SECONDS)
                break
            except Timeout:
                if attempt == 0:
                    logger.warning("%s: another process is preparing it; waiting", name)
                poll_signals()
    try:
        yield
    finally:
        lock.release()


def _repair(folder: Path) -> str:
    return f"To repair: delete {folder}, then run `aetool data fetch {folder.name.partition('-')[0]}`."
