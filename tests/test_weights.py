"""Weights come back as they were saved, and a file that does not fit is refused with the reason."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from bnta_lib import settings
from bnta_lib.adapters import tent
from bnta_lib.adaption import adapt
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import ROOT, cache_dir, model_settings, trainings_of
from bnta_lib.suite.runs import weights_path
from bnta_lib.suite.train import trained_model
from bnta_lib.weights import differences, load_model, model_digest, read_weights, save_model
from conftest import damaged


@pytest.fixture
def path(model, small, tmp_path):
    """A compact weights file."""
    save_model(model, tmp_path / "a.safetensors", small, {"model": "a", "seconds": 1.5})
    return tmp_path / "a.safetensors"


def test_int8_weights_are_off_by_half_a_step_at_most(model, path, small):
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


def test_full_weights_come_back_bit_for_bit(model, small, tmp_path):
    save_model(model.train(), tmp_path / "a", small, compact=False)
    loaded = load_model(tmp_path / "a", small)
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_compact_model_can_be_adapted_and_takes_its_delta(path, small, images):
    model = load_model(path, small)
    assert not model.training and model.identities == 5 and model(images).local_logits is None
    adapt(model, images, small).delta.apply(load_model(path, small))


@pytest.mark.parametrize("classifier, megabytes", [(True, 4), (False, 2)])
def test_laptop_model_is_small(tmp_path, classifier, megabytes):
    laptop = settings("laptop")
    model, file = BNTANet(sum(laptop.people.values()), laptop).eval(), tmp_path / "a"
    save_model(model, file, laptop, classifier=classifier)
    assert file.stat().st_size <= megabytes * 1_000_000
    loaded = load_model(file, laptop)
    assert len(bn_layers(loaded)) == 60 and (loaded.fc_g is None) != classifier


def test_model_without_fc_g_adapts_but_by_tent(model, small, images, tmp_path):
    save_model(model, tmp_path / "a", small, classifier=False)
    loaded = load_model(tmp_path / "a", small)
    assert loaded(images).logits is None and adapt(loaded, images, small).delta.base == model_digest(loaded)
    with pytest.raises(ValueError, match="Tent needs FC_G, which these weights come without"):
        tent(loaded, images, small)


def test_trainings_of_a_model_differ_in_their_seed():
    several = settings("laptop", trainings={"id_mat": 2})
    assert trainings_of(several, "id_mat") == ["id_mat", "id_mat-1"]
    assert trainings_of(several, "pos") == ["pos"]
    first, second = (model_settings(several, name) for name in trainings_of(several, "id_mat"))
    assert second == replace(first, seed=1) and first.lambda1 == 0
    for wrong in ("bnta-x", "bnta-", "-1", "bnta-1-1"):
        with pytest.raises(ValueError, match=f"unknown model '{wrong}'"):
            model_settings(several, wrong)


@pytest.mark.parametrize("change", [
    {"base_width": 8}, {"stripes": 2}, {"local_dim": 16}, {"last_stride": 2}, {"height": 96}, {"width": 48},
    {"seed": 7}, {"lambda2": 0.0}, {"epochs": 1}, {"lr": 1.0},
])
def test_weights_of_another_network_or_training_are_refused(path, small, change):
    (name, _), = change.items()
    with pytest.raises(ValueError, match=f"was trained with {name}={getattr(small, name)}: choose"):
        load_model(path, replace(small, **change))


def max_pool(self, maps):
    return maps.amax((2, 3))


def average_stem(self, x):
    x = F.avg_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    return self.layer4(self.layer3(self.layer2(self.layer1(x))))


@pytest.mark.parametrize("where, change", [
    ("BNTANet.global_pool", max_pool), ("Backbone.forward", average_stem),
    ("BNTANet.stripe_pool", lambda self, maps: F.adaptive_max_pool2d(maps, (self.stripes, 1)).squeeze(3).mT),
])
@pytest.mark.parametrize("committed", [True, False])
def test_network_that_was_changed_refuses_the_weights(path, small, monkeypatch, where, change, committed):
    chosen = settings("laptop") if committed else small
    file = weights_path(chosen, "bnta") if committed else path
    load_model(file, chosen)
    monkeypatch.setattr(f"bnta_lib.model.{where}", change)
    with pytest.raises(ValueError, match="give other (features|local) than when they were trained"):
        load_model(file, chosen)


def test_damaged_or_absent_file_is_refused(path, small):
    whole = path.read_bytes()
    for content in damaged(whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or no .*make train"):
            load_model(path, small)
    path.unlink()
    for absent in (path, path.parent):
        with pytest.raises(FileNotFoundError, match="no bnta-weights at .*make train"):
            load_model(absent, small)


def test_laptop_weights_are_committed_and_others_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    committed = weights_path(settings("laptop"), "bnta")
    assert committed == ROOT / "data" / "weights" / "laptop" / "bnta.safetensors"
    for profile in ("smoke", "paper"):
        expected = cache_dir() / "weights" / profile / "baseline.safetensors"
        assert weights_path(settings(profile), "baseline") == expected
    with pytest.raises(ValueError, match="unknown model 'resnet': the models are bnta, baseline"):
        weights_path(settings("smoke"), "resnet")


LAPTOP = trainings_of(settings("laptop"))
STEADY = sorted(path.stem for path in weights_path(settings("steady"), "bnta").parent.glob("*.safetensors"))


@pytest.mark.parametrize("profile, name", [
    *(("laptop", name) for name in LAPTOP), *(("steady", name) for name in STEADY)])
def test_committed_weights_are_registered_with_their_settings(profile, name):
    own = model_settings(settings(profile), name)
    path = weights_path(own, name)
    entry, _ = read_weights(path)  # of the registry, by the file's SHA-256, or in a file of a later training
    assert entry["model"] == name and differences(entry, own) == []
    assert differences(entry, replace(own, seed=7, lr=1.0)) == [f"seed={own.seed}", f"lr={own.lr}"]


def test_setting_that_a_record_lacks_counts_at_its_default():
    laptop = settings("laptop")
    record, _ = read_weights(weights_path(laptop, "bnta"))
    del record["settings"]["triplet_margin"]  # as if it were younger than the file
    assert differences(record, laptop) == []
    assert differences(record, replace(laptop, triplet_margin=0.5)) == ["triplet_margin=0.3"]


def test_committed_weights_serve_other_adaptions_and_are_refused_under_another_name(tmp_path, monkeypatch):
    laptop = settings("laptop")
    for later in ({"K": 8}, {"tta_lr": 0.1}, {"splits": 1}):
        trained_model(replace(laptop, **later), progress=False)
    monkeypatch.setattr("bnta_lib.suite.runs.ROOT", tmp_path)
    swapped = weights_path(laptop, "bnta")
    swapped.parent.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "weights" / "laptop" / "baseline.safetensors", swapped)
    with pytest.raises(ValueError, match="was trained with lambda1=0.0, lambda2=0.0"):
        trained_model(laptop, progress=False)
