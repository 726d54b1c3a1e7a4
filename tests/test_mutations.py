"""A run folder that is damaged or comes from a stranger: nothing is written outside it, no number is wrong unsaid."""

import contextlib
import csv
import hashlib
import io
import itertools
import os
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import TINY, content_of, working_in, write_images
from mutations import Mutation, mutations

from aetool.cli import main

SECONDS = 10  # of the CPU, that a command may take
HANGS = 200  # seconds of a clock, on a busy machine
MINE = [*TINY, "name=mine"]
MEASURE = ["run=outputs/mine", "baselines=false", "threads=1"]
EVALUATE = [word for word in TINY if word.startswith("evaluation.")]
TUNED = ["run=outputs/mine", "name=tuned", "trainer.epochs=1", "trainer.batch_size=16", "min_steps=1", "threads=1"]
SWEEP = [*TINY, "penalty=l1", "penalty.weight=1e-3,1e-2", "trainer.epochs=1"]
COMMANDS = {
    "train": ["train", *MINE],
    "evaluate": ["evaluate", *MEASURE, *EVALUATE],
    "evaluate again": ["evaluate", *MEASURE, *EVALUATE, "overwrite=true"],
    "probe": ["probe", *MEASURE, "probe=ridge", "probe.l2=[0.1]"],
    "probe again": ["probe", *MEASURE, "probe=ridge", "probe.l2=[0.1]", "overwrite=true"],
    "finetune": ["finetune", *TUNED],
    "sample": ["sample", "run=outputs/mine", "count=4", "threads=1"],
    "encode": ["encode", "run=outputs/mine", "threads=1"],
    "compare": ["compare", "outputs", "--each", "--csv", "all.csv"],
    "status": ["status", "outputs", "--all"],
    "verify": ["verify", "run=outputs/mine"],
    "sweep": ["train", "-m", *SWEEP],
}
CLOCK = ("seconds", "images_per_second", "updated")  # what differs every time
SMALL = ["train", "evaluate", "probe", "compare", "status", "verify"]
READ = {  # the commands that read a folder
    "mine": [
        "train",
        "evaluate",
        "evaluate again",
        "probe",
        "probe again",
        "sample",
        "encode",
        "compare",
        "status",
        "finetune",
        "verify",
    ],
    "tuned": ["finetune", "compare", "status"],
    "sweep": ["compare", "status", "sweep"],
}


class Done(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str
    traceback: str = ""


class Scene(NamedTuple):
    """A folder with finished runs, and what the commands print there."""

    folder: Path
    truth: dict[str, Done]
    rows: dict[str, dict[str, str]]
    metrics: dict[str, dict]
    codes: dict[str, np.ndarray]


def do(words: list[str]) -> Done:
    def late(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANGS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code, said = main(words), ""
    except BaseException:
        code, said = 1, "\n".join(traceback.format_exc().splitlines()[-7:])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Done(code, out.getvalue(), err.getvalue(), said)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Iterator[Scene]:
    """A run with every measurement, a fine-tune of it, and a sweep."""
    other = ["run=outputs/other", "baselines=false", "threads=1"]
    beside = [["probe", *other, "probe=ridge", "probe.l2=[0.1]"], ["encode", "run=outputs/other", "threads=1"]]
    with finished(tmp_path_factory.mktemp("finished"), list(COMMANDS), beside) as made:
        yield made


@pytest.fixture(scope="module")
def small_scene(tmp_path_factory) -> Iterator[Scene]:
    """A run."""
    with finished(tmp_path_factory.mktemp("small"), SMALL, []) as made:
        yield made


@contextlib.contextmanager
def finished(folder: Path, commands: list[str], beside: list[list[str]]) -> Iterator[Scene]:
    """A folder in which these commands are done."""
    write_images(folder / "images.npz")
    with working_in(folder):
        for words in (["train", *TINY, "name=other", "seed=1"], *(COMMANDS[name] for name in commands), *beside):
            done = do(words)
            assert done.code == 0, (words, done)
        truth = {name: do(COMMANDS[name]) for name in commands}
        yield Scene(folder, truth, table(), stored(), codes())


def table() -> dict[str, dict[str, str]]:
    """The rows of all.csv by run."""
    with Path("all.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def stored() -> dict[str, dict]:
    """metrics.json of every run, without what a clock measured."""
    found = {}
    for path in sorted(Path("outputs").glob("*/metrics.json")):
        stages = content_of(path)
        found[path.parent.name] = {
            stage: {key: value for key, value in values.items() if key not in CLOCK} for stage, values in stages.items()
        }
    return found


def codes() -> dict[str, np.ndarray]:
    for path in Path("outputs/mine").glob("codes-*.npz"):
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    return {}


def lines(text: str) -> list[str]:
    """The lines with numbers that no clock decides, and no mention of a new measurement."""
    clock = ("images/s", "encoded a second", "time", "already", "on arrays →", "resuming", "epoch", "%|")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not any(w in line for w in clock)]


def fingerprint(folder: Path) -> str:
    """Of the names and contents of all files."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha256.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode() + path.read_bytes())
    return sha256.hexdigest()


def problems(scene: Scene, mutation: Mutation, place: Path, command: str) -> Iterator[str]:
    """What a command does wrong in a copy of the scene after this mutation."""
    elsewhere = place / "elsewhere"
    before = fingerprint(elsewhere)
    start = time.process_time()
    done = do(COMMANDS[command])
    if time.process_time() - start > SECONDS:
        yield f"it took {time.process_time() - start:.0f} s"
    if done.traceback:
        yield done.traceback
        return
    if fingerprint(elsewhere) != before:
        yield "it wrote outside"
    if done.code not in (0, 2, 5):
        yield f"exit {done.code}: {done.err}"
    if done.code:
        if command != "verify" and not done.err.startswith("aetool:") and "\naetool:" not in done.err:
            yield f"exit {done.code} says nothing: {done}"
        return
    truth = scene.truth[command]
    if command == "compare":
        for name, row in table().items():
            known = scene.rows.get(name, {})
            shown = {key for key in row if row[key] and not key.endswith(CLOCK)} - {"reason", "parent.id"}
            differing = [(key, row[key], known.get(key)) for key in sorted(shown) if row[key] != known.get(key)]
            if row["state"] == "completed" and differing:
                yield f"{name}: {differing[:3]}"
    elif command == "status":
        new = set(lines(done.out)) - set(lines(truth.out))
        if any(line.startswith("completed") for line in new):
            yield f"{new}"
    elif command == "verify":
        if done.code == 0 and (new := set(lines(done.out)) - set(lines(truth.out))):
            fewer = mutation.kind in ("lose", "loss") or any("without a checksum" in line for line in new)
            if not fewer and not mutation.path.endswith((".log", ".png", "settings.json")):
                yield f"{new}"
    elif command == "encode":
        if any(not np.array_equal(array, scene.codes.get(name)) for name, array in codes().items()):
            yield "other codes"
    else:
        missing = [line for line in lines(truth.out) if line not in lines(done.out) and "warning" not in line]
        if missing and command != "sweep":
            yield f"not printed: {missing[:5]}\n{done.out}\n{done.err}"
        for name, stages in stored().items():
            for stage, values in stages.items():
                known = scene.metrics[name].get(stage)
                if values != known:
                    keys = [key for key in values if known is None or known.get(key) != values[key]]
                    yield f"{name}/{stage}: {[(key, values[key], (known or {}).get(key)) for key in keys[:3]]}"


def campaign(scene: Scene, tmp_path: Path, number: int, seed: int) -> list[str]:
    """The problems of so many mutations."""
    outputs = scene.folder / "outputs"
    folders = {"mine": outputs / "mine", "tuned": outputs / "tuned"}
    folders = {name: path for name, path in folders.items() if path.exists()}
    for sweep in outputs.glob("sweep-*"):
        folders["sweep"] = sweep
    counted = [(name, often) for name, often in (("mine", 8), ("tuned", 3), ("sweep", 1)) if name in folders]
    order = itertools.cycle([name for name, often in counted for _ in range(often)])
    elsewhere = tmp_path / "elsewhere"
    made = {name: mutations(path, outputs / "other", elsewhere, seed) for name, path in folders.items()}
    turns = {name: itertools.cycle([one for one in READ[name] if one in scene.truth]) for name in folders}
    intact, found = fingerprint(outputs), []
    for name in itertools.islice(order, number):
        mutation, command = next(made[name]), next(turns[name])
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elsewhere.mkdir()
        (elsewhere / "mine.txt").write_text("five years of work")
        shutil.copytree(outputs, tmp_path / "outputs", copy_function=os.link)  # what is written in place, shows there
        shutil.copy(scene.folder / "images.npz", tmp_path)
        mutation.apply(tmp_path / "outputs" / folders[name].name / mutation.path)
        found += [
            f"{command} after {mutation}, {name}: {problem}" for problem in problems(scene, mutation, tmp_path, command)
        ]
    if fingerprint(outputs) != intact:
        found.append("a hard link was written through")
    return found


def test_a_damaged_folder_is_refused_or_read_with_equal_content(small_scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = campaign(small_scene, tmp_path, 30, seed=0)
    assert not found, "\n\n".join(found[:5])


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_thousand_damaged_folders(scene, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    found = campaign(scene, tmp_path, 260, seed)
    assert not found, f"{len(found)} of 260\n" + "\n\n".join(found[:10])
