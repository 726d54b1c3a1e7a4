"""Intrinsic dimension of a cloud of points: shapes whose dimension is known, and the paper's formula by hand."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import make_swiss_roll

from aetool.measures.geometry import intrinsic_dimension


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
