"""Losses, penalties, lambda's warm-up and learning-rate schedules against independent calculations."""

import math

import numpy as np
import pytest
import torch

from aetool.losses import BCE, MSE
from aetool.models.base import AutoencoderOutput, Batch
from aetool.models.closed_form import Pixels
from aetool.penalties.sparsity import L1
from aetool.training.objective import Objective, Term
from aetool.training.schedules import Constant, Cosine, Plateau

X = torch.rand(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
R = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
MODEL = Pixels((1, 2, 2))
BATCH = Batch(X, X)


def output(code: torch.Tensor, reconstruction: torch.Tensor = R) -> AutoencoderOutput:
    return AutoencoderOutput(reconstruction, code, {})


def test_mse():
    expected = np.mean((R.numpy().astype(float) - X.numpy()) ** 2)
    assert MSE()(R, X).mean().item() == pytest.approx(expected, rel=1e-6)


def test_bce():
    p, x = 1 / (1 + np.exp(-R.numpy().astype(float))), X.numpy()
    expected = np.mean(-x * np.log(p) - (1 - x) * np.log(1 - p))
    assert BCE()(R, X).mean().item() == pytest.approx(expected, rel=1e-6)


def test_l1_is_on_the_code_and_equals_the_articles_relu_sum():
    code = torch.tensor([[0.0, 2.0, 3.0], [1.0, 0.0, 0.5]])
    assert L1(atom_norm=False)(MODEL, BATCH, output(code)).item() * len(code) == pytest.approx(6.5)
    assert torch.relu(code).sum().item() == pytest.approx(6.5)
    feature_map = torch.full((5, 2, 2, 2), -0.5)
    assert L1(atom_norm=False)(MODEL, BATCH, output(feature_map)).item() == pytest.approx(4.0)


def test_l1_reaches_the_code_only():
    code, reconstruction = torch.ones(5, 3, requires_grad=True), R.clone().requires_grad_()
    L1(atom_norm=False)(MODEL, BATCH, output(code, reconstruction)).backward()
    torch.testing.assert_close(code.grad, torch.full((5, 3), 0.2))
    assert reconstruction.grad is None


def test_objective_adds_weighted_terms():
    code = torch.ones(5, 3)
    terms = {"l1": Term(L1(atom_norm=False), 2.0), "other": Term(L1(atom_norm=False), 1.0)}
    objective = Objective(MSE(), terms, weight=0.1, warmup_steps=0)
    loss, terms = objective(MODEL, BATCH, output(code))
    assert set(terms) == {"loss/reconstruction", "penalty/l1", "penalty/other"}
    assert terms["penalty/l1"].item() == pytest.approx(3.0)
    assert loss.item() == pytest.approx(MSE()(R, X).mean().item() + 0.1 * (2 * 3.0 + 3.0), rel=1e-6)


def test_lambda_warms_up_linearly_and_validation_uses_all_of_it():
    objective = Objective(MSE(), {"l1": Term(L1(atom_norm=False), 1.0)}, weight=2.0, warmup_steps=4)
    found = []
    for step in (0, 1, 3, 4, 100):
        objective.start(MODEL, step, 200)
        found.append(objective.settings()["lambda"])
    assert found == [0.5, 1.0, 2.0, 2.0, 2.0]
    objective.start(MODEL, 0, 200)
    assert objective.eval().settings() == {"lambda": 2.0}


def test_cosine():
    schedule = Cosine(warmup=0.1, final=0.1)
    factors = [schedule.factor(step, 101) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[-1] == pytest.approx(0.1)
    assert Cosine(0.0, 0.0).factor(0, 1) == 1.0
    assert Constant().factor(77, 100) == 1.0


def test_plateau_lowers_once_patience_is_over_and_resumes():
    schedule = Plateau(factor=0.5, patience=1, threshold=0.01)
    factors = []
    for loss in (1.0, 0.9, 0.899, 0.898, 0.5, 0.6, 0.6):
        schedule.observe(loss)
        factors.append(schedule.factor(0, 1))
    assert factors == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    other = Plateau(factor=0.5, patience=1, threshold=0.01)
    other.load_state_dict(schedule.state_dict())
    assert other.state_dict() == schedule.state_dict()
    assert math.isfinite(other.best)


def test_plateau_knows_that_negative_losses_fall():
    schedule = Plateau(factor=0.5, patience=1, threshold=0.01)
    factors = []
    for loss in (-1.0, -1.1, -1.095, -1.09, -2.0):
        schedule.observe(loss)
        factors.append(schedule.factor(0, 1))
    assert factors == [1.0, 1.0, 1.0, 0.5, 0.5]
