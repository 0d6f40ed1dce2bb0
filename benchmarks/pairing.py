"""Algorithm 1 against a plain loop: ``python benchmarks/pairing.py``.

The loop takes blocks of rows and forms float32 distances by the expanded product, part by part, with a
running minimum; it keeps the smallest of each block, and is greedy over those. It certifies nothing. In the
goal's row it goes over the whole matrix, as one writes it down; in another it leaves out the half that has
been compared already, as ours does. ``--large`` pairs 100,000 images instead, some minutes, and checks the
pairs in float64.
"""

from collections.abc import Iterator
from functools import partial

import common
import torch
from common import Row
from torch import Tensor

from bnta_lib.pairing import Pairs, nearest_pairs

K, PARTS, WIDTH = 128, 6, 256


def features(n: int, parts: int = PARTS, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Local features (N, H, C_l) as a ReLU leaves them: four images a person, off the origin."""
    random = torch.Generator().manual_seed(seed)
    people = torch.randn(-(-n // 4), parts, width, generator=random)
    local = torch.randn(n, parts, width, generator=random).mul_(0.7)
    who = torch.randint(0, len(people), (n,), generator=random)
    for h in range(parts):  # part by part: a copy of all of them would count as memory
        local[:, h] += people[who, h]
    return local.add_(0.5).relu_()


def greedy(distance: Tensor, index: Tensor, k: int) -> Tensor:
    """K pairs (K, 2) that share no image, from the smallest of squared distances (M,) of pairs (M, 2).

    Ties go to the smaller pair.
    """
    taken, pairs = set(), []
    for _, i, j in sorted(zip(distance.tolist(), *index.T.tolist())):
        if i not in taken and j not in taken:
            taken |= {i, j}
            pairs.append((i, j))
            if len(pairs) == k:
                return torch.tensor(pairs)
    raise RuntimeError(f"only {len(pairs)} of {k} pairs among {len(distance)} candidates")


def plain_loop(local: Tensor, k: int, half: bool, block: int = 256) -> Tensor:
    """The plain loop's pairs (K, 2)."""
    parts = local.transpose(0, 1).contiguous()
    squares = parts.square().sum(2)
    n, smallest = len(local), 100 * k
    distance, index = torch.empty(0), torch.empty((0, 2), dtype=torch.int64)
    for first in range(0, n, block):
        rows = torch.arange(first, min(first + block, n))
        begin = first if half else 0
        best = None
        for part, square in zip(parts, squares):
            d = square[rows, None] + square[None, begin:] - 2 * part[rows] @ part[begin:].T
            best = d if best is None else torch.minimum(best, d)
        columns = torch.arange(begin, n)
        best.masked_fill_(columns[None] <= rows[:, None], torch.inf)
        values, flat = best.flatten().topk(min(smallest, best.numel()), largest=False)
        pairs = torch.stack([rows[flat // len(columns)], columns[flat % len(columns)]], 1)
        distance, index = torch.cat([distance, values]), torch.cat([index, pairs])
        if len(distance) > smallest:
            distance, order = distance.topk(smallest, largest=False)
            index = index[order]
    real = distance < torch.inf
    return greedy(distance[real], index[real], k)


def exact_distances(local: Tensor, index: Tensor) -> Tensor:
    """D of pairs (M, 2), float64 (M,), by direct difference."""
    return torch.cat([(local[i].double() - local[j].double()).square().sum(2).amin(1).sqrt()
                      for i, j in (pairs.T for pairs in index.split(4_096))])


def measured(n: int, k: int = K, parts: int = PARTS, width: int = WIDTH) -> Iterator[Row]:
    """A row for the whole matrix, and one for half of it."""
    local, pairs = features(n, parts, width), []
    nearest_pairs(local[: 4 * k], k)  # warms up
    took = min(common.seconds(lambda: pairs.append(nearest_pairs(local, k))) for _ in range(3))
    exact = {tuple(pair) for pair in pairs[0].index.tolist()}
    for half, which, goal in ((False, "the whole", ">= 3x"), (True, "half of the", "")):
        right = len(exact & {tuple(pair) for pair in plain_loop(local, k, half).tolist()})
        rival = min(common.seconds(partial(plain_loop, local, k, half)) for _ in range(2))
        against = f"float32 loop over {which} matrix"
        yield Row(f"pairing (N={n:,}, K={k}, H={parts}, C_l={width}), against a {against}", took, "s", rival,
                  against, goal, note=f"{right} of its {k} pairs are the exact ones")


def paired(n: int, k: int, parts: int, width: int) -> tuple[float, float, int]:
    """In a process of its own: seconds, MB of features, and rows checked, of which none fails."""
    local, results = features(n, parts, width), []
    took = common.seconds(lambda: results.append(nearest_pairs(local, k)))
    return took, local.numel() * local.element_size() / 1e6, certified(local, results[0])


def certified(local: Tensor, pairs: Pairs, rows: int = 64) -> int:
    """Check pairs in float64 by direct difference; returns how many free images were compared with all.

    Raises ValueError if a pair's distance is not the one given, they are not in order or share an image, or
    two images that are free at the end are closer than the last pair.
    """
    exact = exact_distances(local, pairs.index)
    if not torch.allclose(exact, pairs.distance, rtol=1e-12, atol=0) or (exact.diff() < 0).any():
        raise ValueError("the pairs' distances are not those in float64, or not in order")
    if len(pairs.index.unique()) != pairs.index.numel():
        raise ValueError("an image is in two pairs")
    free = torch.ones(len(local), dtype=torch.bool)
    free[pairs.index] = False
    free = free.nonzero()[:, 0]
    sample = free[torch.randperm(len(free), generator=torch.Generator().manual_seed(0))[:rows]]
    for i in sample.tolist():
        others = free[free != i]
        index = torch.stack([torch.full_like(others, i), others], 1)
        if exact_distances(local, index).min() < pairs.distance[-1]:
            raise ValueError(f"image {i} has a free neighbour that is closer than the last pair")
    return len(sample)


def large(device: str, quick: bool) -> Iterator[Row]:
    """The row of many images. The check takes less memory than pairing: it holds 4,096 rows at a time."""
    n, k, width = (200, 8, 8) if quick else (100_000, K, WIDTH)
    (took, held, rows), peak = common.in_fresh_process(paired, n, k, PARTS, width)
    yield Row(f"memory of pairing beyond the features (N={n:,}, K={k}, H={PARTS}, C_l={width})", peak - held,
              "MB", goal="< 2,000 MB", peak_mb=peak,
              note=f"{took:.0f} s; the features are {held:.0f} MB; all "
              f"distances checked in float64, and {rows} free images against all others")


def rows(device: str, quick: bool) -> Iterator[Row]:
    yield from measured(600, 8, 2, 8) if quick else measured(20_000)


if __name__ == "__main__":
    common.main(__doc__, rows, large=large)
