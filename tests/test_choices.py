import zlib
from dataclasses import asdict, replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from bnta_lib import BNTANet, adapt, settings
from bnta_lib.suite import choices, experiments
from bnta_lib.suite.choices import AFFINE, CHOICES, READINGS
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.figures import base
from bnta_lib.figures import choices as figures
from bnta_lib.weights import model_settings

matplotlib.use("Agg")
TARGETS = ("VIPeR", "GRID", "iLIDS")
EVERY = (*CHOICES.values(), READINGS, AFFINE)
COUNTS = [f"{word}: values" for word in ("holds", "does not hold", "not resolved", "diverged")]


@pytest.fixture(autouse=True)
def style():
    base.use_style()
    yield
    plt.close("all")


def made(gain, targets=TARGETS, splits=5) -> pd.DataFrame:
    """Rows as choice_rows has them; gain(choice, label, updated, target) in points.

    The splits of a value deviate from it by noise of zero mean, so that its mean is exact and no
    difference is without spread.
    """
    plan = choices.planned()[["choice", "value_label", "updated", "where"]].to_dict("records")
    plan += [{"choice": "readings", "value_label": reading, "updated": updated, "where": "own"}
             for reading in ("alone", "restore")
             for updated in ("none", "mu", "var", "mu+var", "gamma", "beta", "gamma+beta", "all")]
    rows, own = [], choices.own_target(dict.fromkeys(targets))
    for row in plan:
        for target in targets if row["where"] != "own" else [own]:
            name = " ".join(map(str, row.values())).encode()
            noise = np.random.default_rng(zlib.crc32(name)).normal(0, 0.1, splits)
            for split, more in enumerate(noise - noise.mean()):
                added = 0.0 if row["updated"] == "none" else more + gain(
                    row["choice"], row["value_label"], row["updated"], target)
                rows.append({**row, "target": target, "split": split, "seed": 0, "metric": "R1",
                             "value": 40 + 3 * split + added})
    return pd.DataFrame(rows).drop(columns="where")


def test_value_differs_from_its_default_in_the_named_setting_alone():
    fields = {"momentum": {"tta_momentum"}, "optimiser": {"tta_optimizer", "tta_lr"},
              "epochs": {"tta_epochs"}, "bnneck": {"follow_bnneck"}, "distance": {"normalise_features"},
              "stripes": {"model"}, "reduction": {"matching_reduction"}, "margin": {"margin"},
              "lambda3": {"lambda3"}}
    assert fields.keys() == CHOICES.keys()
    for name, choice in CHOICES.items():
        usual = choice.default.run
        for value in choice.values:
            own = value.run
            assert own.overrides.keys() == usual.overrides.keys()
            assert own.options.keys() == usual.options.keys()
            ours, theirs = ({**r.overrides, **r.options} for r in (own, usual))
            changed = {k for k in ours if ours[k] != theirs[k]}
            changed |= {"model"} if own.model != usual.model else set()
            assert (changed <= fields[name] and bool(changed)) != value.default
            assert own.adapter == "bnta" and own.sample is None


def test_labels_are_unique_and_name_the_number():
    for choice in EVERY:
        assert sum(value.default for value in choice.values) == 1
        labels = [value.label for value in choice.values]
        assert len(set(labels)) == len(labels) >= 2
        for value in choice.values:  # a label says the number that is set
            for number in value.run.overrides.values():
                if isinstance(number, float):
                    assert f"{number:g}" in value.label
    methods = [run.method for run in choices.planned()["run"]]
    assert len(set(methods)) == len(methods)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_the_marked_default_is_what_the_profile_does(profile):
    own = settings(profile)
    for choice in (*CHOICES.values(), AFFINE):
        for key, value in choice.default.run.overrides.items():
            assert asdict(own)[key] == value
        assert choice.default.run.model == "bnta"
    assert CHOICES["bnneck"].default.run.options == {"follow_bnneck": True}  # that of adapt()
    assert READINGS.default.label == "alone"


def test_settings_that_are_not_the_marked_defaults_are_refused():
    with pytest.raises(ValueError, match="tta_momentum=0.3"):
        choices.choice_rows({}, {"GRID": None}, settings("smoke", tta_momentum=0.3), {}, False)


def test_the_reference_is_the_same_network_and_distance_without_adaption():
    plan = choices.planned().set_index(["choice", "value_label", "updated"])["run"]
    for choice in CHOICES.values():
        for value in choice.values:
            before, read = plan[choice.name, value.label, "none"], "normalise_features"
            assert (before.adapter, before.model) == ("none", value.run.model)
            assert before.overrides.get(read) == value.run.overrides.get(read)


@pytest.fixture(scope="module")
def small():
    return settings("smoke", base_width=4, local_dim=8, tta_batch=4, tta_seeds=2)


@pytest.fixture(scope="module")
def models(small):
    made = {}
    for seed, name in enumerate(("bnta", "other_stripes")):
        torch.manual_seed(seed)
        made[name] = BNTANet(6, model_settings(small, name)).eval()
    return made


def places(height):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (18, 3, height, 48), dtype=torch.uint8, generator=random)
    cameras = torch.tensor([1, 2]).repeat_interleave(9)
    data = ReIDSet("dots", images, torch.arange(1, 10).repeat(2), cameras)
    return {"dots": Target(data, (Split(torch.arange(9), torch.arange(9, 18)),))}


@pytest.mark.parametrize("name", ["momentum", "optimiser", "reduction", "margin", "lambda3", "bnneck"])
def test_idle_settings_change_nothing(name, models, small):
    """Each part alone, with all of the value's settings, does what it does without the idle."""
    images = places(96)["dots"].data.images
    run = CHOICES[name].values[-1].run
    for part, quantities in choices.PARTS.items():
        short = choices.alone(run, part)
        full = adapt(models["bnta"], images, replace(small, **run.overrides),
                     **{**run.options, "quantities": quantities}).model
        own = replace(small, **short.overrides)
        less = adapt(models["bnta"], images, own, **short.options).model
        for (key, a), b in zip(full.state_dict().items(), less.state_dict().values()):
            assert torch.equal(a, b), (part, key)


def test_every_value_is_measured_against_its_own_reference(models, small, monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    scale = {"bnta": 1000, "other_stripes": 2000}

    def fake(run, model, shared, split, own, seed):
        assert (shared.target.data.images.shape[2] == 128) == (run.model == "other_stripes")
        value = scale[run.model] + 100 * (not own.normalise_features) + 10 * own.tta_momentum
        return [{"metric": "R1", "value": value + (run.adapter == "bnta"), "unit": "%"}]

    monkeypatch.setattr(experiments, "_measure", fake)
    rows = choices.choice_rows(models, places(96), small, places(128), progress=False)
    gains = choices.split_gains(rows)
    moved = gains["choice"].eq("momentum") & gains["updated"].ne("gamma+beta")
    assert gains.loc[~moved, "gain"].to_numpy() == pytest.approx(1)  # and not 1001 or 101
    own = gains[moved & gains["updated"].eq("all")]
    momentum = own["value_label"].astype(float)
    assert own["gain"].to_numpy() == pytest.approx(1 + 10 * (momentum - 0.1))
    assert set(gains["choice"]) == {choice.name for choice in EVERY}


def test_value_that_diverges_is_named_and_takes_no_other_with_it(
        models, small, monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))

    def fake(run, model, shared, split, own, seed):
        if own.tta_optimizer == "sgd" and own.tta_lr == 0.05:
            raise FloatingPointError("the adaption loss is nan")
        return [{"metric": "R1", "value": 1.0 * (run.adapter == "bnta"), "unit": "%"}]

    monkeypatch.setattr(experiments, "_measure", fake)
    rows = choices.choice_rows(models, places(96), small, places(128), progress=False)
    assert choices.diverged(rows).values.tolist() == [
        ["optimiser", "sgd 0.05", "all", "dots"], ["optimiser", "sgd 0.05", "gamma+beta", "dots"],
        ["affine", "sgd 0.05, 1 epoch", "gamma+beta", "dots"], ["affine", "sgd 0.05, 4 epochs", "gamma+beta", "dots"]]
    measured = set(choices.split_gains(rows).query("updated == 'all'")["value_label"])
    assert "sgd 0.05" not in measured and {"sgd 0.005", "adam 0.005"} <= measured
    table = choices.survival(rows)
    assert table.loc["adaption raises rank 1", "diverged: values"] == 1
    drawn = every_figure(rows)
    for name in ("optimiser", "affine", "overview"):
        texts = [text.get_text() for axis in drawn[name].axes for text in axis.texts]
        assert choices.DIVERGED in texts


def test_a_run_at_the_usual_rates_that_diverges_is_an_error(models, small, monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))

    def fake(*_):
        raise FloatingPointError("the adaption loss is nan")

    monkeypatch.setattr(experiments, "_measure", fake)
    with pytest.raises(FloatingPointError):
        choices.choice_rows(models, places(96), small, places(128), progress=False)


def test_gain_without_its_reference_is_refused():
    rows = made(lambda *_: 1.0)
    lost = rows[~((rows["choice"] == "stripes") & (rows["updated"] == "none"))]
    with pytest.raises(ValueError, match="stripes: height"):
        choices.split_gains(lost)


def test_gains_and_their_intervals_agree_with_scipy():
    rows = made(lambda c, v, u, t: 2.0 if v == "0.3" else 0.5)
    keys = ["choice", "value_label", "updated", "target"]
    gains = choices.gain_rows(rows).set_index(keys)
    row = gains.loc["momentum", "0.3", "all", "GRID"]
    own = rows.query("choice == 'momentum' and value_label == '0.3' and target == 'GRID'")
    by = own.pivot(index="split", columns="updated", values="value")
    oracle = stats.ttest_rel(by["all"], by["none"])
    interval = oracle.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(2.0)
    assert (row["low"], row["high"], row["p"]) == pytest.approx((*interval, oracle.pvalue))
    assert row["more"] == pytest.approx(1.5) and not row["default"]
    assert gains.loc["momentum", "0.1", "all", "GRID"]["more"] == 0
    assert (row["verdict"], row["more_verdict"]) == ("holds", "holds")


def test_survival_counts_what_holds_and_names_what_turns_the_sign():
    def gain(choice, label, updated, target):
        if updated == "all":
            if target == "VIPeR":
                return -1.0 if (choice, label) != ("momentum", "0.01") else 1.0
            if target == "iLIDS":
                return 0.0
            return -2.0 if label in ("adam 0.005", "raw") else 3.0
        if updated == "mu+var":
            return 5.0 if (choice, label) == ("momentum", "1") else 1.0
        return 2.0

    table = choices.survival(made(gain)).set_index("target", append=True)
    all_values = sum(len(c.values) - 1 for c in CHOICES.values())
    everywhere = sum(len(c.values) - 1 for c in CHOICES.values() if c.everywhere)
    viper, grid, ilids = (table.loc["adaption raises rank 1", t] for t in TARGETS)
    assert (grid["under the defaults"], grid["other values"]) == ("holds", all_values)
    assert grid[COUNTS].tolist() == [all_values - 2, 2, 0, 0]
    assert grid["sign turned by"] == "optimiser: adam 0.005; distance: raw"
    assert (viper["under the defaults"], viper["holds: values"]) == ("does not hold", 1)
    assert viper["sign turned by"] == "momentum: 0.01"
    assert (ilids["under the defaults"], ilids["sign turned by"]) == ("not resolved", "no sign to turn")
    assert ilids["not resolved: values"] == ilids["other values"] == everywhere
    # Asked with the momentum's five values, the epochs' two, the rates' five, the other reading.
    order = table.loc["γ and β alone do more than μ and σ² alone", "GRID"]
    assert (order["other values"], order["does not hold: values"], order["sign turned by"]) == (13, 1, "momentum: 1")
    # No rate can touch what the statistics do alone, no momentum what gamma and beta do.
    assert table.loc["γ and β alone raise rank 1", "GRID"]["of which choices"] == "optimiser 5, epochs 2, readings 1"
    assert table.loc["μ and σ² alone raise rank 1", "GRID"]["other values"] == 5 + 2 + 1


def test_one_split_resolves_no_conclusion():
    table = choices.survival(made(lambda *_: 3.0, splits=1))
    assert set(table["under the defaults"]) == {"not resolved"}
    assert set(table["sign turned by"]) == {"no sign to turn"}
    assert not table[["holds: values", "does not hold: values"]].to_numpy().any()


def test_each_comparison_is_counted_once():
    table = choices.judged(made(lambda c, v, u, t: 0.0))
    assert not table.duplicated(["conclusion", "target", "choice", "value_label"]).any()
    counts = choices.comparisons(table)
    assert counts["comparisons"] == len(table) and counts["resolved"] == 0


def test_table_of_a_choice_has_a_row_a_target_and_value():
    gains = choices.gain_rows(made(lambda c, v, u, t: 4.0 if (c, v) == ("momentum", "1") else 1.0))
    table = choices.choice_table(gains, "momentum")
    assert len(table) == 3 * len(CHOICES["momentum"].values)
    row = table.loc[("GRID", "1")]
    assert (row["verdict"], row["more_verdict"]) == ("holds", "holds") and row["more"] == pytest.approx(3)


def test_folder_takes_the_place_of_the_papers_target():
    rows = made(lambda *_: 1.0, targets=("shop",))
    assert set(choices.survival(rows)["target"]) == {"shop"}
    picks = choices.picks(choices.gain_rows(rows))
    assert picks.loc["shop", "elsewhere"] == "" and np.isnan(picks.loc["shop", "elsewhere gain"])


def test_value_picked_elsewhere_knows_nothing_of_the_target():
    def gain(choice, label, updated, target):
        if (choice, label) == ("momentum", "1"):
            return 9.0 if target == "GRID" else -5.0
        return {"4": 3.0, "2": 2.0}.get(label, 1.0) if choice == "epochs" else 0.0

    picks = choices.picks(choices.gain_rows(made(gain)))
    assert picks.loc["GRID", ["best", "elsewhere"]].tolist() == ["momentum: 1", "epochs: 4"]
    gains = picks.loc["GRID", ["default", "best gain", "elsewhere gain"]].tolist()
    assert gains == pytest.approx([0, 9, 3])


def every_figure(rows):
    figures_ = {c.name: figures.choice_figure(rows, c) for c in CHOICES.values()}
    return figures_ | {"readings": figures.choice_figure(rows, READINGS),
                       "affine": figures.choice_figure(rows, AFFINE, cited=6.4),
                       "overview": figures.overview_figure(rows)}


@pytest.mark.parametrize("splits, targets", [(3, TARGETS), (1, ("shop",))])
def test_every_figure_names_its_axes_and_targets(splits, targets):
    for name, figure in every_figure(made(lambda *_: 1.0, targets, splits)).items():
        if splits == 1:
            figure.canvas.draw()
        assert all(axis.get_xlabel() for axis in figure.axes), name
        labels = [axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes]
        assert "rank 1, points" in labels[0], name
        titles = {axis.get_title() for axis in figure.axes}
        assert any(target in title for title in titles for target in targets), name


def test_rows_that_were_not_measured_are_empty():
    rows = made(lambda *_: 1.0)
    lacking = (rows["target"] == "iLIDS") & (rows["choice"] == "epochs") & (rows["value_label"] == "4")
    figure = figures.overview_figure(rows[~lacking])
    said = {axis.get_title(): sum(text.get_text() == "not measured" for text in axis.texts)
            for axis in figure.axes}
    assert said == {"VIPeR": 3, "GRID": 0, "iLIDS": 4}  # reduction, margin, and the weight are GRID's


def test_marks_of_the_overview_have_no_names():
    figure = figures.overview_figure(made(lambda *_: 1.0))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["default, 95 % interval", "another value", "gain under the defaults", "no gain"]
    choices_named = [text.get_text() for text in figure.axes[0].texts]
    assert "lambda3" not in choices_named and any("lambda_3" in name for name in choices_named)


def test_a_figure_shows_the_mean_of_each_value_and_rings_the_default():
    rows = made(lambda c, v, u, t: float(v) if c == "margin" else 0.0)
    figure = figures.choice_figure(rows, CHOICES["margin"])
    (axis,) = figure.axes
    means = [container[0].get_ydata()[0] for container in axis.containers]
    assert means == pytest.approx([0.0, 0.1, 0.3, 1.0, 3.0])
    (ring,) = [line for line in axis.lines if line.get_markersize() == 9]
    assert list(ring.get_ydata()) == pytest.approx([0.3]) and ring.get_xdata()[0] == axis.containers[2][0].get_xdata()[0]
