"""Datasets: `Arrays` as returned by a dataset function, `Dataset` as used by a run.

A dataset function is any callable that returns `Arrays`; its YAML names it as `_target_`. It does not depend on the
validation split or the config. torch is imported inside functions, so that reading a signature stays cheap.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aetool.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from aetool.data.images import SplitImages

Images = NDArray[np.uint8]  # (N, C, H, W)
Labels = NDArray[np.integer[Any]]  # (N,)
Mask = NDArray[np.bool_]  # (N,)

DAMAGED_ARRAY = (OSError, ValueError, EOFError, SyntaxError, TokenError)  # what numpy raises for a damaged .npy
IN_MEMORY = 1 << 30  # bytes: arrays up to this size are copied into memory, larger ones stay where they are
HASHED = 1 << 24  # bytes hashed at a time
HOLDOUT_SEED = 20240229  # fixed: the same images are held out whatever the run's seed


class Split(NamedTuple):
    """One part of a dataset: images (N, C, H, W) uint8, labels (N,) int64 or None.

    Images are a tensor, or `LargeImages`, only some of which are in memory at a time.
    """

    images: "SplitImages"
    labels: "Tensor | None"

    def subset(self, indices: "Tensor") -> "Split":
        """The images at these indices (n,), and their labels."""
        from aetool.data.images import subset

        return Split(subset(self.images, indices), None if self.labels is None else self.labels[indices])


class Dataset(NamedTuple):
    """The three splits of a run; `num_classes` is 0 without labels, `source` says where the images came from."""

    train: Split
    val: Split
    test: Split
    num_classes: int
    class_names: list[str]
    fingerprint: str
    source: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


class Arrays(NamedTuple):
    """What a dataset function returns: images (N, C, H, W) uint8; labels (N,) of an integer type, or None for both.

    `class_names` has one name per class and is empty without labels. `fingerprint` may stay empty: `split` computes it.
    """

    train_images: Images
    train_labels: Labels | None
    test_images: Images
    test_labels: Labels | None
    class_names: list[str]
    fingerprint: str = ""
    source: str = ""

    @classmethod
    def divided(
        cls, images: Images, labels: Labels | None, test: Mask, class_names: list[str], source: str
    ) -> "Arrays":
        """Images and labels divided into train and test by the mask `test`."""
        train_labels, test_labels = (None, None) if labels is None else (labels[~test], labels[test])
        return cls(images[~test], train_labels, images[test], test_labels, class_names, source=source)

    @classmethod
    def named(cls, arrays: Mapping[str, NDArray[Any]]) -> "Arrays":
        """From arrays by name; labels may be missing."""
        train, test = ((arrays[f"{part}_images"], arrays.get(f"{part}_labels")) for part in ("train", "test"))
        return cls(*train, *test, class_names=[])

    @property
    def present(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, without labels that are None."""
        return {name: value for name, value in self._asdict().items() if isinstance(value, np.ndarray)}


def split(arrays: Arrays, val_fraction: float) -> Dataset:
    """Carve a stratified validation split out of train; arrays of up to IN_MEMORY bytes are copied into tensors.

    The indices depend only on the labels and `val_fraction`. Images keep their order. Raises DataError when the arrays
    violate the contract of `Arrays`.
    """
    validate(arrays)
    held = holdout(arrays.train_labels, len(arrays.train_images), val_fraction)
    if not held.any() or held.all():
        given = f"dataset.val_fraction={val_fraction:g} of {len(held)} training images"
        raise DataError(f"{given} leaves a split empty; give more images")
    return Dataset(
        train=_part(arrays.train_images, arrays.train_labels, ~held),
        val=_part(arrays.train_images, arrays.train_labels, held),
        test=_part(arrays.test_images, arrays.test_labels, np.ones(len(arrays.test_images), dtype=bool)),
        num_classes=len(arrays.class_names),
        class_names=list(arrays.class_names),
        fingerprint=arrays.fingerprint or fingerprint(arrays),
        source=arrays.source,
    )


def holdout(labels: Labels | None, count: int, fraction: float) -> Mask:
    """Mask (count,) of the images to hold out: `round(fraction * count)` of them, spread over the classes.

    A class with two or more images keeps at least one on both sides; a class with one image is not held out.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the fraction of images to hold out must be > 0 and < 1, not {fraction!r}")
    groups = [np.arange(count)] if labels is None else _by_class(labels)
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    quota = fraction * sizes
    take = np.floor(quota).astype(np.int64)
    largest_remainders = np.argsort(take - quota, kind="stable")[: max(0, round(fraction * count) - int(take.sum()))]
    take[largest_remainders] += 1
    take = np.where(sizes >= 2, np.clip(take, 1, np.maximum(sizes - 1, 1)), 0)
    random = np.random.RandomState(HOLDOUT_SEED)  # the legacy generator: its stream is frozen across numpy versions
    mask = np.zeros(count, dtype=bool)
    for group, number in zip(groups, take, strict=True):
        mask[random.permutation(group)[:number]] = True
    return mask


def _by_class(labels: Labels) -> list[NDArray[np.int64]]:
    """The ascending indices of every class, in the order of the classes."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def validate(arrays: Arrays) -> None:
    """Raise DataError when the arrays are inconsistent; it names their source."""
    try:
        _validate(arrays)
    except DataError as error:
        raise DataError(f"{arrays.source}: {error}" if arrays.source else str(error)) from None


def _validate(arrays: Arrays) -> None:
    for part in ("train", "test"):
        _validate_part(part, getattr(arrays, f"{part}_images"), getattr(arrays, f"{part}_labels"))
    train, test = arrays.train_images.shape[1:], arrays.test_images.shape[1:]
    if train != test:
        raise DataError(f"train images are {train} and test images {test} (C, H, W); they must be alike")
    if (arrays.train_labels is None) != (arrays.test_labels is None):
        raise DataError("labels are given for one of train and test only; give both or none")
    names = arrays.class_names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"class_names must be a list of text, not {_describe(names)}")
    if odd := [name for name in names if not _is_unicode(name)]:  # from a file system of another encoding
        raise DataError(f"class_names: {odd[0]!a} is not valid Unicode; rename it")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise DataError(f"class_names: {twice[0]} is given twice; give each class a name of its own")
    if arrays.train_labels is None or arrays.test_labels is None:
        if names:
            raise DataError("class_names are given without labels; add labels or leave them out")
        return
    if len(names) < 2:
        only = f"one class or none ({', '.join(names)})"
        raise DataError(f"at least 2 classes are needed, not {only}; to train without classes, leave the labels out")
    for part, labels in (("train", arrays.train_labels), ("test", arrays.test_labels)):
        if labels.max() >= len(names):
            allowed = f"{len(names)} classes, numbered 0 to {len(names) - 1}"
            raise DataError(f"{part}_labels run from {labels.min()} to {labels.max()}, but there are {allowed}")
    counts = np.bincount(arrays.train_labels.astype(np.int64), minlength=len(names))
    empty = [name for name, number in zip(names, counts, strict=True) if number == 0]
    if empty:
        raise DataError(f"empty class, no training image: {', '.join(empty[:20])}")


def _validate_part(part: str, images: Any, labels: Any) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"{part}_images must be a numpy array (N, C, H, W) of uint8, not {_describe(images)}")
    if images.size == 0:
        raise DataError(f"the {part} split is empty: {part}_images are {images.shape}")
    if labels is not None:
        check_labels(f"{part}_labels", labels, len(images))


def check_labels(name: str, labels: Any, count: int) -> None:
    """Raises DataError unless labels are integers (count,) from 0."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "US":
        raise DataError(f"{name} are text; number the classes from 0, and put their names into class_names")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{name} must be a numpy array (N,) of an integer type, not {_describe(labels)}")
    if len(labels) != count:
        raise DataError(f"{name}: {len(labels)} labels for {count} images; give one per image")
    if labels.min() < 0:
        raise DataError(f"{name} run from {labels.min()} to {labels.max()}; number the classes from 0")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_large(array: NDArray[Any]) -> bool:
    """Whether the array stays on disk instead of being copied into memory."""
    return array.nbytes > IN_MEMORY


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of the array's bytes in C order."""
    digest = hashlib.sha256()
    rows = max(1, HASHED // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def hashes(arrays: Arrays) -> dict[str, str]:
    """SHA-256 per array that is present."""
    return {name: array_sha256(array) for name, array in arrays.present.items()}


def fingerprint(arrays: Arrays, sha256: dict[str, str] | None = None) -> str:
    """SHA-256 over shape, type and content of every array and the class names; pass `sha256` when it is known."""
    sha256 = sha256 or hashes(arrays)
    content = [[name, list(array.shape), array.dtype.str, sha256[name]] for name, array in arrays.present.items()]
    return hashlib.sha256(json.dumps([content, arrays.class_names]).encode()).hexdigest()


def _part(images: Images, labels: Labels | None, mask: Mask) -> Split:
    """Copies the arrays, so that a memory map behind them can be released, unless the images are too large."""
    import torch

    from aetool.data.images import LargeImages

    positions = torch.from_numpy(np.flatnonzero(mask))
    return Split(
        images=LargeImages.of(images, positions) if is_large(images) else torch.from_numpy(np.asarray(images)[mask]),
        labels=None if labels is None else torch.from_numpy(np.asarray(labels)[mask].astype(np.int64)),
    )


def _describe(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
