"""Algorithm 1 of the paper: the K non-overlapping image pairs with the most similar part.

D(i, j) is the smallest, over the H parts, of the Euclidean distances of the part's features.
The K pairs are taken greedily from the smallest D; an image enters one pair at most. Ties go to
the smaller (i, j), i < j, and the smaller part.

The N x N matrix is never held. Every image keeps a short list of its nearest neighbours, found
in blocks of rows by float32 products; an entry is trusted only where a bound on their rounding
error certifies that nothing outside the list is closer. An image whose trusted entries are
used up is scanned again among the images still free, with a longer list. The result is thus the
one of the full matrix of float64 distances by direct difference, with O(N * block) memory.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor


LARGEST = 1e140  # of a feature: sums of squares stay within float64


@dataclass(frozen=True)
class Pairs:
    """K pairs in the order of their distance: Algorithm 1's adaption sample set."""

    index: Tensor  # int64 (K, 2), i < j: rows of the features given
    part: Tensor  # int64 (K,): matched part n, from 0
    distance: Tensor  # float64 (K,): distance of the matched parts

    def first(self, k: int) -> Pairs:
        """The k closest pairs: what Algorithm 1 gives for a smaller K, since it is greedy."""
        return Pairs(self.index[:k], self.part[:k], self.distance[:k])


def check_sizes(n: int, k: int) -> None:
    """Raise ValueError where no K non-overlapping pairs can be formed from N images."""
    if not isinstance(k, SupportsIndex) or isinstance(k, bool):
        raise ValueError(f"K is a whole number of pairs, got {k!r}")
    if n < 4:
        raise ValueError(f"pairing needs at least 4 images, got N = {n}")
    if k < 1 or 2 * k > n:
        raise ValueError(f"K non-overlapping pairs need 2K <= N images and K >= 1: got K = {k}, "
                         f"N = {n}")


def nearest_pairs(local: Tensor, k: int, block: int = 256, candidates: int = 16) -> Pairs:
    """Algorithm 1, steps 4 to 7, for local features (N, H, C_l).

    ``block`` rows are compared at a time, ``candidates`` neighbours of each kept at first: they
    decide time and memory, not the pairs. Raises ValueError for N < 4, 2K > N, a block or list
    without rows, or features that are not finite, or too large to be squared in float64.
    """
    if local.ndim != 3 or 0 in local.shape[1:]:
        raise ValueError(f"local features have shape (N, H, C_l), got {tuple(local.shape)}")
    if block < 1 or candidates < 1:
        raise ValueError(f"block and candidates are at least 1, got {block} and {candidates}")
    n = len(local)
    check_sizes(n, k)
    features = local.detach().cpu()
    if not torch.isfinite(features).all():
        raise ValueError("local features hold NaN or infinite values: the model or the images "
                         "are broken")
    if (largest := float(features.abs().amax())) > LARGEST:
        raise ValueError(f"local features of up to {largest:.0e} are too large to compare (the limit "
                         f"is {LARGEST:.0e}): the model is broken")
    scan = _Scanner(features, block)

    # Row i answers for the pairs (i, j), i < j. Its list holds (squared distance, j, part) in
    # order; j = -1 marks a lower bound of all that the list leaves out. The heap holds the head
    # of each list as (squared distance, i, j, part): a bound comes before a pair that ties.
    free = torch.ones(n, dtype=torch.bool)
    lists = scan(torch.arange(n), free, candidates)
    length = [candidates] * n
    heap = [(d, i, j, h) for i in range(n) if lists[i] for d, j, h in lists[i][:1]]
    heapq.heapify(heap)

    index, part, distance = [], [], []
    while len(index) < k:
        d, i, j, h = heapq.heappop(heap)
        if not free[i]:
            continue
        if j >= 0 and free[j]:
            index.append((i, j))
            part.append(h)
            distance.append(d**0.5)
            free[i] = free[j] = False
            lists[i] = lists[j] = []
            continue
        if j < 0:  # the list is used up: scan again among the free, twice as far
            length[i] *= 2
            lists[i] = scan(torch.tensor([i]), free, length[i])[i]
        lists[i] = [entry for entry in lists[i] if entry[1] < 0 or free[entry[1]]]
        if lists[i]:
            d, j, h = lists[i][0]
            heapq.heappush(heap, (d, i, j, h))
    return Pairs(
        torch.tensor(index), torch.tensor(part), torch.tensor(distance, dtype=torch.float64)
    )


def part_distances(local: Tensor, index: Tensor) -> Tensor:
    """Euclidean distances (K, H) of every part of the pairs ``index`` (K, 2), in float64.

    Their minimum over parts is D of Algorithm 1. ``local``: (N, H, C_l).
    """
    features = local.detach().double()
    return torch.linalg.vector_norm(features[index[:, 0]] - features[index[:, 1]], dim=2)


class _Scanner:
    """Nearest neighbours j > i of rows i among the free images: exact, or marked as a bound."""

    def __init__(self, features: Tensor, block: int):
        n, parts, width = features.shape
        self.features, self.block = features, block
        # |x|^2 + |y|^2 - 2 x.y as one product, of [x, |x|^2, 1] and [-2 y, 1, |y|^2], in float32.
        # Far from the origin it loses the small distances: each part is centred first. Scaling by
        # a power of two changes no digit, and keeps squares within the range of float32.
        largest = features.abs().amax().double().item()
        self.size = 2.0 ** -(math.frexp(largest)[1] + 1)
        self.left, self.right = torch.ones(2, parts, n, width + 2)
        norms = torch.zeros(n, dtype=torch.float64)
        for h in range(parts):
            part = features[:, h].double()
            fast = ((part - part.mean(0)) * self.size).float()
            squares = fast.double().square().sum(1)
            self.left[h, :, :width], self.left[h, :, width] = fast, squares
            self.right[h, :, :width], self.right[h, :, width + 1] = -2 * fast, squares
            norms = torch.maximum(norms, squares.sqrt())
        # Rounding of the C_l + 2 terms in any order of summation: they add up to (|x| + |y|)^2 at
        # most in size. 8 more for that of features and norms; last, that of the centring.
        float32, float64 = torch.finfo(torch.float32), torch.finfo(torch.float64)
        self.error = (width / 2 + 8) * float32.eps * (norms + norms.max()).square() + float32.tiny
        self.error += 8 * float64.eps * width * self.size * largest

    def __call__(self, rows: Tensor, free: Tensor, length: int) -> dict[int, list]:
        """Lists of ``rows`` (ascending), each of ``length`` neighbours at most."""
        columns = free.nonzero()[:, 0]
        found: dict[int, list] = {}
        for chunk in rows.split(self.block):
            later = columns[columns > chunk[0]]
            if not len(later):
                found |= {i: [] for i in chunk.tolist()}
                continue
            # One more than asked for: it bounds everything that the list leaves out.
            fast, place = self._fast(chunk, later).topk(min(length + 1, len(later)), largest=False)
            limit = torch.full((len(chunk),), torch.inf, dtype=torch.float64)
            if len(later) > length:
                limit = (fast[:, length].double() - self.error[chunk]) / self.size**2
            partner = later[place[:, :length]]
            squared, part = self._exact(chunk, partner)
            kept = (partner > chunk[:, None]) & (squared < limit[:, None])
            for i, bound, *row in zip(chunk.tolist(), limit.tolist(), kept.tolist(), squared.tolist(),
                                      partner.tolist(), part.tolist()):
                entries = sorted((d, j, h) for keep, d, j, h in zip(*row) if keep)
                if bound != float("inf"):
                    entries.append((max(bound, 0.0), -1, -1))
                if len(entries) > self.block:  # keep memory at O(block) a row
                    entries = entries[: self.block] + [(entries[self.block][0], -1, -1)]
                found[i] = entries
        return found

    def _fast(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Smallest squared distance over parts, (rows, columns), by the expanded product, scaled."""
        best = d = None
        for left, right in zip(self.left, self.right):
            d = torch.mm(left[rows], right[columns].T, out=d)
            if best is None:
                best, d = d, None
            else:
                torch.minimum(best, d, out=best)
        early = int((columns <= rows[-1]).sum())  # the other columns are later than all rows
        best[:, :early].masked_fill_(columns[None, :early] <= rows[:, None], torch.inf)
        return best

    def _exact(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances of images (b,) to others (b, n) by direct difference, and their part."""
        best = torch.full(others.shape, torch.inf, dtype=torch.float64)
        part = torch.zeros(others.shape, dtype=torch.int64)
        for h in range(self.features.shape[1]):
            own, other = self.features[rows, None, h].double(), self.features[others, h].double()
            d = other.sub_(own).square_().sum(-1)
            part[d < best] = h
            best = torch.minimum(best, d)
        return best, part
