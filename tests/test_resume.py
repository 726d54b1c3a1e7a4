"""Interrupted at any step and started again, a run ends in the same bits; damaged checkpoints are seen."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import killed
import pytest
import torch
from conftest import TINY, content_of, only_run, working_in, write_images

from aetool.cli import main
from aetool.errors import NoValidCheckpointError, UserError
from aetool.storage.checkpoint import Checkpoints
from aetool.storage.folder import RunFolder
from aetool.sweeps.processes import PRELOADED


def start(kind: str, moment: int) -> int:
    """Trains in the working folder, in a process of its own that a signal ends (see `killed`); its exit code.

    The processes are forks of one that has imported torch.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=killed.train, args=(kind, moment, TINY, os.environ["AETOOL_CACHE"]))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def finish(*words: str) -> None:
    """Trains to the end in this process, in the working folder."""
    assert main(["train", *TINY, *words]) == 0


def fingerprint(folder: Path) -> tuple[str, list[dict]]:
    """SHA-256 of the last checkpoint's model and optimizer, and the record without its clock."""
    run = only_run(folder)
    checkpoint = Checkpoints(run / "checkpoints").newest()
    assert checkpoint is not None
    state = checkpoint.state()
    tensors = dict(checkpoint.model())
    for index, values in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    sha256 = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return sha256.hexdigest(), rows


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_images(folder / "images.npz")
    with working_in(folder):
        finish()
    return fingerprint(folder)


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    """A folder with a run that was killed in its 7th step of 12."""
    folder = tmp_path_factory.mktemp("killed")
    write_images(folder / "images.npz")
    with working_in(folder):
        assert start("KILL", 7) == -signal.SIGKILL
    return folder


@pytest.fixture
def interrupted(workplace, killed_once):
    """The working folder with a copy of it."""
    shutil.copytree(killed_once, workplace, dirs_exist_ok=True)
    return workplace


@pytest.mark.parametrize(
    ("kind", "moments"),
    [("KILL", [5]), ("KILL", [4]), ("KILL", [6, 7]), ("write", [3]), ("write", [9]), ("TERM", [5]), ("INT", [8])],
)
def test_the_same_command_goes_on_to_the_same_bits(workplace, uninterrupted, kind, moments):
    for moment in moments:
        expected = {"TERM": 143, "INT": 130}.get(kind, -signal.SIGKILL)
        assert start(kind, moment) == expected, Path("killed.log").read_text()
        if kind in ("TERM", "INT"):
            assert RunFolder(only_run(workplace)).status["state"] == "interrupted"
            newest = Checkpoints(only_run(workplace) / "checkpoints").newest()
            assert newest is not None
            assert newest.step == moment
    checkpoints = Checkpoints(only_run(workplace) / "checkpoints")
    assert checkpoints.newest() is None or checkpoints.newest().step > 0
    finish()
    assert RunFolder(only_run(workplace)).status["state"] == "completed"
    assert fingerprint(workplace) == uninterrupted


@pytest.mark.parametrize("ingredient", ["optimizer", "step", "sums"])
def test_every_ingredient_of_a_checkpoint_is_needed(interrupted, uninterrupted, ingredient):
    """The negative control: without one of them the resumed run must end elsewhere."""
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    assert newest.step == 6
    state = newest.state()
    if ingredient == "optimizer":
        state["optimizer"]["state"] = {}
    elif ingredient == "step":
        state["step"] -= 1
    else:
        state["sums"], state["summed"] = {name: value + 1 for name, value in state["sums"].items()}, 1
    rewrite(newest.path, state)
    finish()
    found = fingerprint(interrupted)
    assert found != uninterrupted


def test_a_checkpoint_of_another_version_is_refused(interrupted, aetool):
    newest = Checkpoints(only_run(interrupted) / "checkpoints").newest()
    assert newest is not None
    rewrite(newest.path, {key: value for key, value in newest.state().items() if key != "best_rank"})
    done = aetool("train", *TINY)
    assert done.code == 2
    assert "step-00000006: another version of aetool wrote it, without best_rank" in done.err


def rewrite(path: Path, state: dict) -> None:
    torch.save(state, path / "state.pt")
    manifest = content_of(path / "manifest.json")
    content = (path / "state.pt").read_bytes()
    manifest["files"]["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "words", [["trainer.log_every=3"], ["trainer.checkpoint_every=null"], ["trainer.log_every=2", "baselines=true"]]
)
def test_cadences_change_no_weights(workplace, uninterrupted, words):
    finish(*words)
    assert fingerprint(workplace)[0] == uninterrupted[0]


def test_another_seed_changes_the_weights(workplace, uninterrupted):
    finish("seed=1")
    assert fingerprint(workplace)[0] != uninterrupted[0]


def test_changed_data_is_refused_on_resume(interrupted, aetool):
    write_images(interrupted / "images.npz", seed=1)
    done = aetool("train", *TINY)
    assert done.code == 2
    assert "the dataset has changed" in done.err


class TestCheckpoints:
    @pytest.fixture
    def checkpoints(self, tmp_path):
        made = Checkpoints(tmp_path / "checkpoints", keep=2)
        for step in (2, 4, 6, 8):
            made.save(step, {"w": torch.full((3,), float(step))}, {"step": step}, best_step=2)
        return made

    def test_keeps_the_newest_two_and_the_best(self, checkpoints):
        names = sorted(path.name for path in checkpoints.directory.iterdir())
        assert names == ["step-00000002", "step-00000006", "step-00000008"]

    def test_round_trip(self, checkpoints):
        newest = checkpoints.newest()
        assert newest.step == 8
        assert torch.equal(newest.model()["w"], torch.full((3,), 8.0))
        assert newest.state() == {"step": 8}

    @pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
    @pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "missing"])
    def test_damage_is_seen_and_the_next_newest_used(self, checkpoints, name, damage):
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

    def test_none_valid_is_an_error_not_step_0(self, checkpoints):
        for path in checkpoints.directory.glob("*/model.safetensors"):
            path.write_bytes(b"")
        with pytest.raises(NoValidCheckpointError, match="overwrite=true"):
            checkpoints.newest()

    def test_no_checkpoint_at_all(self, tmp_path):
        assert Checkpoints(tmp_path / "nothing").newest() is None

    def test_leftovers_are_swept(self, checkpoints):
        (checkpoints.directory / ".step-00000010.tmp").mkdir()
        checkpoints.save(12, {"w": torch.zeros(1)}, {}, best_step=2)
        assert not list(checkpoints.directory.glob(".step*"))

    def test_a_full_disk_leaves_the_old_ones(self, checkpoints, monkeypatch):
        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("aetool.storage.checkpoint.save_file", full)
        with pytest.raises(UserError, match=r"cannot write .*step-00000010.*bytes.*free"):
            checkpoints.save(10, {"w": torch.zeros(1)}, {}, best_step=2)
        assert checkpoints.newest().step == 8
        assert not list(checkpoints.directory.glob(".step*"))

    def test_a_pickle_that_runs_code_is_refused(self, checkpoints, tmp_path):
        class Evil:
            def __reduce__(self) -> tuple:
                return os.system, (f"touch {tmp_path}/executed",)

        path = checkpoints.directory / "step-00000008"
        rewrite(path, {"evil": Evil()})
        with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
            checkpoints.newest().state()
        assert not (tmp_path / "executed").exists()
