"""Models as other code leaves them: they give the same numbers, or a sentence about the argument."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

from bnta_lib import adapt, embed
from bnta_lib.adapters import ADAPTERS
from bnta_lib.by_camera import adapt_by_camera, embed_by_camera
from bnta_lib.evaluation import evaluate
from bnta_lib.model import BNTANet, bn_layers, fused, load_imagenet
from bnta_lib.settings import settings
from bnta_lib.site.guards import Guards, guarded_by_camera
from bnta_lib.weights import Delta, bn_tensors, load_model, save_model
from conftest import identical, noise


def compiled(model):
    with warnings.catch_warnings(action="ignore"):
        return torch.compile(model, backend="eager")


MODES = {"inference": torch.inference_mode, "no gradient": torch.no_grad,
         "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
WRAPPERS = {"none": lambda model: model, "DataParallel": nn.DataParallel, "compiled": compiled,
            "twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
            "frozen": lambda model: copy.deepcopy(model).requires_grad_(False)}


@pytest.mark.parametrize("mode, wrapper", [*((mode, "none") for mode in MODES), ("no gradient", "twice"),
                                           *(("no gradient", wrapper) for wrapper in WRAPPERS)])
def test_modes_and_wrappers_change_no_number(model, small, images, mode, wrapper):
    features, adapted = embed(model, images)[0], adapt(model, images, small)
    tents = ADAPTERS["tent"](model, images, small)
    wrapped, labels = WRAPPERS[wrapper](model), [range(1, 6)] * 2 + [[1] * 5, [2] * 5]
    scores = evaluate(features[:5], features[5:], *labels).row()
    with MODES[mode]():
        images = images.clone()  # made in that mode, as by a loader inside it
        assert torch.equal(embed(wrapped, images)[0], features)
        again = adapt(wrapped, images, small)
        assert identical(again.model, adapted.model) and type(again.model) is BNTANet
        assert identical(ADAPTERS["tent"](wrapped, images, small), tents)
        assert evaluate(features[:5], features[5:], *labels).row() == scores
        with again.delta.applied(wrapped):
            assert torch.equal(embed(wrapped, images)[0], embed(adapted.model, images)[0])
        assert torch.equal(embed(wrapped, images)[0], features)
        cameras = [1] * 5 + [2] * 5
        deltas = adapt_by_camera(wrapped, images, cameras, small, least=5)
        assert embed_by_camera(wrapped, images, cameras, deltas)[0].shape == features.shape


def test_model_that_was_made_in_inference_mode_adapts(model, small, images):
    with torch.inference_mode():
        made = copy.deepcopy(model)
    adapted = adapt(made, images, small)
    assert identical(adapted.model, adapt(model, images, small).model)
    assert torch.equal(embed(made, images)[0], embed(model, images)[0])
    with adapted.delta.applied(made):
        assert torch.equal(embed(made, images)[0], embed(adapted.model, images)[0])


def test_wrapped_model_is_saved_as_the_model(model, small, tmp_path):
    for name, given in (("plain", model), ("wrapped", nn.DataParallel(model))):
        save_model(given, tmp_path / name, small)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "wrapped").read_bytes()


def test_deltas_under_guards_take_lists(model, small):
    limits, images = Guards(max_move=float("inf"), min_spread=0), noise(40, 3, 48, 24, seed=1)
    made = [guarded_by_camera(model, images, camids, {1: "a", 2: "b"}, small, guards=limits)[1]
            for camids in ([1] * 5 + [2] * 35, np.array([1] * 5 + [2] * 35))]
    assert made[0].equals(made[1])


def of_tent(model):
    for layer in bn_layers(model).values():
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    return model


def folded(model):
    model.backbone = fused(model.eval().backbone)
    return model


def frozen(model):
    model.backbone.layer1[0].bn2 = FrozenBatchNorm2d(len(model.backbone.layer1[0].bn2.weight))
    return model


def hooked(model):
    model.backbone.layer4.register_forward_hook(lambda layer, _, maps: setattr(layer, "seen", maps))
    model(torch.zeros(2, 3, *model.size, dtype=torch.uint8))
    return model


def pruned(model):
    prune.custom_from_mask(model.backbone.conv1, "weight", torch.ones_like(model.backbone.conv1.weight))
    return model


@pytest.mark.parametrize("change, sentence", [
    (folded, "4 batch norms are left of 57, and"), (frozen, "56 batch norms are left of 57, and"),
    (hooked, "backbone.layer4.seen is the result of a computation"),
    (pruned, "backbone.conv1.weight is the result of a computation"),
    (of_tent, "backbone.bn1 has no running statistics"),
    (nn.Module.half, "weights of torch.float16 are too coarse to adapt: give model.float()"),
    (nn.Module.bfloat16, "weights of torch.bfloat16 are too coarse"),
    (nn.Module.state_dict, "model must be a BNTANet, got OrderedDict"),
    (lambda model: nn.Sequential(model), "model must be a BNTANet, got Sequential")])
def test_models_that_cannot_adapt_are_refused_by_what_they_are(model, small, images, change, sentence):
    changed = change(copy.deepcopy(model))
    for call in (adapt, ADAPTERS["adabn"], ADAPTERS["tent"]):
        with pytest.raises(ValueError, match=sentence):
            call(changed, images, small)
    with pytest.raises(ValueError, match=sentence):
        adapt_by_camera(changed, images, [1] * 10, small)
    embeds = "coarse" in sentence or "left" in sentence
    with contextlib.nullcontext() if embeds else pytest.raises(ValueError, match=sentence):
        embed(changed, images)


@pytest.mark.parametrize("write, sentence", [
    (lambda path: torch.save({"module.x": torch.ones(2)}, path), "a zip file, as of torch.save, of"),
    (lambda path: torch.save({}, path, _use_new_zipfile_serialization=False), "a pickle, as of torch.save"),
    (lambda path: path.write_text("<!DOCTYPE html><title>404</title>"), "a web page of 33 bytes"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS"),
    (lambda path: path.write_bytes(b""), "a file of 0 bytes")])
def test_file_under_a_wrong_name_is_refused_by_what_it_holds(small, tmp_path, write, sentence):
    path = tmp_path / "model.safetensors"
    write(path)
    for load in (lambda: load_model(path, small), lambda: Delta.load(path)):
        with pytest.raises(ValueError, match=sentence):
            load()


@pytest.mark.parametrize("spoil", [lambda state: {f"module.{name}": value for name, value in state.items()},
                                   lambda state: {"state_dict": state}, lambda state: {}])
def test_imagenet_weights_of_other_names_are_refused(monkeypatch, spoil):
    wide = BNTANet(2, settings("smoke", base_width=64))
    state = {name: value for name, value in wide.backbone.state_dict().items() if "instance" not in name}
    monkeypatch.setattr("torchvision.models.ResNet50_Weights.get_state_dict", lambda *_, **__: spoil(state))
    before = {name: value.clone() for name, value in bn_tensors(wide).items()}
    with pytest.raises(ValueError, match="lacks conv1.weight.*: delete it"):
        load_imagenet(wide)
    assert all(torch.equal(before[name], value) for name, value in bn_tensors(wide).items())
