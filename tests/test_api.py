"""The package from Python: every command as a function, and what a notebook shows."""

import inspect
from importlib.metadata import version

import numpy as np
import pytest
import torch
from conftest import TINY

import aetool
from aetool.errors import UserError

PUBLIC = {"compare", "evaluate", "finetune", "load", "probe", "reproduce", "runs", "train", "verify"}
EVALUATION = [word for word in TINY if word.startswith("evaluation.")] + ["baselines=false", "threads=1"]
PROBE = ["probe=ridge", "probe.l2=[0.1]", "baselines=false", "threads=1"]
FINETUNE = ["trainer.epochs=2", "trainer.batch_size=16", "threads=1", "min_steps=1"]


@pytest.fixture
def run(workplace):
    return aetool.train([*TINY, "name=mine"])


def test_the_package_shows_its_functions_and_no_more():
    assert set(dir(aetool)) == PUBLIC | {"__version__"}
    assert aetool.__version__ == version("aetool")
    for name in PUBLIC:
        function = getattr(aetool, name)
        assert function.__name__ == name
        assert inspect.getdoc(function), name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = aetool.trian


def test_train_returns_a_finished_run_and_finds_it_again(run, monkeypatch):
    assert str(run.directory) == "outputs/mine"
    assert run.status["state"] == "completed"
    assert run.config.model.arguments["code_size"] == 4
    assert {"pretrain", "evaluate", "probe-linear"} == set(run.metrics)
    monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)
    assert aetool.train([*TINY, "name=mine"]).metrics == run.metrics


def test_evaluate_and_probe_take_a_run_or_its_folder(run):
    found = aetool.evaluate(run, EVALUATION)
    assert found == run.metrics["evaluate"]
    assert aetool.evaluate("outputs/mine", EVALUATION) == found
    probed = aetool.probe(run.directory, PROBE)
    assert probed == run.metrics["probe-ridge"]
    assert 0 <= probed["code/test/accuracy"] <= 1


def test_finetune_returns_its_metrics_beside_the_control(run):
    result = aetool.finetune([f"run={run.directory}", *FINETUNE, "control=true"])
    assert list(result.metrics) == ["fine-tuned", "from scratch", "frozen, linear probe"]
    tuned, scratch = result.runs
    assert tuned.metrics["finetune"] == result.metrics["fine-tuned"]
    accuracies = [one.metrics["finetune"]["test/accuracy"] for one in (tuned, scratch)]
    assert result.gap.mean == pytest.approx(accuracies[0] - accuracies[1])
    assert tuned.config.parent.id == run.id
    assert result.pretrained is None


def test_compare_and_runs_see_every_run(run):
    aetool.train([*TINY, "seed=1"])
    comparison = aetool.compare(where=["model.name=dense"])
    (group,) = comparison.groups
    assert len(group.rows) == 2
    rows = aetool.runs()
    assert {row["seed"] for row in rows} == {0, 1}
    (mine,) = aetool.runs("outputs/mine")
    assert mine["evaluate/test/mse"] == run.metrics["evaluate"]["test/mse"]


def test_load_encodes_new_images(run, workplace):
    images = np.load(workplace / "images.npz")["test_images"][:, None]
    assert aetool.load(run.directory).encode(images).shape == (20, 4)


def test_images_that_a_run_cannot_take_are_refused(run, workplace):
    images = np.load(workplace / "images.npz")["test_images"][:, None]
    taken = aetool.load(run.directory)
    images.flags.writeable = False  # no reason for a warning
    assert np.array_equal(taken.encode(images), taken.encode(images[::-1])[::-1])
    floats = torch.tensor(images.copy()) / images.max()
    for wrong, error, message in (
        (floats * 2, ValueError, r"images from 0 to 2: floats must be in \[0, 1\]; divide by 255"),
        ((floats - 0.5).numpy(), ValueError, r"images from -0.5 to 0.5: floats must be"),
        (floats.clone().fill_(torch.nan), ValueError, r"images from nan to nan: floats must be"),
        (images.astype(np.int64), TypeError, "images of int64: expected uint8"),
        (images > 9, TypeError, "images of bool: expected uint8"),
        (images.astype(object), TypeError, "images of object: expected uint8"),
        (images.tolist(), TypeError, "images are a list: expected a numpy array or a tensor"),
        (images[:, 0], ValueError, r"images of shape \(20, 8, 8\): this run takes \(N, 1, 8, 8\) or \(1, 8, 8\)"),
        (images[..., :7], ValueError, r"images of shape \(20, 1, 8, 7\)"),
    ):
        for function in (taken.encode, taken.reconstruct, taken.anomaly_scores):
            with pytest.raises(error, match=message):
                function(wrong)


def test_what_is_wrong_raises_before_any_work(workplace):
    with pytest.raises(UserError, match=r"model\.code_sise: unknown key; did you mean model\.code_size\?"):
        aetool.train([*TINY, "model.code_sise=3"])
    with pytest.raises(UserError, match="several values"):
        aetool.train([*TINY, "seed=0,1"])
    for function in (aetool.evaluate, aetool.probe, aetool.load):
        with pytest.raises(UserError, match="run=nowhere: not a run folder"):
            function("nowhere")
    assert not (workplace / "outputs").exists()


def test_each_result_says_what_it_is(run):
    assert repr(run) == "<Run outputs/mine: completed>"
    assert repr(aetool.load(run.directory)) == "<Dense of outputs/mine: 1,172 parameters>"
    assert repr(aetool.compare()) == "<Comparison: Runs of outputs; 1 runs in 1 groups>"


def test_a_notebook_shows_tables(run):
    probed = aetool.probe(run, PROBE)
    tuned = aetool.finetune([f"run={run.directory}", *FINETUNE])
    for result, named in (
        (run, "evaluate/test/mse"),
        (probed, "code/test/accuracy"),
        (tuned, "fine-tuned"),
        (aetool.compare(), "penalty.weight"),
    ):
        table = result._repr_html_()
        assert table.count("<table") == table.count("</table>") >= 1
        assert named in table
    assert f"{probed['code/test/accuracy']:.6g}" in probed._repr_html_()
