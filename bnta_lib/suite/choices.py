"""What the paper leaves open: how the gain of adaption depends on each such choice.

The gain of a value is the rank 1 after adaption minus that of the same network without adaption,
read in the same way, on the same split. The values are :data:`bnta_lib.suite.specs.CHOICES`.
:func:`survival` shows which conclusions outlive a change of a choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bnta_lib.settings import Settings
from bnta_lib.suite.specs import (
    AFFINE, ALL, CHOICES, DIVERGED, NONE, PAPER_TARGET, READINGS, Choice, Value, alone,
)
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, VERDICTS, describe_by, holm
from bnta_lib.suite.tables import paper_rank_1
from bnta_lib.weights import model_settings

VALUE = ["choice", "value_label", "target"]


def own_target(targets: Iterable[str]) -> str:
    """The target of the paper's ablation of BN's quantities, or else the first one given."""
    targets = list(targets)
    return PAPER_TARGET["table_5"] if PAPER_TARGET["table_5"] in targets else targets[0]


def split_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Gain of every value on every split, seeds averaged first.

    ``rows``: of ``lab.measure("open_choices")``. Columns: choice, value_label, updated, target, split,
    gain (points over the value's own reference on that split). Raises ValueError for a value without one.
    """
    keys = [*VALUE, "split"]
    scores = rows[rows["metric"] == metric]
    mean = scores.groupby([*keys, "updated"], sort=False)["value"].mean().reset_index()
    before = mean[mean["updated"] == NONE].set_index(keys)["value"].rename("before")
    gains = mean[mean["updated"] != NONE].join(before, on=keys)
    for row in gains[gains["before"].isna()].itertuples():
        raise ValueError(f"no row without adaption for {row.choice}: {row.value_label}")
    gains["gain"] = gains["value"] - gains["before"]
    return gains[["choice", "value_label", "updated", "target", "split", "gain"]]


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, updated, value_label, default (bool), target, those of
    :func:`~bnta_lib.suite.stats.describe` (difference: the gain in points), and more, more_low, more_high,
    more_verdict: the same of the gain minus that of the choice's default value on the same splits. Between
    two trainings more_verdict is "not resolved", whatever the interval.
    """
    gains = split_gains(rows, metric)
    defaults = {c.name: c.default.label for c in (*CHOICES.values(), READINGS, AFFINE)}
    gains["default"] = gains["value_label"] == gains["choice"].map(defaults)
    same = ["choice", "updated", "target", "split"]
    usual = gains[gains["default"]].set_index(same)["gain"].rename("usual")
    gains = gains.join(usual, on=same)
    keys = ["choice", "updated", "value_label", "default", "target"]
    names = {"difference": "more", "low": "more_low", "high": "more_high", "verdict": "more_verdict"}
    more = describe_by(gains.assign(difference=gains["gain"] - gains["usual"]), keys)
    table = describe_by(gains, keys, "gain").merge(more[[*keys, *names]].rename(columns=names), on=keys)
    other_training = {(choice.name, value.label) for choice in CHOICES.values() for value in choice.values
                      if value.spec.training != choice.default.spec.training}
    compared = pd.MultiIndex.from_frame(table[["choice", "value_label"]]).isin(other_training)
    table.loc[compared, "more_verdict"] = OPEN  # one training each
    return table


def choice_table(gains: pd.DataFrame, choice: str) -> pd.DataFrame:
    """Rows of :func:`gain_rows` of one choice, all quantities updated: a row a target and value."""
    shown = gains[(gains["choice"] == choice) & (gains["updated"] == ALL)]
    table = shown.set_index(["target", "value_label"]).sort_index(level="target", sort_remaining=False)
    return table[["default", "difference", "low", "high", "verdict", "more", "more_low", "more_high",
                  "more_verdict"]]


def diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """Values with which adaption diverged: choice, value_label, updated, target."""
    lost = rows[rows["metric"] == DIVERGED]
    return lost[["choice", "value_label", "updated", "target"]].drop_duplicates()


# ---- which conclusions survive


@dataclass(frozen=True)
class Conclusion:
    """A statement of the paper: updating one thing gives more rank 1 than updating another."""

    text: str
    source: str  # where the paper states it
    updated: str
    against: str
    everywhere: bool = False  # asked on each target, or on the paper's own


CONCLUSIONS = (
    Conclusion("adaption raises rank 1", "Table 2", ALL, NONE, everywhere=True),
    Conclusion("μ and σ² alone raise rank 1", "Table 5", "mu+var", NONE),
    Conclusion("γ and β alone raise rank 1", "Table 5", "gamma+beta", NONE),
    Conclusion("γ and β alone do more than μ and σ² alone", "Section 4.3", "gamma+beta", "mu+var"),
    Conclusion("all four do more than γ and β alone", "Table 5", ALL, "gamma+beta"),
)


def judged(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Every conclusion under every value that bears on it, and once under the defaults.

    Columns: conclusion, source, target, choice ("" for the defaults), value_label, those of
    :func:`~bnta_lib.suite.stats.describe`, holm (p by Holm's correction over all of these rows) and
    flips (the sign is resolved, and is not that resolved under the defaults). The verdict of a value
    with which a side diverged is DIVERGED. A value is left out if it cannot touch the conclusion, or
    if one side was not measured with it.
    """
    gains = split_gains(rows, metric).pivot_table(
        index=[*VALUE, "split"], columns="updated", values="gain", sort=False).assign(**{NONE: 0.0})
    table = pd.concat([_under_each_value(conclusion, gains, diverged(rows)) for conclusion in CONCLUSIONS],
                      ignore_index=True)
    table["holm"] = holm(table["p"])
    before = table[table["choice"] == ""].set_index(["conclusion", "target"])["verdict"].rename("before")
    opposite = table.join(before, on=["conclusion", "target"])["before"].map({HOLDS: FAILS, FAILS: HOLDS})
    return table.assign(flips=table["verdict"] == opposite)


def _under_each_value(conclusion: Conclusion, gains: pd.DataFrame, lost: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`judged` for one conclusion: under the defaults first, then value by value."""
    sides = {conclusion.updated, conclusion.against}
    lost = lost[lost["updated"].isin(sides)].drop_duplicates(VALUE)[VALUE]
    tests = [lost.assign(verdict=DIVERGED, difference=np.nan, p=np.nan)]
    if sides <= set(gains.columns):
        both = (gains[conclusion.updated] - gains[conclusion.against]).dropna()
        both = both.rename("difference").reset_index()
        whole = both.merge(lost, how="left", on=VALUE, indicator=True)["_merge"] == "left_only"
        tests.insert(0, describe_by(both[whole.to_numpy()], VALUE))
    first = next(iter(CHOICES.values()))
    order = [(first.name, first.default.label), *(
        (choice.name, value.label) for choice in (*CHOICES.values(), READINGS) for value in choice.values
        if not value.default and any(_touched(choice, value, side) for side in sides - {NONE}))]
    place = pd.Series(range(len(order)), pd.MultiIndex.from_tuples(order, names=VALUE[:2]), name="place")
    table = pd.concat(tests, ignore_index=True).join(place, on=VALUE[:2]).dropna(subset="place")
    table = table.sort_values("place", kind="stable")
    if not conclusion.everywhere:
        targets = gains.index.get_level_values("target").union(lost["target"])
        table = table[table["target"] == own_target(targets)]
    table.loc[table["place"] == 0, VALUE[:2]] = ""
    return table.drop(columns="place").assign(conclusion=conclusion.text, source=conclusion.source)


def _touched(choice: Choice, value: Value, side: str) -> bool:
    """Whether this value can change what ``side`` does."""
    if choice is READINGS or side == ALL:
        return side != ALL or choice is not READINGS
    ours, usual = (replace(alone(v.spec, side), method="") for v in (value, choice.default))
    return ours != usual


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive, as it is printed: a row a conclusion and target.

    Columns: paper (where it stands), target, the verdict under the defaults, the difference there, how
    many other values bear on it, which choices these are of, how many of them give each verdict, and
    those under which the resolved sign is the opposite of the defaults'.
    """
    table = []
    keys = ["conclusion", "source", "target"]
    for (text, source, target), group in judged(rows, metric).groupby(keys, sort=False):
        usual, others = group[group["choice"] == ""].iloc[0], group[group["choice"] != ""]
        flips = others[others["flips"]]
        turned = "; ".join(f"{c}: {v}" for c, v in zip(flips["choice"], flips["value_label"])) or "none"
        counts = others["choice"].value_counts(sort=False)
        table.append({
            "conclusion": text, "paper": source, "target": target, "under the defaults": usual["verdict"],
            "points of rank 1": usual["difference"], "other values": len(others),
            "of which choices": ", ".join(f"{choice} {n}" for choice, n in counts.items()),
            **{f"{word}: values": int((others["verdict"] == word).sum()) for word in (*VERDICTS, DIVERGED)},
            "sign turned by": turned if usual["verdict"] in (HOLDS, FAILS) else "no sign to turn",
        })
    return pd.DataFrame(table).set_index("conclusion")


def comparisons(judged: pd.DataFrame) -> pd.Series:
    """How many comparisons :func:`judged` makes, are resolved, and stay so after Holm's correction."""
    resolved, tests = judged[judged["verdict"].isin((HOLDS, FAILS))], judged["p"].notna().sum()
    return pd.Series({
        "comparisons": tests, "resolved by chance, at most": 0.05 * tests, "resolved": len(resolved),
        "resolved after Holm's correction": (resolved["holm"] < 0.05).sum(),
    }, name="number")


def paper_affine_gain() -> float:
    """Points of rank 1 that Table 5 credits gamma and beta alone with, on the paper's GRID."""
    cited = paper_rank_1("5")[1]
    return cited["gamma+beta"] - cited["None"]


def picks(gains: pd.DataFrame) -> pd.DataFrame:
    """What choosing a value by its result would bring: a row a target.

    Columns: default (gain, points), best (the value with the largest gain on the target itself), best
    gain, elsewhere (the value with the largest mean gain on the other targets; empty if there is no
    other), elsewhere gain (on this one). "best" needs the target's labels, which a new place does not
    have: no fair choice. Only values with the usual reference compete.
    """
    same = [c.name for c in CHOICES.values() if c.everywhere and c.name not in ("distance", "stripes")]
    gains = gains[gains["choice"].isin(same) & (gains["updated"] == ALL)]
    wide = gains.assign(label=gains["choice"] + ": " + gains["value_label"]).pivot(
        index="label", columns="target", values="difference")
    usual, rows = gains[(gains["choice"] == same[0]) & gains["default"]], []
    for target, default in usual.set_index("target")["difference"].items():
        best, others = wide[target].idxmax(), wide.drop(columns=target)
        elsewhere = others.mean(axis=1).idxmax() if len(others.columns) else ""
        rows.append({"target": target, "default": default, "best": best, "best gain": wide.loc[best, target],
                     "elsewhere": elsewhere, "elsewhere gain": wide[target].get(elsewhere, np.nan)})
    return pd.DataFrame(rows).set_index("target")


def stripe_heights(settings: Settings) -> dict[str, int]:
    """The input height in pixels of each value of the choice "stripes"."""
    return {value.label: model_settings(settings, value.spec.training).height
            for value in CHOICES["stripes"].values}
