import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from torch import nn

from aetool.errors import Interrupted, NonFiniteError
from aetool.probes import minibatch, mlp
from aetool.probes.base import Labelled, Probe
from aetool.probes.mae import MAE
from aetool.probes.minibatch import LARS, logits, train_head
from aetool.probes.mlp import MLP, Standardise
from aetool.probes.simclr import SimCLR


def nothing() -> None:
    """A poll that never stops."""


def blobs(scale: float = 1.0) -> tuple[Features, Labels]:
    """Three classes around three corners, 60 training images and 30 for validation and test."""
    random = np.random.RandomState(0)
    labels = [torch.arange(count) % 3 for count in (60, 30, 30)]
    corners = 2 * np.eye(3)
    features = [torch.tensor(corners[y] + 0.7 * random.randn(len(y), 3), dtype=torch.float32) * scale for y in labels]
    return Features(*features), Labels(*labels)


PROBES: list[Callable[..., Probe]] = [
    lambda **changed: MLP(
        **{"widths": [8], "lr": 0.05, "weight_decay": [0.1], "scaling": "feature", **SHORT, **changed}
    ),
    lambda **changed: MAE(**{"base_lr": 40.0, "warmup_epochs": 1, **SHORT, **changed}),
    lambda **changed: SimCLR(**{"lr": 0.1, "milestones": [80], **SHORT, **changed}),
]
SHORT: dict[str, Any] = {"batch_size": 16, "epochs": 6, "seed": 0}
every_probe = pytest.mark.parametrize("make", PROBES, ids=["mlp", "mae", "simclr"])


def test_lars_by_hand() -> None:
    """‖W‖ = 5 and ‖g‖ = 2: the matrix's gradient is scaled by 0.01 · 5 / 2 = 0.025, the vector's not at all."""
    matrix = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    vector = nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([matrix, vector], lr=0.5, momentum=0.9, trust=0.01)
    matrix.grad, vector.grad = torch.tensor([[2.0, 0.0]]), torch.tensor([2.0])
    optimizer.step()
    torch.testing.assert_close(matrix.data, torch.tensor([[3 - 0.5 * 0.05, 4.0]]))
    torch.testing.assert_close(vector.data, torch.tensor([1 - 0.5 * 2.0]))
    length = math.hypot(2.975, 4)
    matrix.grad, vector.grad = torch.tensor([[0.0, 1.0]]), torch.tensor([-1.0])
    optimizer.step()
    velocity = 0.9 * 0.05, 0.01 * length
    torch.testing.assert_close(matrix.data, torch.tensor([[2.975 - 0.5 * velocity[0], 4 - 0.5 * velocity[1]]]))
    torch.testing.assert_close(vector.data, torch.tensor([0 - 0.5 * (0.9 * 2 - 1)]))


def test_lars_does_not_scale_a_matrix_or_a_gradient_of_0() -> None:
    zero, still = nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.ones(1, 2))
    optimizer = LARS([zero, still], lr=0.5)
    zero.grad, still.grad = torch.ones(1, 2), torch.zeros(1, 2)
    optimizer.step()
    assert zero.tolist() == [[-0.5, -0.5]]
    assert still.tolist() == [[1, 1]]


def test_a_step_is_one_of_gradient_descent_on_the_mean_cross_entropy() -> None:
    """All images in one batch: the gradient of the logits' weights is (p - y)ᵀX / N."""
    features, labels = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([0, 1])
    head = nn.Linear(2, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    rates: list[float] = []
    epochs = train_head(head, optimizer, lambda e: rates.append(e) or 0.4, Labelled(features, labels), 1, 2, 0, nothing)
    assert list(epochs) == [1]
    slope = (torch.full((2, 2), 0.5) - torch.eye(2)).T @ features / 2
    torch.testing.assert_close(head.weight.data, -0.4 * slope)
    torch.testing.assert_close(head.bias.data, torch.zeros(2))
    assert rates == [0]


class Recorder(nn.Module):
    """A linear head for one feature that keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.seen: list[list[float]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.flatten().tolist())
        return self.linear(x)


def test_every_epoch_has_a_new_order_and_leaves_out_what_fills_no_batch() -> None:
    split = Labelled(torch.arange(10.0)[:, None], torch.arange(10) % 2)

    def seen(seed: int) -> tuple[list[list[float]], list[float], list[int]]:
        head, at, polls = Recorder(), list[float](), list[int]()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for _ in train_head(head, optimizer, lambda e: at.append(e) or 0.1, split, 2, 4, seed, lambda: polls.append(1)):
            assert not head.training
        return head.seen, at, polls

    batches, at, polls = seen(0)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]
    assert at == [0, 0.5, 1, 1.5]
    assert len(polls) == 4
    epochs = [batches[0] + batches[1], batches[2] + batches[3]]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert seen(0)[0] == batches
    assert seen(1)[0] != batches


def test_a_loss_that_is_not_finite_is_reported() -> None:
    head = nn.Linear(1, 2)
    nn.init.constant_(head.weight, torch.nan)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    split = Labelled(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(NonFiniteError, match="nan in epoch 1"):
        list(train_head(head, optimizer, lambda epoch: 0.1, split, 1, 2, 0, nothing))


def test_logits_in_parts_are_those_of_the_whole() -> None:
    head, features = nn.Linear(2, 3), torch.rand(9000, 2, dtype=torch.float64)
    torch.testing.assert_close(logits(head, features), head(features.float()).detach())


@every_probe
def test_learns_and_reports_the_accuracy_of_what_it_gives_back(make: Callable[..., Probe]) -> None:
    features, labels = blobs()
    full = {"batch_size": 60, "epochs": 100}
    result = probed(make(**full), features, labels, 3)
    assert result.metrics["test/accuracy"] > 0.8
    assert 0 <= result.metrics["test/calibration_error"] < 0.5
    same = probed(make(**full), features._replace(test=features.val), labels._replace(test=labels.val), 3)
    assert same.metrics["test/accuracy"] == result.metrics["val/accuracy"] == max(result.val_accuracy.values())
    same = probed(make(**full), features._replace(test=features.train), labels._replace(test=labels.train), 3)
    assert same.metrics["test/accuracy"] == result.metrics["train/accuracy"]


@every_probe
def test_the_seed_decides_and_the_global_generator_is_left_alone(make: Callable[..., Probe]) -> None:
    features, labels = blobs()

    def scores(seed: int) -> torch.Tensor:
        train, val = (Labelled(features.train.clone(), labels.train), Labelled(features.val, labels.val))
        return make(seed=seed)(train, val, 3, nothing).scores(features.test)

    before = torch.get_rng_state()
    first = scores(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(scores(0), first)
    assert not torch.equal(scores(1), first)


@every_probe
def test_fewer_images_than_a_batch_are_one_batch(make: Callable[..., Probe]) -> None:
    features, labels = blobs()
    calls: list[int] = []
    probed(make(batch_size=1000, epochs=2), features, labels, 3, lambda: calls.append(1))
    assert len(calls) == 2


@every_probe
def test_poll_may_stop_it_and_what_does_not_fit_is_refused(make: Callable[..., Probe]) -> None:
    features, labels = blobs()

    def poll() -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        probed(make(), features, labels, 3, poll)
    with pytest.raises(ValueError, match="labels 0 to 2 are not all in 0 to 1"):
        probed(make(), features, labels, 2)


def rates(module: Any, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], float]:
    """The schedule that a probe trains with."""
    schedules: list[Callable[[float], float]] = []

    def spy(head: nn.Module, optimizer: Any, schedule: Callable[[float], float], *rest: Any) -> list[int]:
        schedules.append(schedule)
        head.eval()
        return [1]

    monkeypatch.setattr(module, "train_head", spy)
    probed(probe, *blobs(), 3)
    return schedules[0]


def test_the_learning_rates_of_mae(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1 · 32 / 256 after 10 epochs of warm-up, half of it at the middle of the other 80, 0 at the end."""
    rate = rates(minibatch, MAE(base_lr=0.1, batch_size=32, epochs=90, warmup_epochs=10, seed=0), monkeypatch)
    peak = 0.1 * 32 / 256
    assert [rate(epoch) for epoch in (0, 5, 10, 50, 90)] == pytest.approx([0, peak / 2, peak, peak / 2, 0], abs=1e-12)
    rate = rates(minibatch, MAE(base_lr=0.1, batch_size=1000, epochs=90, warmup_epochs=10, seed=0), monkeypatch)
    assert rate(10) == pytest.approx(0.1 * 60 / 256)  # a batch is at most the train split


def test_the_learning_rates_of_simclr(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = rates(minibatch, SimCLR(lr=1.0, batch_size=16, epochs=100, milestones=[60, 80], seed=0), monkeypatch)
    assert [rate(epoch) for epoch in (0, 59.99, 60, 79.99, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_learning_rates_of_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = MLP(widths=[4], lr=0.01, weight_decay=[0.0], scaling="feature", batch_size=16, epochs=20, seed=0)
    rate = rates(mlp, probe, monkeypatch)
    assert [rate(epoch) for epoch in (0, 10, 20)] == pytest.approx([0.01, 0.005, 0], abs=1e-12)


def test_mae_normalises_and_starts_small(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[nn.Module] = []

    def spy(head: nn.Module, *rest: Any) -> list[int]:
        heads.append(head.eval())
        return []

    monkeypatch.setattr(minibatch, "train_head", spy)
    wide = Features(*(torch.rand(count, 500) for count in (6, 3, 3)))
    probed(MAE(0.1, 16, 90, 10, 0), wide, Labels(*(torch.arange(count) % 3 for count in (6, 3, 3))), 3)
    norm, linear = heads[0].children()
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(linear, nn.Linear)
    assert (norm.affine, norm.eps) == (False, 1e-6)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert linear.bias.tolist() == [0, 0, 0]


def test_mae_of_one_image_and_a_warm_up_beyond_the_end_are_refused() -> None:
    one = Features(*(torch.ones(1, 2) for _ in range(3))), Labels(*(torch.zeros(1, dtype=torch.int64),) * 3)
    with pytest.raises(ValueError, match="batch normalisation takes at least 2 images"):
        probed(MAE(0.1, 16, 90, 10, 0), *one, 1)
    with pytest.raises(ValueError, match="warmup_epochs=10 is more than epochs=5"):
        MAE(0.1, 16, 5, 10, 0)


def test_mlp_finds_what_no_linear_classifier_does() -> None:
    """Exclusive or: the sign of the product of two features."""
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = (x[:, 0] * x[:, 1] > 0).long()
    splits = Features(*x.split(100)), Labels(*y.split(100))
    assert probed(MLP([16], 0.05, [0.0], "feature", 16, 20, 0), *splits, 2).metrics["test/accuracy"] > 0.9
    assert probed(SimCLR(0.1, 16, 20, [15], 0), *splits, 2).metrics["test/accuracy"] < 0.7


def test_mlp_does_not_care_for_the_scale_and_offset_of_features() -> None:
    features, labels = blobs()
    moved = Features(*(1000 * x - 7 for x in features))
    found, expected = (probed(PROBES[0](), splits, labels, 3) for splits in (moved, features))
    assert found.metrics["test/accuracy"] == expected.metrics["test/accuracy"]
    standardised = Standardise(moved.train, "feature")(moved.train)
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(dim=0, correction=0), torch.ones(3))
    together = Standardise(moved.train, "common")(moved.train)
    assert together.var(dim=0, correction=0).mean().item() == pytest.approx(1, rel=1e-4)
    ratio = together.std(dim=0) / moved.train.std(dim=0)
    torch.testing.assert_close(ratio, ratio[:1].expand(3))


def test_validation_labels_decide_weight_decay_and_epoch_of_mlp() -> None:
    """A weight decay of 1/lr forgets the weights in the first steps, and one class gets most of the images."""
    features, labels = blobs()
    probe = MLP([8], 0.05, [20.0, 0.0, 0.1], "auto", 16, 6, 0)
    honest = probed(probe, features, labels, 3)
    assert honest.metrics["weight_decay"] < 20
    pairs = itertools.product((20.0, 0.1, 0.0), ("common", "feature"))
    assert list(honest.val_accuracy) == [f"weight_decay={decay}, scaling={scaling}" for decay, scaling in pairs]
    constant = probed(MLP([8], 0.05, [20.0], "auto", 16, 6, 0), features, labels, 3)
    common = int(constant.confusion.sum(dim=0).argmax())
    poisoned = probed(probe, features, labels._replace(val=torch.full((30,), common)), 3)
    assert poisoned.metrics["weight_decay"] == 20
    assert poisoned.metrics["weight_decay_at_edge"] == 1
    assert poisoned.metrics["test/accuracy"] < honest.metrics["test/accuracy"]


def test_mlp_gives_back_the_epoch_that_validation_chose() -> None:
    features, labels = blobs()
    flipped = labels._replace(val=(labels.val + 1) % 3)  # the more it learns, the worse it gets
    result = probed(PROBES[0](), features, flipped, 3)
    assert result.metrics["epoch"] < 6
    assert result.metrics["val/accuracy"] == max(result.val_accuracy.values())
    assert probed(PROBES[0](), features, labels, 3).metrics["epoch"] > result.metrics["epoch"]
    with pytest.raises(ValueError, match="widths is empty: give at least one value"):
        MLP([], 0.1, [0.0], "feature", 16, 1, 0)
    with pytest.raises(ValueError, match="weight_decay is empty: give at least one value"):
        MLP([4], 0.1, [], "feature", 16, 1, 0)
