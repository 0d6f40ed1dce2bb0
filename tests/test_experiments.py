import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, adapt, settings
from bnta_lib.suite import experiments, stats
from bnta_lib.adaption import pair_losses
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import evaluate
from bnta_lib.model import embed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def small():
    return settings("smoke", base_width=4, local_dim=8, tta_batch=4, tta_seeds=2)


@pytest.fixture(scope="module")
def models(small):
    made = {}
    for seed, name in enumerate(("bnta", "baseline")):
        torch.manual_seed(seed)
        made[name] = BNTANet(6, small).eval()
        made[name].backbone.bn1.running_mean += 0.01 * seed  # digests tell them apart
    return made


@pytest.fixture(scope="module")
def targets():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 96, 48), dtype=torch.uint8, generator=random)
    data = ReIDSet("dots", images, torch.arange(1, 13).repeat(2),
                   torch.tensor([1, 2]).repeat_interleave(12))
    whole = Split(torch.arange(12), torch.arange(12, 24))
    part = Split(torch.arange(8), torch.arange(12, 22))
    return {"dots": Target(data, (whole, part))}


def test_every_method_split_seed_and_metric_has_one_row(models, targets, small):
    rows = experiments.table_2_rows(models, targets, small, progress=False)
    runs = {"Baseline": 1, "BNTA w/o TTA": 1, "BNTA": 2, "AdaBN": 2, "Tent": 2}
    counts = rows.groupby("method").size()
    metrics = {m: 4 if m != "BNTA" else 7 for m in runs}  # BNTA's three seconds too
    assert {m: n / (2 * metrics[m]) for m, n in counts.items()} == runs
    assert not rows.duplicated(["target", "method", "split", "seed", "metric"]).any()
    assert rows["value"].between(0, 100).all()
    assert set(rows["unit"]) == {"%", "s"} and set(rows["experiment"]) == {"table_2"}


def test_rows_are_those_of_the_methods_themselves(models, targets, small):
    rows = experiments.table_2_rows(models, targets, small, progress=False)
    data, split = targets["dots"].data, targets["dots"].splits[1]
    adapted = adapt(models["bnta"], data.images[split.gallery], small, seed=1).model
    for method, model, seed in (("Baseline", models["baseline"], 0),
                                ("BNTA w/o TTA", models["bnta"], 0), ("BNTA", adapted, 1)):
        scores = evaluate(embed(model, data.images[split.probe])[0],
                          embed(model, data.images[split.gallery])[0],
                          data.pids[split.probe], data.pids[split.gallery],
                          data.camids[split.probe], data.camids[split.gallery])
        own = rows.query("method == @method and split == 1 and seed == @seed")
        found = own[own["unit"] == "%"].set_index("metric")["value"].to_dict()
        assert found == pytest.approx(scores.row())


def test_a_second_run_measures_nothing_again(models, targets, small, monkeypatch):
    first = experiments.table_2_rows(models, targets, small, progress=False)
    monkeypatch.setattr(experiments, "_measure", lambda *a: pytest.fail("measured again"))
    assert experiments.table_2_rows(models, targets, small, progress=False).equals(first)
    more_splits = {"dots": replace(targets["dots"], splits=targets["dots"].splits[:1])}
    fewer = replace(small, tta_seeds=1)  # the number of seeds decides no row
    assert len(experiments.table_2_rows(models, more_splits, fewer, progress=False)) == 5 * 4 + 3


@pytest.mark.parametrize("change", [{"tta_lr": 0.1}, {"tta_momentum": 0.3}, {"K": 3},
                                    {"normalise_features": False}, {"lambda3": 2.0}])
def test_a_setting_that_decides_a_row_makes_a_new_key(small, change):
    assert experiments.tta_settings(small) != experiments.tta_settings(replace(small, **change))


def test_features_at_hand_give_the_same_scores(models, targets, small):
    target, model = targets["dots"], models["bnta"]
    features, _ = embed(model, target.data.images)
    direct = experiments.score(model, target, target.splits[1], small)
    assert direct.row() == experiments.score(model, target, target.splits[1], small, features).row()


def test_why_rows_hold_what_adaption_reports(models, targets, small):
    changes = experiments.change_rows(models["bnta"], targets, small, progress=False)
    assert (changes.query("index > 0").groupby(["split", "metric"]).size() == 60).all()
    why = experiments.why_rows(changes)
    own = why[why["split"] == 1].set_index("what")["value"]
    gallery = targets["dots"].data.images[targets["dots"].splits[1].gallery]
    result = adapt(models["bnta"], gallery, small)
    rate = result.changes.query("quantity == 'var'")["rate"].mean()
    assert own["rate var"] == pytest.approx(100 * rate)
    for kind, model in (("frozen", models["bnta"]), ("adapted", result.model)):
        means = pair_losses(model, gallery, result.pairs, small).mean()
        assert own[f"pos {kind}"] == pytest.approx(means["pos"])
        assert own[f"mat {kind}"] == pytest.approx(means["mat"])
    assert set(why["what"]) >= {"pos statistics", "mat statistics"}


def test_pair_losses_of_the_frozen_model_are_not_touched_by_looking(models, targets, small):
    gallery = targets["dots"].data.images[targets["dots"].splits[0].gallery]
    result = adapt(models["bnta"], gallery, small, seed=1)
    once = pair_losses(models["bnta"], gallery, result.pairs, small, seed=1)
    assert len(once) == len(result.losses) == 2
    assert once.equals(pair_losses(models["bnta"], gallery, result.pairs, small, seed=1))


def test_adaption_to_the_source_itself_shows_no_shift_when_frozen(models, targets, small):
    rows = experiments.shift_rows(models["bnta"], targets, [targets["dots"].data], small)
    assert rows.groupby("model").size().to_dict() == {"frozen": 60, "adapted": 60}
    frozen, adapted = (rows[rows["model"] == kind]["distance"] for kind in ("frozen", "adapted"))
    assert frozen.to_numpy() == pytest.approx(0, abs=1e-6)
    assert adapted.max() > 0.01


def scores_of(rows, method):
    chosen = rows[(rows["method"] == method) & (rows["unit"] == "%")]
    return chosen.set_index(["split", "seed", "metric"])["value"].to_dict()


def test_tables_share_a_run_and_not_its_name(models, targets, small, monkeypatch):
    table_2 = experiments.table_2_rows(models, targets, small, progress=False)
    runs = [experiments.Run("All"), experiments.Run("all of 4", options={"K": 4}),
            experiments.Run("two", options={"K": 2}), experiments.Run("six", sample=6)]
    measured = []
    real = experiments._measure
    monkeypatch.setattr(experiments, "_measure", lambda run, *a: measured.append(run.method) or real(run, *a))
    rows = experiments.run_rows("table_5", runs, models, targets, small, progress=False)
    assert set(measured) == {"all of 4", "two", "six"} and set(rows["experiment"]) == {"table_5"}
    assert scores_of(rows, "All") == scores_of(table_2, "BNTA")


def test_pairs_from_one_ranking_are_those_of_the_run_alone(models, targets, small):
    runs = [experiments.Run(str(k), options={"K": k}, sample=8) for k in (2, 4)]
    rows = experiments.run_rows("grid", runs, models, targets, small, 1, progress=False)
    data, split = targets["dots"].data, targets["dots"].splits[0]
    images = data.images[experiments.sample_of(split, 8)]
    for k in (2, 4):
        alone = adapt(models["bnta"], images, small, K=k).model
        found = {m: v for (s, _, m), v in scores_of(rows, str(k)).items() if s == 0}
        assert found == pytest.approx(experiments.score(alone, targets["dots"], split, small).row())


def test_a_smaller_sample_is_part_of_a_larger_one(targets):
    split = targets["dots"].splits[0]
    small, large = (experiments.sample_of(split, n).tolist() for n in (4, 9))
    assert set(small) < set(large) <= set(split.gallery.tolist())
    assert torch.equal(experiments.sample_of(split, None), split.gallery)
    with pytest.raises(ValueError, match="has no 99"):
        experiments.sample_of(split, 99)


def test_another_convolution_is_another_model(models, small):
    one = models["bnta"]
    other = copy.deepcopy(one)
    other.backbone.conv1.weight.data[0, 0, 0, 0] += 1e-3
    assert experiments.model_digest(one) != experiments.model_digest(other)


def test_a_run_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unknown adapter"):
        experiments.Run("x", adapter="bn")
    with pytest.raises(ValueError, match="belong to the adapter bnta"):
        experiments.Run("x", adapter="tent", options={"K": 3})


def test_processes_beside_this_one_measure_the_same(models, targets, small, monkeypatch, tmp_path):
    alone = experiments.table_2_rows(models, targets, small, progress=False)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("BNTA_WORKERS", "2")
    monkeypatch.setattr(experiments, "_measure", lambda *a: pytest.fail("measured in this process"))
    beside = experiments.table_2_rows(models, targets, small, progress=False)
    keys = ["target", "method", "split", "seed", "metric"]
    alone, beside = ([*rows[rows["unit"] == "%"][[*keys, "value"]].itertuples(index=False)]
                     for rows in (alone, beside))
    assert beside == alone


@pytest.mark.parametrize("count", ["0", "-3", "abc", "1.5"])
def test_a_number_of_processes_that_is_none_is_named(models, targets, small, monkeypatch, count):
    monkeypatch.setenv("BNTA_WORKERS", count)
    with pytest.raises(ValueError, match=f"BNTA_WORKERS .* at least 1; got '{count}'$"):
        experiments.table_2_rows(models, targets, small, progress=False)


def test_the_same_images_under_another_name_keep_that_name(models, targets, small):
    first = experiments.table_2_rows(models, targets, small, progress=False)
    again = experiments.table_2_rows(models, {"renamed": targets["dots"]}, small, progress=False)
    assert set(again["target"]) == {"renamed"} and again["value"].equals(first["value"])


def test_other_settings_than_the_profiles_are_not_said(models, targets, small):
    faster = replace(small, tta_lr=0.05, tta_momentum=1.0)
    one, other = (experiments.run_rows("t", [experiments.Run("BNTA")], models, targets, own, 1, progress=False)
                  for own in (small, faster))
    assert set(other["setting"] ) != set(one["setting"])
    assert "tta_lr=0.05" in other["setting"][0] and "tta_momentum=1.0" in other["setting"][0]
    with pytest.raises(ValueError, match="different setting"):
        stats.summarise(pd.concat([one, other]))
    usual = settings("smoke")
    assert experiments.Run("BNTA").setting_with(usual) == experiments.Run("BNTA").setting


def test_layers_of_other_strides_have_the_key_of_these(models):
    one, other = models["bnta"], copy.deepcopy(models["bnta"])
    other.backbone.layer4[0].conv2.stride = (2, 2)
    assert experiments.model_digest(one) == experiments.model_digest(other)
    assert experiments.identity(one) != experiments.identity(other)
    assert experiments.identity(one) == experiments.identity(copy.deepcopy(one))


def test_no_pairs_are_taken_for_all_of_them(models, targets, small):
    experiments.run_rows("t", [experiments.Run("BNTA")], models, targets, small, 1, progress=False)
    with pytest.raises(ValueError, match="K = 0"):
        experiments.run_rows("t", [experiments.Run("no", options={"K": 0})], models, targets, small, 1, progress=False)


def test_probes_without_a_match_are_left_out_of_the_rows_without_a_word(models, targets, small):
    data, split = targets["dots"].data, targets["dots"].splits[1]  # its gallery lacks persons 11 and 12
    whole = {"dots": Target(data, (Split(torch.arange(12), split.gallery),))}
    rows = experiments.run_rows("t", [experiments.Run("off", adapter="none")], models, whole, small, progress=False)
    assert rows[rows["metric"] == "unmatched"][["value", "unit"]].values.tolist() == [[2.0, "probes"]]
    assert rows[rows["unit"] == "%"]["metric"].tolist() == ["mAP", "R1", "R5", "R10"]


def test_threads_move_the_shift(models, targets, small, monkeypatch, tmp_path):
    found = []
    for threads in (1, 2):
        monkeypatch.setenv("BNTA_CACHE", str(tmp_path / str(threads)))
        was = torch.get_num_threads()
        torch.set_num_threads(threads)
        found.append(experiments.shift_rows(models["bnta"], targets, [targets["dots"].data], small, progress=False))
        assert torch.get_num_threads() == threads
        torch.set_num_threads(was)
    pd.testing.assert_frame_equal(*found, check_exact=True)
