"""Figures draw what they are given, with named axes. (How they look is a matter of looking.)"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.suite.ablations import TABLE_5
from bnta_lib.evaluation import Ranking
from bnta_lib.figures import adaption, base, shift, tables
from bnta_lib.model import bn_layers
from bnta_lib.pairing import Pairs

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (80, 3, 96, 48), dtype=torch.uint8, generator=random)


@pytest.fixture(scope="module")
def layers():
    return list(bn_layers(BNTANet(3, settings("smoke", base_width=4, local_dim=8))))


def some_pairs(k: int) -> Pairs:
    index = torch.arange(2 * k).view(k, 2)
    return Pairs(index, torch.arange(k) % 6, torch.linspace(0.1, 1, k, dtype=torch.float64))


def drawn(figure):
    figure.canvas.draw()
    return figure


def is_labelled(figure):
    """Every axis that holds data says what it shows, itself or through its row or figure."""
    names = figure.get_supxlabel() + "".join(a.get_xlabel() + a.get_ylabel() for a in figure.axes)
    return bool(names.strip()) and any(a.get_ylabel() for a in figure.axes)


@pytest.mark.parametrize("k", [2, 12, 14, 30])
def test_every_couple_is_shown_once_with_its_distance(images, k):
    pairs = some_pairs(k)
    figure = drawn(adaption.pairs_figure(images, pairs, settings("smoke")))
    texts = [t.get_text() for axis in figure.axes for t in axis.texts]
    assert len(texts) == len(set(texts)) == min(k, 24)
    assert texts[0] == "part 1: 0.100" and texts[-1] == f"part {(k - 1) % 6 + 1}: 1.000"


@pytest.mark.parametrize("stride, size, rows", [(1, (96, 48), (16, 32)), (1, (256, 128), (32, 96)),
                                                (2, (256, 128), (32, 96))])
def test_the_outlined_stripe_is_the_one_that_is_pooled(stride, size, rows):
    chosen = settings("smoke", last_stride=stride, height=size[0], width=size[1])
    pairs = Pairs(torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([0.5]).double())
    figure = adaption.pairs_figure(torch.zeros(2, 3, *size, dtype=torch.uint8), pairs, chosen)
    box = [p for axis in figure.axes for p in axis.patches][0]
    assert (box.get_y() + 0.5, box.get_y() + 0.5 + box.get_height()) == rows


def test_pair_statistics_name_their_axes():
    random = torch.rand(300, dtype=torch.float64)
    figure = adaption.pair_statistics_figure(some_pairs(20), random, torch.arange(300) % 6, 6)
    assert is_labelled(drawn(figure))
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)


def test_losses_show_all_three_models_in_both_terms():
    table = pd.DataFrame([{"seed": s, "step": i, "pos": i + s, "mat": i * s}
                          for s in range(2) for i in (1, 2)])
    figure = drawn(adaption.losses_figure(table, table + 1, table + 2))
    assert len(figure.axes) == 2 and is_labelled(figure)
    assert len(figure.legends[0].get_texts()) == 3


def some_changes(layers, rate):
    """rate(index, layer, quantity, seed) of two seeds."""
    return pd.DataFrame([
        {"index": i, "layer": name, "quantity": q, "seed": s, "rate": rate(i, name, q, s)}
        for i, name in enumerate(layers, 1) for q in ("mean", "var", "gamma", "beta") for s in (0, 1)])


def test_changes_leave_out_what_did_not_move(layers):
    changes = some_changes(layers, lambda i, name, q, s: float("nan") if (name, q) == ("bnneck", "beta")
                           else 0.0 if name == "bnneck" else 0.01 * i)
    figure = drawn(adaption.changes_figure(changes))
    assert len(figure.axes) == 4 and is_labelled(figure)
    assert all(len(axis.lines[0].get_xdata()) == 59 for axis in figure.axes)
    nothing = drawn(adaption.changes_figure(changes.assign(rate=0.0)))
    assert len(nothing.axes[0].lines[0].get_xdata()) == 0


def test_a_layer_that_moved_on_one_seed_of_two_has_no_dot(layers):
    changes = some_changes(layers, lambda i, name, q, s: 0.0 if i == 59 and s == 0 else 0.001)
    for axis in drawn(adaption.changes_figure(changes)).axes:
        seen = dict(zip(*axis.lines[0].get_data()))
        assert len(seen) == 60 and seen[59] == pytest.approx(0.05)
        (low, _), (_, high) = axis.collections[0].get_segments()[58]
        assert (low, high) == (59, pytest.approx(0.1))
        least, most = axis.get_ylim()
        assert axis.collections[0].get_segments()[58][0][1] == least < 0.05 and most > 0.1


@pytest.mark.parametrize("least", [0.00011, 0.00021, 0.00051, 0.0009])
@pytest.mark.parametrize("spread", [1, 1.5, 4, 9, 300])
def test_a_narrow_log_axis_has_one_label(layers, least, spread):
    changes = some_changes(layers, lambda i, name, q, s: least * spread ** ((i - 1) / 59))
    for axis in drawn(adaption.changes_figure(changes)).axes[:4]:
        low, high = axis.get_ylim()
        labels = [t.get_text() for y, t in zip(axis.get_yticks(), axis.get_yticklabels()) if low <= y <= high]
        assert len(set(labels)) == len(labels) >= 2 and all(labels)


def test_right_and_wrong_are_told_by_mark_and_not_by_colour_alone(images):
    right = torch.zeros(5, 10, dtype=torch.bool)
    right[0, 3] = True
    before = Ranking(torch.arange(50).view(5, 10), right, torch.tensor([4, 11, 12, 13, 14]))
    after = Ranking(before.index.flip(1), right.flip(1), torch.tensor([7, 11, 12, 13, 14]))
    chosen = {"improved": torch.tensor([0]), "median": torch.tensor([], dtype=torch.int64)}
    figure = drawn(adaption.retrieval_figure(images, images, before, after, chosen))
    texts = [t.get_text() for axis in figure.axes for t in axis.texts]
    assert texts.count("✓") == 2 and texts.count("×") == 18
    assert any("rank 4" in t for t in texts) and any("rank 7" in t for t in texts)
    with pytest.raises(ValueError, match="at least one"):
        adaption.retrieval_figure(images, images, before, after, {})


def test_figure_1_writes_the_distance_beside_each_curve():
    random = torch.Generator().manual_seed(0)
    outputs = {t: {k: torch.randn(4, 500, generator=random) + i for i, k in enumerate(shift.KINDS)}
               for t in ("VIPeR", "GRID", "iLIDS")}
    distances = {t: {"frozen": 0.25, "adapted": 0.125} for t in outputs}
    figure = drawn(shift.figure_1(outputs, distances))
    assert is_labelled(figure) and len(figure.axes) == 3
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["source", "target, frozen, d = 0.250", "target, adapted, d = 0.125"]


def test_densities_integrate_to_one():
    edges = np.linspace(-6, 6, 301)
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    density = shift._density(values, edges)
    assert density.sum() * (edges[1] - edges[0]) == pytest.approx(1, abs=1e-3)
    assert density.max() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=0.05)


def test_a_channel_that_puts_out_one_value_can_be_drawn():
    outputs = {"VIPeR": {kind: torch.zeros(2, 50) for kind in shift.KINDS}}
    drawn(shift.figure_1(outputs, {"VIPeR": {"frozen": 0.0, "adapted": 0.0}}))


def test_distances_have_a_panel_a_target_and_mark_the_layer(layers):
    table = pd.DataFrame([
        {"target": t, "model": m, "index": i, "layer": name, "distance": 1 / i}
        for t in ("VIPeR", "GRID") for m in ("frozen", "adapted")
        for i, name in enumerate(layers, 1)])
    figure = drawn(shift.distances_figure(table, layers[4]))
    assert len(figure.axes) == 2 and is_labelled(figure)
    assert figure.axes[0].lines[-1].get_xdata()[0] == 5


@pytest.mark.parametrize("splits", [1, 2, 10])
def test_table_2s_figure_has_a_dot_for_every_split(splits):
    rows = pd.DataFrame([
        {"target": t, "method": m, "split": s, "seed": 0, "metric": "R1", "value": 10.0 * i + s % 3}
        for t in ("VIPeR", "my_folder") for i, m in enumerate(("BNTA w/o TTA", "BNTA"))
        for s in range(splits)])
    figure = drawn(tables.methods_figure(rows))
    assert is_labelled(figure)
    assert len(figure.axes[0].lines[0].get_xdata()) == splits
    assert figure.axes[0].get_xticklabels()[1].get_text() == "BNTA"


def test_whiskers_of_two_kinds_are_not_named():
    rows = pd.DataFrame([
        {"target": "VIPeR", "method": m, "split": s, "seed": 0, "metric": "R1", "value": 1.0 * s}
        for m in ("BNTA w/o TTA", "BNTA") for s in range(3)])
    above, below = tables.methods_figure(rows).axes
    assert "std over splits" in above.get_ylabel() and "95 % interval" in below.get_ylabel()


@pytest.mark.parametrize("splits", [1, 2, 10])
@pytest.mark.parametrize("target", ["GRID", "my_folder"])
def test_gains_show_every_split_and_the_papers_difference_only_on_its_target(splits, target):
    rows = pd.DataFrame([
        {"table": e, "target": t, "method": run.method, "split": s, "seed": 0, "metric": "R1",
         "value": 10.0 * i + s % 3 * i}
        for e, ts in (("table_5", (target, "other")), ("table_5_restore", (target,)))
        for t in ts for i, run in enumerate(TABLE_5["alone"]) for s in range(splits)])
    figure = drawn(tables.gains_figure(rows))
    assert is_labelled(figure)
    shown = [axis.get_title() for axis in figure.axes]
    diamonds = [[line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
                for axis in figure.axes]
    if target == "GRID":
        assert shown == ["GRID, the paper's target", "other"] and not diamonds[1]
        expected = [v - 42.4 for v in (44.9, 43.5, 45.2, 47.5, 46.8, 48.8, 51.1)]
        assert sorted(set(diamonds[0])) == pytest.approx(sorted(expected))
    else:
        assert diamonds == [[], []]
    for axis, series in zip(figure.axes, (14, 7)):  # both readings; one
        dots = [line for line in axis.lines if line.get_marker() in ("s", "o")]
        assert len(dots) == series and all(len(line.get_xdata()) == splits for line in dots)


def test_stages_cover_the_sixty_layers_once(layers):
    runs = base.stages(layers)
    assert [label for label, _, _ in runs] == [
        "stem", "layer1", "layer2", "layer3", "layer4", "bnneck", "parts"]
    assert [i for _, a, b in runs for i in range(a, b + 1)] == list(range(1, 61))


def test_saved_figures_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "figures_dir", lambda profile: tmp_path / profile)

    def saved():
        figure, axis = plt.subplots()
        axis.plot([1, 2])
        return [p.read_bytes() for p in base.save_figure(figure, "figure_1", "smoke")]

    assert saved() == saved()
    names = sorted(p.name for p in (tmp_path / "smoke").iterdir())
    assert names == ["figure_1.pdf", "figure_1.png"]
