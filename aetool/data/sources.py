"""Published datasets: a list of sources, tried in order and verified by SHA-256."""

import logging
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aetool.data.cache import prepared, scratch_folder
from aetool.data.dataset import Arrays, hashes
from aetool.data.paths import existing_folder
from aetool.errors import FULL, DataError

logger = logging.getLogger("aetool")

# From a missing, damaged or unreachable source; RuntimeError from a torchvision that does not fit torch.
FAILURES = (DataError, OSError, EOFError, ValueError, ImportError, RuntimeError, tarfile.TarError, zlib.error)


class Source(NamedTuple):
    """`load` receives `folder`, or an empty folder to download into; it may raise any of FAILURES."""

    name: str
    load: Callable[[Path], Arrays]
    folder: Path | None = None
    mirror: bool = False  # its use is logged as a warning


def published(
    name: str,
    cache_dir: Path,
    data_dir: str | None,
    sha256: Mapping[str, str],
    class_names: list[str],
    on_disk: Callable[[Path], Arrays],
    elsewhere: Sequence[Source],
    by_hand: tuple[str, str],
) -> Arrays:
    """A dataset from the prepared cache; the first time, from the first source whose checksums all match.

    `on_disk` reads a user's folder, or raises FileNotFoundError; `elsewhere` is tried after the folders. Logs which
    source was used and why earlier ones failed. If all fail, one DataError lists them and says which files to place
    where `by_hand`.
    """

    def first_verified(_: Path) -> Arrays:
        failures = []
        folders = _folders_on_disk(cache_dir, data_dir)
        for source in [*(Source(f"files in {folder}", on_disk, folder) for folder in folders), *elsewhere]:
            try:
                with scratch_folder(name, cache_dir) as scratch:
                    arrays = source.load(source.folder or Path(scratch))
                verify(arrays, sha256)
            except FAILURES as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise  # another source does not help
                reason = " ".join(str(error).split()) or type(error).__name__
                level = logging.DEBUG if isinstance(error, FileNotFoundError) else logging.WARNING
                logger.log(level, "%s: not from %s: %s", name, source.name, reason)
                failures.append(f"  {source.name}: {reason}")
                continue
            logger.log(logging.WARNING if source.mirror else logging.INFO, "%s: from %s", name, source.name)
            return arrays._replace(class_names=class_names, source=source.name)
        files, place = by_hand
        remedy = f"By hand: put {files} into {cache_dir.parent / place}, or set dataset.data_dir to their folder."
        raise DataError("\n".join([f"{name}: no source could provide it. Tried in this order:", *failures, remedy]))

    return prepared(name, cache_dir, first_verified, sha256)


def verify(arrays: Arrays, sha256: Mapping[str, str]) -> None:
    """Raises DataError naming every array whose SHA-256 does not match."""
    if wrong := differing(arrays, sha256):
        raise DataError(f"the content is not the known dataset: SHA-256 differs for {', '.join(wrong)}")


def differing(arrays: Arrays, sha256: Mapping[str, str]) -> list[str]:
    """The names of the arrays whose SHA-256 does not match."""
    found = hashes(arrays)
    return [name for name, expected in sha256.items() if found.get(name) != expected]


def _folders_on_disk(cache_dir: Path, data_dir: str | None) -> list[Path]:
    """`data_dir`, ./data and the folder that holds the cache.

    Not the cache itself: on a case-insensitive file system, torchvision's MNIST folder would be the cache's mnist.
    """
    folders = [Path.cwd() / "data", cache_dir.parent]
    if data_dir is None:
        return folders
    return [existing_folder("dataset.data_dir", data_dir, "the folder that holds the files"), *folders]
