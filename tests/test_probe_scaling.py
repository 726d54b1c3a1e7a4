"""The scaling of features: each by its own deviation, all by one number, or the better of both on validation."""

import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.linear_model import Ridge as RidgeReference

from aetool.evaluation.catalogue import table_metrics
from aetool.probes import lbfgs
from aetool.probes.base import Labelled, Probe
from aetool.probes.lbfgs import LBFGS
from aetool.probes.linear import Linear, LogisticRegression
from aetool.probes.path import Problem, leading_axes, principal_axes
from aetool.probes.ridge import Ridge
from aetool.probes.standardisation import Scaling, common_scale, standardisation
from aetool.probes.svm import SVM, SquaredHinge

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
Digits = tuple[Features, Labels]


def nothing() -> None:
    """A poll that never stops."""


def made(name: str, scaling: Scaling) -> Probe:
    options: dict[str, Probe] = {
        "linear": Linear(GRID, scaling, 1e-5, 500),
        "ridge": Ridge(GRID, scaling),
        "svm": SVM(GRID, scaling, 1e-5, 500),
    }
    return options[name]


def few_components(digits: Digits, per_class: int) -> Digits:
    """All principal components of the digits, with `per_class` labels of each class in train and in validation."""
    features, labels = digits
    basis = torch.linalg.svd(features.train - features.train.mean(dim=0), full_matrices=False).Vh.T
    train, val = (
        torch.cat([torch.where(y == k)[0][:per_class] for k in range(10)]) for y in (labels.train, labels.val)
    )
    chosen = features._replace(train=features.train[train], val=features.val[val])
    return Features(*(x @ basis for x in chosen)), labels._replace(train=labels.train[train], val=labels.val[val])


def test_the_common_scale_is_the_root_mean_square_of_the_deviations() -> None:
    features = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 20.0, 0.3, 0.0]) + 7
    scale = common_scale(standardisation(features)[1])
    rms = np.sqrt((features[:, :3].double().numpy().std(axis=0) ** 2).mean())
    np.testing.assert_allclose(scale, [1 / rms, 1 / rms, 1 / rms, 0], rtol=1e-5)
    assert common_scale(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_common_scale_agrees_with_scikit_learn_on_features_divided_by_that_number(digits: Digits) -> None:
    features, labels = digits
    rms = features.train.double().var(dim=0, correction=0)
    rms = rms[rms > 0].mean().sqrt()
    train, test = features.train.double() / rms, features.test.double() / rms
    reference = Reference(C=1 / (1000 * 1e-1), tol=1e-5, max_iter=5000).fit(train, labels.train)
    splits = Labelled(features.train.clone(), labels.train), Labelled(features.val, labels.val)
    fitted = Linear([1e-1], "common", 1e-8, 500)(*splits, 10, nothing)
    scores = fitted.scores(features.test).softmax(dim=1)
    np.testing.assert_allclose(scores, reference.predict_proba(test), atol=1e-3)
    assert fitted.metrics["common_scale"] == 1

    ridge = Ridge([1e-2], "common")(Labelled(features.train.clone(), labels.train), splits[1], 10, nothing)
    reference = RidgeReference(alpha=1000 * 1e-2).fit(train, np.eye(10)[labels.train])
    np.testing.assert_allclose(ridge.scores(features.test), reference.predict(test), atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "ridge", "svm"])
@pytest.mark.parametrize("per_class", [3, 30])
def test_auto_is_one_of_both(digits: Digits, name: str, per_class: int) -> None:
    """With fewer samples than features, and with more."""
    splits = few_components(digits, per_class)
    feature, common, auto = (probed(made(name, scaling), *splits, 10) for scaling in ("feature", "common", "auto"))
    better = common if auto.metrics["common_scale"] else feature
    value = "c" if name == "svm" else "l2"
    for metric in ("val/accuracy", "train/accuracy", value, f"{value}_at_edge"):
        assert auto.metrics[metric] == better.metrics[metric]
    assert auto.metrics["test/accuracy"] == pytest.approx(better.metrics["test/accuracy"], abs=0.005)
    assert auto.val_accuracy == pytest.approx(
        feature.val_accuracy | common.val_accuracy, abs=0.011 if name == "linear" else 0.005
    )
    if name != "ridge":
        both = feature.metrics["iterations"] + common.metrics["iterations"]
        assert auto.metrics["iterations"] == pytest.approx(both, abs=5)


def test_validation_labels_decide_the_scaling() -> None:
    """A small informative feature beside a large, slightly informative one: only unit variance lets it count."""
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    large = 100 * (noise + 0.5 * labels[:, None])
    features = torch.cat([large, 1e-3 * (labels[:, None] + 0.1)], dim=1)
    splits = Features(features, features, features)
    assert probed(Linear([1e-1], "auto", 1e-6, 500), splits, Labels(*[labels] * 3), 2).metrics["common_scale"] == 0
    by_large = (large[:, 0] > large.mean()).long()
    misled = Labels(labels, by_large, labels)
    assert probed(Linear([1e-1], "auto", 1e-6, 500), splits, misled, 2).metrics["common_scale"] == 1


@pytest.mark.parametrize("name", ["linear", "ridge", "svm"])
def test_principal_components_are_worth_more_under_few_labels(digits: Digits, name: str) -> None:
    splits = few_components(digits, 2)
    feature, auto = (probed(made(name, scaling), *splits, 10) for scaling in ("feature", "auto"))
    assert auto.metrics["common_scale"] == 1
    assert auto.metrics["test/accuracy"] > feature.metrics["test/accuracy"] + 0.1


def test_train_features_are_rescaled_in_place(digits: Digits) -> None:
    features, labels = digits
    train = Labelled(features.train.clone(), labels.train)
    address = train.features.data_ptr()
    problem = Problem(train, Labelled(features.val, labels.val), 10, "auto")
    before = problem.train.features.clone()
    factors = problem.rescale()
    assert problem.train.features.data_ptr() == address
    torch.testing.assert_close(problem.train.features, before * factors)
    expected = (features.train - features.train.mean(dim=0)) * problem.common
    torch.testing.assert_close(problem.train.features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_principal_axes_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x -= x.mean(dim=0)
    gram = x.T @ x / len(x) if shape[0] > shape[1] else None
    variances, directions = principal_axes(x, gram)
    torch.testing.assert_close(variances.flip(0), torch.linalg.svdvals(x).square() / len(x))
    torch.testing.assert_close(directions.T @ directions, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((directions * variances) @ directions.T, x.T @ x / len(x))


def test_leading_axes_of_few_large_variances() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, dtype=torch.float64, generator=random) @ torch.randn(
        4, 30, dtype=torch.float64, generator=random
    )
    x += 1e-2 * torch.randn(200, 30, dtype=torch.float64, generator=random)
    gram = (x - x.mean(dim=0)).T @ (x - x.mean(dim=0)) / 200
    variances, directions = leading_axes(gram.tril(), 4)
    torch.testing.assert_close(directions.T @ directions, torch.eye(30, dtype=torch.float64))
    exact = torch.linalg.eigvalsh(gram)
    torch.testing.assert_close(variances[:4], exact[-4:])
    torch.testing.assert_close(variances[4:], exact[:-4].mean().expand(26))


@pytest.mark.parametrize("model", [LogisticRegression, SquaredHinge])
def test_wide_features_are_fitted_to_the_same_minimum(
    digits: Digits, model: type[LBFGS], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = digits
    mean, scale = standardisation(features.train)
    train, sizes, eigh = (features.train - mean) * scale, [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or eigh(matrix))

    def objectives() -> torch.Tensor:
        """On the way from a strong penalty to a weak one."""
        fitted, found = model(train, labels.train, 10), []
        for l2 in (1e-1, 1e-2, 1e-3):
            assert fitted.fit(l2, 1e-5, 100)[1]
            weight, bias = fitted.weights()
            loss = model.loss(train @ weight.T + bias, labels.train)
            found.append(loss + l2 / 2 * weight.square().sum())
        return torch.stack(found)

    exact = objectives()
    monkeypatch.setattr(lbfgs, "WIDE", 63)
    monkeypatch.setattr(lbfgs, "LEADING", 10)
    classes = 10 if model.separable else 1  # the tolerance is that of one class
    torch.testing.assert_close(objectives(), exact, atol=classes * 1e-5, rtol=0)
    assert sizes == [64, 10]


def test_a_rescaled_model_is_one_of_the_rescaled_features(digits: Digits) -> None:
    features, labels = digits
    train = features.train.double() - features.train.double().mean(dim=0)
    factors = torch.linspace(0, 2, 64, dtype=torch.float64)
    fresh = LogisticRegression(train * factors, labels.train, 10)
    rescaled = LogisticRegression(train, labels.train, 10)
    rescaled.fit(1e-1, 1e-3, 10)
    train *= factors
    rescaled.rescale(factors)
    for model in (fresh, rescaled):
        assert model.fit(1e-2, 1e-13, 1000)[1]
    torch.testing.assert_close(rescaled.weights()[0], fresh.weights()[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["linear", "ridge", "svm"])
def test_few_images_of_many_features_take_a_small_eigendecomposition(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(matrix.shape) or original(matrix))
    images = torch.rand(20, 300, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    result = probed(made(name, "auto"), Features(*[images] * 3), Labels(*[labels] * 3), 10)
    assert sizes == [(20, 20)] * 2
    assert result.metrics["test/accuracy"] == 1


def test_the_table_writes_the_choice_in_words() -> None:
    (metric,) = [m for m in table_metrics("probe-svm") if m.name == "common_scale"]
    assert [metric.text(value) for value in (0.0, 1.0, 0.6)] == ["no", "yes", "60%"]
