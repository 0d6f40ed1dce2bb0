"""Figures of the network, of training, and of a site: they show the numbers that they were given."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.figures import network, site as pictures
from bnta_lib.model import bn_layers
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import STUDY, Estimate

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BNTANet(7, settings("smoke")).eval()


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 96, 48), dtype=torch.uint8, generator=random)


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_the_network_is_drawn_with_the_shapes_that_pass_through_it(model, images):
    own = settings("smoke")
    shapes = network.trace_shapes(model, images[:2])
    pairs = [(images[0], images[1], 2), (images[2], images[3], 5)]
    figure = network.network_figure(shapes, own, list(images[:3]), list(images[4:10]), pairs)
    said = texts(figure)
    with torch.no_grad():
        maps, out = model.forward_features(images[:2]), model(images[:2])
    assert f"{maps.shape[1]}×{maps.shape[2]}×{maps.shape[3]}" in said.replace(" ", "")
    assert f"f ({out.features.shape[1]})" in said
    assert re.search(r"M\s*=\s*7\b", said) and f"{own.width}" in said and "(13)" in said and "(14)" in said
    # every batch norm of E is counted on its box
    counts = shapes.set_index("part")["BN layers"]
    assert all(f"{counts[part]} BN" in said for part in ("layer1", "layer2", "layer3", "layer4"))


def test_stripes_are_framed_where_they_are_averaged(model, images):
    with torch.no_grad():
        maps = model.forward_features(images[:3])
    figure = network.stripes_figure(images[:3], maps, 6)
    figure.canvas.draw()
    assert len(figure.axes) == 6
    frames = [patch for patch in figure.axes[0].patches]
    assert [round(patch.get_y() - 1) for patch in frames] == [0, 16, 32, 48, 64, 80]
    assert "6 × 3 map" in figure.axes[1].get_title()


def test_shared_rows_are_counted():
    figure = network.stripe_choices_figure({"even": 6, "odd": 8}, 6)
    assert [axis.get_title() for axis in figure.axes] == ["even\n6 rows: none shared",
                                                          "odd\n8 rows: 4 shared"]


def test_every_bn_layer_has_a_bar_as_high_as_its_channels(model):
    figure = network.bn_figure(model)
    figure.canvas.draw()
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [layer.num_features
                                                          for layer in bn_layers(model).values()]
    assert axis.get_xlabel() and axis.get_ylabel() == "channels"


def test_training_curves_leave_out_what_was_not_trained():
    epochs = np.arange(1, 9)
    full = pd.DataFrame({"epoch": epochs, "L_id": 8 / epochs, "L_pos": 1 / epochs, "L_mat": 9 / epochs,
                         "accuracy": 1 - 1 / epochs, "lr": [0.1] * 5 + [0.01] * 3})
    plain = full.assign(L_pos=0.0, L_mat=0.0)
    figure = network.training_curves({"bnta": full, "baseline": plain}, 100)
    figure.canvas.draw()
    named = [[line.get_label() for line in axis.lines if not line.get_label().startswith("_")]
             for axis in figure.axes]
    assert named == [["BNTA", "Baseline"], ["BNTA"], ["BNTA"], ["BNTA", "Baseline"]]
    falls = [line.get_xdata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert falls == [5.5, 5.5]
    guess = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert guess == [pytest.approx(np.log(100))]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["BNTA", "Baseline", "the learning rate falls", "a uniform guess"]
    styles = [line.get_linestyle() for line in figure.legends[0].get_lines()]
    assert len(set(styles[2:])) == 2 and not set(styles[2:]) & set(styles[:2])


@pytest.mark.parametrize("tracks", [True, False])
def test_crops_are_shown_once_and_tracks_in_time(images, tracks):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    more = {"tracks": torch.arange(40) // 8 + 1, "times": order} if tracks else {}
    figure = pictures.crops_figure(Site("x", images, tuple(map(str, range(40))), **more), rows=2)
    said = texts(figure)
    shown = [image.get_array() for image in figure.axes[0].images]
    assert len(shown) == 32 and len({bytes(np.asarray(picture)) for picture in shown}) == 32
    assert len(re.findall("track", said)) == (4 if tracks else 0)
    if tracks:
        first = int(re.search(r"track (\d)", said)[1])
        own = torch.arange(40)[torch.arange(40) // 8 + 1 == first]
        own = own[order[own].argsort()]
        assert all((np.asarray(picture) == images[i].permute(1, 2, 0).numpy()).all()
                   for picture, i in zip(shown[:8], own.tolist()))


def test_neighbours_that_come_or_go_are_framed(images):
    before, after = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 1, 9], [4, 5, 6]])
    figure = pictures.neighbours_figure(images[:2], images, before, after, torch.tensor([0, 1]))
    assert texts(figure).split() == ["before", "after", "before", "after"]
    (axis,) = figure.axes
    framed = {(round(box.get_x()), round(box.get_y())) for box in axis.patches}
    shown = [(round(left), round(top), bytes(image.get_array())) for image in axis.images
             for left, _, _, top in [image.get_extent()]]
    photos = [picture for left, top, picture in shown if (left, top) in framed or (left + 1, top) in framed]
    expected = [0, 2, 9, 1]  # the probes; 2 went, 9 came
    assert photos == [bytes(images[i].permute(1, 2, 0).contiguous().numpy()) for i in expected]
    with pytest.raises(ValueError, match="no probe to show"):
        pictures.neighbours_figure(images[:2], images, before, after, torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("true", [None, (61.0, 62.0)])
def test_an_estimate_is_drawn_with_its_interval(true):
    figure = pictures.estimate_figure(Estimate(30, (90.0, 85.0, 94.0), (92.0, 88.0, 95.0), (2.0, -1.0, 5.0),
                                               3, 1), true)
    figure.canvas.draw()
    left, right = figure.axes
    assert left.get_xlabel() == "rank 1, %" and right.get_xlabel() == "after minus before, points"
    bars = [tuple(line.get_segments()[0][:, 0]) for line in (*left.collections, *right.collections)]
    assert bars == [(85.0, 94.0), (88.0, 95.0), (-1.0, 5.0)]
    assert len(figure.legends[0].get_texts()) == (1 if true is None else 2)


def test_the_committed_study_is_drawn():
    study = pd.read_csv(STUDY)
    figure = pictures.study_figure(study)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(study["adaption"].unique())
