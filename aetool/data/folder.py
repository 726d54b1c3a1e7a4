"""A user's folder of images, one folder per class, resized once and kept in the prepared cache."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from aetool.components import OpenFraction
from aetool.data.cache import prepared
from aetool.data.dataset import Arrays, holdout
from aetool.data.decode import open_image, resized
from aetool.errors import DataError, poll_signals

logger = logging.getLogger("aetool")

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
MAX_PIXELS = 80_000_000
MAX_LISTED = 20
DECODING_VERSION = 1  # part of the cache key: raise it when the same file would decode to other pixels


class Found(NamedTuple):
    """One image file; `part` is train, test, or empty where the test split has to be carved out."""

    part: str
    class_name: str
    path: str
    size: int
    modified_ns: int


def folder(
    cache_dir: Path,
    path: str,
    image_size: list[int],
    channels: Literal[1, 3],
    test_fraction: OpenFraction,
    on_error: Literal["error", "skip"],
) -> Arrays:
    """Images from `path`/<class>/ (a test split is carved out), or from `path`/train/<class>/ and `path`/test/<class>/.

    `image_size` is [H, W]. The cache key covers the path, the parameters and every file's name, size and time. Images
    that cannot be decoded raise one DataError with their list, or are left out by `on_error="skip"` with a warning.
    """
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"dataset.path={path}: no such folder")
    if len(image_size) != 2 or not all(isinstance(side, int) and side > 0 for side in image_size):
        raise DataError(f"dataset.image_size={list(image_size)}: must be [H, W], two positive integers")
    if channels not in (1, 3):
        raise DataError(f"dataset.channels={channels}: must be 1 or 3")
    if on_error not in ("error", "skip"):
        raise DataError(f"dataset.on_error={on_error}: must be error or skip")
    found = _listing(root)
    parameters = [DECODING_VERSION, str(root), list(image_size), channels, test_fraction, on_error]
    key = hashlib.sha256(json.dumps([parameters, found]).encode()).hexdigest()[:16]
    decode = partial(_decode, root, found, image_size, channels, test_fraction, on_error == "skip")
    return prepared(f"folder-{key}", cache_dir, decode)


def _listing(root: Path) -> list[Found]:
    """Every image below `root`, ordered by part, class and name; DataError for a layout that cannot be a dataset."""
    try:
        top = _subfolders(root)
        parts = {part.name: part for part in top if part.name in ("train", "test")}
        if len(parts) < 2:
            return _in_classes("", root, top)
        if ignored := [other.name for other in top if other.name not in parts]:
            logger.warning("%s: only train and test are used, not %s", root, ", ".join(ignored))
        train, test = (_in_classes(part, parts[part], _subfolders(parts[part])) for part in ("train", "test"))
    except OSError as error:
        raise DataError(f"dataset.path={root}: cannot be read: {error}") from error
    if unknown := {file.class_name for file in test} - {file.class_name for file in train}:
        raise DataError(f"{parts['test']}: classes without training images: {', '.join(sorted(unknown))}")
    return train + test


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _in_classes(part: str, root: Path, classes: list[Path]) -> list[Found]:
    if not classes:
        raise DataError(f"{root}: holds no class folders; expected {root / '<class>'}/*.png")
    if len(classes) == 1 and part != "test":
        raise DataError(f"{root}: holds one class folder only ({classes[0].name}), at least 2 are needed")
    images = {folder: [(path, path.stat()) for path in _images(folder)] for folder in classes}
    if empty := [str(folder) for folder, paths in images.items() if not paths]:
        raise DataError(f"class folders without images: {', '.join(empty[:MAX_LISTED])}; fill or remove them")
    return [
        Found(part, folder.name, str(path), stat.st_size, stat.st_mtime_ns)
        for folder, paths in images.items()
        for path, stat in paths
    ]


def _images(folder: Path) -> list[Path]:
    """Image files at any depth, hidden ones left out."""

    def stop(error: OSError) -> None:
        raise error

    paths = [Path(where) / name for where, _, names in os.walk(folder, onerror=stop) for name in names]
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _decode(
    root: Path, found: list[Found], image_size: Sequence[int], channels: int, test_fraction: float, skip: bool
) -> Arrays:
    height, width = image_size
    logger.info("%s: decoding %d images to %d×%d …", root, len(found), height, width)
    class_names = sorted({file.class_name for file in found})
    images = np.empty((len(found), channels, height, width), np.uint8)
    kept: list[Found] = []
    corrupt: list[str] = []
    for file in found:
        poll_signals()
        try:
            with open_image(file.path, MAX_PIXELS) as image:
                images[len(kept)] = resized(image, height, width, channels)
            kept.append(file)
        except DataError as error:
            corrupt.append(f"  {file.path}: {error}")
    if corrupt:
        more = [f"  … and {len(corrupt) - MAX_LISTED} more"] if len(corrupt) > MAX_LISTED else []
        listed = "\n".join(corrupt[:MAX_LISTED] + more)
        problem = f"{len(corrupt)} of {len(found)} images cannot be decoded"
        if not skip:
            raise DataError(f"{problem}; repair them, or leave them out by dataset.on_error=skip:\n{listed}")
        logger.warning("%s and are left out:\n%s", problem, listed)
    labels = np.array([class_names.index(file.class_name) for file in kept], np.int64)
    parted = np.array([file.part == "test" for file in kept], bool)
    test = parted if found[0].part else holdout(labels, len(labels), test_fraction)
    left_out = f", {len(corrupt)} corrupt images left out" if corrupt else ""
    return Arrays.divided(images[: len(kept)], labels, test, class_names, f"folder {root}{left_out}")
