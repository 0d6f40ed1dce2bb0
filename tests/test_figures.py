"""Figures draw what they are given, with named axes. (How they look is a matter of looking.)"""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from bnta_lib import BNTANet, settings
from bnta_lib.evaluation import Ranking
from bnta_lib.figures import adaption, base, network, results
from bnta_lib.figures import photos as sheets
from bnta_lib.pairing import Pairs
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import Estimate
from bnta_lib.suite.specs import TABLE_5

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture(scope="module")
def model():
    return BNTANet(7, settings("laptop")).eval()


def some_pairs(k: int) -> Pairs:
    index = torch.arange(2 * k).view(k, 2)
    return Pairs(index, torch.arange(k) % 6, torch.linspace(0.1, 1, k, dtype=torch.float64))


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts if text.get_text()]


def is_labelled(figure):
    """Every axis that holds data says what it shows, itself or through its row or figure."""
    names = figure.get_supxlabel() + "".join(a.get_xlabel() for a in figure.axes)
    return bool(names.strip()) and any(a.get_ylabel() for a in figure.axes)


@pytest.mark.parametrize("k", [2, 14, 30])
def test_every_couple_is_shown_once_with_its_distance(photos, k):
    figure = sheets.pairs_figure(photos, some_pairs(k), settings("laptop"))
    captions = [text for text in texts(figure) if text.startswith("part")]
    assert len(captions) == len(set(captions)) == min(k, 24)
    assert captions[0] == "part 1: 0.100" and captions[-1] == f"part {(k - 1) % 6 + 1}: 1.000"
    assert len(figure.axes[0].images) == 2 * min(k, 24)


@pytest.mark.parametrize("stride, size, rows", [(1, (96, 48), (16, 32)), (2, (256, 128), (32, 96))])
def test_outlined_stripe_is_the_one_that_is_pooled(stride, size, rows):
    current = settings("laptop", last_stride=stride, height=size[0], width=size[1])
    pairs = Pairs(torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([0.5]).double())
    figure = sheets.pairs_figure(torch.zeros(2, 3, *size, dtype=torch.uint8), pairs, current)
    top, box = figure.axes[0].images[0].get_extent()[3], figure.axes[0].patches[0]
    assert (box.get_y() - top, box.get_y() + box.get_height() - top) == pytest.approx(rows)


def test_right_and_wrong_differ_in_mark_and_frame(photos):
    right = torch.zeros(5, 10, dtype=torch.bool)
    right[0, 3] = True
    before = Ranking(torch.arange(50).view(5, 10), right, torch.tensor([4, 11, 12, 13, 0]))
    after = Ranking(before.index.flip(1), right.flip(1), torch.tensor([7, 11, 12, 13, 0]))
    selected = {"improved": torch.tensor([0]), "median": torch.tensor([], dtype=torch.int64)}
    figure = sheets.retrieval_figure(photos, photos, before, after, selected)
    words = texts(figure)
    assert words.count("✓") == 2 and words.count("×") == 18
    assert any("rank 4" in t for t in words) and any("rank 7" in t for t in words)
    assert len({box.get_edgecolor() for box in figure.axes[0].patches}) == 3  # right, wrong, the probe's
    lost = sheets.retrieval_figure(photos, photos, before, after, {"x": [4]})
    assert any("no match" in t for t in texts(lost))
    with pytest.raises(ValueError, match="at least one"):
        sheets.retrieval_figure(photos, photos, before, after, {})


def test_figure_1_writes_the_distance_beside_each_curve():
    values = np.random.default_rng(0).normal(size=(4, 500))
    outputs = {t: {k: values + i for i, k in enumerate(adaption.KINDS)} for t in ("VIPeR", "GRID")}
    figure = adaption.figure_1(outputs, {t: {"frozen": 0.25, "adapted": 0.125} for t in outputs})
    assert is_labelled(figure) and len(figure.axes) == 2
    legend = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert legend == ["source", "target, frozen, d = 0.250", "target, adapted, d = 0.125"]


@pytest.mark.parametrize("splits", [1, 10])
def test_table_2s_figure_has_a_dot_for_every_split_and_its_interval(splits):
    rows = pd.DataFrame([
        {"target": t, "method": m, "training": "bnta", "adapter": adapter, "split": s, "seed": 0,
         "metric": "R1", "value": 10.0 * i + s % 3 * (i + 1)}
        for t in ("VIPeR", "my_folder")
        for i, (m, adapter) in enumerate((("BNTA w/o TTA", "none"), ("BNTA", "bnta")))
        for s in range(splits)])
    figure = results.methods_figure(rows)
    above, below = figure.axes[0], figure.axes[2]
    assert above.get_yticklabels()[1].get_text() == "BNTA" and above.get_title() == "VIPeR"
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert "std over splits" in labels[1] and "95 % interval" in labels[3]
    assert len(above.lines[0].get_xdata()) == splits
    gain = rows[rows["target"] == "VIPeR"].pivot(index="split", columns="method", values="value")
    gain = (gain["BNTA"] - gain["BNTA w/o TTA"]).to_numpy()
    (low, high) = below.collections[0].get_segments()[0][:, 0]
    half = 0 if splits == 1 else stats.t.ppf(0.975, splits - 1) * gain.std(ddof=1) / np.sqrt(splits)
    assert (low, high) == pytest.approx((gain.mean() - half, gain.mean() + half))


@pytest.mark.parametrize("target, splits", [("GRID", 10), ("my_folder", 1)])
def test_gains_show_every_split_and_the_papers_difference_only_on_its_target(target, splits):
    rows = pd.DataFrame([
        {"table": e, "target": t, "method": run.method, "training": "bnta", "weights": "a",
         "adapter": run.adapter, "split": s, "seed": 0, "metric": "R1", "value": 10.0 * i + s % 3 * i}
        for e, ts in (("table_5", (target, "other")), ("table_5_restore", (target,)))
        for t in ts for i, run in enumerate(TABLE_5["alone"]) for s in range(splits)])
    figure = results.gains_figure(rows)
    assert is_labelled(figure)
    diamonds = [[x for line in axis.lines if line.get_marker() == "D" for x in line.get_xdata()]
                for axis in figure.axes]
    if target == "GRID":
        assert [axis.get_title() for axis in figure.axes] == ["GRID, the paper's target", "other"]
        expected = [v - 42.4 for v in (44.9, 43.5, 45.2, 47.5, 46.8, 48.8, 51.1)]
        assert sorted(set(diamonds[0])) == pytest.approx(sorted(expected)) and not diamonds[1]
    else:
        assert diamonds == [[], []]
    for axis, series in zip(figure.axes, (14, 7)):  # both readings; one
        dots = [line for line in axis.lines if line.get_marker() in ("s", "o")]
        assert len(dots) == series and all(len(line.get_xdata()) == splits for line in dots)


def test_saved_figures_are_the_same_bytes_each_time_and_hold_their_words(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "figures_dir", lambda run: tmp_path / run)

    def saved():
        figure = sheets.photo_sheet([[sheets.Photo(photos[0], "red"), "a text"]])
        shown = base.save_figure(figure, "figure_1", "smoke", "A line that rises: μ")
        return shown, {p.name: p.read_bytes() for p in sorted((tmp_path / "smoke").iterdir())}

    (shown, files), (_, again) = saved(), saved()
    assert files == again and list(files) == ["figure_1.pdf", "figure_1.png"]
    assert Image.open(tmp_path / "smoke" / "figure_1.png").info["Description"] == "A line that rises: μ"
    # Photographs are shown as JPEG.
    assert shown._repr_mimebundle_()[1] == {"image/jpeg": {"alt": "A line that rises: μ"}}


# ---------------------------------------------------------------- network, training, a site


def test_shapes_are_those_that_pass_through_the_network(model, photos):
    shapes = network.trace_shapes(model, photos[:2]).set_index("part")["shape"]
    with torch.no_grad():
        maps, out = model.forward_features(photos[:2]), model(photos[:2])
    passed = {"layer4": maps, "f": out.features, "FC_G": out.logits, "FC_P": out.positions}
    assert {part: shapes[part] for part in passed} == {part: (*x.shape[1:],) for part, x in passed.items()}


def test_training_curves_leave_out_what_was_not_trained():
    epochs = np.arange(1, 9)
    full = pd.DataFrame({"epoch": epochs, "L_id": 8 / epochs, "L_pos": 1 / epochs, "L_mat": 9 / epochs,
                         "accuracy": 1 - 1 / epochs, "lr": [0.1] * 5 + [0.01] * 3})
    figure = network.training_curves({"bnta": full, "baseline": full.assign(L_pos=0.0, L_mat=0.0)}, 100)
    named = [{line.get_label() for line in axis.lines} & {"BNTA", "Baseline"} for axis in figure.axes]
    assert named == [{"BNTA", "Baseline"}, {"BNTA"}, {"BNTA"}, {"BNTA", "Baseline"}]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["the learning rate falls"].get_xdata()[0] == 5.5
    assert lines["a uniform guess"].get_ydata()[0] == pytest.approx(np.log(100))
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(lines)


@pytest.mark.parametrize("tracks", [True, False])
def test_crops_are_shown_once_and_tracks_in_time(photos, tracks):
    order, track = torch.randperm(40, generator=torch.Generator().manual_seed(1)), torch.arange(40) // 8 + 1
    more = {"tracks": track, "times": order} if tracks else {}
    figure = sheets.crops_figure(Site("x", photos[:40], tuple(map(str, range(40))), **more), rows=2)
    shown = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert len(shown) == len({picture.tobytes() for picture in shown}) == 32
    numbers = [int(number) for number in re.findall(r"track (\d)", " ".join(texts(figure)))]
    assert len(numbers) == (4 if tracks else 0)
    if tracks:
        rows = (track == numbers[0]).nonzero().flatten()
        for picture, row in zip(shown[:8], rows[order[rows].argsort()]):
            assert (picture == photos[row].permute(1, 2, 0).numpy()).all()


def test_neighbours_that_come_or_go_are_framed(photos):
    before, after = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 1, 9], [4, 5, 6]])
    figure = sheets.neighbours_figure(photos[:2], photos, before, after, torch.tensor([0, 1]))
    assert texts(figure) == ["before", "after", "before", "after"]
    (axis,) = figure.axes
    corners = [box.get_xy() for box in axis.patches]
    framed = {(round(x - 0.5), round(y)) for x, y in corners}
    shown = [bytes(image.get_array()) for image in axis.images
              if (round(image.get_extent()[0]), round(image.get_extent()[3])) in framed]
    # The probes; 2 went, 9 came.
    assert shown == [bytes(photos[i].permute(1, 2, 0).contiguous().numpy()) for i in (0, 2, 9, 1)]
    with pytest.raises(ValueError, match="no probe to show"):
        sheets.neighbours_figure(photos[:2], photos, before, after, torch.tensor([], dtype=torch.int64))


def test_an_estimate_is_drawn_with_its_interval():
    figure = results.estimate_figure(
        Estimate(30, (90.0, 85.0, 94.0), (92.0, 88.0, 95.0), (2.0, -1.0, 5.0), 3, 1))
    left, right = figure.axes
    assert left.get_xlabel() == "rank 1 by tracks, %" and right.get_xlabel() == "after minus before, points"
    bars = [tuple(line.get_segments()[0][:, 0]) for line in (*left.collections, *right.collections)]
    assert bars == [(85.0, 94.0), (88.0, 95.0), (-1.0, 5.0)]
