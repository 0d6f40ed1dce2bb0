"""The one object that a notebook opens."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from bnta_lib.data.sets import Target
from bnta_lib.suite import lab as module
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.specs import Spec
from bnta_lib.suite.sweeps import KINDS
from conftest import lab_of

OFF = Spec("off", adapter="none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path / "figures"))


@pytest.fixture
def lab(tiny, tiny_models, dots):
    return lab_of(tiny, tiny_models, {"dots": dots, "other": dots}, [dots.data])


def test_lab_knows_its_run_and_settings(tmp_path):
    (tmp_path / "shop").mkdir()
    lab = Lab("smoke", tmp_path / "shop", tta_lr=0.01)
    assert lab.run.startswith("smoke_shop-") and lab.run.endswith("+tta_lr=0.01")
    assert lab.settings.tta_lr == 0.01 and Lab("laptop").run == "laptop"
    assert str(lab).startswith("bnta_lib ") and str(lab).endswith(f"; {lab.run}")


@pytest.mark.parametrize("call, words", [
    (lambda _: Lab("huge"), "unknown profile"), (lambda _: Lab("smoke", ""), "data is"),
    (lambda _: Lab("smoke", learning=1), "unknown setting 'learning'"),
    (lambda lab: lab.measure("table_9"), "unknown table 'table_9': there are table_2"),
    (lambda lab: lab.measure("table_2", None, ["GRID"]), "no target 'GRID': the targets are dots, other"),
    (lambda lab: lab.measure("table_2", 1, ["dots"], [7]), "has 2 splits")])
def test_what_does_not_exist_is_refused(lab, call, words):
    with pytest.raises(ValueError, match=words):
        call(lab)


def test_targets_splits_and_seeds_are_those_asked_for(lab):
    rows = lab.measure([Spec("BNTA"), OFF], seeds=[2, 5], targets=["other"], splits=[1])
    assert set(rows["target"]) == {"other"} and set(rows["split"]) == {1}
    assert rows.groupby("method")["seed"].unique().map(list).to_dict() == {"BNTA": [2, 5], "off": [0]}
    assert set(lab.measure([Spec("BNTA")], 1, ["other"])["seed"]) == {0}


def test_every_value_of_an_open_choice_has_its_reference_on_targets_of_its_size(
        lab, tiny_models, dots, monkeypatch):
    heights = []
    monkeypatch.setattr(module, "load_targets", lambda settings, *a, **k: heights.append(settings.height) or
                        {"dots": dots, "other": dots})
    lab._models["other_stripes"] = tiny_models["mat"]
    monkeypatch.setattr("bnta_lib.suite.runner.Measurer.measure", lambda measurer, unit: [
        measurer.columns(unit) | {"metric": "R1", "value": float(unit.spec.adapter == "bnta"), "unit": "%"}])
    rows = lab.measure("open_choices")
    keys = ["choice", "value_label", "target", "split"]
    both = rows.groupby([*keys, "adapter"])["value"].mean().unstack("adapter")
    assert (both["none"] == 0).all() and (both["bnta"] == 1).all()
    assert set(rows["choice"]) >= {"momentum", "affine"}
    assert heights == [lab.settings.other_height]


def test_headroom_has_every_kind_of_the_embedded_sets(lab, dots, monkeypatch):
    monkeypatch.setattr(module, "load_targets", lambda settings, *a, **k: {"T": dots})
    monkeypatch.setattr(module, "load_source", lambda settings, name, part, **k: dots)
    rows = lab.measure("headroom")
    assert rows.groupby("part").size().to_dict() == {KINDS[0]: 5 * 20, KINDS[1]: 20, KINDS[2]: 20}
    assert rows["value"].between(1, 12).all()


def test_figure_table_and_rows_are_written_under_the_run(lab, dots, tmp_path, monkeypatch):
    lab.targets = {"dots": Target(dots.data, dots.splits, "ten random splits")}
    del lab.about
    monkeypatch.setattr(module, "trained_on", lambda *_: "five sets")
    rows = lab.measure([OFF])
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    lab.save(figure, "line", "a line", rows)
    frame = lab.save_table(pd.DataFrame({"R1": [1.0]}), "numbers", "A note.", rows)
    path = lab.save_rows(rows, "rows")
    folder = tmp_path / "figures" / "smoke"
    assert frame["R1"].tolist() == [1.0] and path == folder / "rows.csv"
    assert {file.name for file in folder.iterdir()} == {
        "line.pdf", "line.png", "numbers.csv", "numbers.md", "numbers.tex", "rows.csv"}
    text = (folder / "numbers.md").read_text()
    assert "A note. Protocol. dots: ten random splits" in text and "Trained on five sets." in text
    with Image.open(folder / "line.png") as picture:
        assert picture.info["Description"] == "a line"
        assert picture.info["Comment"] == f"{len(rows)} numbers: {len(rows)} measured here."
    written = pd.read_csv(path)
    assert "seconds" not in written and "adapter" in written


def test_absent_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights at"):
        Lab("paper", progress=False).model()
