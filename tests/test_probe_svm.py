import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from sklearn.svm import LinearSVC
from torch import Tensor

from aetool.errors import Interrupted
from aetool.probes.standardisation import standardisation
from aetool.probes.svm import SVM, SquaredHinge

GRID = (1e-5, 1e-3, 1e-2, 1.0)


def nothing() -> None:
    """A poll that never stops."""


@pytest.fixture(scope="module")
def train(digits: tuple[Features, Labels]) -> Tensor:
    mean, scale = standardisation(digits[0].train)
    return (digits[0].train - mean) * scale


@pytest.mark.parametrize("c", [1e-4, 1e-2])
def test_agrees_with_liblinear(digits: tuple[Features, Labels], train: Tensor, c: float) -> None:
    """intercept_scaling 100 leaves LIBLINEAR's penalty on the bias at b²/20000."""
    features, labels = digits
    reference = LinearSVC(C=c, loss="squared_hinge", dual=False, tol=1e-7, max_iter=5000, intercept_scaling=100)
    reference.fit(train.double(), labels.train)
    machine = SquaredHinge(train, labels.train, 10)
    _, converged = machine.fit(1 / (c * 1000), 1e-10, 1000, nothing)
    weight, bias = machine.weights()
    assert converged
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-3)
    np.testing.assert_allclose(bias, reference.intercept_, atol=3e-3)
    np.testing.assert_allclose(machine.outputs.T, reference.decision_function(train.double()), atol=3e-3)

    result = probed(SVM([c], "feature", 1e-8, 1000), features, labels, 10)
    mean, scale = standardisation(features.train)
    test = (features.test - mean) * scale
    assert result.metrics["test/accuracy"] == pytest.approx(reference.score(test.double(), labels.test), abs=0.003)


def test_weights_minimise_the_objective_that_is_stated() -> None:
    """One feature of ±1, weights ±w: the derivative -2(1 - w) + l2·w is 0 at w = 1 / (1 + l2/2)."""
    features = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    machine = SquaredHinge(features, torch.tensor([0, 1]), 2)
    machine.fit(0.5, 1e-16, 100, nothing)
    weight, bias = machine.weights()
    assert weight.flatten().tolist() == pytest.approx([0.8, -0.8], abs=1e-7)
    assert bias.tolist() == pytest.approx([0, 0], abs=1e-7)


def test_the_tolerance_is_about_the_distance_from_the_minimum(digits: tuple[Features, Labels], train: Tensor) -> None:
    def objectives(l2: float, tolerance: float) -> Tensor:
        machine = SquaredHinge(train.double(), digits[1].train, 10)
        assert machine.fit(l2, tolerance, 5000, nothing)[1]
        loss = (1 - machine.signs * machine.outputs).clamp(min=0).square().mean(dim=1)
        return loss + l2 / 2 * machine.weights()[0].square().sum(dim=1)

    for l2 in (1.0, 2e-2, 2e-3):
        best = objectives(l2, 1e-14)
        for tolerance in (1e-3, 1e-5):
            gap = (objectives(l2, tolerance) - best).max().item()
            assert tolerance / 1000 < gap < 5 * tolerance


def test_a_fit_started_from_a_smaller_c_ends_where_a_fresh_one_does(digits, train: Tensor) -> None:
    path = SquaredHinge(train.double(), digits[1].train, 10)
    fresh = SquaredHinge(train.double(), digits[1].train, 10)
    for l2 in (2.0, 2e-1, 2e-2):
        path.fit(l2, 1e-14, 1000, nothing)
    fresh.fit(2e-2, 1e-14, 1000, nothing)
    torch.testing.assert_close(path.weights()[0], fresh.weights()[0], atol=1e-5, rtol=0)


def test_the_grid_is_judged_on_validation_and_the_best_is_reported(digits: tuple[Features, Labels]) -> None:
    result = probed(SVM(GRID, "feature", 1e-5, 500), *digits, 10)
    assert list(result.val_accuracy) == [f"c={c}, scaling=feature" for c in sorted(GRID)]
    reached = result.metrics["val/accuracy"]
    assert reached == result.val_accuracy[f"c={result.metrics['c']}, scaling=feature"]
    assert result.val_accuracy["c=1e-05, scaling=feature"] < reached - 0.05, "the grid reaches too strong a penalty"
    assert result.metrics["c_at_edge"] == 0
    assert result.metrics["unconverged"] == 0
    assert result.metrics["test/accuracy"] > 0.94
    assert "test/calibration_error" not in result.metrics, "scores are no probabilities"
    assert result.metrics == probed(SVM(GRID[::-1], "feature", 1e-5, 500), *digits, 10).metrics


def test_validation_labels_decide_the_choice() -> None:
    """A large C follows the one informative feature, a small one the larger class."""
    features = torch.tensor([[1.0]] * 2 + [[-1.0]] * 4)
    labels = torch.tensor([0] * 2 + [1] * 4)
    splits = Features(features, features, features)
    assert probed(SVM((1e-4, 1.0), "feature", 1e-6, 500), splits, Labels(labels, labels, labels), 2).metrics["c"] == 1
    ones = torch.ones(6, dtype=torch.int64)
    result = probed(SVM((1e-4, 1.0), "feature", 1e-6, 500), splits, Labels(labels, ones, labels), 2)
    assert result.metrics["c"] == 1e-4
    assert result.metrics["c_at_edge"] == 1


def test_one_class_and_a_class_without_images() -> None:
    features, labels = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.int64)
    for num_classes in (1, 3):
        splits = Features(features, features, features), Labels(labels, labels, labels)
        metrics = probed(SVM(GRID, "feature", 1e-5, 500), *splits, num_classes).metrics
        assert (metrics["test/accuracy"], metrics["unconverged"]) == (1, 0)


def test_nothing_but_constant_features_gives_the_largest_class() -> None:
    features, labels = torch.full((4, 2), 0.3), torch.tensor([0, 1, 1, 1])
    splits = Features(features, features, features), Labels(labels, labels, labels)
    metrics = probed(SVM(GRID, "feature", 1e-5, 500), *splits, 2).metrics
    assert (metrics["test/accuracy"], metrics["unconverged"]) == (0.75, 0)


def test_a_fit_cut_short_is_reported_and_poll_may_stop_it(digits: tuple[Features, Labels]) -> None:
    metrics = probed(SVM((1e-2, 1.0), "feature", 1e-5, 3), *digits, 10).metrics
    assert (metrics["unconverged"], metrics["iterations"]) == (2, 6)
    calls: list[int] = []

    def poll() -> None:
        calls.append(1)
        if len(calls) == 10:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        probed(SVM(GRID, "feature", 1e-5, 500), *digits, 10, poll)
    with pytest.raises(ValueError, match="c is empty"):
        SVM([], "feature", 1e-5, 500)
