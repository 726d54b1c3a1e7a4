"""The prepared cache: `<cache_dir>/<name>/` with one .npy per array and a manifest.json that is written last.

A folder is complete or absent: it is built beside its place, flushed to disk and renamed. Every array's SHA-256 is
verified on every load.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aetool.data.dataset import ARRAY_NAMES, Arrays, array_sha256, fingerprint, hashes, validate
from aetool.errors import DataError, poll_signals

logger = logging.getLogger("aetool")

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOCK_POLL_SECONDS = 0.1


def default_cache_dir() -> Path:
    """`datasets` inside the folder that the variable AETOOL_CACHE names, or inside the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("AETOOL_CACHE") or user_cache_dir("aetool")).expanduser() / "datasets"


def prepared(name: str, cache_dir: Path, prepare: Callable[[], Arrays]) -> Arrays:
    """The arrays of dataset `name` by memory map, after running `prepare` once if they are not in the cache.

    Two processes that ask for one dataset do the work once. A dataset with parameters is named `<dataset>-<key>`.
    Raises DataError when the cache is damaged or cannot be written, or `prepare` returns arrays that do not fit.
    """
    cache_dir = Path(cache_dir)
    if not is_prepared(name, cache_dir):
        with _locked(name, cache_dir):
            if not is_prepared(name, cache_dir):
                _sweep(name, cache_dir)
                _refuse_foreign_folder(name, cache_dir)
                arrays = prepare()
                validate(arrays)
                _save(arrays, name, cache_dir)
    return load(name, cache_dir)


def is_prepared(name: str, cache_dir: Path) -> bool:
    return (cache_dir / name / MANIFEST).is_file()


def load(name: str, cache_dir: Path) -> Arrays:
    """The prepared arrays by memory map, each verified against the manifest; DataError names the damaged file."""
    folder = cache_dir / name
    manifest = read_manifest(folder)
    arrays = {key: load_array(folder, key, entry) for key, entry in manifest["arrays"].items()}
    result = Arrays(
        **{key: arrays.get(key) for key in ARRAY_NAMES},  # type: ignore[arg-type]
        class_names=manifest["class_names"],
        source=manifest["source"],
    )
    sha256 = {key: entry["sha256"] for key, entry in manifest["arrays"].items()}
    return result._replace(fingerprint=fingerprint(result, sha256))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared dataset; DataError when it cannot be read or is of another format."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        complete = (
            manifest["format_version"] == FORMAT_VERSION
            and {"train_images", "test_images"} <= manifest["arrays"].keys() <= set(ARRAY_NAMES)
            and all({"shape", "dtype", "sha256"} <= entry.keys() for entry in manifest["arrays"].values())
            and isinstance(manifest["class_names"], list)
            and isinstance(manifest["source"], str)
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {_repair(folder)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}). {_repair(folder)}") from error
    if not complete:
        raise DataError(f"{path}: damaged or of another format version. {_repair(folder)}")
    return manifest


def load_array(folder: Path, key: str, entry: dict[str, Any]) -> NDArray[Any]:
    """One array by memory map, verified against its manifest entry; DataError names the file."""
    path = folder / f"{key}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: missing, truncated or damaged ({error}). {_repair(folder)}") from error
    if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
        raise DataError(
            f"{path}: holds {array.dtype.str} {list(array.shape)}, the manifest says "
            f"{entry['dtype']} {entry['shape']}. {_repair(folder)}"
        )
    if array_sha256(array) != entry["sha256"]:
        raise DataError(f"{path}: its SHA-256 is not the manifest's, the file was altered. {_repair(folder)}")
    return array


def scratch_folder(name: str, cache_dir: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder beside the target for downloads and staging; a killed process leaves it to the next sweep."""
    return tempfile.TemporaryDirectory(prefix=_scratch_prefix(name), dir=cache_dir)


def _scratch_prefix(name: str) -> str:
    return f".{name}.tmp-"


def _save(arrays: Arrays, name: str, cache_dir: Path) -> None:
    sha256 = hashes(arrays)
    present = {key: getattr(arrays, key) for key in sha256}
    needed = sum(array.nbytes for array in present.values())
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "source": arrays.source,
        "class_names": arrays.class_names,
        "arrays": {
            key: {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": sha256[key]}
            for key, array in present.items()
        },
    }
    try:
        with scratch_folder(name, cache_dir) as scratch:
            staging = Path(scratch) / name
            staging.mkdir()
            for key, array in present.items():
                with (staging / f"{key}.npy").open("wb") as file:
                    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            with (staging / MANIFEST).open("w", encoding="utf-8") as text:
                json.dump(manifest, text, indent=2)
                text.flush()
                os.fsync(text.fileno())
            _fsync_folder(staging)
            staging.replace(cache_dir / name)
        _fsync_folder(cache_dir)
    except OSError as error:
        free = shutil.disk_usage(cache_dir).free
        raise DataError(
            f"cannot write {cache_dir / name}: {error.strerror} ({needed / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free). AETOOL_CACHE names another folder."
        ) from error


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(name: str, cache_dir: Path) -> Iterator[None]:
    """Hold the dataset's file lock; it is polled, so that signals get through while another process prepares."""
    from filelock import FileLock, Timeout

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir / f".{name}.lock")
        waited = False
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not waited:
                    logger.warning("%s: another process is preparing it; waiting", name)
                waited = True
                poll_signals()
                time.sleep(LOCK_POLL_SECONDS)
    except OSError as error:
        raise DataError(
            f"cannot write the dataset cache {cache_dir}: {error.strerror}. AETOOL_CACHE names another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sweep(name: str, cache_dir: Path) -> None:
    """Remove what a killed preparation left; only under the lock."""
    for path in cache_dir.iterdir():
        if path.name.startswith(_scratch_prefix(name)):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_foreign_folder(name: str, cache_dir: Path) -> None:
    folder = cache_dir / name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder / MANIFEST}: missing, so the folder is not a prepared dataset. {_repair(folder)}")


def _repair(folder: Path) -> str:
    return f"To repair: delete {folder}, then run `aetool data fetch {folder.name.partition('-')[0]}`."
