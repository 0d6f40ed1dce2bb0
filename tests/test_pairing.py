"""Algorithm 1 against brute force on the full matrix of float64 distances."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bnta_lib import pairing
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
        case "hubs":  # a fifth sits in the middle and is everybody's nearest neighbour
            return torch.where(torch.arange(n)[:, None, None] % 5 == 0, 0.1 * x,
                               10 * torch.nn.functional.normalize(x, dim=2))
        case "other scales":
            return x * torch.logspace(-6, 6, n)[:, None, None]
    return x


KINDS = ("random", "sparse", "clustered", "duplicated", "all equal", "far from the origin",
         "one part far", "hubs", "other scales")


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_differ_from_brute_force(kind):
    x = features(kind)
    for k in (1, 30, 120):
        check(x, k)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_or_list_lengths_change_the_pairs(kind):
    x = features(kind, n=60)
    for block, candidates in ((1, 1), (7, 2), (256, 60)):
        check(x, 30, block=block, candidates=candidates)


@pytest.mark.parametrize("seed", range(8))
def test_rounding_of_the_fast_distances_hides_an_equal_image(seed):
    # Copies are at distance 0, and at a few times 1e-16 by the expanded product.
    g = torch.Generator().manual_seed(seed)
    check(torch.randn(8, 2, 17, generator=g).repeat(8, 1, 1), 32, candidates=2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ties_are_not_in_the_order_of_i_j_and_part(data):
    # Whole numbers: every distance is exact, and most are tied.
    n = data.draw(st.integers(4, 20))
    shape = (n, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    size = math.prod(shape)
    values = data.draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    x = torch.tensor(values).reshape(shape).double() + data.draw(st.sampled_from([0, 7, 2**20]))
    check(x, data.draw(st.integers(1, n // 2)), block=data.draw(st.integers(1, 20)),
          candidates=data.draw(st.integers(1, 20)))


def test_an_image_is_in_two_pairs_or_paired_with_itself():
    index = nearest_pairs(features("hubs"), 120).index
    assert sorted(index.flatten().tolist()) == list(range(240))
    assert (index[:, 0] < index[:, 1]).all()


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // 8)
        return out


@pytest.mark.parametrize("kind, n", [("all equal", 900), ("hubs", 3_000)])
def test_memory_grows_with_the_square_of_the_images(kind, n):
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


def test_features_or_gradients_are_changed():
    x = features("random", n=20).requires_grad_()
    before = x.detach().clone()
    found = nearest_pairs(x, 10)
    assert torch.equal(x, before) and x.grad is None and not found.distance.requires_grad


@pytest.mark.parametrize("n, k, sentence", [
    (3, 1, "at least 4 images, got N = 3"),
    (0, 1, "at least 4 images, got N = 0"),
    (9, 5, "2K <= N images and K >= 1: got K = 5, N = 9"),
    (9, 0, "2K <= N images and K >= 1: got K = 0, N = 9"),
    (9, -1, "2K <= N images and K >= 1"),
])  # fmt: skip
def test_too_few_images_are_paired(n, k, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest_pairs(torch.zeros(n, 6, 8), k)


def test_broken_features_are_paired():
    for bad in (torch.nan, torch.inf):
        x = features("random", n=8)
        x[3, 2, 1] = bad
        with pytest.raises(ValueError, match="^local features hold NaN or infinite values: the model or the "
                                             "images are broken$"):
            nearest_pairs(x, 2)
    with pytest.raises(ValueError, match=r"shape \(N, H, C_l\), got \(8, 6\)"):
        nearest_pairs(torch.zeros(8, 6), 2)


def test_what_would_never_end_is_begun():
    x = features("random", n=8).double()
    for options in (dict(candidates=0), dict(block=0), dict(candidates=-3)):
        with pytest.raises(ValueError, match="block and candidates are at least 1"):
            nearest_pairs(x, 2, **options)
    with pytest.raises(ValueError, match="local features of up to .* are too large to compare"):
        nearest_pairs(x * 1e300, 2)
    nearest_pairs(x / x.abs().max() * pairing.LARGEST, 2)
    for k in (2.0, "2", True, None):
        with pytest.raises(ValueError, match="K is a whole number of pairs"):
            nearest_pairs(x, k)
    with pytest.raises(ValueError, match=r"shape \(N, H, C_l\), got \(8, 0, 4\)"):
        nearest_pairs(torch.zeros(8, 0, 4), 2)
    assert torch.equal(nearest_pairs(x * 1e100, 4).index, nearest_pairs(x, 4).index)
    assert torch.equal(nearest_pairs(x, np.int64(4)).index, nearest_pairs(x, 4).index)


def test_the_first_pairs_of_a_ranking_are_those_of_a_smaller_k():
    local = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(7))
    whole = nearest_pairs(local, 20)
    for k in (1, 5, 19):
        fewer, first = nearest_pairs(local, k), whole.first(k)
        for name in ("index", "part", "distance"):
            assert torch.equal(getattr(fewer, name), getattr(first, name))


@pytest.mark.parametrize("far", [0.0, 300.0])
def test_the_list_that_float32_makes_leaves_the_nearest_out(far):
    """Most images are measured in float64 by their lists alone: a list of the wrong ones costs a scan each."""
    random = torch.Generator().manual_seed(3)
    people = torch.randn(100, 2, 32, generator=random)
    local = people.repeat(4, 1, 1) + 0.3 * torch.randn(400, 2, 32, generator=random) + far
    scans, real = [], pairing._Scanner.__call__

    def counted(self, rows, free, length):
        scans.append(len(rows))
        return real(self, rows, free, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing._Scanner, "__call__", counted)
        check(local, 100, candidates=4)
    assert scans[0] == 400 and len(scans) < 20, "images were scanned again and again"


def test_a_list_is_measured_whose_turn_never_comes():
    local, measured = features("random"), []
    real = pairing._Scanner.measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing._Scanner, "measured",
                      lambda self, i, *more: measured.append(i) or real(self, i, *more))
        nearest_pairs(local, 3)
    assert len(measured) < len(local) / 2


def test_far_from_the_origin_float64_is_asked_for_more_than_the_pairs_need(monkeypatch):
    # The float32 scan alone must tell nearly all images from the K closest, wherever the features lie.
    asked, real = [], pairing._Scanner.measured
    monkeypatch.setattr(pairing._Scanner, "measured", lambda *own: asked.append(own[1]) or real(*own))
    local = torch.randn(400, 6, 16, generator=torch.Generator().manual_seed(0))
    nearest_pairs(local, 20)
    near = len(asked)
    nearest_pairs(local + 1000 * torch.randn(6, 16, generator=torch.Generator().manual_seed(1)), 20)
    assert near <= 25 and len(asked) - near <= 25
