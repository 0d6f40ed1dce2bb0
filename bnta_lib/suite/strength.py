"""Gain of adaption against the strength of the features.

A network is made weaker by training it on a share of the people, or for a share of the epochs; the strongest
is the "bnta" of all tables. There is one training of each: how much such trainings vary is in no interval.
"""

from collections.abc import Mapping

import pandas as pd

from bnta_lib.settings import WEAKER
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.specs import STRENGTH
from bnta_lib.suite.stats import describe_by, split_gains

STRONGEST = "bnta"
# The trainings of each ladder, weakest first, and their share of the people or of the epochs.
LADDERS = pd.DataFrame(
    [(ladder, name, min(shares)) for ladder in ("people", "epochs")
     for name, shares in (WEAKER | {STRONGEST: (1, 1)}).items() if name.startswith((ladder, STRONGEST))],
    columns=["ladder", "model", "share"])


def strength_gains(rows: pd.DataFrame, people: Mapping[str, int], metric: str = "R1") -> pd.DataFrame:
    """A row a ladder, target and training: what the features are worth, and what adaption adds.

    ``people``: on how many each training was trained. Columns: ladder, target, model, share, people, frozen
    (mean, per cent), difference (points), low, high (95 % interval), better, splits, verdict.
    """
    gains = split_gains(rows, ["training"], ["training"], metric).rename(columns={"training": "model"})
    gains, keys = LADDERS.merge(gains, on="model"), ["ladder", "target", "model", "share"]
    table = describe_by(gains, keys).join(gains.groupby(keys)["frozen"].mean(), on=keys)
    return table.assign(people=table["model"].map(people))[[
        *keys, "people", "frozen", "difference", "low", "high", "better", "splits", "verdict"]]


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
