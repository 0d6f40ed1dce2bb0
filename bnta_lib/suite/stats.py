"""One interval, one paired test and one verdict for all comparisons: differences on the same splits, adaption
seeds averaged first. Splits share people, so intervals, Student's t, are somewhat too narrow.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.settings import model_of

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
    return test | {"verdict": verdict_on(low, high, above, below)}


def verdict_on(low: float, high: float, above: float, below: float) -> str:
    """The verdict on "between ``above`` and ``below``" of an interval."""
    holds, fails = above < low and high <= below, high < above or low > below
    return HOLDS if holds else FAILS if fails else OPEN


def describe_by(table: pd.DataFrame, keys: Sequence[str], **options) -> pd.DataFrame:
    """:func:`describe` of the differences, a row for each group of ``keys``, in order of appearance."""
    groups = table.groupby(list(keys), sort=False)["difference"]
    return pd.DataFrame([dict(zip(keys, key)) | describe(values, **options) for key, values in groups])


def averaged(rows: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Mean value by ``keys``: over the adaption seeds of each training, then over a model's trainings."""
    by_training = rows.groupby([*keys, "training"], sort=False)["value"].mean()
    return by_training.groupby([*keys], sort=False).mean()


def split_gains(rows: pd.DataFrame, keys: Sequence[str], network: Sequence[str] = (), metric: str = "R1"):
    """What adaption adds on every split: ``keys``, target, split, value, frozen (without it), difference.

    A training is compared with its own rows without adaption, of the same ``network``, which are some of
    ``keys``; then a model's trainings are averaged.
    """
    rows, one = rows[rows["metric"] == metric], ["training", "target", "split"]
    frozen, adapted = rows[rows["adapter"] == "none"], rows[rows["adapter"] != "none"]
    frozen = frozen.groupby([*network, *one])["value"].mean().rename("frozen")
    gains = adapted.groupby([*keys, *one], sort=False)["value"].mean().reset_index()
    gains = gains.join(frozen, on=[*network, *one])
    gains["difference"] = gains["value"] - gains["frozen"]
    gains["training"] = gains["training"].map(model_of)
    numbers = ["value", "frozen", "difference"]
    return gains.groupby([*keys, *one], sort=False)[numbers].mean().reset_index().drop(columns="training")


def by_training(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean of each training over splits and seeds: target, method, adapter, training, value, and gain,
    the points that it is above the same training without adaption."""
    one = ["target", "training"]
    rows = rows[rows["metric"] == metric]
    means = rows.groupby([*one, "method", "adapter"], sort=False)["value"].mean().reset_index()
    frozen = means[means["adapter"] == "none"].set_index(one)["value"].rename("frozen")
    means = means.join(frozen, on=one)
    return means.assign(gain=means["value"] - means.pop("frozen"))


def paired_test(rows: pd.DataFrame, method: str | Sequence[str], against: str | Sequence[str],
                metric: str = "R1", **limits) -> pd.DataFrame:
    """Test of method minus against (one each, or several added up) on the same splits: a row a target.

    Columns: target, and those of :func:`describe` with these ``limits``. If models have several trainings,
    low and high are of :func:`over_trainings`, "low, splits" and "high, splits" of the splits alone, and
    "trainings" is how many there are, before it for one model on how many the splits alone say HOLDS.
    Between models nothing is resolved if one has one training: how much these vary is in no interval.
    """
    signs = dict.fromkeys(np.atleast_1d(against), -1) | dict.fromkeys(np.atleast_1d(method), 1)
    rows = rows[(rows["metric"] == metric) & rows["method"].isin([*signs])]
    if missing := signs.keys() - {*rows["method"]}:
        raise KeyError(f"no rows of {min(missing)}")
    index, parts = ["target", "training", "split"], {}
    for model, group in rows.groupby(rows["training"].map(model_of), sort=False):
        values = group.groupby([*index, "method"], sort=False)["value"].mean().unstack("method")
        part = (values * pd.Series(signs)[values.columns]).sum(axis=1, skipna=False)
        parts[model] = part.dropna()  # on some targets a row may not be measured
    by_split = [part.groupby(["target", "split"], sort=False).mean() for part in parts.values()]
    difference, tests = pd.concat(by_split, axis=1).sum(axis=1, skipna=False).dropna(), []
    for target, splits in difference.groupby("target", sort=False):
        of_target = [part[target].unstack("split") for part in parts.values()]  # a row a training
        tests.append({"target": target} | _test_of(of_target, splits, **limits))
    return pd.DataFrame(tests)


def _test_of(models: Sequence[pd.DataFrame], splits: pd.Series, **limits) -> dict:
    """Test on one target. ``models``: the parts of the difference, a row a training, a column a split."""
    test, counts = describe(splits, **limits), [len(values) for values in models]
    if max(counts) == 1:
        return test | ({"verdict": OPEN, "reason": ONE_EACH} if len(counts) > 1 else {})
    level, above, below = ({"level": 0.95, "above": 0.0, "below": math.inf} | limits).values()
    low, high = over_trainings([values.mean(axis=1) for values in models], splits, level)
    verdict = OPEN if test["reason"] or math.isnan(low) else verdict_on(low, high, above, below)
    text = " and ".join(map(str, counts))
    if len(models) == 1:
        each = [describe(values.dropna(), **limits)["verdict"] for _, values in models[0].iterrows()]
        text = f"{each.count(HOLDS)} of {text}"
    reason = test["reason"] or (ONE_EACH if min(counts) == 1 else "")
    return test | {"low": low, "high": high, "low, splits": test["low"], "high, splits": test["high"],
                   "verdict": verdict, "reason": reason, "trainings": text}


def over_trainings(models: Sequence[Sequence[float]], splits: Sequence[float],
                   level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of ``splits`` that knows how trainings vary; NaN if a model has one training.

    ``models``: by model, its part of the difference on each of its trainings. The variances of all means add
    up, and Student's t has the degrees of freedom of Satterthwaite (1946). With splits that do not vary and
    two models, this is Welch's interval.
    """
    variances = [(np.var(values, ddof=1) / len(values), len(values) - 1) if len(values) > 1
                 else (math.nan, 1) for values in (*models, splits)]
    total = sum(variance for variance, _ in variances)
    if not total > 0:
        return math.nan, math.nan
    freedom = total**2 / sum(variance**2 / count for variance, count in variances)
    low, high = stats.t.interval(level, freedom, np.mean(splits), math.sqrt(total))
    return float(low), float(high)


def printed(tests: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Tests as text, indexed by ``keys``: two decimals, "–" for what is missing, reasons beside verdicts."""
    table = tests.set_index([*keys])
    if "reason" in table:
        table["verdict"] += table.pop("reason").map(lambda reason: reason and f" ({reason})")
    for name, values in table.select_dtypes("float").items():  # -0.00 is below zero
        values = values.mask(values.abs() <= TIE, 0.0)
        table[name] = values.map("{:.2f}".format, na_action="ignore").fillna("–")
    return table
