"""Rows of tables as data: which there are, and what each does."""

from dataclasses import asdict, replace

import pytest

from bnta_lib import settings
from bnta_lib.adapters import ADAPTERS
from bnta_lib.adapters import adapter as register
from bnta_lib.settings import model_settings
from bnta_lib.suite import specs
from bnta_lib.suite.specs import AFFINE, CHOICES, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLES, Spec
from bnta_lib.suite.tables import paper_values

GALLERIES = [4, 5, 6, 7, 9, 12, 60, 61, 125, 316, 900, 5000]
NAMES = dict.fromkeys(("VIPeR", "GRID", "iLIDS"), 60)
LAPTOP = settings("laptop", trainings={})


@pytest.mark.parametrize("number, rows", [
    ("3", TABLE_3), ("4", TABLE_4), ("5", TABLE_5["alone"]), ("5", TABLE_5["restore"])])
def test_rows_are_those_of_the_paper_differ_and_share_bnta_itself(number, rows):
    paper = paper_values(number, "VIPeR" if number == "3" else "GRID")
    assert [spec.method for spec in rows] == paper.index.tolist()
    columns = [spec.columns(LAPTOP, 900) for spec in rows]
    assert len({str(values) for values in columns}) == len(rows)
    assert all(spec.columns(LAPTOP, 900) in columns for spec in TABLE_2[1:3])


@pytest.mark.parametrize("spec", TABLE_3, ids=lambda spec: spec.method)
def test_table_3_trains_and_adapts_by_the_losses_named(spec):
    training, adaption = (half.split(" ")[1].split("+") for half in spec.method.split("; "))
    trained = model_settings(LAPTOP, spec.training)
    weights = {"id": trained.loss_id, "pos": trained.lambda1, "mat": trained.lambda2}
    assert {name for name, weight in weights.items() if weight > 0} == set(training)
    assert spec.columns(LAPTOP, 900)["losses"] == (None if adaption == ["none"] else "+".join(adaption))


def test_tables_4_and_5_update_the_layers_and_quantities_named():
    for spec in TABLE_4[1:]:
        assert spec.columns(LAPTOP, 900)["layers"] == spec.method.lower()
    for reading, rows in TABLE_5.items():
        for columns in (spec.columns(LAPTOP, 900) | {"row": spec.method} for spec in rows[1:]):
            assert columns["quantities"] == columns["row"].replace("mu", "mean")
            assert columns["reading"] == reading or columns["quantities"] == "mean+var+gamma+beta"


def test_columns_hold_resolved_defaults_and_only_what_the_adapter_uses():
    bold = settings("laptop", tta_lr=0.01)
    bnta, none, adabn, tent = (Spec("x", adapter=name).columns(bold, 60)
                               for name in ("bnta", "none", "adabn", "tent"))
    assert list(bnta) == list(specs.COLUMNS)
    assert [bnta[name] for name in ("N", "K", "lr", "layers", "follow_bnneck")] == [60, 30, 0.01, "bn", 1]
    assert Spec("x", options={"K": 30}, N=60).columns(bold, 60) == bnta
    assert (none["N"], none["K"]) == (0, 0) and (adabn["N"], tent["N"]) == (60, 60)
    for columns, used in ((none, set()), (adabn, set()), (tent, {"epochs", "lr"})):
        assert {name for name in (*specs.SETTINGS, *specs.OPTIONS) if columns[name] is not None} == used
    assert Spec("x").columns(replace(bold, tta_batch=8), 60)["options"] == '{"tta_batch": 8}'


def test_every_setting_that_an_adapter_reads_has_a_column():
    """Without one, rows of two values could not be told apart: add it to SETTINGS."""
    assert {name for adapter in ADAPTERS.values() for name in adapter.reads} <= set(specs.SETTINGS.values())


@pytest.mark.parametrize("given, words", [
    ({"adapter": "bn"}, "no adapter 'bn'"),
    ({"adapter": "tent", "options": {"K": 3}}, "tent has no option 'K'"),
    ({"options": {"layer": 1}}, "bnta has no option 'layer'"),
    ({"adapter": "none", "N": 4}, "only bnta adapts on a sample")])
def test_unknown_part_of_a_spec_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Spec("x", **given)
    with pytest.raises(ValueError, match="at least 4 images"):
        specs.grid_specs(3, LAPTOP)


def planned(name, targets=NAMES):
    return [row for part in TABLES[name] for row in part.plan(targets, LAPTOP)]


def test_all_seeds_are_spent_on_the_papers_target_and_a_users_folder_counts_as_such():
    for name, paper in (("table_3", "VIPeR"), ("table_4", "GRID"), ("table_5", "GRID")):
        seeds = {target: count for target, spec, count in planned(name) if spec.adapter == "bnta"}
        assert seeds == {target: 3 if target == paper else 1 for target in NAMES}
        assert {count for _, spec, count in planned(name, {"shop": 60}) if spec.adapter == "bnta"} == {3}
    for adapter, count in (("none", 1), ("bnta", 3)):
        assert {seeds for _, spec, seeds in planned("table_2") if spec.adapter == adapter} == {count}
    assert {target for target, *_ in planned("table_5_restore")} == {"GRID"}
    assert {target for target, *_ in planned("table_5_restore", {"shop": 60})} == {"shop"}
    assert {seeds for name in ("figure_4", "changes") for _, _, seeds in planned(name)} == {1}


def test_further_trainings_are_measured_on_the_papers_target_with_one_seed_and_but_for_tent():
    several = settings("laptop", trainings={"bnta": 3, "baseline": 2})
    for name, targets in (("table_2", {*NAMES}), ("table_3", {"VIPeR"}), ("table_4", {"GRID"})):
        planned = [row for part in TABLES[name] for row in part.plan(NAMES, several)]
        further = [(target, spec, seeds) for target, spec, seeds in planned if "-" in spec.training]
        assert {spec.training for _, spec, _ in further} <= {"bnta-1", "bnta-2", "baseline-1"}
        assert {target for target, *_ in further} == targets and {seeds for *_, seeds in further} == {1}
        rows = {spec.method for _, spec, _ in planned if spec.training == "bnta"}
        assert {spec.method for _, spec, _ in further if spec.training == "bnta-2"} == rows - {"Tent"}
    assert not [spec for part in TABLES["figure_4"] for _, spec, _ in part.plan(NAMES, several)
                if "-" in spec.training]


def test_trainings_on_misaligned_crops_are_measured_where_a_profile_has_them():
    several = settings("laptop", trainings={"misaligned": 2})
    rows = specs.misaligned_rows(several)
    assert len({row.method for row in rows}) == 5 and {row.adapter for row in rows} == {"none", "bnta"}
    assert {row.training for row in rows} == {"misaligned", "misaligned-1"}
    assert not specs.misaligned_rows(LAPTOP) and specs.misaligned_rows(settings("smoke"))


# ---- Figure 4


@pytest.mark.parametrize("gallery", GALLERIES)
def test_every_cell_can_be_paired_has_a_negative_and_one_is_table_2s(gallery):
    none, *cells = (spec.columns(LAPTOP, gallery) for spec in specs.grid_specs(gallery, LAPTOP))
    assert none == TABLE_2[1].columns(LAPTOP, gallery)
    assert all(4 <= c["N"] <= gallery and 2 <= c["K"] <= c["N"] // 2 for c in cells)
    assert len({(c["N"], c["K"]) for c in cells}) == len(cells)
    assert cells.count(TABLE_2[2].columns(LAPTOP, gallery)) == 1
    if gallery in (60, 316, 900):  # the paper's
        assert len({c["N"] for c in cells}) >= 5 and len({c["K"] for c in cells}) >= 6 and len(cells) >= 30


# ---- open choices


def test_override_that_no_adaption_reads_is_refused():
    with pytest.raises(ValueError, match="no adaption reads 'stripes': name a training that has it"):
        Spec("more stripes", overrides={"stripes": 8})


def test_adapter_that_reads_a_setting_without_a_column_is_refused(monkeypatch):
    monkeypatch.setitem(ADAPTERS, "x", None)  # taken out again
    register("x", "tta_lrr")(lambda model, images, settings, *, seed=0: model)
    with pytest.raises(ValueError, match="x reads 'tta_lrr', which has no column in SETTINGS"):
        Spec("x", adapter="x")


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_value_of_a_choice_differs_from_the_default_in_its_column_alone(choice):
    column = {"optimiser": {"optimizer", "lr"}, "bnneck": {"follow_bnneck"}, "distance": {"normalise"},
              "stripes": {"training"}}
    default = TABLE_2[2].columns(LAPTOP, 900)
    for value in choice.values:
        columns = value.columns(LAPTOP, 900)
        changed = {name for name in columns if columns[name] != default[name]}
        assert changed <= column.get(choice.name, {choice.name})
        assert bool(changed) == (value.method != choice.default)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_marked_default_is_what_the_profile_does(profile):
    values = asdict(settings(profile))
    for choice in (*CHOICES.values(), AFFINE):
        (default,) = (value for value in choice.values if value.method == choice.default)
        assert all(values[key] == value for key, value in default.overrides.items())


def test_row_before_adaption_is_of_the_same_network_and_distance():
    rows = {(spec.labels["choice"], spec.labels["value_label"]): spec
            for name, spec, _ in planned("open_choices") if name == "GRID" and spec.adapter == "none"}
    for choice in CHOICES.values():
        for value in choice.values:
            before = rows[choice.name, value.method].columns(LAPTOP, 900)
            after = value.columns(LAPTOP, 900)
            assert all(before[name] == after[name] for name in ("training", "normalise"))
