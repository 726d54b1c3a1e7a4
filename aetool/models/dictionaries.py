"""Dictionaries learned without gradients: k-means, and one active atom per vector."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from aetool.errors import poll_signals

BLOCK = 4096  # vectors whose products with all atoms are in memory at a time
Assign = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the nearest of (K, n) centroids to each of (N, n) vectors, (N,), and 1 as its weight, (N,)."""
    scores = torch.addmm(-0.5 * centroids.square().sum(1), vectors, centroids.T)
    return scores.argmax(1), vectors.new_ones(len(vectors))


def most_correlated(vectors: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the unit atom with the largest |dᵀx| for each vector, (N,), and dᵀx, (N,): OMP with one atom."""
    products = vectors @ atoms.T
    index = products.abs().argmax(1)
    return index, products.gather(1, index[:, None])[:, 0]


def kmeans(vectors: Tensor, k: int, iterations: int) -> Tensor:
    """Centroids (k, n) of vectors (N, n) of mean 0, by Lloyd's algorithm; empty ones start anew at one of the vectors.

    They start near 0, as those of Coates, Lee & Ng 2011: from k of the vectors, outliers keep clusters of their own.
    Draws from torch's global generator.
    """
    centroids = 0.1 * torch.randn(k, vectors.shape[1])
    for _ in range(iterations):
        sums, counts = _sums(vectors, centroids, nearest)
        drawn = vectors[torch.randint(len(vectors), (k,))]
        centroids = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), drawn)
    return centroids


def omp1(vectors: Tensor, k: int, iterations: int) -> Tensor:
    """Unit atoms (k, n) for codes with one active atom, from random ones: gain-shape vector quantisation.

    Each iteration sets D to the normalised rows of SᵀX + D, for the codes S of `most_correlated` (Coates & Ng 2012,
    "Learning feature representations with k-means", who call it spherical k-means with damped updates). Draws from
    torch's global generator.
    """
    atoms = F.normalize(torch.randn(k, vectors.shape[1]), dim=1)
    for _ in range(iterations):
        sums, counts = _sums(vectors, atoms, most_correlated)
        drawn = vectors[torch.randint(len(vectors), (k,))]
        atoms = F.normalize(torch.where(counts[:, None] > 0, sums + atoms, drawn), dim=1)
    return atoms


def _sums(vectors: Tensor, atoms: Tensor, assign: Assign) -> tuple[Tensor, Tensor]:
    """Weighted sums (K, n) of the vectors assigned to each atom, and their number (K,)."""
    sums, counts = torch.zeros_like(atoms), atoms.new_zeros(len(atoms))
    for part in vectors.split(BLOCK):
        poll_signals()
        index, weight = assign(part, atoms)
        sums.index_add_(0, index, part * weight[:, None])
        counts += torch.bincount(index, minlength=len(atoms))
    return sums, counts
