"""The paper's Section 4.3, claim by claim, against what is measured here.

Every sentence that compares two numbers is a row of ``data/paper_claims.csv``. :func:`judge` gives
each a verdict (see :func:`bnta_lib.suite.stats.verdict`), by its kind:

* "greater": the rows ``method``, added up, minus the rows ``against``, is above zero.
* "highest": the row is above every other row of its table. One resolved above it refutes it.
* "small effect": the difference lies within :data:`MARGIN` of zero.
* "layers": the mean change rate of the BN layers named is above that of all others, and most of
  those named are among the ten that change most, from which the paper reads them off.
* "differ": change rates differ between targets (analysis of variance over splits) at more than half
  of the BN layers. No more than chance alone gives refutes it.
* "trend": a difference over the cells of Figure 4 (see :mod:`bnta_lib.suite.grid`) is above zero.
* "at most": a time, or a ratio of times, is no larger than the paper's, on the paper's network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.data.sets import Target
from bnta_lib.settings import ROOT, TARGETS
from bnta_lib.suite.changes import PAPER_LAYERS, TOP, between_targets, change_rates_by_split
from bnta_lib.suite.grid import peak_in_k, trend_in_n
from bnta_lib.suite.stats import (
    FAILS, HOLDS, ONE_EACH, OPEN, RATE, SHARE, TIE, describe, one_training_each, verdict,
)
from bnta_lib.suite.tables import paper_numbers, row_name

# What still is "quite a small, and even negligible effect", points of rank 1: about one probe of
# the 125 that a split of GRID has (0.8 points), the smallest step that rank 1 can take there.
MARGIN = 1.0
LAYER_LEVEL = 0.05  # of the analysis of variance of a layer; the share that differs by chance
COLUMNS = ["id", "where", "claim", "target", "paper", "here", "low", "high", "unit", "verdict", "note"]


@dataclass(frozen=True)
class Claim:
    """One comparison that the paper makes. Raises ValueError for an unknown kind."""

    id: str
    where: str  # of the paper: "Table 2", ..., "Fig. 4"
    claim: str  # in brief
    target: str  # on which the paper makes it; "" for all of them together
    kind: str  # a key of JUDGES
    metric: str
    method: tuple[str, ...]  # rows of the table; of "layers" and "differ" the quantity that moves
    against: tuple[str, ...] = ()  # rows that it is compared with
    layers: tuple[int, ...] = ()  # indices of BN layers, from 1

    def __post_init__(self) -> None:
        if self.kind not in JUDGES:
            raise ValueError(f"unknown kind {self.kind!r}: one of {', '.join(JUDGES)}")

    @property
    def source(self) -> str:
        """The key of its rows in what :func:`bnta_lib.suite.claims.gather` returns."""
        return "time" if self.kind == "at most" else self.where


def read_claims() -> tuple[Claim, ...]:
    """The claims of ``data/paper_claims.csv``. Several rows of a table are joined there by " | "."""
    table = pd.read_csv(ROOT / "data" / "paper_claims.csv", keep_default_na=False)
    claims, numbers = [], paper_numbers()
    for row in table.to_dict("records"):
        for side in ("method", "against"):
            row[side] = tuple(filter(None, row[side].split(" | ")))
        if row["kind"] == "highest":
            names = numbers.query(f"table == '{row['where'].removeprefix('Table ')}'")["row"].unique()
            row["against"] = tuple(name for name in names if name not in row["method"])
        if row["kind"] == "layers":
            row["layers"] = PAPER_LAYERS[row["method"][0].removeprefix("rate ")]
        claims.append(Claim(**row))
    return tuple(claims)


def claims_on(names: Iterable[str]) -> list[Claim]:
    """:data:`CLAIMS` for the targets of these names.

    Those that the paper makes on a target by name are left out if it is not among several. On a
    single target of another name, a user's folder, every claim is made once and on it, but for
    those that compare targets or belong to the paper's size of gallery and machine.
    """
    names = list(names)
    if set(names) & set(TARGETS):
        return [claim for claim in CLAIMS if claim.target in ("", *names)]
    moved = [replace(claim, target=claim.target and names[0]) for claim in CLAIMS
             if claim.kind not in ("differ", "at most")]
    once = {(claim.where, claim.kind, claim.method, claim.against): claim for claim in moved[::-1]}
    return list(once.values())[::-1]


def paper_difference(claim: Claim) -> float:
    """What the paper's own numbers give: points, or the limit of "at most"; NaN without numbers.

    "highest" is the difference from the next best row.
    """
    if claim.where.startswith("Fig.") and claim.kind != "at most" or claim.target not in TARGETS:
        return math.nan  # figures without numbers, or another target
    table = "text" if claim.kind == "at most" else claim.where.removeprefix("Table ")
    cited = paper_numbers().query("table == @table and dataset == @claim.target and metric == @claim.metric")
    value = cited.set_index("row")["value"].astype(float)
    method, against = value[list(claim.method)], value[list(claim.against)]
    if claim.kind == "at most":
        return float(method.iloc[0] / against.iloc[0] if len(against) else method.iloc[0])
    rest = against.max() if claim.kind == "highest" else against.sum()
    return round(float(method.sum() - rest), 1)  # the numbers have one decimal


# ---- the verdicts


def judge(
    rows: Mapping[str, pd.DataFrame], claims: Sequence[Claim] | None = None, margin: float = MARGIN
) -> pd.DataFrame:
    """A verdict on each claim from rows of :func:`bnta_lib.suite.claims.gather`, in the claims' order.

    Columns: :data:`COLUMNS`. "paper" and "here" are the same difference there and here, or a level
    if the unit is one; low and high are the ends of its interval here. Raises ValueError for a row
    of a table that was not measured.
    """
    table = []
    for claim in CLAIMS if claims is None else claims:
        paper = paper_difference(claim)
        limits = {"small effect": (-margin, margin), "at most": (-math.inf, paper)}
        limits = limits.get(claim.kind, (0, math.inf))
        result = JUDGES[claim.kind](claim, rows[claim.source], limits)
        row = {"id": claim.id, "where": claim.where, "claim": claim.claim,
               "target": claim.target or "all", "paper": paper} | result
        same = [other["id"] for other in table if _same_numbers(row, other)]
        row["note"] += f"; the same numbers as {same[0]}" if same else ""
        table.append(row)
    return pd.DataFrame(table, columns=COLUMNS)


def _same_numbers(row: Mapping, other: Mapping) -> bool:
    """Whether two claims on one table rest on one difference and its one interval."""
    numbers = [[side[name] for name in ("here", "low", "high")] for side in (row, other)]
    return all(row[key] == other[key] for key in ("where", "target", "unit")) and np.allclose(
        *numbers, rtol=0, atol=TIE)  # NaN equals nothing


def _result(test: Mapping, unit: str, word: str, *notes: str) -> dict:
    return {"here": test["difference"], "low": test["low"], "high": test["high"], "unit": unit,
            "verdict": word, "note": "; ".join(filter(None, notes))}


def _level(value: float, unit: str, word: str, *notes: str) -> dict:
    return _result({"difference": value, "low": math.nan, "high": math.nan}, unit, word, *notes)


def _sum(claim: Claim, rows: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """The rows of these names added up, seeds averaged first: a value a split."""
    chosen = rows[(rows["target"] == claim.target) & (rows["metric"] == claim.metric)]
    values = chosen.groupby(["method", "split"])["value"].mean()
    for name in names:
        if name not in values.index:
            raise ValueError(f"{claim.where}: no {claim.metric} of {name!r} on {claim.target!r}")
    return sum(values[name] for name in names)


def _compared(claim: Claim, rows: pd.DataFrame, against: tuple[str, ...], limits: tuple) -> dict:
    """Test of the claim's method against these rows, with verdict and reason."""
    test = describe(_sum(claim, rows, claim.method) - _sum(claim, rows, against))
    word, reason = verdict(test, *limits)
    if one_training_each(rows[rows["method"].isin(claim.method + against)]):
        word, reason = OPEN, ONE_EACH
    return test | {"verdict": word, "reason": reason}


def _greater(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    test = _compared(claim, rows, claim.against, limits)
    return _result(test, "points", test["verdict"], test["reason"],
                   f"higher on {test['better']} of {test['splits']} splits")


def _highest(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    tests = {name: _compared(claim, rows, (name,), limits) for name in claim.against}
    above = [name for name, test in tests.items() if test["verdict"] == FAILS]
    # The row that decides: the best of those above it, or else the closest.
    name = min(above or tests, key=lambda n: tests[n]["difference"])
    below = sum(test["verdict"] == HOLDS for test in tests.values())
    word = FAILS if above else HOLDS if below == len(tests) else OPEN
    return _result(tests[name], "points", word, tests[name]["reason"], f"against {row_name(name)}",
                   f"resolved above {below} of {len(tests)} rows")


def _layers(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    rates = rows[rows["metric"] == claim.method[0]]
    rates = rates[rates["target"] == claim.target] if claim.target else rates
    inside = rates["index"].isin(claim.layers)
    # Targets have equal weight; their splits are independent, and any may stand side by side.
    sides = [group.groupby(["split", "target"])["value"].mean().unstack().dropna().mean(axis=1)
             for group in (rates[inside], rates[~inside])]
    mean = rates.groupby(["index", "target"])["value"].mean().groupby("index").mean()
    top = len(set(mean.nlargest(TOP).index) & set(claim.layers))
    test = describe(sides[0] - sides[1])
    word = test["verdict"]
    if word == HOLDS and 2 * top <= len(claim.layers):
        word = OPEN if top else FAILS
    return _result(test, RATE, word, test["reason"], "their mean minus that of the other layers",
                   f"{top} of the {len(claim.layers)} are among the {TOP} that change most here")


def _differ(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    rates = rows[rows["metric"] == claim.method[0]].dropna(subset="value")
    # Layers that nothing moved, as bnneck, which no gradient reaches, have nothing to compare.
    rates = rates[rates.groupby("index")["value"].transform("max") > 0]
    splits = rates.groupby("target")["split"].nunique()
    if len(splits) < 2 or splits.min() < 2:
        return _level(math.nan, SHARE, OPEN, "needs two targets that move, with two splits each")
    share = _share_that_differs(rates)
    spread = between_targets(change_rates_by_split(rates)).iloc[0]["ratio"]
    notes = ["a share and no difference", f"of {rates['index'].nunique()} layers that moved",
             f"spread between targets {spread:.1f} times that between splits (median)"]
    # Statistics move once in each step: targets of equally many steps compare better.
    steps = rates.groupby("target", sort=False)["steps"].first()
    alike = steps[steps == steps.mode().iloc[0]]
    if 1 < len(alike) < len(steps):
        among = _share_that_differs(rates[rates["target"].isin(alike.index)])
        notes.append(f"among {' and '.join(alike.index)} alone, of {alike.iloc[0]} steps each: "
                     f"{among:.0f} % of the layers")
    word = HOLDS if share > 50 else FAILS if share <= 100 * LAYER_LEVEL else OPEN
    return _level(share, SHARE, word, *notes)


def _share_that_differs(rates: pd.DataFrame) -> float:
    """Per cent of the layers on which an analysis of variance separates the targets."""
    levels = [stats.f_oneway(*(v.to_numpy() for _, v in layer.groupby("target")["value"])).pvalue
              for _, layer in rates.groupby("index")]
    return 100 * float(np.mean([p < LAYER_LEVEL for p in levels]))


def _trend(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    trend = rows[(rows["target"] == claim.target) & (rows["part"] == claim.method[0])]
    if trend.empty:
        return _level(math.nan, "points", OPEN, "too few splits, or values of N and K")
    test = trend.iloc[0].to_dict()
    return _result(test, "points", *verdict(test, *limits), test["note"])


def _at_most(claim: Claim, rows: pd.DataFrame, limits: tuple) -> dict:
    times = rows[(rows["target"] == claim.target) & (rows["metric"] == claim.metric)]
    test = describe(times.groupby("split")["value"].mean())
    word, reason = verdict(test, *limits)
    profiles = " and ".join(times["profile"].unique())
    if profiles != "paper":  # how steps compare with an image's features depends on the network too
        word, reason = OPEN, "another network than the paper's: times do not compare"
    return _result(test, "s" if claim.metric == "seconds" else "times", word, reason,
                   "a level and no difference", f"the {profiles} profile's network on "
                   f"{' and '.join(times['machine'].unique())}; the paper's is on a Titan Xp")


JUDGES = {"greater": _greater, "small effect": _greater, "highest": _highest, "layers": _layers,
          "differ": _differ, "trend": _trend, "at most": _at_most}
CLAIMS = read_claims()


def trend_rows(grid: pd.DataFrame) -> pd.DataFrame:
    """Figure 4's tendencies: target, part ("rise", "decline", "more N"), difference, low, high,
    splits, note. ``grid``: rows of Figure 4."""
    peaks, trends = peak_in_k(grid, pooled=True), trend_in_n(grid, pooled=True)
    columns = ["target", "part", "difference", "low", "high", "splits", "note"]
    if peaks.empty and trends.empty:
        return pd.DataFrame(columns=columns)
    if len(peaks):
        inside = peak_in_k(grid).drop_duplicates(["target", "N"]).groupby("target")["inside"]
        counts = inside.agg(lambda each: f"the best K is neither end at {each.sum()} of {len(each)} N")
        peaks["note"] = peaks["target"].map(counts)
    trends = trends.assign(part="more N", note="points for twice the images")
    return pd.concat([peaks, trends], ignore_index=True)[columns]


def time_rows(rows: pd.DataFrame, targets: Mapping[str, Target]) -> pd.DataFrame:
    """What adaption costs on each split and with each seed, a row a number.

    ``rows``: those of Table 2. Metrics: "seconds" (features of the gallery, pairing and steps) and
    "ms", the paper's unit of it: an image's inference with adaption, whose seconds are spread over
    probe and gallery, as a multiple of that without.
    """
    parts = rows[(rows["method"] == "BNTA") & (rows["unit"] == "s")]
    keys = ["target", "split", "seed", "profile", "machine"]
    parts = parts.pivot(index=keys, columns="metric", values="value").reset_index()
    splits = [targets[name].splits[split] for name, split in zip(parts["target"], parts["split"])]
    gallery = np.array([len(split.gallery) for split in splits])
    both = gallery + [len(split.probe) for split in splits]
    seconds, each = parts[["features", "pairing", "steps"]].sum(axis=1), parts["features"] / gallery
    times = parts[keys].assign(seconds=seconds, ms=(each + seconds / both) / each)
    return times.melt(keys, ["seconds", "ms"], "metric")
