"""Folders read as flat rows, whatever stands in them: runs, folders of runs, sweeps, and what is none of these."""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aetool.config.check import flatten
from aetool.storage.run import CONFIG, IDENTITY, IDENTITY_OF_FINETUNE, LOCK, WITHOUT_EFFECT

SWEEP = "sweep.json"
STATES = ("completed", "running", "interrupted", "failed")  # of status.json
UNREADABLE, FOREIGN, MISSING = "unreadable", "foreign", "missing"  # of any folder
DELETED, NOT_STARTED = "deleted", "not started"  # of the points of a sweep
ABOUT = ("run", "directory", "state", "trouble")  # keys of a row that are neither config nor metric
PRETRAINING = (
    "loss",
    "penalty",
    "corruption",
    "optimizer",
    "scheduler",
    "trainer",
)  # of the run that a fine-tune starts from
NAMED = ("loss", "corruption", "optimizer", "scheduler")  # groups whose options are called as their classes

Found = dict[str, Any]


def read_rows(paths: Iterable[Path]) -> list[Found]:
    """A row for every run at or below the paths, each folder once; one that is no run is listed as what it is."""
    found: dict[str, Found] = {}
    for path in paths:
        for row in _below(path):
            found.setdefault(os.path.realpath(row["directory"]), row)
    return list(found.values())


def read(directory: Path) -> Found:
    """One flat row: run, directory, state, every key of the config, every metric as `stage/metric`.

    `trouble` says why the state is not completed. Never raises for what stands in the folder.
    """
    saved, trouble = _object(directory / CONFIG)
    if trouble == _missing(CONFIG) and not _holds(directory, ""):
        return _other(directory, MISSING, "there is no such folder")
    if trouble:
        return _other(directory, FOREIGN if trouble == _missing(CONFIG) else UNREADABLE, trouble)
    status, no_status = _object(directory / "status.json")
    metrics, no_metrics = _object(directory / "metrics.json")
    config = saved.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("seed", 0), int):
        return _other(directory, UNREADABLE, f"{CONFIG} is not that of a run")
    state: Any = status.get("state")
    if no_status or state not in STATES:
        state, trouble = UNREADABLE, no_status or "status.json names no known state"
    elif state == "completed" and no_metrics:
        state, trouble = UNREADABLE, no_metrics
    elif state == "failed":
        trouble = str(status.get("error") or "").partition("\n")[0]
    elif state != "completed":
        trouble = f"{status.get('stage', 'training')}, step {status.get('step', 0)}"
        if state == "running" and not _alive(directory, status):
            state, trouble = "interrupted", f"killed ({trouble})"
    row = _other(directory, state, trouble) | _config_values(config)
    if "parent" in config:
        row |= _start(directory, config)
    for stage, values in metrics.items():
        if isinstance(values, dict):
            scalars = {key: value for key, value in values.items() if isinstance(value, int | float | str)}
            row |= {f"{stage}/{key}": value for key, value in scalars.items()}
    return {key: str(value) if isinstance(value, int) and abs(value) >= 2**63 else value for key, value in row.items()}


def read_sweep(folder: Path) -> tuple[list[Found], dict[str, Any]]:
    """The points of a sweep in its order, deleted and not started ones too, and its sweep.json.

    A folder says itself how its run ended, unless the sweep failed on it later. Points of one run, such as
    `probe=linear,knn`, are one row.
    """
    sweep, trouble = _object(folder / SWEEP)
    entries, axes = sweep.get("runs"), sweep.get("axes", {})
    if trouble or not isinstance(entries, list) or not isinstance(axes, dict):
        return [_other(folder, UNREADABLE, trouble or f"{SWEEP} is not that of a sweep")], {}
    rows: dict[str, Found] = {}
    for entry in entries:
        row = _point(folder, sweep, entry)
        if rows.get(row["directory"], row)["state"] == "completed" or row["directory"] not in rows:
            rows[row["directory"]] = row
    return list(rows.values()), sweep


def _point(folder: Path, sweep: Found, entry: Any) -> Found:
    if not isinstance(entry, dict) or not isinstance(entry.get("directory"), str):
        return _other(folder, UNREADABLE, f"{SWEEP} has an entry that names no folder")
    directory, state = folder.parent / entry["directory"], entry.get("state")
    row = read(directory)
    if row["state"] in (FOREIGN, MISSING):
        known = {NOT_STARTED: NOT_STARTED, "failed": "failed"}.get(str(state), DELETED)
        words = list(map(str, entry["overrides"])) if isinstance(entry.get("overrides"), list) else []
        trouble = entry.get("error") if known == "failed" else " ".join(words)
        return _other(directory, known, trouble) | _override_values(words)
    if state == "failed" and row["state"] == "completed" and _later(sweep, directory):
        return row | {"state": "failed", "trouble": entry.get("error")}
    return row


def _below(path: Path) -> list[Found]:
    if _holds(path, CONFIG):
        return [read(path)]
    if _holds(path, SWEEP):
        return read_sweep(path)[0]
    try:
        if not path.exists():
            return [read(path)]
        if not path.is_dir():
            return [_other(path, FOREIGN, "no folder")]
        children = sorted(child for child in path.iterdir() if _may_be_run(child))
    except OSError as error:
        return [_other(path, UNREADABLE, error.strerror)]
    if any(_holds(child, CONFIG) for child in children):
        return [read(child) for child in children]
    return [_other(path, FOREIGN, "no run in it")]


def _may_be_run(path: Path) -> bool:
    """Folders, and links that lead nowhere; not hidden ones nor those of sweeps."""
    if path.name.startswith((".", "sweep-")):
        return False
    try:
        return path.is_dir() or (path.is_symlink() and not path.exists())
    except OSError:
        return True


def _holds(folder: Path, name: str) -> bool:
    try:
        return (folder / name).exists()
    except OSError:
        return False


def _object(path: Path) -> tuple[dict[str, Any], str | None]:
    """The object in a JSON file, and why there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, _missing(path.name)
    except OSError as error:
        return {}, f"{path.name}: {error.strerror}"
    except (ValueError, RecursionError):
        found = None
    return (found, None) if isinstance(found, dict) else ({}, f"{path.name} is damaged")


def _missing(name: str) -> str:
    return f"no {name}"


def _other(directory: Path, state: str, trouble: str | None) -> Found:
    row = {"run": directory.name or str(directory), "directory": str(directory), "state": state}
    return row | {"trouble": trouble} if trouble else row


def _alive(directory: Path, status: dict[str, Any]) -> bool:
    """Whether a process holds the run; on another machine its lock says nothing here."""
    if status.get("host") != socket.gethostname():
        return True
    if not _holds(directory, LOCK):
        return False
    try:
        with FileLock(directory / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _later(sweep: dict[str, Any], directory: Path) -> bool:
    """Whether the sweep said last how the run ended; both times are ISO 8601 in UTC."""
    status, _ = _object(directory / "status.json")
    return str(sweep.get("updated") or "") >= str(status.get("updated") or "")


def _config_values(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that decide the network, and the name of each component; tolerates those of other versions."""
    groups = IDENTITY_OF_FINETUNE if "parent" in config else IDENTITY
    chosen = {group: config[group] for group in groups if group in config and group != "parent"}
    for group, keys in WITHOUT_EFFECT.items():
        if isinstance(chosen.get(group), dict):
            chosen[group] = {key: value for key, value in chosen[group].items() if key not in keys}
    if chosen.get("augment") and isinstance(config.get("dataset"), dict):
        chosen["augmentation"] = config["dataset"].get("augmentation")
    values = {key: value for key, value in flatten(chosen) if not isinstance(value, dict)}
    for group in NAMED:
        if f"{group}._target_" in values:
            values[group] = str(values[f"{group}._target_"]).rpartition(".")[2]
    terms = chosen["penalty"].get("terms") if isinstance(chosen.get("penalty"), dict) else None
    if isinstance(terms, dict):
        values["penalty"] = "+".join(terms) or "none"
    return {key: value for key, value in values.items() if key not in ABOUT}


def _start(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a fine-tune starts from: scratch, or the pretraining of the run beside it as `parent.…`, its seed aside."""
    if config["parent"] is None:
        return {"start": "scratch"}
    values: dict[str, Any] = {"start": "pretrained", "parent": config.get("run")}
    if isinstance(config.get("run"), str):
        saved = _object(directory.parent / config["run"] / CONFIG)[0].get("config")
        if isinstance(saved, dict):
            pretraining = {group: saved[group] for group in PRETRAINING if group in saved}
            values["parent.seed"] = saved["seed"] if isinstance(saved.get("seed"), int) else None
            return values | {f"parent.{key}": value for key, value in _config_values(pretraining).items()}
    return values | {"parent.id": str(config["parent"])}


def _override_values(words: list[str]) -> dict[str, Any]:
    """Overrides as config keys, for points that have no config."""
    values: dict[str, Any] = {}
    for word in words:
        key, _, text = word.lstrip("+").partition("=")
        key = f"{key}.name" if key in ("model", "dataset") else key
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return {key: value for key, value in values.items() if key not in ABOUT and isinstance(value, int | float | str)}
