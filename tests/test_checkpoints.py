"""Checkpoints: complete or absent, and what is said of damaged, malformed and foreign ones."""

import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, dataset_of, only_run, run_in, working_in, write_images
from rewriting import match, rewrite

from aetool import files
from aetool.cli import main
from aetool.errors import NoValidCheckpointError, UserError
from aetool.storage.checkpoint import FORMAT, Checkpoints
from aetool.training.pretrain import make_trainer
from aetool.training.trainer import Trainer

INFO = {
    "image_shape": [1, 8, 8],
    "preprocessing": {"mean": [0.0], "std": [1.0], "logits": False},
    "fingerprint": "0",
}


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", INFO, keep=2)
    for step in (2, 4, 6, 8):
        made.save(step, {"w": torch.full((3,), float(step))}, {"step": step}, best_step=2)
    return made


def test_keeps_the_newest_two_and_the_best(checkpoints):
    names = sorted(path.name for path in checkpoints.directory.iterdir())
    assert names == ["step-00000002", "step-00000006", "step-00000008"]


def test_round_trip(checkpoints):
    newest = checkpoints.newest()
    assert newest.step == 8
    assert torch.equal(newest.model()["w"], torch.full((3,), 8.0))
    assert newest.state() == {"step": 8}


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "missing"])
def test_damage_is_seen_and_the_next_newest_used(checkpoints, name, damage):
    path = checkpoints.directory / "step-00000008" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:-2], "emptied": b"", "flipped": flipped}[damage])
    found = checkpoints.newest()
    if (name, damage) == ("manifest.json", "flipped"):
        assert found.step in (6, 8)  # a bit of a number or a space; what it guards is checked all the same
        return
    assert found.step == 6
    assert "step-00000008" in checkpoints.warnings[0]
    assert path.parent.exists()
    checkpoints.save(8, {"w": torch.full((3,), 8.0)}, {"step": 8}, best_step=2)
    assert checkpoints.newest().step == 8
    checkpoints.save(8, {"w": torch.full((3,), 8.0)}, {"step": 8}, best_step=2)
    (kept,) = checkpoints.directory.glob("damaged-*-step-00000008")
    assert not (kept / name).exists() if damage == "missing" else (kept / name).read_bytes() != content
    checkpoints.save(10, {"w": torch.full((3,), 10.0)}, {"step": 10}, best_step=10)
    checkpoints.save(12, {"w": torch.full((3,), 12.0)}, {"step": 12}, best_step=12)
    assert checkpoints.steps() == [10, 12]


def test_a_power_cut_loses_no_checkpoint(checkpoints, monkeypatch):
    done: list[tuple[str, str]] = []
    sync, rename = files.sync, Path.rename
    monkeypatch.setattr(files, "sync", lambda path: done.append(("sync", path.name)) or sync(path))
    monkeypatch.setattr(Path, "rename", lambda path, to: done.append(("rename", path.name)) or rename(path, to))
    checkpoints.save(10, {"w": torch.zeros(3)}, {"step": 10}, best_step=2)
    temporary = ".step-00000010.tmp"
    named = done.index(("rename", temporary))
    assert {("sync", name) for name in ("model.safetensors", "state.pt", "manifest.json", temporary)} <= set(
        done[:named]
    )
    assert done[named + 1 :] == [("sync", "checkpoints"), ("rename", "step-00000006")]


def test_a_file_in_the_place_of_a_checkpoint_is_a_damaged_one(checkpoints):
    for step in (8, 6, 2):
        path = checkpoints.directory / f"step-{step:08d}"
        shutil.rmtree(path)
        path.write_text("")
        assert checkpoints.at(step) is None
        if step > 2:
            assert checkpoints.newest().step == step - (2 if step == 8 else 4)
    with pytest.raises(NoValidCheckpointError):
        checkpoints.newest()


def test_none_valid_is_an_error_not_step_0(checkpoints):
    for path in checkpoints.directory.glob("*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(NoValidCheckpointError, match="overwrite=true"):
        checkpoints.newest()


def test_no_checkpoint_at_all(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest() is None


def test_what_a_kill_left_is_swept(checkpoints):
    for name in (".step-00000010.tmp", ".step-00000002.old"):
        (checkpoints.directory / name).mkdir()
    checkpoints.recover()
    assert not list(checkpoints.directory.glob(".step*"))
    assert checkpoints.newest().step == 8
    assert not checkpoints.warnings


@pytest.mark.parametrize("step", [8, 10])
def test_a_complete_one_gets_its_name(checkpoints, step):
    """One of step 8 is there already, or half of it."""
    directory = checkpoints.directory
    made = Checkpoints(directory.parent / "others", INFO)
    made.save(step, {"w": torch.zeros(3)}, {"step": step}, best_step=2)
    shutil.move(made.directory / f"step-{step:08d}", directory / f".step-{step:08d}.tmp")
    (directory / "step-00000008" / "state.pt").unlink()
    checkpoints.recover()
    assert torch.equal(checkpoints.newest().model()["w"], torch.zeros(3))
    assert not checkpoints.warnings


def test_a_failure_between_removal_and_renaming_loses_nothing(checkpoints, monkeypatch):
    monkeypatch.setenv("AETOOL_FAULT", "replace:fail")
    with pytest.raises(UserError, match="cannot write"):
        checkpoints.save(8, {"w": torch.zeros(3)}, {"step": 8}, best_step=2)
    checkpoints.recover()
    assert torch.equal(checkpoints.newest().model()["w"], torch.zeros(3))


def test_a_full_disk_leaves_the_old_ones(checkpoints, monkeypatch):
    monkeypatch.setenv("AETOOL_FAULT", "checkpoint/state:full")
    with pytest.raises(UserError, match=r"cannot write .*step-00000010.*bytes.*free"):
        checkpoints.save(10, {"w": torch.zeros(1)}, {}, best_step=2)
    assert checkpoints.newest().step == 8
    assert not list(checkpoints.directory.glob(".step*"))


def test_a_pickle_that_runs_code_is_damage(checkpoints, tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/executed",)

    rewrite(checkpoints.directory / "step-00000008", {"evil": Evil()})
    assert checkpoints.newest(lambda found: found.state()).step == 6
    assert "step-00000008 skipped: state.pt cannot be read: Weights only load failed" in checkpoints.warnings[0]
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a run of 4 steps, at whose end 2 checkpoints are kept, of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert main(["train", *WORDS]) == 0
    return folder


WORDS = [*TINY, "trainer.epochs=1"]


@pytest.fixture
def run(workplace, trained) -> Path:
    """A copy of it, whose training is not known to be finished."""
    shutil.copytree(trained, workplace, dirs_exist_ok=True)
    found = only_run(workplace)
    (found / "metrics.json").unlink()
    return found


@pytest.fixture(scope="module")
def trainer(trained) -> Iterator[Trainer]:
    """Of this run."""
    with working_in(trained):
        own = run_in(only_run(trained))
        made = make_trainer(own, dataset_of(own.config), torch.device("cpu"))
        yield made
        made.journal.record.close()


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-00000004"


def oldest_too(run: Path, change: Callable[[Path], None]) -> None:
    for path in (run / "checkpoints").iterdir():
        change(path)


def headed(header: bytes) -> Callable[[Path], None]:
    """Gives model.safetensors this header."""

    def change(path: Path) -> None:
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
        match(path)

    return change


def pickled(state: object) -> Callable[[Path], None]:
    return lambda path: rewrite(path, state)


def of_bytes(content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "state.pt").write_bytes(content)
        match(path)

    return change


def manifest_of(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "manifest.json").write_text(text)

    return change


def noted(**keys: object) -> Callable[[Path], None]:
    """Gives the manifest other values of keys; None: no such key."""
    return lambda path: match(path, **keys)


def weighed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the weights."""

    def rewritten(path: Path) -> None:
        (own,) = (found for found in [Checkpoints(path.parent).at(int(path.name[5:]))] if found)
        weights = own.model()
        change(weights)
        rewrite(path, model=weights)

    return rewritten


FIRST = "encoder.0.weight"  # of the model, (8, 64)
DAMAGED = {
    "no manifest": manifest_of(""),
    "a list": manifest_of("[]"),
    "nested": manifest_of("[" * 100_000),
    "no format": noted(format=None),
    "format of a string": noted(format="1"),
    "format of a truth": noted(format=True),
    "no step": noted(step=None),
    "step of a string": noted(step="4"),
    "files": noted(files={"model.safetensors": 1}),
    "other files": noted(files={"../config.json": {"bytes": 1, "sha256": "0"}}),
    "no fingerprint": noted(fingerprint=None),
    "two dimensions": noted(image_shape=[8, 8]),
    "a shape of strings": noted(image_shape=["1", "8", "8"]),
    "no preprocessing": noted(preprocessing=None),
    "std of 0": noted(preprocessing={"mean": [0.0], "std": [0.0], "logits": False}),
    "std of NaN": noted(preprocessing={"mean": [0.0], "std": [float("nan")], "logits": False}),
    "two channels": noted(preprocessing={"mean": [0.0, 0.0], "std": [1.0, 1.0], "logits": False}),
    "header of zeros": headed(bytes(8)),
    "header of another kind": headed(b"[1, 2]"),
    "offsets outside": headed(b'{"w": {"dtype": "F32", "shape": [9999999], "data_offsets": [0, 39999996]}}'),
    "unknown type": headed(b'{"w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}'),
    "NaN": weighed(lambda weights: weights[FIRST].fill_(float("nan"))),
    "infinite": weighed(lambda weights: weights[FIRST].view(-1)[:1].fill_(float("inf"))),
    "no pickle": of_bytes(b"state"),
    "empty": of_bytes(b""),
    "half a zip": of_bytes(b"PK\x03\x04" + bytes(100)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_one_is_skipped_with_a_word(run, trainer, name):
    """Although the manifest matches."""
    DAMAGED[name](newest(run))
    checkpoints = Checkpoints(run / "checkpoints")
    assert checkpoints.newest(trainer.restore).step == 2
    (warning,) = checkpoints.warnings
    assert warning.startswith("checkpoint step-00000004 skipped: ")
    assert "\n" not in warning


@pytest.mark.parametrize("name", ["no format", "header of zeros", "NaN", "no pickle"])
def test_where_all_are_damaged_none_is_valid(run, aetool, name):
    oldest_too(run, DAMAGED[name])
    done = aetool("train", *WORDS)
    assert done.code == 5
    (line,) = (line for line in done.err.splitlines() if line.startswith("aetool: "))
    assert "start over with overwrite=true" in line


def changed(**keys: object) -> Callable[[dict], object]:
    return lambda state: state.update(keys)


def drop(*keys: str) -> Callable[[dict], object]:
    return lambda state: [state.pop(key) for key in keys]


def of_moment(change: Callable[[dict], object]) -> Callable[[dict], object]:
    """Changes what the optimizer knows of the first parameter."""
    return lambda state: change(state["optimizer"]["state"][0])


def of_group(**keys: object) -> Callable[[dict], object]:
    return lambda state: state["optimizer"]["param_groups"][0].update(keys)


STATES = {
    "best_rank": (drop("best_rank"), "another version of aetool wrote it, without best_rank"),
    "step of a string": (changed(step="4"), "step: "),
    "step of a float": (changed(step=4.0), "step: "),
    "another step": (changed(step=3), "step 3 in epoch"),
    "a later epoch": (changed(epoch=7), "step 4 in epoch 7"),
    "a negative position": (changed(record_position=-1), "record_position: "),
    "seconds": (changed(seconds=torch.ones(3)), "seconds: "),
    "sums of no step": (changed(sums={"loss": 1.0}, summed=0), "sums of 0 steps"),
    "best of a list": (changed(best=[1.0]), "best: "),
    "best of nothing": (changed(best={}), "best: nothing"),
    "schedule": (changed(schedule=[]), "schedule is list"),
    "objective": (changed(objective={"weight": torch.ones(())}), "objective is a dict of weight"),
    "lambda": (lambda state: state["objective"].update(weight=torch.ones(2)), "objective.weight is float (2,)"),
    "optimizer": (changed(optimizer=3), "optimizer: "),
    "no moments": (changed(optimizer={"state": []}), "optimizer: "),
    "no groups": (changed(optimizer={"state": {}, "param_groups": []}), "optimizer: not 1 groups"),
    "betas": (of_group(betas=("a", "b")), "optimizer.param_groups.0.betas.0 is str, not a number"),
    "parameters": (of_group(params=[0, 1]), "optimizer.param_groups.0: other parameters"),
    "shape": (of_moment(changed(exp_avg=torch.zeros(2))), "optimizer.state.0.exp_avg is float (2,), not float (8, 64)"),
    "type": (of_moment(changed(exp_avg=torch.zeros(8, 64, dtype=torch.int64))), "exp_avg is torch.int64"),
    "no second moment": (of_moment(drop("exp_avg_sq")), "optimizer.state.0 is a dict of step, exp_avg,"),
    "too many": (lambda state: state["optimizer"]["state"].update({99: {}}), "optimizer.state.99: no such"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_something_else_is_refused(run, trainer, name):
    change, message = STATES[name]
    checkpoints = Checkpoints(run / "checkpoints")
    state = checkpoints.at(4).state()
    change(state)
    rewrite(newest(run), state)
    with pytest.raises(UserError, match=f"step-00000004.*{re.escape(message)}.*overwrite=true"):
        checkpoints.newest(trainer.restore)


WEIGHTS = {
    "integers": (lambda found: found.update({FIRST: found[FIRST].long()}), f"{FIRST} is torch.int64 (8, 64)"),
    "missing": (lambda found: found.pop(FIRST), f'Missing key(s) in state_dict: "{FIRST}"'),
    "extra": (lambda found: found.update(extra=torch.zeros(1)), 'Unexpected key(s) in state_dict: "extra"'),
    "shape": (lambda found: found.update({FIRST: torch.zeros(3, 3)}), f"size mismatch for {FIRST}"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_another_network_are_refused(run, trained, aetool, name):
    change, message = WEIGHTS[name]
    weighed(change)(newest(run))
    refused(aetool("train", *WORDS), message)
    shutil.copy(only_run(trained) / "metrics.json", run)
    refused(aetool("evaluate", f"run={run}", "baselines=false"), message)


def refused(done, message: str) -> None:
    """With one line."""
    assert done.code == 2
    *_, line = done.err.splitlines()  # the last one; the first says that metrics.json is missing
    assert message in line
    assert "overwrite=true" in line


@pytest.mark.parametrize("name", ["no preprocessing", "header of zeros", "NaN"])
def test_a_damaged_best_one_is_not_evaluated(run, trained, aetool, name):
    shutil.copy(only_run(trained) / "metrics.json", run)
    oldest_too(run, DAMAGED[name])
    done = aetool("evaluate", f"run={run}", "baselines=false")
    assert done.code == 5
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("found", "age", "remedy"), [(FORMAT + 1, "a newer", "upgrade aetool"), (1, "an older", "resume with that version")]
)
def test_another_format_is_refused_in_both_directions(run, aetool, monkeypatch, found, age, remedy):
    """Although an older checkpoint is there: work would be lost."""
    monkeypatch.setattr("aetool.storage.checkpoint.FORMAT", FORMAT if found > FORMAT else FORMAT + 1)
    match(newest(run), format=found)
    done = aetool("train", *WORDS)
    assert done.code == 2
    *_, line = done.err.splitlines()  # the last one; the first says that metrics.json is missing
    assert f"written by {age} aetool (checkpoint format {found}, this one reads " in line
    assert remedy in line
