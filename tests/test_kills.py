"""Hundreds of kills at random points: started again, every command ends in the bits of an uninterrupted one."""

import hashlib
import json
import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import TINY, working_in, write_images
from ending import Ending, ending
from killed import COUNTING, EVALUATING, LOG, counted, start, started
from rewriting import rewrite

from aetool.storage.checkpoint import Checkpoints
from aetool.storage.folder import RunFolder

pytestmark = pytest.mark.faults

KILLS = 14  # of each kind and seed
TRAIN = ["train", *TINY[:2], *TINY[5:], "trainer.precision=fp32"]  # without a model
KINDS = {
    "dense": ["train", *TINY],
    "one checkpoint": ["train", *TINY, "trainer.keep_checkpoints=1"],
    "sparse": [*TRAIN, "model=sparse", "model.code_size=16", "penalty.weight=0.1"],
    "steered": [*TRAIN, "model=sparse", "model.code_size=16", "penalty.target_l0=3", "trainer.keep_checkpoints=1"],
    "vae": [*TRAIN, "model=vae", "model.code_size=4", "model.widths=[8]"],
    "topk": [*TRAIN, "model=topk", "model.code_size=16", "model.k=3", "model.k_start=6"],
    "jumprelu": [*TRAIN, "model=jumprelu", "model.code_size=16"],
    "conv": [*TRAIN, "model=conv", "model.code_size=4", "model.channels=[2,4]"],
    "plateau": ["train", *TINY, "scheduler=plateau", "optimizer=sgd", "trainer.log_every=3"],
    "noise": ["train", *TINY, "corruption=gaussian", "model.code_size=3", "trainer.checkpoint_every=3"],
    "finetune": ["finetune", *TINY[:5], *TINY[5:9], "min_steps=1", "threads=1", "trainer.keep_checkpoints=1"],
    "sweep": ["train", "-m", *TINY, "trainer.clip_norm=null,0.1"],
}
SAVED = {  # how often a point is reached when the first checkpoint is complete; the others may come before it
    "step": 5,  # an epoch has 4
    "epoch": 1,
    "checkpoint/model": 2,
    "checkpoint/state": 2,
    "checkpoint/manifest": 2,
    "checkpoint/rename": 1,
    "checkpoint/rotate": 1,
    "checkpoint/removed": 1,
    "replace": 1,
}


class Plan(NamedTuple):
    """Fault points, each the end of one process."""

    faults: tuple[str, ...]
    saved: bool  # whether there must be a checkpoint after the last kill


def plans(reached: Counter[str], source: random.Random) -> list[Plan]:
    """KILLS kills: at every point in turn, at a random time, and pairs within an epoch."""
    found: list[Plan] = []
    points = sorted(reached.keys() - {"prepare"})  # once, for all that share a cache
    source.shuffle(points)
    while sum(len(plan.faults) for plan in found) < KILLS:
        if len(found) % 4 == 3:
            first, second = source.randint(5, 8), source.randint(1, 2)
            found.append(Plan((f"step:kill:{first}", f"step:kill:{second}"), True))
        point = points[len(found) % len(points)]
        number = source.randint(1, reached[point])
        found.append(Plan((f"{point}:kill:{number}",), number >= SAVED.get(point, reached[point] + 1)))
    return found


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "outputs").glob("*/config.json"))


def endings(folder: Path) -> dict[str, Ending]:
    """Of all runs."""
    return {run.name: ending(run) for run in runs(folder)}


def complete(run: Path) -> list[int]:
    """The steps of its complete checkpoints, under their own names or temporary ones, by their manifests."""
    found = []
    for path in run.glob("checkpoints/*/manifest.json"):
        try:
            manifest = json.loads(path.read_text())
            files = {name: (path.parent / name).read_bytes() for name in manifest["files"]}
        except (OSError, ValueError):
            continue
        assert all(
            hashlib.sha256(files[name]).hexdigest() == file["sha256"] for name, file in manifest["files"].items()
        )
        if path.parent.suffix != ".old":
            found.append(manifest["step"])
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_command_started_again_ends_in_the_same_bits(kind, seed, tmp_path):
    words = [*KINDS[kind], f"seed={seed}"]
    write_images(tmp_path / "images.npz")

    def place(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.npz").hardlink_to(tmp_path / "images.npz")
        return tmp_path / name

    with working_in(place("uninterrupted")):
        assert start(words, COUNTING, EVALUATING) == 0, Path(LOG).read_text()
        reached, expected = counted(), endings(Path())
    assert expected
    for shown in (found.shown for found in expected.values()):
        assert all(len(steps) == len(set(steps)) for steps in shown.values())
    kills = resumes = 0
    for index, plan in enumerate(plans(reached, random.Random(f"{kind} {seed}"))):
        with working_in(place(str(index))):
            for fault in plan.faults:
                assert start(words, fault) == -signal.SIGKILL, (fault, Path(LOG).read_text())
                kills += 1
            before = {run: steps for run in runs(Path()) if (steps := complete(run))}
            assert before or not plan.saved, plan
            said = len(Path(LOG).read_text()) if Path(LOG).exists() else 0
            waiting = [max(steps) for run, steps in before.items() if not RunFolder(run).metrics]
            assert start(words) == 0, (plan, Path(LOG).read_text()[said:])
            resumed = [int(step) for step in re.findall(r"resuming at step (\d+),", Path(LOG).read_text()[said:])]
            assert resumed == waiting, plan
            assert all(step > 0 for step in resumed), plan
            resumes += bool(resumed)
            assert endings(Path()) == expected, plan
            assert not list(Path().glob("outputs/*/checkpoints/.*")), plan
    assert kills >= KILLS
    assert resumes >= KILLS // 4
    print(f"{kills} kills, {resumes} resumes")  # shown by pytest -rP


@pytest.mark.parametrize("ingredient", ["optimizer", "weights"])
def test_the_negative_control_ends_in_other_bits(ingredient, tmp_path):
    """A checkpoint with one thing changed must end in other bits."""
    write_images(tmp_path / "images.npz")
    words = ["train", *TINY]
    with working_in(tmp_path):
        assert start(words) == 0, Path(LOG).read_text()
        expected = endings(Path())
        shutil.rmtree("outputs")
        assert start(words, "step:kill:7") == -signal.SIGKILL
        (run,) = runs(Path())
        newest = Checkpoints(run / "checkpoints").newest()
        assert newest is not None
        state, model = newest.state(), newest.model()
        if ingredient == "optimizer":
            state["optimizer"]["state"] = {}
        else:
            first = next(iter(model.values()))
            first.copy_(torch.nextafter(first, first.new_tensor(torch.inf)))  # by one bit
        rewrite(newest.path, state, model)
        assert start(words) == 0, Path(LOG).read_text()
        assert endings(Path()) != expected


@pytest.mark.parametrize("number", [1, 5, 9])
def test_points_in_processes_are_killed_all_at_once(number, workplace):
    """The sweep itself goes on, and says so; the same command finishes them."""
    words = ["train", "-m", *(word for word in TINY if word != "jobs=1"), "jobs=2", "seed=0,1"]
    assert start(words, f"step:kill:{number}", EVALUATING) == 137
    assert {RunFolder(run).status["state"] for run in runs(workplace)} == {"running"}  # nobody was left to say more
    assert start(words, "", EVALUATING) == 0
    found = endings(workplace)
    assert len(found) == 2
    for seed in (0, 1):
        place = workplace / f"alone{seed}"
        place.mkdir()
        write_images(place / "images.npz")
        with working_in(place):
            assert start(["train", *TINY, f"seed={seed}"]) == 0
            ((name, alone),) = endings(Path()).items()
        assert found[name] == alone


STARTS = 20


def together(words: list[str]) -> tuple[list[int], Counter[str]]:
    """The exit codes of a command that is started many times at once, and how often they reached each fault point."""
    processes = [started(words, COUNTING, EVALUATING) for _ in range(STARTS)]
    for process in processes:
        process.join()
    assert "Traceback" not in Path(LOG).read_text()
    return [process.exitcode for process in processes], counted()


def test_a_run_started_many_times_at_once_is_trained_once(workplace):
    codes, reached = together(KINDS["dense"])
    assert set(codes) <= {0, 2}
    assert 0 in codes
    assert Path(LOG).read_text().count("in use by ") == codes.count(2)
    assert (reached["step"], reached["epoch"]) == (12, 3)
    assert len(runs(workplace)) == 1
    assert [row["step"] for row in ending(runs(workplace)[0]).rows if "train/loss" in row] == list(range(1, 13))


def test_a_sweep_started_many_times_at_once_is_trained_once(workplace):
    codes, reached = together(KINDS["sweep"])
    assert codes == [0] * STARTS
    assert (reached["step"], reached["epoch"]) == (24, 6)
    for run in runs(workplace):
        assert ending(run).shown["loss/train"] == list(range(1, 13))


def test_a_dataset_asked_for_many_times_at_once_is_prepared_once(workplace):
    codes, reached = together(["data", "fetch", "digits"])
    assert codes == [0] * STARTS
    assert reached["replace"] == 1
    assert Path(LOG).read_text().count("digits: ") >= STARTS
