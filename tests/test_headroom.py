"""Headroom: rank 1 at a common gallery size, and the gap's parts."""

from itertools import combinations

import pandas as pd
import pytest

from bnta_lib.suite import sweeps


def brute_force(rank: int, gallery: int, size: int) -> float:
    """Share of all galleries of the match and size - 1 others in which no nearer one is left."""
    others = range(gallery - 1)  # the first rank - 1 of them are nearer than the match
    drawn = list(combinations(others, size - 1))
    return sum(all(i >= rank - 1 for i in d) for d in drawn) / len(drawn)


def ranks_of(name, kind, ranks, gallery=10):
    return pd.DataFrame({"target": name, "part": kind, "split": [0, 1] * (len(ranks) // 2),
                         "gallery": gallery, "value": ranks})


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_smaller_gallery_gives_the_share_of_all_draws(rank, size):
    rows = pd.concat([ranks_of("large", sweeps.HOME, [rank, rank], 8),
                      ranks_of("small", sweeps.TARGET, [1, 1], size)])
    common = sweeps.headroom_scores(rows).set_index("set")["R1 common"]
    assert common["large"] == pytest.approx(100 * brute_force(rank, 8, size), abs=1e-10)


def test_photometric_share_is_the_part_of_the_gap_that_neutral_cameras_give_back():
    home = ranks_of("home", sweeps.HOME, [1, 1, 1, 1])
    away = ranks_of("away", sweeps.TARGET, [1, 9, 9, 9])
    neutral = ranks_of("away", sweeps.NEUTRAL, [1, 1, 1, 9])
    table = sweeps.headroom_table(pd.concat([home, away, neutral]))
    row = table.loc[(sweeps.TARGET, "away")]
    assert (row["gap"], row["photometric"]) == (75, 50)
    assert row["share"] == pytest.approx(200 / 3)


def test_scores_average_probes_and_spread_over_splits():
    scores = sweeps.headroom_scores(ranks_of("a", sweeps.HOME, [1, 2, 1, 2]))
    assert scores["R1"].item() == 50
    assert scores["std"].item() == pytest.approx(100 / 2**0.5)
