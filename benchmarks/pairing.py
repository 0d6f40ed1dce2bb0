"""Algorithm 1 against a plain loop, FAISS and the full matrix: ``python benchmarks/pairing.py``.

The plain loop takes blocks of rows and forms float32 distances by the expanded product, part by part,
with a running minimum; it keeps the smallest of each block, and is greedy over those. It certifies
nothing. In the goal's row it goes over the whole matrix, as one writes it down; in another it leaves out
the half that has been compared already, as ours does. FAISS (``pip install faiss-cpu``, no
part of the suite's environment) searches each part's nearest neighbours, and is greedy over those.

``--large`` pairs 100,000 images instead, some minutes, and checks the pairs in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import common
import torch
from common import NoRival, Row
from torch import Tensor

from bnta_lib.pairing import Pairs, nearest_pairs

K = 128
N, PARTS, WIDTH = 20_000, 6, 256
LARGE = 100_000
SMALL = 600  # images of which the full matrix of float64 distances is formed
NEIGHBOURS = 16  # that FAISS is asked for


def features(n: int, parts: int = PARTS, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Local features (N, H, C_l) as a ReLU leaves them: four images a person, off the origin."""
    random = torch.Generator().manual_seed(seed)
    people = torch.randn(-(-n // 4), parts, width, generator=random)
    found = torch.randn(n, parts, width, generator=random).mul_(0.7)
    who = torch.randint(0, len(people), (n,), generator=random)
    for h in range(parts):  # part by part: a copy of all of them would count as memory
        found[:, h] += people[who, h]
    return found.add_(0.5).relu_()


def greedy(distance: Tensor, index: Tensor, k: int) -> Tensor:
    """K pairs (K, 2) that share no image, from the smallest of squared distances (M,) of pairs (M, 2).

    Ties go to the smaller pair. Raises RuntimeError where the given pairs hold too few.
    """
    taken, chosen = set(), []
    for _, i, j in sorted(zip(distance.tolist(), *index.T.tolist())):
        if i not in taken and j not in taken:
            taken |= {i, j}
            chosen.append((i, j))
            if len(chosen) == k:
                return torch.tensor(chosen)
    raise RuntimeError(f"only {len(chosen)} of {k} pairs among {len(distance)} candidates")


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
        values, place = best.flatten().topk(min(smallest, best.numel()), largest=False)
        pairs = torch.stack([rows[place // len(columns)], columns[place % len(columns)]], 1)
        distance, index = torch.cat([distance, values]), torch.cat([index, pairs])
        if len(distance) > smallest:
            distance, place = distance.topk(smallest, largest=False)
            index = index[place]
    real = distance < torch.inf
    return greedy(distance[real], index[real], k)


def products(local: Tensor, block: int = 256) -> None:
    """The float32 products of half of the matrix, and nothing else."""
    parts = local.transpose(0, 1).contiguous()
    for first in range(0, len(local), block):
        for part in parts:
            torch.mm(part[first : first + block], part[first:].T)


def by_faiss(local: Tensor, k: int) -> Tensor:
    """Pairs (K, 2) of each part's nearest neighbours. Raises NoRival where FAISS is not installed."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise NoRival("rival not installed: pip install faiss-cpu") from error
    distance, index = [], []
    for part in local.transpose(0, 1):
        part = part.contiguous().numpy()
        search = faiss.IndexFlatL2(part.shape[1])
        search.add(part)
        squared, found = map(torch.from_numpy, search.search(part, NEIGHBOURS + 1))
        rows = torch.arange(len(part))[:, None].expand_as(found)
        later = rows < found  # once each pair, and no image with itself
        distance.append(squared[later])
        index.append(torch.stack([rows[later], found[later]], 1))
    distance, index = torch.cat(distance), torch.cat(index)
    distance, place = distance.topk(min(100 * k, len(distance)), largest=False)
    return greedy(distance, index[place], k)


def exact_distances(local: Tensor, index: Tensor) -> Tensor:
    """D of pairs (M, 2), float64 (M,), by direct difference."""
    some = index.split(4_096)
    return torch.cat([(local[i].double() - local[j].double()).square().sum(2).amin(1).sqrt()
                      for i, j in (pairs.T for pairs in some)])


def full_matrix(local: Tensor, k: int) -> Tensor:
    """Pairs (K, 2) by the full matrix of float64 distances by direct difference: exact."""
    index = torch.combinations(torch.arange(len(local)))
    return greedy(exact_distances(local, index), index, k)


def shared(a: Tensor, b: Tensor) -> int:
    """How many pairs are in both."""
    return len(set(map(tuple, a.tolist())) & set(map(tuple, b.tolist())))


def measured_small(n: int = SMALL, k: int = K, parts: int = PARTS, width: int = WIDTH) -> Iterator[Row]:
    """The row against the full matrix. Raises ValueError where the pairs differ."""
    local, pairs = features(n, parts, width), []
    took = common.least(lambda: nearest_pairs(local, k), 3)
    rival = common.seconds(lambda: pairs.append(full_matrix(local, k)))
    if not torch.equal(nearest_pairs(local, k).index, pairs[0]):
        raise ValueError("the pairs are not those of the full matrix")
    yield Row(f"pairing (N={n:,}, K={k})", took, "s", rival, "full float64 matrix",
              note=f"all {k} pairs are the same, in the same order")


def measured(n: int = N, k: int = K, parts: int = PARTS, width: int = WIDTH, rounds: int = 2
             ) -> Iterator[Row]:
    """The rows against the plain loop, in both ways, and FAISS."""
    local, found = features(n, parts, width), {}

    def run(who: str, function, *arguments) -> float:
        return common.seconds(lambda: found.update({who: function(local, k, *arguments)}))

    nearest_pairs(local[:1000], k if 2 * k <= min(n, 1000) else 1)  # warms up
    took = {}
    for _ in range(rounds):  # the least of each: other work on the machine disturbs that least
        for who, function, *arguments in (("half", plain_loop, True), ("ours", nearest_pairs),
                                          ("whole", plain_loop, False)):
            took[who] = min(took.get(who, math.inf), run(who, function, *arguments))
    bare = min(common.seconds(lambda: products(local)) for _ in range(rounds))
    about, exact = f"pairing (N={n:,}, K={k}, H={parts}, C_l={width})", found["ours"].index
    for who, against, goal in (("whole", "float32 loop over the whole matrix", ">= 3x"),
                               ("half", "float32 loop over half of the matrix", "")):
        yield Row(f"{about}, against a {against}", took["ours"], "s", took[who], against, goal,
                  note=f"{shared(exact, found[who])} of its {k} pairs are the exact ones",
                  why=f"the float32 products of half of the matrix alone take {bare:.3g} s, and every loop "
                  f"that skips no pair needs them; {bare / took[who]:.0%} of the rival's time")
    try:
        took["faiss"] = run("faiss", by_faiss)
        note = (f"{shared(exact, found['faiss'])} of its {k} pairs are the exact ones, of {NEIGHBOURS} "
                "neighbours a part; it certifies none")
    except NoRival as error:
        took["faiss"], note = math.nan, str(error)
    yield Row(f"{about}, against FAISS", took["ours"], "s", took["faiss"], "FAISS, flat index a part",
              note=note)


def paired(n: int, k: int, parts: int, width: int) -> tuple[float, float, int]:
    """In a process of its own: seconds, MB of features, and rows checked, of which none fails."""
    local, found = features(n, parts, width), []
    took = common.seconds(lambda: found.append(nearest_pairs(local, k)))
    return took, common.megabytes(local), certified(local, found[0])


def certified(local: Tensor, pairs: Pairs, rows: int = 64) -> int:
    """Checks pairs in float64 by direct difference; returns how many free images were compared with all.

    Raises ValueError where a pair's distance is not the one given, they are not in order or share an
    image, or two images that are free at the end are closer than the last pair.
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


def measured_large(n: int = LARGE, k: int = K, parts: int = PARTS, width: int = WIDTH) -> Iterator[Row]:
    """The row of many images."""
    # The certificate takes less than pairing: it holds 4,096 rows at a time.
    (took, own, rows), peak = common.in_fresh_process(paired, n, k, parts, width)
    yield Row(f"memory of pairing beyond the features (N={n:,}, K={k}, H={parts}, C_l={width})", peak - own,
              "MB", goal="< 2,000 MB", peak_mb=peak,
              note=f"{took:.0f} s; the features are {own:.0f} MB; every pair certified by the bound on "
              f"rounding, all distances checked in float64, and {rows} free images against all others")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--large", action="store_true", help=f"pair {LARGE:,} images, and nothing else")
    chosen = parser.parse_args()
    if chosen.large:
        common.run("pairing --large", measured_large(), chosen.csv)
    else:
        common.run(Path(__file__).stem, (row for part in (measured_small(), measured()) for row in part),
                   chosen.csv)


if __name__ == "__main__":
    main()
