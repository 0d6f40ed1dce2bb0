"""Adaption: what may move, what may not, and where it moves to by independent computation."""

import copy
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from test_losses import tta_by_loops
from torch.nn import functional as F

from bnta_lib.adaption import adapt, change_rates
from bnta_lib.model import bn_layers, embed, layers_of
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.weights import QUANTITIES as NAMES
from bnta_lib.weights import bn_tensors


def subsets(names):
    return [*chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))]


def three_pairs(first):
    return Pairs(torch.arange(first, first + 6).view(3, 2), torch.zeros(3).long(), torch.zeros(3).double())


def state(model):
    """Everything of a model that adaption could disturb, as comparable values."""
    def bits(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    return ({name: bits(tensor) for name, tensor in model.state_dict().items()},
            {name: bits(p.grad) for name, p in model.named_parameters()},
            [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
            [m.momentum for m in bn_layers(model).values()])


def moved(before, after):
    """Names of the tensors that differ."""
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    return {k for k in old if not torch.equal(old[k], new[k])}


@pytest.fixture
def settings(small):
    """Five pairs in batches of two: three steps an epoch, the last of a single pair."""
    return replace(small, tta_batch=2, tta_lr=0.01)


@pytest.fixture
def every_part(settings):
    """What gives every tensor a gradient: features whose pairs match on all three stripes."""
    local = torch.rand(10, 3, 8, generator=torch.Generator().manual_seed(0))
    assert set(nearest_pairs(local, 5).part.tolist()) == {0, 1, 2}
    return dict(local=local, settings=replace(settings, tta_batch=5, margin=50.0))


@pytest.fixture
def used(model):
    """A model in use: mixed modes, frozen parts, gradients."""
    model.backbone.layer2.train()
    model.fc_p.weight.requires_grad_(False)
    model.backbone.bn1.momentum = 0.37
    model.fc_g(torch.ones(2, 128)).sum().backward()
    return model


def test_given_model_and_random_state_are_untouched(used, images, settings):
    before, random = state(used), torch.get_rng_state()
    pixels = images.clone()
    result = adapt(used, images, settings, layers=("bn", "in", "conv"))
    assert state(used) == before and torch.equal(images, pixels)
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()
    assert state(result.model)[2:] == before[2:]  # modes, requires_grad and momentum of the copy
    assert all(p.grad is None for p in result.model.parameters())
    assert not {p.data_ptr() for p in used.parameters()} & {p.data_ptr() for p in result.model.parameters()}


@pytest.mark.parametrize("error, sentence, change, options", [
    (FloatingPointError, "the adaption loss at step 2 is not finite", dict(tta_lr=1e38), {}),
    (FloatingPointError, "a tensor after the last step is not finite",
     dict(tta_lr=1e38, tta_batch=5, lambda3=1e6, margin=2.0), {}),
    (ValueError, "2K <= N: got K = 6, N = 10", {}, dict(K=6)),
    (ValueError, "layers: any of bn, in, conv; got 'bn'", {}, dict(layers="bn")),
    (ValueError, "quantities: any of mean, var, gamma, beta", {}, dict(quantities=("mu",))),
    (ValueError, "losses: any of pos, mat", {}, dict(losses=("entropy",))),
    (ValueError, "reading: any of alone, restore; got .'both'", {}, dict(reading="both")),
    (ValueError, "are not the local features or pairs of 10 images", {}, dict(local=torch.rand(9, 3, 8))),
    (ValueError, "are not the local features or pairs of 10 images", {}, dict(pairs=three_pairs(5), K=3)),
    (ValueError, "no K = 4 pairs among 3", {}, dict(pairs=three_pairs(0), K=4)),
    (RuntimeError, "stop", {}, dict(on_step=lambda *_: exec('raise RuntimeError("stop")'))),
])
def test_an_error_leaves_the_model_untouched(used, images, settings, error, sentence, change, options):
    before, random = state(used), torch.get_rng_state()
    with pytest.raises(error, match=sentence):
        adapt(used, images, replace(settings, tta_optimizer="sgd", **change), **options)
    assert state(used) == before
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()


def test_on_step_sees_every_step(model, images, settings):
    seen = []
    result = adapt(model, images, settings, on_step=lambda step, adapted, losses: seen.append(
        (step, adapted.backbone.bn1.running_mean.clone(), losses["total"])))
    assert [step for step, *_ in seen] == [1, 2, 3]
    assert [total for *_, total in seen] == result.losses["total"].tolist()
    assert torch.equal(seen[-1][1], result.model.backbone.bn1.running_mean)
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("quantities", subsets(NAMES), ids="+".join)
def test_exactly_the_chosen_quantities_move(model, images, every_part, quantities):
    expected = {f"{layer}.{NAMES[q]}" for layer in bn_layers(model) for q in quantities
                if layer != "bnneck" or q in ("mean", "var")}
    for follow_bnneck in (True, False):
        result = adapt(model, images, quantities=quantities, follow_bnneck=follow_bnneck, **every_part)
        assert moved(model, result.model) == {
            name for name in expected if follow_bnneck or not name.startswith("bnneck.")}


@pytest.mark.parametrize("layers", subsets(("bn", "in", "conv")), ids="+".join)
def test_exactly_the_chosen_layers_move(model, images, every_part, layers):
    chosen = {name for kind in layers for name in layers_of(model, kind)}
    chosen -= {"fc_g", *(f"fc_m.{h}" for h in range(3))}  # outside both losses
    result = adapt(model, images, layers=layers, **every_part)
    names = moved(model, result.model)
    assert {name.rpartition(".")[0] for name in names} == chosen
    if "bn" in layers:  # every quantity of it, whatever else is adapted
        assert names >= {f"{layer}.{kind}" for layer in bn_layers(model) if layer != "bnneck"
                         for kind in NAMES.values()}
    if {"in", "conv"} & set(layers):
        with pytest.raises(ValueError, match="changed more than batch-norm layers"):
            _ = result.delta
    else:
        assert result.delta.tensors.keys() >= names


def stem_output(model, images):
    """What the stem's BN sees, in float64: (N, 4, 24, 12)."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    return F.conv2d((images / 255.0 - mean) / std, model.backbone.conv1.weight.detach().double(),
                    stride=2, padding=3)  # fmt: skip


@pytest.mark.parametrize("momentum", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_statistics_follow_the_running_average(model, images, settings, momentum, steps):
    # With every image in the one batch of an epoch, each step sees the same stem statistics.
    chosen = replace(settings, tta_momentum=momentum, tta_batch=5, tta_epochs=steps)
    result = adapt(model, images, chosen)
    x = stem_output(model, images)
    keep = (1 - momentum) ** steps
    old, new = model.backbone.bn1, result.model.backbone.bn1
    for before, after, batch in ((old.running_mean, new.running_mean, x.mean((0, 2, 3))),
                                 (old.running_var, new.running_var, x.var((0, 2, 3)))):
        expected = keep * before.double() + (1 - keep) * batch
        torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(new.num_batches_tracked, old.num_batches_tracked)


@pytest.mark.parametrize("losses", [("pos",), ("mat",), ("pos", "mat")])
def test_a_step_is_the_gradient_of_equation_13(model, images, settings, losses):
    # Plain gradient descent in eval mode: the change is the rate times the gradient.
    chosen = replace(settings, tta_optimizer="sgd", tta_batch=5, lambda3=0.7, margin=2.0)
    result = adapt(model, images, chosen, quantities=("gamma", "beta"), losses=losses)
    out = model(images[result.pairs.index.flatten()])  # of all pairs, as one batch
    pos = sum(F.cross_entropy(out.positions[:, h], torch.full((10,), h)) for h in range(3))
    mat = tta_by_loops(out.local, result.pairs.part, chosen.margin).sum()
    loss = pos * ("pos" in losses) + 0.7 * mat * ("mat" in losses)
    wanted = {"step": 1, "pos": pos.item(), "mat": mat.item(), "total": loss.item()}
    assert result.losses.iloc[0].to_dict() == pytest.approx(wanted, rel=1e-4)

    free = {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] in bn_layers(model)}
    model.bnneck.bias.requires_grad_(True)
    gradients = torch.autograd.grad(loss, free.values(), allow_unused=True)
    new = dict(result.model.named_parameters())
    largest = max(float(g.abs().max()) for g in gradients if g is not None)
    for (name, old), gradient in zip(free.items(), gradients):
        change = torch.zeros_like(old) if gradient is None else -0.01 * gradient
        torch.testing.assert_close(new[name] - old, change, rtol=1e-2, atol=1e-5 * largest, msg=name)


def test_all_steps_and_their_losses_are_recorded(model, images, settings):
    result = adapt(model, images, replace(settings, tta_epochs=2))
    assert result.losses["step"].tolist() == [1, 2, 3, 4, 5, 6]
    total = result.losses["pos"] + settings.lambda3 * result.losses["mat"]
    np.testing.assert_allclose(result.losses["total"], total, rtol=1e-6)
    assert (result.losses["mat"] == 0).sum() == 2  # the single pair at the end of each epoch
    without = adapt(model, images, settings, losses=())
    assert (without.losses["total"] == 0).all()
    names = moved(model, without.model)
    assert {name.rpartition(".")[2] for name in names} == {"running_mean", "running_var"}
    nothing = adapt(model, images, replace(settings, tta_epochs=0))
    assert not moved(model, nothing.model) and len(nothing.losses) == 0
    for adaption, count in ((result, 6), (nothing, 0)):
        rates = [(name, adaption.changes.query("quantity == @name")["rate"].mean()) for name in NAMES]
        moves = ", ".join(f"{name} {100 * rate:.2g} %" for name, rate in rates)
        assert adaption.summary().startswith(f"5 pairs, {count} steps, ")
        assert adaption.summary().endswith(f"mean change rate: {moves}")


def test_pairs_are_algorithm_1_of_the_given_model(model, images, settings):
    local = embed(model, images)[1]
    expected = nearest_pairs(local, 5)
    for given in ({}, {"local": local}, {"pairs": expected}):
        result = adapt(model, images, settings, **given)
        assert torch.equal(result.pairs.index, expected.index)
        assert torch.equal(result.pairs.part, expected.part)
    for given in ({}, {"pairs": expected}):
        assert torch.equal(adapt(model, images, settings, K=3, **given).pairs.index, expected.index[:3])
    assert len(adapt(model, images[:9], settings).pairs.index) == 4  # N // 2
    assert len(adapt(model, images[:4], replace(settings, K=1)).losses) == 1


def test_a_seed_gives_one_result_and_another_seed_another(model, images, settings):
    first = adapt(model, images, settings, seed=3)
    torch.manual_seed(99)
    again, other = (adapt(model, images, settings, seed=seed) for seed in (3, 4))
    assert not moved(first.model, again.model)
    assert first.losses.equals(again.losses) and first.changes.equals(again.changes)
    assert moved(first.model, other.model)


@pytest.mark.parametrize("quantities", [("mean",), ("var", "gamma"), ()], ids="+".join)
def test_the_restore_reading_keeps_the_values_of_full_adaption(model, images, settings, quantities):
    full = adapt(model, images, settings).model.state_dict()
    restored = adapt(model, images, settings, quantities=quantities, reading="restore").model
    kept = tuple(NAMES[q] for q in quantities)
    for name, tensor in restored.state_dict().items():
        chosen = name.rpartition(".")[0] in bn_layers(model) and name.endswith(kept) and kept
        assert torch.equal(tensor, full[name] if chosen else model.state_dict()[name]), name


def test_change_rates_are_the_sums_worked_by_hand(model):
    after = copy.deepcopy(model)
    old, new = model.backbone.bn1, after.backbone.bn1
    for layer, mean, var in ((old, [1.0, -1, 2, 0], [1.0, 4, 1, 1]),
                             (new, [2.0, -1, 0, 0], [2.0, 4, 1, 1])):
        layer.running_mean.copy_(torch.tensor(mean))
        layer.running_var.copy_(torch.tensor(var))
        layer.eps = 0.0
    with torch.no_grad():
        old.bias.zero_()
    table = change_rates(bn_tensors(model), after).set_index(["layer", "quantity"])
    assert len(table) == 4 * 57
    mean, var, beta = (table.loc[("backbone.bn1", q)] for q in ("mean", "var", "beta"))
    assert (mean["index"], mean["rate"], var["rate"]) == (1, 3 / 4, pytest.approx(1 / 7))
    assert np.isnan(beta["rate"])  # nothing to relate its move to
    assert (table.loc[table["index"] > 1, "rate"] == 0).all()
    assert list(table["index"]) == [i for i in range(1, 58) for _ in range(4)]


def test_delta_records_all_that_decided_it(model, images, small):
    meta = adapt(model, images, small, K=3, seed=5, follow_bnneck=False, losses=("pos",)).delta.meta
    given = {"N": 10, "K": 3, "seed": 5, "layers": ["bn"], "quantities": list(NAMES), "losses": ["pos"],
             "reading": "alone", "follow_bnneck": False, "size": [48, 24]}
    assert given.items() <= meta.items()
    read = ("margin", "lambda3", "matching_reduction", "tta_batch", "tta_epochs", "tta_lr", "tta_optimizer",
            "tta_momentum")
    assert meta["settings"] == {name: getattr(small, name) for name in read}


def test_the_reduction_of_equation_8_is_the_settings(model, images, every_part):
    own, local = every_part["settings"], every_part["local"]
    mean = replace(own, matching_reduction="mean")
    one, other = (adapt(model, images, s, local=local).losses["mat"][0] for s in (own, mean))
    assert one == pytest.approx(5 * other, rel=1e-5)
