"""Strength of the features: rank 1 without adaption on each set, and what adaption adds to weaker networks.

A network is made weaker by training it on a share of the people, or for a share of the epochs; the strongest
is the "bnta" of all tables. There is one training of each: how much such trainings vary is in no interval.
"""

from collections.abc import Mapping
from contextlib import suppress

import pandas as pd
from scipy import stats

from bnta_lib.settings import WEAKER
from bnta_lib.suite.specs import STRENGTH
from bnta_lib.suite.stats import describe_by, split_gains

KINDS = HOME, TARGET, NEUTRAL = ("held-out people of a source", "target", "target, neutral camera")
STRONGEST = "bnta"
# The trainings of each ladder, weakest first, and their share of the people or of the epochs.
LADDERS = pd.DataFrame(
    [(ladder, name, min(shares)) for ladder in ("people", "epochs")
     for name, shares in (WEAKER | {STRONGEST: (1, 1)}).items() if name.startswith((ladder, STRONGEST))],
    columns=["ladder", "model", "share"])


def rank_1_among(rank, gallery, size: int):
    """Chance that the only match stays first in a smaller gallery of ``size`` images.

    ``rank``: of the match among ``gallery`` images. None of the rank - 1 nearer ones may be among the
    size - 1 others, drawn evenly (hypergeometric).
    """
    return stats.hypergeom.pmf(0, gallery - 1, rank - 1, size - 1)


def headroom_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank 1 without adaption, in per cent, by set and kind.

    ``rows``: of ``lab.measure("headroom")``, the rank of a probe's match each. Columns: set, kind (one of
    KINDS), probes (over all splits), gallery, R1, std (over splits), and R1 common: the same for galleries
    of the smallest set's size.
    """
    rows = rows.rename(columns={"target": "set", "part": "kind"})
    chance = rank_1_among(rows["value"], rows["gallery"], rows["gallery"].min())
    rows = rows.assign(first=100.0 * (rows["value"] == 1), common=100 * chance)
    grouped, keys = rows.groupby(["set", "kind"], sort=False), ["set", "kind"]
    spread = rows.groupby([*keys, "split"], sort=False)["first"].mean().groupby(keys, sort=False).std()
    return pd.DataFrame({
        "probes": grouped.size(), "gallery": grouped["gallery"].first(), "R1": grouped["first"].mean(),
        "std": spread, "R1 common": grouped["common"].mean(),
    }).reset_index()


def headroom_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a set: rank 1, that at a common gallery size, and for targets the gap's parts.

    gap: points of common rank 1 below the mean of the held-out sources; photometric: the part of it that
    neutral cameras give back (points); share: the same in per cent of the gap (empty if there is no gap).
    """
    scores = headroom_scores(rows)
    common = scores.pivot(index="set", columns="kind", values="R1 common").reindex(columns=list(KINDS))
    gap, photometric = common[HOME].mean() - common[TARGET], common[NEUTRAL] - common[TARGET]
    share = 100 * photometric / gap.where(gap > 0)
    parts = pd.DataFrame({"gap": gap, "photometric": photometric, "share": share}).dropna(axis=1, how="all")
    table = scores[scores["kind"] != NEUTRAL].join(parts, on="set").set_index(["kind", "set"])
    return table.rename(columns={"R1 common": f"R1 of {rows['gallery'].min():g}"})


def strength_rows(lab) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of the table "strength", and on how many people each training was trained.

    Weaker trainings without weights are left out. Raises FileNotFoundError if those of STRONGEST are absent.
    """
    people = {STRONGEST: lab.model(STRONGEST).identities}
    for name in WEAKER:
        with suppress(FileNotFoundError):
            people[name] = lab.model(name).identities
    rows = lab.measure([spec for spec in STRENGTH if spec.training in people], seeds=1)
    return rows.assign(table="strength"), people


def strength_gains(rows: pd.DataFrame, people: Mapping[str, int], metric: str = "R1") -> pd.DataFrame:
    """A row a ladder, target and training: what the features are worth, and what adaption adds.

    Columns: ladder, target, model, share, people, frozen (mean, per cent), difference (points), low, high,
    better, splits, verdict.
    """
    gains = split_gains(rows, ["training"], ["training"], metric).rename(columns={"training": "model"})
    gains, keys = LADDERS.merge(gains, on="model"), ["ladder", "target", "model", "share"]
    table = describe_by(gains, keys).join(gains.groupby(keys)["frozen"].mean(), on=keys)
    return table.assign(people=table["model"].map(people))[[
        *keys, "people", "frozen", "difference", "low", "high", "better", "splits", "verdict"]]
