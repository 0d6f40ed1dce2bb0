"""A delta gives the adapted model and takes it back, bit by bit; what does not fit is refused."""

import copy
import json
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch

from bnta_lib.adaption import adapt
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.weights import QUANTITIES, Delta, bn_tensors, load_model, model_digest, save_model
from conftest import damaged, identical


@pytest.fixture
def adapted(model):
    """A copy whose BN tensors have moved."""
    random, other = torch.Generator().manual_seed(0), copy.deepcopy(model)
    with torch.no_grad():
        for layer in bn_layers(other).values():
            for kind in QUANTITIES.values():
                tensor = getattr(layer, kind)
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=random))
    return other


@pytest.fixture
def delta(model, adapted):
    return Delta(bn_tensors(adapted), model_digest(model), {"seed": 0})


def test_saved_delta_gives_the_adapted_model(model, images, small, tmp_path):
    result = adapt(model, images, small)
    result.delta.save(tmp_path / "a.safetensors")
    delta = Delta.load(str(tmp_path / "a.safetensors"))
    assert (delta.base, delta.meta) == (model_digest(model), result.meta)
    assert delta.tensors.keys() == {f"{n}.{k}" for n in bn_layers(model) for k in QUANTITIES.values()}
    delta.apply(model)
    assert identical(model, result.model)


def test_model_is_as_before_after_the_block(model, adapted, delta):
    before = copy.deepcopy(model)
    with delta.applied(model) as inside:
        assert inside is model and identical(model, adapted)
    assert identical(model, before)
    with delta.applied(model), pytest.raises(ValueError, match="must be restored before it takes another"):
        delta.apply(model)
    with pytest.raises(RuntimeError, match="stop"), delta.applied(model):
        model.backbone.bn1.running_mean.zero_()  # overwritten as well
        raise RuntimeError("stop")
    assert identical(model, before)


@pytest.mark.parametrize("change", [
    lambda m, s: BNTANet(5, replace(s, base_width=8)), lambda m, s: BNTANet(5, replace(s, stripes=2)),
    lambda m, s: BNTANet(5, s), lambda m, s: m.double(),
    lambda m, s: edited(m, lambda m: m.bnneck.bias.add_(1)),
    lambda m, s: edited(m, lambda m: m.backbone.conv1.weight.mul_(1.01)),
    lambda m, s: edited(m, lambda m: m.fc_g.weight.add_(1)),
])
def test_model_that_is_not_the_base_is_refused_and_unchanged(delta, model, small, change):
    other = change(copy.deepcopy(model), small)
    before = copy.deepcopy(other)
    for use in (delta.apply, lambda m: delta.applied(m).__enter__()):
        with pytest.raises(ValueError, match="made for other weights: its base is"):
            use(other)
    assert identical(other, before)


def edited(model, change):
    with torch.no_grad():
        change(model)
    return model


def test_same_delta_gives_the_same_bytes(delta, tmp_path):
    files = set()
    for _ in range(6):
        delta.save(tmp_path / "ä b" / "a")
        files.add((tmp_path / "ä b" / "a").read_bytes())
    Delta.load(tmp_path / "ä b" / "a").save(tmp_path / "again")
    assert files == {(tmp_path / "again").read_bytes()}


def test_file_may_be_read_by_those_who_may_read_others(delta, tmp_path):
    delta.save(tmp_path / "delta")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "delta").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_damaged_file_is_refused(delta, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match="no bnta-delta at .*a: make one with adapt"):
        Delta.load(path)
    delta.save(path)
    whole = path.read_bytes()
    for content in (*damaged(whole), whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is (damaged|no delta)"):
            Delta.load(path)


@pytest.mark.parametrize("change", [
    lambda entry, tensors: tensors["bnneck.weight"].add_(1),
    lambda entry, tensors: entry.__setitem__(1, entry[1].replace('"seed": 0', '"seed": 9')),
    lambda entry, tensors: tensors.update({"bnneck.weight": tensors["bnneck.weight"].double()}),
    lambda entry, tensors: tensors.pop("bnneck.weight"),
    lambda entry, tensors: entry.pop(),
])
def test_file_that_was_edited_is_refused(delta, tmp_path, change):
    delta.save(tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", "pt") as file:
        entry = json.loads(file.metadata()["bnta-delta"])
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    change(entry, tensors)
    safetensors.torch.save_file(tensors, tmp_path / "a", {"bnta-delta": json.dumps(entry)})
    with pytest.raises(ValueError, match="is damaged"):
        Delta.load(tmp_path / "a")


def test_file_of_the_other_kind_is_refused(model, delta, small, tmp_path):
    save_model(model, tmp_path / "w", small)
    with pytest.raises(ValueError, match="w is no delta: load_model reads weights"):
        Delta.load(tmp_path / "w")
    delta.save(tmp_path / "d")
    with pytest.raises(ValueError, match="no weights file of this library"):
        load_model(tmp_path / "d", small)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_delta_follows_its_model_to_a_gpu(model, adapted, delta):
    with delta.applied(model.cuda()):
        assert all(p.is_cuda for p in model.parameters())
        assert identical(copy.deepcopy(model).cpu(), adapted)
