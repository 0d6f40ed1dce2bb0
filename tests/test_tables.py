import html
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnta_lib import BNTANet, settings
from bnta_lib.suite import report, tables
from bnta_lib.suite.ablations import TABLE_3, TABLE_4, TABLE_5


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


def test_rows_that_are_there_twice_or_on_other_splits_are_averaged(rows):
    tables.summarise(rows)
    with pytest.raises(ValueError, match="these rows are there twice, for one BNTA VIPeR R1 3"):
        again = rows.query("method == 'BNTA' and target == 'VIPeR' and metric == 'R1' and split == 3")
        tables.summarise(pd.concat([rows, again.assign(value=99.0)]))
    with pytest.raises(ValueError, match="on different splits of VIPeR .Baseline 6, BNTA w/o TTA 6, BNTA 5."):
        tables.summarise(rows.query("not (method == 'BNTA' and target == 'VIPeR' and split == 0)"))


@pytest.mark.parametrize("made", [
    tables.table_2, lambda rows: tables.paired_tests(rows, "Baseline")])
def test_a_table_refuses_to_mix_what_other_weights_gave(rows, made):
    setting = rows["method"].map({"Baseline": "training baseline, adaption none",
                                  "BNTA w/o TTA": "training bnta, adaption none",
                                  "BNTA": "training bnta, adaption bnta"})
    rows = rows.assign(setting=setting, weights=setting.str.split(",").str[0])
    made(rows)
    rows.loc[rows["split"] == 5, "weights"] += " of last week"
    with pytest.raises(ValueError, match="training b.* 2 different weights .*of last week"):
        made(rows)


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


def test_a_difference_of_rounding_is_a_tie():
    ours = [[30 + 7e-15], [0.1 + 0.2], [31], [29]]
    rows = tidy({("iLIDS", "BNTA"): ours, ("iLIDS", "Baseline"): [[30], [0.3], [30], [30]]})
    assert tables.paired_test(rows, "BNTA", "Baseline").iloc[0]["better"] == 1
    assert tables.paired_test(rows, "Baseline", "BNTA").iloc[0]["better"] == 1


@pytest.mark.parametrize("value, unit, text", [
    (-0.04, "points", "0.0"), (0.04, "points", "0.0"), (-0.06, "points", "-0.1"), (1, "points", "+1.0"),
    (0.0069, tables.RATE, "+0.0069"), (-0.836, tables.RATE, "-0.84"), (4.84, tables.RATE, "+4.8"),
    (0.0, tables.RATE, "0.0"), (1.77, "s", "1.8"), (-0.04, "s", "0.0"), (98.3, tables.SHARE, "98.3")])
def test_a_printed_number_is_neither_minus_zero_nor_rounded_away(value, unit, text):
    assert tables.in_unit(value, unit) == text


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
    own = tables.table_2(rows[rows["target"] == "VIPeR"].assign(target="my_folder"))
    assert own.loc[("here, measured", "BNTA"), ("my_folder", "R1")]


def test_the_note_on_dualnorm_is_arithmetic_on_its_row():
    cited = tables.paper_table_2().loc["DualNorm"]
    for target in ("VIPeR", "GRID", "iLIDS"):
        standard = 2 * cited[target, "mAP"] - cited[target, "R1"]  # of the trapezoidal one
        assert f"{cited[target, 'mAP']:.1f}" in tables.DUALNORM_NOTE
        assert f"{standard:.1f}" in tables.DUALNORM_NOTE


def test_a_table_says_no_other_splits_seeds_and_images_than_its_own(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(tables, "figures_dir", lambda run: tmp_path)
    one = rows.query("split == 0 and seed == 0")
    assert tables.counts_sentence(one) == "Measured over split 0; adaption seed 0."
    uneven = rows[(rows["target"] == "GRID") | (rows["split"] == 1) & (rows["seed"] == 0)]
    assert tables.counts_sentence(uneven).startswith("Measured over splits: VIPeR 1, GRID 6")
    assert "adaption seeds: VIPeR 1, GRID 2" in tables.counts_sentence(uneven)
    heads = pd.DataFrame({"set": ["a", "a", "b", "b"], "split": [0, 1, 0, 1]})
    assert tables.counts_sentence(heads) == "Measured over 2 splits."
    numbers = pd.DataFrame({"people": [316]})
    for run, images, said in (("smoke", None, "Profile smoke, rendered"), ("smoke_own-1", None, "images of the folder"),
                              ("smoke_own-1", tables.RENDERED, "Profile smoke, rendered"), ("laptop", "", "Profile laptop.")):
        text = tables.save_table(numbers, "t", run, images=images)[1].read_text()
        assert said in text and "splits" not in text and "±" not in text
        assert images is None or "folder" not in text


def test_saved_tables_and_rows_read_back(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "figures_dir", lambda profile: tmp_path / profile)
    paths = tables.save_table(tables.table_2(rows), "table_2", "smoke", "A note.", rows)
    assert [path.name for path in paths] == ["table_2.csv", "table_2.md", "table_2.tex"]
    text = paths[1].read_text()
    assert "| VIPeR R1" in text and "\nA note.\n\nProfile smoke, rendered counterparts" in text
    assert "nothing of the method. Measured over 6 splits; 2 adaption seeds. ±: the standard" in text
    assert re.match(r"% A note\.\n% \n% Profile smoke.*\n\\begin\{tabular\}", paths[2].read_text())
    assert len(pd.read_csv(paths[0], header=[0, 1], index_col=[0, 1])) == len(tables.table_2(rows))
    zero = tables.save_table(pd.DataFrame({"points": [-0.04], "of": ["a"]}).round(1), "zero", "smoke")
    assert "-0.0" not in "".join(path.read_text() for path in zero)
    path = tables.save_rows(rows, "table_2_rows", "smoke")
    assert pd.read_csv(path)["value"].to_numpy() == pytest.approx(rows["value"], abs=1e-6)


NAMES = ["![a](https:&sol;&sol;evil.example&sol;x.png)", "<img src=x>", "*a* _b_ __c__ **d** ~~e~~ `f`", "a|b", "a\\|b",
         r"$\text{x}$ \(y\) \[z\] \begin{a}b\end{a}", "&lt; &#42;", "[a](b) [c]", "two\nlines", "\\", "<!-- a", "$$a$$"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_a_folders_name_is_followed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tables, "figures_dir", lambda profile: tmp_path)
    table = pd.DataFrame({(name, "R1"): ["1"], (name, "of"): [name]}, index=pd.Index([name], name="set"))
    text = tables.save_table(table, "t", "smoke", f"On {name}.")[1].read_text()
    shown = report.markdown_html(text)
    assert not set(re.findall(r"<(\w+)", shown)) - {*"table thead tbody tr th td p".split()}
    line = " ".join(name.split())
    cells = [html.unescape(cell) for cell in re.findall("<t[dh](?: [^>]*)?>(.*?)</t[dh]>", shown)]
    assert cells == ["set", line, "R1", "of", line, "1", line]
    assert name == NAMES[8] or f"<p>On {line}.</p>" in html.unescape(shown)


def test_escapes_are_written_where_nothing_is_markup():
    """All tables of the committed run keep their bytes."""
    words = [word for path in sorted((tables.ROOT / "figures" / "laptop").glob("*.md"))
             for line in path.read_text().splitlines()
             for word in (line.split("|") if line.startswith("|") else [line])]
    words += ["L_mat^tta", "57.7 ± 2.1 %", "a < b", "R&D", "(x - y)! #1", "cam{1}"]
    assert len(words) > 1000 and [word for word in words if tables._as_text(word) != word] == []
    table = pd.DataFrame([[1, 2.5, "x", True], [3, None, None, False]], columns=["a", "a", 7, "b"])
    table["n"] = pd.array([1, None], dtype="Int64")
    assert tables.markdown(table) == table.reset_index(names="").to_markdown(index=False, disable_numparse=True)


def test_saved_rows_are_the_same_bytes_on_another_machine(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "figures_dir", lambda profile: tmp_path / profile)
    scores = rows.assign(unit="%")
    timed = scores.iloc[:3].assign(metric="pairing", unit="s")
    one = pd.concat([scores, timed]).assign(machine="one", code="1f", seconds=1.0)
    two = pd.concat([scores, timed.assign(value=9.0)]).assign(machine="two", code="2e", seconds=2.0)
    first = tables.save_rows(one, "rows", "smoke").read_bytes()
    assert tables.save_rows(two, "rows", "smoke").read_bytes() == first
    assert len(first.splitlines()) == 1 + len(scores)


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


def ablation(experiment: str, runs, targets=("VIPeR", "GRID", "iLIDS"), seed: int = 0):
    """Random rows of a table: six splits, two seeds where a run is adapted."""
    random = np.random.default_rng(seed)
    values = {(t, run.method): random.uniform(10, 60, (6, 1 if run.adapter == "none" else 2)).tolist()
              for t in targets for run in runs}
    return tidy(values).assign(experiment=experiment)


def splits_of(rows, target, method):
    """Rank 1 by split, seeds averaged, without pandas' grouping."""
    own = rows[(rows["target"] == target) & (rows["method"] == method) & (rows["metric"] == "R1")]
    return np.array([own[own["split"] == s]["value"].to_numpy().mean() for s in range(6)])


def as_text(values):
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


@pytest.fixture(scope="module")
def rows_3():
    return ablation("table_3", TABLE_3)


@pytest.fixture(scope="module")
def rows_4():
    return ablation("table_4", TABLE_4)


@pytest.fixture(scope="module")
def rows_5():
    return pd.concat([ablation("table_5", TABLE_5["alone"]),
                      ablation("table_5_restore", TABLE_5["restore"], ("GRID",), seed=1)])


@pytest.fixture(scope="module")
def net():
    return BNTANet(7, settings("smoke", base_width=4, local_dim=8))


def block(table, heading, target):
    """One block of Table 3."""
    levels = [table.index.get_level_values(i) for i in (0, 1)]
    return table[(levels[0] == heading) & (levels[1] == target)].droplevel([0, 1])


def test_table_3_is_the_papers_matrix(rows_3):
    table = tables.table_3(rows_3)
    assert table.columns.tolist() == ["None", "L_pos", "L_mat^tta", "L_pos, L_mat^tta"]
    assert table.index.droplevel(2).unique().tolist() == [
        ("paper, cited", "VIPeR"), ("here, measured", "VIPeR"), ("here, measured", "GRID"),
        ("here, measured", "iLIDS")]
    cited = block(table, "paper, cited", "VIPeR")
    assert cited.index.tolist() == ["L_id", "L_pos", "L_mat", "L_id, L_pos", "L_id, L_mat",
                                    "L_id, L_pos, L_mat"]
    assert cited.to_numpy().tolist() == [  # the paper's page 6
        ["50.9", "–", "–", "–"], ["21.6", "21.3", "–", "–"], ["48.2", "–", "51.8", "–"],
        ["52.6", "52.8", "–", "–"], ["52.3", "–", "55.6", "–"], ["52.8", "53.3", "56.8", "57.4"]]
    ours = block(table, "here, measured", "GRID")
    assert (ours == "–").equals(cited == "–"), "other cells than the paper's are filled"
    assert ours.loc["L_id, L_mat", "L_mat^tta"] == as_text(
        splits_of(rows_3, "GRID", "train id+mat; tta mat"))
    assert ours.loc["L_id, L_pos, L_mat", "L_pos"] == as_text(
        splits_of(rows_3, "GRID", "train id+pos+mat; tta pos"))


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


def test_table_4_sets_cited_and_measured_apart(rows_4, net):
    table = tables.table_4(rows_4, net)
    assert table.index.tolist() == ["None", "Conv", "IN", "Conv+IN", "BN", "BN+Conv", "BN+IN",
                                    "BN+Conv+IN"]
    assert table["paper, cited"].loc[["None", "BN", "BN+IN"]].to_numpy().tolist() == [
        ["–", "42.9"], ["60K", "51.1"], ["93K", "50.9"]]
    ours = table["here, measured"]
    assert ours.columns.tolist() == ["GRID R1", "VIPeR R1", "iLIDS R1"]
    assert ours.loc["BN+IN", "iLIDS R1"] == as_text(splits_of(rows_4, "iLIDS", "BN+IN"))


def test_what_conv_moves_is_what_adaption_frees(net):
    from bnta_lib.adaption import configure_model

    note = tables.table_4_note(net)
    modes = [(p, p.requires_grad) for p in net.parameters()]
    free = configure_model(net, {}, ("conv",), (), True, 0.1)
    for parameter, before in modes:
        parameter.requires_grad_(before)
    assert f"Conv moves {sum(p.numel() for p in free):,} here" in note
    assert "63,872" in note and "42.9" in note and "42.4" in note
    own = tables.table_4_note(net, cited=False)
    assert "misprint" not in own and "42.9" not in own and "93,024,448" in own
    assert "60,288 bytes" not in own  # BN of this network has fewer
    assert "60,288 bytes here" in tables.table_4_note(BNTANet(7, settings("laptop")))


def test_table_5_never_mixes_the_two_readings(rows_5):
    table = tables.table_5(rows_5)
    assert table.columns.tolist() == [
        ("paper, cited", "GRID"), ("here, measured: alone", "GRID"),
        ("here, measured: alone", "VIPeR"), ("here, measured: alone", "iLIDS"),
        ("here, measured: restore", "GRID")]
    for experiment in ("table_5", "table_5_restore"):
        own = rows_5[rows_5["experiment"] == experiment]
        column = table[f"here, measured: {tables.reading_of(experiment)}", "GRID"]
        assert column["μ, σ²"] == as_text(splits_of(own, "GRID", "mu+var"))
    assert table["paper, cited", "GRID"].tolist() == [
        "42.4", "44.9", "43.5", "45.2", "47.5", "46.8", "48.8", "51.1"]


def test_a_users_folder_stands_without_the_papers_numbers(net):
    def own(experiment, runs):
        return ablation(experiment, runs, ("my_folder",))

    for table in (tables.table_3(own("table_3", TABLE_3)), tables.table_4(own("table_4", TABLE_4), net),
                  tables.table_5(own("table_5", TABLE_5["alone"]))):
        assert "paper" not in tables.markdown(table) and "my_folder" in tables.markdown(table)
    assert "paper" not in tables.gains(own("table_4", TABLE_4))


def test_another_metric_stands_without_the_papers_rank_1(rows_3, rows_4, rows_5, net):
    for table in (tables.table_3(rows_3, "mAP"), tables.table_4(rows_4, net, "mAP"),
                  tables.table_5(rows_5, "mAP")):
        assert "paper" not in tables.markdown(table)
    assert "paper" not in tables.gains(rows_5, "mAP")


def test_a_gain_is_over_the_same_training_unadapted(rows_3):
    gains = tables.gains(rows_3)
    assert len(gains) == 7 * 3
    row = gains.query("method == 'train id+mat; tta mat' and target == 'VIPeR'").iloc[0]
    assert row["against"] == "train id+mat; tta none"
    difference = (splits_of(rows_3, "VIPeR", row["method"])
                  - splits_of(rows_3, "VIPeR", row["against"]))
    oracle = stats.ttest_1samp(difference, 0)
    assert (row["difference"], row["p"]) == pytest.approx((difference.mean(), oracle.pvalue))
    assert row["paper"] == pytest.approx(55.6 - 52.3)
    assert gains.loc[gains["target"] != "VIPeR", "paper"].isna().all()


def test_gains_of_the_two_readings_are_kept_apart(rows_5):
    gains = tables.gains(rows_5).query("target == 'GRID' and method == 'gamma'")
    assert gains["experiment"].tolist() == ["table_5", "table_5_restore"]
    for _, row in gains.iterrows():
        own = rows_5[rows_5["experiment"] == row["experiment"]]
        difference = splits_of(own, "GRID", "gamma") - splits_of(own, "GRID", "None")
        assert row["difference"] == pytest.approx(difference.mean())
    assert gains["paper"].tolist() == pytest.approx([5.1, 5.1])


def test_printed_gains_name_rows_in_the_papers_words(rows_3, rows_5):
    text = tables.markdown(tables.paired_table(tables.gains(rows_3)))
    assert "| trained by L_id+L_mat, adapted by L_mat^tta" in text and "tta mat" not in text
    printed = tables.paired_table(tables.gains(rows_5))
    assert set(printed["reading"]) == {"alone", "restore"} and "μ+σ²" in set(printed["method"])
    assert "mu" not in tables.markdown(printed).replace("number", "") and "experiment" not in printed


def test_a_small_p_is_never_printed_as_zero(rows_3):
    tests = tables.gains(rows_3).assign(p=3e-7)
    tests.loc[tests.index[0], "p"] = np.nan
    text = tables.markdown(tables.paired_table(tests).round(2))
    assert text.count("3e-07") == len(tests) - 1 and text.splitlines()[2].count("nan") >= 1


def test_the_note_says_how_many_adaption_seeds_each_target_has(rows_4):
    fewer = rows_4[(rows_4["target"] == "GRID") | (rows_4["seed"] == 0)]
    said = tables.seeds_sentence(fewer)
    assert "2 on GRID, the paper's target, 1 on VIPeR and iLIDS" in said and "Table 2" in said
    assert tables.seeds_sentence(rows_4) == "Adaption seeds averaged: 2."


def test_readings_are_compared_where_both_were_measured(rows_5):
    found = tables.compare_readings(rows_5)
    assert found["method"].tolist() == ["mu", "var", "mu+var", "gamma", "beta", "gamma+beta"]
    assert set(found["target"]) == {"GRID"}
    alone, restore = (splits_of(rows_5[rows_5["experiment"] == e], "GRID", "beta")
                      for e in ("table_5", "table_5_restore"))
    row = found.set_index("method").loc["beta"]
    assert row["difference"] == pytest.approx((alone - restore).mean())


def test_a_tally_counts_only_intervals_clear_of_zero():
    tests = pd.DataFrame({"target": ["VIPeR"] * 4 + ["GRID"], "low": [1, -2, -1, np.nan, 0.1],
                          "high": [2, -1, 1, np.nan, 0.2]})
    assert tables.tally(tests) == [
        "VIPeR: better in 1, worse in 1, not resolved in 2 of 4 comparisons.",
        "GRID: better in 1, worse in 0, not resolved in 0 of 1 comparisons."]


def many_tables(rows, rows_3, rows_4, rows_5, net):
    odd = pd.DataFrame({("a_b & c", "50 %"): ["[1, 2]", "$x^2$ {#}"], ("~", "\\"): [1.5, np.nan],
                        ("é", "λ ≤ σ²"): [3, 4]}, index=pd.Index(["η_tta", "×"], name="K"))
    tests = tables.gains(rows_5).set_index("method")
    return [tables.table_2(rows), tables.table_3(rows_3), tables.table_4(rows_4, net),
            tables.table_5(rows_5), tests, odd]


def test_latex_rows_have_as_many_cells_as_there_are_columns(rows, rows_3, rows_4, rows_5, net):
    for table in many_tables(rows, rows_3, rows_4, rows_5, net):
        text = tables.latex(table)
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
        assert len(columns) == table.index.nlevels + table.shape[1]
        lines = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(lines) == len(table) + table.columns.nlevels
        for line in lines:
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells + sum(spans) - len(spans) == len(columns), line
            bare = re.sub(r"\\[{}$]", "", line)
            assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, line


def test_latex_reads_as_the_table_does(rows_3):
    text = tables.latex(tables.table_3(rows_3))
    assert text.isascii() and r"$L_{\mathrm{mat}}^{\mathrm{tta}}$" in text
    assert text.count("here, measured") == 1 and text.count("VIPeR") == 2, "labels repeat"
    assert as_text(splits_of(rows_3, "iLIDS", "train mat; tta mat")).replace("±", r"$\pm$") in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine")
def test_latex_compiles(rows, rows_3, rows_4, rows_5, net, tmp_path):
    body = "\n\n".join(map(tables.latex, many_tables(rows, rows_3, rows_4, rows_5, net)))
    page = (r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body
            + r"\end{document}")
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert made.returncode == 0, made.stdout[-2000:]
