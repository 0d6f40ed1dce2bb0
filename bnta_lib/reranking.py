"""Re-ranking with k-reciprocal encoding (Zhong, Zheng, Cao and Li, CVPR 2017), beyond BNTA's paper.

An image is described by the neighbours that have it among theirs. All probes and the gallery are compared at
once, and the scores compare with re-ranked ones alone.
"""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


def reranked(probe: Tensor, gallery: Tensor, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Tensor:
    """Distances (P, G), Eq. (12), of features (P, C) and (G, C) in float64; the defaults are its authors'.

    The original distance is the squared Euclidean one over the largest from the image, as in their code.
    """
    features, n = torch.cat([probe, gallery]), len(probe) + len(gallery)
    squares = features.square().sum(1)
    square = torch.addmm(squares + squares[:, None], features, features.T, alpha=-2).clamp_(min=0)
    near = square.fill_diagonal_(0).div_(square.amax(1, keepdim=True).clamp(min=1e-300)).numpy()
    order = near.argsort(axis=1, kind="stable")[:, : max(k1, k2) + 1]
    expanded = _expanded(order, k1).tocoo()
    rows, columns = expanded.coords
    vectors = csr_array((np.exp(-near[rows, columns]), (rows, columns)), (n, n))  # Eq. (7)
    vectors = csr_array(vectors.multiply(1 / vectors.sum(1)[:, None]))
    vectors = _neighbours(order, k2) @ vectors / min(k2, n)  # Eq. (11), local query expansion
    jaccard, of_gallery = np.ones((len(probe), len(gallery))), vectors[len(probe) :].tocsc()
    for i in range(len(probe)):
        own = vectors[[i]]
        columns = of_gallery[:, own.indices]
        columns.data = np.minimum(columns.data, own.data.repeat(np.diff(columns.indptr)))
        shared = columns.sum(1)
        jaccard[i] -= shared / (2 - shared)  # Eq. (10), since a vector's sum is 1
    return torch.from_numpy((1 - weight) * jaccard + weight * near[: len(probe), len(probe) :])


def _expanded(order: np.ndarray, k: int) -> csr_array:
    """R*(i, k) of Eq. (5), bool (n, n): R(i, k) and each R(j, k / 2) of its members of which it has 2/3."""
    mutual, half = (_mutual(_neighbours(order, size + 1)) for size in (k, round(k / 2)))
    shared = (mutual @ half.T).multiply(mutual)  # of i and of its member j
    least = shared.astype(bool).multiply(2 / 3 * half.sum(1)[None])
    joined = shared > least
    return (mutual + joined.astype(float) @ half) > 0


def _mutual(neighbours: csr_array) -> csr_array:
    """R(i, k) of Eq. (3): neighbours of which i is one too."""
    return csr_array(neighbours.multiply(neighbours.T))


def _neighbours(order: np.ndarray, k: int) -> csr_array:
    """N(i, k) as ones of a matrix (n, n); ``order`` (n, k) are the nearest images, i itself first."""
    n, near = len(order), order[:, :k]
    return csr_array((np.ones(near.size), (np.arange(n).repeat(near.shape[1]), near.ravel())), (n, n))
