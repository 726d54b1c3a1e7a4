"""Ridge regression on streamed features against the one on features in memory."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import Features, Labels, probed

from aetool.errors import Interrupted, NonFiniteError
from aetool.probes import ridge, streamed_ridge
from aetool.probes.base import Streamed, judge
from aetool.probes.knn import NearestNeighbours
from aetool.probes.ridge import Ridge

GRID = (1e-3, 1e-1, 1.0)


class Blocks:
    """Features that are only given in blocks."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features, self.shape = features, (len(features), features.shape[1])

    def split(self, size: int) -> Iterator[torch.Tensor]:
        yield from (part.clone() for part in self.features.split(size))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_ridge, "READ", 130)
    monkeypatch.setattr(streamed_ridge, "PANEL", 7)


def streams(features: Features, labels: Labels) -> list[Streamed]:
    return [Streamed(Blocks(x), y) for x, y in zip(features, labels, strict=True)]


def close(metrics: dict[str, float]) -> Any:
    """But for the rounding of the loss."""
    return pytest.approx(metrics, rel=1e-4)


@pytest.mark.usefixtures("small_blocks")
def test_it_agrees_with_features_in_memory(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    features = Features(*(100 + x for x in features))  # a mean far from 0; some pixels are constant
    train, val, test = streams(features, labels)
    fitted = Ridge(GRID, "auto").stream(train, val, 10, lambda: None)
    whole = probed(Ridge(GRID, "auto"), features, labels, 10)
    found = judge(fitted, test, 10)
    assert found.val_accuracy == whole.val_accuracy
    assert found.metrics == close({key: value for key, value in whole.metrics.items() if key != "train/accuracy"})
    assert torch.equal(found.confusion, whole.confusion)


def test_wide_features_in_memory_are_fitted_likewise(
    digits: tuple[Features, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probed(Ridge(GRID, "auto"), *digits, 10)
    monkeypatch.setattr(ridge, "WIDE", 63)
    wide = probed(Ridge(GRID, "auto"), *digits, 10)
    assert wide.val_accuracy == whole.val_accuracy
    assert wide.metrics == close(whole.metrics)


@pytest.mark.usefixtures("small_blocks")
def test_the_moments_are_those_of_z_scores(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    found = streamed_ridge.moments(streams(features, labels)[0], 10, lambda: None)
    x = features.train.double()
    std = x.std(0, correction=0)
    z = torch.where(std > 0, (x - x.mean(0)) / std, 0)
    torch.testing.assert_close(found.mean.double(), x.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.gram.double().tril(), (z.T @ z / 1000).tril(), atol=1e-4, rtol=0)
    one_hot = torch.eye(10).double()[labels.train]
    torch.testing.assert_close(found.products.double(), z.T @ one_hot / 1000, atol=1e-4, rtol=0)


def test_an_l2_too_small_for_float32_is_left_out(
    digits: tuple[Features, Labels], caplog: pytest.LogCaptureFixture
) -> None:
    features, labels = digits
    twice = Features(*(torch.cat([x, x], 1) for x in features))
    train, val, _ = streams(twice, labels)
    fitted = Ridge((1e-12, 1e-1), "feature").stream(train, val, 10, lambda: None)
    assert list(fitted.val_accuracy) == ["l2=0.1, scaling=feature"]
    assert caplog.messages == ["l2=[1e-12], scaling=feature: too small for features of float32, left out"]
    with pytest.raises(ValueError, match="too small for features of float32"):
        Ridge([1e-12], "feature").stream(train, val, 10, lambda: None)


def test_the_smallest_l2_that_is_not_left_out_is_at_the_edge(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    train, val, _ = streams(Features(*(torch.cat([x, x], 1) for x in features)), labels)
    fitted = Ridge((1e-12, 1e-3, 1e3), "feature").stream(train, val, 10, lambda: None)
    assert (fitted.metrics["l2"], fitted.metrics["l2_at_edge"]) == (1e-3, 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_features_of_validation_and_test_are_refused(digits: tuple[Features, Labels], value: float) -> None:
    train, *others = streams(*digits)
    val, test = others
    fitted = Ridge(GRID, "auto").stream(train, val, 10, lambda: None)
    for split in others:
        assert isinstance(split.features, Blocks)
        split.features.features = split.features.features.clone()
        split.features.features[5, 3] = value
    with pytest.raises(NonFiniteError, match="val: feature values are NaN or infinite"):
        Ridge(GRID, "auto").stream(train, val, 10, lambda: None)
    with pytest.raises(NonFiniteError, match="test: feature values are NaN or infinite"):
        judge(fitted, test, 10)


def test_it_stops_and_refuses(digits: tuple[Features, Labels]) -> None:
    train, val, _ = streams(*digits)

    def poll() -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        Ridge(GRID, "auto").stream(train, val, 10, poll)
    broken = Blocks(digits[0].train.clone())
    broken.features[5, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        Ridge(GRID, "auto").stream(Streamed(broken, train.labels), val, 10, lambda: None)
    with pytest.raises(ValueError, match="needs all features in memory"):
        NearestNeighbours([1], [0.1]).stream(train, val, 10, lambda: None)


@pytest.mark.usefixtures("small_blocks")
def test_a_common_scale_agrees_with_features_in_memory(digits: tuple[Features, Labels]) -> None:
    train, val, test = streams(*digits)
    found = judge(Ridge(GRID, "common").stream(train, val, 10, lambda: None), test, 10)
    whole = probed(Ridge(GRID, "common"), *digits, 10)
    assert found.val_accuracy == whole.val_accuracy
    assert found.metrics == close({key: value for key, value in whole.metrics.items() if key != "train/accuracy"})
    assert found.metrics["common_scale"] == 1
