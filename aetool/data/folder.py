"""A user's folder of images, one folder per class, resized once and stored in the prepared cache."""

import hashlib
import json
import logging
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Len

from aetool.components import OpenFraction, PositiveInt
from aetool.data.cache import new_images, prepared
from aetool.data.dataset import Arrays, Labels, Mask, holdout
from aetool.data.decode import open_image, resized
from aetool.data.paths import existing_folder
from aetool.errors import DataError, poll_signals
from aetool.files import check_room

logger = logging.getLogger("aetool")

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
MAX_PIXELS = 80_000_000
MAX_LISTED = 20
DECODED = 256  # images decoded before they are written: bounds memory
DECODING_VERSION = 1  # part of the cache key: raise it when the same file would decode to other pixels


class Found(NamedTuple):
    """One image file; `part` is train, test, or empty if the test split has yet to be taken from the images."""

    part: str
    class_name: str
    path: str
    size: int
    modified_ns: int


def folder(
    cache_dir: Path,
    path: str,
    image_size: Annotated[list[PositiveInt], Len(2, 2)],
    channels: Literal[1, 3],
    test_fraction: OpenFraction,
    on_error: Literal["error", "skip"],
) -> Arrays:
    """Images from `path`/<class>/ (a test split is taken from them), or from `path`/train/<class>/ and
    `path`/test/<class>/.

    `image_size` is [H, W]. The cache key covers the path, the parameters and every file's name, size and time. Images
    that cannot be decoded raise one DataError listing them, or with `on_error="skip"` are skipped with a warning.
    """
    root = existing_folder("dataset.path", path, "a folder of images; dataset=arrays reads a .npz file")
    if len(image_size) != 2 or not all(isinstance(side, int) and side > 0 for side in image_size):
        raise DataError(f"dataset.image_size={list(image_size)}: must be [H, W], two positive integers")
    if channels not in (1, 3):
        raise DataError(f"dataset.channels={channels}: must be 1 or 3")
    if on_error not in ("error", "skip"):
        raise DataError(f"dataset.on_error={on_error}: must be error or skip")
    found = _listing(root)
    parameters = [DECODING_VERSION, str(root), list(image_size), channels, test_fraction, on_error]
    key = hashlib.sha256(json.dumps([parameters, found]).encode()).hexdigest()[:16]
    image_shape = (channels, *image_size)
    prepare = partial(_prepare, root, found, image_shape, test_fraction, on_error == "skip")
    return prepared(f"folder-{key}", cache_dir, prepare)


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
    images = {folder: _images(folder) for folder in classes}
    if empty := [str(folder) for folder, paths in images.items() if not paths]:
        raise DataError(f"class folders without images: {', '.join(empty[:MAX_LISTED])}; fill or remove them")
    return [
        Found(part, folder.name, path, status.st_size, status.st_mtime_ns)
        for folder, paths in images.items()
        for path, status in ((path, os.stat(path)) for path in paths)  # noqa: PTH116 - many times faster than Path
    ]


def _images(folder: Path) -> list[str]:
    """Image files at any depth, except hidden ones, sorted by path."""

    def stop(error: OSError) -> None:
        raise error

    paths = [
        f"{where}{os.sep}{name}"
        for where, _, names in os.walk(folder, onerror=stop)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")  # noqa: PTH122
    ]
    return sorted(paths, key=lambda path: os.path.normcase(path).split(os.sep))  # noqa: PTH206 - as above


def _prepare(
    root: Path, found: list[Found], image_shape: tuple[int, ...], test_fraction: float, skip: bool, folder: Path
) -> Arrays:
    """The images, decoded into `folder` one by one, so that memory use stays low for any number of images."""
    _, height, width = image_shape
    logger.info("%s: decoding %d images to %d×%d …", root, len(found), height, width)
    check_room(folder, len(found) * math.prod(image_shape))
    class_names, kept, left_out = sorted({file.class_name for file in found}), found, ""
    corrupt = _decode(kept, _is_test(kept, test_fraction), image_shape, folder)
    if corrupt:
        lines = [f"  {path}: {reason}" for path, reason in corrupt.items()]
        more = [f"  … and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
        listed = "\n".join(lines[:MAX_LISTED] + more)
        problem = f"{len(corrupt)} of {len(found)} images cannot be decoded"
        if not skip:
            raise DataError(f"{problem}; repair them, or leave them out by dataset.on_error=skip:\n{listed}")
        logger.warning("%s and are left out:\n%s", problem, listed)
        left_out = f", {len(corrupt)} corrupt images left out"
        kept = [file for file in found if file.path not in corrupt]
        if again := _decode(kept, _is_test(kept, test_fraction), image_shape, folder):  # the split has changed
            raise DataError(f"{root}: files changed while they were read: {', '.join(list(again)[:MAX_LISTED])}")
    test = _is_test(kept, test_fraction)
    images = {part: np.load(folder / f"{part}_images.npy", mmap_mode="r") for part in ("train", "test")}
    labels = _labels(kept, class_names)
    return Arrays(
        images["train"], labels[~test], images["test"], labels[test], class_names, source=f"folder {root}{left_out}"
    )


def _labels(files: list[Found], class_names: list[str]) -> Labels:
    return np.array([class_names.index(file.class_name) for file in files], np.int64)


def _is_test(files: list[Found], test_fraction: float) -> Mask:
    """Which files belong to the test split; if the folder has none, one is taken from the images."""
    if files and not files[0].part:
        labels = _labels(files, sorted({file.class_name for file in files}))
        return holdout(labels, len(labels), test_fraction)
    return np.array([file.part == "test" for file in files], bool)


def _decode(files: list[Found], test: Mask, image_shape: tuple[int, ...], folder: Path) -> dict[str, str]:
    """Writes train_images.npy and test_images.npy in the order of the files; returns why files cannot be decoded, by
    path.

    The output is only usable if all files can be decoded.
    """
    corrupt: dict[str, str] = {}
    decode = partial(_image, image_shape=image_shape)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool, ExitStack() as opened:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata
        parts = [
            opened.enter_context(new_images(folder / f"{part}_images.npy", (int(mask.sum()), *image_shape)))
            for part, mask in (("train", ~test), ("test", test))
        ]
        for start in range(0, len(files), DECODED):
            chunk = slice(start, start + DECODED)
            for file, image, held in zip(files[chunk], pool.map(decode, files[chunk]), test[chunk], strict=True):
                poll_signals()
                if isinstance(image, DataError):
                    corrupt[file.path] = str(image)
                elif not corrupt:
                    parts[int(held)].write(image)
    return corrupt


def _image(file: Found, image_shape: tuple[int, ...]) -> bytes | DataError:
    """The pixels (C, H, W), or why decoding failed."""
    channels, height, width = image_shape
    try:
        with open_image(file.path, MAX_PIXELS) as image:
            return resized(image, height, width, channels).tobytes()
    except DataError as error:
        return error
