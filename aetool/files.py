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
NESTED = 50  # levels of a JSON file, at most; those of a run have fewer than ten


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
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def flatten(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, parents before children."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
