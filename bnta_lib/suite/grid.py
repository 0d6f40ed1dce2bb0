"""Rank 1 and time of adaption over the size N of its sample and the number K of its pairs (Fig. 4).

The paper reads two tendencies from its figure: at a given N, rank 1 first rises and then declines
as K grows; at a given K, a larger N usually helps. :func:`peak_in_k` and :func:`trend_in_n` put
them as differences on the same splits, with intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import Run, run_rows
from bnta_lib.model import BNTANet
from bnta_lib.pairing import check_sizes
from bnta_lib.settings import Settings
from bnta_lib.suite.tables import TIE, paired_tests, signed

NONE = Run("BNTA w/o TTA", adapter="none")
PARTS = ("features", "pairing", "steps")  # what the time of an adaption is made of
# Student's t for peak_in_k. The choices for the splits lean on each other's values: at 0.95 noise
# alone clears zero about twice as often as it should, at this level about as often as it should.
PEAK_LEVEL = 0.975


def pair_counts(n_gallery: int, default: int = 128) -> list[int]:
    """The values of K for a gallery: powers of two up to half of it, that half, the default.

    From one pair in 128 images on, and never a single pair, which has no negative. Small
    galleries have the values half way between the powers too.
    """
    most = n_gallery // 2
    least = max(2, -(-n_gallery // 128))
    chosen = [2**i for i in range(1, 64) if least <= 2**i <= most]
    if len(chosen) < 6:
        chosen += [3 * k // 2 for k in chosen if 3 * k // 2 <= most]
    return sorted({*chosen, most, min(default, most)})


def grid_runs(n_gallery: int, default: int = 128) -> list[Run]:
    """Every cell of Figure 4 for a gallery: N by sixths of it, K by :func:`pair_counts`, 2K <= N.

    The cell of the whole gallery with K = min(default, N // 2) is the run that Table 2 has.
    Raises ValueError for fewer than 4 images.
    """
    check_sizes(n_gallery, 2)
    sizes = sorted({round(n_gallery * i / 6) for i in range(1, 7)})
    return [
        Run(f"N={n}, K={k}", sample=None if n == n_gallery else n,
            options={} if k == min(default, n // 2) else {"K": k})
        for n in sizes for k in pair_counts(n_gallery, default) if 2 * k <= n
    ]


def grid_rows(
    model: BNTANet, targets: Mapping[str, Target], settings: Settings, progress: bool = True
) -> pd.DataFrame:
    """:func:`~bnta_lib.suite.experiments.run_rows` of Figure 4, adaption seed 0, and of no adaption.

    Integer columns N and K besides; both are 0 for "BNTA w/o TTA". Where the splits of a folder
    differ in their galleries, the smallest of these decides the values of N.
    """
    tables = []
    for name, target in targets.items():
        galleries = {len(split.gallery) for split in target.splits}
        runs = grid_runs(min(galleries), settings.K)
        if len(galleries) > 1:  # "all of the gallery" would not be the same N everywhere
            runs = [replace(run, sample=run.sample or min(galleries)) for run in runs]
        tables.append(run_rows("figure_4", [NONE, *runs], {"bnta": model}, {name: target},
                               settings, seeds=1, progress=progress))
    rows = pd.concat(tables, ignore_index=True)
    cells = rows["method"].str.extract(r"^N=(?P<N>\d+), K=(?P<K>\d+)$")
    return rows.join(cells.fillna("0").astype(int))


def grid_cells(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """A row a cell: target, N, K, value, std, difference, low, high, better, splits, seconds.

    ``rows``: of :func:`grid_rows`. value and std (per cent) over splits; difference, low, high
    (points, 95 % interval) against no adaption on the same splits; seconds: of features, pairing
    and steps together, the median over splits, which a busy machine moves least.
    """
    keys = ["target", "method", "N", "K"]
    values = rows[rows["metric"] == metric].groupby(keys, sort=False)["value"]
    cells = values.agg(value="mean", std="std").reset_index()
    tests = pd.concat([paired_tests(own, NONE.method, metric).assign(target=target)
                       for target, own in rows.groupby("target", sort=False)])
    tests = tests[["target", "method", "difference", "low", "high", "better", "splits"]]
    seconds = rows[rows["metric"].isin(PARTS)].groupby([*keys, "split"], sort=False)["value"].sum()
    seconds = seconds.groupby(level=keys, sort=False).median().rename("seconds").reset_index()
    cells = cells.merge(tests, on=["target", "method"]).merge(seconds, on=keys)
    return cells.drop(columns="method")


def peak_in_k(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Whether rank 1 rises from the smallest K to a K inside, and declines from it to the largest.

    The best of many noisy values always looks like a peak. So the K inside is chosen for every
    split on the *other* splits alone, and its value on the split is compared with those at both
    ends. Two rows (``part``: "rise", "decline") for each target and each N that has three values
    of K or more; ``pooled``: for each target, averaged over its N on every split. Columns:
    target, N (``sizes``, how many, where pooled), part, best (K of the highest mean, on all
    splits and over all K), inside (whether that is neither end), difference (points; positive as
    the paper has it), low, high (95 % interval over splits, widened for the choice, see
    PEAK_LEVEL), splits. No row for a single split. Splits share people, which no widening mends.
    """
    found = []
    for target, n, table in _tables(rows, "N", "K", metric, least=3):
        values = table.to_numpy()
        inner = values[:, 1:-1]
        others = inner.sum(0) - inner  # what the other splits say of each K inside
        chosen = inner[np.arange(len(inner)), others.argmax(1)]
        best = int(table.mean().idxmax())
        inside = table.columns[0] < best < table.columns[-1]
        for part, end in (("rise", values[:, 0]), ("decline", values[:, -1])):
            found.append({"target": target, "N": n, "part": part, "best": best,
                          "inside": inside, "values": chosen - end})
    keys = ["target", "part"] if pooled else None
    return _tests(found, keys, "N", PEAK_LEVEL)


def trend_in_n(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Points of rank 1 that a doubling of N brings at the same K: the slope over log2 N.

    A row for each target and each K that has two values of N or more; ``pooled``: for each
    target, averaged over its K on every split. Columns: target, K (``sizes``, how many, where
    pooled), difference (points a doubling, a straight line fitted on every split), low, high
    (95 % interval over splits), splits. No row for a single split.
    """
    found = []
    for target, k, table in _tables(rows, "K", "N", metric, least=2):
        doublings = np.log2(table.columns.to_numpy(float))
        slopes = np.polyfit(doublings, table.to_numpy().T, 1)[0]
        found.append({"target": target, "K": k, "values": slopes})
    return _tests(found, ["target"] if pooled else None, "K")


def answer(row: pd.Series) -> str:
    """What the interval of a row of :func:`peak_in_k` or :func:`trend_in_n` says of the claim."""
    if row["low"] > 0:
        return "as the paper says"
    return "the opposite" if row["high"] < 0 else "not resolved"


def claim_sentences(each: pd.DataFrame, pooled: pd.DataFrame, over: str) -> list[str]:
    """One sentence a target (and part) on :func:`peak_in_k` (``over`` "N") or
    :func:`trend_in_n` ("K"): each value of ``over`` by itself counted, and all of them averaged."""
    if each.empty:
        return ["Too few splits or cells: no interval can be given."]
    keys, sentences = [k for k in ("target", "part") if k in each], []
    for values, own in each.groupby(keys, sort=False):
        row = pooled[(pooled[keys] == list(values)).all(axis=1)].iloc[0]
        counts = own.apply(answer, axis=1).value_counts()
        counted = f"of {len(own)} values of {over}, " + ", ".join(
            f"{word} at {count}" for word, count in counts.items())
        sure = "no interval" if np.isnan(row["low"]) else (
            f"95 % interval {signed(row['low'], 2)} to {signed(row['high'], 2)}")
        sentences.append(f"{', '.join(values)}: {counted}; averaged over them "
                         f"{signed(row['difference'], 2)} points ({sure}): {answer(row)}.")
    return sentences


def time_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each cell: target, N, K, features, pairing, steps; medians over splits."""
    own = rows[rows["metric"].isin(PARTS)]
    table = own.pivot_table(index=["target", "N", "K"], columns="metric", values="value",
                            aggfunc="median", sort=False)
    return table[list(PARTS)].rename_axis(columns=None).reset_index()


def _tables(rows, each: str, along: str, metric: str, least: int) -> Iterator[tuple]:
    """(target, value of ``each``, splits x values of ``along``), of adapted runs alone."""
    chosen = rows[(rows["metric"] == metric) & (rows["N"] > 0)]
    for (target, value), own in chosen.groupby(["target", each], sort=False):
        table = own.pivot_table(index="split", columns=along, values="value")
        if table.shape[1] >= least and len(table) > 1:
            yield target, int(value), table


def _tests(
    found: list[dict], keys: list[str] | None, over: str, level: float = 0.95
) -> pd.DataFrame:
    """Mean and interval of each row's values over splits; averaged over rows of the same keys."""
    table = pd.DataFrame(found)
    if table.empty:
        return table
    if keys is not None:
        table = table.groupby(keys, sort=False, as_index=False).agg(
            sizes=(over, "count"), values=("values", lambda v: np.mean(list(v), axis=0)))
    values = table.pop("values")
    ends = [_interval(np.asarray(v), level) for v in values]
    table["difference"] = [float(np.mean(v)) for v in values]
    table["low"], table["high"] = zip(*ends)
    return table.assign(splits=[len(v) for v in values])


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Interval of Student's t for the mean; NaN where the values do not differ."""
    if np.ptp(values) <= TIE:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)
