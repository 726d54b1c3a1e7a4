"""Shape of a cloud of points, from the distances between them: what a code keeps of the neighbours of an image.

Points are the rows of a matrix (N, D). All sums of distances are float64, so no result depends on the batch size.
"""

import math

import torch
from torch import Tensor

ROUNDING = 1e-12  # share of the squared norms, below which a squared distance is taken for 0
KEPT = 0.9  # share of the ratios, the smallest, that the intrinsic dimension is fitted to (Facco et al. 2017)


def distances(points: Tensor) -> Tensor:
    """(N, D) of any real type -> Euclidean distances (N, N) float64, symmetric; of equal points exactly 0."""
    centred = (points - points.float().mean(0)).to(torch.float64 if points.shape[1] <= 4096 else torch.float32)
    products = (centred @ centred.T).double()
    norms = products.diag()
    sums = norms[:, None] + norms
    rounding = ROUNDING if centred.dtype == torch.float64 else 1e-6
    squares = sums - products - products.T
    squares = squares.where(squares > rounding * sums, 0).fill_diagonal_(0)
    return squares.sqrt()


def trustworthiness(original: Tensor, embedded: Tensor, neighbors: int) -> float:
    """How far neighbours in the embedding are neighbours in the original space, in [0, 1] (Venna & Kaski 2001).

    Of distances (N, N) in both spaces. Each of the `neighbors` nearest points in the embedding costs the places that
    it is beyond the `neighbors` nearest in the original space; about 0.5 for an embedding at random. With the spaces
    exchanged it is the continuity: how far neighbours in the original space stay neighbours.
    Raises ValueError unless 2 * neighbors < N.
    """
    count = len(original)
    if not 0 < 2 * neighbors < count:
        raise ValueError(f"neighbors={neighbors}: {count} points have at most {(count - 1) // 2}")
    nearest = _without_self(embedded).argsort(dim=1, stable=True)[:, :neighbors]
    order = _without_self(original).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(1, count + 1, device=order.device).expand_as(order))
    beyond = (ranks.gather(1, nearest) - neighbors).clamp(min=0).sum().item()
    return 1 - 2 * beyond / (count * neighbors * (2 * count - 3 * neighbors - 1))


def intrinsic_dimension(distance: Tensor) -> float:
    """Number of dimensions that points spread over locally, from distances (N, N): TwoNN (Facco et al. 2017).

    The ratio μ of the distances to the second and to the first neighbour has the distribution 1 - μ^-d. The slope of
    -log(1 - F(μ)) over log μ, a line through the origin fitted by least squares to the smallest 90 % of the ratios,
    is d. Of equal points one counts. NaN where fewer than 3 points differ, or all ratios are 1.
    """
    distinct = ~(distance == 0).tril(-1).any(1)
    distance = _without_self(distance[distinct][:, distinct])
    count = len(distance)
    if count < 3:
        return math.nan
    first, second = distance.topk(2, dim=1, largest=False).values.unbind(1)
    ratios = (second / first).log().sort().values
    kept = math.floor(count * KEPT)
    x = ratios[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, device=x.device, dtype=x.dtype) / count)
    squares = x.square().sum().item()
    return (x @ y).item() / squares if squares > 0 else math.nan


def silhouette(distance: Tensor, labels: Tensor) -> float:
    """How much nearer points are to their own class than to the nearest other one, in [-1, 1] (Rousseeuw 1987).

    Of distances (N, N) and labels (N,): the mean over points of (b - a) / max(a, b), with a the mean distance to the
    others of the point's class and b the least mean distance to another class; 0 for the only one of its class.
    Raises ValueError where there are fewer than two classes.
    """
    classes, labels = labels.to(distance.device).unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError("the silhouette is of two classes or more")
    member = torch.nn.functional.one_hot(labels).to(distance.dtype)
    sizes = member.sum(0)
    sums = distance @ member
    own = labels[:, None]
    others = sizes[labels] - 1
    within = sums.gather(1, own)[:, 0] / others.clamp(min=1)
    between = (sums / sizes).scatter(1, own, math.inf).amin(1)
    largest = torch.maximum(within, between)
    score = torch.where((others > 0) & (largest > 0), (between - within) / largest, 0)
    return score.mean().item()


def _without_self(distance: Tensor) -> Tensor:
    """The distances with those to the point itself infinite."""
    return distance.clone().fill_diagonal_(math.inf)
