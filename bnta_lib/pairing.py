"""Algorithm 1 of the paper: the K non-overlapping image pairs with the most similar part.

D(i, j) is the smallest, over the H parts, of the Euclidean distances of the part's features.
The K pairs are taken greedily from the smallest D; an image enters one pair at most. Ties go to
the smaller (i, j), i < j, and the smaller part.

The N x N matrix is never held. Every image keeps a short list of its nearest neighbours, found
in blocks of rows by float32 products. Where it comes to an image's turn its list is measured in
float64, by direct difference; an entry is trusted only where a bound on the rounding of the
products certifies that nothing outside the list is closer. An image whose trusted entries are
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

    # Row i answers for the pairs (i, j), i < j. The heap holds, of each row, the first of what it has
    # left, as (squared distance, i, j, part), or a lower bound of all that, with j = -1: a bound comes
    # before a pair that ties. At first each row has a bound, and its list still to be measured.
    free = torch.ones(n, dtype=torch.bool)
    nearest, lower = scan(torch.arange(n), free, candidates)
    lists: dict[int, list] = {}
    length = [candidates] * n
    heap = [(bound, i, -1, -1) for i, bound in enumerate(lower[:, 0].tolist()) if bound < math.inf]
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
        if i not in lists:
            lists[i] = scan.measured(i, nearest[i], float(lower[i, 1]))
        elif j < 0:  # the list is used up: scan again among the free, twice as far
            length[i] *= 2
            again, bounds = scan(torch.tensor([i]), free, length[i])
            lists[i] = scan.measured(i, again[0], float(bounds[0, 1]))
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

    def __call__(self, rows: Tensor, free: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """What float32 tells of ``rows`` (R,), ascending: neighbours (R, length), -1 where there are
        fewer, in no order; and lower bounds (R, 2) of the squared distances of those and of all
        others, infinite where there are none."""
        columns = free.nonzero()[:, 0]
        nearest = torch.full((len(rows), min(length, max(len(columns), 1))), -1)
        lower = torch.full((len(rows), 2), torch.inf, dtype=torch.float64)
        for place in torch.arange(len(rows)).split(self.block):
            chunk = rows[place]
            later = columns[columns > chunk[0]]
            if not len(later):
                continue
            # One more than asked for: it bounds everything that the list leaves out.
            fast, found = self._fast(chunk, later).topk(min(length + 1, len(later)), largest=False)
            own = later[found[:, :length]]
            nearest[place, : own.shape[1]] = own.where(fast[:, :length] < torch.inf, -1)
            bounds = (fast.double() - self.error[chunk, None]).clamp_min_(0.0) / self.size**2
            lower[place, 0] = bounds[:, 0]
            if len(later) > length:
                lower[place, 1] = bounds[:, length]
        return nearest, lower

    def measured(self, i: int, others: Tensor, limit: float) -> list[tuple[float, int, int]]:
        """Pairs of row ``i`` with ``others`` (-1: none) as (squared distance, j, part), in order, as far
        as they are closer than ``limit``, which bounds all the rest; it ends the list, where finite."""
        others = others[others >= 0]
        found = zip(*(values.tolist() for values in self._exact(i, others)), others.tolist())
        entries = sorted((d, j, h) for d, h, j in found if d < limit)
        if limit < math.inf:
            entries.append((limit, -1, -1))
        if len(entries) > self.block:  # keep memory at O(block) a row
            entries = entries[: self.block] + [(entries[self.block][0], -1, -1)]
        return entries

    def _fast(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Smallest squared distance over parts, (rows, columns), by the expanded product, scaled."""
        best = d = None
        own, others = _at(rows), _at(columns)
        for left, right in zip(self.left, self.right):
            d = torch.mm(left[own], right[others].T, out=d)
            if best is None:
                best, d = d, None
            else:
                torch.minimum(best, d, out=best)
        early = int((columns <= rows[-1]).sum())  # the other columns are later than all rows
        best[:, :early].masked_fill_(columns[None, :early] <= rows[:, None], torch.inf)
        return best

    def _exact(self, i: int, others: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (n,) of image ``i`` to others (n,) by direct difference, and their part.

        Of parts that tie the smaller.
        """
        difference = self.features[others].double().sub_(self.features[i].double())
        squared = difference.square_().sum(2)
        part = squared.argmin(1)
        return squared.gather(1, part[:, None])[:, 0], part


def _at(index: Tensor) -> Tensor | slice:
    """Ascending indices, as a slice where they leave none out: it takes no copy."""
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index
