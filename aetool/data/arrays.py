"""A user's images in one .npz file."""

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aetool.components import OpenFraction
from aetool.data.dataset import Arrays, holdout
from aetool.errors import DataError

logger = logging.getLogger("aetool")

MAX_CHANNELS = 4


def arrays(cache_dir: Path, path: str, test_fraction: OpenFraction) -> Arrays:
    """Arrays from a .npz: train_images and test_images, or images from which a stratified test split is taken.

    Images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels; labels (train_labels and test_labels,
    or labels) and class_names are optional. `cache_dir` is unused. DataError names the file and what is wrong.
    """
    file = Path(path).expanduser()
    content = _read(file, path)
    images = {key: channels_first(content[key], f"{file}: {key}") for key in content if key.endswith("images")}
    if "images" in images:
        labels = content.get("labels")
        count = len(images["images"])
        if labels is not None and labels.shape != (count,):
            raise DataError(f"{file}: labels are {labels.shape} for {count} images; expected (N,)")
        found = Arrays.divided(images["images"], labels, holdout(labels, count, test_fraction), [], f"file {file}")
    else:
        found = Arrays.named(content | images)._replace(source=f"file {file}")
    return found._replace(class_names=_class_names(content.get("class_names"), found.train_labels))


def channels_first(images: NDArray[Any], label: str) -> NDArray[np.uint8]:
    """(N, C, H, W) uint8 from any accepted layout. If ambiguous, channels are assumed to come first, with a warning."""
    if images.dtype != np.uint8:
        floats, integers = "scale it to 0 to 255, round, and convert to uint8", "convert it to uint8, values 0 to 255"
        raise DataError(f"{label} is {images.dtype}; {floats if images.dtype.kind == 'f' else integers}")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(f"{label} is {images.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)")
    first, last = (1 <= images.shape[axis] <= MAX_CHANNELS for axis in (1, 3))
    if first and last:
        logger.warning("%s is %s: axis 1 and axis 3 could both be channels; taken as (N, C, H, W)", label, images.shape)
    if first:
        return images
    if last:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    raise DataError(f"{label} is {images.shape}; 1 to {MAX_CHANNELS} channels are expected on axis 1 or 3")


def _read(file: Path, path: str) -> dict[str, NDArray[Any]]:
    if not file.is_file():
        raise DataError(f"dataset.path={path}: no such file")
    if not zipfile.is_zipfile(file):
        raise DataError(f"dataset.path={path}: not a .npz file, or truncated")
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = set(archive.files) - {"class_names"}
            whole = {"images"} <= names <= {"images", "labels"}
            if not whole and not {"train_images", "test_images"} <= names <= set(Arrays._fields[:4]):
                raise DataError(
                    f"{file}: holds {', '.join(sorted(archive.files)) or 'nothing'}; expected images, or train_images "
                    "and test_images; optionally their labels (labels, or train_labels and test_labels) and class_names"
                )
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"dataset.path={path}: not a readable .npz file: {error}") from error


def _class_names(given: NDArray[Any] | None, labels: NDArray[Any] | None) -> list[str]:
    if given is not None:
        return [str(name) for name in given.ravel()]
    if labels is None or labels.dtype.kind not in "iu" or labels.size == 0:
        return []
    return [str(label) for label in range(int(labels.max()) + 1)]
