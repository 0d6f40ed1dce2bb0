"""Deterministic algorithms: no operator here is without one, and the bits repeat.

What a real GPU must show is skipped if there is none.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bnta_lib.adapters import adabn, tent
from bnta_lib.adaption import adapt
from bnta_lib.data.sets import ReIDSet
from bnta_lib.evaluation import evaluate
from bnta_lib.model import embed
from bnta_lib.settings import ROOT
from bnta_lib.suite.layers import bn_moments
from bnta_lib.training import train

# Operators that PyTorch has in no deterministic form on a GPU, and that raise there in this mode: those
# named in the documentation of torch.use_deterministic_algorithms, by ATen's names. (cumsum only of floats.)
RAISE = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "max_pool3d_with_indices_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward",
    "_embedding_bag_dense_backward", "put_", "histc", "bincount", "median", "nanmedian", "kthvalue",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "scatter_reduce", "cumsum float",
}


class Operators(TorchDispatchMode):
    """The names of all operators that run within, those of the backward pass too."""

    def __enter__(self):
        self.seen = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "cumsum" and args[0].is_floating_point():
            name += " float"
        self.seen.add(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("stripes", [3, 2])  # of three rows: as many, and bins that overlap
def test_every_operator_has_a_deterministic_form_on_a_gpu(images, small, stripes):
    """The work of all notebooks that a GPU does: training, adaption, baselines, scores, shift."""
    own = replace(small, stripes=stripes, epochs=1, batch=4)
    pids, camids = torch.arange(10) % 5 + 1, torch.arange(10) // 5 + 1
    with Operators() as operators:
        model, _ = train(ReIDSet("noise", images, pids, camids, "noise"), own, progress=False, device="cpu")
        adapted = adapt(model, images, own, K=3, layers=("bn", "in", "conv")).model
        adabn(model, images, own), tent(model, images, own), bn_moments(model, images)
        features, _ = embed(adapted, images)
        evaluate(features[:5], features[5:], pids[:5], pids[5:], camids[:5], camids[5:])
    assert {"convolution_backward", "max_pool2d_with_indices_backward", "nll_loss_forward"} <= operators.seen
    assert not operators.seen & RAISE


def test_an_operator_without_one_is_seen():
    x = torch.rand(1, 2, 5, 5, requires_grad=True)
    with Operators() as operators:
        (F.adaptive_avg_pool2d(x, 2).sum() + F.interpolate(x, 9, mode="bilinear").sum()).backward()
        torch.rand(3).cumsum(0)
    assert operators.seen & RAISE == {
        "_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward", "cumsum float"}


TWICE = """
import sys, torch
torch.use_deterministic_algorithms(True)
from bnta_lib import adapt, settings, train
from bnta_lib.data.sets import ReIDSet
from bnta_lib.weights import model_digest

device = sys.argv[1]
own = settings("smoke", epochs=2, batch=16)
noise = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (64, 3, *own.size), dtype=torch.uint8, generator=noise)
pids = torch.arange(64) % 8 + 1
people = ReIDSet("noise", images, pids, torch.ones_like(pids), known_digest="noise")
for _ in range(2):
    trained, _ = train(people, own, progress=False, device=device)
    adapted = adapt(trained.to(device), images, own, K=16, layers=("bn", "in", "conv")).model
    print(model_digest(trained), model_digest(adapted))
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU"))])
def test_training_and_adaption_end_with_the_same_bits(device):
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    lines = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", TWICE, device], env=environment, cwd=ROOT,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines += done.stdout.splitlines()
    assert len(lines) == 4 and len(set(lines)) == 1
    assert len(set(lines[0].split())) == 2  # adaption moved what it should
