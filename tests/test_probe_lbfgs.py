"""The losses behind the linear probes, against autograd, and what every probe declares."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aetool.components import ProbeTraits
from aetool.probes.base import Probe
from aetool.probes.lbfgs import LBFGS
from aetool.probes.linear import LogisticRegression
from aetool.probes.svm import SquaredHinge


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(20) % 3


def cross_entropy(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs.T, LABELS, reduction="sum")


def squared_hinge(outputs: Tensor) -> Tensor:
    signs = 2 * F.one_hot(LABELS, 3).T - 1
    return (1 - signs * outputs).clamp(min=0).square().sum()


@pytest.mark.parametrize(("model", "loss"), [(LogisticRegression, cross_entropy), (SquaredHinge, squared_hinge)])
class TestLosses:
    def test_derivatives_agree_with_autograd(self, model, loss) -> None:
        outputs, change = drawn(3, 20, seed=1), drawn(3, 20, seed=2)
        fit: LBFGS = model(drawn(20, 2, seed=0), LABELS, 3)
        residual = fit.residual(outputs)
        torch.testing.assert_close(residual, torch.autograd.functional.jacobian(loss, outputs))
        curvature = torch.autograd.functional.vhp(loss, outputs, change)[1] * change
        torch.testing.assert_close(fit.curvature_along(change, residual).sum(), curvature.sum())
        if fit.separable:
            torch.testing.assert_close(fit.curvature_along(change, residual), curvature.sum(dim=1, keepdim=True))

    def test_the_gradient_vanishes_at_the_minimum(self, model, loss) -> None:
        features, l2 = drawn(20, 4, seed=0), 0.1
        features = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
        fit: LBFGS = model(features, LABELS, 3)
        assert fit.fit(l2, 1e-16, 200)[1]
        weight, bias = (part.requires_grad_() for part in fit.weights())
        (loss(F.linear(features, weight, bias).T) / 20 + l2 / 2 * weight.square().sum()).backward()
        for gradient in (weight.grad, bias.grad):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_separable_classes_are_fitted_independently() -> None:
    """Splitting class 1 off changes nothing for class 0 against the rest."""
    features = drawn(20, 4, seed=0)
    features = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    three, two = SquaredHinge(features, LABELS, 3), SquaredHinge(features, LABELS.clamp(max=1), 2)
    for fit in (three, two):
        assert fit.fit(0.1, 1e-16, 200)[1]
    torch.testing.assert_close(three.weights()[0][0], two.weights()[0][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(three.weights()[1][0], two.weights()[1][0], atol=1e-6, rtol=0)


def test_a_misspelt_trait_breaks_at_import() -> None:
    with pytest.raises(TypeError, match="any_scales"):
        ProbeTraits(any_scales=True)


def test_a_probe_must_be_callable() -> None:
    class Nothing(Probe):
        """Defines no __call__."""

    with pytest.raises(TypeError, match="__call__"):
        Nothing()
    assert not Probe.traits.any_scale
