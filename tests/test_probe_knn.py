import math

import numpy as np
import pytest
import torch
from conftest import Features, Labels, probed
from sklearn.neighbors import KNeighborsClassifier

from aetool.errors import Interrupted
from aetool.probes import knn
from aetool.probes.base import Fitted, Labelled
from aetool.probes.knn import NearestNeighbours


def fitted(probe: NearestNeighbours, features: Features, labels: Labels, num_classes: int) -> Fitted:
    train, val = Labelled(features.train.clone(), labels.train), Labelled(features.val, labels.val)
    return probe(train, val, num_classes, lambda: None)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 0.1), (7, None)])
def test_agrees_with_scikit_learn(digits: tuple[Features, Labels], k: int, temperature: float | None) -> None:
    features, labels = digits

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.ones_like(distance) if temperature is None else np.exp((1 - distance) / temperature)

    reference = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(features.train.double(), labels.train)
    scores = fitted(NearestNeighbours([k], [temperature]), features, labels, 10).scores(features.test)
    assert scores.isfinite().all()
    np.testing.assert_allclose(scores.softmax(dim=1), reference.predict_proba(features.test.double()), atol=1e-5)


def test_votes_by_hand() -> None:
    """Cosines 1, 0.6, 0 and -1 with the query: at temperature 0.5 the votes of the first three are e², e^1.2 and 1."""
    train = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 7.0], [-5.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 2])
    query = torch.tensor([[10.0, 0.0]])
    splits = Features(train, query, query), Labels(labels, torch.tensor([0]), torch.tensor([0]))
    votes = math.e**2, math.e**1.2 + 1
    share = fitted(NearestNeighbours([3], [0.5]), *splits, 3).scores(query).softmax(dim=1)[0]
    assert share.tolist() == pytest.approx([votes[0] / sum(votes), votes[1] / sum(votes), 0], abs=1e-6)
    share = fitted(NearestNeighbours([3], [None]), *splits, 3).scores(query).softmax(dim=1)[0]
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-6)


def test_a_zero_vector_is_similar_to_nothing_and_gets_an_answer() -> None:
    train, zero = torch.eye(3), torch.zeros(1, 3)
    labels = torch.arange(3)
    scores = fitted(NearestNeighbours([3], [0.1]), Features(train, train, zero), Labels(labels, labels, labels), 3)
    torch.testing.assert_close(scores.scores(zero).softmax(dim=1), torch.full((1, 3), 1 / 3))


def test_every_pair_is_judged_on_validation_and_the_best_is_reported(digits: tuple[Features, Labels]) -> None:
    probe = NearestNeighbours([200, 1, 5], [None, 0.07])
    result = probed(probe, *digits, 10)
    pairs = [(k, t) for k in (200, 5, 1) for t in ("null", "0.07")]
    assert list(result.val_accuracy) == [f"k={k}, temperature={t}" for k, t in pairs]
    assert result.metrics["val/accuracy"] == max(result.val_accuracy.values()) > min(result.val_accuracy.values())
    assert result.metrics["k"] == 5
    assert result.metrics["k_at_edge"] == 0
    assert result.metrics["test/accuracy"] > 0.96
    assert "train/accuracy" not in result.metrics
    edge = probed(NearestNeighbours([5, 200], [0.07]), *digits, 10).metrics
    assert (edge["k_at_edge"], edge["temperature_at_edge"]) == (1, 0)


def test_validation_labels_decide_the_choice() -> None:
    """Beside the query lies one image of class 0, further off two of class 1."""
    train = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.1]])
    query, labels = torch.tensor([[1.0, 0.1]]), torch.tensor([0, 1, 1])

    def choice(label: int) -> dict[str, float]:
        splits = Features(train, query, query), Labels(labels, torch.tensor([label]), torch.tensor([0]))
        return probed(NearestNeighbours([1, 3], [None]), *splits, 2).metrics

    assert choice(0)["k"] == 1
    assert choice(1)["k"] == 3


def test_equal_votes_or_weighted_ones_are_chosen_too() -> None:
    """The nearest image outvotes two others at a low temperature alone; equal votes are reported as 0."""
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    query, labels = torch.tensor([[1.0, 0.1]]), torch.tensor([0, 1, 1])

    def choice(label: int) -> dict[str, float]:
        splits = Features(train, query, query), Labels(labels, torch.tensor([label]), torch.tensor([0]))
        return probed(NearestNeighbours([3], [0.1, None]), *splits, 2).metrics

    assert choice(0)["temperature"] == 0.1
    assert choice(0)["temperature_at_edge"] == 1
    assert choice(1)["temperature"] == 0
    assert choice(1)["temperature_at_edge"] == 0


def test_blocks_change_nothing_and_each_is_polled(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = NearestNeighbours([5], [0.07])
    whole = probed(probe, *digits, 10)
    monkeypatch.setattr(knn, "SIMILARITIES", 64_000)  # 64 rows of 1000
    calls: list[int] = []
    parts = probed(probe, *digits, 10, lambda: calls.append(1))
    assert len(calls) == 5 + 1 + 8  # of validation, of the grid, of test
    assert parts.metrics == pytest.approx(whole.metrics)

    def poll() -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        probed(probe, *digits, 10, poll)


def test_what_does_not_fit_is_refused(digits: tuple[Features, Labels]) -> None:
    features, labels = digits
    with pytest.raises(ValueError, match="k=1001 is more than the 1000 training images"):
        probed(NearestNeighbours([1001, 2000], [0.07]), features, labels, 10)
    assert probed(NearestNeighbours([5, 1001], [0.07]), features, labels, 10).metrics["k"] == 5
    with pytest.raises(ValueError, match="k is empty: give at least one value"):
        NearestNeighbours([], [0.07])
    with pytest.raises(ValueError, match="temperature is empty: give at least one value"):
        NearestNeighbours([5], [])
    with pytest.raises(ValueError, match=r"val: features \(300, 64\) and labels \(497,\)"):
        probed(NearestNeighbours([5], [0.07]), features, labels._replace(val=labels.test), 10)
