"""The paper's Section 4.3, claim by claim: every sentence that compares two numbers, and a verdict on it."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnta_lib.data.sets import Target
from bnta_lib.settings import ROOT, TARGETS
from bnta_lib.suite import layers
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.runs import caution, exit_code, figures_dir, parse_run, shown
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, RATE, SHARE, VERDICTS, describe, paired_test
from bnta_lib.suite.sweeps import peak_in_k, trend_in_n
from bnta_lib.suite.tables import paper_values, row_name

# What still counts as "quite a small, and even negligible effect", points of rank 1: a probe of GRID's 125.
TOLERANCE = 1.0
UNDECIDED = {"difference": math.nan, "low": math.nan, "high": math.nan, "verdict": OPEN, "reason": ""}
UNITS = {"layers": RATE, "differ": SHARE, "seconds": "s", "ms": "times"}  # by kind or metric; else points
NOTE = ("here and paper: the same difference, points of rank 1 unless another unit is given. low and high: "
        "95 % interval of ours, 97.5 % for rise and decline with K. The rules: docs/results.md.")


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
    against: tuple[str, ...] = ()  # rows that it is compared with; of "highest" all others


# Several rows of a table are joined in the file by " | ".
_SIDES = dict.fromkeys(("method", "against"), lambda names: tuple(filter(None, names.split(" | "))))
CLAIMS = tuple(Claim(**row) for row in pd.read_csv(
    ROOT / "data" / "paper_claims.csv", keep_default_na=False, converters=_SIDES).to_dict("records"))


def claims_on(names: Iterable[str]) -> list[Claim]:
    """:data:`CLAIMS` on these targets. On a user's folder each is made once, but for those that compare
    targets or belong to the paper's size of gallery and machine."""
    names = list(names)
    if set(names) & set(TARGETS):
        return [claim for claim in CLAIMS if claim.target in ("", *names)]
    return [replace(claim, target=claim.target and names[0]) for claim in CLAIMS
            if claim.kind not in ("differ", "at most")
            and (claim.where != "Table 2" or claim.target == "GRID")]


def paper_difference(claim: Claim) -> float:
    """The paper's own difference in points, or its limit for "at most"; NaN if it has no numbers."""
    if claim.kind in ("layers", "differ", "trend") or claim.target not in TARGETS:
        return math.nan
    table = "text" if claim.kind == "at most" else claim.where.removeprefix("Table ")
    value = paper_values(table, claim.target, claim.metric)
    method, against = value[list(claim.method)], value[list(claim.against)]
    if claim.kind == "at most":
        return float(method.iloc[0] / against.iloc[0] if len(against) else method.iloc[0])
    best = value.drop(list(claim.method)).max() if claim.kind == "highest" else against.sum()
    return round(float(method.sum() - best), 1)


def judge(rows: Mapping[str, pd.DataFrame], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """A verdict on each claim from rows of :func:`gather`: id, where, claim, target, paper and here (the same
    difference, or a level if the unit is one), low, high (the interval here), unit, verdict, note."""
    table = []
    for claim in claims:
        paper = paper_difference(claim)
        measured = rows["time" if claim.kind == "at most" else claim.where]
        if claim.target:
            measured = measured[measured["target"] == claim.target]
        limits = {"small effect": (-TOLERANCE, TOLERANCE), "at most": (-math.inf, paper)}
        above, below = limits.get(claim.kind, (0, math.inf))
        test = UNDECIDED | JUDGES[claim.kind](claim, measured, above=above, below=below)
        table.append({
            "id": claim.id, "where": claim.where, "claim": claim.claim, "target": claim.target or "all",
            "paper": paper, "here": test["difference"], "low": test["low"], "high": test["high"],
            "unit": UNITS.get(claim.kind) or UNITS.get(claim.metric, "points"), "verdict": test["verdict"],
            "note": "; ".join(filter(None, [test["reason"], test.get("note")]))})
    return pd.DataFrame(table)


def _greater(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The rows ``method``, added up, minus the rows ``against``."""
    return paired_test(rows, claim.method, claim.against, claim.metric, **limits).iloc[0].to_dict()


def _highest(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The row is above every other row of its table. One resolved above it refutes it."""
    tests = [_greater(replace(claim, against=(name,)), rows, **limits)
             | {"note": f"against {' → '.join(row_name(name))}"}
             for name in rows["method"].unique() if name not in claim.method]
    above = [test for test in tests if test["verdict"] == FAILS]
    # The row that decides: the best of those above it, or else the closest.
    closest = min(above or tests, key=lambda test: test["difference"])
    every = all(test["verdict"] == HOLDS for test in tests)
    return closest | {"verdict": FAILS if above else HOLDS if every else OPEN}


def _layers(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """The mean change rate of the BN layers that the paper names is above that of all others, and most of
    them are among the ten that change most, from which the paper reads them off."""
    (quantity,) = claim.method
    named, rates = layers.PAPER_LAYERS[quantity], rows[rows["quantity"] == quantity]
    # Targets have equal weight; their splits are independent, and any may stand side by side.
    inside, outside = (group.groupby(["split", "target"])["rate"].mean().unstack().dropna().mean(axis=1)
                       for _, group in rates.groupby(~rates["index"].isin(named)))
    top = len({*named}.intersection(layers.top_layers(rates, quantity)))
    test = describe(inside - outside, **limits)
    if test["verdict"] == HOLDS and 2 * top <= len(named):
        test["verdict"] = OPEN if top else FAILS
    return test | {"note": f"{top} of {len(named)} in the top {layers.TOP}"}


def _differ(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """Change rates differ between targets at over half of the BN layers. A share as by chance refutes it."""
    table = layers.between_targets(rows[rows["quantity"] == claim.method[0]])
    if table.empty:
        return {"reason": "too few targets or splits"}
    share = table["share"].item()
    verdict = HOLDS if share > 50 else FAILS if share <= 100 * layers.LAYER_LEVEL else OPEN
    return {"difference": share, "verdict": verdict}


def _trend(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """A difference over the cells of Figure 4 (see :mod:`bnta_lib.suite.sweeps`) is above zero."""
    tests = pd.concat([peak_in_k(rows, pooled=True), trend_in_n(rows, pooled=True).assign(part="more N")])
    test = tests[tests["part"] == claim.method[0]]
    return {"reason": "too few splits, or values of N and K"} if test.empty else test.iloc[0].to_dict()


def _at_most(claim: Claim, rows: pd.DataFrame, **limits) -> dict:
    """A time, or a ratio of times, is no larger than the paper's, on the paper's network."""
    times = rows[rows["metric"] == claim.metric]
    test = describe(times.groupby("split")["value"].mean(), **limits)
    if set(times["profile"]) != {"paper"}:  # the ratio depends on the network too
        test |= {"verdict": OPEN, "reason": "another network than the paper's"}
    return test | {"note": " and ".join(times["machine"].unique())}


JUDGES = {"greater": _greater, "small effect": _greater, "highest": _highest, "layers": _layers,
          "differ": _differ, "trend": _trend, "at most": _at_most}


def time_rows(rows: pd.DataFrame, targets: Mapping[str, Target]) -> pd.DataFrame:
    """Times of adaption on each split and with each seed, from rows of Table 2. Metrics: "seconds", and "ms":
    an image's inference with its share of them, as a multiple of that without."""
    parts = rows[(rows["method"] == "BNTA") & (rows["unit"] == "s") & (rows["training"] == "bnta")]
    keys = ["target", "split", "seed", "profile", "machine", "N"]  # N: images of the gallery
    parts = parts.pivot(index=keys, columns="metric", values="value").reset_index()
    probes = [len(targets[name].splits[split].probe) for name, split in zip(parts["target"], parts["split"])]
    seconds = parts[["features", "pairing", "steps"]].sum(axis=1)
    ratio = 1 + seconds / (parts["N"] + probes) / (parts["features"] / parts["N"])
    return parts[keys].assign(seconds=seconds, ms=ratio).melt(keys, ["seconds", "ms"], "metric")


def gather(lab: Lab) -> dict[str, pd.DataFrame]:
    """Rows that the claims need: "Table 2" to "Table 5", "Fig. 3", "Fig. 4" and "time"."""
    table_2 = lab.measure("table_2")
    rows = {"Table 2": table_2, "Fig. 3": layers.change_rates_by_split(lab.measure("changes")),
            "time": time_rows(table_2, lab.targets)}
    for where, table, target in (("Table 3", "table_3", "VIPeR"), ("Table 4", "table_4", "GRID"),
                                 ("Table 5", "table_5", "GRID"), ("Fig. 4", "figure_4", "GRID")):
        rows[where] = lab.measure(table, targets=[target] if target in lab.targets else None)
    return rows


def check(lab: Lab) -> None:
    """Measure what was not measured before; print a verdict on each claim, and write them with a figure."""
    from bnta_lib.figures.results import claims_figure

    table = judge(rows := gather(lab), claims_on(lab.targets))
    measured = pd.concat([rows[name] for name in ("Table 2", "Table 3", "Table 4", "Table 5", "Fig. 4")])
    numbers = table["verdict"].value_counts()
    counts = f"{len(table)} claims: " + ", ".join(f"{word} {numbers.get(word, 0)}" for word in VERDICTS)
    text = table.set_index(["id", "verdict", "claim", "target"]).drop(columns="where").to_string(
        sparsify=False, na_rep="–", float_format="{:.3g}".format)
    print("\n\n".join(filter(None, [text, NOTE, counts, lab.about, caution(lab.run)])))
    lab.save_table(table.set_index("id").round(3), "paper_check", f"{NOTE}\n\n{counts}", measured)
    lab.save(claims_figure(table), "paper_check", "Each claim of the paper with its verdict: what is "
             "measured here, with its 95 % interval, beside the paper's number", measured)
    print(f"\nWrote {shown(figures_dir(lab.run) / 'paper_check')}.csv, .md, .tex, .pdf and .png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line; return the exit code, 0 whatever the verdicts."""
    options = parse_run("claims", "Check the claims of the paper's Section 4.3.", arguments)
    return exit_code(lambda: check(Lab(options.profile, options.data)))


if __name__ == "__main__":
    sys.exit(main())
