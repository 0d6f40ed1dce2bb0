"""The results store: keys, recorded rows, and several processes."""

import gzip
import multiprocessing
import sqlite3
import time
from contextlib import closing, suppress
from random import Random

import numpy as np
import pandas as pd
import pytest

from bnta_lib.settings import METHOD_VERSION, ROOT, settings
from bnta_lib.suite import store as module
from bnta_lib.suite.specs import LATER, TABLE_2, Spec
from bnta_lib.suite.store import export, key_of, open_store

RECORDED = ROOT / "data" / "results" / "laptop.csv.gz"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))


def unit(spec=TABLE_2[2], **other) -> dict:
    return {"experiment": "retrieval", "profile": "smoke", "target": "dots", "split": 0, "seed": 0,
            **spec.columns(settings("smoke"), 12), "version": METHOD_VERSION, "data": "d", "weights": "w",
            "sample": "s", "seconds": 1.5, "machine": "m", "measured_on": "2026-01-01", "unit": "%"} | other


def rows_of(columns, values=(1 / 3, 0.1 + 0.2)) -> list[dict]:
    return [columns | {"metric": f"R{i}", "value": value} for i, value in enumerate(values)]


def test_rows_read_back_as_they_were_added_and_once():
    key = key_of(unit())
    with open_store() as store:
        store.add(key, rows_of(unit(), (1 / 3, float("nan"))))
        store.add(key, rows_of(unit(), (2.0, 2.0)))  # by another process, a moment later
        rows = store.rows([key])
        assert {*store.rows([key, "other"])["key"]} == {key}
    assert rows["value"][0] == 1 / 3 and np.isnan(rows["value"][1]) and len(rows) == 2
    assert rows["quantities"][0] == "mean+var+gamma+beta" and rows["layer"].tolist() == ["", ""]
    assert (rows["N"].dtype, rows["recorded"].tolist()) == (np.int64, [0, 0])


@pytest.mark.parametrize("other", [
    unit(Spec("x", options={"K": 3})), unit(Spec("x", N=10)), unit(Spec("x", overrides={"tta_lr": 0.1})),
    unit(Spec("x", options={"follow_bnneck": False})), unit(Spec("x", overrides={"tta_batch": 8})),
    unit(Spec("x", overrides={"normalise_features": False})), unit(TABLE_2[1]), unit(TABLE_2[3]),
    unit(experiment="changes"), unit(split=1), unit(seed=1),
    *(unit(**{name: "other"}) for name in ("version", "data", "weights", "sample"))])
def test_what_decides_a_number_is_in_its_key(other):
    assert key_of(unit()) != key_of(other)


def test_setting_or_option_that_came_later_keeps_the_keys_of_before(monkeypatch):
    for name, default, another in (("margin", 0.3, 0.5), ("follow_bnneck", 1, 0), ("reading", "alone", "x")):
        keys = [key_of(unit(**{name: value})) for value in (None, default, another)]
        assert len({*keys}) == 3
        monkeypatch.setitem(LATER, name, default)
        keys = [key_of(unit(**{name: value})) for value in (None, default, another)]
        assert keys[0] == keys[1] != keys[2]
    alpha = unit(Spec("x", adapter="alpha_bn"))
    before = key_of(alpha | {"options": ""})
    assert before != key_of(alpha)
    monkeypatch.setitem(LATER, "alpha", 0.5)
    assert before == key_of(alpha) != key_of(alpha | {"options": '{"alpha": 0.1}'})


def test_store_of_an_earlier_time_gets_the_columns_that_it_lacks(tmp_path):
    key = key_of(unit())
    with open_store() as store:
        store.add(key, rows_of(unit()))
        store.execute('ALTER TABLE numbers DROP COLUMN "margin"')
    with open_store() as store:
        assert store.rows([key])["margin"].isna().all()
        store.add("new", rows_of(unit()))
        assert store.rows(["new"])["margin"].tolist() == [0.3, 0.3]


def test_what_decides_no_number_is_not_in_its_key():
    same = [unit(Spec("another name")), unit(Spec("all", N=12, options={"K": 6})),
            unit(target="renamed", profile="laptop"),
            unit(seconds=9.0, machine="other", measured_on="2027-01-01"),
            unit(momentum=np.float64(0.1), follow_bnneck=1.0, N=np.int64(12), options=float("nan"))]
    assert {key_of(one) for one in same} == {key_of(unit())}


def test_recorded_rows_fill_a_store_once_stay_marked_and_are_exported_again(tmp_path, monkeypatch):
    recorded = pd.read_csv(RECORDED, low_memory=False)
    with open_store() as store:
        store.add("mine", rows_of(unit()))
        store.fill("laptop")
        store.fill("laptop")
        rows = store.rows()
        row = rows.query("adapter == 'bnta' and target == 'iLIDS' and experiment == 'retrieval'").iloc[0]
        key = key_of({**row, **TABLE_2[2].columns(settings("laptop"), 60)})
        assert len(store.rows([key])), "a recorded row has the key of the spec that measured it"
    assert rows["recorded"].tolist() == [0, 0] + [1] * len(recorded)
    assert np.array_equal(rows["value"][2:], recorded["value"], equal_nan=True)
    export(tmp_path / "rows.csv.gz", "laptop")
    exported = gzip.decompress((tmp_path / "rows.csv.gz").read_bytes())
    assert exported == gzip.decompress(RECORDED.read_bytes())
    with open_store() as store:  # what is measured here lies over the recorded rows
        store.add(key, rows_of(unit(profile="laptop")))
        assert store.rows([key])["recorded"].tolist() == [0, 0]
        kept = store.rows([key], recorded=True)["value"].tolist()
        assert kept == rows.query("key == @key")["value"].tolist()
        assert len(store.rows()) == len(rows) - (rows["key"] == key).sum() + 2
    export(tmp_path / "rows.csv.gz", "laptop")
    again = gzip.decompress((tmp_path / "rows.csv.gz").read_bytes())
    assert again == exported, "own rows replaced recorded ones"
    monkeypatch.setattr(module, "recorded_path", lambda profile: tmp_path / "other.csv.gz")
    recorded[:100].to_csv(tmp_path / "other.csv.gz", index=False)
    with open_store() as store:  # recorded anew
        store.fill("laptop")
        assert (store.rows(recorded=True)["recorded"] == 1).sum() == 100
    monkeypatch.setattr(module, "METHOD_VERSION", METHOD_VERSION + 1)
    with open_store() as store:  # rows of another version are not read back
        store.fill("laptop")
        assert store.rows()["recorded"].tolist() == [0] * 4


@pytest.mark.parametrize("damage", ["text", "pages", "columns", "folder"])
def test_damaged_store_ends_the_export_with_what_to_do(damage, tmp_path):
    path = tmp_path / "results.sqlite"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("no database, but long enough to be taken for one" * 40)
    elif damage == "columns":
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE VIEW numbers AS SELECT 1")
    else:
        with open_store() as store:
            store.fill("laptop")
        content = path.read_bytes()
        path.write_bytes(content[:8192] + bytes(len(content) - 8192))
    with pytest.raises(ValueError, match="cannot open the results store .*if it is damaged, delete it"):
        export(tmp_path / "rows.csv.gz", "laptop")


FORK = multiprocessing.get_context("fork")  # a process that is here at once


def start(work) -> tuple:
    """A process that does ``work`` with one end of a pipe; the other end."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=work, args=(there,))
    process.start()
    there.close()
    return process, here


def received(pipe) -> list:
    """All that is sent until the process ends."""
    values = []
    with suppress(EOFError):
        while True:
            values.append(pipe.recv())
    return values


def sweep(pipe) -> None:
    with open_store() as store:
        for seed in (seed for seed in range(40) if store.rows([str(seed)]).empty):
            time.sleep(0.02)
            pipe.send(seed)
            store.add(str(seed), [{"metric": name, "value": seed / 7} for name in ("R1", "mAP")])


def read(pipe) -> None:
    counts = [0]
    with open_store() as store:
        while counts[-1] < 80:
            counts.append(len(store.rows()))
            time.sleep(0.005)
    pipe.send((all(count % 2 == 0 for count in counts), counts == sorted(counts)))


def test_killed_run_loses_no_finished_unit_and_others_read_whole_units():
    """SIGKILL at a random moment, again and again, while another process reads."""
    random, begun, (_, counts) = Random(0), [], start(read)
    for _ in range(3):
        process, pipe = start(sweep)
        seeds = [pipe.recv() for _ in range(random.randint(2, 9))]
        time.sleep(random.random() / 50)
        process.kill()
        seeds += received(pipe)
        with open_store() as store:
            rows = store.rows()["key"].value_counts()
        assert (rows == 2).all() and set(map(str, seeds[:-1])) <= set(rows.index)
        begun += seeds
    begun += received(start(sweep)[1])
    assert 40 <= len(begun) <= 40 + 3, "none is measured twice but those in hand"
    assert received(counts) == [(True, True)]


def test_export_is_the_same_bytes_and_leaves_out_other_versions_and_own_folders(tmp_path):
    with open_store() as store:
        for i, more in enumerate([{}, {"version": 0}, {"target": "shop, own folder"},
                                  {"target": "VIPeR, published"}]):
            store.add(str(i), rows_of(unit(**more)))
    for name in ("a.csv.gz", "b.csv.gz"):
        assert export(tmp_path / name, "smoke") == 4
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    rows = pd.read_csv(tmp_path / "a.csv.gz")
    assert set(rows["target"]) == {"dots", "VIPeR, published"} and rows["value"][0] == 1 / 3
