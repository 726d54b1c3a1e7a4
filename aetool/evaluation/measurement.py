"""A measurement of a run: its folder, keyed by the settings, the checkpoint and the protocol, and its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aetool.config.identity import digest
from aetool.evaluation.catalogue import PROTOCOL
from aetool.files import JsonObject, make_folder, read_json, write_json
from aetool.storage.folder import RunFolder


class Measurement:
    """`kind` is the first part of the folder's name; `step` that of the checkpoint."""

    def __init__(self, run: RunFolder, kind: str, settings: Mapping[str, Any], step: int) -> None:
        self.settings = dict(settings) | {"step": step, "protocol": PROTOCOL}
        self.folder = run.directory / f"{kind}-{digest(self.settings)}"

    @property
    def exists(self) -> bool:
        return self.read() is not None

    def read(self) -> JsonObject | None:
        """What was measured before with these settings, by this protocol."""
        return read_json(self.folder / "metrics.json")

    def write(self, metrics: Mapping[str, Any]) -> None:
        """The metrics last: a folder with metrics.json is complete. Raises WriteError."""
        make_folder(self.folder, parents=False)
        write_json(self.folder / "settings.json", self.settings)
        write_json(self.folder / "metrics.json", metrics)

    def path(self, name: str) -> Path:
        """A file in the folder, which is made."""
        make_folder(self.folder, parents=False)
        return self.folder / name


def best_step(run: RunFolder) -> int:
    """Of the checkpoint with the lowest validation loss."""
    return int(run.metrics["pretrain"]["best_step"])
