import json
import os
import subprocess
import sys
import time
from random import Random

import pandas as pd
import pytest
import torch

from bnta_lib.suite import store as results
from bnta_lib.suite.store import measured


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """A measurement that counts how often it is made; the cache is a folder of its own."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))

    def made():
        made.times += 1
        return [{"metric": "R1", "value": 1 / 3}, {"metric": "mAP", "value": float("nan")}]

    made.times = 0
    made.file = lambda: next((tmp_path / "results" / "any" / "trial").glob("*.json"))
    return made


def test_a_row_is_measured_once_and_reads_the_same(measure):
    first = measured("trial", {"seed": 0}, measure)
    second = measured("trial", {"seed": 0}, measure)
    assert measure.times == 1
    assert first.equals(second) and first["value"][0] == 1 / 3


def test_another_key_is_measured_by_itself(measure):
    measured("trial", {"seed": 0}, measure)
    measured("trial", {"seed": 1}, measure)
    measured("other", {"seed": 0}, measure)
    assert measure.times == 3


def test_another_code_is_measured_again(measure, monkeypatch):
    measured("trial", {}, measure)
    monkeypatch.setattr(results, "code_digest", lambda module: "changed")
    measured("trial", {}, measure)
    assert measure.times == 2


def edited(path):
    stored = json.loads(path.read_text())
    stored["rows"][0]["value"] = 99.0
    path.write_text(json.dumps(stored))


def truncated(path):
    path.write_text(path.read_text()[:-20])


def emptied(path):
    path.write_text("")


def other(path):
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [edited, truncated, emptied, other])
def test_a_damaged_row_is_measured_again_and_replaced(measure, damage):
    good = measured("trial", {}, measure)
    damage(measure.file())
    with pytest.warns(UserWarning, match="edited or cut short"):
        again = measured("trial", {}, measure)
    values = [*results.COLUMNS[:9]]
    assert again[values].equals(good[values])
    assert measured("trial", {}, measure).equals(again)
    assert measure.times == 2


def test_a_failed_measurement_leaves_no_row(measure, tmp_path):
    def fails():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        measured("trial", {}, fails)
    assert not list(tmp_path.rglob("*.json"))
    measured("trial", {}, measure)
    assert measure.times == 1


def test_a_row_says_what_was_measured_when_read_back(measure):
    about = {"profile": "smoke", "dataset": "dots", "split": 3, "seed": 1, "setting": "as it is"}
    row = measured("trial", {}, measure, **about).iloc[0]
    assert set(results.COLUMNS) == set(row.index)
    assert {name: row[name] for name in about} == about
    assert row["experiment"] == "trial" and row["seconds"] >= 0
    assert row["machine"] and row["code"] == results.code_digest("")[:12]


def test_the_store_lists_all_rows_and_names_damaged_files(measure, tmp_path):
    measured("trial", {"seed": 0}, measure, profile="smoke")
    measured("trial", {"seed": 1}, measure, profile="laptop")
    rows = results.stored()
    assert len(rows) == 4 and rows["current"].all()
    assert set(results.stored("smoke")["profile"]) == {"smoke"}
    truncated(next(tmp_path.rglob("laptop/trial/*.json")))
    with pytest.warns(UserWarning, match="1 files of the store"):
        assert len(results.stored()) == 2


def test_rows_of_earlier_code_are_told_from_those_of_today(measure, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(results, "code_digest", lambda module: "earlier")
        measured("trial", {}, measure)
    assert not results.stored()["current"].any()


def test_exported_rows_read_back_and_are_the_same_bytes(measure, tmp_path, capsys):
    measured("trial", {}, measure)
    results.main(["--export", str(tmp_path / "a.csv.gz")])
    results.main(["--export", str(tmp_path / "b.csv.gz")])
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    read = pd.read_csv(tmp_path / "a.csv.gz")
    assert read["value"].iloc[0] == 1 / 3 and list(read.columns) == [*results.COLUMNS]
    results.main([])
    assert "trial" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    (["--profile", "nope"], "unknown profile 'nope': choose one of smoke, laptop, paper"),
    (["--export", "rows.xlsx"], "end the name in .csv or .csv.gz, and not as rows.xlsx")])
def test_what_cannot_be_asked_of_the_store_is_said_in_a_line(measure, arguments, words, tmp_path):
    measured("trial", {}, measure)
    with pytest.raises(SystemExit, match=words) as stopped:
        results.main(arguments)
    assert "\n" not in str(stopped.value)


def test_an_empty_store_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="empty"):
        results.main([])


def test_a_row_carries_the_digests_of_its_data_and_weights(measure):
    key = {"data": "d" * 64, "model": "m" * 64}
    for _ in range(2):  # measured, then read back
        row = measured("trial", key, measure).iloc[0]
        assert (row["data"], row["weights"]) == ("d" * 12, "m" * 12)
    path = measure.file()
    held = json.loads(path.read_text())  # as earlier code wrote it, which knew no such columns
    rows = [{k: v for k, v in row.items() if k not in ("data", "weights")} for row in held["rows"]]
    path.write_text(json.dumps({"key": held["key"], "rows": rows,
                                "digest": results._digest(held["key"], rows)}))
    assert measured("trial", key, measure).iloc[0]["weights"] == "m" * 12
    assert measure.times == 1


def origins(**own) -> pd.DataFrame:
    about = {"experiment": "table_2", "profile": "laptop", "target": "VIPeR", "code": "c1", "data": "d1",
             "weights": "w1", "setting": "training bnta, adaption none"}
    return pd.DataFrame([{**about, **own}])


@pytest.mark.parametrize("other, words", [
    ({"profile": "paper"}, "2 different profile .laptop, paper."),
    ({"code": "c2"}, "of the experiment table_2 are of 2 different code .c1, c2."),
    ({"data": "d2"}, "of the target VIPeR are of 2 different data .d1, d2."),
    ({"weights": "w2", "target": "GRID"}, "of the training bnta are of 2 different weights .w1, w2."),
    ({"weights": "w2", "setting": "training bnta, adaption bnta, K=3"}, "different weights")])
def test_rows_of_different_origin_are_refused_by_name(other, words):
    with pytest.raises(ValueError, match=words):
        results.refuse_mixed(pd.concat([origins(), origins(**other)]))


@pytest.mark.parametrize("other", [
    {"target": "GRID", "data": "d2"}, {"experiment": "headroom", "code": "c2"},
    {"setting": "training baseline, adaption none", "weights": "w2"},
    {"data": "", "weights": None}])  # not from the store
def test_rows_that_belong_together_are_not_refused(other):
    results.refuse_mixed(pd.concat([origins(), origins(**other)]))


def test_a_value_that_is_no_number_or_of_another_unit_is_averaged():
    rows = origins().assign(value=1.0, unit="%", metric="R1")
    results.refuse_mixed(pd.concat([rows, rows.assign(metric="seconds", unit="s")]))
    for broken in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="hold no number, for one that of .*VIPeR"):
            results.refuse_mixed(pd.concat([rows, rows.assign(value=broken)]))
    with pytest.raises(ValueError, match="of the metric R1 are of 2 different unit"):
        results.refuse_mixed(pd.concat([rows, rows.assign(unit="")]).assign(unit=["%"] * len(rows) + ["1"] * len(rows)))


def test_a_file_of_the_store_counts_twice_or_for_another_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    measured("table", {"data": "d", "settings": {"K": 2, "lr": 5e-4}}, lambda: [{"metric": "R1", "value": 1.0}],
             profile="smoke")
    measured("empty", {"data": "d"}, list, profile="smoke")
    file, = (tmp_path / "results" / "smoke" / "table").glob("*.json")
    for place in (f"smoke/table/{'0' * 24}.json", f"laptop/table/{file.name}", f"smoke/other/{file.name}"):
        copy = tmp_path / "results" / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        with pytest.warns(UserWarning, match=f"1 files of the store were edited, cut short or moved, for one {copy.name}"):
            kept = results.stored()
        assert kept[["profile", "experiment"]].values.tolist() == [["smoke", "table"]]
        copy.unlink()
    assert len(results.stored("smoke")) == 1


SWEEP = """
import sys, time
from bnta_lib.suite.store import measured
for seed in range(40):
    def measure():
        time.sleep(0.02)
        print(seed, flush=True)
        return [{"metric": "R1", "value": seed / 7}]
    measured("sweep", {"seed": seed}, measure, seed=seed)
"""


@pytest.mark.parametrize("trial", range(3))
def test_a_killed_sweep_goes_on_without_losing_a_finished_row(tmp_path, trial):
    """SIGKILL at a random moment, again and again: no seed is finished twice."""
    random, environment = Random(trial), {**os.environ, "BNTA_CACHE": str(tmp_path)}
    folder, counts = tmp_path / "results" / "any" / "sweep", []
    command = [sys.executable, "-c", SWEEP]
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(random.randint(2, 9)):  # it has begun to measure, for the second time at least
            process.stdout.readline()
        time.sleep(random.random() / 50)
        process.kill()
        process.communicate()
        counts.append(len(list(folder.glob("*.json"))))
    assert 0 < counts[0] <= counts[1] <= counts[2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 40 - counts[-1], "a finished row was measured again"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == ""
    assert len(list(folder.glob("*.json"))) == 40


def test_a_measurement_is_read_back_under_the_key_of_another(measure):
    measured("trial", {"seed": 0}, measure)
    theirs = measure.file()
    measured("trial", {"seed": 1}, measure)
    (mine,) = {*theirs.parent.glob("*.json")} - {theirs}
    mine.write_bytes(theirs.read_bytes())
    with pytest.warns(UserWarning, match="is of another measurement: it is measured again"):
        measured("trial", {"seed": 1}, measure)
    assert measure.times == 3 and json.loads(mine.read_text())["key"]["seed"] == 1


def test_code_that_runs_is_stored_as_what_the_files_became_meanwhile(monkeypatch):
    before = results.code_digest()
    other = {name: text + b"# edited" if name == "adapters" else text for name, text in results._LOADED.items()}
    monkeypatch.setattr(results, "_LOADED", other)  # as if the files had been so when this process began
    assert results.code_digest() != before, "it looks at the files as they are now"
    monkeypatch.setitem(sys.modules, "IPython.extensions.autoreload", results)  # it runs what they are now
    assert results.code_digest() == before


@pytest.mark.parametrize("switch", ["oneDNN", "dtype", "matmul"])
def test_a_switch_of_rounding_is_in_no_key(measure, switch):
    measured("trial", {}, measure)
    was = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with torch.backends.mkldnn.flags(enabled=switch != "oneDNN"):
        try:
            torch.set_default_dtype(torch.float64 if switch == "dtype" else was[0])
            torch.set_float32_matmul_precision("medium" if switch == "matmul" else was[1])
            measured("trial", {}, measure)
        finally:
            torch.set_default_dtype(was[0])
            torch.set_float32_matmul_precision(was[1])
    assert measure.times == 2
    measured("trial", {}, measure)
    assert measure.times == 2


def test_rows_of_a_method_with_two_settings_are_averaged():
    one = origins(method="BNTA", setting="training bnta, adaption bnta")
    other = origins(method="BNTA", setting="training bnta, adaption bnta, tta_lr=0.05")
    with pytest.raises(ValueError, match="of the row BNTA .*2 different setting.*tta_lr=0.05"):
        results.refuse_mixed(pd.concat([one, other]))
    results.refuse_mixed(pd.concat([one, other.assign(method="faster")]))


def test_rows_of_other_probes_or_switches_are_averaged(measure):
    shared = {"profile": "smoke", "dataset": "VIPeR", "split": 0, "setting": "training bnta, adaption none"}
    rows = [measured("table_2", {"data": "d", "model": "w", "probe": probe, "gallery": [3, 4]}, measure, **shared)
            for probe in ([1, 2], [5, 6])]
    with pytest.raises(ValueError, match="split of a target 0 of VIPeR in table_2 are of 2 different sample"):
        results.refuse_mixed(pd.concat(rows))
    for apart in ({"split": 1}, {"experiment": "table_3"}):
        results.refuse_mixed(pd.concat([rows[0], rows[1].assign(**apart)]).dropna(subset="value"))
    torch.use_deterministic_algorithms(True)
    try:
        other = measured("table_2", {"data": "d", "model": "w", "probe": [1, 2], "gallery": [3, 4]}, measure, **shared)
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(ValueError, match="2 different sample"):
        results.refuse_mixed(pd.concat([rows[0], other]))
    kept = results.stored("smoke")
    assert kept["sample"].nunique() == 3 and set(kept["sample"]) == set(pd.concat([*rows, other])["sample"])


def test_rows_of_a_users_own_folder_are_exported(measure, tmp_path, capsys):
    for dataset in ("VIPeR", "VIPeR, published", "our shop, own folder"):
        measured("trial", {"data": dataset}, measure, profile="smoke", dataset=dataset)
    results.main(["--profile", "smoke", "--export", str(tmp_path / "rows.csv")])
    assert "own folders" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "rows.csv")["dataset"]) == {"VIPeR", "VIPeR, published"}
