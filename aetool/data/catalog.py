"""Which built-in datasets are available and intact: `aetool data list` and `aetool data check`."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from aetool.data import cache, cifar10, digits, mnist
from aetool.data.sources import differing
from aetool.errors import DataError

KNOWN_SHA256 = {
    digits.NAME: digits.SHA256,
    "mnist": mnist.MNIST_SHA256,
    "fashion_mnist": mnist.FASHION_MNIST_SHA256,
    "cifar10": cifar10.SHA256,
}
EMBEDDED = {digits.NAME: digits.embedded}  # inside an installed package: here before they are prepared


class Status(NamedTuple):
    """Availability of a dataset; `problem` says why it cannot be used."""

    prepared: bool
    source: str = ""
    bytes: int = 0
    shapes: Mapping[str, list[int]] = MappingProxyType({})
    problem: str | None = None


def prepared_names(cache_dir: Path, name: str = "") -> list[str]:
    """Contents of the prepared cache, or only the dataset `name`: under its own name, or once per set of parameters."""
    found = sorted(manifest.parent.name for manifest in cache_dir.glob(f"[!.]*/{cache.MANIFEST}"))
    return [entry for entry in found if not name or entry == name or entry.startswith(f"{name}-")]


def status(name: str, cache_dir: Path) -> Status:
    """Does not hash images. If a dataset is cached in several versions, the newest is shown."""
    try:
        if _is_embedded(name, cache_dir):
            arrays = EMBEDDED[name]()
            size = sum(array.nbytes for array in arrays.present.values())
            shapes = {key: list(array.shape) for key, array in arrays.present.items()}
            return Status(True, arrays.source, size, shapes)
        folders = [cache_dir / version for version in prepared_names(cache_dir, name)]
        if not folders:
            return Status(False)
        folder = max(folders, key=lambda folder: (folder / cache.MANIFEST).stat().st_mtime_ns)
        manifest = cache.read_manifest(folder)
    except DataError as error:
        return Status(False, problem=str(error))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Status(True, manifest.source, size, {key: stored.shape for key, stored in manifest.arrays.items()})


def check(name: str, cache_dir: Path) -> list[str]:
    """All problems found by re-hashing all arrays and comparing them with the manifest and the known checksums."""
    problems = []
    embedded = _is_embedded(name, cache_dir)
    names = [name] if embedded else prepared_names(cache_dir, name)
    for version in names:
        try:
            arrays = EMBEDDED[name]() if embedded else cache.load(version, cache_dir, verify_all=True)
        except DataError as error:
            problems.append(f"{version}: {error}")
            continue
        wrong = differing(arrays, KNOWN_SHA256.get(version, {}))
        problems += [f"{version}: {key} is not the known dataset's" for key in wrong]
    return problems if names else [f"{cache_dir / name}: not prepared; `aetool data fetch {name}` prepares it"]


def _is_embedded(name: str, cache_dir: Path) -> bool:
    """Whether a dataset currently comes from an installed package."""
    return name in EMBEDDED and not cache.is_prepared(name, cache_dir, KNOWN_SHA256[name])
