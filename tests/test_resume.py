"""Interrupted at any step and started again, a run ends in the same bits."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, only_run, working_in, write_images
from ending import Ending, ending
from killed import LOG, start
from rewriting import rewrite

from aetool.cli import main
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.folder import RunFolder

ENDS = {"kill": -signal.SIGKILL, "term": 143, "int": 130}  # the exit codes of what a fault point does


def finish(*words: str) -> None:
    """Trains to the end in this process, in the working folder."""
    assert main(["train", *TINY, *words]) == 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Ending:
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_images(folder / "images.npz")
    with working_in(folder):
        finish()
    return ending(only_run(folder))


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    """A folder with a run that was killed in its 7th step of 12."""
    folder = tmp_path_factory.mktemp("killed")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert start(["train", *TINY], "step:kill:7") == -signal.SIGKILL
    return folder


@pytest.fixture
def interrupted(workplace, killed_once):
    """The working folder with a copy of it."""
    shutil.copytree(killed_once, workplace, dirs_exist_ok=True)
    return workplace


@pytest.mark.parametrize(
    ("faults", "resumed"),
    [  # 4 steps in an epoch, a checkpoint after every second; where the last process resumes
        (["step:kill:2"], 0),
        (["step:kill:7", "step:kill:2"], 6),
        (["row:kill:5"], 2),  # validated, in metrics.jsonl, but not shown or saved yet
        (["epoch:kill:1", "epoch:kill:1"], 2),
        (["checkpoint/manifest:kill:2"], 2),
        (["checkpoint/rename:kill:2"], 4),  # complete, but for its name
        (["replace:kill:1"], 2),
        (["checkpoint/removed:kill:1"], 4),
        (["step:term:5"], 5),
        (["step:int:8", "replace:kill:1"], 8),  # saved twice
        (["evaluate:term:1"], 0),  # trained
    ],
)
def test_the_same_command_goes_on_to_the_same_bits(workplace, uninterrupted, capsys, faults, resumed):
    words = ["train", *TINY, "trainer.keep_checkpoints=1"]
    for fault in faults:
        assert start(words, fault) == ENDS[fault.split(":")[1]], Path(LOG).read_text()
    if ":term:" in faults[-1]:
        assert RunFolder(only_run(workplace)).status["state"] == "interrupted"
    finish("trainer.keep_checkpoints=1")
    assert (f"resuming at step {resumed}," if resumed else "→") in capsys.readouterr().out
    assert RunFolder(only_run(workplace)).status["state"] == "completed"
    assert ending(only_run(workplace)) == uninterrupted
    assert not list((only_run(workplace) / "checkpoints").glob(".*"))


def test_another_torch_and_number_of_threads_are_said(interrupted, aetool):
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    rewrite(newest.path, torch="1.0", threads=7)
    done = aetool("train", *TINY)
    assert done.code == 0, done.err
    (warning,) = [one for one in RunFolder(only_run(interrupted)).status["warnings"] if "with torch" in one]
    assert re.fullmatch(r"resumed at step 6 with torch 1\.0 → \S+, threads 7 → 1: the last bits may differ", warning)


def test_the_kernel_of_the_optimizer_is_that_of_the_device(interrupted, uninterrupted):
    """As on another device: one without a fused kernel wrote the checkpoint."""
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    state = newest.state()
    (group,) = state["optimizer"]["param_groups"]
    assert group["fused"]
    group["fused"] = None
    rewrite(newest.path, state)
    finish()
    assert ending(only_run(interrupted)) == uninterrupted


def test_a_second_signal_ends_at_once(tmp_path):
    """Although the process never polls."""
    lines = ["with deferred_signals():", *(f"    os.kill(os.getpid(), 15); print({n}, flush=True)" for n in range(3))]
    code = "\n".join(["import os", "from aetool.errors import deferred_signals", *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (143, "0\n")


def test_the_state_of_an_optimizer_belongs_to_names(interrupted, aetool):
    """As where two layers of a user's module change places: their shapes and positions are the same."""
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    state = newest.state()
    (names,) = state["parameter_names"]
    assert len(names) == len(set(names)) == len(state["optimizer"]["state"])
    rewrite(newest.path, state | {"parameter_names": [names[::-1]]})
    done = aetool("train", *TINY)
    assert done.code == 2, done.err
    assert "its parameters have other names" in " ".join(done.err.split())
    del state["parameter_names"]  # as in a checkpoint of an earlier version
    rewrite(newest.path, state)
    assert aetool("train", *TINY).code == 0


@pytest.mark.parametrize("ingredient", ["optimizer", "objective", "sums", "record"])
def test_every_ingredient_of_a_checkpoint_is_needed(interrupted, uninterrupted, ingredient):
    """The negative control: without one of them the resumed run must end elsewhere."""
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    assert newest.step == 6
    state = newest.state()
    if ingredient == "optimizer":
        state["optimizer"]["state"] = {}
    elif ingredient == "objective":
        state["objective"]["code_sum"].zero_()
        state["objective"]["weight"] += 1
    elif ingredient == "sums":
        state["sums"], state["summed"] = {"loss": 1.0}, 1
    else:
        state["record_position"] = 0
    rewrite(newest.path, state)
    finish()
    assert ending(only_run(interrupted)) != uninterrupted


@pytest.mark.parametrize(
    "words", [["trainer.log_every=3"], ["trainer.checkpoint_every=null"], ["trainer.log_every=2", "baselines=true"]]
)
def test_cadences_change_no_weights(workplace, uninterrupted, words):
    finish(*words)
    assert ending(only_run(workplace)).sha256 == uninterrupted.sha256


def test_another_seed_changes_the_weights(workplace, uninterrupted):
    finish("seed=1")
    assert ending(only_run(workplace)).sha256 != uninterrupted.sha256


def test_changed_data_is_refused_on_resume(interrupted, aetool):
    write_images(interrupted / "images.npz", seed=1)
    done = aetool("train", *TINY)
    assert done.code == 2
    assert "the dataset has changed" in done.err
