"""Published datasets: an ordered list of sources, each tried in turn and verified by SHA-256."""

import logging
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aetool.data.cache import prepared, scratch_folder
from aetool.data.dataset import Arrays, hashes
from aetool.errors import DataError

logger = logging.getLogger("aetool")

# From a missing, damaged or unreachable source; RuntimeError from a torchvision that does not fit torch.
FAILURES = (DataError, OSError, EOFError, ValueError, ImportError, RuntimeError, tarfile.TarError, zlib.error)


class Source(NamedTuple):
    """`load` is given `folder`, or else an empty folder to download into; it may raise any of FAILURES."""

    name: str
    load: Callable[[Path], Arrays]
    folder: Path | None = None
    mirror: bool = False  # its use is logged as a warning


class Published(NamedTuple):
    """A dataset of known content."""

    name: str
    sha256: Mapping[str, str]
    class_names: list[str]
    on_disk: Callable[[Path], Arrays]  # from a folder of the user's; FileNotFoundError when nothing is there
    elsewhere: Sequence[Source]  # tried after the folders
    files: str  # what a user can get by hand, and where it belongs below a folder
    layout: str = "."

    def arrays(self, cache_dir: Path, data_dir: str | None) -> Arrays:
        """The prepared arrays; the first time, those of the first source whose every SHA-256 is the known one.

        Logs which source was used and why earlier ones failed. When all fail, one DataError lists them all and which
        files to put where by hand.
        """
        return prepared(self.name, cache_dir, lambda: self._first_verified(cache_dir, data_dir))

    def _first_verified(self, cache_dir: Path, data_dir: str | None) -> Arrays:
        folders = _folders_on_disk(cache_dir, data_dir)
        sources = [Source(f"files in {folder}", self.on_disk, folder) for folder in folders]
        failures = []
        for source in [*sources, *self.elsewhere]:
            try:
                with scratch_folder(self.name, cache_dir) as scratch:
                    arrays = source.load(source.folder or Path(scratch))
                verify(arrays, self.sha256)
            except FAILURES as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                absent = isinstance(error, FileNotFoundError)  # no reason for a warning
                level = logging.DEBUG if absent else logging.WARNING
                logger.log(level, "%s: not from %s: %s", self.name, source.name, reason)
                failures.append(f"  {source.name}: {reason}")
                continue
            logger.log(logging.WARNING if source.mirror else logging.INFO, "%s: from %s", self.name, source.name)
            return arrays._replace(class_names=self.class_names, source=source.name)
        raise DataError(
            "\n".join([f"{self.name}: no source could provide it. Tried in this order:", *failures])
            + f"\nBy hand: put {self.files} into {cache_dir.parent / self.layout}, "
            "or set dataset.data_dir to their folder."
        )


def verify(arrays: Arrays, sha256: Mapping[str, str]) -> None:
    """DataError naming every array whose SHA-256 is not the known one."""
    found = hashes(arrays)
    wrong = [name for name, expected in sha256.items() if found.get(name) != expected]
    if wrong:
        raise DataError(f"the content is not the known dataset: SHA-256 differs for {', '.join(wrong)}")


def _folders_on_disk(cache_dir: Path, data_dir: str | None) -> list[Path]:
    """`data_dir`, ./data and the folder that holds the cache.

    Not the cache itself: on a file system that ignores case, torchvision's MNIST folder would be the cache's mnist.
    """
    folders = [Path.cwd() / "data", cache_dir.parent]
    if data_dir is None:
        return folders
    given = Path(data_dir).expanduser()
    if not given.is_dir():
        raise DataError(f"dataset.data_dir={data_dir}: no such folder")
    return [given, *folders]
