"""The two other adapters: which tensors they move, and to what."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bnta_lib.adapters import adabn, batches, entropy, tent
from bnta_lib.model import bn_layers
from test_adaption import moved, same, state, stem_output


@pytest.mark.parametrize("adapter", ["adabn", "tent"])
def test_an_adapter_touches_the_given_model_or_the_random_state(model, images, small, adapter):
    model.backbone.layer2.train()
    model.fc_p.weight.requires_grad_(False)
    model.backbone.bn1.momentum = 0.37
    before, random = state(model), torch.get_rng_state()
    run = {"adabn": lambda: adabn(model, images, 4), "tent": lambda: tent(model, images, small, 4)}
    first, again = run[adapter](), run[adapter]()
    assert same(state(model), before) and torch.equal(torch.get_rng_state(), random)
    assert state(first)[1:] == before[1:]
    assert not moved(first, again)  # one seed, one result
    kinds = ("running_mean", "running_var") + (("weight", "bias") if adapter == "tent" else ())
    names = {f"{layer}.{kind}" for layer in bn_layers(model) for kind in kinds}
    unreached = {f"parts.{h}.1.{kind}" for h in range(3) for kind in ("weight", "bias")}
    assert moved(model, first) == names - unreached  # the entropy of G does not reach the parts


@pytest.mark.parametrize("batch", [4, 5, 64])
def test_adabn_statistics_are_not_the_averages_over_batches(model, images, batch):
    adapted = adabn(model, images, batch).backbone.bn1
    x = stem_output(model, images)
    parts = [x[index] for index in batches(len(images), batch, seed=0)]
    for kind, of in (("running_mean", torch.mean), ("running_var", torch.var)):
        expected = sum(of(part, (0, 2, 3)) for part in parts) / len(parts)
        torch.testing.assert_close(getattr(adapted, kind).double(), expected, rtol=1e-5, atol=1e-5)


def test_tent_does_not_lower_the_entropy(model, images, small):
    def measured(epochs):
        adapted = tent(model, images, replace(small, tta_lr=0.01, tta_epochs=epochs))
        with torch.no_grad():
            return float(entropy(adapted(images).logits).mean())

    torch.nn.init.normal_(model.fc_g.weight, std=0.05)
    assert measured(20) < 0.8 * measured(0)


def test_entropy_is_not_that_of_the_softmax():
    logits = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4], [0, 1000, 0, 0]], dtype=torch.float64)
    p = np.exp([1.0, 2, 3, 4]) / np.exp([1.0, 2, 3, 4]).sum()
    expected = [np.log(4), -(p * np.log(p)).sum(), 0]
    np.testing.assert_allclose(entropy(logits), expected, atol=1e-12)


@pytest.mark.parametrize("n", [4, 5, 7, 64, 65, 129])
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_a_batch_has_one_image_or_an_image_two_batches(n, size):
    found = batches(n, size, seed=1)
    assert sorted(torch.cat(list(found)).tolist()) == list(range(n))
    lengths = [len(b) for b in found]
    assert min(lengths) >= 2 and max(lengths) - min(lengths) <= 1
    assert max(lengths) <= max(size, 3)


def test_too_few_images_are_adapted_to(model, images, small):
    for run in (lambda: adabn(model, images[:3]), lambda: tent(model, images[:3], small)):
        with pytest.raises(ValueError, match="at least 4 images, got N = 3"):
            run()


def test_a_broken_model_or_a_rate_that_breaks_it_gives_a_model(model, images, small):
    with pytest.raises(ValueError, match="images must be uint8 .* got a ndarray"):
        adabn(model, images.numpy())
    before = state(model)
    with pytest.raises(FloatingPointError, match="the steps left values that are not finite .* lower tta_lr"):
        tent(model, images, replace(small, tta_lr=1e37, tta_epochs=2))
    assert same(state(model), before)
    with torch.no_grad():
        model.parts[1][0].weight[0] = torch.nan
    for run in (lambda: adabn(model, images), lambda: tent(model, images, small)):
        with pytest.raises(ValueError, match="NaN or infinite values .for one, in parts.1.0.weight"):
            run()
    with torch.no_grad():
        model.parts[1][0].weight.fill_(1e38)  # finite, and too much for what comes after it
    with pytest.raises(FloatingPointError, match="the adaption left values that are not finite"):
        adabn(model, images)
