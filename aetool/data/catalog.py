"""What of the built-in datasets is here and whether it is intact: `aetool data list` and `aetool data check`."""

from pathlib import Path
from typing import NamedTuple

from aetool.data import cache, cifar10, digits, mnist
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
    shapes: dict[str, list[int]] = {}
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
    if name in EMBEDDED:
        problem = status(name, cache_dir).problem  # the dataset verifies itself
        return [f"{name}: {problem}"] if problem else []
    versions = _versions(name, cache_dir)
    if not versions:
        return [f"{cache_dir / name}: not prepared; `aetool data fetch {name}` prepares it"]
    return [problem for version in versions for problem in _problems(version, cache_dir)]


def _versions(name: str, cache_dir: Path) -> list[str]:
    """The dataset's own name, or `<name>-<key>` for each set of parameters."""
    return [found for found in prepared_names(cache_dir) if found == name or found.startswith(f"{name}-")]


def _problems(name: str, cache_dir: Path) -> list[str]:
    folder, problems = cache_dir / name, []
    try:
        stored = cache.read_manifest(folder).arrays
    except DataError as error:
        return [str(error)]
    for key, entry in stored.items():
        try:
            cache.load_array(folder, key, entry)
        except DataError as error:
            problems.append(str(error))
    known = KNOWN_SHA256.get(name, {})
    wrong = [key for key, sha256 in known.items() if key not in stored or stored[key].sha256 != sha256]
    return problems + [f"{name}: {key} is not the known dataset's" for key in wrong]
