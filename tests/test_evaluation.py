"""mAP and CMC against a plain implementation that sorts, and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnta_lib.evaluation import distances, evaluate


def by_sorting(probe, gallery, probe_pids, gallery_pids, probe_camids, gallery_camids):
    """(AP, rank) of each probe with a match, from sorted lists."""
    scores = []
    for x, pid, cam in zip(probe, probe_pids, probe_camids):
        ranked = sorted((float(np.linalg.norm(x - y)), g) for g, y in enumerate(gallery))
        ranked = [g for _, g in ranked
                  if not (gallery_pids[g] == pid > 0 and gallery_camids[g] == cam)]
        hits = [gallery_pids[g] == pid > 0 for g in ranked]
        if not any(hits):
            continue
        precisions = [sum(hits[:rank]) / rank for rank, hit in enumerate(hits, start=1) if hit]
        scores.append((np.mean(precisions), hits.index(True) + 1))
    return scores


@st.composite
def retrievals(draw):
    """Features in whole numbers (exact distances, many ties) and few persons and cameras."""
    p, g = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def numbers(n, low, high):
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    def features(n):
        return torch.tensor(numbers(2 * n, -2, 2), dtype=torch.float32).view(n, 2)

    labels = [torch.tensor(numbers(n, -1, 3)) for n in (p, g)]
    cameras = [torch.tensor(numbers(n, 1, 2)) for n in (p, g)]
    return features(p), features(g), *labels, *cameras


@settings(max_examples=150, deadline=None)
@given(retrievals(), st.integers(1, 7))
def test_scores_are_those_of_sorting_with_ties_in_gallery_order(case, block):
    expected = by_sorting(*(t.numpy() for t in case))
    if not expected:
        with pytest.raises(ValueError, match="no probe has a match"):
            evaluate(*case, normalise=False, block=block)
        return
    scores = evaluate(*case, normalise=False, block=block)
    ap, rank = zip(*expected)
    np.testing.assert_allclose(scores.ap, ap)
    assert scores.rank.tolist() == list(rank)
    assert scores.unmatched == len(case[0]) - len(expected)
    assert scores.cmc(2) == pytest.approx(np.mean([r <= 2 for r in rank]))


def case(seed=0, probes=40, gallery=90, people=15, width=24):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(probes, width, generator=g), torch.randn(gallery, width, generator=g),
        torch.randint(1, people, (probes,), generator=g),
        torch.randint(0, people, (gallery,), generator=g),
        torch.randint(1, 4, (probes,), generator=g), torch.randint(1, 4, (gallery,), generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("normalise", [True, False])
def test_scores_of_ordinary_features_are_those_of_sorting(normalise):
    args = case()
    scores = evaluate(*args, normalise=normalise)
    x, y, *labels = (t.double().numpy() for t in args)
    if normalise:
        x, y = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, y))
    ap, rank = np.array(by_sorting(x, y, *labels)).T
    np.testing.assert_allclose(scores.ap, ap)
    np.testing.assert_array_equal(scores.rank, rank)
    expected = {"mAP": ap.mean(), **{f"R{k}": (rank <= k).mean() for k in (1, 5, 10)}}
    assert scores.row() == pytest.approx({k: 100 * v for k, v in expected.items()})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_single_matches_have_the_reciprocal_rank_as_ap(seed):
    x, y, *_ = case(seed, probes=20, gallery=20)
    pids = torch.arange(1, 21)
    scores = evaluate(x + 2 * y, y, pids, pids, torch.ones_like(pids), torch.full_like(pids, 2))
    torch.testing.assert_close(scores.ap, 1 / scores.rank.double())
    assert scores.cmc(20) == 1


@pytest.mark.parametrize("seed", range(3))
def test_scores_do_not_depend_on_order_or_block(seed):
    args = case(seed)
    scores = evaluate(*args)
    g = torch.Generator().manual_seed(seed)
    p, q = torch.randperm(40, generator=g), torch.randperm(90, generator=g)
    x, y, a, b, c, d = args
    for other in (evaluate(x[p], y, a[p], b, c[p], d), evaluate(x, y[q], a, b[q], c, d[q]),
                  evaluate(*args, block=7)):
        assert other.row() == pytest.approx(scores.row())


def test_distances_far_from_the_origin_keep_their_digits():
    g = torch.Generator().manual_seed(0)
    x, y = (100_000 + torch.randn(n, 8, generator=g) for n in (30, 40))
    for normalise in (False, True):
        a, b = (t.double().numpy() for t in (x, y))
        if normalise:
            a, b = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (a, b))
        expected = [[np.linalg.norm(p - q) for q in b] for p in a]
        np.testing.assert_allclose(distances(x, y, normalise), expected, rtol=1e-9)


def score(probe_pids, gallery_pids, probe_camids, gallery_camids):
    """Scores on a line where gallery image i is the i-th nearest to every probe."""
    gallery = torch.arange(1.0, len(gallery_pids) + 1)[:, None]
    labels = map(torch.tensor, (probe_pids, gallery_pids, probe_camids, gallery_camids))
    return evaluate(torch.zeros(len(probe_pids), 1), gallery, *labels, normalise=False)


def test_distractors_never_match_and_count_as_nearer_images():
    scores = score([0, -1, 7], [0, -1, 0, 7], [1, 1, 1], [2, 2, 2, 2])
    assert scores.rank.tolist() == [4] and scores.unmatched == 2


def test_images_of_the_same_camera_are_left_out():
    assert score([7], [7, 7, 3, 7], [1], [1, 1, 1, 2]).rank.tolist() == [2]
    with pytest.raises(ValueError, match="^no probe has a match in the gallery: check persons and cameras$"):
        score([7], [7, 3], [1], [1, 2])


def test_empty_sides_and_broken_features_are_refused():
    one = torch.ones(1, dtype=torch.int64)
    none, x = one[:0], torch.rand(1, 3)
    with pytest.raises(ValueError, match="1 probes, 0 gallery images"):
        evaluate(x, x[:0], one, none, one, none)
    with pytest.raises(ValueError, match="0 probes, 1 gallery images"):
        evaluate(x[:0], x, none, one, none, one)
    for bad in (torch.nan, torch.inf):
        for pair in ((x, x * bad), (x * bad, x)):
            with pytest.raises(FloatingPointError, match="features hold NaN or infinite values"):
                evaluate(*pair, one, one, one, one + 1)


@pytest.mark.parametrize("which", range(4))
def test_labels_that_do_not_fit_are_refused(which):
    x, y, *labels = case()
    labels[which] = torch.cat([labels[which], labels[which]])
    side = "probe" if which % 2 == 0 else "gallery"
    with pytest.raises(ValueError, match=f"^{side}: [0-9]+ features need as many persons and cameras"):
        evaluate(x, y, *labels)


def ranks_by_sorting(probe, gallery, pids, gallery_pids, normalise):
    """Rank of every match by a stable sort of :func:`distances`: the oracle of ties."""
    found = []
    for p, row in zip(pids, distances(probe, gallery, normalise)):
        order = row.argsort(stable=True)
        found.append(((gallery_pids[order] == p).nonzero()[:, 0] + 1).tolist())
    return found


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("size", [1e-6, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_equal_and_nearly_equal_distances_are_ranked_as_by_sorting(normalise, size, seed):
    g = torch.Generator().manual_seed(seed)
    probe = torch.randn(6, 16, generator=g)
    # Each probe's look-alikes: the same bits, the last bit apart, and far away.
    near = probe.repeat_interleave(8, 0)
    nudged = torch.nextafter(near, torch.full_like(near, torch.inf))
    gallery = torch.cat([near, nudged, torch.randn(40, 16, generator=g)])
    gallery = size * gallery[torch.randperm(len(gallery), generator=g)]
    pids, gallery_pids = torch.arange(1, 7), torch.randint(1, 7, (len(gallery),), generator=g)
    cameras = torch.zeros(6), torch.ones(len(gallery))
    scores = evaluate(size * probe, gallery, pids, gallery_pids, *cameras, normalise)
    expected = ranks_by_sorting(size * probe, gallery, pids, gallery_pids, normalise)
    assert scores.rank.tolist() == [own[0] for own in expected]
    for ap, own in zip(scores.ap.tolist(), expected):
        assert ap == pytest.approx(sum((k + 1) / rank for k, rank in enumerate(own)) / len(own), rel=1e-12)
