"""The folder of a run that a stranger made, or that is damaged: what is followed, believed and replaced."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import TINY, content_of, working_in, write_images

import aetool as package
from aetool.errors import UserError
from aetool.files import detach
from aetool.storage.folder import RunFolder
from aetool.storage.record import Record
from aetool.storage.stored import checksums, damaged_file, read_stored, write_stored
from aetool.sweeps.sweep import write_sweep
from aetool.training import finetune

MINE = [*TINY, "name=mine"]
HERE = ["run=outputs/mine", "baselines=false", "threads=1"]
EVALUATE = ["evaluate", *HERE, *[word for word in TINY if word.startswith("evaluation.")]]
RIDGE = ["probe", *HERE, "probe=ridge", "probe.l2=[0.1]"]
TUNE = ["finetune", "run=outputs/mine", "trainer.epochs=1", "trainer.batch_size=16", "min_steps=1", "threads=1"]


def more(*values: str) -> list:
    """Cases beyond those of every day."""
    return [pytest.param(value, marks=pytest.mark.faults) for value in values]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images.npz")
    with working_in(folder):
        package.train(MINE)
        package.probe("outputs/mine", RIDGE[2:])
    return folder


@pytest.fixture
def mine(trained, workplace):
    """A copy of a finished run, also probed by ridge regression, in the working folder."""
    shutil.copytree(trained / "outputs", workplace / "outputs")
    return RunFolder("outputs/mine")


class TestStored:
    def test_round_trip(self, tmp_path):
        values = {"ü": 1.5, "nested": {"b": [1, None], "a": float("nan")}, "n": 3}
        write_stored(tmp_path / "x.json", values, "run")
        found = read_stored(tmp_path / "x.json", "run")
        assert found.problem is None
        assert json.dumps(found.values) == json.dumps(values)

    def test_what_is_of_another_run_is_not_taken(self, tmp_path):
        write_stored(tmp_path / "x.json", {"a": 1}, "run")
        assert read_stored(tmp_path / "x.json", "other").damage == (
            "x.json has changed since it was written (delete its sha256 if you changed it)"
        )

    def test_without_a_checksum_it_is_taken_as_it_is(self, tmp_path):
        (tmp_path / "x.json").write_text('{"a": 1}')
        assert read_stored(tmp_path / "x.json", "run").values == {"a": 1}

    def test_files_beside_it(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(b"content")
        write_stored(tmp_path / "x.json", {"a": 1}, files=checksums(tmp_path, ["x.npz"]))
        found = read_stored(tmp_path / "x.json")
        assert found.values == {"a": 1}
        assert damaged_file(tmp_path, found.files) is None
        (tmp_path / "x.npz").write_bytes(b"kontent")
        assert damaged_file(tmp_path, found.files) == "x.npz is damaged"
        (tmp_path / "x.npz").unlink()
        assert damaged_file(tmp_path, found.files) == "x.npz: No such file or directory"

    def test_no_file_elsewhere_is_read(self, tmp_path):
        write_stored(tmp_path / "x.json", {}, files={"../secret": "0"})
        assert read_stored(tmp_path / "x.json").damage == "x.json is damaged"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "3",
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"a":' * 100 + "1" + "}" * 100,
            '{"a": 1' + "0" * 5000 + "}",
        ],
    )
    def test_garbage_is_damaged(self, tmp_path, text):
        (tmp_path / "x.json").write_text(text)
        assert read_stored(tmp_path / "x.json").damage == "x.json is damaged"

    def test_what_is_no_file_is_not_read(self, tmp_path):
        os.mkfifo(tmp_path / "x.json")
        assert read_stored(tmp_path / "x.json").damage == "x.json is not a file"
        assert read_stored(tmp_path / "y.json") == ({}, "no y.json", True, {})
        (tmp_path / "z.json").symlink_to("x.json")
        assert read_stored(tmp_path / "z.json").damage == "z.json is not a file"


class TestLinks:
    PARTS = (
        ".lock", "evaluate-*/metrics.json", "metrics.jsonl", "aetool.log", "config.json", "status.json", "metrics.json",
        "checkpoints", "figures", "figures/atoms.png", "checkpoints/step-00000012",
        "checkpoints/step-00000012/model.safetensors",
        "projector_config.pbtxt", "projector", "evaluate-*", "probe-linear-*", "events.*",
    )  # fmt: skip

    @pytest.mark.parametrize("part", [*PARTS[:2], *more(*PARTS[2:])])
    def test_a_link_is_refused_by_every_command(self, mine, workplace, aetool, part):
        elsewhere = workplace / "elsewhere"
        path = next(mine.directory.glob(part), mine.directory / part)
        if path.exists():
            path.rename(elsewhere)
        else:
            elsewhere.write_text("mine")
        path.symlink_to(elsewhere)
        before = [(one, one.stat().st_mtime_ns) for one in (elsewhere, *elsewhere.rglob("*"))]
        words = [part.partition("/")[0].rstrip("*"), "remove it"] if part != ".lock" else ["is no lock file"]
        for command in (
            ["train", *MINE],
            ["train", *MINE, "overwrite=true"],
            EVALUATE,
            RIDGE,
            TUNE,
            ["encode", *HERE[::2]],
        ):
            done = aetool(*command)
            assert done.code == 2, (command, done)
            assert done.err.count("\n") == 1
            assert all(word in done.err for word in words)
        assert "unreadable" in aetool("compare").out
        assert [(one, one.stat().st_mtime_ns) for one in (elsewhere, *elsewhere.rglob("*"))] == before

    @pytest.mark.parametrize("part", ["status.json", "probe-ridge-*/correct.npz"])
    def test_a_pipe_is_refused(self, mine, aetool, part):
        (path,) = mine.directory.glob(part)
        path.unlink()
        os.mkfifo(path)
        assert aetool(*EVALUATE).code == 2
        assert "unreadable" in aetool("status", "--all").out

    def test_the_folder_itself_may_be_a_link(self, mine, workplace, aetool):
        mine.directory.rename(workplace / "disk")
        mine.directory.symlink_to(workplace / "disk")
        assert aetool(*EVALUATE).code == 0
        assert aetool("train", *MINE).code == 0

    def test_what_a_user_links_beside_the_run_is_not_touched(self, mine, aetool):
        (mine.directory / "notes.txt").symlink_to("/nowhere")
        assert aetool(*EVALUATE).code == 0

    def test_hard_links_are_not_written_through(self, mine, workplace, aetool):
        """As of a backup by `cp -al`: measured and trained further, the run leaves it as it was."""
        shutil.copytree(mine.directory, workplace / "backup", copy_function=os.link)
        before = {path: path.read_bytes() for path in (workplace / "backup").rglob("*") if path.is_file()}
        assert aetool(*EVALUATE, "overwrite=true").code == 0
        with contextlib.closing(Record(mine.directory)) as record:
            record.row("pretrain", 13, 3, 1.0, {"train/loss": 1.0})
        assert {path: path.read_bytes() for path in before} == before

    def test_detach(self, tmp_path):
        (tmp_path / "a").write_text("1")
        os.link(tmp_path / "a", tmp_path / "b")
        detach(tmp_path / "a")
        with (tmp_path / "a").open("a") as file:
            file.write("2")
        assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("12", "1")
        detach(tmp_path / "nothing")

    def test_a_sweep_of_a_stranger(self, tmp_path):
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "1.log").symlink_to("/nowhere")
        with pytest.raises(UserError, match=r"logs/1\.log is a link"):
            write_sweep(tmp_path, [], [])


class TestDamagedBest:
    @pytest.fixture
    def damaged(self, mine):
        path = mine.directory / "checkpoints/step-00000012/model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        return mine

    def test_no_command_takes_another_unasked(self, damaged, aetool):
        before = damaged.metrics
        again = [*EVALUATE, "overwrite=true"]
        for command in (again, [*RIDGE, "overwrite=true"], ["sample", *HERE[::2]], ["encode", *HERE[::2]], TUNE):
            done = aetool(*command)
            assert done.code == 5, (command, done)
            assert "its best checkpoint, step 12, is damaged" in done.err
            assert "model.safetensors" in done.err
            assert "overwrite=true" in done.err
        assert damaged.metrics == before
        assert not list(Path("outputs").glob("finetune-*/metrics.json"))

    def test_a_fine_tune_that_ends_with_it_fails(self, mine, aetool, monkeypatch):
        def fit(run, trainer):
            found = trained(run, trainer)
            path = run.directory / f"checkpoints/step-{int(found['best_step']):08d}/model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            return found

        trained = finetune.fit
        monkeypatch.setattr(finetune, "fit", fit)
        done = aetool(*TUNE)
        assert done.code == 5
        assert "its best checkpoint is damaged (checkpoint step-" in done.err
        assert "overwrite=true" in done.err

    def test_training_that_ends_with_it_fails(self, damaged, aetool):
        shutil.rmtree(next(damaged.directory.glob("evaluate-*")))
        done = aetool("train", *MINE)
        assert done.code == 5
        assert damaged.status["state"] == "failed"

    def test_what_was_measured_before_is_still_shown(self, damaged, aetool):
        assert aetool("train", *MINE).code == 0
        assert aetool(*EVALUATE).code == 0

    def test_another_step_is_marked_and_not_taken_for_the_best(self, damaged, aetool):
        before, figures = damaged.metrics, sorted((damaged.directory / "figures").iterdir())
        events = sorted(damaged.directory.glob("events*"))
        done = aetool(*EVALUATE, "step=10")
        assert done.code == 0, done.err
        assert "outputs/mine: step 10; the best one is 12" in done.out
        assert damaged.metrics == before
        assert sorted(damaged.directory.glob("events*")) == events
        step = damaged.directory / "figures" / "step-00000010"
        assert sorted((damaged.directory / "figures").iterdir()) == sorted([*figures, step])
        steps = {json.loads(path.read_text())["step"] for path in damaged.directory.glob("evaluate-*/settings.json")}
        assert steps == {10, 12}
        assert aetool("encode", *HERE[::2], "step=10").code == 0

    def test_a_step_that_is_not_there(self, mine, aetool):
        done = aetool(*EVALUATE, "step=7")
        assert done.code == 2
        assert (
            "step=7: outputs/mine has no such checkpoint; step=10 measures another one (there are 10, 12)" in done.err
        )

    @pytest.mark.faults
    def test_a_checkpoint_of_another_run(self, mine, aetool):
        package.train([*TINY, "seed=1", "name=other"])
        own = mine.directory / "checkpoints/step-00000012"
        shutil.rmtree(own)
        shutil.copytree("outputs/other/checkpoints/step-00000012", own)
        done = aetool(*EVALUATE, "overwrite=true")
        assert done.code == 5
        assert "manifest.json has changed" in done.err

    def test_a_run_whose_best_step_is_unknown(self, mine):
        (mine.directory / "metrics.json").write_text("[]")
        with pytest.raises(UserError, match=r"metrics\.json is damaged; give the train command"):
            package.load(mine.directory)


class TestNumbers:
    @pytest.mark.parametrize("kind", ["probe-ridge", *more("evaluate")])
    @pytest.mark.parametrize("damage", ["changed", "another", *more("emptied")])
    def test_a_damaged_measurement_is_measured_again(self, mine, aetool, kind, damage):
        command = {"evaluate": EVALUATE, "probe-ridge": RIDGE}[kind]
        (path,) = mine.directory.glob(f"{kind}-*/metrics.json")
        before, stored = mine.metrics, content_of(path)
        if damage == "changed":
            path.write_text(path.read_text().replace("0.", "1.", 1))
        elif damage == "another":
            shutil.copy(next(mine.directory.glob("probe-linear-*/metrics.json")), path)
        else:
            path.write_text("")
        done = aetool(*command)
        assert done.code == 0, done.err
        assert "measured again" in done.err
        (warning,) = [warning for warning in mine.warnings if "measured again" in warning]
        assert path.parent.name in warning
        clock = {"images_per_second"}
        assert {key: value for key, value in content_of(path).items() if key not in clock} == {
            key: value for key, value in stored.items() if key not in clock
        }
        assert mine.metrics.keys() == before.keys()
        assert "measured again" not in aetool(*command).err

    @pytest.mark.parametrize("text", ["", *more("{}", "[" * 100_000)])
    def test_an_emptied_metrics_json_is_put_together_again(self, mine, aetool, text):
        before = mine.metrics
        (mine.directory / "metrics.json").write_text(text)
        assert "unreadable" in aetool("compare").out or text == "{}"
        done = aetool("train", *MINE)
        assert done.code == 0, done.err
        assert {**mine.metrics, "pretrain": None} == {**before, "pretrain": None}
        del before["pretrain"]["seconds"]
        assert before["pretrain"].items() <= mine.metrics["pretrain"].items()
        assert "put together again" in done.err
        assert any("put together again" in warning for warning in mine.warnings)

    @pytest.mark.parametrize(
        "text", ['{"warnings": 3}', *more("", "[]", '{"seconds": "x"}', '{"step": {}}', "[" * 100_000)]
    )
    def test_a_damaged_status_crashes_nothing(self, mine, aetool, text):
        (mine.directory / "status.json").write_text(text)
        for command in (["compare"], ["status", "--all"]):
            done = aetool(*command)
            assert done.code == 0
            assert "status.json is damaged" in " ".join(done.out.split())
        done = aetool("train", *MINE)
        assert done.code == 0, done.err
        assert mine.status["state"] == "completed"
        assert "status.json is damaged: its earlier warnings and times are lost" in mine.warnings

    @pytest.mark.faults
    def test_a_changed_fine_tune_is_judged_again(self, mine, aetool):
        assert aetool(*TUNE).code == 0
        (tuned,) = Path("outputs").glob("finetune-*")
        before = RunFolder(tuned).metrics
        (tuned / "correct.npz").write_bytes(b"")
        done = aetool(*TUNE)
        assert done.code == 0, done.err
        assert "correct.npz is damaged; measured again" in done.err
        after = RunFolder(tuned).metrics
        assert {k: v for k, v in after["finetune"].items() if k != "seconds"} == {
            k: v for k, v in before["finetune"].items() if k != "seconds"
        }

    def test_changed_codes_are_encoded_again(self, mine, aetool):
        words = ["encode", *HERE[::2]]
        assert aetool(*words).code == 0
        (path,) = mine.directory.glob("codes-*.npz")
        before = path.read_bytes()
        path.write_bytes(before[:-1] + b"x")
        done = aetool(*words)
        assert "encoded again" in done.err
        assert path.read_bytes() == before
        assert "encoded again" not in aetool(*words).err

    def test_folders_of_earlier_versions_are_read_as_they_are(self, mine, aetool):
        before = mine.metrics
        for path in [*mine.directory.glob("*.json"), *mine.directory.glob("*/*.json")]:
            path.write_text(json.dumps(content_of(path)))
        for command in (["train", *MINE], EVALUATE, RIDGE):
            done = aetool(*command)
            assert done.code == 0
            assert "already" in done.out
            assert not done.err
        assert mine.metrics == before
        assert "completed" in aetool("status", "--all").out
