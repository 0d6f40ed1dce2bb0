"""Distance of BN outputs from the source's: moments, draws and tables."""

import pytest
import torch

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import bn_layers
from bnta_lib.suite import shift as shifts
from bnta_lib.suite.shift import bn_moments, bn_outputs, channel_distances, shift_by_layer


@pytest.fixture
def moments(model, images):
    return bn_moments(model, images, batch=4)


def test_moments_are_those_of_all_outputs_whatever_the_batch(model, images, moments):
    assert list(moments) == list(bn_layers(model))
    for layer, values in bn_outputs(model, images, ("backbone.bn1", "bnneck", "parts.2.1"), 10**6).items():
        values = values.double()
        assert moments[layer][0] == pytest.approx(values.mean(1), abs=1e-5)
        assert moments[layer][1] == pytest.approx(values.std(1, correction=0), abs=1e-5)


def test_outputs_keep_to_the_limit_and_are_drawn_the_same_every_time(model, images):
    few, again, every = (bn_outputs(model, images, ["backbone.bn1"], limit)["backbone.bn1"]
                         for limit in (500, 500, 10**6))
    assert few.shape == (4, 500) and torch.equal(few, again)
    assert every.shape == (4, 10 * 24 * 12)
    assert few.mean(1) == pytest.approx(every.mean(1), abs=0.3)


def test_outputs_are_the_layers_own_and_not_what_the_next_ones_make_of_them(model, images):
    with torch.no_grad():
        expected = model.backbone.bn1(model.backbone.conv1((images * model.scale + model.shift).float()))
    for few in (images, images[:1]):  # outputs of one image come as a view
        outputs = bn_outputs(model, few, ["backbone.bn1"], 10**6)["backbone.bn1"]
        own = expected[: len(few)].transpose(0, 1).flatten(1)
        assert own.min() < 0
        # Places come in the order of memory.
        assert outputs.sort(1).values == pytest.approx(own.sort(1).values, abs=1e-5)


def test_measuring_in_eval_mode_leaves_the_model_as_it_was(model, images, moments):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert all(map(torch.equal, bn_moments(model, images, batch=4)["bnneck"], moments["bnneck"]))
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()


def test_distance_of_gaussians_by_hand():
    source = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
    target = torch.tensor([3.0, 1.0]), torch.tensor([5.0, 1.0])
    assert channel_distances(source, target).tolist() == [5.0, 1.0]  # 3-4-5, and 2 to 1
    assert shift_by_layer({"bn": source}, {"bn": target})["distance"].tolist() == [2.0]  # 3, in units of 1.5


def test_channel_shift_counts_in_the_channels_own_deviations():
    random = torch.Generator().manual_seed(1)
    source = torch.randn(2, 20_000, generator=random) * torch.tensor([[1.0], [10.0]])
    moved = shifts.channel_shift(source, source + torch.tensor([[2.0], [20.0]]))
    assert moved.tolist() == pytest.approx([2, 2], rel=0.02)


def test_source_sample_takes_from_every_source():
    sets = []
    for size, value in ((7, 1), (1000, 2), (450, 3)):
        ones = torch.ones(size, dtype=torch.int64)
        sets.append(ReIDSet("s", torch.full((size, 3, 4, 2), value, dtype=torch.uint8), ones, ones))
    counts = torch.bincount(shifts.source_sample(sets, each=200)[:, 0, 0, 0].long())
    assert counts[1] == 7 and counts[2] == 200 and 100 < counts[3] <= 200
