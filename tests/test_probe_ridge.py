import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from sklearn.linear_model import Ridge as Reference
from sklearn.preprocessing import LabelBinarizer

from aetool.errors import Interrupted, NonFiniteError
from aetool.probes.base import Labelled, at_edge
from aetool.probes.ridge import Ridge, RidgeRegression
from aetool.probes.standardisation import standardisation, unstandardised

GRID = (1e-4, 1e-2, 1e-1, 1.0, 10.0)


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_agrees_with_scikit_learn(digits: tuple[Features, Labels], l2: float) -> None:
    features, labels = digits
    mean, scale = standardisation(features.train)
    train, test = ((x - mean) * scale for x in (features.train, features.test))
    targets = LabelBinarizer().fit_transform(labels.train)
    reference = Reference(alpha=len(train) * l2).fit(train.double(), targets)
    weight, bias = RidgeRegression(train, labels.train, 10, lambda: None).weights(l2)
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, reference.intercept_, atol=1e-5)

    splits = Labelled(features.train.clone(), labels.train), Labelled(features.val, labels.val)
    fitted = Ridge([l2], "feature")(*splits, 10, nothing)
    np.testing.assert_allclose(fitted.scores(features.test), reference.predict(test.double()), atol=1e-4)


def test_fewer_images_than_features_and_constant_features(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    few = features.train[:30]
    mean, scale = standardisation(few)
    train = (few - mean) * scale
    reference = Reference(alpha=30 * 0.1).fit(train.double(), np.eye(10)[labels.train[:30]])
    weight, _ = RidgeRegression(train, labels.train[:30], 10, nothing).weights(0.1)
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-5)


def test_the_grid_is_judged_on_validation_and_the_best_is_reported(digits: tuple[Features, Labels]) -> None:
    result = probed(Ridge(GRID, "feature"), *digits, 10)
    assert list(result.val_accuracy) == [f"l2={l2}, scaling=feature" for l2 in sorted(GRID, reverse=True)]
    assert result.metrics["val/accuracy"] == result.val_accuracy[f"l2={result.metrics['l2']}, scaling=feature"]
    assert min(result.val_accuracy.values()) < result.metrics["val/accuracy"]
    assert result.metrics["l2_at_edge"] == 0
    assert result.metrics["test/accuracy"] > 0.92
    assert "test/calibration_error" not in result.metrics, "scores are no probabilities"
    assert result.metrics == probed(Ridge(GRID[::-1], "feature"), *digits, 10).metrics


def test_validation_labels_decide_the_choice() -> None:
    """A weak penalty follows two informative features, a strong one the larger share of the classes."""
    features = torch.tensor([[1.0, 0.0]] * 2 + [[-1.0, 0.0]] * 4)
    labels = torch.tensor([0] * 2 + [1] * 4)
    weak = probed(
        Ridge((1e-3, 1e3), "feature"), Features(features, features, features), Labels(labels, labels, labels), 2
    )
    ones = torch.ones(6, dtype=torch.int64)
    strong = probed(
        Ridge((1e-3, 1e3), "feature"), Features(features, features, features), Labels(labels, ones, labels), 2
    )
    assert weak.metrics["l2"] == 1e-3
    assert strong.metrics["l2"] == 1e3
    assert strong.metrics["l2_at_edge"] == 1


def test_only_the_chosen_weights_are_given_back(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    chosen = probed(Ridge(GRID, "feature"), features, labels, 10)
    alone = probed(Ridge([chosen.metrics["l2"]], "feature"), features, labels, 10)
    assert alone.metrics["test/accuracy"] == chosen.metrics["test/accuracy"]
    assert alone.metrics["train/accuracy"] == chosen.metrics["train/accuracy"]


def test_unstandardised_weights_give_the_same_scores() -> None:
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.0]) + 5
    mean, scale = standardisation(x)
    weight, bias = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]]), torch.tensor([0.1, -0.2])
    raw_weight, raw_bias = unstandardised((weight, bias), mean, scale)
    torch.testing.assert_close(x @ raw_weight.T + raw_bias, (x - mean) * scale @ weight.T + bias, atol=1e-4, rtol=0)


def test_the_edge_of_a_grid() -> None:
    assert [at_edge(value, (3, 1, 2)) for value in (1, 2, 3)] == [1, 0, 1]
    assert at_edge(1, (1, 1)) == 0


def test_poll_may_stop_it_and_what_does_not_fit_is_refused(digits: tuple[Features, Labels]) -> None:
    features, labels = digits

    def poll() -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        probed(Ridge(GRID, "feature"), features, labels, 10, poll)
    with pytest.raises(ValueError, match="l2 is empty"):
        Ridge([], "feature")
    with pytest.raises(ValueError, match="labels 0 to 9 are not all in 0 to 8"):
        probed(Ridge(GRID, "feature"), features, labels, 9)
    broken = features.val.clone()
    broken[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="val: 1 feature"):
        probed(Ridge(GRID, "feature"), features._replace(val=broken), labels, 10)


def nothing() -> None:
    """A poll that never stops."""
