"""One interval, one paired test and one verdict for everything that is compared.

A comparison is a difference on the same splits, adaption seeds averaged first. Its interval is
Student's t over splits. Splits share people, so intervals are somewhat too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.suite.store import refuse_mixed

METRICS = ("mAP", "R1", "R5", "R10")
HOLDS, FAILS, OPEN = VERDICTS = "holds", "does not hold", "not resolved"
ONE_SPLIT, NO_SPREAD, ONE_EACH = "one split", "no spread", "one training each"  # reasons of OPEN
TIE = 1e-9  # points: values no further apart are equal but for rounding
# Units of claims beside points of rank 1: a difference of change rates, and a share of the layers.
RATE, SHARE = "points of change rate", "% of layers"


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean (Student's t). NaN for one value, or without any spread."""
    if len(values) < 2 or np.ptp(values) <= TIE:
        return math.nan, math.nan
    low, high = stats.ttest_1samp(values, 0).confidence_interval(level)
    return float(low), float(high)


def verdict(
    test: Mapping, above: float = 0.0, below: float = math.inf
) -> tuple[str, str]:
    """One of :data:`VERDICTS` on "the mean lies between ``above`` and ``below``", and its reason.

    ``test`` has low, high and splits. It holds if the whole interval lies between, and does not
    hold if the whole interval lies outside. The reason is empty if the interval decides.
    """
    low, high = test["low"], test["high"]
    if test["splits"] < 2:
        return OPEN, ONE_SPLIT
    if math.isnan(low):
        return OPEN, NO_SPREAD
    if above < low and high <= below:
        return HOLDS, ""
    return (FAILS if high < above or low > below else OPEN), ""


def describe(differences: Sequence[float], level: float = 0.95) -> dict:
    """Test of differences, one a split, against zero.

    Keys: difference (the mean), low, high (its interval), p (two-sided t-test), better (how many
    are above zero by more than :data:`TIE`), splits, verdict and reason ("greater than zero").
    """
    values = np.asarray(differences, float)
    low, high = interval(values, level)
    p = math.nan if math.isnan(low) else float(stats.ttest_1samp(values, 0).pvalue)
    test = {"difference": float(values.mean()), "low": low, "high": high, "p": p,
            "better": int((values > TIE).sum()), "splits": len(values)}
    return test | dict(zip(("verdict", "reason"), verdict(test)))


def describe_by(
    table: pd.DataFrame, keys: Sequence[str], column: str = "difference", level: float = 0.95
) -> pd.DataFrame:
    """:func:`describe` of a column, a row for each group of ``keys``, in order of appearance."""
    groups = table.groupby(list(keys), sort=False)[column]
    return pd.DataFrame([dict(zip(keys, key)) | describe(values, level) for key, values in groups])


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over splits, adaption seeds averaged first.

    ``rows``: tidy rows with target, method, split, seed, metric, value. Returns a row a method
    with columns (target, metric, "mean" | "std"); the std is that of a sample (n - 1).

    Raises:
        ValueError: for rows that do not belong together
            (:func:`bnta_lib.suite.store.refuse_mixed`), that are there twice, or of methods that
            were measured on different splits of a target.
    """
    refuse_mixed(rows)
    _refuse_uneven(rows)
    by_split = rows.groupby(["method", "target", "metric", "split"], sort=False)["value"].mean()
    by_method = by_split.groupby(level=["method", "target", "metric"], sort=False)
    summary = by_method.agg(["mean", "std"]).unstack(["target", "metric"])
    summary.columns = summary.columns.reorder_levels([1, 2, 0])
    columns = pd.MultiIndex.from_product([rows["target"].unique(), METRICS, ["mean", "std"]])
    return summary.reindex(index=rows["method"].unique(), columns=columns)


def _refuse_uneven(rows: pd.DataFrame) -> None:
    keys = [name for name in ("method", "target", "metric", "split", "seed") if name in rows]
    if (twice := rows[rows.duplicated(keys)]).size:
        raise ValueError(f"these rows are there twice: {' '.join(map(str, twice.iloc[0][keys]))}")
    for target, group in rows.groupby("target", sort=False):
        splits = group.groupby("method", sort=False)["split"].unique()
        if len({frozenset(numbers) for numbers in splits}) > 1:
            counts = ", ".join(f"{method} {len(numbers)}" for method, numbers in splits.items())
            raise ValueError(f"the methods were measured on different splits of {target} ({counts}): "
                             "their means do not compare")


def differences(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Method minus against on the same splits, in points: target, split, difference.

    Raises ValueError for a method that was not measured, and for rows that do not belong together.
    """
    rows = rows[(rows["metric"] == metric) & rows["method"].isin([method, against])]
    refuse_mixed(rows)
    for name in (method, against):
        if name not in set(rows["method"]):
            raise ValueError(f"no {metric} of {name!r} among the rows")
    value = rows.groupby(["target", "split", "method"], sort=False)["value"].mean().unstack("method")
    return (value[method] - value[against]).rename("difference").reset_index()


def one_training_each(rows: pd.DataFrame) -> bool:
    """Whether the rows are of several trainings (column training), some with one set of weights.

    The spread between trainings of one kind is then in no interval, so that nothing is resolved.
    """
    if not {"training", "weights"} <= set(rows.columns):
        return False
    times = rows.groupby("training")["weights"].nunique()
    return len(times) > 1 and times.min() < 2


def paired_test(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Difference of two methods on the same splits: a row a target.

    Columns: target, those of :func:`describe` (points, method minus against) and seed_std (points:
    the mean over splits of the method's spread over adaption seeds).
    """
    tests = describe_by(differences(rows, method, against, metric), ["target"])
    rows = rows[rows["metric"] == metric]
    if one_training_each(rows[rows["method"].isin([method, against])]):
        tests = tests.assign(verdict=OPEN, reason=ONE_EACH)
    spread = rows[rows["method"] == method].groupby(["target", "split"])["value"].std()
    return tests.assign(seed_std=tests["target"].map(spread.groupby("target").mean()))


def compare(
    rows: pd.DataFrame, pairs: Iterable[tuple[str, str]], metric: str = "R1"
) -> pd.DataFrame:
    """:func:`paired_test` of each (method, against), which are the first two columns."""
    tests = []
    for method, against in pairs:
        tests.append(paired_test(rows, method, against, metric))
        tests[-1].insert(0, "against", against)
        tests[-1].insert(0, "method", method)
    return pd.concat(tests, ignore_index=True)


def paired_tests(
    rows: pd.DataFrame, against: str = "BNTA w/o TTA", metric: str = "R1"
) -> pd.DataFrame:
    """:func:`compare` of every other method among the rows."""
    return compare(rows, [(m, against) for m in rows["method"].unique() if m != against], metric)


def slopes(table: pd.DataFrame) -> np.ndarray:
    """Slope over log2 of the columns, a straight line fitted to each row: points a doubling."""
    return np.polyfit(np.log2(table.columns.to_numpy(float)), table.to_numpy().T, 1)[0]


def holm(p: pd.Series) -> pd.Series:
    """Holm's correction of p values for their number. Missing ones are no tests and stay so."""
    known = p.dropna().sort_values()
    factor = np.arange(len(known), 0, -1)
    return (known * factor).cummax().clip(upper=1).reindex(p.index)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, as +1.2 or -0.3. What rounds to zero has none."""
    value = round(value, digits) + 0.0  # -0.0 becomes 0.0
    return f"{value:{'+' if value else ''}.{digits}f}"


def in_unit(value: float, unit: str) -> str:
    """A number of the claims: differences with their sign, rates by their first two digits."""
    if unit == RATE and value:
        return signed(value, max(0, 1 - math.floor(math.log10(abs(value)))))
    return signed(value) if unit == "points" else f"{round(value, 1) + 0.0:.1f}"  # never -0.0


def p_text(p: pd.Series) -> pd.Series:
    """p values as text with one digit that counts, since a rounded 0.0000 would be a claim."""
    return p.map("{:.1g}".format, na_action="ignore")
