"""Shape of a cloud of points: the number of dimensions that it spreads over."""

import math

import numpy as np
from numpy.typing import NDArray

KEPT = 0.9  # fraction of the ratios, the smallest, that the intrinsic dimension is fitted to (Facco et al. 2017)


def intrinsic_dimension(points: NDArray[np.floating]) -> float:
    """Number of dimensions that points (N, D) spread over locally: TwoNN (Facco et al. 2017).

    The ratio μ of the distances to the second and to the first neighbour has the distribution F = 1 - μ^-d: d is the
    slope of -log(1 - F(μ)) over log μ, a least-squares line through the origin, for the smallest 90 % of the ratios. Of
    equal points one counts. NaN where fewer than 3 points differ, or all ratios are 1.
    """
    from sklearn.neighbors import NearestNeighbors  # a second's import

    points = np.unique(points, axis=0)
    if len(points) < 3:
        return math.nan
    # Without points given, none is its own neighbour.
    nearest, _ = NearestNeighbors(n_neighbors=2).fit(points).kneighbors()
    ratios = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    kept = math.floor(len(points) * KEPT)
    x = ratios[:kept]
    y = -np.log1p(-np.arange(1, kept + 1) / len(points))
    squares = float(x @ x)
    return float(x @ y) / squares if squares > 0 else math.nan
