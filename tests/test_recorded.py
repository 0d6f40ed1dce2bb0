"""The tables made from the recorded rows are those in figures/laptop, number by number."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd

from bnta_lib.explore import nk
from bnta_lib.settings import ROOT, settings
from bnta_lib.suite import claims, layers, sweeps, tables
from bnta_lib.suite.specs import COLUMNS, TABLES
from bnta_lib.suite.stats import printed

COMMITTED = ROOT / "figures" / "laptop"
LAPTOP = settings("laptop")
GALLERIES = {"VIPeR": 316, "GRID": 900, "iLIDS": 60}  # images of each target's galleries


@cache
def whole() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "results" / "laptop.csv.gz", low_memory=False)


def recorded(experiment: str) -> pd.DataFrame:
    return whole()[whole()["experiment"] == experiment]


def key(values) -> tuple:
    return tuple("" if pd.isna(value) else value for value in values)


@cache
def by_spec() -> dict[tuple, pd.DataFrame]:
    groups = recorded("retrieval").groupby(["target", *COLUMNS], dropna=False)
    return {key(values): rows for values, rows in groups}


@cache
def table(name: str) -> pd.DataFrame:
    """The recorded rows of a table, as ``lab.measure`` gives them."""
    parts = []
    for part in TABLES[name]:
        for target, spec, seeds in part.plan(GALLERIES, LAPTOP):
            columns = spec.columns(LAPTOP, GALLERIES[target])
            rows = by_spec()[key([target, *(columns[column] for column in COLUMNS)])]
            parts.append(rows[rows["seed"] < seeds].assign(table=name, method=spec.method, **spec.labels))
    return pd.concat(parts, ignore_index=True)


def committed(name: str, index: int = 0, header: int = 1) -> pd.DataFrame:
    return pd.read_csv(COMMITTED / f"{name}.csv", index_col=list(range(index)) or None,
                       header=list(range(header)), keep_default_na=False, na_values=[""])


def assert_same(made: pd.DataFrame, name: str, digits: int, keys: list[str] | None = None) -> None:
    """Every committed column; numbers as rounded to these digits. ``keys``: the order of rows is free."""
    expected = committed(name)
    made = made.reset_index()
    if keys:
        made, expected = (table.sort_values(keys).reset_index(drop=True) for table in (made, expected))
    assert set(expected.columns) <= set(made.columns) and len(made) == len(expected)
    for column in expected:
        ours, theirs = made[column], expected[column]
        if theirs.isna().all():  # as read, an empty column of text is one of numbers
            theirs = theirs.astype(object)
        if pd.api.types.is_numeric_dtype(theirs) and not pd.api.types.is_bool_dtype(theirs):
            room = 0.5001 * 10.0**-digits
            np.testing.assert_allclose(ours.astype(float), theirs, rtol=0, atol=room, err_msg=column)
        else:
            assert ours.fillna("").astype(str).tolist() == theirs.fillna("").astype(str).tolist(), column


def assert_printed(made: pd.DataFrame, name: str, index: int, header: int) -> None:
    """Every cell of a table of text."""
    expected = committed(name, index, header).fillna("")
    expected = expected.rename(index=lambda label: "" if label is np.nan else label)
    assert made.astype(str).to_numpy().tolist() == expected.astype(str).to_numpy().tolist()
    assert made.index.tolist() == expected.index.tolist()


def changes_by_target():
    order = list(GALLERIES).index
    rows = recorded("changes")
    return rows.sort_values("target", key=lambda names: names.map(order), kind="stable")


def test_table_2():
    rows = table("table_2")
    assert_printed(tables.table_2(rows), "table_2", 2, 2)
    assert_same(tables.paired_table(tables.gains(rows)), "table_2_paired", 2)


def test_table_3():
    rows = table("table_3")
    assert_printed(tables.table_3(rows), "table_3", 3, 1)
    assert_same(tables.paired_table(tables.gains(rows)), "table_3_paired", 2)


def test_table_4():
    rows = table("table_4")
    assert_printed(tables.table_4(rows), "table_4", 1, 2)
    assert_same(tables.paired_table(tables.gains(rows)), "table_4_paired", 2)


def test_table_5():
    rows = pd.concat([table("table_5"), table("table_5_restore")])
    assert_printed(tables.table_5(rows), "table_5", 1, 2)
    assert_same(tables.paired_table(tables.gains(rows)), "table_5_paired", 2)


def test_figure_1():
    rows = recorded("shift")
    made = rows.pivot(index=["index", "layer"], columns=["target", "model"], values="value")
    expected = committed("figure_1_distances", 2, 2)
    np.testing.assert_allclose(made[expected.columns], expected, rtol=0, atol=0.50001e-4)


def test_figure_3():
    rates = layers.change_rates_by_split(changes_by_target())
    assert_same(rates, "figure_3_rows", 6, ["target", "split", "quantity", "index"])


def test_figure_4():
    rows = table("figure_4")
    cells, keys = sweeps.grid_cells(rows), ["target", "N", "K"]
    assert_same(printed(cells, keys), "figure_4", 2)
    assert_same(cells, "figure_4_seconds", 2)
    assert_same(printed(sweeps.peak_in_k(rows), keys[:2]), "figure_4_peak_in_k", 2)
    assert_same(printed(sweeps.trend_in_n(rows), ["target", "K"]), "figure_4_trend_in_n", 2)


def test_sliders_offer_every_committed_cell():
    cells = nk.cells_of(table("figure_4"))
    grid = committed("figure_4")
    for (target, n), rows in grid.groupby(["target", "N"]):
        gallery = GALLERIES[target]
        assert n in nk.sizes(cells, target, gallery)
        assert nk.sizes(cells, target, gallery, n) == sorted(rows["K"])
        for k, value in zip(rows["K"], rows["value"], strict=True):
            shown = [nk.find(cells, target, split, n, k, 0.1)["R1"] for split in range(10)]
            assert abs(np.mean(shown) - value) < 0.0051


def test_open_choices():
    rows = table("open_choices")
    gains = sweeps.gain_rows(rows)
    keys = ["choice", "value_label", "target"]
    assert_same(printed(gains, keys), "open_choices_gains", 2, keys)
    assert_same(sweeps.survival(gains), "open_choices", 1)


def test_headroom():
    rows = recorded("headroom")
    assert_same(sweeps.headroom_table(rows), "headroom", 1, ["kind", "set"])


def test_claims():
    targets = {name: SimpleNamespace(splits=[SimpleNamespace(probe=range(probes))] * 10)
               for name, probes in (("VIPeR", 316), ("GRID", 125), ("iLIDS", 60))}
    rows = {f"Table {number}": table(f"table_{number}") for number in (2, 3, 4, 5)}
    assert_same(claims.judge(rows | {
        "Fig. 3": layers.change_rates_by_split(changes_by_target()), "Fig. 4": table("figure_4"),
        "time": claims.time_rows(rows["Table 2"], targets)}), "paper_check", 3)


def test_table_by_camera():
    rows = table("by_camera")
    assert_printed(tables.by_camera(rows), "by_camera", 2, 2)
    method, against = "AdaBN by camera; other people", "BNTA w/o TTA"
    gains = tables.compare(rows, [(method, against)]).set_index("target")["difference"]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "by {:.1f}, {:.1f} and {:.1f} points".format(*gains[["VIPeR", "GRID", "iLIDS"]]) in text
