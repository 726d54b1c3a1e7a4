"""Sweeps whose points run in processes of their own: `jobs`, Hydra's launchers, and what becomes of faulty points."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, only_run
from filelock import FileLock
from omegaconf import OmegaConf

from aetool.config.compose import compose_one, compose_points
from aetool.config.schema import TrainConfig
from aetool.errors import poll_signals
from aetool.storage.folder import LOCK
from aetool.storage.run import WAITS
from aetool.sweeps import launching, room
from aetool.sweeps.outcome import Outcome
from aetool.sweeps.progress import Goal, SweepProgress, goal_of

FAULTY = """
import multiprocessing, os, signal, sys, time
from aetool.models.dense import Dense

class Faulty(Dense):
    def __init__(self, image_shape, fault: str, code_size: int):
        super().__init__(image_shape, [], code_size, "relu", "identity", False)
        self.fault, self.steps = fault, 0
        if fault == "early" and multiprocessing.parent_process():
            self.die_once()

    def die_once(self):
        if os.path.exists(self.fault):
            os.remove(self.fault)
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, x, generator=None):
        if not self.training or len(x) < 16:
            return super().forward(x, generator)
        if self.fault == "raise":
            raise RuntimeError("no luck")
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            raise MemoryError("no room")
        if self.fault.startswith("slow"):
            time.sleep(1.0)
        self.steps += 1
        if self.fault == "late" and self.steps == 4:
            self.die_once()
        return super().forward(x, generator)
"""
OPTION = """
_target_: faulty.Faulty
name: faulty             # model name
code_size: 4             # number of code units
fault: a                 # what goes wrong
"""
FAULTS = ["raise", "exit", "kill", "memory"]
FAULTY_TRAINING = [*TINY[:2], *TINY[5:], "trainer.precision=fp32", "--config-dir", "own", "model=faulty"]


@pytest.fixture
def own(workplace: Path) -> Path:
    """A conf tree with a model `faulty`, whose `fault` may be one of FAULTS."""
    (workplace / "own" / "model").mkdir(parents=True)
    (workplace / "own" / "faulty.py").write_text(FAULTY)
    (workplace / "own" / "model" / "faulty.yaml").write_text(OPTION)
    return workplace / "own"


def states(workplace: Path) -> dict[str, str]:
    """How the points of the sweep ended, by the value that tells each from the others."""
    (path,) = (workplace / "outputs").glob("sweep-*/sweep.json")
    return {run["overrides"][0].partition("=")[2]: run["state"] for run in json.loads(path.read_text())["runs"]}


def weights(workplace: Path) -> dict[str, str]:
    """The SHA-256 of the last weights of every run."""
    paths = sorted((workplace / "outputs").glob("*/checkpoints/*/model.safetensors"))
    return {path.parents[2].name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_faulty_points_leave_the_others_alone(own, workplace, aetool):
    words = ["-m", *FAULTY_TRAINING, "jobs=2", "model.fault=good,raise,exit,kill,memory,fine"]
    done = aetool("train", *words)
    assert done.code == 137
    assert states(workplace) == {"good": "completed", "fine": "completed"} | dict.fromkeys(FAULTS, "failed")
    said = " ".join(done.out.split())
    assert "model.fault=raise: failed: RuntimeError: no luck" in said
    assert "model.fault=exit: failed" in said
    assert (
        "model.fault=kill: failed: its process was killed (SIGKILL; the system sends it when memory runs out)" in said
    )
    assert "model.fault=memory: failed: out of memory" in said
    assert aetool("train", *words).code == 137
    logs = [log.read_text() for log in (workplace / "outputs").glob("sweep-*/logs/*.log")]
    assert sum("already finished" in log and "faulty on arrays" not in log for log in logs) == 2


def test_points_that_share_a_run_wait_for_each_other(workplace, aetool):
    words = [word for word in TINY if word != "jobs=1"]
    done = aetool("train", "-m", *words, "jobs=2", "supervised=true", "penalty=l1", "penalty.weight=1e-3,1e-2")
    assert done.code == 0, done.out
    found = [json.loads(path.read_text()) for path in (workplace / "outputs").glob("dense-*/metrics.json")]
    assert len({one["supervised"]["test/accuracy"] for one in found}) == 1
    assert len(list((workplace / "outputs").glob("scratch-*"))) == 1


def test_a_killed_point_is_started_again_as_often_as_asked(own, workplace, aetool):
    (workplace / "late").touch()
    done = aetool("train", "-m", *FAULTY_TRAINING, "jobs=2", "retries=1", "model.fault=late,kill")
    assert done.code == 137
    assert states(workplace) == {"late": "completed", "kill": "failed"}
    for log in (workplace / "outputs").glob("sweep-*/logs/*.log"):
        assert log.read_text().count("faulty on arrays") == 2


def test_a_point_killed_while_it_overwrites_a_run_does_not_keep_the_old_one(own, workplace, aetool):
    words = [*FAULTY_TRAINING, "trainer.checkpoint_every=2"]
    assert aetool("train", "-m", *words, "jobs=1", "model.fault=early,late").code == 0
    old = weights(workplace)
    for path in (workplace / "outputs").glob("faulty-*/checkpoints/*/model.safetensors"):
        path.write_bytes(b"old")
    for fault in ("early", "late"):
        (workplace / fault).touch()
    assert aetool("train", "-m", *words, "jobs=2", "retries=1", "overwrite=true", "model.fault=early,late").code == 0
    assert not [fault for fault in ("early", "late") if (workplace / fault).exists()]
    assert weights(workplace) == old
    (logs,) = (workplace / "outputs").glob("sweep-*/logs")
    assert ["resuming at step 2" in (logs / f"{n}.log").read_text() for n in (1, 2)] == [False, True]


def test_equal_points_are_one(workplace):
    words = ["seed=0,1,0", "penalty.weight=0.1,1e-1", "probe=linear,ridge"]
    found = compose_points("train", TrainConfig, words, multirun=True)
    assert [(point.config.seed, point.config.probe.name) for point in found] == [
        (0, "linear"),
        (0, "ridge"),
        (1, "linear"),
        (1, "ridge"),
    ]
    assert found[0].overrides == ["seed=0", "penalty.weight=0.1", "probe=linear"]


def test_a_job_of_a_launcher_waits_for_runs_that_others_hold(workplace, monkeypatch):
    calls = []
    hydra = SimpleNamespace(overrides=SimpleNamespace(task=["seed=1"]), job=SimpleNamespace(num=1))
    monkeypatch.setattr(launching.HydraConfig, "get", lambda: hydra)
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(launching.subprocess, "run", lambda words, env, **rest: calls.append((words, env)) or done)
    assert launching.run_one("train", None, [Path("1.log"), Path("2.log")], OmegaConf.create()) == 0
    ((words, environment),) = calls
    assert words[1:] == ["-P", "-m", "aetool", "train", "seed=1"]
    assert environment[WAITS] == "1"
    assert Path("2.log").exists()


def test_a_sweep_waits_for_runs_that_another_process_holds(workplace, aetool, monkeypatch):
    assert aetool("train", *TINY, "pause_after=1").code == 0
    run = only_run(workplace)
    held = FileLock(run / LOCK)
    with held:
        assert "wait for it or stop it" in aetool("train", *TINY).err
        monkeypatch.setattr("aetool.storage.run.poll_signals", held.release)  # while it waits
        done = aetool("train", "-m", *TINY, "seed=0,1")
    assert done.code == 0
    assert f"{run.relative_to(workplace)}: in use by process {os.getpid()} on " in done.out
    assert states(workplace) == {"0": "completed", "1": "completed"}


class TestProgress:
    def write(self, step, state="running", pid=1):
        status = {"state": state, "pid": pid, "started": "now", "stage": "pretrain", "step": step, "total_steps": 12}
        Path("status.json").write_text(json.dumps(status))

    def done(self, goals):
        progress = SweepProgress(["a", "b"], goals)
        progress.start -= 60
        return progress

    def test_a_run_that_is_to_be_replaced_is_not_done(self, workplace):
        self.write(12, "completed")
        progress = self.done([Goal(workplace, anew=True), Goal(workplace / "none")])
        assert progress._fraction() == 0
        self.write(6, pid=2)
        assert progress._fraction() == 0.25
        assert progress._done().startswith("0 of 2 done, 3:00 left")

    def test_a_finished_run_is_done_however_early_it_stopped(self, workplace):
        self.write(6, "completed")
        progress = self.done([Goal(workplace), Goal(workplace / "none")])
        assert progress._fraction() == 0
        progress.ended(0, Outcome("completed", 0))
        assert progress._fraction() == 0

    def test_of_halving_the_steps_up_to_the_pause_count(self, workplace):
        self.write(2, "paused")
        progress = self.done([goal_of(workplace, compose_one("train", TrainConfig, [*TINY, "pause_after=1"]).config)])
        assert progress._fraction() == 0
        self.write(3)
        assert progress._fraction() == pytest.approx(0.5)
        assert progress._done() == "0 of 2 done, 1:00 until they pause"


@pytest.mark.parametrize("jobs", [1, 2])
def test_fail_fast_ends_the_sweep(jobs, own, workplace, aetool):
    words = ["-m", *FAULTY_TRAINING, f"jobs={jobs}", "fail_fast=true", "model.fault=raise,slow,good,fine"]
    assert aetool("train", *words).code == 1
    found = states(workplace)
    assert found["raise"] == "failed"
    assert found["fine"] == "not started"


@pytest.mark.parametrize(
    ("chosen", "seeds"),
    [
        (["jobs=2"], "0,1"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"], "0"),  # a process that imports torch takes seconds
        pytest.param(["hydra/launcher=joblib"], "0,1", marks=pytest.mark.real),
        pytest.param(["hydra/launcher=submitit_local"], "0,1", marks=pytest.mark.real),
    ],
)
def test_points_in_processes_of_their_own_are_the_same_runs(chosen, seeds, workplace, aetool):
    words = [word for word in TINY if word != "jobs=1"]
    assert aetool("train", "-m", *TINY, f"seed={seeds}").code == 0
    here = weights(workplace)
    shutil.rmtree("outputs")
    done = aetool("train", "-m", *words, *chosen, f"seed={seeds}")
    assert done.code == 0, done.err
    (swept,) = workplace.glob("outputs/sweep-*")
    assert [one["state"] for one in json.loads((swept / "sweep.json").read_text())["runs"]] == ["completed"] * len(here)
    assert {path.stem for path in swept.glob("logs/*.log")} == {str(index + 1) for index in range(len(here))}
    assert weights(workplace) == here
    assert len(here) == len(seeds.split(","))


def test_a_signal_saves_the_running_points_and_ends_the_sweep(own, workplace, aetool, monkeypatch):
    def interrupt(progress: SweepProgress, running: Collection[int]) -> None:
        if list((workplace / "outputs").glob("faulty-*/checkpoints/step-*")):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SweepProgress, "watch", interrupt)
        words = ["-m", *FAULTY_TRAINING, "jobs=2", "model.fault=slow,slower,slowest"]
        done = aetool("train", *words)
    assert done.code == 130
    assert states(workplace) == {"slow": "interrupted", "slower": "interrupted", "slowest": "not started"}
    poll_signals()  # the signal was for the sweep alone


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (
            "train",
            ["-m", "hydra.run.dir=x", "seed=0,1"],
            "hydra.run.dir: aetool does not take it from Hydra; every run",
        ),
        ("train", ["-m", "hydra/sweeper=optuna", "seed=0,1"], "hydra/sweeper: aetool does not take it from Hydra"),
        ("train", ["hydra.job.chdir=true"], "hydra.job.chdir: aetool does not take it from Hydra; leave it out"),
        ("train", ["hydra.verbose=true"], "hydra.verbose: aetool does not take it from Hydra; use -v or -q"),
        ("train", ["hydra/launcher=joblib"], "a launcher runs the points of a sweep; add -m"),
        (
            "train",
            ["-m", "hydra/launcher=joblb", "seed=0,1"],
            "hydra/launcher=joblb: no such option; did you mean joblib",
        ),
        ("train", ["-m", "hydra/launcher=ray", "seed=0,1"], "not installed; pip install 'hydra-ray-launcher'"),
        ("train", ["-m", "hydra/launcher=joblib", "jobs=2", "seed=0,1"], "jobs: hydra/launcher=joblib decides it"),
        ("train", ["-m", "hydra/launcher=joblib,basic"], "one launcher runs all points; give one value"),
        (
            "train",
            ["-m", "hydra/launcher=joblib", "hydra.launcher.n_job=2", "seed=0,1"],
            "hydra.launcher.n_job: unknown key; did you mean hydra.launcher.n_jobs?",
        ),
        ("probe", ["-m", "hydra/launcher=joblib", "run=a,b"], "only aetool train and finetune take a launcher"),
    ],
)
def test_what_is_not_taken_from_hydra_is_refused_by_name(command, words, said, workplace, aetool):
    done = aetool(command, *words)
    assert done.code == 2
    assert said in done.err
    assert not (workplace / "outputs").exists()


@pytest.mark.parametrize(
    ("jobs", "threads", "points", "cores", "gpus", "memory", "expected"),
    [
        ("auto", None, 16, 8, 0, 64, (8, ["threads=1"])),
        ("auto", None, 3, 8, 0, 64, (3, ["threads=2"])),
        ("auto", 4, 16, 8, 0, 64, (2, [])),
        ("auto", None, 16, 8, 0, 7, (3, ["threads=2"])),
        ("auto", None, 16, 2, 0, 1, (1, ["threads=2"])),
        (4, None, 16, 2, 0, 1, (4, ["threads=1"])),
        (4, None, 2, 8, 0, 64, (2, ["threads=4"])),
        ("auto", None, 16, 8, 1, 64, (1, ["threads=8"])),
        ("auto", None, 16, 8, 2, 64, (2, ["threads=4", "device=cuda:0"])),
    ],
)
def test_cores_gpus_and_memory_are_shared_out(monkeypatch, jobs, threads, points, cores, gpus, memory, expected):
    monkeypatch.setattr(room, "available_threads", lambda: cores)
    monkeypatch.setattr(room, "available_memory", lambda: memory * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    words = [f"jobs={jobs}", *([f"threads={threads}"] if threads else [])]
    config = compose_one("train", TrainConfig, words).config
    found = room.room_for(config, config, points)
    assert (found.jobs, found.slots[0]) == expected
    assert len(found.slots) == found.jobs


@pytest.mark.parametrize(
    ("code", "state", "exit_code", "said"),
    [
        (0, "completed", 0, None),
        (3, "failed", 3, "its last words"),
        (143, "interrupted", 143, None),
        (-2, "interrupted", 130, None),
        (-9, "failed", 137, "its process was killed (SIGKILL; the system sends it when memory runs out)"),
        (-11, "failed", 139, "its process was killed (SIGSEGV)"),
        (-40, "failed", 168, "its process was killed (signal 40)"),  # one without a name
    ],
)
def test_how_a_process_ended_is_read_from_its_exit_code(code, state, exit_code, said):
    assert Outcome.of_process(code, "its last words") == (state, exit_code, said)
