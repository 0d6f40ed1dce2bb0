"""Tables as the paper prints them: cited numbers and ours, never in one column without a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .files import atomic
from .settings import ROOT, figures_dir

METRICS = ("mAP", "R1", "R5", "R10")


def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's Tables 1-5: columns table, row, dataset, metric, value."""
    return pd.read_csv(ROOT / "data" / "paper_tables.csv", dtype={"value": str})


def paper_table_2() -> pd.DataFrame:
    """The paper's Table 2: a row a method, columns (target, metric), cited, in per cent."""
    cited = paper_numbers().query("table == '2'")
    table = cited.pivot(index="row", columns=["dataset", "metric"], values="value").astype(float)
    columns = pd.MultiIndex.from_product([["VIPeR", "GRID", "iLIDS"], METRICS])
    table = table.reindex(index=cited["row"].drop_duplicates(), columns=columns)
    return table.rename_axis(index="Method", columns=["target", "metric"])


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over splits, seeds averaged first, per cent.

    ``rows``: tidy rows with target, method, split, seed, metric, value. Returns a row a method
    with columns (target, metric, "mean" | "std"); the std is that of a sample (n - 1).
    """
    by_split = rows.groupby(["method", "target", "metric", "split"], sort=False)["value"].mean()
    by_method = by_split.groupby(level=["method", "target", "metric"], sort=False)
    both = by_method.agg(["mean", "std"]).unstack(["target", "metric"])
    both.columns = both.columns.reorder_levels([1, 2, 0])
    targets = rows["target"].unique()
    columns = pd.MultiIndex.from_product([targets, METRICS, ["mean", "std"]])
    return both.reindex(index=rows["method"].unique(), columns=columns)


def paired_test(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Difference of two methods on the same splits: a row a target.

    Columns: target, difference (points, method minus against), low and high (95 % interval of
    Student's t over splits), p (two-sided paired t-test), better (splits on which the method is
    better), splits, seed_std (points: the mean over splits of the spread over adaption seeds).
    Splits share people, so intervals are somewhat too narrow.
    """
    chosen = rows[rows["metric"] == metric]
    result = []
    for target, own in chosen.groupby("target", sort=False):
        value = own.groupby(["method", "split"])["value"].mean().unstack("split")
        difference = (value.loc[method] - value.loc[against]).to_numpy()
        n = len(difference)
        mean = float(difference.mean())
        if n > 1 and np.ptp(difference) > 0:
            half = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
            p = float(stats.ttest_1samp(difference, 0).pvalue)
        else:  # one split, or no spread: nothing to estimate an interval from
            half, p = float("nan"), float("nan")
        seeds = own[own["method"] == method].groupby("split")["value"].std()
        result.append({
            "target": target, "difference": mean, "low": mean - half, "high": mean + half,
            "p": p, "better": int((difference > 0).sum()), "splits": n,
            "seed_std": float(seeds.mean()),
        })
    return pd.DataFrame(result)


def verdict(row: pd.Series) -> str:
    """One sentence on a row of :func:`paired_test`."""
    change = f"{row['difference']:+.1f} points"
    if np.isnan(row["low"]):
        return f"{row['target']}: {change}; too few splits to say how sure."
    interval = f"95 % interval {row['low']:+.1f} to {row['high']:+.1f}"
    if row["low"] > 0:
        return f"{row['target']}: better by {change} ({interval})."
    if row["high"] < 0:
        return f"{row['target']}: worse, {change} ({interval})."
    return f"{row['target']}: no difference resolved, {change} ({interval})."


def table_2(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as printed: the paper's rows as cited, ours below under their own heading.

    Columns: (target, metric), text; index: (heading, method). The two blocks are different
    benchmarks: their numbers do not compare line by line.
    """
    ours = summarise(rows)
    text = pd.DataFrame(index=ours.index)
    for target, metric in dict.fromkeys((t, m) for t, m, _ in ours.columns):
        mean, std = ours[target, metric, "mean"], ours[target, metric, "std"]
        text[target, metric] = [
            f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, std)
        ]
    text.columns = pd.MultiIndex.from_tuples(text.columns)
    cited = paper_table_2().map(lambda v: "–" if np.isnan(v) else f"{v:.1f}")
    cited.columns = pd.MultiIndex.from_tuples(list(cited.columns))
    blocks = {"paper, cited": cited, "here, measured": text}
    order = list(dict.fromkeys([*cited.columns, *text.columns]))
    return pd.concat(blocks, names=["", "Method"]).reindex(columns=order).fillna("")


DUALNORM_NOTE = (
    "DualNorm's mAP is a trapezoidal one: with one match a probe it is (mAP + R1) / 2. In the "
    "unit of the other rows its 58.0 / 45.7 / 78.5 read 62.1 / 50.0 / 82.2."
)


def markdown(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown; levels of index and columns are joined with a space."""
    flat = table.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = [" ".join(str(level) for level in c) for c in flat.columns]
    return flat.reset_index().to_markdown(index=False)


def save_table(table: pd.DataFrame, name: str, profile: str, note: str = "") -> list[Path]:
    """Write ``name``.csv and .md under the profile's figures; returns the paths."""
    folder = figures_dir(profile)
    paths = [folder / f"{name}.csv", folder / f"{name}.md"]
    with atomic(paths[0]) as temporary:
        table.to_csv(temporary)
    with atomic(paths[1]) as temporary:
        temporary.write_text(markdown(table) + "\n" + (f"\n{note}\n" if note else ""))
    return paths
