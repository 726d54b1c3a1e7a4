"""`aetool status`: what runs and sweeps are doing, at 80 columns."""

import json
import os
import socket
from pathlib import Path

import pytest
from filelock import FileLock

LONG = "sparse-digits-lambda0.05-code1024-seed0-7652f7ae"
STATUS = {"stage": "pretrain", "step": 28, "total_steps": 280, "pid": 1, "host": socket.gethostname()}
ROW = {"stage": "pretrain", "step": 28, "epoch": 2, "seconds": 10.0, "val/loss": 0.042561}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a run with this status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(name: str, **status: object) -> Path:
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        config = {"model": {"name": "sparse"}, "seed": 0, "trainer": {"epochs": 20}}
        (folder / "config.json").write_text(json.dumps({"config": config, "identity": config}))
        (folder / "status.json").write_text(json.dumps(STATUS | status))
        (folder / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
        (folder / "metrics.json").write_text("{}")
        return folder

    return run


def test_a_long_name_has_its_text_below(write, aetool):
    with FileLock(write(LONG, state="running", pid=os.getpid()) / ".lock"):
        write("short", state="completed")
        assert aetool("status").out.splitlines() == [
            f"running  {LONG}",
            "         pretrain, epoch 2 of 20 (10 %), loss 0.04256, 1:30 left",
            "runs: 1 running, 1 completed",
        ]


def test_every_state_is_told(write, aetool):
    write("a", state="interrupted")
    write("b", state="running")  # and nobody holds it
    write("c", state="paused")
    write("d", state="failed", error="NonFiniteError: not finite at step 1: " + 3 * "lower optimizer.lr or lambda ")
    write("e", state="completed")
    assert aetool("status", "--all").out.splitlines() == [
        "interrupted  a  pretrain, epoch 2 of 20 (10 %), loss 0.04256",
        "interrupted  b  killed in pretrain, epoch 2 of 20 (10 %), loss 0.04256",
        "paused       c  pretrain, epoch 2 of 20 (10 %), loss 0.04256",
        "failed       d",
        "             NonFiniteError: not finite at step 1: lower optimizer.lr or lambda",
        "             lower optimizer.lr or lambda lower optimizer.lr or lambda",
        "completed    e",
        "runs: 2 interrupted, 1 paused, 1 failed, 1 completed",
    ]


def test_points_of_a_sweep_and_its_command(write, aetool):
    write("a", state="completed")
    sweep = Path("outputs/sweep-1")
    sweep.mkdir()
    runs = [{"directory": name, "overrides": [f"seed={name}"], "state": "not started"} for name in ("a", "b")]
    (sweep / "sweep.json").write_text(json.dumps({"command": "aetool train -m seed=a,b", "axes": {}, "runs": runs}))
    counts = ["outputs/sweep-1, points: 1 not started, 1 completed", "  aetool train -m seed=a,b"]
    assert aetool("status").out.splitlines() == ["runs: 1 completed", *counts]
    assert aetool("status", "outputs/sweep-1").out.splitlines() == [
        "not started  b  seed=b",
        "runs: 1 not started, 1 completed",
        *counts,
    ]
