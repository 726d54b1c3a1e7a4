"""The prepared cache: `<cache_dir>/<name>/` with one .npy per array and a manifest.json.

A folder is complete or absent. Every array's SHA-256 is verified on every load.
"""

import glob
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from aetool.data.dataset import Arrays, array_sha256, fingerprint, validate
from aetool.errors import DataError, poll_signals
from aetool.files import replacing_folder

logger = logging.getLogger("aetool")

MANIFEST = "manifest.json"
LOCK_POLL_SECONDS = 0.1
ELSEWHERE = "Set AETOOL_CACHE to use another folder."


class StoredArray(BaseModel):
    """What `<key>.npy` holds; `dtype` is numpy's `dtype.str`."""

    shape: list[int]
    dtype: str
    sha256: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> "StoredArray":
        return cls(shape=list(array.shape), dtype=array.dtype.str, sha256=array_sha256(array))


class Manifest(BaseModel):
    """Describes a prepared dataset; the keys of `arrays` are those of `Arrays.present`."""

    format_version: Literal[1] = 1
    name: str
    source: str
    class_names: list[str]
    arrays: dict[str, StoredArray]


def default_cache_dir() -> Path:
    """`datasets` inside the folder that the variable AETOOL_CACHE names, or inside the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("AETOOL_CACHE") or user_cache_dir("aetool")).expanduser() / "datasets"


def prepared(name: str, cache_dir: Path, prepare: Callable[[], Arrays]) -> Arrays:
    """The arrays of dataset `name` by memory map, after running `prepare` once if they are not in the cache.

    Two processes that ask for one dataset do the work once. A dataset with parameters is named `<dataset>-<key>`.
    Raises DataError when the cache is damaged or cannot be written, or `prepare` returns arrays that do not fit.
    """
    if not is_prepared(name, cache_dir):
        with _locked(name, cache_dir):
            if not is_prepared(name, cache_dir):
                for left in cache_dir.glob(f".{glob.escape(name)}.tmp-*"):  # by a killed process
                    shutil.rmtree(left, ignore_errors=True)
                folder = cache_dir / name
                if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                    raise DataError(f"{folder / MANIFEST}: missing, so this is no prepared dataset. {_repair(folder)}")
                arrays = prepare()
                validate(arrays)
                _save(arrays, name, cache_dir)
    return load(name, cache_dir)


def is_prepared(name: str, cache_dir: Path) -> bool:
    return (cache_dir / name / MANIFEST).is_file()


def load(name: str, cache_dir: Path) -> Arrays:
    """The prepared arrays by memory map, each verified against the manifest; DataError names every damaged file."""
    folder = cache_dir / name
    manifest = read_manifest(folder)
    arrays, problems = {}, []
    for key, stored in manifest.arrays.items():
        path = folder / f"{key}.npy"
        try:
            arrays[key] = np.load(path, mmap_mode="r", allow_pickle=False)
            if StoredArray.of(arrays[key]) != stored:
                problems.append(f"{path}: altered, it does not match the manifest.")
        except (OSError, ValueError, EOFError) as error:
            problems.append(f"{path}: missing, truncated or damaged ({error}).")
    if problems:
        raise DataError("\n".join([*problems, _repair(folder)]))
    found = Arrays.named(arrays)._replace(class_names=manifest.class_names, source=manifest.source)
    sha256 = {key: stored.sha256 for key, stored in manifest.arrays.items()}
    return found._replace(fingerprint=fingerprint(found, sha256))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared dataset; DataError when it cannot be read or is of another format."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        if not {"train_images", "test_images"} <= manifest.arrays.keys() <= set(Arrays._fields):
            raise ValueError(f"arrays are {', '.join(manifest.arrays)}")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: missing, damaged or of another format version. {_repair(folder)}") from error
    return manifest


def scratch_folder(name: str, cache_dir: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder inside the cache for downloads; what a killed process left is removed by `prepared`."""
    return tempfile.TemporaryDirectory(prefix=f".{name}.tmp-", dir=cache_dir)


def _save(arrays: Arrays, name: str, cache_dir: Path) -> None:
    present = arrays.present
    stored = {key: StoredArray.of(array) for key, array in present.items()}
    manifest = Manifest(name=name, source=arrays.source, class_names=arrays.class_names, arrays=stored)
    temporary = cache_dir / f".{name}.tmp-arrays"
    try:
        with replacing_folder(cache_dir / name, temporary):
            for key, array in present.items():
                np.save(temporary / f"{key}.npy", np.ascontiguousarray(array), allow_pickle=False)
            (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    except OSError as error:
        needed, free = sum(array.nbytes for array in present.values()), shutil.disk_usage(cache_dir).free
        space = f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        raise DataError(f"cannot write {cache_dir / name}: {error.strerror} ({space}). {ELSEWHERE}") from error


@contextmanager
def _locked(name: str, cache_dir: Path) -> Iterator[None]:
    """Hold the dataset's file lock; it is polled, so that signals get through while another process prepares."""
    from filelock import FileLock, Timeout

    lock = FileLock(cache_dir / f".{name}.lock")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        for attempt in itertools.count():
            try:
                lock.acquire(timeout=LOCK_POLL_SECONDS)
                break
            except Timeout:
                if attempt == 0:
                    logger.warning("%s: another process is preparing it; waiting", name)
                poll_signals()
    except OSError as error:
        raise DataError(f"cannot write the dataset cache {cache_dir}: {error.strerror}. {ELSEWHERE}") from error
    try:
        yield
    finally:
        lock.release()


def _repair(folder: Path) -> str:
    return f"To repair: delete {folder}, then run `aetool data fetch {folder.name.partition('-')[0]}`."
