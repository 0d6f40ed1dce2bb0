"""Which BN layers move (Figure 3), and how far their outputs lie from the source's (Figure 1)."""


import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib.adaption import QUANTITIES
from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import bn_layers
from bnta_lib.suite import layers
from bnta_lib.suite.layers import bn_moments, bn_outputs, shift_by_layer

LAYERS = ["backbone.bn1", *(f"backbone.layer1.{i}.bn1" for i in range(52)), "bnneck",
          *(f"parts.{i}.1" for i in range(6))]


def rates_of(rate, splits=3, targets=("VIPeR", "GRID")):
    """Change rates with the value rate(target, quantity, index, split), from rows that hold losses too."""
    rows = [{"target": t, "split": s, "metric": f"rate {q}", "index": float(i), "layer": layer,
             "value": rate(t, q, i, s)}
            for t in targets for s in range(splits) for q in QUANTITIES
            for i, layer in enumerate(LAYERS, start=1)]
    losses = [{"target": t, "split": 0, "metric": "pos frozen", "index": 0.0, "layer": "", "value": 9.0}
              for t in targets]
    rates = layers.change_rates_by_split(pd.DataFrame(rows + losses))
    assert len(rates) == len(rows) and set(rates["quantity"]) == set(QUANTITIES)
    return rates


def test_top_layers_are_chosen_by_their_mean_over_targets_and_stand_in_order():
    # Layer 60 is largest at GRID alone, and 3 and 40 at both: the mean decides.
    value = {("GRID", 60): 10, ("GRID", 3): 8, ("VIPeR", 3): 8, ("GRID", 40): 9, ("VIPeR", 40): 9}
    rates = rates_of(lambda t, q, i, s: value.get((t, i), 0.1))
    assert layers.top_layers(rates, "mean", 2) == [3, 40]
    assert layers.top_layers(rates, "mean", 3) == [3, 40, 60]


def test_targets_that_differ_are_told_from_splits_that_do():
    random = np.random.default_rng(0)
    apart = rates_of(lambda t, q, i, s: 5 * (t == "GRID") + 5 + random.normal(0, 0.1))
    alike = rates_of(lambda t, q, i, s: np.nan if q == "beta" and i == 54 else 0.0 if i == 55 else
                     5 + random.normal(0, 1), splits=10)
    assert (layers.between_targets(apart)["share"] == 100).all()
    alike = layers.between_targets(alike).set_index("quantity")
    assert (alike["share"] < 15).all()
    # Layers that never move are not counted.
    assert alike["layers"].to_dict() == {"mean": 59, "var": 59, "gamma": 59, "beta": 58}


# ---- distance from the source


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
    # 5 (3-4-5) and 1 (2 to 1) are 3 on average, in units of 1.5.
    assert shift_by_layer({"bn": source}, {"bn": target})["distance"].tolist() == [2.0]


def test_source_sample_takes_from_every_source():
    sets = []
    for size, value in ((7, 1), (1000, 2), (450, 3)):
        ones = torch.ones(size, dtype=torch.int64)
        sets.append(ReIDSet("s", torch.full((size, 3, 4, 2), value, dtype=torch.uint8), ones, ones))
    counts = torch.bincount(layers.source_sample(sets, each=200)[:, 0, 0, 0].long())
    assert counts[1] == 7 and counts[2] == 200 and 100 < counts[3] <= 200
