"""Settings hold the paper's numbers and refuse what they do not know."""

from pathlib import Path

import pytest
import torch

import bnta_lib
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import AT_SIZE, PROFILES, cache_dir, settings
from bnta_lib.suite.runs import device_of, figures_dir


def test_paper_profile_has_the_papers_numbers():
    paper = settings("paper")
    said = dict(
        lambda1=0.1, lambda2=0.1, lambda3=1.0, margin=0.3, loss_tri=0.0,  # Eq. (8), (9), (13)
        epochs=60, lr=0.005, lr_decay_epoch=40, batch=64,
        K=128, tta_batch=32, tta_epochs=1, tta_lr=0.0005, tta_momentum=0.1,
        stripes=6, local_dim=256, base_width=64, splits=10, height=256, width=128,
    )  # fmt: skip
    assert {name: getattr(paper, name) for name in said} == said
    assert (sum(paper.images.values()), sum(paper.people.values())) == (121_765, 18_530)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_keep_the_papers_layers_and_even_stripes(profile):
    chosen = settings(profile)
    assert chosen.profile == profile and chosen.size == (chosen.height, chosen.width)
    with torch.device("meta"):
        assert len(bn_layers(BNTANet(5, chosen))) == 54 + chosen.stripes
    assert chosen.stripes == (3 if profile == "smoke" else 6)
    if profile not in AT_SIZE:  # 256 rows give 16 of the map: overlapping bins, an open choice
        assert chosen.height // 16 % chosen.stripes == 0


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown profile 'lapdog'.*smoke, laptop, steady, paper"):
        settings("lapdog")
    monkeypatch.setenv("BNTA_PROFILE", "desktop")
    with pytest.raises(ValueError, match="unknown profile 'desktop'"):
        settings()
    with pytest.raises(ValueError, match="unknown setting 'tta_rate'.*tta_lr"):
        settings("smoke", tta_rate=1)


def test_profile_is_argument_then_environment_then_laptop(monkeypatch):
    monkeypatch.setenv("BNTA_PROFILE", "paper")
    assert settings("smoke").profile == "smoke"
    assert settings().profile == "paper"
    for empty in (lambda: monkeypatch.setenv("BNTA_PROFILE", ""),
                  lambda: monkeypatch.delenv("BNTA_PROFILE")):
        empty()
        assert settings().profile == "laptop"


def test_folders_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNTA_CACHE", raising=False)
    repository = Path(bnta_lib.__file__).parents[1]
    assert cache_dir() == repository / ".cache"
    assert figures_dir("smoke") == repository / "figures" / "smoke"
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"


@pytest.mark.parametrize("wrong", [
    {"tta_batch": 0}, {"K": 2.5}, {"pretrained": 1}, {"viper_probe": "cam_c"}, {"margin": -1}, {"batch": 1},
    {"lr": float("nan")}, {"tta_momentum": 2}, {"tta_momentum": "x"},
    {"last_stride": 3}, {"tta_optimizer": "lbfgs"}, {"stripes": 0}, {"people": {"CUHK02": 3}},
])  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"setting {next(iter(wrong))} is"):
        settings("smoke", **wrong)


def test_callers_cannot_change_a_profile():
    settings("smoke").people.clear()
    assert settings("smoke").people


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(n)``: as many are there, whatever is."""
    def there(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: count == 0)
    monkeypatch.delenv("BNTA_DEVICE", raising=False)
    return there


@pytest.mark.parametrize("profile, there, asked, wanted", [
    ("paper", 1, None, "cuda"), ("paper", 0, None, "cpu"), ("paper", 1, "cpu", "cpu"),
    ("paper", 2, "cuda:1", "cuda:1"), ("laptop", 1, None, "cpu"), ("smoke", 1, "", "cpu"),
    ("laptop", 1, "cuda", "cuda"), ("smoke", 0, "cpu", "cpu"),
    ("paper", 0, "mps", "mps"),
])  # fmt: skip
def test_device_of_a_profile(gpus, monkeypatch, profile, there, asked, wanted):
    gpus(there)
    if asked is not None:
        monkeypatch.setenv("BNTA_DEVICE", asked)
    assert device_of(profile) == torch.device(wanted)


@pytest.mark.parametrize("asked, there, words", [
    ("cuda", 0, "BNTA_DEVICE is cuda, and PyTorch finds 0 NVIDIA GPUs .*driver.*: unset BNTA_DEVICE"),
    ("cuda:1", 1, "is cuda:1, and PyTorch finds 1 NVIDIA GPUs"),
    ("gpu", 1, "\"cpu\", \"cuda\", \"mps\", or a GPU by its number .* got 'gpu'"),
    ("mps", 1, "finds no Apple GPU"),
    ("cuda:-1", 1, "got 'cuda:-1'"), ("cuda:", 1, "got 'cuda:'"),
])  # fmt: skip
def test_absent_and_unknown_devices_are_refused(gpus, monkeypatch, asked, there, words):
    gpus(there)
    monkeypatch.setenv("BNTA_DEVICE", asked)
    for profile in PROFILES:
        with pytest.raises(ValueError, match=words):
            device_of(profile)
