"""Atomic writes: to a temporary file next to the target, synced to disk, then renamed, so that no reader sees partial
files.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aetool import faults

JsonObject = dict[str, Any]  # as a JSON file holds it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file next to `path` to write to; it replaces `path` unless the block raises."""
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
def replacing_folder(folder: Path, temporary: Path) -> Iterator[None]:
    """A new folder `temporary` to fill; it replaces `folder`, on the same disk, unless the block raises."""
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def detach(path: Path) -> None:
    """Gives a file that has other names (hard links) a copy of its own, so that appending to it changes no other."""
    if path.exists() and path.stat().st_nlink > 1:
        with replacing(path) as temporary:
            shutil.copyfile(path, temporary)


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
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, parents before children."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
