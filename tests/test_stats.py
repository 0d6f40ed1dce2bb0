"""Intervals, paired tests and verdicts, against scipy and cases by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bnta_lib.suite import stats, tables
from bnta_lib.suite.stats import HOLDS, NO_SPREAD, ONE_EACH, ONE_SPLIT, OPEN


def tidy(values: dict, **columns) -> pd.DataFrame:
    """values[target, method]: a list over splits of lists over seeds; every metric the same."""
    columns = {"table": "table_2", "training": "bnta", "adapter": "bnta"} | columns
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


# ---- several trainings


def trained(values: dict) -> pd.DataFrame:
    """values[method, training]: rank 1 by split, on one target."""
    return pd.concat([tidy({("GRID", method): [[value] for value in splits]}, training=training)
                      for (method, training), splits in values.items()])


def test_interval_over_trainings_is_welchs_if_splits_do_not_vary():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(50, 3, 5), random.normal(47, 1, 3)
    rows = trained({("a", f"bnta-{k}"): [value] * 6 for k, value in enumerate(ours)}
                   | {("b", f"baseline-{k}"): [value] * 6 for k, value in enumerate(theirs)})
    oracle = scipy_stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    splits = np.full(6, ours.mean() - theirs.mean())
    assert stats.over_trainings([ours, -theirs], splits) == pytest.approx(tuple(oracle))
    test = stats.paired_test(rows, "a", "b").iloc[0]
    assert (test["difference"], test["trainings"]) == (pytest.approx(splits[0]), "5 and 3")


def test_interval_over_trainings_covers_the_truth_as_often_as_it_says():
    """Differences of 3 and 5 trainings on 10 splits that both see; truth 0."""
    random, inside = np.random.default_rng(1), []
    for _ in range(1000):
        splits = random.normal(0, 2, 10)
        models = [random.normal(0, 4, (n, 1)) + random.normal(0, 1, (n, 10)) for n in (3, 5)]
        by_split = models[0].mean(0) + splits - models[1].mean(0)
        low, high = stats.over_trainings([models[0].mean(1), -models[1].mean(1)], by_split)
        inside.append(low < 0 < high)
    assert 0.93 < np.mean(inside) < 0.98


def test_means_of_trainings_and_what_adaption_adds_to_each():
    rows = trained({("none", "bnta"): [40, 42], ("none", "bnta-1"): [50, 54], ("a", "bnta"): [43, 44],
                    ("a", "bnta-1"): [51, 54]})
    rows["adapter"] = rows["method"].map({"none": "none", "a": "bnta"})
    means = stats.by_training(rows).set_index(["method", "training"])
    assert means["value"].to_dict() == {("none", "bnta"): 41, ("none", "bnta-1"): 52, ("a", "bnta"): 43.5,
                                        ("a", "bnta-1"): 52.5}
    assert means.loc["a", "gain"].to_dict() == {"bnta": 2.5, "bnta-1": 0.5}
    assert tables.spread(rows).loc["GRID", "a"].tolist() == [2, "48.0 ± 6.4", "1.5 ± 1.4"]


def test_comparison_of_two_models_knows_how_trainings_vary():
    """Ten points on every split, but trainings that vary by more."""
    values = {("a", "bnta"): [70, 71, 72], ("a", "bnta-1"): [50, 51, 51.5],
              ("b", "baseline"): [40, 41, 42.5], ("b", "baseline-1"): [60, 61.5, 62]}
    test = stats.paired_test(trained(values), "a", "b").iloc[0]
    assert test["low, splits"] > 9 and test["low"] < 0 and (test["verdict"], test["reason"]) == (OPEN, "")
    for first in (0, 1):  # one training of either
        fewer = trained(dict([*values.items()][first:first + 3]))
        assert stats.paired_test(fewer, "a", "b").iloc[0][["verdict", "reason"]].tolist() == [OPEN, ONE_EACH]


def test_comparison_within_a_model_is_averaged_over_its_trainings():
    gains = {"bnta": 3.0, "bnta-1": 2.0, "bnta-2": 2.5}
    rows = trained({(method, training): [40 + k + 7 * (k % 2) + sign * (gain + 0.1 * k) for k in range(4)]
                    for training, gain in gains.items() for method, sign in (("a", 1), ("none", 0))}
                   | {("first alone", "bnta"): [50, 51, 52, 53]})
    test = stats.paired_test(rows, "a", "none").iloc[0]
    assert test["difference"] == pytest.approx(2.5 + 0.15)
    assert (test["verdict"], test["trainings"]) == (HOLDS, "3 of 3")
    assert test["low"] < test["low, splits"] < test["high, splits"] < test["high"]
    # A row of one training is compared on that training alone.
    first = stats.paired_test(rows, "first alone", "none").iloc[0]
    assert first["difference"] == pytest.approx(51.5 - (40 + 1.5 + 3.5)) and "trainings" not in first.dropna()
