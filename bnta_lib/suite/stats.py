"""One interval, one paired test and one verdict for all comparisons: differences on the same splits, adaption
seeds averaged first. Splits share people, so intervals, Student's t over splits, are somewhat too narrow.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

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


def describe(values: Sequence[float], level=0.95, above=0.0, below=math.inf) -> dict:
    """Test of values, one a split, on "their mean lies between ``above`` and ``below``".

    Keys: difference (the mean), low, high (its interval), verdict (HOLDS if the whole interval lies between,
    FAILS if it lies outside) and reason (why it is OPEN; empty if the interval decides).
    """
    low, high = interval(values, level)
    test = {"difference": float(np.mean(values)), "low": low, "high": high, "verdict": OPEN, "reason": ""}
    if math.isnan(low):
        return test | {"reason": ONE_SPLIT if len(values) < 2 else NO_SPREAD}
    holds, fails = above < low and high <= below, high < above or low > below
    return test | {"verdict": HOLDS if holds else FAILS if fails else OPEN}


def describe_by(table: pd.DataFrame, keys: Sequence[str], **options) -> pd.DataFrame:
    """:func:`describe` of the differences, a row for each group of ``keys``, in order of appearance."""
    groups = table.groupby(list(keys), sort=False)["difference"]
    return pd.DataFrame([dict(zip(keys, key)) | describe(values, **options) for key, values in groups])


def split_gains(rows: pd.DataFrame, keys: Sequence[str], network: Sequence[str] = (), metric: str = "R1"):
    """What adaption adds on every split: ``keys``, target, split, value, frozen (without it), difference.

    Those of ``keys`` in ``network`` name a network, each compared with its own rows without adaption.
    """
    rows, pair = rows[rows["metric"] == metric], [*network, "target", "split"]
    frozen = rows[rows["adapter"] == "none"].groupby(pair)["value"].mean().rename("frozen")
    adapted = rows[rows["adapter"] != "none"].groupby([*keys, "target", "split"], sort=False)["value"].mean()
    gains = adapted.reset_index().join(frozen, on=pair)
    return gains.assign(difference=gains["value"] - gains["frozen"])


def paired_test(rows: pd.DataFrame, method: str | Sequence[str], against: str | Sequence[str],
                metric: str = "R1", **limits) -> pd.DataFrame:
    """Test of method minus against (one each, or several added up) on the same splits: a row a target.

    Columns: target, and those of :func:`describe` with these ``limits``. Nothing is resolved between
    trainings with one set of weights each: how much such trainings vary is in no interval.
    """
    values = rows[rows["metric"] == metric].groupby(["target", "split", "method"], sort=False)["value"]
    table, sides = values.mean().unstack("method"), (np.atleast_1d(method), np.atleast_1d(against))
    first, second = (table[side].sum(axis=1, skipna=False) for side in sides)
    both = (first - second).rename("difference").dropna()  # on some targets a row may not be measured
    tests = describe_by(both.reset_index(), ["target"], **limits)
    times = rows[rows["method"].isin(np.concatenate(sides))].groupby("training")["weights"].nunique()
    one_each = len(times) > 1 and times.min() < 2
    return tests.assign(verdict=OPEN, reason=ONE_EACH) if one_each else tests


def printed(tests: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Tests as text, indexed by ``keys``: two decimals, "–" for what is missing, reasons beside verdicts."""
    table = tests.set_index([*keys])
    if "reason" in table:
        table["verdict"] += table.pop("reason").map(lambda reason: reason and f" ({reason})")
    for name, values in table.select_dtypes("float").items():  # -0.00 is below zero
        values = values.mask(values.abs() <= TIE, 0.0)
        table[name] = values.map("{:.2f}".format, na_action="ignore").fillna("–")
    return table
