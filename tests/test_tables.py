import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnta_lib import tables


def tidy(values: dict) -> pd.DataFrame:
    """values[target, method]: a list over splits of lists over seeds; every metric the same."""
    return pd.DataFrame([
        {"target": t, "method": m, "split": i, "seed": j, "metric": metric, "value": v,
         "seconds": 0.1 * j}
        for (t, m), splits in values.items() for i, seeds in enumerate(splits)
        for j, v in enumerate(seeds) for metric in tables.METRICS
    ])


@pytest.fixture
def rows():
    random = np.random.default_rng(3)
    return tidy({
        (t, m): (40 + 5 * k + random.normal(0, 3, (6, 2 if m == "BNTA" else 1))).tolist()
        for k, t in enumerate(("VIPeR", "GRID")) for m in ("Baseline", "BNTA w/o TTA", "BNTA")
    })


def test_summary_averages_seeds_before_it_spreads_over_splits():
    rows = tidy({("VIPeR", "BNTA"): [[10, 20], [20, 40], [30, 60]]})  # by split: 15, 30, 45
    summary = tables.summarise(rows)
    assert summary.loc["BNTA", ("VIPeR", "R1", "mean")] == pytest.approx(30)
    assert summary.loc["BNTA", ("VIPeR", "R1", "std")] == pytest.approx(15)  # n - 1


def test_paired_test_agrees_with_scipy(rows):
    result = tables.paired_test(rows, "BNTA", "BNTA w/o TTA")
    assert result["target"].tolist() == ["VIPeR", "GRID"]
    for _, row in result.iterrows():
        own = rows[(rows["target"] == row["target"]) & (rows["metric"] == "R1")]
        ours = own[own["method"] == "BNTA"].groupby("split")["value"].mean().to_numpy()
        theirs = own[own["method"] == "BNTA w/o TTA"].groupby("split")["value"].mean().to_numpy()
        oracle = stats.ttest_rel(ours, theirs)
        interval = oracle.confidence_interval(0.95)
        assert row["difference"] == pytest.approx((ours - theirs).mean())
        assert row["p"] == pytest.approx(oracle.pvalue)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["better"] == (ours > theirs).sum()


def test_paired_test_pairs_by_split_and_not_by_order(rows):
    shuffled = rows.sample(frac=1, random_state=0)
    one = tables.paired_test(rows, "BNTA", "Baseline").set_index("target")
    two = tables.paired_test(shuffled, "BNTA", "Baseline").set_index("target")
    pd.testing.assert_frame_equal(one, two.loc[one.index])


def test_seed_spread_is_that_of_the_method_itself():
    rows = tidy({("VIPeR", "BNTA"): [[10, 12], [20, 24]],
                 ("VIPeR", "BNTA w/o TTA"): [[9], [30]]})
    row = tables.paired_test(rows, "BNTA", "BNTA w/o TTA").iloc[0]
    assert row["seed_std"] == pytest.approx((np.sqrt(2) + np.sqrt(8)) / 2)


def test_one_split_or_no_spread_gives_no_interval():
    for splits in ([[10]], [[10], [20]]):
        shifted = [[v + 2 for v in seeds] for seeds in splits]
        rows = tidy({("VIPeR", "BNTA"): shifted, ("VIPeR", "BNTA w/o TTA"): splits})
        row = tables.paired_test(rows, "BNTA", "BNTA w/o TTA").iloc[0]
        assert row["difference"] == pytest.approx(2)
        assert np.isnan([row["low"], row["high"], row["p"]]).all()
        assert "+2.0 points" in tables.verdict(row)


def test_an_unmeasured_method_is_named(rows):
    with pytest.raises(ValueError, match="Tent"):
        tables.paired_test(rows, "Tent", "BNTA")


@pytest.mark.parametrize("low, high, word", [
    (0.5, 3, "better"), (-3, -0.5, "worse"), (-1, 3, "no difference resolved")])
def test_verdict_follows_the_interval_and_not_the_mean(low, high, word):
    row = pd.Series({"target": "GRID", "difference": (low + high) / 2, "low": low, "high": high,
                     "splits": 10})
    assert word in tables.verdict(row)


def test_paired_tests_cover_every_other_method(rows):
    result = tables.paired_tests(rows)
    assert result[["method", "target"]].values.tolist() == [
        ["Baseline", "VIPeR"], ["Baseline", "GRID"], ["BNTA", "VIPeR"], ["BNTA", "GRID"]]
    assert (result["against"] == "BNTA w/o TTA").all()


def test_cited_numbers_are_the_papers():
    cited = tables.paper_table_2()
    assert cited.loc["BNTA", ("VIPeR", "R1")] == 57.4
    assert cited.loc["BNTA w/o TTA", ("GRID", "R1")] == 42.4
    assert np.isnan(cited.loc["BoT", ("VIPeR", "R5")])


def test_ours_and_the_papers_rows_stand_under_their_own_headings(rows):
    table = tables.table_2(rows)
    assert table.loc[("paper, cited", "BNTA"), ("VIPeR", "R1")] == "57.4"
    mean = tables.summarise(rows).loc["BNTA", ("VIPeR", "R1", "mean")]
    assert table.loc[("here, measured", "BNTA"), ("VIPeR", "R1")].startswith(f"{mean:.1f} ± ")
    assert table.loc[("here, measured", "BNTA"), ("iLIDS", "R1")] == ""  # not measured
    own = tables.table_2(rows.assign(target="my_folder"))
    assert own.loc[("here, measured", "BNTA"), ("my_folder", "R1")]


def test_the_note_on_dualnorm_is_arithmetic_on_its_row():
    cited = tables.paper_table_2().loc["DualNorm"]
    for target in ("VIPeR", "GRID", "iLIDS"):
        standard = 2 * cited[target, "mAP"] - cited[target, "R1"]  # of the trapezoidal one
        assert f"{cited[target, 'mAP']:.1f}" in tables.DUALNORM_NOTE
        assert f"{standard:.1f}" in tables.DUALNORM_NOTE


def test_saved_tables_and_rows_read_back(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "figures_dir", lambda profile: tmp_path / profile)
    paths = tables.save_table(tables.table_2(rows), "table_2", "smoke", "A note.")
    text = paths[1].read_text()
    assert "| VIPeR R1" in text and text.endswith("A note.\n")
    assert len(pd.read_csv(paths[0], header=[0, 1], index_col=[0, 1])) == len(tables.table_2(rows))
    path = tables.save_rows(rows, "table_2_rows", "smoke")
    assert "seconds" not in (back := pd.read_csv(path))
    assert back["value"].to_numpy() == pytest.approx(rows["value"].to_numpy(), abs=1e-6)


def test_change_sentence_never_calls_a_loss_a_gain():
    def row(r1):
        return {"mAP": 30.0, "R1": r1}

    assert "adaption helped" in tables.change_sentence("GRID", row(10), row(12))
    assert "did not help" in tables.change_sentence("GRID", row(10), row(10))
    assert "did harm" in tables.change_sentence("GRID", row(10), row(8))


def test_why_table_sets_measurements_beside_the_gain():
    names = [f"rate {q}" for q in ("mean", "var", "gamma", "beta")]
    names += [f"{t} {k}" for t in ("pos", "mat") for k in ("frozen", "statistics", "adapted")]
    why = pd.DataFrame([{"target": t, "split": s, "what": w, "value": i + s}
                        for t in ("VIPeR", "GRID") for s in (0, 1) for i, w in enumerate(names)])
    shift = pd.DataFrame([
        {"target": t, "model": m, "index": i, "layer": f"bn{i}", "distance": d}
        for t in ("VIPeR", "GRID")
        for m, distances in (("frozen", (1.0, 3.0)), ("adapted", (0.5, 3.5)))
        for i, d in enumerate(distances, 1)])
    test = pd.DataFrame({"target": ["VIPeR", "GRID"], "difference": [1.5, -2.0]})
    table = tables.why_table(test, why, shift)
    assert table.index.tolist() == ["VIPeR", "GRID"]
    assert table.loc["GRID", "difference"] == -2
    assert table.loc["VIPeR", "rate mean"] == 0.5  # the mean over splits
    assert table.loc["VIPeR", ["distance frozen", "distance adapted"]].tolist() == [2, 2]
    assert table.loc["VIPeR", "layers closer"] == 50
    sentence = tables.why_sentence("GRID", table.loc["GRID"])
    assert "rank 1 -2.0 points" in sentence and "L_pos rose" in sentence and "stayed" in sentence
