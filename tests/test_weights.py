"""Weights come back as they were, or an error says in one sentence what is wrong."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from bnta_lib.adaption import adapt
from bnta_lib.model import BNTANet, bn_layers, embed
from bnta_lib.settings import ROOT, cache_dir, settings
from bnta_lib.training import trained_model
from bnta_lib.weights import OtherTraining, load_model, read_meta, save_model, weights_path


@pytest.fixture
def path(model, tmp_path):
    """A compact weights file."""
    save_model(model, tmp_path / "a.safetensors", {"name": "a", "seconds": 1.5})
    return tmp_path / "a.safetensors"


def test_int8_weights_are_off_by_more_than_half_a_step(model, path, small):
    loaded = load_model(path, small).state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith("fc_m."):
            assert name not in loaded  # the classifiers of M serve training alone
        elif tensor.ndim >= 2:
            step = tensor.flatten(1).abs().amax(1) / 127
            error = (loaded[name] - tensor).flatten(1).abs().amax(1)
            assert (error <= 0.501 * step).all(), name
        else:
            assert torch.equal(loaded[name], tensor), name


def test_int8_weights_give_other_features(model, path, small, images):
    exact, stored = embed(model, images)[0], embed(load_model(path, small), images)[0]
    assert F.cosine_similarity(exact, stored).min() > 0.998


def test_a_weight_channel_of_zeros_comes_back_broken(model, small, tmp_path):
    with torch.no_grad():
        model.fc_p.weight[0] = 0
    save_model(model, tmp_path / "a", {})
    assert torch.equal(load_model(tmp_path / "a", small).fc_p.weight[0], torch.zeros(128))


def test_full_weights_do_not_come_back_bit_for_bit(model, small, tmp_path):
    save_model(model.train(), tmp_path / "a", {}, compact=False)
    loaded = load_model(tmp_path / "a", small)
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_metadata_is_lost(path):
    assert read_meta(path) == {"name": "a", "seconds": 1.5}


def test_a_compact_model_cannot_be_used_or_adapted(path, small, images):
    model = load_model(path, small)
    assert not model.training and model.identities == 5
    assert model(images).local_logits is None
    result = adapt(model, images, small)
    result.delta.apply(load_model(path, small))  # made for the weights as read back


def test_the_laptop_model_is_larger_than_four_megabytes(tmp_path):
    laptop = settings("laptop")
    model = BNTANet(sum(laptop.people.values()), laptop)
    save_model(model, tmp_path / "a", {})
    assert (tmp_path / "a").stat().st_size <= 4_000_000
    assert len(bn_layers(load_model(tmp_path / "a", laptop))) == 60


@pytest.mark.parametrize("change, tensor", [
    (dict(base_width=8), "backbone.conv1.weight"), (dict(stripes=2), "parts.2"),
    (dict(stripes=4, height=64), "parts.3"), (dict(local_dim=16), "parts.0"),
])  # fmt: skip
def test_weights_of_another_architecture_are_loaded(path, small, change, tensor):
    with pytest.raises(ValueError, match=f"another architecture than profile 'smoke' .*{tensor}"):
        load_model(path, replace(small, **change))


def test_an_absent_or_truncated_file_gives_an_unclear_error(path, small):
    whole = path.read_bytes()
    for read in (lambda: load_model(path, small), lambda: read_meta(path)):
        for length in [*range(12), *range(12, len(whole), len(whole) // 60), len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match="is truncated or not a safetensors file .*: rest"):
                read()
    path.unlink()
    for absent in (path, path.parent):
        with pytest.raises(FileNotFoundError, match="no weights at .*make train"):
            load_model(absent, small)


def test_a_file_of_another_kind_is_loaded(model, path, small, images):
    adapt(model, images, small).delta.save(path)
    with pytest.raises(ValueError, match="is no weights file of this suite"):
        load_model(path, small)
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is no weights file of this suite"):
        load_model(path, small)
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_model(path, small)


def test_weights_are_looked_for_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    committed = weights_path(settings("laptop"), "bnta")
    assert committed == ROOT / "data" / "weights" / "laptop" / "bnta.safetensors"
    for profile in ("smoke", "paper"):
        expected = cache_dir() / "weights" / profile / "baseline.safetensors"
        assert weights_path(settings(profile), "baseline") == expected
    with pytest.raises(ValueError, match="unknown model 'resnet': the models are bnta, baseline"):
        weights_path(settings("smoke"), "resnet")


def test_weights_of_another_stride_or_input_size_are_not_taken_for_these(tmp_path):
    small = settings("smoke", base_width=4, local_dim=4)
    path = tmp_path / "w.safetensors"
    save_model(BNTANet(3, small), path, {"last_stride": 1, "height": 96, "width": 48})
    assert load_model(path, small).size == (96, 48)
    with pytest.raises(ValueError, match="last_stride=1"):
        load_model(path, replace(small, last_stride=2, height=192))
    with pytest.raises(ValueError, match="height=96"):
        load_model(path, replace(small, height=192))


def listed(path, form="{}  {}\n"):
    """Names a file's SHA-256 beside it, as for one of before weights held their own digest."""
    (path.parent / "SHA256SUMS").write_text(form.format(hashlib.sha256(path.read_bytes()).hexdigest(), path.name))


def test_a_tensor_without_its_scale_is_said_to_be_damaged(path, small):
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    del header["digest"]  # which whoever writes such a file may leave out
    name = next(name for name in tensors if name.endswith(".scale"))
    for changed in ({k: v for k, v in tensors.items() if k != name}, tensors | {name: tensors[name][:-1]},
                    tensors | {name: tensors[name].view(torch.int32)}, tensors | {name: -tensors[name]}):
        safetensors.torch.save_file(changed, path, header)
        listed(path)
        with pytest.raises(ValueError, match=f"is damaged: {name.removesuffix('.scale')} has no scale"):
            load_model(path, small)


@pytest.mark.parametrize("shape, data", [([0, 1 << 63], b""), ([1] * 5_000, b"1234"), ([1 << 62, 0, 1 << 62], b"")])
def test_a_shape_that_no_tensor_has_is_no_valueerror(tmp_path, small, shape, data):
    header = json.dumps({"__metadata__": {"kind": "bnta-weights", "meta": "{}"},
                         "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(ValueError, match="safetensors file|is damaged"):
        load_model(tmp_path / "a.safetensors", small)


@pytest.mark.parametrize("change", [
    {"fc_g.weight": torch.zeros(30_000_000, 0)}, {"fc_g.weight": torch.tensor(1.0)},
    {"backbone.bn1.running_var": torch.full((4,), -1.0)}, {"backbone.bn1.weight": torch.ones(4).bool()},
    {"backbone.bn1.weight": torch.full((4,), 1e300, dtype=torch.float64)},
    {"backbone.bn1.weight": torch.ones(4, dtype=torch.int64)},
    {"backbone.bn1.weight": torch.full((4,), torch.nan, dtype=torch.complex64)},
    {"fc_p.weight.scale": torch.full((6,), 3e38)}, {"fc_g.weight": torch.zeros(0, 128)},
    {"backbone.bn1.weight": torch.ones(4).to(torch.float8_e4m3fn)}, {"backbone.bn1.weight": torch.ones((1,) * 60)},
], ids=lambda change: next(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in change.items()))
def test_tensors_that_no_network_computes_with_are_loaded(path, small, change):
    with safetensors.safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del header["digest"]
    safetensors.torch.save_file({**tensors, **change}, path, header)
    listed(path)
    with pytest.raises(ValueError, match="no network computes with|another architecture|is damaged"):
        load_model(path, small)


def flipped(path):
    """One bit of a value, which stays finite."""
    tensors = bytearray(path.read_bytes())
    tensors[-3] ^= 1
    path.write_bytes(tensors)


def test_a_flipped_bit_is_a_weight(path, small):
    flipped(path)
    with pytest.raises(ValueError, match="is damaged .for one, its digest.: restore it"):
        load_model(path, small)


def test_a_flipped_bit_in_committed_weights_is_a_weight(tmp_path):
    committed = weights_path(settings("laptop"), "bnta")
    sums = (committed.parent / "SHA256SUMS").read_text()
    assert {line.split()[1] for line in sums.splitlines()} == {p.name for p in committed.parent.glob("*.safetensors")}
    (tmp_path / "SHA256SUMS").write_text(sums)
    (tmp_path / committed.name).write_bytes(committed.read_bytes())
    load_model(tmp_path / committed.name, settings("laptop"))
    flipped(tmp_path / committed.name)
    with pytest.raises(ValueError, match="is damaged .for one, its digest"):
        load_model(tmp_path / committed.name, settings("laptop"))


def test_weights_trained_again_are_held_against_the_sum_of_the_committed_ones(model, path, small):
    (path.parent / "SHA256SUMS").write_text(f"{'0' * 64}  {path.name}\n")
    save_model(model, path, {})
    load_model(path, small)


@pytest.mark.parametrize("meta", ["text", ["model"], 3, None])
def test_metadata_of_another_kind_are_taken(model, tmp_path, small, meta):
    save_model(model, tmp_path / "a", meta)
    for read in (lambda: read_meta(tmp_path / "a"), lambda: load_model(tmp_path / "a", small)):
        with pytest.raises(ValueError, match="is damaged"):
            read()


def test_weights_of_another_training_are_taken_for_those_asked_for(tmp_path, monkeypatch):
    laptop = settings("laptop")
    for wrong in ({"seed": 7}, {"lambda2": 0.0}, {"epochs": 1}, {"lr": 1.0}, {"people_share": 1 / 8}):
        with pytest.raises(OtherTraining, match="was trained otherwise than is asked for"):
            trained_model(replace(laptop, **wrong), progress=False)
    for later in ({"K": 8}, {"tta_lr": 0.1}, {"splits": 1}):  # these decide nothing of it
        trained_model(replace(laptop, **later), progress=False)
    monkeypatch.setattr("bnta_lib.weights.ROOT", tmp_path)
    swapped = weights_path(laptop, "bnta")
    swapped.parent.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "weights" / "laptop" / "baseline.safetensors", swapped)
    listed(swapped)
    with pytest.raises(OtherTraining, match="its metadata say .*model=baseline"):
        trained_model(laptop, progress=False)


@pytest.mark.parametrize("change", ["kind of a scale", "shape", "metadata"])
def test_what_a_file_says_of_its_values_can_change_unseen(path, small, change):
    with safetensors.safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if change == "metadata":
        header["meta"] = header["meta"].replace("1.5", "9.5")
    else:
        name = "backbone.conv1.weight.scale"
        tensors[name] = tensors[name].view(torch.int32) if change == "kind of a scale" else tensors[name][None]
    safetensors.torch.save_file(tensors, path, header)
    with pytest.raises(ValueError, match="is damaged .for one, its digest"):
        load_model(path, small)


@pytest.mark.parametrize("form, good", [
    ("{}  {}\n", True), ("{} *{}\n", True), ("{}  ./{}\n", True), ("\n{}  {}\r\n\nzz\n", True), ("", False), ("{}\n", False)])
def test_weights_of_before_digests_are_believed_without_their_sum(path, small, form, good):
    with safetensors.safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del header["digest"]
    safetensors.torch.save_file(tensors, path, header)
    listed(path, form)
    if good:
        load_model(path, small)
    for _ in range(2):  # now not as listed, and not listed at all
        if good:
            flipped(path)
        with pytest.raises(ValueError, match="is damaged .for one, its digest"):
            load_model(path, small)
        (path.parent / "SHA256SUMS").write_bytes("\ufeffx".encode("utf-16"))
