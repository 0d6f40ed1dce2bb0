"""Tables 1-5: the paper's numbers as cited, ours beside them."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_stats import tidy

from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.suite import stats, tables
from bnta_lib.suite.specs import TABLE_3, TABLE_4, TABLE_5

TARGETS = ("VIPeR", "GRID", "iLIDS")


def random_rows(table: str, specs, targets=TARGETS, seed: int = 0):
    """Rows of a table: six splits, two seeds if a spec adapts, and no two numbers alike."""
    random = np.random.default_rng(seed)
    return pd.concat([
        tidy({(t, spec.method): random.uniform(10, 60, (6, 1 if spec.adapter == "none" else 2)).tolist()},
             table=table, training=spec.training, weights=spec.training, adapter=spec.adapter)
        for t in targets for spec in specs])


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
def rows_5():
    return pd.concat([random_rows("table_5", TABLE_5["alone"]),
                      random_rows("table_5_restore", TABLE_5["restore"], ("GRID",), seed=1)])


def test_table_1_counts_distractors_as_people():
    images = torch.zeros(5, 3, 4, 2, dtype=torch.uint8)
    data = ReIDSet("GRID", images, torch.tensor([1, 1, 0, 0, 0]), torch.tensor([1, 2, 2, 2, 2]))
    target = Target(data, (Split(torch.tensor([0]), torch.arange(1, 5)),))
    assert tables.table_1({"GRID": target})["here"].iloc[0].tolist() == [1, 4, 1, 4]


def test_ours_and_the_papers_rows_stand_under_their_own_headings():
    values = np.random.default_rng(0).normal(40, 3, (6, 2))
    rows = tidy({(t, "BNTA"): values.tolist() for t in ("VIPeR", "GRID")})
    table = tables.table_2(rows)
    cited, ours = table.loc["paper, cited"], table.loc["here, measured"]
    assert cited.loc["BNTA", ("VIPeR", "R1")] == "57.4" and cited.loc["BoT", ("VIPeR", "R5")] == "–"
    assert ours.loc["BNTA", ("VIPeR", "R1")] == as_text(values.mean(1))  # seeds first, then splits
    assert ours.loc["BNTA", ("iLIDS", "R1")] == ""  # not measured
    folder = tables.table_2(rows[rows["target"] == "VIPeR"].assign(target="my_folder"))
    assert folder.index.get_level_values(0).unique().tolist() == ["here, measured"]


def test_table_3_is_the_papers_matrix(rows_3):
    table = tables.table_3(rows_3)
    assert table.columns.tolist() == ["None", "L_pos", "L_mat^tta", "L_pos, L_mat^tta"]
    assert table.index.droplevel(2).unique().tolist() == [
        ("paper, cited", "VIPeR"), ("here, measured", "VIPeR"), ("here, measured", "GRID"),
        ("here, measured", "iLIDS")]
    cited, _, ours, _ = (block.droplevel([0, 1]) for _, block in table.groupby(level=[0, 1], sort=False))
    assert cited.index.tolist() == ["L_id", "L_pos", "L_mat", "L_id, L_pos", "L_id, L_mat",
                                    "L_id, L_pos, L_mat"]
    assert cited.to_numpy().tolist() == [  # the paper's page 6
        ["50.9", "–", "–", "–"], ["21.6", "21.3", "–", "–"], ["48.2", "–", "51.8", "–"],
        ["52.6", "52.8", "–", "–"], ["52.3", "–", "55.6", "–"], ["52.8", "53.3", "56.8", "57.4"]]
    assert (ours == "–").equals(cited == "–"), "other cells than the paper's are filled"
    assert ours.loc["L_id, L_mat", "L_mat^tta"] == as_text(splits_of(rows_3, "GRID", "train id+mat; tta mat"))


@pytest.mark.parametrize("target, metric", [("my_folder", "R1"), ("GRID", "mAP")])
def test_other_targets_and_metrics_stand_without_the_papers_numbers(target, metric):
    rows = {name: random_rows(name, specs, (target,)) for name, specs in (
        ("table_3", TABLE_3[-4:]), ("table_4", TABLE_4), ("table_5", TABLE_5["alone"]))}
    for table in (tables.table_3(rows["table_3"], metric), tables.table_4(rows["table_4"], metric),
                  tables.table_5(rows["table_5"], metric)):
        assert "paper" not in table.to_string() and target in table.to_string()
    assert "paper" not in tables.gains(rows["table_4"], metric)


def test_gain_is_over_the_same_training_unadapted(rows_3):
    gains = tables.gains(rows_3)
    assert len(gains) == 7 * 3
    row = gains.query("method == 'train id+mat; tta mat' and target == 'VIPeR'").iloc[0]
    assert row["against"] == "train id+mat; tta none"
    difference = splits_of(rows_3, "VIPeR", row["method"]) - splits_of(rows_3, "VIPeR", row["against"])
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["paper"] == pytest.approx(55.6 - 52.3)
    assert gains.loc[gains["target"] != "VIPeR", "paper"].isna().all()
    printed = tables.paired_table(gains)
    shown = printed.loc[("L_id+L_mat → L_mat^tta", "L_id+L_mat → None", "VIPeR")]
    assert shown["difference"] == f"{row['difference']:.2f}" and shown[tables.CITED] == "3.3"
    assert "–" in set(printed[tables.CITED]) and not printed.isna().any(axis=None)


def test_readings_of_table_5_are_told_apart(rows_5):
    printed = tables.paired_table(tables.gains(rows_5))
    readings, methods = (set(printed.index.get_level_values(name)) for name in ("reading", "method"))
    assert readings == {"alone", "restore"} and {"μ+σ²", "γ"} < methods


def test_printed_numbers_keep_what_decides():
    tests = pd.DataFrame({"target": list("abc"), "low": [-0.001, np.nan, -1e-16], "verdict": "not resolved",
                          "reason": ["", "no spread", ""]})
    printed = stats.printed(tests, ["target"])
    assert printed["low"].tolist() == ["-0.00", "–", "0.00"]
    assert printed.loc["b", "verdict"] == "not resolved (no spread)"
