"""JSON files with a checksum of their content, so that no damaged number is taken for a stored one; no torch.

The checksum also covers what the file is of, so that one copied from elsewhere is not taken for it, and the checksums
of files beside it. A file without a checksum, as earlier versions wrote it, is taken as it is.
"""

import hashlib
import json
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aetool.files import JsonObject, parse_json, sha256_of, write_json

SHA256, FILES = "sha256", "sha256_files"  # keys of the file: of its content, and of the files beside it by name


class Stored(NamedTuple):
    """The content of such a file."""

    values: JsonObject  # without the checksums; empty if there is a problem
    problem: str | None = None  # such as `metrics.json is damaged`
    is_missing: bool = False  # which is a problem, too
    files: Mapping[str, str] = {}  # the SHA-256 of files beside it by name

    @property
    def damage(self) -> str | None:
        """The problem of a file that is there."""
        return None if self.is_missing else self.problem


def read_stored(path: Path, of: str = "", fits: Callable[[JsonObject], bool] = lambda values: True) -> Stored:
    """Reads a file of `of`; never raises. One whose content does not fit is damaged."""
    damaged = Stored({}, f"{path.name} is damaged")
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return Stored({}, f"{path.name} is not a file")  # to read from a pipe may take forever
        found = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Stored({}, f"no {path.name}", is_missing=True)
    except OSError as error:
        return Stored({}, f"{path.name}: {error.strerror}")
    except ValueError:  # not UTF-8
        return damaged
    if found is None:
        return damaged
    expected = found.pop(SHA256, None)
    if expected is not None and expected != _checksum(found, of):
        return Stored({}, f"{path.name} has changed since it was written (delete its {SHA256} if you changed it)")
    files = found.pop(FILES, {})
    if not _is_files(files) or not fits(found):
        return damaged
    return Stored(found, files=files)


def write_stored(path: Path, values: Mapping[str, Any], of: str = "", files: Mapping[str, str] | None = None) -> None:
    """Writes a file of `of`; `files` are the SHA-256 of files beside it by name."""
    content = json.loads(json.dumps(dict(values) | ({FILES: files} if files else {})))
    write_json(path, content | {SHA256: _checksum(content, of)})


def checksums(folder: Path, names: Collection[str]) -> dict[str, str]:
    """The SHA-256 of these files in a folder by name."""
    return {name: sha256_of(folder / name) for name in names}


def damaged_file(folder: Path, files: Mapping[str, str]) -> str | None:
    """What is wrong with the first file in a folder that is missing or does not have its SHA-256, if any."""
    for name, expected in files.items():
        try:
            regular = stat.S_ISREG((folder / name).lstat().st_mode)
            if not regular or sha256_of(folder / name) != expected:
                return f"{name} is damaged"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def is_number(value: object) -> bool:
    """Whether it is a number that arithmetic can use; NaN and infinity are."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _checksum(values: JsonObject, of: str) -> str:
    """Independent of the order of keys."""
    return hashlib.sha256(json.dumps([of, values], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_files(files: object) -> bool:
    """Whether it holds checksums of files in the same folder."""
    return isinstance(files, dict) and all(Path(k).name == k and isinstance(v, str) for k, v in files.items())
