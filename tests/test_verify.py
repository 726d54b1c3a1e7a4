"""`aetool verify` and `aetool reproduce`: what is whole, what is damaged, and whether it comes out again."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, content_of, editing, working_in, write_images

import aetool as package
from aetool.cli import COMMANDS, COMPOSED
from aetool.config.completion import candidates
from aetool.randomness import generator
from aetool.storage.run import Run
from aetool.sweeps import reproduction
from aetool.training.batches import Batches

HERE = ["run=outputs/mine", "threads=1"]


def more(*cases: tuple) -> list:
    """Cases beyond those of every day."""
    return [pytest.param(*case, marks=pytest.mark.faults) for case in cases]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        package.train([*TINY, "name=mine"])
    return folder


@pytest.fixture
def mine(trained, workplace):
    """A copy of a finished run in the working folder."""
    shutil.copytree(trained / "outputs", workplace / "outputs")
    return Path("outputs/mine")


def test_a_whole_run_has_a_line_for_each_check(mine, aetool, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    done = aetool("verify", *HERE)
    assert done.code == 0, done.out
    lines = done.out.splitlines()
    assert all(line.startswith("ok ") and len(line) <= 80 for line in lines), done.out
    assert [line.split()[1] for line in lines] == [
        "files", "config", "status", "metrics", "checkpoints", "measurements", "record", "events",
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*")} == before


def test_without_tensorboard_its_events_alone_are_not_checked(mine, aetool, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.tensorflow_stub.pywrap_tensorflow", None)
    done = aetool("verify", *HERE)
    assert done.code == 0, done.out
    assert "skipped events TensorBoard cannot be imported: ModuleNotFoundError" in " ".join(done.out.split())
    assert done.out.count("\nok ") >= 6, done.out


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


def edit_line(path: Path, number: int, line: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[number : number + 1] = [] if line is None else [line]
    path.write_text("\n".join(lines) + "\n")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def change_identity(path: Path) -> None:
    with editing(path) as values:
        values["identity"]["seed"] = 7


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (lambda run: link(run / "metrics.jsonl"), 2, "files metrics.jsonl is a link"),
        (lambda run: change(run / "config.json", '"seed": 0', '"seed": 1'), 2, "config config.json has changed"),
        (lambda run: flip(run / "checkpoints/step-00000012/model.safetensors"), 5, "model.safetensors is damaged"),
        (lambda run: shutil.rmtree(next(run.glob("evaluate-*"))), 5, "evaluate of metrics.json is of none of them"),
        (lambda run: edit_line(run / "metrics.jsonl", 2, None), 5, "steps between 2 and 4 are missing"),
        *more(
            (lambda run: change_identity(run / "config.json"), 2, "is not that of its identity"),
            (lambda run: (run / "status.json").write_text("[]"), 5, "status status.json is damaged"),
            (lambda run: change(run / "metrics.json", "0.", "1."), 5, "metrics metrics.json has changed"),
            (lambda run: shutil.rmtree(run / "checkpoints/step-00000012"), 5, "names step 12 as the best one"),
            (lambda run: flip(next(run.glob("probe-*/correct.npz"))), 5, "measurements probe-linear"),
            (lambda run: flip(next(run.glob("evaluate-*/metrics.json"))), 5, "measurements evaluate-"),
            (
                lambda run: edit_line(run / "metrics.jsonl", 1, json.dumps({"step": 3, "epoch": 0, "train/loss": 1})),
                5,
                "3",
            ),
            (lambda run: edit_line(run / "metrics.jsonl", 4, None), 5, "epoch"),
            (lambda run: edit_line(run / "metrics.jsonl", -1, "{"), 5, "metrics.jsonl: line 15 is damaged"),
            (lambda run: flip(next(run.glob("events*.hparams"))), 5, "events events.out.tfevents"),
        ),
    ],
)
def test_what_is_damaged_is_named(mine, aetool, damage, code, said):
    damage(mine)
    done = aetool("verify", *HERE)
    assert done.code == code, done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    said, printed = (" ".join(text.replace("outputs/mine/", "").split()) for text in (said, done.out))
    assert said in printed


def test_a_run_of_an_earlier_version_has_no_checksums(mine, aetool):
    for path in [*mine.glob("*.json"), *mine.glob("*/metrics.json")]:
        path.write_text(json.dumps(content_of(path)))
    done = aetool("verify", *HERE)
    assert done.code == 0, done.out
    assert "without a checksum" in done.out


def test_training_resumes_exactly_on_a_few_batches(mine, aetool):
    before = sorted(mine.rglob("*"))
    done = aetool("verify", *HERE, "--resume")
    assert done.code == 0, done.out
    assert "ok      resuming     interrupted and resumed, a few batches end in the same bits" in done.out
    assert sorted(mine.rglob("*")) == before
    done = aetool("evaluate", *HERE, "--resume")
    assert done.code == 2
    assert "--resume: only aetool verify takes it" in done.err


def test_a_training_that_does_not_resume_exactly_is_seen(mine, aetool, monkeypatch):
    calls = []

    def other(self: Batches, epoch: int, first: int = 0):  # an order that depends on the history of the process
        calls.append(epoch)
        order = torch.randperm(len(self.train.images), generator=generator(len(calls), "order"))
        for step in range(first, self.steps_per_epoch):
            yield self.training(order[step * self.batch_size : (step + 1) * self.batch_size], step)

    monkeypatch.setattr(Batches, "epoch", other)
    done = aetool("verify", *HERE, "--resume")
    assert done.code == 5
    assert "damaged resuming     on a few batches it changes" in done.out


def test_a_run_comes_out_again_bit_by_bit(mine, aetool):
    done = aetool("reproduce", *HERE)
    assert done.code == 0, done.err
    assert "best checkpoint: step 12\n" in done.out
    assert "tensors are bit-equal" in done.out
    assert "environment: the same" in done.out
    (line,) = [line for line in done.out.splitlines() if "accuracy, test" in line or "test acc" in line]
    assert line.split()[-1] == "0"
    assert [path.name for path in Path("outputs").iterdir()] == ["mine"]


@pytest.mark.faults
def test_a_deviation_is_measured(mine, workplace, aetool):
    with editing(mine / "config.json") as saved:
        saved["config"]["optimizer"]["lr"] *= 1.5
        saved["identity"]["optimizer"]["lr"] *= 1.5
    manifest = mine / "checkpoints" / "step-00000012" / "manifest.json"
    with editing(manifest) as values:
        values["torch"] = "1.0"
    done = aetool("reproduce", *HERE, "folder=again")
    assert done.code == 0, done.err
    assert "tensors deviate, by at most" in done.out
    assert f"torch 1.0 → {torch.__version__}" in done.out
    assert list((workplace / "again").glob("*/config.json"))


def test_from_python(mine):
    checks = package.verify(mine)
    assert {one.exit_code for one in checks} == {0}


def test_completion():
    assert {"verify", "reproduce"} <= set(candidates("aetool ", COMMANDS, COMPOSED))
    assert candidates("aetool verify --res", COMMANDS, COMPOSED) == ["--resume"]
    assert candidates("aetool reproduce fol", COMMANDS, COMPOSED) == ["folder="]


def test_the_device_and_threads_of_the_run_are_used_again(mine, aetool, monkeypatch):
    """Not those of this command."""
    again = []

    def copied(run: Run) -> None:
        again.append(run)
        shutil.copytree(mine, run.directory)

    monkeypatch.setattr(reproduction, "bring_to_end", copied)
    assert aetool("reproduce", "run=outputs/mine", "folder=again").code == 0
    assert (again[0].config.device, again[0].config.threads) == ("cpu", 1)
    done = aetool("reproduce", "run=outputs/mine", "folder=again")
    assert done.code == 2
    assert "folder=again: it already holds this run" in done.err


def test_a_checkpoint_of_another_format_hides_no_other_check(mine, aetool):
    with editing(mine / "checkpoints" / "step-00000012" / "manifest.json") as values:
        values["format"] = 2
    done = aetool("verify", *HERE)
    assert done.code == 2
    printed = " ".join(done.out.split())
    assert "checkpoints outputs/mine/checkpoints/step-00000012: written by a newer aetool" in printed
    assert "ok record" in printed


def test_a_resume_that_cannot_be_tried_hides_no_other_check(mine, aetool):
    Path("images.npz").unlink()
    shutil.rmtree("cache", ignore_errors=True)
    done = aetool("verify", *HERE, "--resume")
    assert done.code == 2
    assert "ok events" in " ".join(done.out.split())
    assert "not tried: " in done.out
