"""Probing: label budgets, references, and what the choice may see."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TINY, content_of, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aetool.data.budget import labelled
from aetool.data.dataset import Dataset, Split
from aetool.evaluation.baselines import Baselines
from aetool.evaluation.classify import Budget, classify
from aetool.evaluation.correctness import read_correct
from aetool.evaluation.diagnosis import below_baselines
from aetool.evaluation.features import PLAIN
from aetool.measures.statistics import accuracy_error, paired_accuracy_interval
from aetool.probes.base import Fitted, Labelled, Probe, calibration_error, judge
from aetool.probes.linear import Linear
from aetool.randomness import generator

LABELS = torch.arange(60) % 3
POINTS = torch.eye(3)[LABELS] + torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
PIXELS = torch.zeros(60, 1, 2, 2, dtype=torch.uint8)
DATASET = Dataset(*[Split(PIXELS, LABELS)] * 3, 3, ["a", "b", "c"], "")
ALL = Budget(None, None, 5)


def linear() -> Linear:
    return Linear([1e-2, 1e-1], "auto", 1e-6, 100)


def points() -> list[torch.Tensor]:
    return [POINTS.clone(), POINTS + 0.1, POINTS - 0.1]


class TestBudget:
    def test_all_labels_is_one_fit(self):
        found = classify(linear(), points(), DATASET, ALL)
        train, val, test = (Labelled(x, LABELS) for x in points())
        expected = judge(linear()(train, val, 3, lambda: None), test, 3)
        error = accuracy_error(expected.metrics["val/accuracy"], 60)
        assert found.metrics == expected.metrics | {"val/accuracy_se": error}
        assert found.correct.tolist() == expected.correct.tolist()
        assert found.confusion.tolist() == expected.confusion.tolist()

    def test_draws_are_averaged_and_their_spread_is_told(self):
        found = classify(linear(), points(), DATASET, Budget(2, None, 3))
        accuracies, errors = [], []
        for draw in range(3):
            noise = generator(0, "labels", draw)
            train, val = labelled(LABELS, 2, None, noise), labelled(LABELS, 2, None, noise)
            few = [Labelled(x[i], LABELS[i]) for x, i in zip(points(), (train, val), strict=False)]
            result = judge(linear()(few[0], few[1], 3, lambda: None), Labelled(points()[2], LABELS), 3)
            accuracies.append(result.metrics["test/accuracy"])
            errors.append(accuracy_error(result.metrics["val/accuracy"], 6))
        assert found.metrics["test/accuracy"] == pytest.approx(statistics.fmean(accuracies))
        assert found.metrics["test/accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
        assert found.metrics["val/accuracy_se"] == pytest.approx(math.hypot(*errors) / 3, rel=0.1)  # of the mean
        assert found.confusion.sum() == 3 * 60
        assert found.correct.shape == (3, 60)
        assert found.correct.float().mean(dim=1).tolist() == pytest.approx(accuracies)

    def test_the_choice_sees_as_few_labels_as_the_fit(self):
        seen = []

        def probe(train: Labelled, val: Labelled, num_classes: int, poll: object) -> Fitted:
            seen.append((len(train.labels), len(val.labels)))
            return Fitted(lambda x: x, False, {"val/accuracy": 1.0}, {})

        classify(probe, points(), DATASET, Budget(None, 0.1, 2))
        assert seen == [(6, 6), (6, 6)]


class TestJudge:
    def test_calibration_error_by_hand(self):
        """Two bins: confidence 0.6 right 1 of 2 times, confidence 0.95 right always."""
        probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.95, 0.05], [0.05, 0.95]])
        labels = torch.tensor([0, 1, 0, 1])
        assert calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.05, abs=1e-6)

    def test_calibration_error_agrees_with_torchmetrics(self):
        from torchmetrics.functional.classification import multiclass_calibration_error

        probabilities = torch.rand(500, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
        labels = torch.arange(500) % 4
        expected = multiclass_calibration_error(probabilities, labels, 4, n_bins=15)
        assert calibration_error(probabilities, labels) == pytest.approx(expected.item(), abs=1e-5)

    def test_top_5_counts_the_five_best(self):
        scores = torch.arange(8.0).repeat(4, 1)
        fitted = Fitted(lambda features: scores, False, {}, {})
        metrics = judge(fitted, Labelled(torch.zeros(4, 1), torch.tensor([7, 3, 2, 0])), 8).metrics
        assert (metrics["test/accuracy"], metrics["test/top5_accuracy"]) == (0.25, 0.5)

    def test_which_images_are_correct_and_within_which_bounds_the_accuracy_lies(self):
        fitted = Fitted(lambda features: features, False, {}, {})
        result = judge(fitted, Labelled(torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 1, 0])), 3)
        assert result.correct.tolist() == [True, True, False, True]
        bounds = result.metrics["test/accuracy_low"], result.metrics["test/accuracy_high"]
        assert bounds == pytest.approx(scipy.stats.binomtest(3, 4).proportion_ci(method="wilson"))


def test_the_pixels_that_a_probe_sees_lie_between_0_and_1(tmp_path):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(60, 1).reshape(60, 1, 1, 3)
    dataset = DATASET._replace(**{name: Split(images, LABELS) for name in ("train", "val", "test")})
    seen = []

    class Spy(Probe):
        def __call__(self, train: Labelled, val: Labelled, num_classes: int, poll: object) -> Fitted:
            seen.append((train.features[0], val.features[0]))
            return Fitted(lambda x: x, False, {"val/accuracy": 1.0}, {})

    Baselines(dataset, tmp_path).probe(Spy(), {}, PLAIN, ALL, 1)
    torch.testing.assert_close(seen[-1], (torch.tensor([0, 0.2, 1]),) * 2)


def trained(aetool, folder: Path, *words: str) -> dict[str, dict[str, float]]:
    assert aetool("train", *TINY, *words).code == 0
    return json.loads((only_run(folder) / "metrics.json").read_text())


class TestCommand:
    def test_references_stand_beside_every_tap(self, aetool, workplace):
        words = ["baselines=true", "model=conv", "model.channels=[3]", "model.code_size=4", "probe.l2=[0.1,1.0]"]
        words = [word for word in TINY if not word.startswith(("model", "baselines", "probe"))] + words
        assert aetool("train", *words).code == 0
        found = json.loads((only_run(workplace) / "metrics.json").read_text())
        probe, evaluation = found["probe-linear"], found["evaluate"]
        for name in ("code", "feature_map", "pca", "pixels", "untrained/code", "untrained/feature_map"):
            assert 0 < probe[f"{name}/test/accuracy"] <= 1
            assert 0 <= probe[f"{name}/test/calibration_error"] <= 1
        assert probe["mean/test/accuracy"] == 0.25
        (path,) = only_run(workplace).glob("probe-linear-*/correct.npz")
        correct = read_correct(path)
        for tap in ("code", "feature_map"):
            for name in ("pca", "pixels", "untrained"):
                other = f"untrained/{tap}" if name == "untrained" else name
                gain = [probe[f"{tap}/gain_over_{name}{end}"] for end in ("", "_low", "_high")]
                assert gain[0] == probe[f"{tap}/test/accuracy"] - probe[f"{other}/test/accuracy"]
                expected = paired_accuracy_interval(correct[tap], correct[other])
                assert gain == pytest.approx(expected[:3])
        for name, array in correct.items():
            assert array.mean() == pytest.approx(probe[f"{name}/test/accuracy"]), name
        assert probe["untrained/code/test/calibration_error"] != probe["code/test/calibration_error"]
        assert evaluation["mean/test/explained_variance"] == pytest.approx(0, abs=0.05)
        assert evaluation["mean/test/mse"] > evaluation["pca/test/mse"]
        each = [probe[f"code/test/class_accuracy/{name}"] for name in range(4)]
        assert statistics.fmean(each) == pytest.approx(probe["code/test/accuracy"])

    def test_a_code_that_is_worth_less_than_a_reference_is_warned_about(self, aetool, workplace):
        words = [word for word in TINY if not word.startswith("baselines")]
        done = aetool("train", *words, "trainer.epochs=1", "optimizer.lr=1e-9", "model.code_size=1")
        probe = json.loads((only_run(workplace) / "metrics.json").read_text())["probe-linear"]
        assert probe["code/val/accuracy"] < probe["pixels/val/accuracy"]
        code, pixels = (f"{probe[f'{name}/val/accuracy']:.4f}" for name in ("code", "pixels"))
        (warning,) = [line for line in done.out.splitlines() if "is below baseline" in line]
        assert warning.startswith(f"warning: validation accuracy of the code ({code}) is below baseline ")
        assert f"pixels ({pixels})" in warning

        few = ["probe.labels_per_class=1", "baselines=true"]
        assert aetool("probe", f"run={only_run(workplace)}", *few).code == 0
        probe = json.loads((only_run(workplace) / "metrics.json").read_text())["probe-linear-1-labels-per-class"]
        assert probe["code/val/accuracy"] < probe["pixels/val/accuracy"]
        again = aetool("train", *words, "trainer.epochs=1", "optimizer.lr=1e-9", "model.code_size=1")
        assert [line for line in again.out.splitlines() if "is below baseline" in line] == [warning]

    def test_another_tap_that_is_worth_less_is_warned_about_too(self):
        found = {"relu_code/val/accuracy": 0.8, "untrained/relu_code/val/accuracy": 0.9, "pca/val/accuracy": 0.7}
        assert below_baselines(found) == [
            "validation accuracy of the relu_code (0.8000) is below baseline untrained (0.9000)"
        ]

    def test_without_its_name_the_probe_is_that_of_the_run(self, aetool, workplace):
        assert aetool("train", *TINY, "probe=ridge", "probe.l2=[0.3]").code == 0
        run = only_run(workplace)
        stages = sorted(run.glob("probe-*"))
        again = aetool("probe", f"run={run}", "baselines=false")
        assert "already measured" in again.out
        assert sorted(run.glob("probe-*")) == stages
        assert "probe linear, frozen features" in aetool("probe", f"run={run}", "baselines=false", "probe=linear").out

    def test_a_budget_is_a_stage_of_its_own(self, aetool, workplace):
        trained(aetool, workplace)
        run = only_run(workplace)
        budget = ["probe.labels_per_class=1", "probe.label_draws=3", "probe.l2=[0.1]"]
        done = aetool("probe", f"run={run}", "baselines=false", *budget)
        assert "probe linear 1 labels per class" in done.out
        assert "spread" in done.out
        assert "mean over label draws" in done.out
        assert "L2 chosen" in done.out
        assert "common scale chosen" in done.out
        found = json.loads((run / "metrics.json").read_text())
        assert found["probe-linear-1-labels-per-class"]["code/test/accuracy_std"] >= 0
        assert found["probe-linear"]["code/test/accuracy"] >= 0.5
        assert "linear @1" in aetool("compare").out

    def test_features_are_encoded_once_for_a_grid_of_probes(self, aetool, workplace, monkeypatch):
        trained(aetool, workplace)
        run = only_run(workplace)
        from aetool.evaluation import features

        monkeypatch.setattr(features, "pooled", None)  # a call would raise
        done = aetool("probe", "-m", f"run={run}", "baselines=false", "probe=linear,ridge", "threads=1")
        assert done.code == 0, done.err
        table = [line.split()[:2] for line in done.out.splitlines()[-4:]]
        assert ["probe=linear", "code"] in table  # all in one table at the end
        assert ["probe=ridge", "code"] in table
        assert {"probe-linear", "probe-ridge"} <= json.loads((run / "metrics.json").read_text()).keys()

    def test_a_run_of_an_older_version_lacks_keys_of_measuring_alone(self, aetool, workplace):
        trained(aetool, workplace)
        path = only_run(workplace) / "config.json"
        saved = content_of(path)
        for group, key in (("probe", "views"), ("evaluation", "neighbors"), ("trainer", "keep_checkpoints")):
            del saved["config"][group][key]
        del saved["config"]["probe"]["scaling"]
        del saved["config"]["supervised"]
        saved["config"]["optimizer"]["fused"] = True  # was an argument in the YAML
        path.write_text(json.dumps(saved))
        done = aetool("probe", f"run={path.parent}", "baselines=false", "probe=ridge")
        assert done.code == 0, done.err
        del saved["config"]["trainer"]["epochs"]
        path.write_text(json.dumps(saved))
        done = aetool("probe", f"run={path.parent}", "baselines=false", "probe=ridge")
        assert done.code == 2
        assert "trainer.epochs: missing" in done.err

    @pytest.mark.usefixtures("drawing")
    def test_every_kept_checkpoint_is_probed(self, aetool, workplace):
        trained(aetool, workplace, "trainer.keep_checkpoints=null")
        run = only_run(workplace)
        kept = len(list((run / "checkpoints").iterdir()))
        assert kept > 4
        done = aetool("probe", f"run={run}", "baselines=false", "checkpoints=all", "probe.l2=[0.1]")
        assert "probe-linear-epochs.png" in done.out
        assert "epoch 0.5 " in done.out
        assert (run / "figures" / "probe-linear-epochs.png").exists()
        assert len(list(run.glob("probe-linear-*/metrics.json"))) == kept

    def test_the_supervised_ceiling_is_trained_once_for_every_lambda(self, aetool, workplace):
        words = [*TINY, "supervised=true", "penalty=l1", "penalty.weight=1e-3,1e-2"]
        assert aetool("train", "-m", *words).code == 0
        (ceiling,) = Path("outputs").glob("scratch-dense-*")
        expected = json.loads((ceiling / "metrics.json").read_text())["finetune"]["test/accuracy"]
        for run in Path("outputs").glob("dense-*"):
            assert json.loads((run / "metrics.json").read_text())["supervised"]["test/accuracy"] == expected
        done = aetool("train", *words[:-1], "penalty.weight=1e-2")
        (heads,) = [line.split() for line in done.out.splitlines() if line.split()[-1:] == ["supervised"]]
        (accuracy,) = [line.split() for line in done.out.splitlines() if "probe accuracy, test" in line]
        assert heads[-1] == "supervised"
        assert accuracy[-1] == f"{expected:.4f}"
        done = aetool("train", "dataset=digits", "model=pca", "supervised=true")
        assert done.code == 2
        assert "supervised=true: model=pca is fitted in closed form" in done.err

    def test_there_is_no_supervised_ceiling_without_labels(self, aetool, workplace):
        images = {name: array for name, array in np.load("images.npz").items() if "labels" not in name}
        np.savez("images.npz", **images)
        done = aetool("train", *TINY, "supervised=true")
        assert done.code == 2
        assert "supervised=true: the dataset has no labels" in done.err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["probe.labels_per_class=0"], "probe.labels_per_class=0: expected an integer ≥ 1"),
            (["probe.label_fraction=1.5"], "probe.label_fraction=1.5: expected a finite number > 0 and ≤ 1"),
            (
                ["probe.label_fraction=0.5", "probe.labels_per_class=3"],
                "probe.labels_per_class=3 and probe.label_fraction=0.5: mutually exclusive",
            ),
        ],
    )
    def test_wrong_budgets(self, aetool, workplace, words, said):
        done = aetool("train", *TINY, *words)
        assert done.code == 2
        assert said in done.err
        assert not (workplace / "outputs").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["probe.taps=[cod]"], "probe.taps=[cod]: this model has code, and the layers encoder"),
            (["probe.l2=[]"], "probe.l2=[]: expected a non-empty list"),
            (["probe.views=2"], "probe.views=2: dataset.augmentation changes nothing"),
            (
                ["dataset.image_shape=[1,8,8]", "dataset.augmentation.shift=8"],
                "dataset.augmentation.shift=8: at most 7",
            ),
        ],
    )
    def test_what_cannot_be_probed_is_refused_before_the_training(self, aetool, workplace, words, said):
        done = aetool("train", *TINY, *words)
        assert done.code == 2
        assert said in done.err
        assert not list((workplace / "outputs").glob("dense-*"))

    def test_a_tap_of_the_name_of_a_reference_is_refused(self, aetool, workplace):
        words = [word for word in TINY if not word.startswith("model")]
        done = aetool("train", *words, "model=vae", "model.widths=[4]", "model.code_size=2", "probe.taps=[mean]")
        assert done.code == 2
        assert "probe.taps=[mean]: this name is reserved for a baseline" in done.err

    def test_views_of_another_augmentation_are_measured_anew(self, aetool, workplace):
        measured = [
            trained(aetool, workplace, "probe.views=1", f"dataset.augmentation.shift={shift}") for shift in (1, 2)
        ]
        first, second = (found["probe-linear"] for found in measured)
        assert len(list(only_run(workplace).glob("probe-linear-*/metrics.json"))) == 2
        assert first["code/test/calibration_error"] != second["code/test/calibration_error"]

    def test_a_network_with_nothing_to_train_has_no_untrained_one(self, aetool, workplace):
        words = [word for word in TINY if not word.startswith(("model", "baselines"))]
        done = aetool("train", *words, "model=pixels", "baselines=true")
        found = json.loads((only_run(workplace) / "metrics.json").read_text())["probe-linear"]
        assert "untrained/code/test/accuracy" not in found
        assert found["code/test/accuracy"] == found["pixels/test/accuracy"]
        (heads,) = [line.split() for line in done.out.splitlines() if "PCA-64" in line and "minus" not in line]
        assert heads == ["code", "PCA-64", "pixels", "mean"]

    def test_tensorboard_goes_on_showing_what_the_run_itself_is_measured_by(self, aetool, workplace):
        headline = trained(aetool, workplace)["probe-linear"]["code/test/accuracy"]
        run = only_run(workplace)
        for probe in (["probe.l2=[1.0]"], ["probe=ridge", "probe.l2=[1.0]"]):
            assert aetool("probe", f"run={run}", "baselines=false", *probe).code == 0
        events = EventAccumulator(str(run)).Reload()
        assert [event.value for event in events.Scalars("loss & results/accuracy")] == [pytest.approx(headline)]

    def test_views_of_a_dataset_without_augmentation(self, aetool, workplace):
        trained(aetool, workplace)
        done = aetool("probe", f"run={only_run(workplace)}", "probe.views=2", "baselines=false")
        assert done.code == 2
        assert "probe.views=2: dataset.augmentation changes nothing" in done.err


def test_poisoned_test_images_and_labels_change_no_choice(aetool, workplace, monkeypatch):
    """Two sweeps on data that differ in the test split alone: every number that is not of test is the same."""
    sweep = [*TINY, "penalty=l1", "penalty.weight=1e-3,1e-1", "baselines=true", "probe.l2=[1e-2,1.0]"]
    sweep.remove("baselines=false")
    sweep.remove("probe.l2=[0.1]")
    assert aetool("train", "-m", *sweep, "output=honest").code == 0
    arrays = dict(np.load("images.npz"))
    random = np.random.RandomState(1)
    arrays["test_images"] = random.randint(0, 256, arrays["test_images"].shape).astype(np.uint8)
    arrays["test_labels"] = random.permutation(arrays["test_labels"])
    np.savez("images.npz", **arrays)
    assert aetool("train", "-m", *sweep, "output=poisoned").code == 0

    differing = set()
    for path in sorted(Path("honest").glob("dense-*")):
        other = Path("poisoned") / path.name
        first, second = (content_of(run / "metrics.json") for run in (path, other))
        for stage in first:
            for key, value in first[stage].items():
                if value != second[stage][key] and key not in ("seconds", "images_per_second"):
                    differing.add(f"{stage}/{key}")
        weights = [sorted(run.glob("checkpoints/*/model.safetensors"))[-1].read_bytes() for run in (path, other)]
        assert weights[0] == weights[1]
    assert differing, "the poison is seen where test is read"
    of_test = ("test", "gain_over", "compression/quantized_psnr", "compression/psnr_lost")
    assert not [key for key in differing if not any(part in key for part in of_test)]
