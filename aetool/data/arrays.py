"""A user's images in one .npz file."""

import logging
import math
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aetool.components import OpenFraction
from aetool.data.dataset import DAMAGED_ARRAY, Arrays, check_labels, holdout
from aetool.data.paths import existing_file
from aetool.errors import DataError

logger = logging.getLogger("aetool")

MAX_CHANNELS = 4
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy's
UNREADABLE = (*DAMAGED_ARRAY, NotImplementedError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def arrays(cache_dir: Path, path: str, test_fraction: OpenFraction) -> Arrays:
    """Arrays from a .npz: train_images and test_images, or images from which a stratified test split is taken.

    Images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels; labels (train_labels and test_labels,
    or labels) and class_names are optional. Labels are integers (N,) from 0 to K - 1 for K classes. `cache_dir` is
    unused. DataError names the file and what is wrong.
    """
    file = existing_file("dataset.path", path, "a .npz file; dataset=folder reads folders of images")
    content = _read(file)
    images = {key: channels_first(content[key], f"{file}: {key}") for key in content if key.endswith("images")}
    labels = {key: content[key] for key in content if key.endswith("labels")}
    for key in labels:
        check_labels(f"{file}: {key}", labels[key], len(images[key.replace("labels", "images")]))
    known = labels.get("labels", labels.get("train_labels"))
    class_names = _class_names(file, content.get("class_names"), known)
    if "images" in images:
        test = holdout(known, len(images["images"]), test_fraction)
        return Arrays.divided(images["images"], known, test, class_names, f"file {file}")
    return Arrays.named(images | labels)._replace(class_names=class_names, source=f"file {file}")


def channels_first(images: NDArray[Any], label: str) -> NDArray[np.uint8]:
    """(N, C, H, W) uint8 from any accepted layout. If ambiguous, channels are assumed to come first, with a warning."""
    if images.dtype != np.uint8:
        floats, integers = "scale it to 0 to 255, round, and convert to uint8", "convert it to uint8, values 0 to 255"
        raise DataError(f"{label} is {images.dtype}; {floats if images.dtype.kind == 'f' else integers}")
    if images.ndim not in (3, 4):
        raise DataError(f"{label} is {images.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.size == 0:
        raise DataError(f"{label} is {images.shape}: there are no images in it")
    if images.ndim == 3:
        return images[:, None]
    first, last = (1 <= images.shape[axis] <= MAX_CHANNELS for axis in (1, 3))
    if first and last:
        logger.warning("%s is %s: axis 1 and axis 3 could both be channels; taken as (N, C, H, W)", label, images.shape)
    if first:
        return images
    if last:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    raise DataError(f"{label} is {images.shape}; 1 to {MAX_CHANNELS} channels are expected on axis 1 or 3")


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays by name. A small file can claim any size, so all are checked before one is read."""
    try:
        with zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's, of headers that Python 2 wrote
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _refuse_names(file, set(found))
            for key, info in found.items():
                _check_header(archive, info, f"{file}: {key}")
            _refuse_size(file, sum(info.file_size for info in found.values()))
            return {key: _array(archive, info) for key, info in found.items()}
    except UNREADABLE as error:
        raise DataError(f"dataset.path={file}: not a readable .npz file: {error or type(error).__name__}") from error


def _refuse_names(file: Path, found: set[str]) -> None:
    names = found - {"class_names"}
    whole = {"images"} <= names <= {"images", "labels"}
    if not whole and not {"train_images", "test_images"} <= names <= set(Arrays._fields[:4]):
        raise DataError(
            f"{file}: holds {', '.join(sorted(found)) or 'nothing'}; expected images, or train_images and test_images; "
            "optionally their labels (labels, or train_labels and test_labels) and class_names"
        )


def _check_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> None:
    """DataError for an array of Python objects, or if what the zip and the array say of its size disagrees."""
    if info.flag_bits & 1 or info.compress_type not in COMPRESSIONS:
        raise DataError(f"{label}: encrypted or compressed by an unusual method; write it by numpy.savez_compressed")
    with archive.open(info) as file:
        shape, dtype = _header(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise DataError(f"{label} holds Python objects, which are not loaded; convert it to numbers or text")
    if not dtype.itemsize or size != info.file_size:
        raise DataError(f"{label} is {dtype} {shape} by its header, which does not fit {info.file_size} bytes")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"an array of format version {version}")
    shape, _, dtype = HEADERS[version](file)
    return shape, dtype


def _refuse_size(file: Path, needed: int) -> None:
    from aetool.system.machine import available_memory

    free = available_memory()
    if free is not None and needed > free:
        sizes = f"{needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB of memory are free"
        raise DataError(f"dataset.path={file}: decompresses to {sizes}; save fewer or smaller images")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _class_names(file: Path, given: NDArray[Any] | None, labels: NDArray[Any] | None) -> list[str]:
    """The given ones, one per class, or the numbers of the classes."""
    if labels is None:
        if given is not None:
            raise DataError(f"{file}: class_names without labels; add labels or leave them out")
        return []
    present = np.unique(labels)
    if given is None and len(present) <= present[-1]:
        shown = ", ".join(map(str, present[:5])) + (", …" if len(present) > 5 else "")
        raise DataError(
            f"{file}: the labels {shown} leave numbers out; number the {len(present)} classes 0 to {len(present) - 1}, "
            "for example by numpy.unique(labels, return_inverse=True)[1]"
        )
    if given is None:
        return [str(label) for label in present]
    if given.size != len(present):
        raise DataError(
            f"{file}: {given.size} class_names for labels of {len(present)} classes; give one name per class"
        )
    return [str(name) for name in given.ravel()]
