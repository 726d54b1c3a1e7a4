"""A measurement of a run: its folder, keyed by the settings, the checkpoint and the protocol, and its results."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aetool.config.identity import digest
from aetool.evaluation.catalogue import PROTOCOL
from aetool.files import JsonObject, make_folder, write_json
from aetool.storage.folder import METRICS, RunFolder
from aetool.storage.run import C, Run
from aetool.storage.stored import Stored, checksums, damaged_file, is_number, read_stored, write_stored

TEXTS = ("latent", "distribution")  # the results of samples that are no numbers


class Measurement:
    """`kind` is the first part of the folder's name; `step` that of the checkpoint."""

    def __init__(self, run: RunFolder, kind: str, settings: Mapping[str, Any], step: int) -> None:
        self.settings = dict(settings) | {"step": step, "protocol": PROTOCOL}
        self.folder = run.directory / f"{kind}-{digest(self.settings)}"

    @property
    def exists(self) -> bool:
        return self.read() is not None

    def read(self) -> JsonObject | None:
        """What was measured before with these settings, by this protocol; None without any, or if it is damaged."""
        return self.checked()[0]

    def checked(self) -> tuple[JsonObject | None, str | None]:
        """What `read` returns, and what is wrong with damaged results."""
        stored = read_results(self.folder)
        if stored.problem:
            return None, stored.damage
        damage = damaged_file(self.folder, stored.files)
        if damage is None and stored.values.get("protocol") != PROTOCOL:
            damage = f"{METRICS} is damaged"
        return (None, damage) if damage else (stored.values, None)

    def write(self, metrics: Mapping[str, Any], files: Collection[str] = ()) -> None:
        """The metrics last: a folder with metrics.json is complete. `files` in the folder belong to them.

        Raises WriteError.
        """
        make_folder(self.folder, parents=False)
        write_json(self.folder / "settings.json", self.settings)
        write_stored(self.folder / METRICS, metrics, _of(self.folder), checksums(self.folder, files))

    def path(self, name: str) -> Path:
        """A file in the folder, which is made."""
        make_folder(self.folder, parents=False)
        return self.folder / name


def read_results(folder: Path) -> Stored:
    """The content of metrics.json in the folder of a measurement."""
    return read_stored(folder / METRICS, _of(folder), _is_flat)


def reused(run: Run[C], wanted: Measurement) -> JsonObject | None:
    """The earlier results of a measurement, if there are any; warns if they are damaged."""
    found, damage = wanted.checked()
    if damage:
        run.warn_now(f"{wanted.folder.name}: {damage}; measured again")
    return found


def best_step(run: RunFolder) -> int:
    """Of the checkpoint with the lowest validation loss."""
    return int(run.metrics["pretrain"]["best_step"])


def _of(folder: Path) -> str:
    """What its files are of: this measurement of this run."""
    return f"{RunFolder(folder.parent).key}/{folder.name}"


def _is_flat(values: JsonObject) -> bool:
    """Numbers by name, apart from the words of samples."""
    return all(is_number(value) or key in TEXTS for key, value in values.items())
