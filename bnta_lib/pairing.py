"""Algorithm 1 of the paper: the K non-overlapping image pairs with the most similar part.

D(i, j) is the smallest, over the H parts, of the Euclidean distances of the part's features. The K pairs are
taken greedily from the smallest D; an image enters one pair at most. Ties go to the smaller (i, j), i < j,
and the smaller part. The N x N matrix is never held. Float32 products, less a bound on their rounding, give
each row a lower bound. A row is measured when no smaller bound is left, or when its nearest image is taken.
"""

import heapq
import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

MEASURED = 32  # rows that are measured at once
Nearest = tuple[float, int, int, int]  # a row's nearest pair: squared distance, i, j, matched part


@dataclass(frozen=True)
class Pairs:
    """K pairs in the order of their distance: Algorithm 1's adaption sample set."""

    index: Tensor  # int64 (K, 2), i < j: rows of the features given
    part: Tensor  # int64 (K,): matched part n, from 0
    distance: Tensor  # float64 (K,): distance of the matched parts

    def first(self, k: int) -> "Pairs":
        """The k closest pairs: Algorithm 1 for a smaller K, since it is greedy. Raises ValueError."""
        if not 1 <= k <= len(self.index):
            raise ValueError(f"there are no K = {k} pairs among {len(self.index)}")
        return Pairs(self.index[:k], self.part[:k], self.distance[:k])


def check_sizes(n: int, k: int) -> None:
    """Raise ValueError if no K non-overlapping pairs can be formed from N images."""
    if n < 4 or operator.index(k) < 1 or 2 * k > n:
        raise ValueError(f"pairs need at least 4 images, K >= 1 and 2K <= N: got K = {k}, N = {n}")


def nearest_pairs(local: Tensor, k: int, block: int = 256) -> Pairs:
    """Algorithm 1, steps 4 to 7, for local features (N, H, C_l), in O(N * block) memory.

    Raises ValueError for N < 4, 2K > N, or features that are not finite.
    """
    n = len(local)
    if local.ndim != 3 or 0 in local.shape[1:]:
        raise ValueError(f"local features have shape (N, H, C_l), got {tuple(local.shape)}")
    check_sizes(n, k)
    if not all(abs(float(extreme)) < 1e150 for extreme in local.detach().aminmax()):  # squares stay finite
        raise ValueError("local features hold NaN or infinite values: the model or the images are broken")

    rows = _Rows(local.detach().cpu())
    bound, waiting = torch.cat([rows.bounds(chunk) for chunk in torch.arange(n).split(block)]).sort()
    bounds, start = [*bound.tolist(), math.inf], 0  # the rows from `start` on are not measured yet
    heap: list[Nearest] = []  # of each measured row
    pairs: list[Nearest] = []
    while len(pairs) < k:
        if bounds[start] <= (heap[0][0] if heap else math.inf):
            due, start = waiting[start : start + MEASURED], min(start + MEASURED, n)
        elif rows.free[[*heap[0][1:3]]].all():
            pairs.append(heapq.heappop(heap))
            rows.free[[*pairs[-1][1:3]]] = False
            continue
        else:  # with the next ones, of which most are about to be due: one row takes as long as many
            due = torch.tensor([heapq.heappop(heap)[1] for _ in heap[:MEASURED]])
        for nearest in rows.nearest(due[rows.free[due]].sort().values):
            heapq.heappush(heap, nearest)
    squared, first, second, part = zip(*pairs, strict=True)
    distance = torch.tensor(squared, dtype=torch.float64).sqrt()
    return Pairs(torch.tensor([first, second]).T.contiguous(), torch.tensor(part), distance)


class _Rows:
    """Rows i of D over the columns j > i of images that are still free."""

    def __init__(self, features: Tensor):
        n, _, width = features.shape
        self.features, self.free = features, torch.ones(n, dtype=torch.bool)
        # Each part is centred first: far from the origin float32 loses the small distances. Scaling keeps
        # squares in its range.
        self.scale = torch.stack(features.aminmax()).double().abs().max().clamp(min=1e-300)
        self.parts, norms = [], torch.zeros(n, dtype=torch.float64)
        for part in features.unbind(1):
            x = part.double()
            x = ((x - x.mean(0)) / self.scale).float()
            squares = x.double().square().sum(1)
            norms = torch.maximum(norms, squares.sqrt())
            self.parts.append((x, squares.float()))
        # The terms of |x|^2 + |y|^2 - 2 x.y add up to (|x| + |y|)^2 at most in size, in any order of
        # summation. 8 more for the rounding of features and norms. The last term is that of centring.
        eps32, eps64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
        self.error = (width / 2 + 8) * eps32 * (norms + norms.max()).square()
        self.error += torch.finfo(torch.float32).tiny + 8 * eps64 * width

    def bounds(self, rows: Tensor) -> Tensor:
        """Lower bounds (R,) of the squared distances in ascending ``rows``; inf for a row without columns."""
        return (self._approximate(rows).amin(1).double() - self.error[rows]) * self.scale**2

    def nearest(self, rows: Tensor) -> list[Nearest]:
        """The nearest pair of each of ascending ``rows``, exactly."""
        if not len(rows):
            return []
        squares = self._approximate(rows).double()
        near = (squares <= squares.amin(1, keepdim=True) + 2 * self.error[rows, None]) & (squares < torch.inf)
        row, column = near.nonzero().T
        nearest: dict[int, Nearest] = {}
        for i, j in zip(rows[row].split(4096), (column + rows[0]).split(4096), strict=True):
            squared, part = (self.features[i].double() - self.features[j].double()).square_().sum(2).min(1)
            for pair in zip(squared.tolist(), i.tolist(), j.tolist(), part.tolist(), strict=True):
                nearest[pair[1]] = min(pair, nearest.get(pair[1], pair))
        return list(nearest.values())

    def _approximate(self, rows: Tensor) -> Tensor:
        """Scaled squared distances by float32 products, off by ``error`` at most, in ascending ``rows``.

        (R, columns from ``rows[0]`` on): the smallest over parts, and inf unless j > i and j is free.
        """
        first, last = int(rows[0]), int(rows[-1])
        best, product = torch.full((len(rows), len(self.free) - first), torch.inf), None
        for x, squares in self.parts:
            product = torch.addmm(squares[first:], x[rows], x[first:].T, alpha=-2, out=product)
            torch.minimum(best, product.add_(squares[rows, None]), out=best)
        best[:, : last + 1 - first].masked_fill_(torch.arange(first, last + 1) <= rows[:, None], torch.inf)
        return best.masked_fill_(~self.free[first:], torch.inf)
