"""Numbers in a JSON file that holds the SHA-256 of itself, and of a file beside it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from aetool.files import read_json, write_json

SEAL = "sha256"
log = logging.getLogger("aetool")


def write_sealed(path: Path, numbers: Mapping[str, float], beside: Path | None = None) -> None:
    write_json(path, {**numbers, SEAL: _digest(numbers, beside)})


def read_sealed(path: Path, beside: Path | None = None) -> dict[str, float] | None:
    """The numbers; None if there is no such file, and with a warning if it or the file beside it was altered.

    Files without a SHA-256, of an earlier version, are read as they are.
    """
    if not path.exists():
        return None
    found = read_json(path)
    seal = None if found is None else found.pop(SEAL, None)
    numbers = found is not None and all(isinstance(value, int | float) for value in found.values())
    if found is None or not numbers or (seal is not None and seal != _digest(found, beside)):
        log.warning("%s: damaged; measured again", path)
        return None
    return found


def _digest(numbers: Mapping[str, float], beside: Path | None) -> str:
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    if beside is not None and beside.exists():
        digest.update(beside.read_bytes())
    return digest.hexdigest()
