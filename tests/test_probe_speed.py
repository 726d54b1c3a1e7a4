import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from aetool.bench import probe_speed
from aetool.config.compose import compose_one
from aetool.config.schema import BenchConfig

WORDS = ["device=cpu", "threads=1", "rounds=2", "features.samples=400", "features.width=6", "features.classes=3"]
TIGHT = ["features.l2=1e-2", "features.tolerance=1e-8", "features.gradient_tolerance=1e-6"]
LOOSE = ["features.l2=1e-2", "features.tolerance=1e-2", "features.gradient_tolerance=1e-1"]


def config(*words: str) -> BenchConfig:
    return compose_one("bench", BenchConfig, [*WORDS, *words]).config


def test_both_reach_the_same_minimum_and_time_a_whole_fit_each() -> None:
    ticks = itertools.count()
    rounds = probe_speed.rounds(config(*TIGHT), lambda: float(next(ticks)))
    assert len(rounds) == 2
    for ours, theirs in rounds:
        assert ours.seconds == theirs.seconds == 1
        assert abs(ours.excess) < 1e-6
        assert abs(theirs.excess) < 1e-6
        assert ours.accuracy == theirs.accuracy > 0.5


def test_a_loose_tolerance_shows_as_a_distance_from_the_minimum() -> None:
    for fit in probe_speed.rounds(config(*LOOSE), lambda: 0.0)[0]:
        assert 1e-5 < fit.excess < 0.1


def test_synthetic_features_are_standardised_correlated_and_tell_the_class() -> None:
    train, held_out = probe_speed.synthetic(2000, 20, 4, seed=0)
    assert train.features.shape == (2000, 20)
    assert held_out.features.shape == (400, 20)
    np.testing.assert_allclose(train.features.mean(dim=0), np.zeros(20), atol=1e-5)
    np.testing.assert_allclose(train.features.std(dim=0, correction=0), np.ones(20), rtol=1e-4)
    variances = np.linalg.eigvalsh(train.features.T @ train.features / 2000)
    assert variances[-1] / variances[0] > 5
    assert set(train.labels.tolist()) == set(held_out.labels.tolist()) == set(range(4))
    assert torch.equal(probe_speed.synthetic(2000, 20, 4, seed=0)[1].labels, held_out.labels)


def test_labels_of_the_synthetic_features_follow_a_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """argmax(logits + Gumbel noise) is a draw from the softmax: with logits of 0, every class is as likely."""
    monkeypatch.setattr(probe_speed, "standardisation", lambda x: (x.mean(dim=0), torch.zeros(x.shape[1])))
    labels = probe_speed.synthetic(20_000, 2, 4, seed=0)[0].labels
    shares = F.one_hot(labels).double().mean(dim=0)
    np.testing.assert_allclose(shares, np.full(4, 0.25), atol=0.02)


def test_the_command_prints_both_and_their_ratio(workplace, aetool) -> None:
    words = ["measure=probe", "rounds=1", "features.samples=200", "features.width=5", "features.classes=3"]
    done = aetool("bench", *[word for word in TINY if not word.startswith("probe")], *words)
    assert done.code == 0, done.err
    for text in ("linear probe", "scikit-learn", "test acc", "above the minimum", "200 × 5 features", "ratio"):
        assert text in done.out


def test_what_cannot_be_measured_is_refused(workplace, aetool) -> None:
    done = aetool("bench", "measure=everything", "features.classes=1")
    assert done.code == 2
    for text in ("measure=everything", "trainer", "features.classes=1", "≥ 2"):
        assert text in done.err
