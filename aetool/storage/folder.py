"""The JSON files of a run folder; light to import."""

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from aetool.errors import UserError
from aetool.files import JsonObject
from aetool.storage.stored import Stored, is_number, read_stored

CONFIG, STATUS, METRICS, LOG, LOCK = "config.json", "status.json", "metrics.json", "aetool.log", ".lock"
WRITTEN = (  # files and folders of a run
    STATUS,
    "metrics.json*",
    LOG,
    "checkpoints",
    "figures",
    "evaluate-*",
    "probe-*",
    "predictions.npy",
    "correct.npz",
    "sample-*",
    "codes-*",
    "events.out.tfevents.*",
    "projector",
    "projector_config.pbtxt",
    CONFIG,
)
FOREIGN_REMEDY = "remove it, or put what it stands for in its place"
FOLDERS = ("checkpoints", "figures", "evaluate-*", "probe-*", "sample-*", "projector")
SUFFIXES = (".json", ".jsonl", ".log", ".npz", ".npy", ".png", ".csv", ".tsv", ".pbtxt", ".pt", ".safetensors")


class RunFolder:
    """Reads the JSON files of a run folder, whatever wrote them."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def saved(self) -> JsonObject:
        """config.json: `config`, `identity`, `id`, the `command` that started the run, and the version of `aetool`."""
        return self.stored_config.values

    @property
    def status(self) -> JsonObject:
        """state (see report.rows.STATES), stage, step, warnings, …; empty before the first claim."""
        return self.stored_status.values

    @property
    def warnings(self) -> list[str]:
        return list(self.status.get("warnings", []))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The final metrics of each stage."""
        return self.stored_metrics.values

    @property
    def key(self) -> str:
        """What the other files of this run are of: its id."""
        return str(self.saved.get("id", ""))

    @property
    def stored_config(self) -> Stored:
        return read_stored(self.directory / CONFIG, fits=_is_config)

    @property
    def stored_status(self) -> Stored:
        return read_stored(self.directory / STATUS, self.key, _is_status)

    @property
    def stored_metrics(self) -> Stored:
        return read_stored(self.directory / METRICS, self.key, _is_metrics)

    def manifest(self, step: int) -> JsonObject:
        """The manifest.json of a checkpoint; empty if it is missing or damaged."""
        path = self.directory / "checkpoints" / f"step-{step:08d}" / "manifest.json"
        return read_stored(path, self.key, _is_manifest).values

    @property
    def foreign_part(self) -> str | None:
        """What it holds in the place of its own files and folders, such as a link, if anything."""
        return foreign_part(self.directory, WRITTEN)

    def refuse_links(self) -> None:
        """Raises UserError if one of its files or folders is a link, which would be followed out of the folder."""
        refuse_links(self.directory, WRITTEN)


def refuse_links(directory: Path, written: tuple[str, ...]) -> None:
    """Raises UserError if a file or folder of these names, or one in it, is a link, a pipe or of the other kind."""
    found = foreign_part(directory, written)
    if found:
        raise UserError(f"{found}, not what aetool wrote there; {FOREIGN_REMEDY}")


def foreign_part(directory: Path, written: tuple[str, ...]) -> str | None:
    """The first file or folder of these names, or in one of them, that is a link, a pipe or of the other kind, if any.

    The folder itself may be a link. Also names a lock with content, which is no lock.
    """
    try:
        own = [entry for entry in os.scandir(directory) if any(fnmatch(entry.name, name) for name in written)]
        for entry in own:
            for path, kind in _strange(entry):
                return f"{path} is {kind}"
            if entry.is_file() and any(fnmatch(entry.name, name) for name in FOLDERS):
                return f"{entry.path} is a file"
        lock = (directory / LOCK).lstat()
        if not stat.S_ISREG(lock.st_mode) or lock.st_size:
            return f"{directory / LOCK} is no lock file"
    except OSError:  # no such folder, no lock, or no permission, which reading reports
        pass
    return None


def _strange(entry: "os.DirEntry[str]") -> Iterator[tuple[str, str]]:
    """What is neither a file nor a folder, or a folder in the place of a file, at or below an entry of a folder."""
    if entry.is_symlink():
        yield entry.path, "a link"
    elif entry.is_dir() and Path(entry).suffix in SUFFIXES:
        yield entry.path, "a folder"
    elif entry.is_dir():
        for child in list(os.scandir(entry)):
            yield from _strange(child)
    elif not entry.is_file():
        yield entry.path, "a pipe or a device"


def _is_config(values: JsonObject) -> bool:
    texts = (values.get(key) for key in ("id", "command", "aetool"))
    return all(isinstance(text, str | None) for text in texts) and isinstance(values.get("config", {}), dict)


def _is_manifest(values: JsonObject) -> bool:
    files = values.get("files", {})
    return isinstance(files, dict) and all(isinstance(file, dict) for file in files.values())


def _is_status(values: JsonObject) -> bool:
    kinds = {"state": str, "stage": str, "host": str, "updated": str, "error": str, "step": int, "pid": int}
    typed = all(isinstance(values[key], kind) for key, kind in kinds.items() if key in values)
    warnings, scores = values.get("warnings", []), values.get("scores", {})
    numbers = [values.get("seconds", 0), values.get("total_steps") or 0]
    return (
        typed
        and isinstance(warnings, list)
        and all(isinstance(warning, str) for warning in warnings)
        and isinstance(scores, dict)
        and all(map(is_number, [*numbers, *scores.values()]))
    )


def _is_metrics(values: JsonObject) -> bool:
    """Numbers by stage and name; the step of a checkpoint is an integer."""
    return all(
        isinstance(stage, dict) and all(map(is_number, stage.values())) and isinstance(stage.get("best_step", 0), int)
        for stage in values.values()
    )
