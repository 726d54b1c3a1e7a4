"""Paths that a user names, checked before anything is opened: opening a pipe or a device could wait forever."""

import stat
from pathlib import Path

from aetool.errors import DataError


def existing_file(key: str, path: str, wanted: str) -> Path:
    """The regular file at `path`, the value of a config key; DataError says what is there instead of what is wanted."""
    found, mode = _looked_up(key, path, "file")
    if stat.S_ISDIR(mode):
        raise DataError(f"{key}={path}: a folder; expected {wanted}")
    if not stat.S_ISREG(mode):
        raise DataError(f"{key}={path}: not a regular file; expected {wanted}")
    return found


def existing_folder(key: str, path: str, wanted: str) -> Path:
    """The folder at `path`, absolute; DataError as for `existing_file`."""
    found, mode = _looked_up(key, path, "folder")
    if not stat.S_ISDIR(mode):
        raise DataError(f"{key}={path}: not a folder; expected {wanted}")
    return found.absolute()


def refuse_special(path: str | Path) -> None:
    """Raises DataError for anything but a regular file, OSError if there is nothing."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise DataError(f"{path}: not a regular file")


def _looked_up(key: str, path: str, kind: str) -> tuple[Path, int]:
    """The path, and the mode of what it names."""
    try:
        found = Path(path).expanduser()
        return found, found.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{key}={path}: no such {kind}") from None
    except (OSError, RuntimeError, ValueError) as error:  # unreadable or too long; an unknown ~user; a null byte
        raise DataError(f"{key}={path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
