"""Algorithm 1 against brute force on the full matrix of float64 distances."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bnta_lib.pairing import nearest_pairs


def brute_force(local, k):
    """Indices, parts and distances of Algorithm 1, from all distances at once."""
    x = local.double().numpy()
    n, stripes = x.shape[:2]
    by_part = np.stack([
        [((x[i, h] - x[:, h]) ** 2).sum(1) ** 0.5 for i in range(n)] for h in range(stripes)
    ])  # fmt: skip
    part, nearest = by_part.argmin(0), by_part.min(0)
    rows, columns = np.triu_indices(n, 1)
    order = np.lexsort((columns, rows, nearest[rows, columns]))
    used, pairs = set(), []
    for i, j in zip(rows[order].tolist(), columns[order].tolist()):
        if len(pairs) < k and i not in used and j not in used:
            used |= {i, j}
            pairs.append((i, j))
    i, j = np.array(pairs).T
    return pairs, part[i, j].tolist(), nearest[i, j]


def check(local, k, **options):
    found = nearest_pairs(local, k, **options)
    pairs, part, distance = brute_force(local, k)
    assert [tuple(p) for p in found.index.tolist()] == pairs
    assert found.part.tolist() == part
    np.testing.assert_allclose(found.distance.numpy(), distance, rtol=1e-12)


def features(kind: str, n=240, stripes=6, width=16) -> torch.Tensor:
    g = torch.Generator().manual_seed(len(kind))

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    x = normal(n, stripes, width)
    match kind:
        case "sparse":  # as after a ReLU
            return x.relu()
        case "clustered":  # eight places, and noise of a ten-thousandth around them
            return normal(8, stripes, width)[torch.arange(n) % 8] + 1e-4 * x
        case "duplicated":  # every image thirty times
            return x[: n // 30].repeat(30, 1, 1)
        case "all equal":
            return torch.ones_like(x)
        case "far from the origin":
            return x + 10_000
        case "one part far":
            return x + torch.tensor([0, 0, 3e5, 0, 0, 0])[:, None]
        case "hubs":  # a fifth sits in the middle and is the nearest neighbour of all
            return torch.where(torch.arange(n)[:, None, None] % 5 == 0, 0.1 * x,
                               10 * torch.nn.functional.normalize(x, dim=2))
        case "other scales":
            return x * torch.logspace(-6, 6, n)[:, None, None]
    return x


KINDS = ("random", "sparse", "clustered", "duplicated", "all equal", "far from the origin",
         "one part far", "hubs", "other scales")


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_those_of_brute_force(kind):
    x = features(kind)
    for k in (1, 30, 120):
        check(x, k)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_ties_are_in_the_order_of_i_j_and_part(data):
    # Whole numbers: every distance is exact, and most are tied.
    n = data.draw(st.integers(4, 20))
    shape = (n, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    size = math.prod(shape)
    values = data.draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    x = torch.tensor(values).reshape(shape).double() + data.draw(st.sampled_from([0, 7, 2**20]))
    check(x, data.draw(st.integers(1, n // 2)), block=data.draw(st.integers(1, 20)))


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // 8)
        return out


@pytest.mark.parametrize("kind, n", [("all equal", 600), ("hubs", 3_000)])
def test_memory_does_not_grow_with_the_square_of_the_images(kind, n):
    block = 256
    x = features(kind, n, stripes=3, width=8)
    with LargestTensor() as largest:
        nearest_pairs(x, 128, block)
    tracemalloc.start()
    nearest_pairs(x, n // 2, block)
    python = tracemalloc.get_traced_memory()[1]  # the lists of neighbours
    tracemalloc.stop()
    assert largest.numel <= block * n  # float64 numbers; the full matrix has n * n
    assert python < 8 * n * n / 2


def with_one(value):
    x = features("random", n=8).double()
    x[3, 2, 1] = value
    return x


@pytest.mark.parametrize("local, k, sentence", [
    (torch.zeros(3, 6, 8), 1, "at least 4 images, .* got K = 1, N = 3"),
    (torch.zeros(9, 6, 8), 5, "K >= 1 and 2K <= N: got K = 5, N = 9"),
    (torch.zeros(9, 6, 8), 0, "K >= 1 and 2K <= N: got K = 0, N = 9"),
    *((with_one(bad), 2, "^local features hold NaN or infinite values: the model or the images are broken$")
      for bad in (torch.nan, torch.inf, 1e200)),
    (torch.zeros(8, 6, 4), 2.0, "cannot be interpreted as an integer"),
    (torch.zeros(8, 6), 2, r"shape \(N, H, C_l\), got \(8, 6"),
    (torch.zeros(8, 0, 4), 2, r"shape \(N, H, C_l\), got \(8, 0"),
])
def test_wrong_arguments_are_refused(local, k, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        nearest_pairs(local, k)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_pairs_do_not_depend_on_the_scale(scale):
    x = features("random").double()
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(nearest_pairs((x * scale).to(dtype), 60).index, nearest_pairs(x, 60).index)
