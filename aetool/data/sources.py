"""Where a known dataset may come from: an ordered list of sources, each tried in turn and verified by SHA-256."""

import logging
import pickle
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from aetool.data.dataset import Arrays, hashes
from aetool.errors import DataError

logger = logging.getLogger("aetool")

# What a missing, damaged or unreachable source raises. Interrupted and programming errors pass through.
FAILURES = (
    DataError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,  # a torchvision that does not fit torch
    subprocess.SubprocessError,
    tarfile.TarError,
    zlib.error,
    pickle.UnpicklingError,
)


class Source(NamedTuple):
    """`load` returns the arrays or raises one of FAILURES; a `mirror` is worth a warning when it is what was used."""

    name: str
    load: Callable[[], Arrays]
    mirror: bool = False


def first_verified(dataset: str, sources: Sequence[Source], sha256: dict[str, str], by_hand: str) -> Arrays:
    """The arrays of the first source whose every array has the expected SHA-256.

    Logs which source was used and why earlier ones failed. All failing: one DataError that lists them all and
    `by_hand`, the files to put somewhere by hand.
    """
    failures = []
    for source in sources:
        try:
            arrays = source.load()
            verify(arrays, sha256)
        except FAILURES as error:
            reason = _reason(error)
            absent = isinstance(error, FileNotFoundError)  # nothing there is not worth a warning, something wrong is
            logger.log(
                logging.DEBUG if absent else logging.WARNING, "%s: not from %s: %s", dataset, source.name, reason
            )
            failures.append(f"  {source.name}: {reason}")
            continue
        logger.log(logging.WARNING if source.mirror else logging.INFO, "%s: from %s", dataset, source.name)
        return arrays._replace(source=source.name)
    raise DataError("\n".join([f"{dataset}: no source could provide it. Tried in this order:", *failures, by_hand]))


def verify(arrays: Arrays, sha256: dict[str, str]) -> None:
    """DataError naming every array whose SHA-256 is not the known one."""
    found = hashes(arrays)
    wrong = [name for name, expected in sha256.items() if found.get(name) != expected]
    if wrong:
        raise DataError(f"the content is not the known dataset: SHA-256 differs for {', '.join(wrong)}")


def folders_on_disk(cache_dir: Path, data_dir: str | None) -> list[Path]:
    """Where to look for files already on disk: `data_dir`, ./data and the folder that holds the cache.

    Not the cache itself: on a file system that ignores case, torchvision's MNIST folder would be the cache's mnist.
    """
    folders = [Path.cwd() / "data", Path(cache_dir).parent]
    if data_dir is None:
        return folders
    given = Path(data_dir).expanduser()
    if not given.is_dir():
        raise DataError(f"dataset.data_dir={data_dir}: no such folder")
    return [given, *folders]


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    return " ".join(str(error).split()) or type(error).__name__
