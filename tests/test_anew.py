"""Recorded rows measured again: what is drawn, what is compared, and what lies too far apart."""

import gzip

import pandas as pd
import pytest

from bnta_lib.suite import anew, store
from bnta_lib.suite.runner import measure
from bnta_lib.suite.specs import CHOICES, TABLE_2, Spec, Table
from conftest import lab_of

PARTS = {"table_2": (Table(TABLE_2[:3]),), "open_choices": (Table(CHOICES["epochs"].values, seeds=1),)}
HEADROOM = Table((Spec("off", adapter="none", labels={"part": "target"}),), experiment="headroom")


@pytest.fixture(scope="module")
def recorded(tiny, tiny_models, dots, tmp_path_factory):
    """A lab of a target of two splits, and the file of its recorded rows: two tables and a headroom."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anew, "TABLES", PARTS)
        patch.setattr(store, "recorded_path", lambda profile: folder / "rows.csv.gz")
        patch.setenv("BNTA_CACHE", str(folder))
        lab = lab_of(tiny, tiny_models, {"dots": dots}, [dots.data])
        lab.plan_headroom = lambda: [lab.plan([HEADROOM], lab.targets)]
        for plan in (*(lab.plan(parts, lab.targets) for parts in PARTS.values()), *lab.plan_headroom()):
            measure(*plan, False, "rows")
        store.export(folder / "rows.csv.gz", "smoke")
        yield lab, folder / "rows.csv.gz"


@pytest.fixture(autouse=True)
def new_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))


def measured_here() -> pd.DataFrame:
    with store.open_store() as opened:
        rows = opened.rows()
    return rows[rows["recorded"] == 0]


def test_sample_is_table_2_on_one_split_and_one_in_fifty_of_the_rest(recorded):
    lab, _ = recorded
    compared, new = anew.measure_again(lab, False, seed=3)
    rows, drawn = measured_here(), set(compared["key"])
    measurer, units = lab.plan(PARTS["table_2"], lab.targets)
    keys = pd.Series([store.key_of(measurer.columns(unit)) for unit in units], [unit.split for unit in units])
    wholes = [set(keys[split]) for split in (0, 1)]
    assert [*map(len, wholes)] == [4, 4] and any(whole <= drawn for whole in wholes)
    # One more of the ten other units of tables, and one of the two of the headroom.
    assert set(rows["key"]) == drawn and len(drawn) == 4 + 1 + 1
    assert set(rows["experiment"]) == {"retrieval", "headroom"}
    assert compared["difference"].max() == 0 and compared["within"].all()
    assert new == 6 and anew.measure_again(lab, False, seed=3)[1] == 0
    assert set(anew.measure_again(lab, False, seed=3)[0]["key"]) == drawn
    assert any(set(anew.measure_again(lab, False, seed=seed)[0]["key"]) != drawn for seed in range(3))


def test_all_units_are_measured_again_and_once(recorded, monkeypatch):
    lab, path = recorded
    compared, new = anew.measure_again(lab, True, seed=0)
    assert len(measured_here()) == len(pd.read_csv(path)) and new == compared["key"].nunique()
    monkeypatch.setattr("bnta_lib.suite.runner.Measurer.measure", lambda *_: pytest.fail("measured twice"))
    again, new = anew.measure_again(lab, True, seed=0)
    assert sorted(again["measured"]) == sorted(compared["measured"]) and new == 0


def test_units_that_are_not_recorded_are_measured_first_and_not_compared(recorded, monkeypatch):
    """Sets that another processor renders otherwise, or an adapter of one's own."""
    lab, path = recorded
    rows = pd.read_csv(path)
    other = path.with_name("part.csv.gz")
    part = rows[rows["adapter"] == "none"]
    other.write_bytes(gzip.compress(part.to_csv(index=False).encode()))
    monkeypatch.setattr(store, "recorded_path", lambda profile: other)
    monkeypatch.setattr(anew, "recorded_path", lambda profile: other)
    monkeypatch.setattr(anew, "Lab", lambda profile: lab)
    assert anew.measure_first("smoke", "none") == ("", True)
    assert len(measured_here()) == len(rows) - len(part)
    words, held = anew.measure_first("smoke", "all")
    assert held and "Largest difference: mAP 0, rank 1 0," in words
    assert len(measured_here()) == len(rows)


@pytest.mark.parametrize("metric, apart, within", [
    ("R1", 8.4, True), ("R1", 16.7, False), ("mAP", 0.04, True), ("mAP", 0.06, False)])
def test_recorded_numbers_that_are_too_far_away_are_counted(recorded, monkeypatch, metric, apart, within):
    lab, path = recorded
    rows = pd.read_csv(path)
    rows.loc[(rows["metric"] == metric) & (rows["adapter"] == "none"), "value"] += apart
    other = path.with_name("other.csv.gz")
    other.write_bytes(gzip.compress(rows.to_csv(index=False).encode()))
    monkeypatch.setattr(store, "recorded_path", lambda profile: other)
    compared, new = anew.measure_again(lab, False, seed=0)
    assert compared["within"].all() == within
    assert compared["difference"].max() == pytest.approx(apart)
    assert anew.summary(compared, new).endswith(f"): {(~compared['within']).sum()}.")


def test_layers_of_gamma_may_differ_but_for_a_few():
    rows = pd.DataFrame({"key": "k", "experiment": "changes", "metric": "rate gamma", "unit": "%",
                         "number": range(20), "value": 1.0})
    for moved, within in ((2, True), (3, False)):
        other = rows.assign(value=rows["value"] + 0.5 * (rows["number"] < moved))
        assert anew.differences(other, rows, {"k": 6})["within"].all() == within
        means = (table.assign(metric="rate mean") for table in (other, rows))
        assert not anew.differences(*means, {"k": 6})["within"].all()
    assert not anew.differences(rows[:3], rows, {"k": 6})["within"].all(), "numbers are missing"
