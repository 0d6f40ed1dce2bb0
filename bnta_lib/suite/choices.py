"""What the paper leaves open: how the gain of adaption depends on each such choice.

The values are :data:`bnta_lib.suite.specs.CHOICES`; ``rows`` are those of ``lab.measure("open_choices")``.
"""

import pandas as pd

from bnta_lib.suite import stats
from bnta_lib.suite.specs import AFFINE, ALL, CHOICES, DIVERGED, NONE
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, VERDICTS, describe_by

VALUE = ["choice", "value_label"]
DEFAULTS = {choice.name: choice.default for choice in (*CHOICES.values(), AFFINE)}
# Statements of the paper: updating one thing gives more rank 1 than updating another.
CONCLUSIONS = {
    "adaption raises rank 1": (ALL, NONE),
    "γ and β alone do more than μ and σ² alone": ("gamma+beta", "mu+var"),
    "all four do more than γ and β alone": (ALL, "gamma+beta"),
}


def split_gains(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Gain of every value on every split, with a column default (bool)."""
    gains = stats.split_gains(rows, [*VALUE, "updated"], VALUE, metric)
    return gains.assign(default=gains["value_label"] == gains["choice"].map(DEFAULTS))


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, updated, value_label, default (bool), target, those of
    :func:`~bnta_lib.suite.stats.describe` (difference: the gain in points), and more, more_low, more_high,
    more_verdict: the same of the gain minus that of the choice's default value on the same splits. Between
    two trainings more_verdict is "not resolved", whatever the interval.
    """
    gains, keys = split_gains(rows, metric), ["choice", "updated", "value_label", "default", "target"]
    same = [gains[key] for key in ("choice", "updated", "target", "split")]
    gains["more"] = gains["difference"] - (
        gains["difference"].where(gains["default"]).groupby(same).transform("first"))
    names = {"difference": "more", "low": "more_low", "high": "more_high", "verdict": "more_verdict"}
    table = describe_by(gains, keys).join(describe_by(gains, keys, "more")[[*names]].rename(columns=names))
    table.loc[table["choice"] == "stripes", "more_verdict"] = OPEN  # one training each
    return table


def choice_table(gains: pd.DataFrame, choice: str) -> pd.DataFrame:
    """Rows of :func:`gain_rows` of one choice, all quantities updated: a row a target and value."""
    shown = gains[(gains["choice"] == choice) & (gains["updated"] == ALL)]
    table = shown.set_index(["target", "value_label"]).sort_index(level="target", sort_remaining=False)
    return table[["default", "difference", "low", "high", "verdict", "more", "more_low", "more_high",
                  "more_verdict"]]


def diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """Values with which adaption diverged: choice, value_label, updated, target."""
    return rows.loc[rows["metric"] == DIVERGED, [*VALUE, "updated", "target"]].drop_duplicates()


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive the other values, a row a conclusion and target.

    Columns: target, the verdict under the defaults, the difference there, how many other values were
    measured, how many give each verdict, and those that turn the sign: they resolve the opposite.
    """
    gains = split_gains(rows, metric).pivot_table(
        index=[*VALUE, "default", "target", "split"], columns="updated", values="difference", sort=False)
    gains[NONE], table = 0.0, []
    for conclusion, (first, second) in CONCLUSIONS.items():
        differences = (gains[first] - gains[second]).dropna().rename("difference").reset_index()
        tests_of = describe_by(differences, [*VALUE, "default", "target"]).groupby("target", sort=False)
        for target, tests in tests_of:
            default, others = tests[tests["default"]].iloc[0], tests[~tests["default"]]
            opposite = {HOLDS: FAILS, FAILS: HOLDS}.get(default["verdict"])
            turning = (others["choice"] + ": " + others["value_label"])[others["verdict"] == opposite]
            table.append({
                "conclusion": conclusion, "target": target, "under the defaults": default["verdict"],
                "points of rank 1": default["difference"], "other values": len(others),
                **{f"{word}: values": (others["verdict"] == word).sum() for word in VERDICTS},
                "sign turned by": ("; ".join(turning) or "none") if opposite else "no sign to turn"})
    return pd.DataFrame(table).set_index("conclusion")
