"""What of the built-in datasets is here and whether it is intact: `aetool data list` and `aetool data check`."""

from pathlib import Path
from typing import Any

from aetool.data import cache, cifar10, digits, mnist
from aetool.data.dataset import ARRAY_NAMES, hashes
from aetool.errors import DataError

KNOWN_SHA256 = {
    "digits": digits.SHA256,
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
    """name, prepared, source, bytes, shapes, and problem (None, or why the manifest cannot be read). Reads no image."""
    result: dict[str, Any] = {
        "name": name, "prepared": False, "source": None, "bytes": 0, "shapes": {}, "problem": None
    }  # fmt: skip
    if name in EMBEDDED:
        arrays = EMBEDDED[name](cache_dir)
        present = {key: getattr(arrays, key) for key in ARRAY_NAMES if getattr(arrays, key) is not None}
        size = sum(array.nbytes for array in present.values())
        shapes = {key: list(array.shape) for key, array in present.items()}
        return result | {"prepared": True, "source": arrays.source, "bytes": size, "shapes": shapes}
    if not cache.is_prepared(name, cache_dir):
        return result
    folder = cache_dir / name
    try:
        manifest = cache.read_manifest(folder)
    except DataError as error:
        return result | {"problem": str(error)}
    size = sum(file.stat().st_size for file in folder.iterdir())
    shapes = {key: entry["shape"] for key, entry in manifest["arrays"].items()}
    return result | {"prepared": True, "source": manifest["source"], "bytes": size, "shapes": shapes}


def check(name: str, cache_dir: Path) -> list[str]:
    """Every problem found by hashing all arrays again, against the manifest and the known datasets' constants."""
    if name in EMBEDDED:
        return _differences(hashes(EMBEDDED[name](cache_dir)), name)
    if not cache.is_prepared(name, cache_dir):
        return [f"{cache_dir / name}: not prepared; `aetool data fetch {name}` prepares it"]
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
    return problems + _differences(recorded, name)


def _differences(found: dict[str, str], name: str) -> list[str]:
    known = KNOWN_SHA256.get(name, {})
    return [f"{name}: {key} is not the known dataset's" for key, sha256 in known.items() if found.get(key) != sha256]
