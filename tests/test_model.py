"""The network against torchvision's ResNet-50, the counts of the paper, and plain loops."""

import math
import urllib.request
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms.functional import normalize

from bnta_lib import adapt
from bnta_lib.model import (
    Backbone,
    BNTANet,
    InstanceNorm,
    batches,
    bn_layers,
    count_parameters,
    embed,
    fused,
    layers_of,
    load_imagenet,
)
from bnta_lib.settings import settings


@pytest.fixture(scope="module")
def full() -> BNTANet:
    """The paper's network of 18,530 people, without memory for its weights."""
    with torch.device("meta"):
        return BNTANet(18_530, settings("paper"))


def test_full_size_counts_are_the_papers(full):
    assert count_parameters(full) == {
        "BN layers": 60,
        "BN gamma+beta": 60_288,
        "IN gamma+beta": 3_584,
        "Conv and linear": 93_024_448,
    }

    def size(kind, start):
        return sum(p.numel() for n, layer in layers_of(full, kind).items() for p in layer.parameters()
                   if n.startswith(start))

    assert sum(p.numel() for p in full.parameters()) == 60_288 + 3_584 + 93_024_448
    summands = [size("conv", start) for start in ("backbone.", "parts.", "fc_g", "fc_m.", "fc_p")]
    assert summands == [23_454_912, 3_145_728, 37_949_440, 28_462_080, 12_288]
    assert [size("bn", start) for start in ("backbone.", "bnneck", "parts.")] == [53_120, 4_096, 3_072]


def test_layer_indices_fit_figure_3_and_only_the_bias_of_bnneck_is_frozen(full):
    names = list(bn_layers(full))
    assert names[0] == "backbone.bn1"
    assert names[51] == "backbone.layer4.2.bn2"
    assert names[53] == "bnneck"
    assert names[54:] == [f"parts.{h}.1" for h in range(6)]
    assert [n for n, p in full.named_parameters() if not p.requires_grad] == ["bnneck.bias"]


@pytest.mark.parametrize("last_stride", [1, 2])
def test_backbone_without_instance_norm_is_torchvisions_resnet50(last_stride):
    torch.manual_seed(0)
    theirs = resnet50(weights=None)
    if last_stride == 1:
        theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    ours = Backbone(64, last_stride)
    extra = {k for k in ours.state_dict() if "instance_norm" in k}
    assert ours.state_dict().keys() - extra == theirs.state_dict().keys() - {"fc.weight", "fc.bias"}

    for layer in layers_of(ours, "in"):
        ours.get_submodule(layer.rpartition(".")[0]).instance_norm = None
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    for name, tensor in state.items():
        if tensor.ndim == 1:  # all that a BN layer holds
            tensor.copy_(torch.rand_like(tensor) / 2 + (0 if "mean" in name else 0.5))
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        stem = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem))))
        found = ours.eval()(x)
    assert 0.2 < (found > 0).double().mean() < 1  # neither dead nor past the reach of a ReLU
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_instance_norm_is_after_the_sum_and_before_the_relu_of_three_last_blocks():
    torch.manual_seed(0)
    backbone = Backbone(4).eval()
    blocks = "layer1.2", "layer2.3", "layer3.5"
    assert list(layers_of(backbone, "in")) == [f"{block}.instance_norm" for block in blocks]
    torch.nn.init.constant_(backbone.layer2[-1].instance_norm.bias, 100.0)
    x = torch.randn(2, 16, 16, 8)
    with torch.no_grad():
        out = backbone.layer2(x)  # at +100 the ReLU leaves the normalised sum as it is
    torch.testing.assert_close(out.mean((2, 3)), torch.full((2, 32), 100.0))
    torch.testing.assert_close(out.var((2, 3), unbiased=False), torch.ones(2, 32), atol=1e-2, rtol=0)
    torch.nn.init.constant_(backbone.layer2[-1].instance_norm.bias, 0.0)
    with torch.no_grad():
        assert backbone.layer2(x).min() == 0


def test_images_are_normalised_as_imagenets(model, images):
    expected = normalize(images / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), model.backbone(expected),
                                   rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [3, 6, 8, 16, 2])
def test_stripes_are_means_of_adaptive_bins(model, rows):
    maps = torch.randn(2, 4, rows, 3, dtype=torch.float64)
    stripes = model.stripe_pool(maps)
    assert stripes.shape == (2, 3, 4)
    for h in range(3):
        first, last = math.floor(h * rows / 3), math.ceil((h + 1) * rows / 3)
        torch.testing.assert_close(stripes[:, h], maps[:, :, first:last].mean((2, 3)))


def test_local_features_are_convolution_norm_relu_of_each_part(model):
    stripes = torch.randn(4, 3, 128)
    with torch.no_grad():
        local = model.local_features(stripes)
        for h, (conv, bn, _) in enumerate(model.parts):
            x = stripes[:, h] @ conv.weight[:, :, 0, 0].T
            x = (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
            torch.testing.assert_close(local[:, h], x.clamp(min=0))


def test_forward_gives_the_documented_shapes_and_heads(model, images):
    with torch.no_grad():
        out = model(images)
    assert [tuple(t.shape) for t in out] == [(10, 128), (10, 5), (10, 3, 3), (10, 3, 8), (10, 3, 5)]
    torch.testing.assert_close(out.logits, out.features @ model.fc_g.weight.T)
    with torch.no_grad():
        maps = model.forward_features(images)
    torch.testing.assert_close(out.features, model.bnneck(maps.mean((2, 3))))
    torch.testing.assert_close(out.positions, model.stripe_pool(maps) @ model.fc_p.weight.T)
    for h in range(3):
        torch.testing.assert_close(out.local_logits[:, h], out.local[:, h] @ model.fc_m[h].weight.T)


def test_embedding_does_not_depend_on_batch_or_mode(model, images):
    with torch.no_grad():
        expected = model(images)
    model.train()
    for batch in (1, 3, 256):
        features, local = embed(model, images, batch)
        # Another batch, another algorithm: some processors end 1e-5 away, with all 60 layers behind them.
        torch.testing.assert_close(features, expected.features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(local, expected.local, rtol=1e-4, atol=1e-4)
    assert all(m.training for m in model.modules())
    assert not features.requires_grad


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs_and_keeps_the_memory_format(order):
    torch.manual_seed(0)
    ours = InstanceNorm(6, affine=True)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 1.5)
        ours.bias.normal_()
    given = (torch.randn(3, 6, 5, 4) * 3 + 50).to(memory_format=order)  # far from zero: no sum of squares
    pulled, results = torch.randn(3, 6, 5, 4), []
    for module in (nn.InstanceNorm2d.forward, InstanceNorm.forward):
        x = given.clone().requires_grad_()
        out = module(ours, x)
        grads = torch.autograd.grad((out * pulled).sum(), [x, ours.weight, ours.bias])
        results.append([out, *grads])
        kept = out.is_contiguous(memory_format=order)
    assert kept, "the maps are in another order than they came"
    for theirs, mine in zip(*results):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


def test_fusing_keeps_the_function_and_the_model(model, images):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        twin = fused(model.backbone)
        torch.testing.assert_close(twin(model.normalised(images)), model.forward_features(images),
                                   rtol=1e-3, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
    assert len([m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]) == 53
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_bad_images_and_those_of_another_size_are_refused(model, images, small):
    with pytest.raises(ValueError, match="no images to embed"):
        embed(model, images[:0])
    for bad in (images.float(), images[:, :1], images[0], images.numpy()):
        with pytest.raises(ValueError, match=r"images must be uint8 \(N, 3"):
            embed(model, bad)
    local = embed(model, images)[1][:8]
    for height, width in ((64, 24), (48, 32), (24, 48)):
        odd = torch.zeros(8, 3, height, width, dtype=torch.uint8)
        for use, *more in ((embed,), (adapt, small), (partial(adapt, local=local), small)):
            with pytest.raises(ValueError, match=f"takes images of 48 x 24 pixels.*got {height} x {width}"):
                use(model, odd, *more)
        other = BNTANet(5, replace(small, height=height, width=width))
        other.load_state_dict(model.state_dict())
        embed(other, odd)  # the size is no part of the network


@pytest.fixture(scope="module")
def wide() -> BNTANet:
    """A network of full width, whose backbone takes ImageNet's weights."""
    return BNTANet(2, settings("smoke", base_width=64))


def test_imagenet_file_in_torchs_folder_fills_the_backbone(wide, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = resnet50(weights=None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    load_imagenet(wide)
    ours = wide.backbone.state_dict()
    for name, tensor in theirs.state_dict().items():
        assert name.startswith("fc.") or torch.equal(ours[name], tensor), name


def test_absent_imagenet_weights_and_a_narrow_model_are_refused(wide, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setenv("no_proxy", "")
    # urllib keeps the first opener, proxies included: one made here must not serve other tests.
    monkeypatch.setattr(urllib.request, "_opener", None)
    with pytest.raises(FileNotFoundError, match=r"put https://.*pth into .*checkpoints, or train without"):
        load_imagenet(wide)
    with pytest.raises(ValueError, match="ImageNet weights fit base_width=64 only"):
        load_imagenet(model)


@pytest.mark.parametrize("n", [2, 4, 5, 7, 64, 65, 129, 200])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 64])
def test_every_image_is_in_one_of_even_batches_of_at_least_two(n, size):
    random = torch.Generator().manual_seed(0)
    first, second = (batches(n, size, random) for _ in range(2))
    for drawn in (first, second):
        assert sorted(torch.cat(list(drawn)).tolist()) == list(range(n))
        lengths = [len(batch) for batch in drawn]
        assert min(lengths) >= 2 and max(lengths) - min(lengths) <= 1 and max(lengths) <= max(size, 3)
    assert n < 7 or not torch.equal(torch.cat(list(first)), torch.cat(list(second)))
