"""Named tensors in a safetensors file that holds the SHA-256 of its bytes, as the format itself has no checksum."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from aetool.errors import DamagedError, poll_signals

PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')  # in the header
BLANK = b"0" * 64  # stands in that place while the file is hashed
MAX_HEADER = 1 << 20
READ = 1 << 24  # bytes at a time


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes contiguous tensors and text; raises OSError or SafetensorError."""
    save_file(dict(tensors), path, {**metadata, "sha256": BLANK.decode()})
    place, _ = _place(path)
    digest = _digest(path, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest)


def metadata_of(path: Path) -> dict[str, str]:
    """What was written with the tensors, not verified; raises OSError or DamagedError."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise DamagedError(str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors, on the CPU, by memory map, after every byte was verified; raises OSError or DamagedError."""
    place, stored = _place(path)
    if _digest(path, place) != stored:
        raise DamagedError("its SHA-256 does not match")
    return load_file(path)


def _place(path: Path) -> tuple[int, bytes]:
    """Where the SHA-256 stands in the file, and what it is."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        found = PLACE.search(file.read(min(size, MAX_HEADER)))
    if found is None:
        raise DamagedError("it has no SHA-256")
    return 8 + found.start(1), found.group(1)


def _digest(path: Path, place: int) -> bytes:
    """The SHA-256 in hexadecimal; read rather than mapped, as a map would count as resident memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(place) + BLANK)
        file.seek(place + len(BLANK))
        while part := file.read(READ):
            poll_signals()
            digest.update(part)
    return digest.hexdigest().encode()
