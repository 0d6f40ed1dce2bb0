"""The paper's Section 4.3, sentence by sentence, against what is measured here.

Every sentence that compares two numbers is a :class:`Claim` of :data:`CLAIMS`; :func:`check`
measures what the claims need, or reads it from the store, and gives a verdict on each:

* "greater": the rows ``method``, added up, minus the rows ``against``. Holds where the 95 %
  interval of the difference lies above zero, does not hold where it lies below.
* "highest": holds where the row is resolved above every other row of its table, does not hold
  where another is resolved above it.
* "small effect": holds where the interval lies within :data:`MARGIN` of zero, does not hold
  where it lies wholly outside.
* "layers": the mean change rate of the BN layers named minus that of all others. The paper reads
  them off its ten that change most: holds where the interval lies above zero and more than half of
  them are among the ten here, does not hold where it lies below zero, or none is among the ten.
* "differ": the share of BN layers whose change rates differ between the targets (analysis of
  variance over splits, 5 % a layer). Holds for more than half of the layers, does not hold for no
  more than :data:`CHANCE` per cent, which chance alone would give.
* "trend": a difference over the cells of Figure 4 (see :mod:`bnta_lib.suite.grid`), as "greater".
* "at most": holds where the interval lies at or below the paper's number, does not hold above. Of
  seconds that is asked of the paper's network alone.

All else is not resolved here, and so is what has one split or no spread, and every comparison of
rows of several trainings while each was trained once (:func:`trainings_behind`). Intervals are Student's
t over splits, seeds averaged within a split first and methods paired on the same split (see
:func:`bnta_lib.suite.tables.paired_test`). Splits share people: intervals are somewhat too narrow.

``python -m bnta_lib.suite.claims`` prints the verdicts and writes them with a figure.
"""

from __future__ import annotations

import argparse
import errno
import math
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.suite.ablations import PAPER_TARGET, table_3_rows, table_4_rows, table_5_rows
from bnta_lib.suite.changes import PAPER_LAYERS, TOP, between_targets, change_rates_by_split, steps_at
from bnta_lib.data import load_targets
from bnta_lib.data.splits import protocol_note
from bnta_lib.data.sets import Target
from bnta_lib.suite.environment import check_cache, shown
from bnta_lib.suite.experiments import change_rows, table_2_rows
from bnta_lib.figures.base import save_figure, use_style
from bnta_lib.figures.claims import claims_figure
from bnta_lib.suite.grid import grid_rows, peak_in_k, trend_in_n
from bnta_lib.settings import TARGETS, Settings, caution, data_folder, run_name, settings
from bnta_lib.starting import interpreter
from bnta_lib.suite.tables import (
    QUANTITY_SYMBOLS, RATE, SHARE, TIE, in_unit, paired_test, paper_numbers, row_name, save_table,
)
from bnta_lib.training import trained_model, trained_on
from bnta_lib.weights import TABLE_3_MODELS

HOLDS, FAILS, OPEN = VERDICTS = "holds", "does not hold", "not resolved here"
KINDS = ("greater", "highest", "small effect", "layers", "differ", "trend", "at most")

# What still is "quite a small, and even negligible effect", points of rank 1: about one probe of
# the 125 that a split of GRID has (0.8 points), the least step that rank 1 can take there.
MARGIN = 1.0
ONE_EACH = "one training each"  # why a comparison of trainings is not resolved
LAYER_LEVEL = 0.05
CHANCE = 100 * LAYER_LEVEL  # per cent of layers that differ at that level where none does

COLUMNS = ["id", "where", "claim", "target", "paper", "here", "low", "high", "unit", "verdict", "note"]
_SYMBOLS = {"mean": "μ", "var": "σ²", "gamma": "γ", "beta": "β"}  # of BN's quantities


@dataclass(frozen=True)
class Claim:
    """One comparison that the paper makes. Raises ValueError for an unknown kind."""

    id: str
    where: str  # of the paper: "Table 2", ..., "Fig. 4"
    text: str  # in brief
    target: str  # on which the paper makes it; "" for all of them together
    kind: str  # one of KINDS
    method: tuple[str, ...]  # rows of the table; of "layers" and "differ" the quantity that moves
    against: tuple[str, ...] = ()  # rows that it is compared with
    metric: str = "R1"
    layers: tuple[int, ...] = ()  # indices of BN layers, from 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}: one of {', '.join(KINDS)}")

    @property
    def source(self) -> str:
        """The key of its rows in what :func:`gather` returns."""
        return "time" if self.kind == "at most" else self.where


def _table_2() -> list[Claim]:
    found = []
    for number, target in enumerate(TARGETS, start=1):
        found.append(Claim(f"T2.{number}", "Table 2", "training with L_pos and L_mat beats the "
                           "baseline", target, "greater", ("BNTA w/o TTA",), ("Baseline",)))
    for number, target in enumerate(TARGETS, start=4):
        found.append(Claim(f"T2.{number}", "Table 2", "adaption beats no adaption", target,
                           "greater", ("BNTA",), ("BNTA w/o TTA",)))
    return found


def _table_3() -> list[Claim]:
    def row(training: str, tta: str) -> str:
        return f"train {training}; tta {tta}"

    both, mat, pos, none = (row("id+pos+mat", tta) for tta in ("pos+mat", "mat", "pos", "none"))
    no_pos, no_mat = (lambda tta: row("id+mat", tta)), (lambda tta: row("id+pos", tta))
    others = tuple(_rows_of("3", but=both))
    pairs = [  # removing L_pos or L_mat always decreases: every pair of cells that tells
        ("adaption: both losses beat L_mat alone", (both,), (mat,)),
        ("adaption: both losses beat L_pos alone", (both,), (pos,)),
        ("training and adaption: removing L_pos lowers rank 1", (both,), (no_pos("mat"),)),
        ("training and adaption: removing L_mat lowers rank 1", (both,), (no_mat("pos"),)),
        ("training, adapted by L_mat: removing L_pos lowers rank 1", (mat,), (no_pos("mat"),)),
        ("training, adapted by L_pos: removing L_mat lowers rank 1", (pos,), (no_mat("pos"),)),
        ("training, not adapted: removing L_pos lowers rank 1", (none,), (no_pos("none"),)),
        ("training, not adapted: removing L_mat lowers rank 1", (none,), (no_mat("none"),)),
        ("adaption gains more by both tasks than by L_mat alone",
         (both, no_pos("none")), (none, no_pos("mat"))),
        ("adaption gains more by both tasks than by L_pos alone",
         (both, no_mat("none")), (none, no_mat("pos"))),
    ]
    first = Claim("T3.1", "Table 3", "all losses in training, both in adaption: the highest rank 1",
                  "VIPeR", "highest", (both,), others)
    return [first] + [Claim(f"T3.{i}", "Table 3", text, "VIPeR", "greater", method, against)
                      for i, (text, method, against) in enumerate(pairs, start=2)]


def _table_4() -> list[Claim]:
    found = [Claim("T4.1", "Table 4", "updating BN only gives the best rank 1", "GRID", "highest",
                   ("BN",), tuple(_rows_of("4", but="BN")))]
    for i, other in enumerate(("Conv", "IN", "Conv+IN", "BN+Conv", "BN+Conv+IN"), start=2):
        found.append(Claim(f"T4.{i}", "Table 4", f"updating BN beats {other}", "GRID", "greater",
                           ("BN",), (other,)))
    added = {"None": "IN", "Conv": "Conv+IN", "BN": "BN+IN", "BN+Conv": "BN+Conv+IN"}
    for i, (without, with_in) in enumerate(added.items(), start=7):
        name = "nothing" if without == "None" else without
        found.append(Claim(f"T4.{i}", "Table 4", f"adding IN to {name}: a small effect", "GRID",
                           "small effect", (with_in,), (without,)))
    return found


def _table_5() -> list[Claim]:
    every = "mu+var+gamma+beta"
    found = [Claim(f"T5.{i}", "Table 5", f"updating {symbol} alone beats no update", "GRID",
                   "greater", (name,), ("None",))
             for i, (name, symbol) in enumerate(QUANTITY_SYMBOLS.items(), start=1)]
    found.append(Claim("T5.5", "Table 5", "updating all four gives the highest rank 1", "GRID",
                       "highest", (every,), tuple(_rows_of("5", but=every))))
    found.append(Claim("T5.6", "Table 5", "affine γ, β improve more than statistics μ, σ²",
                       "GRID", "greater", ("gamma+beta",), ("mu+var",)))
    return found


def _figure_3() -> list[Claim]:
    found = [Claim(f"F3.{i}", "Fig. 3", f"change rates of {symbol} differ between the targets at "
                   "the same layer", "", "differ", (f"rate {name}",))
             for i, (name, symbol) in enumerate(_SYMBOLS.items(), start=1)]
    for i, (name, symbol) in enumerate(_SYMBOLS.items(), start=5):
        layers = PAPER_LAYERS[name]
        found.append(Claim(f"F3.{i}", "Fig. 3", f"{symbol} changes most at BN layers such as "
                           f"{', '.join(map(str, layers))}", "", "layers",
                           (f"rate {name}",), layers=layers))
    return found


def _figure_4() -> list[Claim]:
    trends = {"rise": "given N, rank 1 first rises with K",
              "decline": "given N, rank 1 declines as K grows further",
              "more N": "given K, a larger N gives a better rank 1"}
    found = [Claim(f"F4.{i}", "Fig. 4", text, "GRID", "trend", (name,))
             for i, (name, text) in enumerate(trends.items(), start=1)]
    found.append(Claim("F4.4", "Fig. 4", "time of adaption: at most the paper's", "GRID", "at most",
                       ("TTA, N=900 K=128, Titan Xp",), metric="seconds"))
    found.append(Claim("F4.5", "Fig. 4", "time of inference, with adaption to without: at most "
                       "the paper's ratio", "GRID", "at most",
                       ("inference per image with adaption",),
                       ("inference per image without adaption",), metric="ms"))
    return found


def _rows_of(table: str, but: str) -> list[str]:
    """The other rows of a table of the paper."""
    names = paper_numbers().query("table == @table")["row"].drop_duplicates()
    return [name for name in names if name != but]


CLAIMS: tuple[Claim, ...] = (*_table_2(), *_table_3(), *_table_4(), *_table_5(), *_figure_3(),
                             *_figure_4())


def claims_on(names: Iterable[str]) -> list[Claim]:
    """:data:`CLAIMS` for the targets of these names.

    Those that the paper makes on a target by name are left out where it is not among several. On
    a single target of another name, a user's folder, every claim is made once and on it, but for
    those that compare targets or are bound to the paper's size of gallery and machine.
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
    cited = paper_numbers().query("table == @table and dataset == @claim.target "
                                  "and metric == @claim.metric")
    value = cited.set_index("row")["value"].astype(float)
    method, against = value[list(claim.method)], value[list(claim.against)]
    if claim.kind == "at most":
        return float(method.iloc[0] / against.iloc[0] if len(against) else method.iloc[0])
    rest = against.max() if claim.kind == "highest" else against.sum()
    return round(float(method.sum() - rest), 1)  # the numbers have one decimal


# ---- the measurements


def gather(
    settings: Settings, data: str = "embedded", progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Rows that the claims need: "Table 2" to "Table 5", "Fig. 3", "Fig. 4" and "time".

    Measured, or read from the store where they were. Raises FileNotFoundError where weights are
    absent or ``data`` is no folder.
    """
    targets = load_targets(settings, data, progress=progress)
    models = {name: trained_model(settings, name, progress=progress, data=data) for name in TABLE_3_MODELS}
    bnta = models["bnta"]

    def papers(table: str) -> dict[str, Target]:
        name = PAPER_TARGET[table]
        return {name: targets[name]} if name in targets else targets

    table_2 = table_2_rows(models, targets, settings, progress)
    changes = change_rows(bnta, targets, settings, progress)
    return {
        "Table 2": table_2,
        "Table 3": table_3_rows(models, papers("table_3"), settings, progress),
        "Table 4": table_4_rows(bnta, papers("table_4"), settings, progress),
        "Table 5": table_5_rows(bnta, papers("table_5"), settings, progress=progress),
        "Fig. 3": changes.assign(steps=changes["target"].map(steps_at(targets, settings))),
        "Fig. 4": trend_rows(grid_rows(bnta, papers("table_4"), settings, progress)),
        "time": time_rows(table_2, targets),
    }


def trend_rows(grid: pd.DataFrame) -> pd.DataFrame:
    """Figure 4's tendencies: target, part ("rise", "decline", "more N"), difference, low, high,
    splits, note. ``grid``: of :func:`bnta_lib.suite.grid.grid_rows`."""
    peaks, trends = peak_in_k(grid, pooled=True), trend_in_n(grid, pooled=True)
    columns = ["target", "part", "difference", "low", "high", "splits", "note"]
    if peaks.empty and trends.empty:
        return pd.DataFrame(columns=columns)
    inside = peak_in_k(grid).drop_duplicates(["target", "N"])["inside"] if len(peaks) else []
    peaks["note"] = f"the best K is neither end at {sum(inside)} of {len(inside)} N"
    trends["note"] = "points for twice the images"
    return pd.concat([peaks, trends.assign(part="more N")], ignore_index=True)[columns]


def time_rows(rows: pd.DataFrame, targets: Mapping[str, Target]) -> pd.DataFrame:
    """What adaption costs on each split and with each seed, a row a number.

    ``rows``: those of Table 2. Metrics: "seconds" (features of the gallery, pairing and steps) and
    "ms", the paper's unit of it: an image's inference with adaption, whose seconds are spread over
    probe and gallery, as a multiple of that without.
    """
    own = rows[(rows["method"] == "BNTA") & (rows["unit"] == "s")]
    keys = ["target", "split", "seed", "profile", "machine"]
    found = []
    for key, part in own.pivot(index=keys, columns="metric", values="value").iterrows():
        chosen = targets[key[0]].splits[key[1]]
        total = part["features"] + part["pairing"] + part["steps"]
        each = part["features"] / len(chosen.gallery)
        spread = total / (len(chosen.probe) + len(chosen.gallery))
        about = dict(zip(keys, key))
        found += [about | {"metric": "seconds", "value": total},
                  about | {"metric": "ms", "value": (each + spread) / each}]
    return pd.DataFrame(found)


# ---- the verdicts


def verdict(kind: str, test: Mapping, limit: float = math.nan) -> tuple[str, str]:
    """One of :data:`VERDICTS` on a difference with its interval, and a note where it needs one.

    ``test`` has difference, low, high and splits, as a row of paired_test. ``limit``: the paper's
    number, of "at most"; the margin, of "small effect".
    """
    low, high = test["low"], test["high"]
    if test["splits"] < 2:
        return OPEN, "one split tells no difference from chance"
    if math.isnan(low):
        return OPEN, "the same on every split: no spread to judge by"
    if kind == "small effect":
        if -limit < low and high < limit:
            return HOLDS, f"within {limit:g} point of zero"
        return (FAILS, "") if low > limit or high < -limit else (
            OPEN, f"the interval goes beyond {limit:g} point")
    if kind == "at most":
        return (HOLDS, "") if high <= limit else (FAILS, "") if low > limit else (OPEN, "")
    return (HOLDS, "") if low > 0 else (FAILS, "") if high < 0 else (OPEN, "")


def judge(
    rows: Mapping[str, pd.DataFrame], claims: Sequence[Claim] = CLAIMS, margin: float = MARGIN
) -> pd.DataFrame:
    """A verdict on each claim from rows of :func:`gather`, in the claims' order.

    :data:`COLUMNS`: "paper" and "here" are the same difference there and here, or a level where
    the unit says so; low and high are the ends of its interval here. Raises ValueError for a row of
    a table that was not measured.
    """
    judges = {"greater": _greater, "small effect": _greater, "highest": _highest,
              "layers": _layers, "differ": _differ, "trend": _trend, "at most": _at_most}
    found = []
    for claim in claims:
        paper = paper_difference(claim)
        result = judges[claim.kind](claim, rows[claim.source], margin, paper)
        row = {"id": claim.id, "where": claim.where, "claim": claim.text,
               "target": claim.target or "all", "paper": paper, **result}
        same = [other["id"] for other in found if _same_numbers(row, other)]
        row["note"] += f"; the same numbers as {same[0]}" if same else ""
        found.append(row)
    return pd.DataFrame(found, columns=COLUMNS)


def check(
    settings: Settings, data: str = "embedded", progress: bool = True
) -> pd.DataFrame:
    """A verdict on each of the paper's claims (see :func:`judge`), measured where it was not yet.

    Raises FileNotFoundError where weights are absent or ``data`` is no folder.
    """
    rows = gather(settings, data, progress)
    return judge(rows, claims_on(rows["Table 2"]["target"].unique()))


def _same_numbers(row: Mapping, other: Mapping) -> bool:
    """Whether two claims on one table rest on one resolved difference and its one interval."""
    numbers = [[own[name] for name in ("here", "low", "high")] for own in (row, other)]
    about = [(own["where"], own["target"], own["unit"]) for own in (row, other)]
    return about[0] == about[1] and np.allclose(*numbers, rtol=0, atol=TIE)  # NaN equals nothing


def _test(method: pd.Series, against: pd.Series) -> dict:
    """:func:`paired_test` of two values a split (index: split)."""
    sides = [side.rename("value").rename_axis("split").reset_index().assign(method=name)
             for name, side in (("method", method), ("against", against))]
    tidy = pd.concat(sides).assign(target="", metric="R1", seed=0)
    return paired_test(tidy, "method", "against").iloc[0].to_dict()


def _sum(claim: Claim, rows: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """The rows of these names added up, seeds averaged first: a value a split."""
    chosen = rows[(rows["target"] == claim.target) & (rows["metric"] == claim.metric)]
    values = chosen.groupby(["method", "split"])["value"].mean()
    for name in names:
        if name not in values.index:
            raise ValueError(f"{claim.where}: no {claim.metric} of {name!r} on {claim.target!r}")
    return sum(values[name] for name in names)


def trainings_behind(rows: pd.DataFrame, methods: Iterable[str]) -> pd.Series:
    """How many times each training behind the rows of these methods was trained (index: the training's name)."""
    chosen = rows[rows["method"].isin(list(methods))]
    return chosen.groupby(chosen["setting"].str.extract(r"^training ([^,]+)")[0])["weights"].nunique()


def _compared(claim: Claim, rows: pd.DataFrame, against: tuple[str, ...], margin: float = MARGIN) -> tuple[dict, tuple]:
    """The claim's method against these rows: the test, and the verdict on it as "greater" or "small effect"."""
    test = _test(_sum(claim, rows, claim.method), _sum(claim, rows, against))
    times = trainings_behind(rows, claim.method + against)
    if len(times) > 1 and times.min() < 2:
        return test, (OPEN, ONE_EACH)
    return test, verdict("greater" if claim.kind == "highest" else claim.kind, test, margin)


def _result(test: Mapping, unit: str, given: tuple[str, str], *notes: str) -> dict:
    note = "; ".join(text for text in (given[1], *notes) if text)
    return {"here": test["difference"], "low": test["low"], "high": test["high"], "unit": unit,
            "verdict": given[0], "note": note}


def _better(test: Mapping) -> str:
    return f"higher on {test['better']} of {test['splits']} splits"


def _greater(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    test, given = _compared(claim, rows, claim.against, margin)
    return _result(test, "points", given, _better(test))


def _highest(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    compared = {name: _compared(claim, rows, (name,)) for name in claim.against}
    tests, given = ({name: pair[i] for name, pair in compared.items()} for i in (0, 1))
    above = [name for name in tests if given[name][0] == FAILS]
    # The row that decides: the best of those above it, or else the closest.
    name = min(above or tests, key=lambda n: tests[n]["difference"])
    held = sum(v == HOLDS for v, _ in given.values())
    word = FAILS if above else HOLDS if held == len(tests) else OPEN
    return _result(tests[name], "points", (word, given[name][1]), f"against {row_name(name)}",
                   f"resolved above {held} of {len(tests)} rows")


def _layers(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    rates = rows[rows["metric"] == claim.method[0]]
    rates = rates[rates["target"] == claim.target] if claim.target else rates
    inside = rates["index"].isin(claim.layers)
    # Targets have equal weight; their splits are independent, and any may stand side by side.
    sides = [own.groupby(["split", "target"])["value"].mean().unstack().dropna().mean(axis=1)
             for own in (rates[inside], rates[~inside])]
    mean = rates.groupby(["index", "target"])["value"].mean().groupby("index").mean()
    top = len(set(mean.nlargest(TOP).index) & set(claim.layers))
    test = _test(*sides)
    word, why = verdict(claim.kind, test)
    if word == HOLDS and 2 * top <= len(claim.layers):
        word = OPEN if top else FAILS
    return _result(test, RATE, (word, why), "their mean minus that of the other layers",
                   f"{top} of the {len(claim.layers)} are among the {TOP} that change most here")


def _differ(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    own = rows[rows["metric"] == claim.method[0]].dropna(subset="value")
    # Where nothing moved, as in bnneck, which no gradient reaches, there is nothing to compare.
    own = own[own.groupby("index")["value"].transform("max") > 0]
    nothing = {"difference": math.nan, "low": math.nan, "high": math.nan}
    splits = own.groupby("target")["split"].nunique()
    if len(splits) < 2 or splits.min() < 2:
        why = "needs two targets that move, with two splits each"
        return _result(nothing, SHARE, (OPEN, why))
    share, layers = _share_that_differs(own)
    word = HOLDS if share > 50 else FAILS if share <= CHANCE else OPEN
    spread = between_targets(change_rates_by_split(own)).iloc[0]["ratio"]
    return _result(nothing | {"difference": share}, SHARE, (word, ""), "a share and no difference",
                   f"of {layers} layers that moved; spread between targets {spread:.1f} times "
                   "that between splits (median)", _of_equal_steps(own))


def _share_that_differs(own: pd.DataFrame) -> tuple[float, int]:
    """Per cent of the layers on which an analysis of variance tells the targets apart, and of how many."""
    levels = [stats.f_oneway(*(v.to_numpy() for _, v in layer.groupby("target")["value"])).pvalue
              for _, layer in own.groupby("index")]
    return 100 * float(np.mean([p < LAYER_LEVEL for p in levels])), len(levels)


def _of_equal_steps(own: pd.DataFrame) -> str:
    """The same share among targets that adaption takes equally many steps on, where not all are such."""
    steps = own.drop_duplicates("target").set_index("target").get("steps", pd.Series(dtype=int))
    alike = steps[steps == steps.mode().iloc[0]] if len(steps) else steps
    if not 1 < len(alike) < len(steps):
        return ""
    share, _ = _share_that_differs(own[own["target"].isin(alike.index)])
    return (f"among {' and '.join(alike.index)} alone, of {alike.iloc[0]} steps each: "
            f"{share:.0f} % of the layers")


def _trend(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    own = rows[(rows["target"] == claim.target) & (rows["part"] == claim.method[0])]
    if own.empty:
        nothing = {"difference": math.nan, "low": math.nan, "high": math.nan}
        return _result(nothing, "points", (OPEN, "too few splits, or values of N and K"))
    test = own.iloc[0].to_dict()
    return _result(test, "points", verdict(claim.kind, test), test["note"])


def _at_most(claim: Claim, rows: pd.DataFrame, margin: float, paper: float) -> dict:
    own = rows[(rows["target"] == claim.target) & (rows["metric"] == claim.metric)]
    by_split = own.groupby("split")["value"].mean()
    test = _test(by_split, 0 * by_split)
    given, unit = verdict(claim.kind, test, paper), "s" if claim.metric == "seconds" else "times"
    theirs = set(own["profile"]) == {"paper"}
    if not theirs:  # how steps compare with an image's features hangs on the network too
        given = OPEN, "another network than the paper's: times do not compare"
    network = "the paper's" if theirs else f"the {' and '.join(own['profile'].unique())} profile's"
    return _result(test, unit, given, "a level and no difference",
                   f"with {network} network, on {' and '.join(own['machine'].unique())}; the "
                   "paper's is on a Titan Xp")


def summary(table: pd.DataFrame) -> str:
    """How many claims hold, and how many verdicts chance alone would give."""
    counts = table["verdict"].value_counts().reindex(VERDICTS, fill_value=0)
    kinds = {claim.id: claim.kind for claim in CLAIMS}
    two_sided = table["id"].map(kinds).isin(["greater", "layers", "trend"])
    decided = table["low"].notna() & ~table["note"].str.contains(ONE_EACH)
    tests = int((two_sided & decided).sum())
    return (f"{len(table)} claims: {counts[HOLDS]} hold, {counts[FAILS]} do not hold, "
            f"{counts[OPEN]} are not resolved here. For {tests} of them it was tested whether an "
            "interval is clear of zero: were there no difference in any, chance alone would "
            f"resolve about {0.05 * tests:.1f}, half of them either way.")


NOTE = (
    "\"here\" is ours, \"paper\" the same of the paper's own numbers: differences in points of rank 1 "
    "unless another unit is given; shares of layers and times are levels. low and high: the 95 % "
    "interval of ours (Student's t over splits, paired, adaption seeds averaged first: those of Figures 3 and 4 are of seed 0 alone). Two claims "
    "that rest on the same numbers say so. Splits share people, so the "
    "intervals are somewhat too narrow. \"Highest\" is judged against every other row, and the "
    f"difference shown is that from the row that decides; \"a small effect\" is one within "
    f"{MARGIN:g} point of zero, about one probe of GRID; rates differ where they do at more than "
    "half of the layers; layers that the paper names must change more than the others and most of "
    "them be among the ten that change most; times and their ratio are held against the paper's by "
    "its own network alone. A comparison of trainings is not resolved while there is one of each: how much a "
    "training varies by its seed is not in the interval. Table 5 is read as: the quantity named is free to "
    "move, alone. The paper's differences are computed from its tables (its text says 2.7 where "
    "Table 2 gives 2.8, on iLIDS); Figures 3 and 4 print no numbers."
)


# ---- for a reader


def printed(table: pd.DataFrame, width: int = 100) -> str:
    """:func:`check`'s table for a terminal of so many columns: a block a table of the paper."""
    lines = []
    for where, own in table.groupby("where", sort=False):
        lines += [f"{where}, paper and here", ""]
        for _, row in own.iterrows():
            claim = f"{row['claim']} ({row['target']})"
            lines += _wrapped(f"{row['id']:6}{row['verdict']:19}", claim, width)
            lines += _wrapped(" " * 25, _numbers(row), width)
            lines += _wrapped(" " * 25, row["note"], width) if row["note"] else []
        lines.append("")
    lines += [*textwrap.wrap(NOTE, width), "", *textwrap.wrap(summary(table), width)]
    return "\n".join(lines)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 60), initial_indent=head, subsequent_indent=" " * 25)


def _numbers(row: pd.Series) -> str:
    """A row's numbers in words: the paper's difference, ours with its interval and unit."""
    def text(value: float) -> str:
        return in_unit(value, row["unit"])

    paper = "no number" if math.isnan(row["paper"]) else text(row["paper"])
    here = "not measured" if math.isnan(row["here"]) else f"{text(row['here'])} {row['unit']}"
    interval = "" if math.isnan(row["low"]) else f" ({text(row['low'])} to {text(row['high'])})"
    return f"paper {paper}, here {here}{interval}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line; returns the exit code, 0 whatever the verdicts.

    1: something could not be read or written; 2: a profile or folder that does not exist; 130:
    interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bnta_lib.suite.claims",
        description="Check the claims of the paper's Section 4.3 against what is measured here.",
    )
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    options = parser.parse_args(arguments)
    data = options.data or "embedded"
    try:
        chosen = settings(options.profile)
        if (folder := data_folder(data)) is not None and not folder.is_dir():
            raise ValueError(f'no folder {folder}: --data takes "embedded", "real" or a folder of images')
        check_cache()
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    # With the profile, which the environment may have named.
    words = [interpreter(), "-m", "bnta_lib.suite.claims", "--profile", chosen.profile]
    command = shlex.join(words + (["--data", options.data] if options.data else []))
    again = f"What was measured is kept; continue with the same command:\n  {command}"
    try:
        table = check(chosen, data)
        run = run_name(chosen.profile, data)
        print(printed(table, min(shutil.get_terminal_size((100, 24)).columns, 120)))
        note = f"{NOTE}\n\n{summary(table)}"
        # By which protocol, and what was trained on, from what, and for how long.
        if about := protocol_note(load_targets(chosen, data, progress=False), trained_on(chosen, data)):
            note = f"{note}\n\n{about}"
            print(f"\n{about}")
        if said := caution(run):
            print(f"\n{said}")
        paths = save_table(table.set_index("id").round(3), "paper_check", run, note)
        use_style()
        paths += save_figure(claims_figure(table), "paper_check", run)
        print("\nWrote " + ", ".join(shown(path) for path in paths))
    except KeyboardInterrupt:
        print(f"\nInterrupted. {again}", file=sys.stderr)
        return 130
    except OSError as error:  # absent weights, a full disk: the message says what to do
        print(f"\n{error if error.filename else error.strerror or error}", file=sys.stderr)
        if error.errno == errno.ENOSPC:
            print(again, file=sys.stderr)
        return 1
    except ValueError as error:  # damaged weights, a folder that does not serve
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
