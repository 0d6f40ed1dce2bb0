"""Tables 1-5: the paper's numbers as cited, ours beside them."""

import numpy as np
import pandas as pd
import pytest
from test_stats import tidy

from bnta_lib import BNTANet, settings
from bnta_lib.suite import stats, tables
from bnta_lib.suite.specs import TABLE_3, TABLE_4, TABLE_5

TARGETS = ("VIPeR", "GRID", "iLIDS")


def random_rows(table: str, runs, targets=TARGETS, seed: int = 0):
    """Rows of a table: six splits, two seeds where a run is adapted, and no two numbers alike."""
    random = np.random.default_rng(seed)
    values = {(t, run.method): random.uniform(10, 60, (6, 1 if run.adapter == "none" else 2)).tolist()
              for t in targets for run in runs}
    return tidy(values, table=table)


def splits_of(rows, target, method):
    """Rank 1 by split, seeds averaged, without pandas' grouping."""
    own = rows[(rows["target"] == target) & (rows["method"] == method) & (rows["metric"] == "R1")]
    return np.array([own[own["split"] == s]["value"].to_numpy().mean() for s in range(6)])


def as_text(values):
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


@pytest.fixture(scope="module")
def rows_3():
    return random_rows("table_3", TABLE_3)


@pytest.fixture(scope="module")
def rows_4():
    return random_rows("table_4", TABLE_4)


@pytest.fixture(scope="module")
def rows_5():
    return pd.concat([random_rows("table_5", TABLE_5["alone"]),
                      random_rows("table_5_restore", TABLE_5["restore"], ("GRID",), seed=1)])


@pytest.fixture(scope="module")
def net():
    return BNTANet(7, settings("smoke", base_width=4, local_dim=8))


def test_cited_numbers_are_the_papers():
    cited = tables.paper_table_2()
    assert cited.loc["BNTA", ("VIPeR", "R1")] == 57.4
    assert cited.loc["BNTA w/o TTA", ("GRID", "R1")] == 42.4
    assert np.isnan(cited.loc["BoT", ("VIPeR", "R5")])


def test_ours_and_the_papers_rows_stand_under_their_own_headings():
    values = np.random.default_rng(0).normal(40, 3, (6, 2))
    rows = tidy({(t, "BNTA"): values.tolist() for t in ("VIPeR", "GRID")})
    table = tables.table_2(rows)
    assert table.loc[("paper, cited", "BNTA"), ("VIPeR", "R1")] == "57.4"
    assert table.loc[("here, measured", "BNTA"), ("VIPeR", "R1")] == as_text(values.mean(1))
    assert table.loc[("here, measured", "BNTA"), ("iLIDS", "R1")] == ""  # not measured
    folder = tables.table_2(rows[rows["target"] == "VIPeR"].assign(target="my_folder"))
    assert folder.index.get_level_values(0).unique().tolist() == ["here, measured"]


def test_table_3_is_the_papers_matrix(rows_3):
    table = tables.table_3(rows_3)
    assert table.columns.tolist() == ["None", "L_pos", "L_mat^tta", "L_pos, L_mat^tta"]
    assert table.index.droplevel(2).unique().tolist() == [
        ("paper, cited", "VIPeR"), ("here, measured", "VIPeR"), ("here, measured", "GRID"),
        ("here, measured", "iLIDS")]
    cited = table.loc["paper, cited", "VIPeR"]
    assert cited.index.tolist() == ["L_id", "L_pos", "L_mat", "L_id, L_pos", "L_id, L_mat",
                                    "L_id, L_pos, L_mat"]
    assert cited.to_numpy().tolist() == [  # the paper's page 6
        ["50.9", "–", "–", "–"], ["21.6", "21.3", "–", "–"], ["48.2", "–", "51.8", "–"],
        ["52.6", "52.8", "–", "–"], ["52.3", "–", "55.6", "–"], ["52.8", "53.3", "56.8", "57.4"]]
    ours = table.loc["here, measured", "GRID"]
    assert (ours == "–").equals(cited == "–"), "other cells than the paper's are filled"
    assert ours.loc["L_id, L_mat", "L_mat^tta"] == as_text(splits_of(rows_3, "GRID", "train id+mat; tta mat"))


def test_table_4s_sizes_are_sums_over_the_parameters(rows_4, net):
    table = tables.table_4(rows_4, net)["here, counted"]
    count = dict.fromkeys(("Conv", "IN", "BN"), 0)
    for name, parameter in net.named_parameters():
        kind = "Conv" if parameter.ndim > 1 else "IN" if "instance_norm" in name else "BN"
        count[kind] += parameter.numel()
    for method in table.index:
        size = sum(count[kind] for kind in method.split("+")) if method != "None" else 0
        assert table.loc[method, "parameters"] == f"{size:,}"
        assert table.loc[method, "bytes, float32"] == f"{4 * size:,}"


def test_the_full_network_has_the_papers_sizes():
    sizes = {kind: tables.layer_size(tables.full_network(), kind) for kind in ("Conv", "IN", "BN")}
    assert sizes == {"Conv": 93_024_448, "IN": 3_584, "BN": 60_288}


def test_other_targets_and_metrics_stand_without_the_papers_numbers(rows_3, rows_4, rows_5, net):
    folder = {name: random_rows(name, runs, ("my_folder",)) for name, runs in (
        ("table_3", TABLE_3), ("table_4", TABLE_4), ("table_5", TABLE_5["alone"]))}
    for table in (tables.table_3(folder["table_3"]), tables.table_4(folder["table_4"], net),
                  tables.table_5(folder["table_5"])):
        assert "paper" not in table.to_string() and "my_folder" in table.to_string()
    for table in (tables.table_3(rows_3, "mAP"), tables.table_4(rows_4, net, "mAP"), tables.table_5(rows_5, "mAP")):
        assert "paper" not in table.to_string()
    assert "paper" not in tables.gains(folder["table_4"]) and "paper" not in tables.gains(rows_5, "mAP")


def test_gain_is_over_the_same_training_unadapted(rows_3):
    gains = tables.gains(rows_3)
    assert len(gains) == 7 * 3
    row = gains.query("method == 'train id+mat; tta mat' and target == 'VIPeR'").iloc[0]
    assert row["against"] == "train id+mat; tta none"
    difference = splits_of(rows_3, "VIPeR", row["method"]) - splits_of(rows_3, "VIPeR", row["against"])
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["paper"] == pytest.approx(55.6 - 52.3)
    assert gains.loc[gains["target"] != "VIPeR", "paper"].isna().all()


def test_printed_gains_name_rows_in_the_papers_words(rows_3, rows_5):
    printed = tables.paired_table(tables.gains(rows_3))
    assert "trained by L_id+L_mat, adapted by L_mat^tta" in set(printed["method"])
    assert "trained by L_id+L_mat, not adapted" in set(printed["against"])
    printed = tables.paired_table(tables.gains(rows_5))
    assert set(printed["reading"]) == {"alone", "restore"} and {"μ+σ²", "γ"} < set(printed["method"])
    assert "table" not in printed


def test_readings_are_compared_where_both_were_measured(rows_5):
    table = tables.compare_readings(rows_5)
    assert table["method"].tolist() == ["mu", "var", "mu+var", "gamma", "beta", "gamma+beta"]
    assert set(table["target"]) == {"GRID"}
    alone, restore = (splits_of(rows_5[rows_5["table"] == name], "GRID", "beta")
                      for name in ("table_5", "table_5_restore"))
    assert table.set_index("method").loc["beta", "difference"] == pytest.approx((alone - restore).mean())


def test_why_table_sets_measurements_beside_the_gain():
    names = ["rate mean", "pos frozen", "pos adapted"]
    why = pd.DataFrame([{"target": t, "split": s, "what": w, "value": i + s}
                        for t in ("VIPeR", "GRID") for s in (0, 1) for i, w in enumerate(names)])
    shift = pd.DataFrame([
        {"target": t, "model": m, "index": i, "layer": f"bn{i}", "distance": d}
        for t in ("VIPeR", "GRID")
        for m, distances in (("frozen", (1.0, 3.0)), ("adapted", (0.5, 3.5)))
        for i, d in enumerate(distances, 1)])
    table = tables.why_table(pd.DataFrame({"target": ["VIPeR", "GRID"], "difference": [1.5, -2.0]}), why, shift)
    assert table.index.tolist() == ["VIPeR", "GRID"]
    assert table.loc["GRID", "difference"] == -2
    assert table.loc["VIPeR", "rate mean"] == 0.5  # the mean over splits
    assert table.loc["VIPeR", ["distance frozen", "distance adapted", "layers closer"]].tolist() == [2, 2, 50]


def test_verdicts_of_trainings_stand_in_the_printed_table(rows_3):
    training = rows_3["method"].str.split("; ").str[0]
    needed = tables.compare_cited(rows_3.assign(training=training, weights=training), [
        ("train id+pos+mat; tta pos+mat", "train id+mat; tta mat")])
    assert set(needed["reason"]) == {stats.ONE_EACH} and set(needed["verdict"]) == {stats.OPEN}
