"""Figures of the network, of training, and of a site: they show the numbers that they were given."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.figures import network
from bnta_lib.figures import site as pictures
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import Estimate

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture(scope="module")
def model():
    return BNTANet(7, settings("laptop")).eval()


def texts(figure):
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_the_network_is_drawn_with_the_shapes_that_pass_through_it(model, photos):
    own, shapes = settings("laptop"), network.trace_shapes(model, photos[:2])
    pairs = [(photos[0], photos[1], 2), (photos[2], photos[3], 5)]
    words = texts(network.network_figure(shapes, own, list(photos[:3]), list(photos[4:10]), pairs))
    with torch.no_grad():
        maps, out = model.forward_features(photos[:2]), model(photos[:2])
    assert "×".join(map(str, maps.shape[1:])) in words and f"f ({out.features.shape[1]})" in words
    assert re.search(r"M\s*=\s*7\b", words) and f"{own.width}" in words
    counts = shapes.set_index("part")["BN layers"]
    assert all(f"{counts[part]} BN" in words for part in ("layer1", "layer2", "layer3", "layer4"))


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
    figure = pictures.crops_figure(Site("x", photos[:40], tuple(map(str, range(40))), **more), rows=2)
    shown = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert len(shown) == len({picture.tobytes() for picture in shown}) == 32
    numbers = [int(number) for number in re.findall(r"track (\d)", texts(figure))]
    assert len(numbers) == (4 if tracks else 0)
    if tracks:
        rows = (track == numbers[0]).nonzero().flatten()
        for picture, row in zip(shown[:8], rows[order[rows].argsort()]):
            assert (picture == photos[row].permute(1, 2, 0).numpy()).all()


def test_neighbours_that_come_or_go_are_framed(photos):
    before, after = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 1, 9], [4, 5, 6]])
    figure = pictures.neighbours_figure(photos[:2], photos, before, after, torch.tensor([0, 1]))
    assert texts(figure).split() == ["before", "after", "before", "after"]
    (axis,) = figure.axes
    framed = {(round(box.get_x() - 0.5), round(box.get_y())) for box in axis.patches}
    shown = [bytes(image.get_array()) for image in axis.images
              if (round(image.get_extent()[0]), round(image.get_extent()[3])) in framed]
    # The probes; 2 went, 9 came.
    assert shown == [bytes(photos[i].permute(1, 2, 0).contiguous().numpy()) for i in (0, 2, 9, 1)]
    with pytest.raises(ValueError, match="no probe to show"):
        pictures.neighbours_figure(photos[:2], photos, before, after, torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("true", [None, (61.0, 62.0)])
def test_an_estimate_is_drawn_with_its_interval(true):
    figure = pictures.estimate_figure(
        Estimate(30, (90.0, 85.0, 94.0), (92.0, 88.0, 95.0), (2.0, -1.0, 5.0), 3, 1), true)
    left, right = figure.axes
    assert left.get_xlabel() == "rank 1, %" and right.get_xlabel() == "after minus before, points"
    bars = [tuple(line.get_segments()[0][:, 0]) for line in (*left.collections, *right.collections)]
    assert bars == [(85.0, 94.0), (88.0, 95.0), (-1.0, 5.0)]
    assert len(figure.legends[0].get_texts()) == (1 if true is None else 2)
