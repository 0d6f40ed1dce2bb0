"""Strength of the features: headroom, weaker trainings, and what adaption adds to them."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import settings
from bnta_lib.data import thinned
from bnta_lib.data.sets import ReIDSet
from bnta_lib.settings import WEAKER, model_settings
from bnta_lib.suite import sweeps
from bnta_lib.training import training_key

GAINS = {"people_8th": 1.0, "people_4th": 2.0, "people_half": 3.0,
         "epochs_8th": 4.0, "epochs_4th": 4.0, "epochs_half": 4.0, "bnta": 4.0}


@pytest.fixture(scope="module")
def rows():
    """Gains that grow with the people, and not with the epochs."""
    random, tables = np.random.default_rng(0), []
    for model, gain in GAINS.items():
        frozen, noise = random.normal(40, 2, 8), random.normal(0, 0.1, 8)
        for adapter, values in (("none", frozen), ("bnta", frozen + gain + noise - noise.mean())):
            tables.append(pd.DataFrame({"target": "dots", "split": range(8), "seed": 0, "training": model,
                                        "adapter": adapter, "metric": "R1", "value": values}))
    return pd.concat(tables)


@pytest.fixture
def forty():
    """Three images of each of 40 people, whose pixels are the person's number."""
    pids = torch.arange(1, 41).repeat_interleave(3)
    images = torch.zeros(120, 3, 4, 2, dtype=torch.uint8) + pids[:, None, None, None].byte()
    return ReIDSet("forty", images, pids, torch.ones_like(pids))


@pytest.mark.parametrize("share, people", [(1, 40), (0.5, 20), (0.25, 10), (1 / 8, 5), (0.001, 2)])
def test_share_of_the_people_keeps_all_images_of_each_and_is_spread_over_all_sources(forty, share, people):
    """People of one source have neighbouring numbers: the first so many would be one source's."""
    kept = thinned(forty, share)
    assert kept.pids.unique().tolist() == list(range(1, people + 1))
    assert (torch.bincount(kept.pids)[1:] == 3).all()
    originals = kept.images[:, 0, 0, 0].unique().int()
    assert len(originals) == people and originals.diff().unique().tolist() == [40 // people]


def test_weaker_training_is_another_training_and_the_default_is_not(forty):
    laptop = settings("laptop")
    keys = {training_key(forty, model_settings(laptop, name)) for name in (*WEAKER, "bnta")}
    assert len(keys) == len(WEAKER) + 1
    few = model_settings(laptop, "epochs_4th")
    assert (few.epochs, few.lr_decay_epoch, few.people_share) == (4, 3, 1)
    assert model_settings(laptop, "people_4th").people_share == 0.25


def test_gains_are_those_of_each_rung(rows):
    gains = sweeps.strength_gains(rows)
    assert set(gains["verdict"]) == {"holds"}
    for ladder in ("people", "epochs"):
        assert gains[gains["ladder"] == ladder]["share"].tolist() == [1 / 8, 1 / 4, 1 / 2, 1]
    for row in gains.itertuples():
        assert row.low < row.difference < row.high and abs(row.frozen - 40) < 3
        assert row.difference == pytest.approx(GAINS[row.model])


@pytest.mark.parametrize("share", [-0.1, 1.5, "half"])
def test_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match="people_share"):
        settings("smoke", people_share=share)


# ---- headroom


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
