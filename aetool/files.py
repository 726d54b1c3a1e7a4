"""Writing files: whole or not at all, and one message for what cannot be written.

A file that replaces another is written to a temporary one next to it, synced to disk, then renamed, so that no reader
sees partial files. Everything here raises WriteError where the disk is full, read-only or failing.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from aetool import faults
from aetool.errors import FULL, UserError, WriteError

JsonObject = dict[str, Any]  # as a JSON file holds it
# Libraries that are not written in Python report a failed write in words: safetensors, torch.save, numpy.
_NUMBERED = re.compile(r"\(os error (\d+)\)")
_PARTIAL = re.compile(r"inline_container|iostream error|Parent directory|\d+ requested and \d+ written")
log = logging.getLogger("aetool")
NESTED = 50  # levels of a JSON file, at most; those of a run have fewer than ten


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Raises WriteError for what keeps the block from writing `path`, a file or a folder of about `needed` bytes."""
    try:
        yield
    except Exception as error:
        found = _failed_write(error)
        if found is None:
            raise
        raise unwritable(path, found, needed) from error


def unwritable(path: Path, error: OSError, needed: int | None = None) -> WriteError:
    """The one message of a file that cannot be written."""
    reason = error.strerror or str(error) or "not all of it could be written"
    if error.errno not in {*FULL, None}:
        return WriteError(f"cannot write {path}: {reason}", reason)
    existing = next(parent for parent in path.absolute().parents if parent.is_dir())
    room = f"{shutil.disk_usage(existing).free:,} bytes free"
    room = room if needed is None else f"about {needed:,} bytes needed, {room}"
    return WriteError(f"cannot write {path}: {reason} ({room})", reason)


def _failed_write(error: Exception) -> OSError | None:
    """The error of the system behind one of a library; without a number where that is unknown, None for a bug."""
    if isinstance(error, OSError) and (error.errno or not _PARTIAL.search(str(error))):
        return error
    if type(error).__name__ == "SafetensorError" and (numbered := _NUMBERED.search(str(error))):
        return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
    return OSError() if isinstance(error, OSError | RuntimeError) and _PARTIAL.search(str(error)) else None


@contextmanager
def dispensable(consequence: str) -> Iterator[None]:
    """A file that cannot be written within the block is only a warning, which says what follows."""
    try:
        yield
    except WriteError as error:
        log.warning("%s: %s", error, consequence)


def refuse_file(word: str, path: Path | None) -> None:
    """Raises UserError for a file in a folder that does not exist, or in the place of a folder.

    `word` is what stands before the path in the command: `--csv ` or `file=`.
    """
    refuse_folder(word, path)
    if path is not None and path.is_dir():
        raise UserError(f"{word}{path}: a folder; give the name of a file")


def refuse_folder(word: str, path: Path | None) -> None:
    """Raises UserError for a folder that cannot be created, because the one that it would be in does not exist."""
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{word}{path}: there is no folder {path.parent}; create it, or correct the path")


def check_room(folder: Path, needed: int) -> None:
    """Raises WriteError when the disk of an existing folder does not have this many bytes left."""
    if needed > shutil.disk_usage(folder).free:
        raise unwritable(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), needed)


def check_writable(folder: Path) -> None:
    """Raises WriteError unless files can be created in the folder, or in the one in which it would be created."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with writing(folder), TemporaryFile(dir=existing):
        pass


def make_folder(folder: Path, parents: bool = True) -> Path:
    """The folder, which is there then; without `parents`, the one that it is in has to exist."""
    with writing(folder):
        folder.mkdir(parents=parents, exist_ok=True)
    return folder


@contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A temporary file next to `path` to write to; it replaces `path` unless the block raises.

    What is there and no file, such as a pipe, is written to directly.
    """
    with writing(path, needed):
        if path.exists() and not path.is_file():
            yield path
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            faults.point("write")
            yield temporary
            sync(temporary)
            faults.point("rename")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(folder: Path, temporary: Path, needed: int | None = None) -> Iterator[None]:
    """A new folder `temporary` to fill; it replaces `folder`, on the same disk, unless the block raises.

    Before `folder` is removed, `temporary` is complete and on the disk.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(folder, needed):
        try:
            temporary.mkdir()
            yield
            for path in temporary.iterdir():
                sync(path)
            sync(temporary)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        faults.point("replace")
        temporary.rename(folder)
        sync(folder.parent)


class Appended:
    """A file to which pieces are appended, each whole or not at all."""

    def __init__(self, path: Path, fault: str) -> None:
        """`fault` is the fault point before a piece is written."""
        self.path, self.fault = path, fault
        detach(path)
        with writing(path):
            self._file = path.open("ab", buffering=0)  # a buffer would keep what could not be written, and try again

    @property
    def position(self) -> int:
        """Length of the file in bytes."""
        return self._file.seek(0, os.SEEK_END)

    def truncate(self, position: int) -> None:
        with writing(self.path):
            self._file.truncate(position)

    def write(self, piece: bytes) -> None:
        before = self.position
        with writing(self.path, len(piece)):
            try:
                faults.point(self.fault)
                left = memoryview(piece)
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(before)
                raise

    def close(self) -> None:
        with writing(self.path):  # some file systems report a failed write only now
            self._file.close()


def detach(path: Path) -> None:
    """Gives a file that has other names (hard links) a copy of its own, so that appending to it changes no other."""
    if path.exists() and path.stat().st_nlink > 1:
        with replacing(path) as temporary:
            shutil.copyfile(path, temporary)


def sha256_of(path: Path) -> str:
    """Of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> JsonObject | None:
    """The object in a JSON file; None when it is missing or not one."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def parse_json(text: str) -> JsonObject | None:
    """The object in a JSON text; None when it is not one, or too deeply nested to be walked."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not _is_deeper(found, NESTED) else None


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [child for children in inner for child in children]
    return bool(level)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """In UTF-8; `errors` as in str.encode."""
    content = text.encode(errors=errors)
    with replacing(path, len(content)) as temporary:
        temporary.write_bytes(content)


def flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, parents before children."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
