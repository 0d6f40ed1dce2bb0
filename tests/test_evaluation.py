"""mAP, CMC and rankings against a plain implementation that sorts, and by their properties."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnta_lib.evaluation import distances, evaluate, top_gallery
from bnta_lib.figures.photos import select_example_probes


def ranked(x, pid, cam, gallery, gallery_pids, gallery_camids):
    """Gallery images from near to far, without junk and those of the probe's person by its camera."""
    near = sorted((float(np.linalg.norm(x - y)), g) for g, y in enumerate(gallery) if gallery_pids[g] >= 0)
    return [g for _, g in near if not (gallery_pids[g] == pid > 0 and gallery_camids[g] == cam)]


def by_sorting(probe, gallery, probe_pids, gallery_pids, probe_camids, gallery_camids):
    """(AP, rank, INP) of each probe with a match, from sorted lists."""
    scores = []
    for x, pid, cam in zip(probe, probe_pids, probe_camids):
        order = ranked(x, pid, cam, gallery, gallery_pids, gallery_camids)
        hits = [gallery_pids[g] == pid > 0 for g in order]
        if not any(hits):
            continue
        precisions = [sum(hits[:rank]) / rank for rank, hit in enumerate(hits, start=1) if hit]
        scores.append((np.mean(precisions), hits.index(True) + 1, precisions[-1]))
    return scores


@st.composite
def retrievals(draw):
    """Features in whole numbers (exact distances, many ties) and few persons and cameras."""
    p, g = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def numbers(n, low, high):
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    def features(n):
        return torch.tensor(numbers(2 * n, -2, 2), dtype=torch.float32).view(n, 2)

    labels = [torch.tensor(numbers(n, low, 3)) for n, low in ((p, 1), (g, -1))]
    cameras = [torch.tensor(numbers(n, 1, 2)) for n in (p, g)]
    return features(p), features(g), *labels, *cameras


@settings(max_examples=150, deadline=None)
@given(retrievals(), st.integers(1, 7))
def test_scores_are_those_of_sorting_with_ties_in_gallery_order(case, block):
    expected = by_sorting(*(t.numpy() for t in case))
    if not expected:
        with pytest.raises(ValueError, match="no probe has a match|nothing to evaluate.* of junk"):
            evaluate(*case, normalise=False, block=block)
        return
    scores = evaluate(*case, normalise=False, block=block)
    ap, rank, inp = zip(*expected)
    np.testing.assert_allclose(scores.inp, inp)
    assert scores.mINP == pytest.approx(np.mean(inp))
    np.testing.assert_allclose(scores.ap, ap)
    assert scores.rank.tolist() == list(rank)
    assert scores.unmatched == len(case[0]) - len(expected)
    assert scores.cmc(2) == pytest.approx(np.mean([r <= 2 for r in rank]))


def case(seed=0, probes=40, gallery=90, people=15, width=24, lowest=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(probes, width, generator=g), torch.randn(gallery, width, generator=g),
        torch.randint(1, people, (probes,), generator=g),
        torch.randint(lowest, people, (gallery,), generator=g),  # -1 is junk, 0 a distractor
        torch.randint(1, 4, (probes,), generator=g), torch.randint(1, 4, (gallery,), generator=g),
    )  # fmt: skip


def test_distances_far_from_the_origin_keep_their_digits():
    g = torch.Generator().manual_seed(0)
    x, y = (100_000 + torch.randn(n, 8, generator=g) for n in (30, 40))
    for normalise in (False, True):
        a, b = (t.double().numpy() for t in (x, y))
        if normalise:
            a, b = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (a, b))
        expected = [[np.linalg.norm(p - q) for q in b] for p in a]
        np.testing.assert_allclose(distances(x, y, normalise), expected, rtol=1e-9)


def test_sides_that_are_empty_broken_or_do_not_fit_are_refused():
    one, x = torch.ones(1, dtype=torch.int64), torch.rand(1, 3)
    with pytest.raises(ValueError, match="1 probes, 0 gallery images"):
        evaluate(x, x[:0], one, one[:0], one, one[:0])
    for bad in (x * torch.nan, x * torch.inf):
        for pair in ((x, bad), (bad, x)):
            with pytest.raises(FloatingPointError, match="a feature is not finite"):
                evaluate(*pair, one, one, one, one + 1)
    with pytest.raises(ValueError, match="features of 3 and 2 channels do not compare"):
        evaluate(x, x[:, :2], one, one, one, one + 1)
    with pytest.raises(ValueError, match=r"probe: features are of shape \(images, channels\), got \(3,\)"):
        evaluate(x[0], x, one, one, one, one + 1)
    for which, side in enumerate(("probe", "gallery") * 2):
        labels = [torch.cat([one, one]) if i == which else one for i in range(4)]
        with pytest.raises(ValueError, match=f"^{side}: 1 features need as many persons and cameras"):
            evaluate(x, x, *labels)


@pytest.mark.parametrize("kind", [
    torch.tensor, np.array, list, lambda v: torch.tensor(v, dtype=torch.uint8), np.uint32,
    lambda v: pd.Series(v, index=range(7, 7 + len(v)))])
def test_labels_may_be_arrays_and_lists(kind):
    x, y, *labels = case()
    expected = evaluate(x, y, *labels).row()
    others = [kind(values.tolist()) for values in labels]
    assert evaluate(x.numpy(), [*y], *others).row() == expected
    assert torch.equal(top_gallery(x, y, *others, k=3).index, top_gallery(x, y, *labels, k=3).index)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_junk_of_unsigned_labels_is_refused(dtype):
    x, y, *labels = case()
    labels[1][3] = -1
    assert evaluate(x, y, *labels)
    with pytest.raises(ValueError, match=f"gallery: persons reach .*which may be -1 in {dtype.__name__}"):
        evaluate(x, y, labels[0], labels[1].numpy().astype(dtype), *labels[2:])


@pytest.mark.parametrize("which, value, sentence", [
    (1, 0.5, "gallery: persons are whole numbers"), (1, "x", "gallery: persons are whole numbers"),
    (2, -1, "probe: cameras are whole numbers from 0"), (3, [1], "gallery: cameras are whole numbers")])
def test_labels_that_decide_a_number_by_guess_are_refused(which, value, sentence):
    x, y, *labels = case()
    labels = [values.tolist() for values in labels]
    labels[which][3] = value
    with pytest.raises(ValueError, match=sentence):
        evaluate(x, y, *labels)


def test_probes_that_are_nobody_are_stated():
    """Two people numbered from 0: both probes of person 0 are wrong, both of person 1 right."""
    probe, gallery = torch.tensor([[0.0, 1]] * 2 + [[0.1, 1]] * 2), torch.tensor([[1.0, 0], [0, 1], [0.1, 1]])
    persons, others = np.array([0, 0, 1, 1]), np.array([0, 1, 1])
    assert evaluate(probe, gallery, persons + 1, others + 1, [1] * 4, [2] * 3).row()["R1"] == 50
    with pytest.warns(UserWarning, match="2 probes of person 0 or less match nobody .*number yours from 1"):
        scores = evaluate(probe, gallery, persons, others, [1] * 4, [2] * 3)
    assert scores.unmatched == 2 and "(2 probes, 2 without a match left out)" in str(scores)


def test_scores_in_words_name_unmatched_probes_and_re_ranking():
    x, y, *labels = case(people=40)
    plain, again = (evaluate(x, y, *labels, rerank=rerank) for rerank in (False, True))
    assert plain.unmatched and f"mINP {100 * plain.mINP:.1f}, R1 " in str(plain)
    assert f"({len(plain.ap)} probes, {plain.unmatched} without a match left out)" in str(plain)
    assert str(again).endswith("left out, re-ranked)") and set(again.row()) == {
        f"{name}, re-ranked" for name in plain.row()}


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
    orders = distances(size * probe, gallery, normalise).argsort(dim=1, stable=True)
    for pid, order, rank, ap in zip(pids, orders, scores.rank.tolist(), scores.ap.tolist()):
        ranks = (gallery_pids[order] == pid).nonzero()[:, 0].numpy() + 1  # of all its matches
        assert rank == ranks[0]
        assert ap == pytest.approx((np.arange(1, len(ranks) + 1) / ranks).mean(), rel=1e-12)


# ---- rankings for pictures


@pytest.mark.parametrize("normalise", [True, False])
def test_rankings_and_scores_of_ordinary_features_are_those_of_sorting(normalise):
    x, y, *labels = case(people=20, lowest=-1)
    y = y * torch.arange(1, 91)[:, None]  # of all lengths
    y[10] = y[20]  # a tie
    ranking = top_gallery(x, y, *labels, k=8, normalise=normalise)
    scores = evaluate(x, y, *labels, normalise=normalise)
    assert torch.equal(ranking.rank[ranking.rank > 0], scores.rank) and (ranking.rank == 0).any()
    a, b, pids, gallery_pids, camids, gallery_camids = (t.double().numpy() for t in (x, y, *labels))
    if normalise:
        a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (a, b))
    for p, (pid, cam) in enumerate(zip(pids, camids)):
        nearest = ranked(a[p], pid, cam, b, gallery_pids, gallery_camids)[:8]
        assert ranking.index[p].tolist() == nearest
        assert ranking.right[p].tolist() == [gallery_pids[g] == pid > 0 for g in nearest]
    ap, rank, _ = np.array(by_sorting(a, b, pids, gallery_pids, camids, gallery_camids)).T
    np.testing.assert_allclose(scores.ap, ap)
    np.testing.assert_array_equal(scores.rank, rank)
    expected = {"mAP": ap.mean(), **{f"R{k}": (rank <= k).mean() for k in (1, 5, 10)}}
    assert scores.row() == pytest.approx({k: 100 * v for k, v in expected.items()})
    with pytest.raises(ValueError, match="90 images"):
        top_gallery(x, y, *labels, k=91)


def test_probes_are_chosen_by_the_ratio_of_ranks_and_none_twice():
    before = torch.tensor([250, 12, 5, 5, 1, 1, 0, 9])
    after = torch.tensor([120, 1, 5, 5, 2, 40, 3, 0])
    chosen = select_example_probes(before, after, each=1)
    assert {k: v.tolist() for k, v in chosen.items()} == {"improved": [1], "median": [2], "worsened": [5]}
    two = select_example_probes(before, after, each=2)
    assert two["improved"].tolist() == [1, 0] and two["worsened"].tolist() == [5, 4]
    assert not set(two["median"].tolist()) & {0, 1, 4, 5, 6, 7}
    few = select_example_probes(torch.tensor([3, 2, 1, 4]), torch.tensor([1, 2, 3, 4]), each=2)
    assert len(set(torch.cat(list(few.values())).tolist())) == len(torch.cat(list(few.values()))) == 3
    nobody = torch.zeros(3, dtype=torch.int64)
    assert not any(len(nobody[own]) for own in select_example_probes(nobody, nobody).values())
