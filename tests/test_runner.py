"""What units give: the numbers of the methods themselves, each measured once."""

from dataclasses import replace

import pytest
import torch

from bnta_lib import adapt
from bnta_lib.adaption import pair_losses
from bnta_lib.evaluation import evaluate
from bnta_lib.model import embed
from bnta_lib.suite import runner
from bnta_lib.suite.runner import Measurer, Unit, score
from bnta_lib.suite.samples import sample_of
from bnta_lib.suite.specs import DIVERGED, TABLE_2, Spec
from bnta_lib.suite.store import key_of
from conftest import lab_of

OFF = Spec("off", adapter="none", labels={"part": "target"})


@pytest.fixture(scope="module", autouse=True)
def one_store(tmp_path_factory):
    """All tests of this file share a store, so that Table 2 is measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def lab(tiny, tiny_models, dots):
    return lab_of(tiny, tiny_models, {"dots": dots}, [dots.data])


@pytest.fixture
def measurer(tiny, tiny_models, dots):
    return Measurer(tiny, {"bnta": tiny_models["bnta"]}, {"bnta": {"dots": dots}})


@pytest.fixture
def table_2(lab):
    return lab.measure("table_2")


def scores_of(rows) -> dict:
    return rows[rows["unit"] == "%"].set_index("metric")["value"].to_dict()


def test_every_method_split_seed_and_metric_has_one_row(table_2):
    seeds = {spec.method: 1 if spec.adapter == "none" else 2 for spec in TABLE_2}
    # Two splits; BNTA has three rows of seconds too.
    counts = {method: 2 * n * (4 + 3 * (method == "BNTA")) for method, n in seeds.items()}
    assert table_2.groupby("method").size().to_dict() == counts
    assert not table_2.duplicated(["target", "method", "split", "seed", "metric"]).any()
    assert table_2["value"].between(0, 100).all() and set(table_2["unit"]) == {"%", "s"}
    assert set(table_2["experiment"]) == {"retrieval"} and set(table_2["table"]) == {"table_2"}
    assert not table_2["recorded"].any()


def test_rows_are_those_of_the_methods_themselves(table_2, tiny, tiny_models, dots):
    data, split = dots.data, dots.splits[1]
    adapted = adapt(tiny_models["bnta"], data.images[split.gallery], tiny, seed=1).model
    sides, models = (split.probe, split.gallery), tiny_models | {"adapted": adapted}
    for method, name, seed in (
        ("Baseline", "baseline", 0), ("BNTA w/o TTA", "bnta", 0), ("BNTA", "adapted", 1)):
        features = [embed(models[name], data.images[side])[0] for side in sides]
        labels = [kind[side] for kind in (data.pids, data.camids) for side in sides]
        rows = table_2[(table_2["method"] == method) & (table_2["split"] == 1) & (table_2["seed"] == seed)]
        assert scores_of(rows) == pytest.approx(evaluate(*features, *labels).row())


@pytest.mark.parametrize("options", [
    {"quantities": ("mean",), "reading": "restore"}, {"layers": ("bn", "in")},
    {"losses": ("mat",), "follow_bnneck": False}])
def test_options_reach_the_adaption(lab, tiny, tiny_models, dots, options):
    rows = lab.measure([Spec("bold", options=options, overrides={"tta_lr": 0.01})], seeds=[1], splits=[0])
    images = dots.data.images[dots.splits[0].gallery]
    adapted = adapt(tiny_models["bnta"], images, replace(tiny, tta_lr=0.01), seed=1, **options).model
    assert scores_of(rows) == score(adapted, dots, dots.splits[0], tiny).row()


def test_second_measuring_reads_all_from_the_store(table_2, lab, tiny, tiny_models, dots, monkeypatch):
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured again"))
    assert lab.measure("table_2").equals(table_2)
    renamed = lab_of(tiny, tiny_models, {"renamed": dots}).measure("table_2")
    assert set(renamed["target"]) == {"renamed"} and renamed["value"].equals(table_2["value"])
    fewer = lab_of(replace(tiny, tta_seeds=1), tiny_models, {"dots": replace(dots, splits=dots.splits[:1])})
    first = table_2.query("split == 0 and seed == 0")
    assert fewer.measure("table_2")["value"].tolist() == first["value"].tolist()


def test_tables_share_a_unit_and_not_its_name(table_2, lab, monkeypatch):
    measured, measure = [], Measurer.measure
    monkeypatch.setattr(Measurer, "measure",
                        lambda self, unit: measured.append(unit.spec.method) or measure(self, unit))
    specs = [Spec("All"), Spec("all of 4", options={"K": 4}), Spec("two", options={"K": 2}), Spec("six", N=6)]
    rows = lab.measure(specs)
    assert set(measured) == {"all of 4", "two", "six"} and set(rows["table"]) == {"rows"}
    bnta = table_2[(table_2["method"] == "BNTA") & (table_2["unit"] == "%")]
    assert rows.query("method == 'All' and unit == '%'")["value"].tolist() == bnta["value"].tolist()
    grid = lab.measure("figure_4")  # galleries of 12 and 10 images adapt on the N that the cell names
    assert grid["N"].max() == 10 and set(grid[grid["N"] == 10]["split"]) == {0, 1}
    default = grid.query("N == 10 and K == 5 and split == 1 and unit == '%'")
    assert default["value"].tolist() == bnta.query("split == 1 and seed == 0")["value"].tolist()


def test_smaller_sample_is_part_of_a_larger_one(dots):
    split = dots.splits[0]
    small, large = (sample_of(split, n).tolist() for n in (4, 9))
    assert set(small) < set(large) <= set(split.gallery.tolist())
    assert torch.equal(sample_of(split, None), split.gallery)
    with pytest.raises(ValueError, match="has no 99"):
        sample_of(split, 99)


def test_changes_hold_what_adaption_reports(lab, tiny, tiny_models, dots):
    rows = lab.measure("changes")
    assert (rows.query("index > 0").groupby(["split", "metric"]).size() == 57).all()
    gallery, rows = dots.data.images[dots.splits[1].gallery], rows[rows["split"] == 1]
    result = adapt(tiny_models["bnta"], gallery, tiny)
    rates = result.changes.query("quantity == 'var'").set_index("index")["rate"]
    measured = rows[rows["metric"] == "rate var"].set_index("index")["value"]
    assert measured.to_dict() == pytest.approx((100 * rates).to_dict())
    for kind, model in (("frozen", tiny_models["bnta"]), ("adapted", result.model)):
        means = pair_losses(model, gallery, result.pairs, tiny).mean()
        for term in ("pos", "mat"):
            assert rows[rows["metric"] == f"{term} {kind}"]["value"].item() == pytest.approx(means[term])


def test_source_itself_shows_no_shift_when_frozen(lab):
    rows = lab.measure("shift")
    assert rows.groupby("model").size().to_dict() == {"frozen": 57, "adapted": 57}
    assert set(rows["split"]) == {0}
    assert rows[rows["model"] == "frozen"]["value"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert rows[rows["model"] == "adapted"]["value"].max() > 0.01
    another = lab.measure("shift", seeds=[3], splits=[1])
    assert set(another["split"]) == {1} and set(another["seed"]) == {3}


def test_shift_from_other_sources_has_another_key(measurer, dots):
    half = replace(dots.data, images=dots.data.images // 2)
    unit = Unit("shift", "dots", Spec("BNTA"), 0, 0)
    keys = {key_of(Measurer(measurer.settings, measurer.models, measurer.targets, [source]).columns(unit))
            for source in (dots.data, half, replace(dots.data))}
    assert len(keys) == 2


def test_headroom_ranks_each_probes_match(measurer, tiny_models, dots):
    rows = measurer.measure(Unit("headroom", "dots", OFF, 0, 0))
    ranks = score(tiny_models["bnta"], dots, dots.splits[0], measurer.settings).rank.tolist()
    assert [row["value"] for row in rows] == ranks
    assert {(row["gallery"], row["part"]) for row in rows} == {(12, "target")}


def test_adaption_that_diverges_at_a_larger_rate_is_recorded_and_others_raise(lab, monkeypatch):
    def diverge(*_, **__):
        raise FloatingPointError("the adaption loss is nan")

    monkeypatch.setattr(runner, "adapt", diverge)
    rows = lab.measure([OFF, Spec("bold", overrides={"tta_lr": 9.0})], seeds=1)
    assert rows[rows["method"] == "bold"][["metric", "value"]].values.tolist() == [[DIVERGED, 1.0]] * 2
    assert len(rows[rows["method"] == "off"]) == 8
    with pytest.raises(FloatingPointError):
        lab.measure([Spec("never measured", options={"K": 3})])


def test_one_split_that_diverges_leaves_no_other_rows_of_its_spec(lab, monkeypatch):
    real, bold = runner.adapt, Spec("bold", overrides={"tta_lr": 0.1})

    def sometimes(model, images, *rest, **more):
        if len(images) == 12:
            raise FloatingPointError("nan")
        return real(model, images, *rest, **more)

    monkeypatch.setattr(runner, "adapt", sometimes)
    assert lab.measure([bold], seeds=1)["metric"].tolist() == [DIVERGED]
    assert set(lab.measure([bold], seeds=1, splits=[1])["metric"]) > {"R1"}
