"""k-reciprocal re-ranking against the paper's formulas by brute force, and public numbers."""

import numpy as np
import pytest
import torch

from bnta_lib.evaluation import evaluate
from bnta_lib.reranking import reranked


def features(probes=12, gallery=30, people=9, width=6, seed=0):
    """Probes and gallery images of people, a noisy cluster each, float64."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, width))[np.arange(probes + gallery) % people]
    points = centres + 0.6 * random.normal(size=centres.shape)
    return torch.from_numpy(points[:probes]), torch.from_numpy(points[probes:])


def by_formulas(probe, gallery, k1, k2, weight):
    """Eqs. (2)-(12) of the paper with sets and dictionaries."""
    points = [*probe.tolist(), *gallery.tolist()]
    n = range(len(points))
    square = [[sum((a - b) ** 2 for a, b in zip(x, y)) for y in points] for x in points]
    near = [[value / max(row) for value in row] for row in square]
    order = [sorted(n, key=lambda j, row=row: row[j]) for row in near]

    def reciprocal(i, k):  # N(i, k) holds i itself and k others
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    vectors = []
    for i in n:
        members = expanded = reciprocal(i, k1)
        for j in members:
            half = reciprocal(j, round(k1 / 2))
            if len(members & half) > 2 / 3 * len(half):
                expanded = expanded | half
        weights = {j: np.exp(-near[i][j]) for j in expanded}
        vectors.append({j: w / sum(weights.values()) for j, w in weights.items()})
    vectors = [{j: sum(vectors[m].get(j, 0) for m in order[i][:k2]) / k2 for j in n} for i in n]
    return [[(1 - weight) * (1 - sum(min(vectors[i][j], vectors[g][j]) for j in n)
                             / sum(max(vectors[i][j], vectors[g][j]) for j in n)) + weight * near[i][g]
             for g in n[len(probe) :]] for i in n[: len(probe)]]


@pytest.mark.parametrize("k1, k2, weight", [(5, 3, 0.3), (8, 1, 0.0), (20, 6, 0.3), (3, 6, 1.0)])
def test_distances_are_those_of_the_formulas(k1, k2, weight):
    expected = by_formulas(*features(), k1, k2, weight)
    np.testing.assert_allclose(reranked(*features(), k1, k2, weight), expected, atol=1e-12)


def test_distances_are_those_of_a_public_implementation():
    """By deep-person-reid's re_ranking (commit 08bb2cc, in float32) from the same features."""
    near = reranked(*features(40, 120, 20, 16))
    np.testing.assert_allclose(near[::10, ::30], [
        [0.045631, 0.871341, 0.097686, 0.856025], [0.971003, 0.030401, 0.840134, 0.151455],
        [0.199599, 0.893073, 0.200340, 0.851196], [0.953134, 0.026316, 0.832563, 0.154023]], atol=2e-6)
    assert near.mean().item() == pytest.approx(0.788369, abs=2e-6)


def test_re_ranking_finds_what_neighbours_share():
    """Two people on arcs that nearly touch: their own neighbours tell them apart."""
    angle = torch.linspace(0, 1.3, 30, dtype=torch.float64)
    arcs = [torch.stack([centre + (angle + turn).cos(), (angle + turn).sin()], 1) for centre, turn in (
        (0.0, -0.65), (2.35, torch.pi - 0.65))]
    x, pids = torch.cat(arcs), torch.tensor([1] * 30 + [2] * 30)
    rows = torch.arange(60) % 5 == 0
    args = x[rows], x[~rows], pids[rows], pids[~rows], [1] * 12, [2] * 48
    plain, again = (evaluate(*args, normalise=False, rerank=rerank) for rerank in (False, True))
    assert again.mAP > plain.mAP + 0.02 and again.reranked and not plain.reranked
