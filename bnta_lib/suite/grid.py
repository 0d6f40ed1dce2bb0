"""Rank 1 and time of adaption over the size N of its sample and the number K of its pairs (Figure 4).

``rows`` are those of ``lab.measure("figure_4")``; N and K are 0 without adaption.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bnta_lib.suite.stats import describe_by, split_gains

STAGES = ("features", "pairing", "steps")  # of an adaption, each with its seconds
# Level of peak_in_k's interval. The choices for the splits lean on each other's values: at 0.95 noise
# alone clears zero about twice as often as it should, at this level about as often as it should.
PEAK_LEVEL = 0.975


def grid_cells(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """A row a cell: target, N, K, value, std, difference, low, high, better, splits, verdict, seconds.

    value and std (per cent) over splits. difference, low, high (points) against no adaption on the
    same splits. seconds: of all STAGES, the median over splits, which a busy machine moves least.
    """
    keys = ["target", "N", "K"]
    scores = split_gains(rows, ["N", "K"], metric=metric)
    tests = describe_by(scores, keys)
    cells = scores.groupby(keys, sort=False)["value"].agg(value="mean", std="std").reset_index()
    seconds = rows[rows["metric"].isin(STAGES)].groupby([*keys, "split"], sort=False)["value"].sum()
    seconds = seconds.groupby(level=keys, sort=False).median().rename("seconds").reset_index()
    return cells.merge(tests.drop(columns=["p", "reason"]), on=keys).merge(seconds, on=keys)


def peak_in_k(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Whether rank 1 rises from the smallest K to a K inside, and declines from it to the largest.

    The best of many noisy values always looks like a peak. So the K inside is chosen for every split on the
    *other* splits alone. Two rows (``part``: "rise", "decline") for each target and N with three values of K
    or more; ``pooled``: for each target, averaged over its N on every split. Columns: target, N (or sizes,
    how many), part, best (K of the highest mean), inside (whether that is neither end), difference (points;
    positive as the paper has it), low, high (see PEAK_LEVEL), splits, verdict. No row for a single split.
    """
    tables = []
    for target, n, table in _tables(rows, "N", "K", metric, least=3):
        inner = table.iloc[:, 1:-1].to_numpy()
        others = inner.sum(0) - inner  # of each K inside, summed over the other splits
        selected = inner[np.arange(len(inner)), others.argmax(1)]
        best = table.mean().idxmax()
        for part, end in (("rise", table.columns[0]), ("decline", table.columns[-1])):
            tables.append(pd.DataFrame({
                "target": target, "N": n, "part": part, "best": best,
                "inside": best not in table.columns[[0, -1]], "difference": selected - table[end]}))
    keys = ["target", "part"] if pooled else ["target", "N", "part", "best", "inside"]
    return _tests(tables, keys, pooled, PEAK_LEVEL)


def trend_in_n(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Points of rank 1 that a doubling of N brings at the same K: the slope over log2 N.

    A row for each target and K with two values of N or more; ``pooled``: for each target, averaged over its K
    on every split. Columns: target, K (or sizes, how many), difference, low, high, splits, verdict.
    """
    tables = []
    for target, k, table in _tables(rows, "K", "N", metric, least=2):
        slopes = np.polyfit(np.log2(table.columns.to_numpy(float)), table.to_numpy().T, 1)[0]
        tables.append(pd.DataFrame({"target": target, "K": k, "difference": slopes}, table.index))
    return _tests(tables, ["target"] if pooled else ["target", "K"], pooled)


def _tables(rows: pd.DataFrame, each: str, along: str, metric: str, least: int) -> Iterator[tuple]:
    """(target, value of ``each``, splits x values of ``along``), of adapted rows alone."""
    adapted = rows[(rows["metric"] == metric) & (rows["N"] > 0)]
    for (target, value), group in adapted.groupby(["target", each], sort=False):
        table = group.pivot_table(index="split", columns=along, values="value")
        if table.shape[1] >= least and len(table) > 1:
            yield target, value, table


def _tests(tables: list[pd.DataFrame], keys: list[str], pooled: bool, level: float = 0.95) -> pd.DataFrame:
    """Test of the differences over splits, a row a group; ``pooled``: averaged over sizes on every split."""
    if not tables:
        return pd.DataFrame()
    values = pd.concat(tables).groupby([*keys, "split"], sort=False)["difference"]
    values = values.agg(difference="mean", sizes="size").reset_index()
    tests = describe_by(values, [*keys, "sizes"], level=level)
    return tests.drop(columns=["p", "better", "reason"] + ["sizes"] * (not pooled))


def time_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each cell: target, N, K, features, pairing, steps; medians over splits."""
    times = rows[rows["metric"].isin(STAGES)].pivot_table(
        index=["target", "N", "K"], columns="metric", values="value", aggfunc="median", sort=False)
    return times[list(STAGES)].rename_axis(columns=None).reset_index()
