"""Whether the folder of a run is whole: each file against its checksum, and the files against each other.

Nothing is executed or written, and nothing is raised, whatever is in the folder. A run that is being trained changes
while it is read.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from aetool.config.check import Targets, check
from aetool.config.identity import digest
from aetool.config.schema import FinetuneRunConfig
from aetool.errors import UserError
from aetool.evaluation.correctness import CORRECT, read_correct
from aetool.evaluation.measurement import read_results
from aetool.files import JsonObject, read_json
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.folder import FOREIGN_REMEDY, METRICS, RunFolder
from aetool.storage.opening import open_run
from aetool.storage.stored import damaged_file, read_stored

CONFIGURED, DAMAGED = 2, 5  # exit codes: of a folder that is no run of this installation, and of a damaged one
STAGES = ("pretrain", "finetune")  # of which a run has one


class Check(NamedTuple):
    """What was checked, and what was found."""

    name: str
    text: str
    exit_code: int = 0  # of a problem
    tried: bool = True


def verify(directory: str | Path, targets: Targets) -> list[Check]:
    """Every check of a run folder; those after a problem that hides all else are left out."""
    run = RunFolder(directory)
    foreign, stored = run.foreign_part, run.stored_config
    if foreign:
        return [Check("files", f"{foreign}, not what aetool wrote there; {FOREIGN_REMEDY}", CONFIGURED)]
    if stored.problem:
        return [Check("config", stored.problem, CONFIGURED)]
    found = [Check("files", "no links, pipes or devices"), *_config(run, targets)]
    for one in (_status, _metrics, _checkpoints, _measurements, _codes, _record, _events):
        found += one(run)
    return found


def _config(run: RunFolder, targets: Targets) -> Iterator[Check]:
    saved = run.saved
    try:
        if "parent" in saved.get("config", {}):
            check(saved["config"], FinetuneRunConfig, targets)
        else:
            open_run(run.directory, targets)
    except UserError as error:
        yield Check("config", str(error).replace("\n", "; "), CONFIGURED)
        return
    if digest(saved.get("identity")) != saved.get("id"):
        yield Check("config", f"its id {saved.get('id')} is not that of its identity", CONFIGURED)
        return
    yield Check("config", f"valid; the id is {saved['id']}{_unsigned(run.directory / 'config.json')}")


def _status(run: RunFolder) -> Iterator[Check]:
    stored = run.stored_status
    if stored.problem:
        yield Check("status", stored.problem, DAMAGED)
    else:
        yield Check("status", f"{stored.values.get('state')}{_unsigned(run.directory / 'status.json')}")


def _metrics(run: RunFolder) -> Iterator[Check]:
    stored = run.stored_metrics
    problem = stored.problem or damaged_file(run.directory, stored.files)
    if problem:
        finished = run.status.get("state") == "completed" or not stored.is_missing
        yield Check("metrics", problem, DAMAGED if finished else 0)
        return
    for name in sorted(stored.files):
        if name == CORRECT:
            correct = read_correct(run.directory / name).get("finetune")
            expected = stored.values.get("finetune", {}).get("test/accuracy")
            if correct is None or expected is None or abs(float(correct.mean()) - expected) > 1e-6:
                yield Check("metrics", f"{name} is of another test accuracy", DAMAGED)
    yield Check("metrics", f"{', '.join(stored.values) or 'none'}{_unsigned(run.directory / METRICS)}")


def _checkpoints(run: RunFolder) -> Iterator[Check]:
    try:
        steps, damaged = Checkpoints(run.directory / "checkpoints").examined()
    except UserError as error:  # of another format
        yield Check("checkpoints", str(error), CONFIGURED)
        return
    problems = [f"{name}: {problem}" for name, problem in damaged.items()]
    best, last = _best(run), run.status.get("step")
    if best is not None and best not in steps:
        problems.append(f"metrics.json names step {best} as the best one, which is not there")
    if steps and last is not None and steps[-1] > last:
        problems.append(f"step {steps[-1]} is after step {last} of status.json")
    yield from (Check("checkpoints", problem, DAMAGED) for problem in problems)
    if not problems:
        yield Check("checkpoints", f"whole; at step {', '.join(map(str, steps))}" if steps else "none")


def _measurements(run: RunFolder) -> Iterator[Check]:
    folders = [path for kind in ("evaluate", "probe", "sample") for path in sorted(run.directory.glob(f"{kind}-*"))]
    whole = 0
    for folder in folders:
        stored, settings = read_results(folder), read_json(folder / "settings.json")
        problem = stored.damage or damaged_file(folder, stored.files)
        if problem is None and not stored.is_missing and (settings is None or not _is_of(folder, settings)):
            problem = "settings.json is damaged"
        whole += problem is None and not stored.is_missing
        if problem:
            yield Check("measurements", f"{folder.name}: {problem}", DAMAGED)
    for stage, values in run.metrics.items():
        kind = stage.partition("-")[0]
        kept = [read_results(folder).values for folder in folders if folder.name.startswith(f"{kind}-")]
        if kind in ("evaluate", "probe") and values not in kept:
            yield Check("measurements", f"{stage} of metrics.json is of none of them", DAMAGED)
    yield Check("measurements", f"whole: {whole}")


def _codes(run: RunFolder) -> Iterator[Check]:
    for path in sorted(run.directory.glob("codes-*.json")):
        stored = read_stored(path, f"{run.key}/{path.stem}")
        problem = stored.problem or damaged_file(run.directory, stored.files)
        yield Check("codes", problem or f"{path.stem}.npz is whole", DAMAGED if problem else 0)


def _record(run: RunFolder) -> Iterator[Check]:
    """A row of validation for every epoch, and rows of training at even intervals, all in order."""
    path = run.directory / "metrics.jsonl"
    if not path.exists():
        yield Check("record", "no metrics.jsonl", DAMAGED if _best(run) else 0)
        return
    rows, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        row = _row(line)
        if row is None:
            problems.append(f"line {number} is damaged")
        else:
            rows.append(row)
    steps = [row["step"] for row in rows if "train/loss" in row]
    epochs = [row["epoch"] for row in rows if "val/loss" in row]
    ordered = [row["step"] for row in rows]
    problems += [f"step {b} after step {a}" for a, b in pairwise(ordered) if b < a]
    problems += [f"step {b} is doubled" for a, b in pairwise(steps) if a == b]
    problems += [f"epoch {b} after epoch {a}" for a, b in pairwise([0, *epochs]) if b != a + 1]
    problems += _gaps(steps)
    total = next((run.metrics[stage].get("epochs") for stage in STAGES if "epochs" in run.metrics.get(stage, {})), None)
    if total is not None and epochs[-1:] != [total]:
        problems.append(f"it ends at epoch {epochs[-1] if epochs else 0} of {total:g}")
    yield from (Check("record", f"metrics.jsonl: {problem}", DAMAGED) for problem in problems)
    if not problems:
        yield Check("record", f"rows: {len(rows)}, epochs: {len(epochs)}")


def _row(line: str) -> JsonObject | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    typed = isinstance(row, dict) and type(row.get("step")) is int and type(row.get("epoch")) is int
    return row if typed else None


def _gaps(steps: Sequence[int]) -> Iterator[str]:
    """Rows that are missing between others; the interval may change where a run was resumed."""
    gaps = [b - a for a, b in pairwise(steps)]
    for index in range(1, len(gaps) - 1):
        if gaps[index - 1] == gaps[index + 1] < gaps[index]:
            yield f"steps between {steps[index]} and {steps[index + 1]} are missing"


def _events(run: RunFolder) -> Iterator[Check]:
    paths = sorted(run.directory.glob("events.out.tfevents.*"))
    try:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except Exception as error:  # an installation can be broken in any way; see `event_file`
        yield Check("events", f"TensorBoard cannot be imported: {type(error).__name__}: {error}", tried=False)
        return
    problems = [(path, problem) for path in paths if (problem := _event_problem(path, masked_crc32c))]
    yield from (Check("events", f"{path.name}: {problem}", DAMAGED) for path, problem in problems)
    if not problems:
        yield Check("events", f"TensorBoard's files, all readable: {len(paths)}")


def _event_problem(path: Path, masked_crc32c: Callable[[bytes], int]) -> str | None:
    """What is wrong with the records of an event file: length, CRC of the length, content, CRC of the content."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        head = content[at : at + 12]
        if len(head) < 12:
            return "it ends within a record"
        length, crc = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != crc:
            return "a record is damaged"
        data, tail = content[at + 12 : at + 12 + length], content[at + 12 + length : at + 16 + length]
        if len(tail) < 4:
            return "it ends within a record"
        if masked_crc32c(data) != struct.unpack("<I", tail)[0]:
            return "a record is damaged"
        at += 16 + length
    return None


def _best(run: RunFolder) -> int | None:
    """The step of the best checkpoint, once training has ended."""
    found = (run.metrics.get(stage, {}).get("best_step") for stage in STAGES)
    return next((int(step) for step in found if step is not None), None)


def _is_of(folder: Path, settings: JsonObject) -> bool:
    """Whether the folder is named after these settings."""
    return folder.name.rpartition("-")[2] == digest(settings)


def _unsigned(path: Path) -> str:
    return "" if "sha256" in (read_json(path) or {}) else ", without a checksum"
