"""Geometry of a point cloud: its dimension, its classes, and the neighbours preserved by a second embedding.

The formulas are those of scikit-learn, whose import takes as long as a small run's whole evaluation.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
KEPT = 0.9  # fraction of the ratios, the smallest, that the intrinsic dimension is fitted to (Facco et al. 2017)


def distances(points: Matrix) -> Matrix:
    """Euclidean distances (N, N) between points (N, D), 0 on the diagonal."""
    points = points - points.mean(axis=0)  # far from the origin, the differences below would be rounding errors
    squares = np.einsum("ij,ij->i", points, points)
    found = -2 * (points @ points.T) + squares[:, None] + squares
    np.fill_diagonal(found, 0)
    return np.sqrt(np.maximum(found, 0))


def trustworthiness(original: Matrix, embedded: Matrix, neighbors: int) -> float:
    """How far the nearest neighbours of points in an embedding are neighbours in the original space too, in [0, 1], 1
    for all (Venna & Kaski 2001); of distances (N, N) in both. Continuity is that of the two swapped.

    Raises ValueError unless there are over twice as many points as neighbours.
    """
    count = len(original)
    if count <= 2 * neighbors:
        raise ValueError(f"{count} points are too few for {neighbors} neighbours: more than twice as many are needed")
    order = _others(original).argsort(axis=1)
    ranks = np.empty_like(order)  # 1 for the nearest
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1, count + 1), order.shape), axis=1)
    nearest = _others(embedded).argpartition(neighbors, axis=1)[:, :neighbors]
    beyond = np.take_along_axis(ranks, nearest, axis=1) - neighbors
    worst = count * neighbors * (2 * count - 3 * neighbors - 1) / 2
    return float(1 - beyond[beyond > 0].sum() / worst)


def silhouette(separation: Matrix, labels: NDArray[np.integer[Any]]) -> float:
    """Mean silhouette of points with these distances (N, N) and labels (N,), in [-1, 1] (Rousseeuw 1987).

    (b - a) / max(a, b) for a point's mean distances a to the rest of its class and b to the nearest other class; 0 for
    a class of one. Raises ValueError for fewer than two classes.
    """
    classes, members = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a silhouette is of two classes or more")
    sizes = np.bincount(members)
    totals = np.stack([separation[:, members == index].sum(axis=1) for index in range(len(classes))], axis=1)
    own = np.arange(len(labels)), members
    within = totals[own] / np.maximum(sizes[members] - 1, 1)
    means = totals / sizes
    means[own] = np.inf
    between = means.min(axis=1)
    larger = np.maximum(within, between)
    found = np.divide(between - within, larger, out=np.zeros_like(larger), where=larger > 0)
    return float(np.where(sizes[members] > 1, found, 0).mean())


def intrinsic_dimension(points: Matrix) -> float:
    """Number of dimensions that points (N, D) spread over locally: TwoNN (Facco et al. 2017).

    The ratio μ of the distances to the second and to the first neighbour has the distribution F = 1 - μ^-d: d is the
    slope of -log(1 - F(μ)) over log μ, a least-squares line through the origin, for the smallest 90 % of the ratios. Of
    equal points one counts. NaN where fewer than 3 points differ, or all ratios are 1.
    """
    points = np.unique(points, axis=0)
    if len(points) < 3:
        return math.nan
    nearest = np.partition(_others(distances(points)), 1, axis=1)
    nearest = nearest[nearest[:, 0] > 0]  # the others are equal but for rounding
    ratios = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    kept = math.floor(len(ratios) * KEPT)
    x = ratios[:kept]
    y = -np.log1p(-np.arange(1, kept + 1) / max(1, len(ratios)))
    squares = float(x @ x)
    return float(x @ y) / squares if squares > 0 else math.nan


def _others(separation: Matrix) -> Matrix:
    """Distances in which no point is its own neighbour."""
    found = separation.copy()
    np.fill_diagonal(found, np.inf)
    return found
