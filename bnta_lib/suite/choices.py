"""What the paper leaves open: how the gain of adaption depends on each such choice.

The values are :data:`bnta_lib.suite.specs.CHOICES`; ``rows`` are those of ``lab.measure("open_choices")``.
"""

import pandas as pd

from bnta_lib.suite import stats
from bnta_lib.suite.specs import AFFINE, ALL, CHOICES, DIVERGED, NONE, Spec, alone
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, VERDICTS, describe_by
from bnta_lib.suite.tables import paper_values

VALUE = ["choice", "value_label"]

# Statements of the paper: updating one thing gives more rank 1 than updating another.
CONCLUSIONS = (
    ("adaption raises rank 1", "Table 2", ALL, NONE),
    ("μ and σ² alone raise rank 1", "Table 5", "mu+var", NONE),
    ("γ and β alone raise rank 1", "Table 5", "gamma+beta", NONE),
    ("γ and β alone do more than μ and σ² alone", "Section 4.3", "gamma+beta", "mu+var"),
    ("all four do more than γ and β alone", "Table 5", ALL, "gamma+beta"),
)


def split_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """:func:`~bnta_lib.suite.stats.split_gains` of every value; keys: choice, value_label, updated."""
    return stats.split_gains(rows, [*VALUE, "updated"], VALUE, metric)


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, updated, value_label, default (bool), target, those of
    :func:`~bnta_lib.suite.stats.describe` (difference: the gain in points), and more, more_low, more_high,
    more_verdict: the same of the gain minus that of the choice's default value on the same splits. Between
    two trainings more_verdict is "not resolved", whatever the interval.
    """
    gains, split = split_gains(rows, metric), ["choice", "updated", "target", "split"]
    defaults = {choice.name: choice.default for choice in (*CHOICES.values(), AFFINE)}
    gains["default"] = gains["value_label"] == gains["choice"].map(defaults)
    default = gains[gains["default"]].set_index(split)["difference"].rename("default gain")
    more = gains["difference"] - gains.join(default, on=split)["default gain"]
    keys = ["choice", "updated", "value_label", "default", "target"]
    names = {"difference": "more", "low": "more_low", "high": "more_high", "verdict": "more_verdict"}
    more = describe_by(gains.assign(difference=more), keys)[[*keys, *names]].rename(columns=names)
    table = describe_by(gains, keys).merge(more, on=keys)
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


def _verdicts(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every conclusion on every target, first under the defaults, then under every value that bears on it.

    Columns: conclusion, source, choice, value_label, target, difference, verdict (DIVERGED if a side did). A
    value is left out if one side was not measured with it.
    """
    gains = split_gains(rows, metric).pivot_table(
        index=[*VALUE, "target", "split"], columns="updated", values="difference", sort=False)
    gains[NONE], lost, first, tables = 0.0, diverged(rows), CHOICES["momentum"], []
    for text, source, *sides in CONCLUSIONS:
        both = gains[sides[0]].sub(gains[sides[1]]).dropna().rename("difference").reset_index()
        broken = lost[lost["updated"].isin(sides) & lost["target"].isin(both["target"])]
        broken = broken[[*VALUE, "target"]].drop_duplicates().assign(verdict=DIVERGED)
        values = [(first.name, first.default)]
        values += [(choice.name, value.method) for choice in CHOICES.values() for value in choice.values
                   if value.method != choice.default and any(_touches(value, side) for side in sides)]
        values = pd.DataFrame(values, columns=VALUE).assign(conclusion=text, source=source)
        tables.append(values.merge(pd.concat([describe_by(both, [*VALUE, "target"]), broken]), on=VALUE))
    return pd.concat(tables)


def _touches(value: Spec, updated: str) -> bool:
    """Whether a value can change what adaption does that updates this."""
    return updated == ALL or updated != NONE and bool(alone(value, updated).overrides)


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive, as it is printed: a row a conclusion and target.

    Columns: paper (where it stands), target, the verdict under the defaults, the difference there, how many
    other values bear on it, of which choices, how many give each verdict, and those that turn the sign: they
    resolve the opposite of what the defaults resolve.
    """
    table = []
    groups = _verdicts(rows, metric).groupby(["conclusion", "source", "target"], sort=False)
    for (text, source, target), group in groups:
        default, others = group.iloc[0], group.iloc[1:]
        opposite = {HOLDS: FAILS, FAILS: HOLDS}.get(default["verdict"])
        turning = (others["choice"] + ": " + others["value_label"])[others["verdict"] == opposite]
        counts = others["choice"].value_counts(sort=False)
        table.append({
            "conclusion": text, "paper": source, "target": target, "under the defaults": default["verdict"],
            "points of rank 1": default["difference"], "other values": len(others),
            "of which choices": ", ".join(f"{choice} {n}" for choice, n in counts.items()),
            **{f"{word}: values": int((others["verdict"] == word).sum()) for word in (*VERDICTS, DIVERGED)},
            "sign turned by": ("; ".join(turning) or "none") if opposite else "no sign to turn",
        })
    return pd.DataFrame(table).set_index("conclusion")


def paper_affine_gain() -> float:
    """Points of rank 1 that Table 5 credits gamma and beta alone with, on the paper's GRID."""
    cited = paper_values("5", "GRID")
    return cited["gamma+beta"] - cited["None"]
