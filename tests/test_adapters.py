"""The other adapters: which tensors they move, and to what."""

from dataclasses import replace

import pytest
import torch
from test_adaption import moved, state, stem_output
from torch.distributions import Categorical

from bnta_lib import adapt
from bnta_lib.adapters import ADAPTERS, adabn, adapter, alpha_bn, tent
from bnta_lib.model import batches, bn_layers


@pytest.mark.parametrize("name", ["adabn", "alpha_bn", "tent"])
def test_adapters_leave_the_given_model_and_the_random_state_untouched(model, images, small, name):
    model.backbone.layer2.train()
    model.fc_p.weight.requires_grad_(False)
    model.backbone.bn1.momentum = 0.37
    before, random = state(model), torch.get_rng_state()
    first, again = (ADAPTERS[name](model, images, small) for _ in range(2))
    assert state(model) == before and torch.equal(torch.get_rng_state(), random)
    assert state(first)[1:] == before[1:]
    assert not moved(first, again)  # one seed, one result
    kinds = ("running_mean", "running_var") + (("weight", "bias") if name == "tent" else ())
    names = {f"{layer}.{kind}" for layer in bn_layers(model) for kind in kinds}
    unreached = {f"parts.{h}.1.{kind}" for h in range(3) for kind in ("weight", "bias")}
    assert moved(model, first) == names - unreached  # the entropy of G does not reach the parts


@pytest.mark.parametrize("batch", [4, 6, 64])
def test_adabn_statistics_are_the_averages_over_batches(model, images, small, batch):
    adapted = adabn(model, images, replace(small, tta_batch=batch // 2)).backbone.bn1
    x = stem_output(model, images)
    parts = [x[index] for index in batches(len(images), batch, torch.Generator().manual_seed(0))]
    for kind, of in (("running_mean", torch.mean), ("running_var", torch.var)):
        expected = sum(of(part, (0, 2, 3)) for part in parts) / len(parts)
        torch.testing.assert_close(getattr(adapted, kind).double(), expected, rtol=1e-5, atol=1e-5)


def test_tent_lowers_the_entropy(model, images, small):
    def measured(epochs):
        adapted = tent(model, images, replace(small, tta_lr=0.01, tta_epochs=epochs))
        with torch.no_grad():
            return float(Categorical(logits=adapted(images).logits).entropy().mean())

    torch.nn.init.normal_(model.fc_g.weight, std=0.05)
    assert measured(20) < 0.8 * measured(0)


def test_registry_holds_the_adapters_and_takes_new_ones(model, images, small, monkeypatch):
    assert {"none", "bnta", "adabn", "tent"} <= ADAPTERS.keys()
    assert ADAPTERS["none"](model, images, small) is model
    bnta = ADAPTERS["bnta"](model, images, small, seed=2, K=3)
    assert not moved(bnta, adapt(model, images, small, seed=2, K=3).model)
    monkeypatch.delitem(ADAPTERS, "tent")

    @adapter("tent")
    def other(model, images, settings, *, seed=0):
        return model

    assert ADAPTERS["tent"](model, images, small) is model


@pytest.mark.parametrize("name", ADAPTERS)
def test_bad_images_and_broken_models_are_refused(model, images, small, name):
    with pytest.raises(ValueError, match="images must be uint8 .* got ndarray"):
        ADAPTERS[name](model, images.numpy(), small)
    with pytest.raises(ValueError, match="at least 4 images, got N = 3"):
        ADAPTERS[name](model, images[:3], small)
    with torch.no_grad():
        model.parts[1][0].weight[0] = torch.nan
    with pytest.raises((FloatingPointError, ValueError), match="not finite|NaN"):
        ADAPTERS[name](model, images, small)


def test_a_rate_that_breaks_the_model_is_refused(model, images, small):
    before = state(model)
    with pytest.raises(FloatingPointError, match="a tensor of adabn is not finite: lower tta_lr"):
        tent(model, images, replace(small, tta_lr=1e37, tta_epochs=2))
    assert state(model) == before
    with torch.no_grad():
        model.parts[1][0].weight.fill_(1e38)  # finite, and too much for what comes after it
    with pytest.raises(FloatingPointError, match="a tensor of adabn is not finite"):
        adabn(model, images, small)


def test_alpha_bn_lies_between_the_source_and_adabn(model, images, small):
    whole = adabn(model, images, small)
    for alpha in (0.0, 0.25, 1.0):
        mixed = alpha_bn(model, images, small, alpha=alpha)
        for name, value in mixed.state_dict().items():
            source, target = model.state_dict()[name], whole.state_dict()[name]
            expected = source + alpha * (target - source) if value.is_floating_point() else source
            torch.testing.assert_close(value, expected)
    with pytest.raises(ValueError, match="alpha is a share"):
        alpha_bn(model, images, small, alpha=1.5)
