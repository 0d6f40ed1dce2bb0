"""Intervals, paired tests and verdicts, against scipy and cases by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bnta_lib.suite import stats
from bnta_lib.suite.stats import NO_SPREAD, ONE_SPLIT, OPEN


def tidy(values: dict, **columns) -> pd.DataFrame:
    """values[target, method]: a list over splits of lists over seeds; every metric the same."""
    columns = {"table": "table_2", "training": "bnta", "weights": "a"} | columns
    return pd.DataFrame([
        {"target": t, "method": m, "split": i, "seed": j, "metric": metric, "value": v} | columns
        for (t, m), splits in values.items() for i, seeds in enumerate(splits)
        for j, v in enumerate(seeds) for metric in stats.METRICS
    ])


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(3)
    return tidy({(t, m): (40 + 5 * k + random.normal(0, 3, (6, 2 if m == "BNTA" else 1))).tolist()
                 for k, t in enumerate(("VIPeR", "GRID")) for m in ("BNTA w/o TTA", "BNTA")})


def test_paired_test_agrees_with_scipy_whatever_the_order_of_the_rows(rows):
    for order in (rows, rows.sample(frac=1, random_state=0)):
        result = stats.paired_test(order, "BNTA", "BNTA w/o TTA")
        assert set(result["target"]) == {"VIPeR", "GRID"}
        for row in result.itertuples():
            scores = rows[(rows["target"] == row.target) & (rows["metric"] == "R1")]
            ours, theirs = (scores[scores["method"] == m].groupby("split")["value"].mean().to_numpy()
                            for m in ("BNTA", "BNTA w/o TTA"))
            oracle = scipy_stats.ttest_rel(ours, theirs)
            assert row.difference == pytest.approx((ours - theirs).mean())
            assert (row.low, row.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))


def test_interval_by_hand_at_two_levels():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]  # mean 3, standard error 0.70711
    for level, t in ((0.95, 2.7764), (0.975, 3.4954)):  # of 4 degrees of freedom
        assert stats.interval(values, level) == pytest.approx((3 - t * 0.70711, 3 + t * 0.70711), abs=1e-4)


@pytest.mark.parametrize("values, reason", [
    ([2.0], ONE_SPLIT), ([2.0, 2.0], NO_SPREAD), ([0.3, 0.1 + 0.2, 0.3 + 1e-12], NO_SPREAD)])
def test_one_split_or_no_spread_gives_no_interval_and_its_reason(values, reason):
    test = stats.describe(values)
    assert test["difference"] == pytest.approx(np.mean(values))
    assert np.isnan([test["low"], test["high"]]).all()
    assert (test["verdict"], test["reason"]) == (OPEN, reason)
