"""Neighbours, dimension and classes of a cloud of points, against scikit-learn and shapes of known dimension."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.datasets import make_swiss_roll
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.metrics import silhouette_score

from aetool.geometry import distances, intrinsic_dimension, silhouette, trustworthiness


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dimension", [3, 5000])
def test_distances_are_scipys(dimension):
    points = normal(20, dimension) + 100  # far from the origin, where a Gram matrix alone would round
    expected = cdist(points.double(), points.double())
    np.testing.assert_allclose(distances(points), expected, rtol=1e-4 if dimension > 4096 else 1e-10, atol=1e-12)


@pytest.mark.parametrize("dimension", [3, 5000])
def test_equal_points_are_at_distance_0(dimension):
    points = normal(5, dimension).repeat(2, 1) * 7
    assert (distances(points)[:5, 5:].diag() == 0).all()


def test_the_identity_keeps_every_neighbour():
    points = distances(normal(30, 4))
    assert trustworthiness(points, points, 5) == 1
    assert trustworthiness(points, distances(normal(30, 4) * 3 + 1), 5) == 1


def test_trustworthiness_by_hand():
    original = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    embedded = torch.tensor([[0.0], [10.0], [1.0], [30.0], [32.0]])  # the second and third have changed places
    # Nearest in the embedding: 0→2 (rank 2), 1→2 (rank 2), 2→0 (rank 2), 3→4 (rank 4), 4→3 (rank 1); k = 1.
    expected = 1 - 2 / (5 * 1 * (10 - 3 - 1)) * (1 + 1 + 1 + 3 + 0)
    assert trustworthiness(distances(original), distances(embedded), 1) == pytest.approx(expected)


def test_trustworthiness_and_continuity_are_scikit_learns():
    pixels, code = normal(60, 8), normal(60, 8)[:, :3] + 0.3 * normal(60, 3, seed=1)
    spaces = distances(pixels), distances(code)
    assert trustworthiness(*spaces, 7) == pytest.approx(sklearn_trustworthiness(pixels, code, n_neighbors=7))
    assert trustworthiness(*spaces[::-1], 7) == pytest.approx(sklearn_trustworthiness(code, pixels, n_neighbors=7))
    assert trustworthiness(*spaces, 7) != trustworthiness(*spaces[::-1], 7)


def test_more_neighbors_than_half_the_points_are_refused():
    points = distances(normal(10, 2))
    with pytest.raises(ValueError, match="neighbors=5: 10 points have at most 4"):
        trustworthiness(points, points, 5)


def test_a_square_in_50_dimensions_has_2():
    square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ normal(2, 50)
    assert intrinsic_dimension(distances(square)) == pytest.approx(2, abs=0.15)


def test_a_swiss_roll_has_2_and_noise_has_more():
    roll = torch.from_numpy(make_swiss_roll(1000, random_state=0)[0])
    assert intrinsic_dimension(distances(roll)) == pytest.approx(2, abs=0.2)
    assert intrinsic_dimension(distances(normal(1000, 8))) == pytest.approx(8, abs=1)


def test_the_dimension_is_the_slope_of_facco_2017():
    points = normal(40, 3)
    nearest = np.sort(cdist(points.double(), points.double()), axis=1)
    x = np.sort(np.log(nearest[:, 2] / nearest[:, 1]))[:36]
    y = -np.log(1 - np.arange(1, 37) / 40)
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    assert intrinsic_dimension(distances(points)) == pytest.approx(slope)


def test_equal_points_count_once():
    points = normal(50, 3)
    repeated = torch.cat([points, points[:20], points[:20]])
    assert intrinsic_dimension(distances(repeated)) == pytest.approx(intrinsic_dimension(distances(points)))
    assert math.isnan(intrinsic_dimension(distances(torch.zeros(50, 3))))


def test_the_silhouette_is_scikit_learns():
    points = normal(40, 3)
    labels = torch.arange(40) % 4 * 2
    labels[0] = 9  # alone in its class
    points[labels == 2] += 3
    expected = silhouette_score(points.numpy(), labels.numpy())
    assert silhouette(distances(points), labels) == pytest.approx(expected)


def test_the_silhouette_of_far_classes_is_1_and_of_one_point_0():
    labels = torch.arange(20) % 2
    assert silhouette(distances(1e6 * labels[:, None] + normal(20, 2)), labels) == pytest.approx(1, abs=1e-4)
    assert silhouette(torch.zeros(20, 20, dtype=torch.float64), labels) == 0
    with pytest.raises(ValueError, match="two classes"):
        silhouette(distances(normal(5, 2)), torch.ones(5))
