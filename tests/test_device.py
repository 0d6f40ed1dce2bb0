"""Models on a GPU give the numbers, pictures and files that they give on the CPU.

Most of it runs on a pretended GPU (pretended.py), which knows where tensors lie and nothing else of CUDA, and
names the step that mixes devices. What needs a real GPU is skipped if there is none.
"""

import copy
import dataclasses
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pretended import GPU, WAITS, OnGPU, pretended
from torch import Tensor
from torch.nn import functional as F

from bnta_lib import adaption, training
from bnta_lib import settings as profile
from bnta_lib.adapters import adabn, tent
from bnta_lib.adaption import adapt, pair_losses
from bnta_lib.data import load_targets
from bnta_lib.explore import nk
from bnta_lib.model import embed
from bnta_lib.pairing import nearest_pairs
from bnta_lib.site.guards import Guards, guarded_adapt
from bnta_lib.suite.layers import bn_moments, bn_outputs
from bnta_lib.suite.runner import Measurer, Unit, score
from bnta_lib.suite.specs import Spec, grid_specs
from bnta_lib.suite.train import trained_model
from bnta_lib.training import train
from bnta_lib.weights import Delta, load_model, model_digest, save_model
from conftest import coloured_people, identical, lab_of

REAL = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def ones(device) -> Tensor:
    return torch.ones(3, device=device)


@pytest.mark.parametrize("mistake", [
    lambda gpu: ones(gpu) + ones("cpu"),
    lambda gpu: ones(gpu).masked_fill(ones("cpu") > 0, 0.0),
    lambda gpu: F.linear(ones(gpu), torch.ones(2, 3)),
    lambda gpu: ones(gpu).index_add(0, torch.tensor([0]), ones(gpu)[:1]),
    lambda gpu: ones("cpu")[torch.tensor([0], device=gpu)],
    lambda gpu: np.asarray(ones(gpu)),
])
@pytest.mark.parametrize("device", [GPU, pytest.param("cuda", marks=REAL)])
def test_pretended_gpu_refuses_mixed_devices_as_a_real_one(device, mistake):
    with pretended(), pytest.raises((RuntimeError, TypeError, IndexError)):
        mistake(device)


# ---------------------------------------------------------------- every way to a number


@pytest.fixture
def own(small):
    """Four pairs in batches of two, with one seed."""
    return replace(small, tta_batch=2, tta_lr=0.01, tta_seeds=1, K=4)


@pytest.fixture
def on_both(model, tmp_path, monkeypatch):
    """``on_both(work)``: what ``work(model)`` gives on the CPU and on the pretended GPU, each with a cache
    of its own; that nothing of the second is left there."""
    def run(work):
        found = []
        for place in ("cpu", "gpu"):
            monkeypatch.setenv("BNTA_CACHE", str(tmp_path / place))
            if place == "cpu":
                found.append(work(copy.deepcopy(model)))
                continue
            with pretended():
                there = copy.deepcopy(model).to(GPU)
                before = model_digest(there)
                found.append(work(there))
                assert all(t.device == GPU for t in there.state_dict().values()), "the model was moved"
                assert model_digest(there) == before == model_digest(model)
        same(*found)
    return run


def same(cpu, gpu) -> None:
    """Two results are one, bit by bit; the second's tensors lie on the CPU, and its models do not."""
    if isinstance(cpu, torch.nn.Module):
        assert {t.device for t in gpu.state_dict().values()} == {GPU}, "an adapted model left the GPU"
        with pretended():
            cpu, gpu = cpu.state_dict(), {k: v.cpu() for k, v in gpu.state_dict().items()}
    assert not isinstance(gpu, OnGPU), "a result stayed on the GPU"
    if isinstance(cpu, (Tensor, np.ndarray)):
        assert np.array_equal(cpu, gpu)
    elif isinstance(cpu, pd.DataFrame):
        timed = ["seconds", "machine"]
        cpu, gpu = (t.drop(columns=timed, errors="ignore") for t in (cpu, gpu))
        if "unit" in cpu:
            cpu, gpu = (t[t["unit"] != "s"] for t in (cpu, gpu))
        pd.testing.assert_frame_equal(cpu, gpu, check_exact=True)
    elif isinstance(cpu, dict):
        assert cpu.keys() == gpu.keys()
        for key in cpu:
            if key != "seconds":
                same(cpu[key], gpu[key])
    elif dataclasses.is_dataclass(cpu):
        same(vars(cpu), vars(gpu))
    elif isinstance(cpu, (list, tuple)):
        for a, b in zip(cpu, gpu, strict=True):
            same(a, b)
    else:
        assert cpu == gpu or cpu != cpu


@pytest.mark.parametrize("options", [
    {}, {"layers": ("bn", "conv", "in")}, {"quantities": ("mean",)}, {"quantities": ("gamma", "beta")},
    {"quantities": ("mean", "beta"), "reading": "restore"}, {"losses": ()}, {"follow_bnneck": False},
    {"settings": {"tta_optimizer": "sgd", "matching_reduction": "mean", "tta_epochs": 2}},
], ids=lambda options: ", ".join(map(str, options.values())) or "defaults")  # fmt: skip
def test_adaption_is_the_same_on_both_devices(on_both, images, own, options):
    chosen = replace(own, **options.get("settings", {}))
    options = {k: v for k, v in options.items() if k != "settings"}
    free = Guards(min_images=0, max_move=float("inf"), min_spread=0)
    on_both(lambda model: guarded_adapt(model, images, chosen, free, **options)[0])


def test_features_losses_files_and_rivals_are_the_same_on_both_devices(on_both, images, own, tmp_path):
    def work(model):
        features, local = embed(model, images)
        pairs = nearest_pairs(local, 4)
        result = adapt(model, images, own, local=local, pairs=pairs)
        result.delta.save(tmp_path / "site.safetensors")
        with Delta.load(tmp_path / "site.safetensors").applied(model):
            adapted = embed(model, images)
        digests = []
        for compact in (True, False):
            save_model(model, tmp_path / "w", own, compact=compact)
            digests.append(model_digest(load_model(tmp_path / "w", own)))
        return (features, local, pairs, pair_losses(model, images, pairs, own), adapted, embed(model, images),
                digests, (tmp_path / "site.safetensors").read_bytes(), result.changes,
                adabn(model, images, own), tent(model, images, own))
    on_both(work)


def test_measured_rows_are_the_same_on_both_devices(on_both, dots, own):
    def work(model):
        one_split = {"dots": replace(dots, splits=dots.splits[:1])}
        lab = lab_of(own, {"bnta": model}, one_split, [dots.data])
        specs = [Spec("none", adapter="none"), Spec("BNTA"), *grid_specs(10, own)[1:2]]
        off = Spec("off", adapter="none", labels={"part": "target"})
        headroom = Measurer(own, {"bnta": model}, {"bnta": lab.targets}).measure(
            Unit("headroom", "dots", off, 0, 0))
        rows = [lab.measure(specs), lab.measure("changes"), lab.measure("shift")]
        return *rows, [row["value"] for row in headroom]
    on_both(work)


def test_what_an_explorer_shows_is_the_same_on_both_devices(on_both, dots, own):
    def work(model):
        values = bn_outputs(model, dots.data.images, ("backbone.bn1", "bnneck", "parts.1.1"), 100)
        return (score(model, dots, dots.splits[0], own), bn_moments(model, dots.data.images, 8), values,
                nk.run_live(model, dots, 1, own, 8, 3, 0.3))
    on_both(work)


def test_other_processes_get_models_on_the_cpu(model, dots, own):
    with pretended():
        there = copy.deepcopy(model).to(GPU)
        handed = pickle.dumps(Measurer(own, {"bnta": there}, {"bnta": {"dots": dots}}))
        assert there.scale.device == GPU
    read = pickle.loads(handed).models["bnta"]
    assert {t.device.type for t in read.state_dict().values()} == {"cpu"} and read.scale.device.type == "cpu"
    assert isinstance(read.fc_g.weight, torch.nn.Parameter) and not read.bnneck.bias.requires_grad
    assert model_digest(read) == model_digest(model)


@pytest.fixture
def waits(monkeypatch):
    """The numbers of operators that a host waited for in each step of training or adaption, in order."""
    counts = []

    def counted(step):
        return lambda *arguments: (counts.append(len(WAITS)), step(*arguments))[1]

    for module, name in ((training, "training_step"), (adaption, "adaption_step")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    WAITS.clear()
    return counts


def test_training_is_the_same_on_both_devices_and_no_step_waits(small, waits, tmp_path):
    """From the first step to the last of an epoch nothing moves but the images, which lie on the CPU here."""
    people, chosen = coloured_people(), replace(small, epochs=2, lr_decay_epoch=2, batch=5)
    model, history = train(people, chosen, progress=False, device="cpu")
    waits.clear()
    with pretended():
        there, rows = train(people, chosen, tmp_path / "checkpoint.pt", progress=False, device=GPU)
    assert identical(model, there) and rows.drop(columns="seconds").equals(history.drop(columns="seconds"))
    assert {b - a for epoch in (waits[:4], waits[4:]) for a, b in zip(epoch, epoch[1:])} == {1}


def test_no_step_of_an_adaption_waits(model, images, own, waits):
    with pretended():
        there = copy.deepcopy(model).to(GPU)
        WAITS.clear()
        adapt(there, images, replace(own, tta_epochs=2))
    assert len(waits) == 4 and len({*waits}) == 1, "the host waited between two steps"
    assert len(WAITS) <= 15, WAITS


# ---------------------------------------------------------------- a real GPU


@REAL
def test_gpu_pairs_and_ranks_as_the_cpu(monkeypatch):
    """The trained smoke network: features to 1e-4 of their size; of the 128 pairs' distances, each to 1e-3,
    and nine pairs in ten the same (others tie within rounding); rank 1 of each method to two probes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which rounds factors to 10 bits
    own = profile("smoke")
    target = load_targets(own)["VIPeR"]
    split = target.splits[0]
    gallery, found = target.data.images[split.gallery], {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("BNTA_DEVICE", device)
        model = trained_model(own, progress=False)
        assert model.scale.device.type == device
        features, local = embed(model, gallery)
        result = adapt(model, gallery, own, local=local)
        rivals = [adabn(model, gallery, own), tent(model, gallery, own)]
        found[device] = features, result, [score(m, target, split, own).row()["R1"]
                                           for m in (model, result.model, *rivals)]
    (features, cpu, ranks), (features_2, gpu, ranks_2) = found.values()
    assert (features_2 - features).norm() < 1e-4 * features.norm()
    pairs, pairs_2 = ({tuple(pair) for pair in result.pairs.index.tolist()} for result in (cpu, gpu))
    assert len(pairs & pairs_2) >= 0.9 * len(pairs)
    assert gpu.pairs.distance == pytest.approx(cpu.pairs.distance, rel=1e-3)
    probe = 100 / len(split.probe)
    assert ranks_2 == pytest.approx(ranks, abs=2.01 * probe)
