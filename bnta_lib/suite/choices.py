"""What the paper leaves open: how the gain of adaption depends on each such choice.

The gain of a value is the rank 1 after adaption minus that of the same network without adaption, on the same
split. The values are :data:`bnta_lib.suite.specs.CHOICES`. :func:`survival` shows which conclusions outlive a
change of a choice. ``rows`` are those of ``lab.measure("open_choices")``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bnta_lib.settings import Settings, model_settings
from bnta_lib.suite.specs import AFFINE, ALL, ALONE_OR_RESTORE, CHOICES, DIVERGED, NONE, Choice, Spec, alone
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, VERDICTS, describe_by, holm
from bnta_lib.suite.tables import paper_values

VALUE = ["choice", "value_label"]


def split_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Gain of every value on every split, seeds averaged first.

    Columns: choice, value_label, updated, target, split, gain (points over the value's own row without
    adaption on that split). Raises ValueError for a value without such a row.
    """
    keys = [*VALUE, "target", "split"]
    scores = rows[rows["metric"] == metric].groupby([*keys, "updated"], sort=False)["value"].mean()
    scores = scores.reset_index()
    before = scores[scores["updated"] == NONE].set_index(keys)["value"].rename("before")
    gains = scores[scores["updated"] != NONE].join(before, on=keys)
    for row in gains[gains["before"].isna()].itertuples():
        raise ValueError(f"no row without adaption for {row.choice}: {row.value_label}")
    return gains.assign(gain=gains["value"] - gains["before"])[[*VALUE, "updated", "target", "split", "gain"]]


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, updated, value_label, default (bool), target, those of
    :func:`~bnta_lib.suite.stats.describe` (difference: the gain in points), and more, more_low, more_high,
    more_verdict: the same of the gain minus that of the choice's default value on the same splits. Between
    two trainings more_verdict is "not resolved", whatever the interval.
    """
    gains = split_gains(rows, metric)
    defaults = {choice.name: choice.default for choice in (*CHOICES.values(), ALONE_OR_RESTORE, AFFINE)}
    gains["default"] = gains["value_label"] == gains["choice"].map(defaults)
    split = ["choice", "updated", "target", "split"]
    gains = gains.join(gains[gains["default"]].set_index(split)["gain"].rename("default gain"), on=split)
    keys = ["choice", "updated", "value_label", "default", "target"]
    names = {"difference": "more", "low": "more_low", "high": "more_high", "verdict": "more_verdict"}
    more = describe_by(gains.assign(difference=gains["gain"] - gains["default gain"]), keys)
    table = describe_by(gains, keys, "gain").merge(more[[*keys, *names]].rename(columns=names), on=keys)
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


# ---- which conclusions survive


@dataclass(frozen=True)
class Conclusion:
    """A statement of the paper: updating one thing gives more rank 1 than updating another."""

    text: str
    source: str  # where the paper states it
    updated: str
    against: str


CONCLUSIONS = (
    Conclusion("adaption raises rank 1", "Table 2", ALL, NONE),
    Conclusion("μ and σ² alone raise rank 1", "Table 5", "mu+var", NONE),
    Conclusion("γ and β alone raise rank 1", "Table 5", "gamma+beta", NONE),
    Conclusion("γ and β alone do more than μ and σ² alone", "Section 4.3", "gamma+beta", "mu+var"),
    Conclusion("all four do more than γ and β alone", "Table 5", ALL, "gamma+beta"),
)


def judged(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Every conclusion under every value that bears on it, and once under the defaults.

    Columns: conclusion, source, target, choice, value_label, defaults (bool), those of
    :func:`~bnta_lib.suite.stats.describe`, holm (p by Holm's correction over all of these rows) and flips
    (the sign is resolved, and is not that resolved under the defaults). The verdict of a value with which a
    side diverged is DIVERGED. A value is left out if one side was not measured with it.
    """
    gains = split_gains(rows, metric).pivot_table(
        index=[*VALUE, "target", "split"], columns="updated", values="gain", sort=False).assign(**{NONE: 0.0})
    lost, first = diverged(rows), CHOICES["momentum"]
    others = [(choice, value) for choice in (*CHOICES.values(), ALONE_OR_RESTORE) for value in choice.values
              if value.method != choice.default]
    tables = []
    for conclusion in CONCLUSIONS:
        sides = conclusion.updated, conclusion.against
        both = gains[sides[0]].sub(gains[sides[1]]).dropna().rename("difference").reset_index()
        broken = lost[lost["updated"].isin(sides) & lost["target"].isin(both["target"])]
        broken = broken[[*VALUE, "target"]].drop_duplicates().assign(verdict=DIVERGED)
        tests = pd.concat([describe_by(both, [*VALUE, "target"]), broken])
        values = [(choice.name, value.method, False) for choice, value in others
                  if any(_touches(choice, value, side) for side in sides)]
        values = pd.DataFrame([(first.name, first.default, True), *values], columns=[*VALUE, "defaults"])
        tests = tests.assign(conclusion=conclusion.text, source=conclusion.source)
        tables.append(values.merge(tests, on=VALUE))
    table = pd.concat(tables, ignore_index=True)
    keys = ["conclusion", "target"]
    before = table[table["defaults"]].set_index(keys)["verdict"].map({HOLDS: FAILS, FAILS: HOLDS})
    opposite = table.join(before.rename("opposite"), on=keys)["opposite"]
    return table.assign(holm=holm(table["p"]), flips=table["verdict"] == opposite)


def _touches(choice: Choice, value: Spec, updated: str) -> bool:
    """Whether a value can change what adaption does that updates this."""
    if updated == NONE or choice is ALONE_OR_RESTORE:
        return updated not in (NONE, ALL)
    return updated == ALL or bool(alone(value, updated).overrides)


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive, as it is printed: a row a conclusion and target.

    Columns: paper (where it stands), target, the verdict under the defaults, the difference there, how many
    other values bear on it, of which choices, how many give each verdict, and those that turn the sign.
    """
    table = []
    keys = ["conclusion", "source", "target"]
    for (text, source, target), group in judged(rows, metric).groupby(keys, sort=False):
        default, others = group[group["defaults"]].iloc[0], group[~group["defaults"]]
        flips = others[others["flips"]]
        turned = "; ".join(f"{c}: {v}" for c, v in zip(flips["choice"], flips["value_label"])) or "none"
        counts = others["choice"].value_counts(sort=False)
        table.append({
            "conclusion": text, "paper": source, "target": target, "under the defaults": default["verdict"],
            "points of rank 1": default["difference"], "other values": len(others),
            "of which choices": ", ".join(f"{choice} {n}" for choice, n in counts.items()),
            **{f"{word}: values": int((others["verdict"] == word).sum()) for word in (*VERDICTS, DIVERGED)},
            "sign turned by": turned if default["verdict"] in (HOLDS, FAILS) else "no sign to turn",
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
    cited = paper_values("5", "GRID")
    return cited["gamma+beta"] - cited["None"]


def picks(gains: pd.DataFrame) -> pd.DataFrame:
    """What choosing a value by its result would bring: a row a target.

    Columns: default (gain, points), best (the value with the largest gain on the target itself, which needs
    its labels), best gain, elsewhere (the value with the largest mean gain on the other targets, "" if there
    are none), elsewhere gain (on this one). Only values with the default's row without adaption compete.
    """
    competing = [c.name for c in CHOICES.values() if c.everywhere and c.name not in ("distance", "stripes")]
    gains = gains[gains["choice"].isin(competing) & (gains["updated"] == ALL)]
    wide = gains.assign(label=gains["choice"] + ": " + gains["value_label"]).pivot(
        index="label", columns="target", values="difference")
    defaults, rows = gains[gains["default"]].drop_duplicates("target").set_index("target")["difference"], []
    for target, default in defaults.items():
        best, others = wide[target].idxmax(), wide.drop(columns=target)
        elsewhere = others.mean(axis=1).idxmax() if len(others.columns) else ""
        rows.append({"target": target, "default": default, "best": best, "best gain": wide.loc[best, target],
                     "elsewhere": elsewhere, "elsewhere gain": wide[target].get(elsewhere, np.nan)})
    return pd.DataFrame(rows).set_index("target")


def stripe_heights(settings: Settings) -> dict[str, int]:
    """The input height in pixels of each value of the choice "stripes"."""
    values = CHOICES["stripes"].values
    return {value.method: model_settings(settings, value.training).height for value in values}
