"""What of the built-in datasets is here and whether it is intact: `aetool data list` and `aetool data check`."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from aetool.data import cache, cifar10, digits, mnist
from aetool.data.dataset import hashes
from aetool.errors import DataError

KNOWN_SHA256 = {
    "mnist": mnist.MNIST_SHA256,
    "fashion_mnist": mnist.FASHION_MNIST_SHA256,
    "cifar10": cifar10.SHA256,
}
EMBEDDED = {"digits": digits.digits}  # inside an installed package, never in the cache


class Status(NamedTuple):
    """What is here of a dataset; `problem` says what keeps it from being used."""

    prepared: bool
    source: str = ""
    bytes: int = 0
    shapes: Mapping[str, list[int]] = MappingProxyType({})
    problem: str | None = None


def prepared_names(cache_dir: Path) -> list[str]:
    """Everything in the prepared cache; a folder dataset appears as folder-<key>, once per version of its files."""
    return sorted(manifest.parent.name for manifest in cache_dir.glob(f"[!.]*/{cache.MANIFEST}"))


def status(name: str, cache_dir: Path) -> Status:
    """Hashes no image. Of a dataset that is cached in several versions, the newest."""
    try:
        if name in EMBEDDED:
            arrays = EMBEDDED[name](cache_dir)
            size = sum(array.nbytes for array in arrays.present.values())
            shapes = {key: list(array.shape) for key, array in arrays.present.items()}
            return Status(True, arrays.source, size, shapes)
        folders = [cache_dir / version for version in _versions(name, cache_dir)]
        if not folders:
            return Status(False)
        folder = max(folders, key=lambda folder: (folder / cache.MANIFEST).stat().st_mtime_ns)
        manifest = cache.read_manifest(folder)
    except DataError as error:
        return Status(False, problem=str(error))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Status(True, manifest.source, size, {key: stored.shape for key, stored in manifest.arrays.items()})


def check(name: str, cache_dir: Path) -> list[str]:
    """Every problem found by hashing all arrays again, against the manifest and the known datasets' constants."""
    problems = []
    names = [name] if name in EMBEDDED else _versions(name, cache_dir)
    for version in names:
        try:
            arrays = EMBEDDED[name](cache_dir) if name in EMBEDDED else cache.load(version, cache_dir)
        except DataError as error:
            problems.append(f"{version}: {error}")
            continue
        if known := KNOWN_SHA256.get(version):
            found = hashes(arrays)
            problems += [
                f"{version}: {key} is not the known dataset's" for key in known if found.get(key) != known[key]
            ]
    return problems if names else [f"{cache_dir / name}: not prepared; `aetool data fetch {name}` prepares it"]


def _versions(name: str, cache_dir: Path) -> list[str]:
    """The dataset's own name, or `<name>-<key>` for each set of parameters."""
    return [found for found in prepared_names(cache_dir) if found == name or found.startswith(f"{name}-")]
