"""What of the built-in datasets is here and whether it is intact: `aetool data list` and `aetool data check`."""

from pathlib import Path
from typing import Any

from aetool.data import cache, cifar10, digits, mnist
from aetool.data.dataset import hashes
from aetool.errors import DataError

KNOWN_SHA256 = {
    "mnist": mnist.MNIST_SHA256,
    "fashion_mnist": mnist.FASHION_MNIST_SHA256,
    "cifar10": cifar10.SHA256,
}
EMBEDDED = {"digits": digits.digits}  # inside an installed package, never in the cache


def prepared_names(cache_dir: Path) -> list[str]:
    """Everything in the prepared cache; a folder dataset appears as folder-<key>, once per version of its files."""
    if not cache_dir.is_dir():
        return []
    return sorted(entry.name for entry in cache_dir.iterdir() if cache.is_prepared(entry.name, cache_dir))


def status(name: str, cache_dir: Path) -> dict[str, Any]:
    """name, prepared, source, bytes, shapes, and problem (None, or what keeps it from being used). Hashes no image.

    Of a dataset that is cached in several versions, the newest.
    """
    nothing = {"name": name, "prepared": False, "source": None, "bytes": 0, "shapes": {}, "problem": None}
    try:
        if name in EMBEDDED:
            arrays = EMBEDDED[name](cache_dir)
            present = {key: getattr(arrays, key) for key in hashes(arrays)}
            size = sum(array.nbytes for array in present.values())
            shapes = {key: list(array.shape) for key, array in present.items()}
            return nothing | {"prepared": True, "source": arrays.source, "bytes": size, "shapes": shapes}
        folders = [cache_dir / version for version in _versions(name, cache_dir)]
        if not folders:
            return nothing
        folder = max(folders, key=lambda folder: (folder / cache.MANIFEST).stat().st_mtime_ns)
        manifest = cache.read_manifest(folder)
    except DataError as error:
        return nothing | {"problem": str(error)}
    size = sum(file.stat().st_size for file in folder.iterdir())
    shapes = {key: entry["shape"] for key, entry in manifest["arrays"].items()}
    return nothing | {"prepared": True, "source": manifest["source"], "bytes": size, "shapes": shapes}


def check(name: str, cache_dir: Path) -> list[str]:
    """Every problem found by hashing all arrays again, against the manifest and the known datasets' constants."""
    if name in EMBEDDED:
        try:
            EMBEDDED[name](cache_dir)  # compares with the constants itself
        except DataError as error:
            return [f"{name}: {error}"]
        return []
    versions = _versions(name, cache_dir)
    if not versions:
        return [f"{cache_dir / name}: not prepared; `aetool data fetch {name}` prepares it"]
    return [problem for version in versions for problem in _check_prepared(version, cache_dir)]


def _versions(name: str, cache_dir: Path) -> list[str]:
    """The dataset's own name, or `<name>-<key>` for each set of parameters."""
    return [found for found in prepared_names(cache_dir) if found == name or found.startswith(f"{name}-")]


def _check_prepared(name: str, cache_dir: Path) -> list[str]:
    try:
        manifest = cache.read_manifest(cache_dir / name)
    except DataError as error:
        return [str(error)]
    problems = []
    for key, entry in manifest["arrays"].items():
        try:
            cache.load_array(cache_dir / name, key, entry)
        except DataError as error:
            problems.append(str(error))
    recorded = {key: entry["sha256"] for key, entry in manifest["arrays"].items()}
    known = KNOWN_SHA256.get(name, {})
    wrong = [key for key, sha256 in known.items() if recorded.get(key) != sha256]
    return problems + [f"{name}: {key} is not the known dataset's" for key in wrong]
