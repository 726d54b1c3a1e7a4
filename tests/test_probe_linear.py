import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Features, Labels, Said, probed
from sklearn.linear_model import LogisticRegression as Reference
from torch import Tensor

import aetool.probes.lbfgs
from aetool.data.cache import default_cache_dir
from aetool.data.mnist import mnist
from aetool.errors import Interrupted, NonFiniteError
from aetool.evaluation.inference import load
from aetool.probes.base import ProbeResult, accuracy
from aetool.probes.linear import Linear, LogisticRegression
from aetool.probes.path import predict
from aetool.probes.standardisation import standardisation

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def standardised(features: Tensor, train: Tensor) -> Tensor:
    mean, scale = standardisation(train)
    return (features - mean) * scale


def linear(l2: tuple[float, ...] = GRID, tolerance: float = 1e-5) -> Callable[..., ProbeResult]:
    return functools.partial(probed, Linear(l2, "feature", tolerance, 500))


@pytest.mark.parametrize("l2", [1e-1, 1e-2])
def test_agrees_with_scikit_learn(digits: tuple[Features, Labels], l2: float) -> None:
    features, labels = digits
    train, test = (standardised(x, features.train) for x in (features.train, features.test))
    reference = Reference(C=1 / (len(train) * l2), tol=1e-7, max_iter=5000).fit(train.double(), labels.train)
    regression = LogisticRegression(train, labels.train, 10)
    _, converged = regression.fit(l2, 1e-10, 500)
    weight, bias = regression.weights()
    assert converged
    np.testing.assert_allclose(weight.numpy(), reference.coef_, atol=1e-3)
    np.testing.assert_allclose(
        (bias - bias.mean()).numpy(), reference.intercept_ - reference.intercept_.mean(), atol=1e-3
    )

    result = linear([l2], 1e-8)(features, labels, 10)
    assert result.metrics["test/accuracy"] == pytest.approx(reference.score(test, labels.test), abs=0.001)
    assert result.metrics["train/accuracy"] == pytest.approx(reference.score(train, labels.train), abs=0.001)


def test_the_tolerance_is_the_distance_from_the_minimum_in_nats(digits: tuple[Features, Labels]) -> None:
    train, labels = standardised(digits[0].train, digits[0].train).double(), digits[1].train

    def objective(l2: float, tolerance: float) -> float:
        regression = LogisticRegression(train, labels, 10)
        assert regression.fit(l2, tolerance, 2000)[1]
        weight, bias = regression.weights()
        return (F.cross_entropy(predict((weight, bias), train), labels) + l2 / 2 * weight.square().sum()).item()

    for l2 in (1e-1, 1e-3, 1e-5):
        best = objective(l2, 1e-13)
        for tolerance in (1e-3, 1e-5):
            assert tolerance / 1000 < objective(l2, tolerance) - best < 3 * tolerance


def test_a_fit_started_from_stronger_l2_ends_where_a_fresh_one_does(digits: tuple[Features, Labels]) -> None:
    train, labels = standardised(digits[0].train, digits[0].train).double(), digits[1].train
    path, fresh = LogisticRegression(train, labels, 10), LogisticRegression(train, labels, 10)
    for l2 in (1.0, 1e-1, 1e-2):
        path.fit(l2, 1e-14, 500)
    fresh.fit(1e-2, 1e-14, 500)
    torch.testing.assert_close(path.weights()[0], fresh.weights()[0], atol=1e-5, rtol=0)


def test_weights_minimise_the_objective_that_is_stated() -> None:
    """Two classes, one feature of ±1, weights ±w: the derivative -2σ(-2w) + 2·l2·w is 0 where 2·l2·w = 1 - tanh(w)."""
    features = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    regression = LogisticRegression(features, torch.tensor([0, 1]), 2)
    regression.fit(0.1, 1e-16, 100)
    weight, bias = regression.weights()
    w = weight[0].item()
    assert w == pytest.approx(-weight[1].item(), abs=1e-7)
    assert 2 * 0.1 * w == pytest.approx(1 - np.tanh(w), abs=1e-6)
    assert bias.tolist() == pytest.approx([0, 0], abs=1e-7)


def test_the_grid_is_judged_on_validation_and_the_best_is_reported(digits: tuple[Features, Labels]) -> None:
    result = linear()(*digits, 10)
    assert list(result.val_accuracy) == [f"l2={l2}, scaling=feature" for l2 in sorted(GRID, reverse=True)]
    reached = result.metrics["val/accuracy"]
    assert reached == result.val_accuracy[f"l2={result.metrics['l2']}, scaling=feature"]
    assert min(result.val_accuracy.values()) < reached - 0.1, "the grid reaches too strong a penalty"
    assert result.metrics["test/accuracy"] > 0.94
    assert result.metrics["l2_at_edge"] == 0
    assert result.metrics["unconverged"] == 0


def test_the_order_of_the_grid_does_not_matter(digits: tuple[Features, Labels]) -> None:
    assert linear(GRID)(*digits, 10).metrics == linear(GRID[::-1])(*digits, 10).metrics


def test_an_optimum_at_the_edge_of_the_grid_is_reported(digits: tuple[Features, Labels]) -> None:
    assert linear((1.0, 10.0))(*digits, 10).metrics["l2_at_edge"] == 1
    assert linear((1.0,))(*digits, 10).metrics["l2_at_edge"] == 0


def test_the_choice_never_looks_at_the_test_split(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    honest = linear()(features, labels, 10)
    poisoned = linear()(features._replace(test=features.test.flip(0)), labels._replace(test=labels.test * 0), 10)
    for key in ("l2", "val/accuracy", "train/accuracy", "iterations"):
        assert poisoned.metrics[key] == honest.metrics[key]
    assert poisoned.val_accuracy == honest.val_accuracy
    assert poisoned.metrics["test/accuracy"] < 0.2


def test_the_choice_does_look_at_validation_and_the_fit_does_not(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    honest = linear((1.0, 1e-2))(features, labels, 10)
    poisoned = linear((1.0, 1e-2))(features, labels._replace(val=labels.val.flip(0)), 10)
    assert poisoned.metrics["val/accuracy"] < 0.3
    assert poisoned.metrics["iterations"] == honest.metrics["iterations"]


def test_confusion_counts_test_images_by_true_class() -> None:
    features = torch.eye(3).repeat(20, 1)
    labels = torch.arange(3).repeat(20)
    test = torch.eye(3)[[0, 0, 0, 1]]
    result = linear((1e-3,))(Features(features, features, test), Labels(labels, labels, torch.tensor([0, 0, 1, 1])), 4)
    assert result.confusion.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result.metrics["test/accuracy"] == 0.75
    assert result.per_class_accuracy[:2].tolist() == [1, 0.5]
    assert result.per_class_accuracy[2:].isnan().all()


def test_the_scale_and_offset_of_features_do_not_matter(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    moved = Features(*(1e-4 * x + 3e-5 for x in features))
    found, expected = linear()(moved, labels, 10), linear()(features, labels, 10)
    assert found.metrics["test/accuracy"] == pytest.approx(expected.metrics["test/accuracy"], abs=0.005)


def test_constant_features_become_zero_and_change_nothing(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    constants = torch.tensor([0.0, 0.1, -1234.567])
    mean, scale = standardisation(torch.cat([features.train, constants.expand(1000, 3)], dim=1))
    assert scale[-3:].tolist() == [0, 0, 0]
    torch.testing.assert_close(mean[-3:], constants)
    padded = Features(*(torch.cat([x, constants.expand(len(x), 3)], dim=1) for x in features))
    found, expected = linear((1e-2,))(padded, labels, 10), linear((1e-2,))(features, labels, 10)
    assert found.metrics["test/accuracy"] == pytest.approx(expected.metrics["test/accuracy"], abs=0.003)


def test_standardised_features_have_mean_0_and_std_1() -> None:
    features = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0))
    features = features * torch.tensor([1e-8, 1.0, 1e8, 1.0]) + torch.tensor([1e-8, 0.0, -1e8, 100.0])
    z = standardised(features, features).double()
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(dim=0, correction=0), torch.ones(4).double(), atol=1e-4, rtol=0)


def test_nothing_but_constant_features_gives_the_largest_class() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    features = torch.full((4, 2), 0.3)
    result = linear()(Features(features, features, features), Labels(labels, labels, labels), 2)
    assert result.metrics["test/accuracy"] == 0.75
    assert result.metrics["unconverged"] == 0


def test_one_class() -> None:
    features, labels = torch.rand(6, 2), torch.zeros(6, dtype=torch.int64)
    result = linear()(Features(features, features, features), Labels(labels, labels, labels), 1)
    assert result.metrics["test/accuracy"] == 1
    assert result.metrics["unconverged"] == 0


def test_fewer_samples_than_features(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    wide = Features(*(torch.cat([x, x.square(), x.sqrt()], dim=1) for x in features))
    few = Features(wide.train[:80], wide.val, wide.test)
    result = linear()(few, labels._replace(train=labels.train[:80]), 10)
    train, test = (standardised(x, few.train) for x in (few.train, few.test))
    reference = Reference(C=1 / (80 * result.metrics["l2"]), tol=1e-7, max_iter=5000).fit(train, labels.train[:80])
    assert result.metrics["unconverged"] == 0
    assert result.metrics["test/accuracy"] == pytest.approx(reference.score(test, labels.test), abs=0.005)


def test_the_same_bits_twice(digits: tuple[Features, Labels]) -> None:
    fits = []
    for _ in range(2):
        regression = LogisticRegression(standardised(digits[0].train, digits[0].train), digits[1].train, 10)
        for l2 in (1.0, 1e-2, 1e-4):
            regression.fit(l2, 1e-6, 500)
        fits.append(regression.weights()[0])
    assert torch.equal(*fits)


def test_few_iterations_are_needed(digits: tuple[Features, Labels]) -> None:
    assert linear()(*digits, 10).metrics["iterations"] < 120  # of seven fits


def test_a_fit_cut_short_is_reported(digits: tuple[Features, Labels]) -> None:
    metrics = probed(Linear((1e-2, 1e-4), "feature", 1e-5, 3), *digits, 10).metrics
    assert metrics["unconverged"] == 2
    assert metrics["iterations"] == 6


def test_poll_may_stop_the_fit(digits: tuple[Features, Labels]) -> None:
    calls: list[int] = []

    def poll() -> None:
        calls.append(1)
        if len(calls) == 10:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        linear()(*digits, 10, poll)
    assert len(calls) == 10


def test_what_does_not_fit_together_is_refused(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    probe = linear((1e-2,))
    with pytest.raises(ValueError, match="empty"):
        linear(())
    with pytest.raises(ValueError, match=r"val: features \(0, 64\)"):
        probe(features._replace(val=features.val[:0]), labels._replace(val=labels.val[:0]), 10)
    with pytest.raises(ValueError, match=r"test: features \(497, 64\) and labels \(300,\)"):
        probe(features, labels._replace(test=labels.val), 10)
    with pytest.raises(ValueError, match="labels 0 to 9 are not all in 0 to 8"):
        probe(features, labels, 9)
    with pytest.raises(NonFiniteError, match="test: 497 feature values"):
        probe(features._replace(test=features.test.index_fill(1, torch.tensor([3]), torch.nan)), labels, 10)


class TestRoundedFeatures:
    """Where products of bfloat16 are fast, most of the way is gone on rounded features; the end is the same."""

    @pytest.fixture
    def many(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
        """5000 samples in three blocks, correlated, float32."""
        monkeypatch.setattr(aetool.probes.lbfgs, "_bfloat16_is_fast", lambda features: True)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(5000, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
        logits = x @ torch.randn(12, 4, generator=generator) + 3 * torch.randn(5000, 4, generator=generator)
        return standardised(x, x), logits.argmax(dim=1)

    def test_the_minimum_is_that_of_the_features_as_they_are(self, many: tuple[Tensor, Tensor]) -> None:
        x, y = many
        regression = LogisticRegression(x, y, 4)
        assert [part.dtype for part in regression.rounded] == [torch.bfloat16] * 3
        reference = Reference(C=1 / (5000 * 1e-3), tol=1e-8, max_iter=5000).fit(x.double(), y)
        assert regression.fit(1e-3, 1e-10, 500)[1]
        weight, bias = regression.weights()
        np.testing.assert_allclose(weight.numpy(), reference.coef_, atol=1e-3)
        np.testing.assert_allclose((bias - bias.mean()).numpy(), reference.intercept_, atol=1e-3)

    def test_most_iterations_are_on_rounded_features(
        self, many: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[torch.dtype] = []
        original = LogisticRegression._slope

        def slope(self: LogisticRegression, residual: Tensor, features: Sequence[Tensor]) -> Tensor:
            seen.append(features[0].dtype)
            return original(self, residual, features)

        monkeypatch.setattr(LogisticRegression, "_slope", slope)
        used, converged = LogisticRegression(*many, 4).fit(1e-3, 1e-5, 500)
        assert converged
        assert used == len(seen) - 2  # each of the two starts with one
        assert seen.count(torch.float32) <= 3
        assert seen[-1] == torch.float32
        assert seen == sorted(seen, key=lambda dtype: dtype == torch.float32)

    def test_the_same_bits_twice_along_a_path(self, many: tuple[Tensor, Tensor]) -> None:
        fits = []
        for _ in range(2):
            regression = LogisticRegression(*many, 4)
            for l2 in (1.0, 1e-2, 1e-4):
                assert regression.fit(l2, 1e-6, 500)[1]
            fits.append(regression.weights()[0])
        assert torch.equal(*fits)

    def test_a_fit_cut_short_is_as_long_as_allowed(self, many: tuple[Tensor, Tensor]) -> None:
        assert LogisticRegression(*many, 4).fit(1e-3, 1e-12, 3) == (3, False)


def test_small_and_precise_features_are_not_rounded(digits: tuple[Features, Labels]) -> None:
    for features in (digits[0].train, digits[0].train.double()):
        regression = LogisticRegression(features, digits[1].train, 10)
        assert regression.rounded is regression.exact


@pytest.mark.real
def test_agrees_with_scikit_learn_on_mnist_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aetool: Callable[..., Said]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model=sparse", "model.code_size=256", "dataset=mnist", "trainer.epochs=1", "baselines=false"]
    assert aetool("train", *words, "name=codes", "threads=1").code == 0
    arrays = mnist(default_cache_dir())
    run = load(tmp_path / "outputs" / "codes", device="cpu")
    train, test = (run.encode(torch.tensor(images)) for images in (arrays.train_images, arrays.test_images))
    mean, scale = standardisation(train)
    train, test = (train - mean) * scale, (test - mean) * scale
    labels, test_labels = torch.tensor(arrays.train_labels).long(), torch.tensor(arrays.test_labels).long()
    for l2 in (1e-2, 1e-3):
        regression = LogisticRegression(train, labels, 10)
        assert regression.fit(l2, 1e-8, 500)[1]
        weight, bias = regression.weights()
        reference = Reference(C=1 / (len(train) * l2), tol=1e-5, max_iter=2000).fit(train, labels)
        found = accuracy(predict((weight, bias), test), test_labels)
        assert found == pytest.approx(reference.score(test, test_labels), abs=0.001)
        assert np.linalg.norm(weight.numpy() - reference.coef_) < 0.01 * np.linalg.norm(reference.coef_)
