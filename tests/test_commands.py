"""The commands end to end, in-process, on a tiny run."""

import csv
import importlib
import json
import shlex

import numpy as np
import pytest
from conftest import TINY, content_of, editing, only_run, write_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aetool as package
from aetool.errors import NoValidCheckpointError, UserError
from aetool.storage.folder import RunFolder


def table(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def sweep_table(workplace) -> list[dict]:
    (path,) = (workplace / "outputs").glob("sweep-*/table.csv")
    return table(path)


def metrics(run) -> dict:
    return content_of(run / "metrics.json")


@pytest.mark.usefixtures("drawing")
def test_train_leaves_what_the_readme_promises(workplace, aetool):
    done = aetool("train", *TINY, "model.code_activation=relu")
    assert done.code == 0, done.err
    run = only_run(workplace)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("completed", 12)
    assert {"pretrain", "evaluate", "probe-linear"} == set(metrics(run))
    figures = {"atoms.png", "firing_frequency.png", "loss.png", "reconstructions.png", "singular_values.png"}
    assert {path.name for path in (run / "figures").iterdir()} == figures
    assert list(run.glob("probe-linear-*/confusion-code.png"))
    assert list(run.glob("evaluate-*/errors.png"))
    for said in ("explained variance", "accuracy, test", "tensorboard --logdir"):
        assert said in done.out
    assert not list(workplace.glob("*.log"))


@pytest.mark.usefixtures("drawing")
def test_tensorboard_has_scalars_pictures_and_hparams_in_the_runs_own_folder(workplace, aetool):
    aetool("train", *TINY, "penalty=l1")
    run = only_run(workplace)
    assert not [path for path in run.rglob("events*") if path.parent != run]
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()
    assert {"loss/train", "loss/val", "train/penalty/l1"} <= set(tags["scalars"])
    results = [tag for tag in tags["scalars"] if len(events.Scalars(tag)) == 1 and not tag.startswith("train/")]
    assert all(tag.startswith("loss & results/") for tag in results)  # one dot each, for the HParams tab alone
    assert {"loss & results/accuracy", "loss & results/fvu", "loss & results/l0", "loss & results/seconds"} <= set(
        results
    )
    assert {"reconstructions", "test/reconstructions", "atoms"} <= set(tags["images"])
    assert [event.step for event in events.Scalars("loss/train")] == list(range(1, 13))
    plugins = events.summary_metadata
    assert any(name.startswith("_hparams_") for name in plugins)


def test_the_same_command_again_does_nothing(workplace, aetool, monkeypatch):
    first = aetool("train", *TINY)
    stamp = {path: path.stat().st_mtime_ns for path in only_run(workplace).rglob("*")}
    monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)
    monkeypatch.setattr("aetool.evaluation.session.load_dataset", None)
    again = aetool("train", *TINY)
    assert again.code == 0, again.err
    assert "already finished" in again.out
    assert first.out.splitlines()[-1] == again.out.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in only_run(workplace).rglob("*")} == stamp


def test_overwrite_trains_anew(workplace, aetool):
    aetool("train", *TINY)
    run = only_run(workplace)
    (run / "metrics.json").write_text("{}")
    (run / "leftover").write_text("")
    assert aetool("train", *TINY, "overwrite=true").code == 0
    assert (run / "leftover").exists()
    assert "pretrain" in metrics(run)


def test_a_new_probe_retrains_nothing(workplace, aetool, monkeypatch):
    aetool("train", *TINY)
    run = only_run(workplace)
    monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)
    done = aetool("train", *[word for word in TINY if not word.startswith("probe")], "probe.l2=[0.1,1.0]")
    assert done.code == 0, done.err
    assert len(list(run.glob("probe-linear-*"))) == 2
    assert json.loads((run / "config.json").read_text())["config"]["probe"]["l2"] == [0.1, 1.0]
    headline = metrics(run)["probe-linear"]
    assert aetool("probe", f"run={run}", "probe.l2=[3.0]", "baselines=false").code == 0
    assert len(list(run.glob("probe-linear-*"))) == 3
    assert metrics(run)["probe-linear"] == headline


def test_a_name_does_not_hide_another_config(workplace, aetool):
    aetool("train", *TINY, "name=mine")
    done = aetool("train", *TINY, "name=mine", "seed=7")
    assert done.code == 2
    assert "seed: 0 → 7" in done.err


def test_a_mistake_in_measuring_leaves_the_run_as_it_was(workplace, aetool):
    aetool("train", *TINY)
    run = only_run(workplace)
    assert aetool("probe", f"run={run}", "probe.taps=[typo]").code == 2
    assert RunFolder(run).status["state"] == "completed"


def test_only_finished_runs_are_measured_and_only_on_their_own_data(workplace, aetool, monkeypatch):
    aetool("train", *TINY)
    run = only_run(workplace)
    write_images(workplace / "images.npz", seed=1)
    done = aetool("probe", f"run={run}", "probe.l2=[3.0]")
    assert done.code == 2
    assert "the dataset has changed since it was trained" in done.err
    (run / "metrics.json").unlink()
    done = aetool("evaluate", f"run={run}")
    assert done.code == 2
    assert "no metrics.json; give the train command that started it again" in done.err


def test_out_of_memory_in_a_sweep_is_exit_4(workplace, aetool, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    importlib.import_module("aetool.commands.train")  # which would keep the failing one otherwise
    monkeypatch.setattr("aetool.training.assembly.make_model", fail)
    assert aetool("train", "-m", *LINE, "model.code_size=2,3").code == 4


@pytest.mark.usefixtures("drawing")
def test_odd_names_are_drawn_and_listed_as_they_are(workplace, aetool):
    done = aetool("train", *TINY, "name=a$x_$b [bold] ü")
    assert done.code == 0, done.err
    assert "a$x_$b [bold] ü" in aetool("compare").out


def test_measuring_again_gives_the_same_numbers(workplace, aetool):
    aetool("train", *TINY)
    run = only_run(workplace)
    folders = [*run.glob("probe-*"), *run.glob("evaluate-*")]
    before = [content_of(folder / "metrics.json") for folder in folders]
    for folder in folders:
        (folder / "metrics.json").unlink()
    evaluation = [word for word in TINY if word.startswith("evaluation.")]
    assert aetool("evaluate", f"run={run}", *evaluation, "baselines=false", "threads=1").code == 0
    assert aetool("probe", f"run={run}", "probe.l2=[0.1]", "baselines=false", "threads=1").code == 0
    for folder, old in zip(folders, before, strict=True):
        new = json.loads((folder / "metrics.json").read_text())
        for name in old.keys() - {"images_per_second"}:
            assert new[name] == old[name], name


def test_references_stand_beside_the_run(workplace, aetool):
    done = aetool("train", *[word for word in TINY if not word.startswith("baselines")])
    assert done.code == 0, done.err
    found = metrics(only_run(workplace))
    assert {"pca/test/accuracy", "pixels/test/accuracy", "code/test/accuracy"} <= set(found["probe-linear"])
    assert 0 < found["evaluate"]["pca/test/fvu"] < 1
    assert "PCA-4" in done.out
    assert "pixels" in done.out


def test_probe_of_a_conv_run_reads_code_and_feature_map(workplace, aetool):
    done = aetool(
        "train",
        *[w for w in TINY if not w.startswith("model")],
        "model=conv",
        "model.channels=[2,3]",
        "model.code_size=4",
    )
    assert done.code == 0, done.err
    assert {"code/test/accuracy", "feature_map/test/accuracy"} <= set(metrics(only_run(workplace))["probe-linear"])
    done = aetool("probe", f"run={only_run(workplace)}", "probe.taps=[nowhere]")
    assert done.code == 2
    assert "this model has code, feature_map" in done.err


def test_unlabelled_images_train_without_a_probe(workplace, aetool):
    np.savez(workplace / "images.npz", images=np.random.RandomState(0).randint(0, 255, (120, 8, 8), dtype=np.uint8))
    done = aetool("train", *TINY)
    assert done.code == 0, done.err
    assert "no probe: the dataset has no labels" in done.out
    assert "already finished" in aetool("train", *TINY).out


def test_bce_shows_pixels(workplace, aetool):
    assert aetool("train", *TINY, "loss=bce").code == 0
    run = package.load(only_run(workplace))
    images = np.load(workplace / "images.npz")["test_images"][:, None]
    assert 0 <= run.reconstruct(images / 255).min() <= run.reconstruct(images / 255).max() <= 1


SWEEP = ["model.code_size=2,3", "seed=0,1"]
LINE = [word for word in TINY if not word.startswith("model.code_size")]


def test_a_sweep_is_ordinary_runs_and_one_table(workplace, aetool, monkeypatch):
    done = aetool("train", "-m", *LINE, *SWEEP)
    assert done.code == 0, done.err
    folders = {path.parent for path in (workplace / "outputs").glob("*/config.json")}
    assert len(folders) == 4
    lines = sweep_table(workplace)
    assert [(line["model.code_size"], line["seed"], line["state"]) for line in lines] == [
        (size, seed, "completed") for size in "23" for seed in "01"
    ]
    (folder,) = (workplace / "outputs").glob("sweep-*")
    assert {path.name for path in folder.iterdir()} >= {"sweep.json", "table.csv", "table.md", "report.html", "figures"}
    saved = json.loads((folder / "sweep.json").read_text())
    assert saved["command"] == shlex.join(["aetool", "train", "-m", *LINE, *SWEEP])
    assert saved["axes"] == {"model.code_size": ["2", "3"], "seed": ["0", "1"]}
    assert [run["state"] for run in saved["runs"]] == ["completed"] * 4
    alone = aetool("train", *LINE, "model.code_size=3", "seed=1")
    assert "already finished" in alone.out

    monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)
    again = aetool("train", "-m", *LINE, "seed=1,0", "model.code_size=3,2")
    assert again.code == 0
    assert again.out.count("already finished") == 4
    assert len(list((workplace / "outputs").glob("sweep-*"))) == 1


def test_a_failing_point_does_not_stop_the_others(workplace, aetool):
    done = aetool("train", "-m", *LINE, "model.code_size=2", "optimizer=sgd", "optimizer.lr=1e9,1e-3")
    assert done.code == 3
    assert "not finite at step" in done.out
    assert [line["state"] for line in sweep_table(workplace)] == ["failed", "completed"]


def test_a_bug_in_a_point_shows_its_traceback_and_exits_1(workplace, aetool, monkeypatch):
    monkeypatch.setattr("aetool.training.assembly.make_model", lambda *a, **k: 1 / 0)
    done = aetool("train", "-m", *LINE, "model.code_size=2,3")
    assert done.code == 1
    assert done.out.count("\nZeroDivisionError") == 2
    assert done.out.count("Traceback") == 2


def test_an_interrupted_sweep_says_what_was_not_started(workplace, aetool, monkeypatch):
    from aetool.errors import Interrupted
    from aetool.training.trainer import Trainer

    def stop(self: Trainer) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(Trainer, "after_step", stop)
    done = aetool("train", "-m", *LINE, "model.code_size=2,3")
    assert done.code == 143
    assert [line["state"] for line in sweep_table(workplace)] == ["interrupted", "not started"]


def test_compare_lists_runs_by_what_differs(workplace, aetool):
    aetool("train", "-m", *LINE, *SWEEP)
    broken = workplace / "outputs" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    (workplace / "outputs" / "foreign").mkdir()
    done = aetool("compare", "--csv", "all.csv", "--sort", "test acc")
    assert done.code == 0, done.err
    assert "unreadable" in done.out
    assert "foreign: no config.json" in done.out
    lines = table(workplace / "all.csv")
    assert len(lines) == 6
    accuracies = [float(line["probe-linear/code/test/accuracy"]) for line in lines[:4]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert aetool("compare", "--sort", "nothing").code == 2


def test_data_commands(workplace, aetool):
    assert "digits" in aetool("data", "list").out
    assert "intact" in aetool("data", "check", "digits").out
    done = aetool("data", "fetch", "digits")
    assert done.code == 0, done.err
    assert "train" in done.out
    assert aetool("data", "check", "mnist").code == 2


class TestFromPython:
    @pytest.fixture
    def run(self, workplace, aetool):
        aetool("train", *TINY)
        return package.load(only_run(workplace))

    def test_encode_and_reconstruct(self, run, workplace):
        import torch

        images = np.load(workplace / "images.npz")["test_images"][:, None]
        codes, reconstructions = run.encode(images), run.reconstruct(images)
        assert codes.shape == (20, 4)
        assert codes.dtype == np.float32
        assert reconstructions.shape == images.shape
        assert reconstructions.dtype == np.uint8
        tensors = torch.from_numpy(images)
        assert isinstance(run.encode(tensors), torch.Tensor)
        np.testing.assert_allclose(run.encode(tensors).numpy(), codes)
        np.testing.assert_allclose(run.encode(images / 255), codes, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run.reconstruct(images / 255), reconstructions / 255, atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(run.encode(images[0]), codes[0], rtol=1e-4, atol=1e-6)
        error = ((run.reconstruct(images / 255) - images / 255) ** 2).mean()
        assert error == pytest.approx(run.metrics["evaluate"]["test/mse"], rel=1e-4)

    def test_wrong_images_are_named(self, run):
        with pytest.raises(ValueError, match=r"this run takes \(N, 1, 8, 8\)"):
            run.encode(np.zeros((2, 1, 9, 9), np.uint8))
        with pytest.raises(TypeError, match="uint8"):
            run.encode(np.zeros((2, 1, 8, 8), np.int64))

    def test_the_table_of_runs(self, run):
        (row,) = package.runs("outputs")
        assert row["model.code_size"] == 4
        assert row["probe-linear/code/test/accuracy"] == run.metrics["probe-linear"]["code/test/accuracy"]

    def test_a_config_from_elsewhere_runs_no_foreign_code(self, run, workplace, aetool):
        with editing(run.directory / "config.json") as saved:
            saved["config"]["model"]["_target_"] = "logging.os.system"
        with pytest.raises(UserError, match=r"model\._target_=logging.os.system: refused"):
            package.load(run.directory)
        done = aetool("probe", f"run={run.directory}")
        assert done.code == 2
        assert "refused" in done.err

    def test_another_checkpoint_takes_the_place_of_a_damaged_best_one_only_where_asked_for(self, run):
        best = run.metrics["pretrain"]["best_step"]
        path = run.directory / "checkpoints" / f"step-{best:08d}" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            NoValidCheckpointError, match=r"step 12, is damaged .*model\.safetensors.*; step=10 measures"
        ):
            package.load(run.directory)
        assert "10," in repr(package.load(run.directory, step=10)._trained.checkpoint.manifest)
        assert any("step-00000012" in warning for warning in RunFolder(run.directory).status["warnings"])
