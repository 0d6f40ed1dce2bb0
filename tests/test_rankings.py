"""Rankings for pictures: they must tell the same as the scores."""

import pytest
import torch

from bnta_lib.evaluation import evaluate, select_example_probes, top_gallery
from bnta_lib.pairing import nearest_pairs, part_distances


@pytest.fixture
def sides():
    random = torch.Generator().manual_seed(0)
    probe, gallery = torch.randn(30, 8, generator=random), torch.randn(50, 8, generator=random)
    gallery[10] = gallery[20]  # a tie
    people = torch.randint(0, 12, (80,), generator=random)
    cameras = torch.randint(1, 3, (80,), generator=random)
    people[0] = 99  # without a match
    return probe, gallery, people[:30], people[30:], cameras[:30], cameras[30:]


def test_rankings_and_scores_agree(sides):
    ranking, scores = top_gallery(*sides, k=5, block=7), evaluate(*sides)
    assert ranking.rank[0] == 0
    assert torch.equal(ranking.rank[ranking.rank > 0], scores.rank)
    first = torch.where(ranking.right.any(1), ranking.right.int().argmax(1) + 1, 0)
    assert torch.equal(first > 0, (ranking.rank > 0) & (ranking.rank <= 5))


def test_ranking_agrees_with_brute_force(sides):
    probe, gallery, pids, gallery_pids, cams, gallery_cams = sides
    ranking = top_gallery(*sides, k=8)
    for p in range(len(probe)):
        unit = probe[p].double() / probe[p].double().norm()
        allowed = [g for g in range(len(gallery))
                   if not (gallery_pids[g] > 0 and gallery_pids[g] == pids[p]
                           and gallery_cams[g] == cams[p])]
        far = {g: float((gallery[g].double() / gallery[g].double().norm() - unit).norm())
               for g in allowed}
        order = sorted(allowed, key=lambda g: (round(far[g], 10), g))
        assert ranking.index[p].tolist() == order[:8]
        right = [bool(gallery_pids[g] > 0 and gallery_pids[g] == pids[p]) for g in order[:8]]
        assert ranking.right[p].tolist() == right


@pytest.mark.parametrize("normalise", [True, False])
def test_rankings_normalise_features_as_evaluation_does(sides, normalise):
    probe, gallery, *labels = sides
    probe, gallery = 3 * probe, gallery * torch.arange(1, 51)[:, None]  # of all lengths
    ranking = top_gallery(probe, gallery, *labels, k=5, normalise=normalise)
    scores = evaluate(probe, gallery, *labels, normalise=normalise)
    assert torch.equal(ranking.rank[ranking.rank > 0], scores.rank)


def test_equal_distances_are_ranked_in_gallery_order():
    probe, gallery = torch.ones(1, 2), torch.ones(200, 2)
    labels = (torch.ones(1, dtype=torch.int64), torch.arange(2, 202), torch.ones(1, dtype=torch.int64),
              torch.full((200,), 2))
    assert top_gallery(probe, gallery, *labels, k=200).index.tolist() == [list(range(200))]


def test_too_small_a_gallery_is_refused(sides):
    with pytest.raises(ValueError, match="50 images"):
        top_gallery(*sides, k=51)


def test_probes_are_chosen_by_the_ratio_of_ranks():
    before = torch.tensor([250, 12, 5, 5, 1, 1, 0, 9])
    after = torch.tensor([120, 1, 5, 5, 2, 40, 3, 0])
    chosen = select_example_probes(before, after, each=1)
    assert {k: v.tolist() for k, v in chosen.items()} == {
        "improved": [1], "median": [2], "worsened": [5]}
    two = select_example_probes(before, after, each=2)
    assert two["improved"].tolist() == [1, 0] and two["worsened"].tolist() == [5, 4]
    assert not set(two["median"].tolist()) & {0, 1, 4, 5, 6, 7}


def test_no_probe_is_chosen_twice_where_there_are_few():
    chosen = select_example_probes(torch.tensor([3, 2, 1, 4]), torch.tensor([1, 2, 3, 4]), each=2)
    every = torch.cat(list(chosen.values())).tolist()
    assert len(every) == len(set(every)) == 3


def test_no_probes_give_no_examples():
    nobody = torch.zeros(3, dtype=torch.int64)
    for own in select_example_probes(nobody, nobody).values():
        assert nobody[own].tolist() == []


def test_part_distances_are_those_of_the_pairs():
    local = torch.randn(20, 6, 4, generator=torch.Generator().manual_seed(0))
    pairs = nearest_pairs(local, 6)
    closest, part = part_distances(local, pairs.index).min(1)
    assert closest.tolist() == pytest.approx(pairs.distance.tolist())
    assert torch.equal(part, pairs.part)
