"""Features cached on disk, so that images are encoded once for any number of probes."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from aetool.config.identity import digest
from aetool.data.tensor_file import load_tensors, metadata_of, save_tensors
from aetool.errors import DamagedError
from aetool.files import dispensable, make_folder, replacing

log = logging.getLogger("aetool")

LIMIT = 4 << 30  # bytes; those used longest ago are removed


class FeatureCache:
    """Named tensors by a key of plain values, stored as safetensors in one folder, up to `limit` bytes in total."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def find(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors stored under the key, on the CPU, not shared; None if there are none, or if they are damaged."""
        path, text = self._place(key)
        try:
            if metadata_of(path).get("key") == text:
                os.utime(path)
                return load_tensors(path)
        except FileNotFoundError:
            pass
        except (OSError, DamagedError) as error:
            log.warning("%s: unusable (%s); the images are encoded again", path, error)
        return None

    def get(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors stored under the key, or those returned by `compute`, which are then stored; on the CPU, not
        shared.

        Tensors larger than the limit are not stored. If the folder is not writable, logs a warning and continues.
        """
        stored = self.find(key)
        if stored is not None:
            return stored
        path, text = self._place(key)
        found = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
        size = sum(tensor.nbytes for tensor in found.values())
        if size > self.limit:
            return found
        with dispensable("features are not cached"):
            make_folder(self.folder)
            with replacing(path, size) as temporary:
                self._make_room(size)
                save_tensors(temporary, found, {"key": text})
            found = load_file(path)  # mapped: in the page cache alone, until it is changed
        return found

    def _place(self, key: Mapping[str, Any]) -> tuple[Path, str]:
        """The file of a key, and the key as text."""
        return self.folder / f"{digest(key)}.safetensors", json.dumps(key, sort_keys=True)

    def _make_room(self, needed: int) -> None:
        used = []
        for path in self.folder.glob("*.safetensors*"):  # with what a killed process was writing
            with contextlib.suppress(OSError):  # another process removed it
                status = path.stat()
                used.append((status.st_mtime, status.st_size, path))
        total = needed + sum(size for _, size, _ in used)
        for _, size, path in sorted(used):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= size
