"""Folders read as flat rows, whatever their content: runs, folders of runs, sweeps, and anything else."""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from aetool.evaluation.catalogue import PROBE
from aetool.evaluation.headline import headline, headline_tap, probe_stage
from aetool.files import JsonObject, flatten
from aetool.report.groups import Value, directory
from aetool.storage.folder import CONFIG, LOCK, RunFolder
from aetool.storage.stored import read_stored

SWEEP = "sweep.json"
STATES = ("completed", "running", "interrupted", "paused", "failed")  # of status.json
UNREADABLE, FOREIGN, MISSING = "unreadable", "foreign", "missing"  # of any folder
DELETED, NOT_STARTED = "deleted", "not started"  # of the points of a sweep
META = ("run", "directory", "state", "reason", "probe.tap")  # keys of a row that are neither config nor metric
PRETRAINING = ("loss", "penalty", "corruption", "optimizer", "scheduler", "trainer")  # groups of a fine-tune's parent
NAMED = ("loss", "corruption", "optimizer", "scheduler")  # groups whose options are named after their classes

Found = dict[str, Value]


class Sweep(NamedTuple):
    """The part of a sweep.json that concerns the sweep as a whole."""

    axes: list[str]  # swept keys
    command: str | None


def runs(directory: str | Path = "outputs") -> list[Found]:
    """One flat row per run in a folder: name, state, config keys, metrics as `stage/name`; ready for pandas."""
    return [row for row in read_rows([Path(directory)]) if row["state"] not in (FOREIGN, MISSING)]


def read_rows(paths: Iterable[Path]) -> list[Found]:
    """A row for every run at or below the paths, each folder once; other folders are listed with their kind."""
    found: dict[str, Found] = {}
    for path in paths:
        for row in _below(path):
            found.setdefault(os.path.realpath(directory(row)), row)
    return list(found.values())


def read(folder: Path) -> Found:
    """One flat row: run, directory, state, every key of the config, every metric as `stage/name`.

    `reason` says why the state is not completed. Never raises, whatever is in the folder.
    """
    run = RunFolder(folder)
    stored = run.stored_config
    if stored.is_missing and not _exists(folder):
        return _row(folder, MISSING, "there is no such folder")
    if stored.problem:
        return _row(folder, FOREIGN if stored.is_missing else UNREADABLE, stored.problem)
    if foreign := run.foreign_part:
        return _row(folder, UNREADABLE, foreign)
    saved, measured = stored.values, run.stored_metrics
    metrics, config = measured.values, saved.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("seed", 0), int):
        return _row(folder, UNREADABLE, f"{CONFIG} is not that of a run")
    state, reason = _state(folder)
    if state == "completed" and measured.problem:
        state, reason = UNREADABLE, measured.problem
    row = _row(folder, state, reason) | _config_values(_identity(saved))
    if "parent" in config:
        row |= _start(folder, config)
    for stage, values in metrics.items():
        scalars = values.items() if isinstance(values, dict) else ()
        row |= {f"{stage}/{key}": value for key, value in scalars if isinstance(value, int | float | str)}
    row |= _own_probe(config, metrics)
    return {key: str(value) if isinstance(value, int) and abs(value) >= 2**63 else value for key, value in row.items()}


def read_sweep(folder: Path) -> tuple[list[Found], Sweep]:
    """The points of a sweep in order, including deleted and unstarted ones.

    How a run ended is read from its folder, unless the sweep failed on it later. Points that share a run, such as
    `probe=linear,knn`, are one row.
    """
    saved, reason, *_ = read_stored(folder / SWEEP)
    entries, axes, command = saved.get("runs"), saved.get("axes", {}), saved.get("command")
    if reason or not isinstance(entries, list) or not isinstance(axes, dict):
        return [_row(folder, UNREADABLE, reason or f"{SWEEP} is not that of a sweep")], Sweep([], None)
    sweep = Sweep(list(axes), command if isinstance(command, str) else None)
    rows: dict[Value, Found] = {}
    for row in (_point(folder, entry, saved.get("updated")) for entry in entries):
        key = str(row["directory"])
        if key not in rows or rows[key]["state"] == "completed":
            rows[key] = row
    return list(rows.values()), sweep


def _state(folder: Path) -> tuple[str, str | None]:
    """The state in status.json, and the reason why it is not completed."""
    status, reason, *_ = RunFolder(folder).stored_status
    state = status.get("state")
    if reason or state not in STATES:
        return UNREADABLE, reason or "status.json names no known state"
    if state == "completed":
        return state, None
    if state == "failed":
        return state, str(status.get("error") or "").partition("\n")[0]
    at = f"{status.get('stage', 'training')}, step {status.get('step', 0)}"
    if state == "running" and not _alive(folder, status):
        return "interrupted", f"killed ({at})"
    return str(state), at


def _point(folder: Path, entry: object, written: object) -> Found:
    """`written`: when sweep.json was, by the clock; earlier versions note no `status` of a run that failed."""
    if not isinstance(entry, dict) or not isinstance(entry.get("directory"), str):
        return _row(folder, UNREADABLE, f"{SWEEP} has an entry without a folder")
    own, state = folder.parent / entry["directory"], entry.get("state")
    row = read(own)
    if row["state"] in (FOREIGN, MISSING):
        known = state if state in (NOT_STARTED, "failed") else DELETED
        words = list(map(str, entry["overrides"])) if isinstance(entry.get("overrides"), list) else []
        reason = entry.get("error") if known == "failed" else " ".join(words)
        return _row(own, known, reason) | _override_values(words)
    updated = RunFolder(own).status.get("updated")
    unchanged = entry["status"] == updated if "status" in entry else str(written or "") >= str(updated or "")
    if (state, row["state"]) == ("failed", "completed") and unchanged:
        return row | {"state": "failed", "reason": entry.get("error")}
    if row["state"] == state == "paused":
        return row | {"reason": entry.get("error")}
    return row


def _below(path: Path) -> list[Found]:
    if _exists(path / CONFIG) or not _exists(path):
        return [read(path)]
    if _exists(path / SWEEP):
        return read_sweep(path)[0]
    try:
        children = sorted(child for child in path.iterdir() if _may_be_run(child))
    except NotADirectoryError:
        return [_row(path, FOREIGN, "not a folder")]
    except OSError as error:
        return [_row(path, UNREADABLE, error.strerror)]
    if any(_exists(child / CONFIG) for child in children):
        return [read(child) for child in children]
    return [_row(path, FOREIGN, "no run in it")]


def _may_be_run(path: Path) -> bool:
    """Folders and broken links, unless hidden, of a sweep, or of tables over label budgets."""
    left_out = path.name.startswith((".", "sweep-", "labels-"))
    return not left_out and (path.is_dir() or (path.is_symlink() and not path.exists()))


def _exists(path: Path) -> bool:
    """Also False without read permission."""
    try:
        return path.exists()
    except OSError:
        return False


def _row(folder: Path, state: str, reason: str | None) -> Found:
    row: Found = {"run": folder.name or str(folder), "directory": str(folder), "state": state}
    return row | {"reason": reason} if reason else row


def _alive(folder: Path, status: JsonObject) -> bool:
    """Whether a process holds the run; assumed if it is on another machine, whose locks are not visible."""
    if status.get("host") != socket.gethostname():
        return True
    if not _exists(folder / LOCK):
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _identity(saved: JsonObject) -> JsonObject:
    """The part of a config that determines the network; the whole config if none is named."""
    found = saved.get("identity", saved.get("config"))
    return found if isinstance(found, dict) else {}


def _config_values(identity: JsonObject) -> Found:
    """Dotted keys, and the name of each component; tolerates configs of other versions."""
    leaves = flatten({key: value for key, value in identity.items() if key != "parent"})
    values = {key: value for key, value in leaves if not isinstance(value, dict)}
    for group in NAMED:
        if f"{group}._target_" in values:
            values[group] = str(values[f"{group}._target_"]).rpartition(".")[2]
    penalty = identity.get("penalty")
    terms = penalty.get("terms") if isinstance(penalty, dict) else None
    if isinstance(terms, dict):
        values["penalty"] = "+".join(terms) or "none"
    return {key: value for key, value in values.items() if key not in META}


def _own_probe(config: JsonObject, metrics: JsonObject) -> Found:
    """The results of the config's probe at its headline tap, `probe.tap`, as `probe/…`."""
    settings = config.get("probe")
    fraction = settings.get("label_fraction") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(fraction, int | float | None):
        return {}
    stage = probe_stage(str(settings.get("name")), settings.get("labels_per_class"), fraction)
    found = metrics.get(stage)
    if not isinstance(found, dict) or not (tap := headline_tap(found)):
        return {}
    own = {f"{PROBE}/{key}": value for key, value in headline(found).items() if isinstance(value, int | float)}
    set_to = {f"{PROBE}.{key}": value for key, value in flatten(settings) if key not in ("name", "_target_")}
    return {"probe": stage.removeprefix("probe-"), **set_to, "probe.tap": tap, **own}


def _start(folder: Path, config: JsonObject) -> Found:
    """What a fine-tune starts from: scratch, or the pretraining of the run beside it as `parent.…`."""
    if config["parent"] is None:
        return {"start": "scratch"}
    values: Found = {"start": "pretrained", "parent": config.get("run")}
    if isinstance(config.get("run"), str):
        identity = _identity(RunFolder(folder.parent / config["run"]).saved)
        if identity:
            pretraining = {group: identity[group] for group in PRETRAINING if group in identity}
            values["parent.seed"] = identity["seed"] if isinstance(identity.get("seed"), int) else None
            return values | {f"parent.{key}": value for key, value in _config_values(pretraining).items()}
    return values | {"parent.id": str(config["parent"])}


def _override_values(words: list[str]) -> Found:
    """Overrides as config keys, for points without a config."""
    values: Found = {}
    for word in words:
        key, _, text = word.lstrip("+").partition("=")
        key = f"{key}.name" if key in ("model", "dataset") else key
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return {key: value for key, value in values.items() if key not in META and isinstance(value, int | float | str)}
