"""Which of the fitted classifiers of a grid is kept."""

import itertools

import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from sklearn.metrics import log_loss

from aetool.probes.base import Labelled, Probe
from aetool.probes.choice import Candidate, choose
from aetool.probes.linear import Linear
from aetool.probes.mlp import MLP
from aetool.probes.ridge import Ridge
from aetool.probes.standardisation import Scaling
from aetool.probes.svm import SVM


def candidate(words: str, right: str, loss: float) -> Candidate:
    """`right` has an x for each image that is classified correctly."""
    return Candidate(words, torch.zeros_like, torch.tensor([letter == "x" for letter in right]), loss, {"l2": loss})


def test_the_lowest_loss_within_a_paired_standard_error_of_the_best_accuracy() -> None:
    """Behind the first: by 1/16 with a standard error of 0.107, and by 3/16 with one of 0.098."""
    best = candidate("best", "xxxxxxxxxxxx....", 0.9)
    close = candidate("close", "xxxxxxxxxx..x...", 0.5)
    far = candidate("far", "xxxxxxxxx.......", 0.1)
    behind = np.array([0] * 10 + [1, 1, -1, 0, 0, 0])
    assert (behind.mean(), round(behind.std() / 4, 3)) == (1 / 16, 0.107)
    for order in itertools.permutations([best, close, far]):
        fitted = choose(order, probabilistic=True)
        assert fitted.metrics == {"val/accuracy": 11 / 16, "val/loss": 0.5, "l2": 0.5}
        assert fitted.val_accuracy == {"best": 12 / 16, "close": 11 / 16, "far": 9 / 16}
    assert choose([best, far], probabilistic=True).metrics["val/loss"] == 0.9


def test_many_images_let_accuracy_decide() -> None:
    """The same two classifiers on 40 times as many images: the standard error is now 0.017."""
    best, close = candidate("best", "xxxxxxxxxxxx...." * 40, 0.9), candidate("close", "xxxxxxxxxx..x..." * 40, 0.5)
    assert choose([close, best], probabilistic=True).metrics["val/loss"] == 0.9


def test_candidates_alike_on_validation_and_a_single_image() -> None:
    alike = [candidate("first", "xx.", 0.5), candidate("second", "xx.", 0.5)]
    assert choose(alike, probabilistic=False).metrics["val/loss"] == 0.5
    assert choose([candidate("wrong", ".", 0.1), candidate("right", "x", 0.2)], False).metrics["val/loss"] == 0.2


def by_hand(name: str, scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The loss on raw scores, by numpy and scikit-learn."""
    one_hot = np.eye(10)[labels]
    values = scores.double().numpy()
    if name == "svm":
        return float((np.maximum(0, 1 - (2 * one_hot - 1) * values) ** 2).sum(axis=1).mean())
    if name == "ridge":
        return float(((values - one_hot) ** 2).sum(axis=1).mean() / 2)
    return float(log_loss(labels, scores.double().softmax(dim=1).numpy()))


def made(name: str, values: tuple[float, ...], scaling: Scaling) -> Probe:
    options: dict[str, Probe] = {
        "linear": Linear(values, scaling, 1e-7, 500),
        "ridge": Ridge(values, scaling),
        "svm": SVM(values, scaling, 1e-7, 500),
        "mlp": MLP([16], 3e-3, values, scaling, 64, 3, 0),
    }
    return options[name]


@pytest.mark.parametrize("name", ["linear", "ridge", "svm", "mlp"])
def test_every_probe_chooses_so_and_by_its_own_loss(digits: tuple[Features, Labels], name: str) -> None:
    """As from candidates that are fitted alone; validation stands in for test, so that its classification is known."""
    features, labels = digits
    features, labels = features._replace(test=features.val), labels._replace(test=labels.val)
    scalings: tuple[Scaling, ...] = ("feature", "common")
    grid = (1e-3, 1e-2, 1e-1, 1.0)
    alone = [probed(made(name, (value,), scaling), features, labels, 10) for scaling in scalings for value in grid]
    correct = np.array([result.correct.numpy() for result in alone], dtype=float)
    behind = correct[correct.mean(axis=1).argmax()] - correct
    allowed = behind.mean(axis=1) <= behind.std(axis=1) / np.sqrt(len(labels.val))
    assert not allowed.all()
    expected = min(one.metrics["val/loss"] for one, fits in zip(alone, allowed, strict=True) if fits)
    train, val = Labelled(features.train.clone(), labels.train), Labelled(features.val, labels.val)
    chosen = made(name, grid, "auto")(train, val, 10, lambda: None)
    assert chosen.metrics["val/loss"] == pytest.approx(expected, rel=1e-3)
    assert chosen.metrics["val/loss"] == pytest.approx(by_hand(name, chosen.scores(val.features), labels.val), rel=1e-5)
