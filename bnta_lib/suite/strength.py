"""Gain of adaption against the strength of the features.

A network is made weaker by training it on a share of the people (for all epochs) or for a share of
the epochs (on all people); at its strongest it is the "bnta" of all tables. Each is measured with
and without adaption on every split. Every training has one set of weights: how much trainings of
one kind vary is in no interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from bnta_lib.settings import WEAKER
from bnta_lib.suite.specs import STRENGTH
from bnta_lib.suite.stats import ONE_EACH, OPEN, describe_by, slopes

if TYPE_CHECKING:
    from bnta_lib.suite.lab import Lab

STRONGEST = "bnta"
# The trainings of each ladder, weakest first, and their share of the people or of the epochs.
LADDERS = pd.DataFrame(
    [(ladder, name, min(shares)) for ladder in ("people", "epochs")
     for name, shares in (WEAKER | {STRONGEST: (1, 1)}).items() if name.startswith((ladder, STRONGEST))],
    columns=["ladder", "training", "share"])


def _gains(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Without adaption ("none") and the difference with it: a row a rung of a ladder, target and split."""
    scores = rows[rows["metric"] == metric].pivot_table(
        index=["training", "target", "split"], columns="adapter", values="value", sort=False)
    scores = scores.assign(difference=scores["bnta"] - scores["none"])
    return LADDERS.merge(scores.reset_index(), on="training")


def strength_gains(rows: pd.DataFrame, people: Mapping[str, int], metric: str = "R1") -> pd.DataFrame:
    """A row a ladder, target and training: what the features are worth, and what adaption adds.

    ``people``: on how many each training was trained. Columns: ladder, target, model, share, people,
    frozen (mean over splits, per cent), difference (points, adapted minus frozen on the same
    splits), low, high (95 % interval), better, splits, verdict.
    """
    gains, keys = _gains(rows, metric), ["ladder", "target", "training", "share"]
    table = describe_by(gains, keys).join(gains.groupby(keys)["none"].mean().rename("frozen"), on=keys)
    table = table.rename(columns={"training": "model"}).assign(people=table["training"].map(people))
    return table[["ladder", "target", "model", "share", "people", "frozen", "difference", "low", "high",
                  "better", "splits", "verdict"]]


def strength_trend(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Points of gain that a doubling of the people, or of the epochs, brings: a row a ladder and target.

    A straight line over log2 of the share, fitted to the gains of each split. Columns: ladder, target,
    rungs, difference (points a doubling), low, high (95 % interval over splits), splits, verdict, reason.
    A line compares trainings, one a rung: it is not resolved, whatever its interval. No row if there
    are fewer than three rungs or two splits.
    """
    lines = []
    for (ladder, target), group in _gains(rows, metric).groupby(["ladder", "target"], sort=False):
        table = group.pivot(index="split", columns="share", values="difference")
        if table.shape[1] >= 3 and len(table) >= 2:
            lines.append(pd.DataFrame({"ladder": ladder, "target": target, "rungs": table.shape[1],
                                       "difference": slopes(table)}))
    if not lines:
        return pd.DataFrame()
    tests = describe_by(pd.concat(lines), ["ladder", "target", "rungs"])
    return tests.drop(columns=["p", "better"]).assign(verdict=OPEN, reason=ONE_EACH)


def strength_rows(lab: Lab) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """Rows of the table "strength", on how many people each training was trained, and the trainings left out.

    Those are left out whose weights are absent; the smoke profile trains them. Raises FileNotFoundError if
    those of STRONGEST are absent.
    """
    people, missing = {STRONGEST: lab.model(STRONGEST).identities}, []
    for name in WEAKER:
        try:
            people[name] = lab.model(name).identities
        except FileNotFoundError:
            missing.append(name)
    rows = lab.measure([spec for spec in STRENGTH if spec.training in people], seeds=1)
    return rows.assign(table="strength"), people, missing
