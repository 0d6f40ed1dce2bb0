"""Guards: what stops an adaption, what it says, and that sound adaptions pass unchanged."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_adaption import moved, state
from torch.nn import functional as F

from bnta_lib.adapters import ADAPTERS
from bnta_lib.adaption import adapt
from bnta_lib.by_camera import PLACE
from bnta_lib.model import bn_layers, embed
from bnta_lib.settings import ROOT
from bnta_lib.site import guards
from bnta_lib.site.guards import AdaptionStopped, Guards, duplicates, guarded_adapt, moves, spread
from bnta_lib.weights import bn_tensors
from conftest import noise

OPEN = Guards(min_images=0, max_move=math.inf, min_spread=0)


@pytest.fixture
def settings(small):
    """Five pairs in batches of two: three steps an epoch."""
    return replace(small, tta_batch=2, tta_lr=0.01)


def test_guards_that_stop_nothing_do_not_change_an_adaption(model, images, settings):
    plain = adapt(model, images, settings)
    local = embed(model, images)[1]
    for options in ({}, {"pairs": plain.pairs, "local": local}):
        guarded, table = guarded_adapt(model, images, settings, OPEN, **options)
        assert not moved(plain.model, guarded.model) and plain.losses.equals(guarded.losses)
        assert state(guarded.model)[2:] == state(plain.model)[2:]
        assert table["guard"].tolist() == ["images", "loss", "move", "spread"]
        assert table["step"].tolist() == [0, 3, 3, 3]
        assert table["measured"].iloc[1] == plain.losses["total"].iloc[-1]


def stopped(model, images, settings, limits, **options):
    """The AdaptionStopped that the adaption raises, once it is known to have touched nothing."""
    before, pixels, random = state(model), images.clone(), torch.get_rng_state()
    with pytest.raises(AdaptionStopped, match="The model is unchanged") as caught:
        guarded_adapt(model, images, settings, limits, **options)
    assert state(model) == before and torch.equal(images, pixels)
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()
    return caught.value


def test_too_small_a_gallery_and_one_of_copies_are_refused(model, images, settings, monkeypatch):
    monkeypatch.setattr(guards, "SAME", 0)  # the small network's features are near each other
    stop = stopped(model, images, settings, Guards())
    assert (stop.reason, stop.step) == ("images", 0)
    assert "only 10 of 10 images are different without near-duplicates, and 16 are needed" in str(stop)
    assert stop.measured.set_index("guard").loc["images", ["measured", "limit"]].tolist() == [10, "≥ 16"]
    copies = images[torch.arange(40) % 10]
    stop = stopped(model, copies, settings, Guards())
    assert "only 10 of 40 images are different" in str(stop)


@pytest.mark.parametrize("layers, batch", [(("conv",), 2), (("bn",), 2), (("conv",), 5)])
def test_a_loss_or_tensor_that_is_not_finite_stops(model, images, settings, layers, batch):
    wild = replace(settings, tta_optimizer="sgd", tta_lr=1e38, tta_batch=batch, lambda3=1e6, margin=2.0)
    stop = stopped(model, images, wild, replace(OPEN, max_move=1e300), layers=layers)
    assert stop.reason in ("loss", "move") and stop.step == 1 and "tta_lr" in str(stop)
    assert not math.isfinite(stop.measured.set_index("guard")["measured"][stop.reason])


def test_layers_that_move_too_far_stop(model, images, settings):
    stop = stopped(model, images, replace(settings, tta_momentum=1.0), replace(OPEN, max_move=0.2))
    assert (stop.reason, stop.step) == ("move", 1)  # at once, and not at the end
    row = stop.measured.set_index("guard").loc["move"]
    assert row["measured"] > 0.2 and row["what"] in bn_layers(model)
    assert row["what"] in str(stop) and "max_move" in str(stop)
    with torch.no_grad():
        model.backbone.bn1.weight.fill_(torch.inf)
    broken = moves(model, model)
    assert not torch.isfinite(broken[0]) and torch.isfinite(broken[1:]).all()


def test_features_that_collapse_stop(model, images, settings):
    stop = stopped(model, images, replace(settings, tta_lr=0.3), replace(OPEN, min_spread=0.8),
                   quantities=("gamma", "beta"))
    assert (stop.reason, stop.step) == ("spread", 3) and "features have collapsed" in str(stop)
    one = images[:1].repeat(10, 1, 1, 1)  # has no spread to lose
    assert guarded_adapt(model, one, settings, replace(OPEN, min_spread=1))[1]["measured"].iloc[-1] == 1


@pytest.fixture
def place(monkeypatch):
    """Images of a hall, a dark yard, a gate with too few, and three of no known camera."""
    monkeypatch.setattr(guards, "LEAST", 6)
    camids, images = torch.tensor([3, 1, 2] * 5 + [0, 1, 2] * 3), noise(24, 3, 48, 24, seed=2)
    images[camids == 2] //= 8
    return images, camids, {1: "hall", 2: "yard", 3: "gate"}


def test_camera_gets_what_its_images_alone_give_or_the_delta_of_all(model, settings, place):
    images, camids, names = place
    deltas, table = guards.guarded_by_camera(model, *place, settings, "tent", OPEN, seed=3)
    assert {k: delta.meta["name"] for k, delta in deltas.items()} == {PLACE: "all crops", **names}
    for camera, rows in ((PLACE, camids >= 0), (1, camids == 1), (2, camids == 2), (3, camids >= 0)):
        alone = bn_tensors(ADAPTERS["tent"](model, images[rows], settings, seed=3))
        assert all(torch.equal(deltas[camera].tensors[name], tensor) for name, tensor in alone.items())
    assert [*table["images"]] == [24, 8, 8, 5] and [*table["refused"]] == ["", "", "", "fewer than 6 images"]


def test_delta_of_a_camera_that_a_guard_refuses_is_not_used(model, settings, place):
    place[0][place[1] == 1] = place[0][:1].clone()  # a picture of a person, taken for one
    moved = guards.guarded_by_camera(model, *place, settings, guards=OPEN)[1]["move"].drop("gate")
    far, collapsed = Guards(max_move=moved.nlargest(2).mean(), min_spread=0), Guards(max_move=math.inf)
    for limits, name, word in ((far, moved.idxmax(), "move over"), (collapsed, "hall", "spread under 0.75")):
        deltas, table = guards.guarded_by_camera(model, *place, settings, guards=limits)
        assert table["refused"][name].startswith(word) and (table["refused"] != "").sum() == 2
        shared = {delta.meta["name"] for delta in deltas.values() if delta.tensors is deltas[PLACE].tensors}
        assert shared == {"all crops", "gate", name}
    with pytest.raises(AdaptionStopped, match="of all crops together was refused: move over 0.001"):
        guards.guarded_by_camera(model, *place, settings, guards=Guards(max_move=0.001))


def test_spread_is_the_mean_distance_of_directions():
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    expected = np.mean([np.linalg.norm(a - b) for i, a in enumerate(unit) for b in unit[:i]])
    assert spread(x) == pytest.approx(expected, rel=1e-5) == spread(1000 * x)


def test_move_is_that_of_the_layers_outputs(model):
    """By sampling inputs of the source's statistics and letting torch's batch norm work."""
    after, random = copy.deepcopy(model.requires_grad_(False)), torch.Generator().manual_seed(3)
    for layer in bn_layers(after).values():
        for old in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
            old.mul_(0.5 + torch.rand(old.shape, generator=random))
    measured = moves(model, after)
    assert measured.shape == (57,)
    for index in (0, 20, 53, 56):
        old, new = (list(bn_layers(m).values())[index].double() for m in (model, after))
        e = torch.randn(40_000, old.num_features, generator=random, dtype=torch.float64)
        x = old.running_mean + (old.running_var + old.eps).sqrt() * e
        y, z = (F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)
                for n in (old, new))
        size = (y - old.bias).square().mean().sqrt()
        assert float(measured[index]) == pytest.approx(float((z - y).square().mean().sqrt() / size), rel=0.02)


def test_repeated_images_are_counted_as_by_hand(images):
    apart, twice, near = torch.eye(10).view(10, 2, 5), images.clone(), torch.eye(10).view(10, 2, 5)
    twice[[4, 7]] = images[[0, 0]]
    near[[3, 5, 6]] = apart[[0, 0, 2]] * 7 + 0.1  # of another size, and nearly of the same direction
    changed = images[:1].repeat(10, 1, 1, 1)
    changed[range(10), 0, 0, range(10)] ^= 1  # one pixel each
    for pixels, local, limit, share in (
            (images, apart, 0.2, 0), (twice, apart, 0.2, 0.2), (twice.flip(0), apart, 0.2, 0.2),
            (images, near, 0.2, 0.3), (images, near, 0, 0), (twice, near, 0.2, 0.3), (changed, apart, 0, 0)):
        assert duplicates(pixels, local, limit) == pytest.approx(share)


@pytest.mark.parametrize("wrong", [
    dict(min_images=-1), dict(max_move=0), dict(max_move=math.nan), dict(min_spread=1.1)])
def test_threshold_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="a threshold is out of range"):
        Guards(**wrong)


def test_thresholds_lie_between_sound_and_harmful_runs():
    """The committed runs of benchmarks/guards.py, which the defaults were chosen from."""
    rows = pd.read_csv(ROOT / "figures" / "laptop" / "guards.csv", keep_default_na=False)
    limits, sound = Guards(), rows[rows["kind"] == "sound"]
    assert len(sound) == 9 and set(rows["target"]) == {"VIPeR", "GRID", "iLIDS"}
    assert (sound["stopped"] == "").all() and (sound["different"] >= 2 * limits.min_images).all()
    assert (sound["move"] < limits.max_move / 4).all() and (sound["spread"] > limits.min_spread + 0.1).all()
    lost = rows[rows["gain"] < -12.5]
    assert len(lost) == 4 and (lost["stopped"] != "").all()
    assert (rows.loc[rows["move"] > limits.max_move, "gain"] < -5).all()
    assert (rows.loc[rows["spread"] < limits.min_spread, "gain"] < -3.5).all()
    stops = {name: rows.loc[rows["stopped"] == name, name] for name in ("different", "move", "spread")}
    assert stops["different"].max() < limits.min_images and stops["spread"].max() < limits.min_spread
    assert stops["move"].min() > limits.max_move  # the table is of these defaults
