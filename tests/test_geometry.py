"""Geometry of a cloud of points: shapes whose dimension is known, formulas by hand, and scikit-learn's results."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn import manifold, metrics
from sklearn.datasets import make_swiss_roll

from aetool.measures.geometry import distances, intrinsic_dimension, silhouette, trustworthiness


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randn(*shape)


def test_a_square_in_50_dimensions_has_2():
    square = np.random.RandomState(0).rand(1000, 2) @ normal(2, 50)
    assert intrinsic_dimension(square) == pytest.approx(2, abs=0.15)


def test_a_swiss_roll_has_2_and_noise_has_more():
    assert intrinsic_dimension(make_swiss_roll(1000, random_state=0)[0]) == pytest.approx(2, abs=0.2)
    assert intrinsic_dimension(normal(1000, 8)) == pytest.approx(8, abs=1)


def test_the_dimension_is_the_slope_of_facco_2017():
    points = normal(40, 3)
    nearest = np.sort(cdist(points, points), axis=1)
    x = np.sort(np.log(nearest[:, 2] / nearest[:, 1]))[:36]
    y = -np.log(1 - np.arange(1, 37) / 40)
    assert intrinsic_dimension(points) == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


def test_of_equal_points_one_counts():
    points = normal(200, 3)
    assert intrinsic_dimension(np.concatenate([points, points[:50]])) == pytest.approx(intrinsic_dimension(points))


@pytest.mark.parametrize("points", [np.zeros((10, 3)), normal(2, 3), np.eye(4)])
def test_too_few_points_or_ratios_of_1_have_none(points):
    assert math.isnan(intrinsic_dimension(points))


def test_trustworthiness_is_scikit_learns():
    pixels = np.abs(normal(120, 20))
    code = np.maximum(pixels @ normal(20, 12, seed=1), 0)
    found = trustworthiness(distances(pixels), distances(code), 5)
    assert found == pytest.approx(manifold.trustworthiness(pixels, code, n_neighbors=5), abs=1e-12)
    assert 0.5 < found < 1
    assert trustworthiness(distances(pixels), distances(3 * pixels), 5) == 1


def test_trustworthiness_counts_ranks_by_hand():
    line = np.array([[0.0], [1], [3], [7], [15]])
    moved = np.array([[0.0], [30], [3], [7], [15]])  # nearest: 2, 4, 0, 2, 3, which are the 2nd, 4th, 2nd, 1st, 1st
    worst = 5 * 1 * (2 * 5 - 3 - 1) / 2
    assert trustworthiness(distances(line), distances(moved), 1) == pytest.approx(1 - (1 + 3 + 1) / worst)
    with pytest.raises(ValueError, match="5 points are too few for 3 neighbours"):
        trustworthiness(distances(line), distances(moved), 3)


@pytest.mark.parametrize("labels", [np.arange(60) % 4, np.arange(60).clip(max=3), np.full(60, 7)])
def test_the_silhouette_is_scikit_learns(labels):
    points = normal(60, 5) + labels[:, None]
    if len(np.unique(labels)) < 2:
        with pytest.raises(ValueError, match="two classes"):
            silhouette(distances(points), labels)
        return
    expected = metrics.silhouette_score(points, labels)  # where a class of one counts 0
    assert silhouette(distances(points), labels) == pytest.approx(expected, abs=1e-12)


def test_equal_points_have_a_silhouette_of_0():
    assert silhouette(distances(np.ones((6, 2))), np.arange(6) % 2) == 0


def test_points_far_from_the_origin_lie_as_they_do_at_it():
    points = np.random.default_rng(0).normal(size=(200, 2))
    expected = intrinsic_dimension(points)
    assert intrinsic_dimension(1e-6 * points + 100) == pytest.approx(expected, rel=1e-2)
    np.testing.assert_allclose(distances(1e-6 * points + 100), 1e-6 * distances(points), atol=1e-12)
