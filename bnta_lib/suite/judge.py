"""The paper's Section 4.3, claim by claim, against what is measured here.

Every sentence that compares two numbers is a row of ``data/paper_claims.csv``. :func:`judge` gives
each a verdict (see :func:`bnta_lib.suite.stats.describe`) by its kind, a key of :data:`JUDGES`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnta_lib.data.sets import Target
from bnta_lib.settings import ROOT, TARGETS
from bnta_lib.suite import changes
from bnta_lib.suite.grid import peak_in_k, trend_in_n
from bnta_lib.suite.specs import PAPER_TARGET
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, RATE, SHARE, describe, paired_test
from bnta_lib.suite.tables import paper_values, row_name

# What still is "quite a small, and even negligible effect", points of rank 1: about one probe of
# the 125 that a split of GRID has (0.8 points), the smallest step that rank 1 can take there.
TOLERANCE = 1.0
UNITS = {"layers": RATE, "differ": SHARE, "seconds": "s", "ms": "times"}  # by kind or metric; else points


@dataclass(frozen=True)
class Claim:
    """One comparison that the paper makes."""

    id: str
    where: str  # of the paper: "Table 2", ..., "Fig. 4"
    claim: str  # in brief
    target: str  # on which the paper makes it; "" for all of them together
    kind: str  # a key of JUDGES
    metric: str
    method: tuple[str, ...]  # rows of the table; of "layers" and "differ" the quantity that moves
    against: tuple[str, ...] = ()  # rows that it is compared with


def read_claims() -> tuple[Claim, ...]:
    """The claims of ``data/paper_claims.csv``. Several rows of a table are joined there by " | "."""
    table = pd.read_csv(ROOT / "data" / "paper_claims.csv", keep_default_na=False)
    claims = []
    for row in table.to_dict("records"):
        for side in ("method", "against"):
            row[side] = tuple(filter(None, row[side].split(" | ")))
        if row["kind"] == "highest":
            names = paper_values(row["where"].removeprefix("Table "), row["target"]).index
            row["against"] = tuple(names.drop(list(row["method"])))
        claims.append(Claim(**row))
    return tuple(claims)


def claims_on(names: Iterable[str]) -> list[Claim]:
    """:data:`CLAIMS` on the targets of these names.

    On a user's folder: once each claim of Table 2 and of the tables' own targets, but for those that compare
    targets or belong to the paper's size of gallery and machine.
    """
    names = list(names)
    if set(names) & set(TARGETS):
        return [claim for claim in CLAIMS if claim.target in ("", *names)]
    return [replace(claim, target=claim.target and names[0]) for claim in CLAIMS
            if claim.kind not in ("differ", "at most")
            and (claim.where != "Table 2" or claim.target == PAPER_TARGET["table_4"])]


def paper_difference(claim: Claim) -> float:
    """The paper's own difference in points, or its limit for "at most"; NaN if it has no numbers."""
    if claim.kind in ("layers", "differ", "trend") or claim.target not in TARGETS:
        return math.nan
    table = "text" if claim.kind == "at most" else claim.where.removeprefix("Table ")
    value = paper_values(table, claim.target, claim.metric)
    method, against = value[list(claim.method)], value[list(claim.against)]
    if claim.kind == "at most":
        return float(method.iloc[0] / against.iloc[0] if len(against) else method.iloc[0])
    return round(float(method.sum() - (against.max() if claim.kind == "highest" else against.sum())), 1)


def judge(rows: Mapping[str, pd.DataFrame], claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """A verdict on each claim from rows of :func:`bnta_lib.suite.claims.gather`, in the claims' order.

    Columns: id, where, claim, target, paper, here (the same difference there and here, or a level if the unit
    is one), low, high (the interval here), unit, verdict, note.
    """
    table = []
    for claim in CLAIMS if claims is None else claims:
        paper = paper_difference(claim)
        measured = rows["time" if claim.kind == "at most" else claim.where]
        if claim.target:
            measured = measured[measured["target"] == claim.target]
        limits = {"small effect": (-TOLERANCE, TOLERANCE), "at most": (-math.inf, paper)}
        above, below = limits.get(claim.kind, (0, math.inf))
        test = JUDGES[claim.kind](claim, measured, above=above, below=below)
        table.append({
            "id": claim.id, "where": claim.where, "claim": claim.claim, "target": claim.target or "all",
            "paper": paper, "here": test["difference"], "low": test["low"], "high": test["high"],
            "unit": UNITS.get(claim.kind) or UNITS.get(claim.metric, "points"), "verdict": test["verdict"],
            "note": "; ".join(filter(None, [test["reason"], test.get("note")]))})
    return pd.DataFrame(table)


def _level(value: float, verdict: str, reason: str = "") -> dict:
    """A number without an interval."""
    return {"difference": value, "low": math.nan, "high": math.nan, "verdict": verdict, "reason": reason}


def _greater(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The rows ``method``, added up, minus the rows ``against``, is within the limits."""
    return paired_test(rows, claim.method, claim.against, claim.metric, **limits).iloc[0].to_dict()


def _highest(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The row is above every other row of its table. One resolved above it refutes it."""
    tests = [_greater(replace(claim, against=(name,)), rows, **limits) | {"note": f"against {row_name(name)}"}
             for name in claim.against]
    above = [test for test in tests if test["verdict"] == FAILS]
    # The row that decides: the best of those above it, or else the closest.
    closest = min(above or tests, key=lambda test: test["difference"])
    every = all(test["verdict"] == HOLDS for test in tests)
    return closest | {"verdict": FAILS if above else HOLDS if every else OPEN}


def _layers(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The mean change rate of the BN layers that the paper names is above that of all others.

    Most of those named are among the ten that change most, from which the paper reads them off.
    """
    rates, layers = rows[rows["metric"] == claim.method[0]], changes.PAPER_LAYERS[claim.method[0].split()[1]]
    named = rates["index"].isin(layers)
    # Targets have equal weight; their splits are independent, and any may stand side by side.
    inside, outside = (group.groupby(["split", "target"])["value"].mean().unstack().dropna().mean(axis=1)
                       for group in (rates[named], rates[~named]))
    mean = rates.groupby(["index", "target"])["value"].mean().groupby("index").mean()
    top = len(set(mean.nlargest(changes.TOP).index) & set(layers))
    test = describe(inside - outside, **limits)
    if test["verdict"] == HOLDS and 2 * top <= len(layers):
        test["verdict"] = OPEN if top else FAILS
    return test | {"note": f"{top} of {len(layers)} in the top {changes.TOP}"}


def _differ(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """Change rates differ between targets at over half of the BN layers. A share as by chance refutes it."""
    rates = changes.change_rates_by_split(rows[rows["metric"] == claim.method[0]])
    table = changes.between_targets(rates)
    if table.empty:
        return _level(math.nan, OPEN, "too few targets or splits")
    share = table["share"].item()
    return _level(share, HOLDS if share > 50 else FAILS if share <= 100 * changes.LAYER_LEVEL else OPEN)


def _trend(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """A difference over the cells of Figure 4 (see :mod:`bnta_lib.suite.grid`) is above zero."""
    tests = pd.concat([peak_in_k(rows, pooled=True), trend_in_n(rows, pooled=True).assign(part="more N")])
    test = tests[tests["part"] == claim.method[0]]
    if test.empty:
        return _level(math.nan, OPEN, "too few splits, or values of N and K")
    return test.iloc[0].to_dict() | {"reason": ""}


def _at_most(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """A time, or a ratio of times, is no larger than the paper's, on the paper's network."""
    times = rows[rows["metric"] == claim.metric]
    test = describe(times.groupby("split")["value"].mean(), **limits)
    if set(times["profile"]) != {"paper"}:  # the ratio depends on the network too
        test |= {"verdict": OPEN, "reason": "another network than the paper's"}
    return test | {"note": " and ".join(times["machine"].unique())}


JUDGES = {"greater": _greater, "small effect": _greater, "highest": _highest, "layers": _layers,
          "differ": _differ, "trend": _trend, "at most": _at_most}
CLAIMS = read_claims()


def time_rows(rows: pd.DataFrame, targets: Mapping[str, Target]) -> pd.DataFrame:
    """What adaption costs on each split and with each seed, a row a number; ``rows``: those of Table 2.

    Metrics: "seconds" (features of the gallery, pairing and steps) and "ms": an image's inference with
    adaption, whose seconds are spread over probe and gallery, as a multiple of that without.
    """
    parts = rows[(rows["method"] == "BNTA") & (rows["unit"] == "s")]
    keys = ["target", "split", "seed", "profile", "machine", "N"]  # N: images of the gallery
    parts = parts.pivot(index=keys, columns="metric", values="value").reset_index()
    probes = [len(targets[name].splits[split].probe) for name, split in zip(parts["target"], parts["split"])]
    seconds = parts[["features", "pairing", "steps"]].sum(axis=1)
    ratio = 1 + seconds / (parts["N"] + probes) / (parts["features"] / parts["N"])
    return parts[keys].assign(seconds=seconds, ms=ratio).melt(keys, ["seconds", "ms"], "metric")
