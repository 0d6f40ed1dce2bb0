"""Adaption against the passes through the network that it cannot avoid.

``python benchmarks/adaption.py [--device cuda] [--csv benchmarks/results.csv]`` adapts to the N = 900
gallery images of GRID's counterpart with K = 128 pairs. The rival is written out here: forward passes
of the N images in eval mode, and forward and backward passes of 2K images with gradients of gamma and
beta alone, in the same batches. It chooses no pairs, has no loss but a sum, and takes no step.

On a GPU a row more has the images decoded from JPEG files first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common
import torch
from common import Row
from torch import Tensor

from bnta_lib.adaption import adapt
from bnta_lib.rendered import benchmark
from bnta_lib.data.folders import write_folder
from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet, bn_layers, fused, preserve_modes
from bnta_lib.pairing import nearest_pairs
from bnta_lib.settings import Settings, settings
from bnta_lib.site.crops import read_crops

N, K = 900, 128
GOAL, GPU_GOAL = "<= 1.2x", "< 0.5 s"
PAPERS = "the paper states 6.8 s for this N and K on a Titan Xp: another machine and program"


@torch.no_grad()
def forward(model: BNTANet, images: Tensor, batch: int = 64) -> Tensor:
    """Local features (N, H, C_l): what Algorithm 1 needs, and no more."""
    with preserve_modes(model):
        model.eval()
        backbone = model.backbone if model.scale.is_cuda else fused(model.backbone)
        return torch.cat([model.local_features(model.stripe_pool(backbone(model.normalised(chunk))))
                          for chunk in images.split(batch)])


def forward_backward(model: BNTANet, images: Tensor, batch: int) -> None:
    """Both passes of all images, BN in train mode, gradients of gamma and beta alone."""
    with preserve_modes(model):
        model.eval().requires_grad_(False)
        for layer in bn_layers(model).values():
            layer.train().requires_grad_(layer is not model.bnneck)
        for chunk in images.split(batch):
            stripes = model.stripe_pool(model.forward_features(chunk))
            (model.fc_p(stripes).sum() + model.local_features(stripes).sum()).backward()
            model.zero_grad(set_to_none=True)


def network(own: Settings, device: str) -> BNTANet:
    """A network whose statistics are those of images; no time depends on what is learnt."""
    torch.manual_seed(0)
    return BNTANet(751, own).to(device).eval()


def gallery(own: Settings, n: int) -> Tensor:
    """Images of GRID's counterpart, uint8 (n, 3, h, w), n <= 900."""
    target = benchmark.target("GRID", own.size, splits=1)
    return target.data.images[target.splits[0].gallery[:n]]


def measured(own: Settings, images: Tensor, k: int, device: str = "cpu", rounds: int = 1) -> Iterator[Row]:
    """The row of one network; ours is measured between the two halves of its rival."""
    model, n = network(own, device), len(images)
    adapt(model, images[:8], own, K=4)  # warms up
    parts = {"forward": [], "ours": [], "backward": [], "pairing": []}
    for _ in range(rounds):
        local = []
        parts["forward"].append(common.seconds(lambda: local.append(forward(model, images)), device))
        parts["ours"].append(common.seconds(lambda: adapt(model, images, own, K=k), device))
        parts["backward"].append(common.seconds(
            lambda: forward_backward(model, images[: 2 * k], 2 * own.tta_batch), device))
        parts["pairing"].append(common.seconds(lambda: nearest_pairs(local[0], k)))
    took = {name: min(values) for name, values in parts.items()}
    bare = took["forward"] + took["backward"]
    note = (f"{took['forward']:.3g} s forward ({1000 * took['forward'] / n:.3g} ms an image) and "
            f"{took['backward']:.3g} s forward and backward ({1000 * took['backward'] / (2 * k):.3g} ms an "
            f"image); pairing {took['pairing']:.2g} s")
    note += f"; {PAPERS}" if (n, k, own.profile) == (N, K, "paper") else ""
    about = f"{own.profile} network {own.height}x{own.width}, N={n}, K={k}, {device}"
    yield Row(f"adaption ({about})", took["ours"], "s", bare, "bare passes through the network", GOAL,
              note=note)
    if device == "cuda":
        yield from decoded(own, images, k, device, about)


def decoded(own: Settings, images: Tensor, k: int, device: str, about: str) -> Iterator[Row]:
    """The row of an adaption that begins with JPEG files."""
    model, ones = network(own, device), torch.ones(len(images), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(ReIDSet("gallery", images, ones, ones), folder)
        files = common.least(lambda: read_crops(folder, own.size), 3)
        both = common.least(lambda: adapt(model, read_crops(folder, own.size).images, own, K=k), 3, device)
    yield Row(f"adaption from files ({about})", both, "s", goal=GPU_GOAL,
              note=f"{files:.2g} s of it decoding {len(images)} JPEG files, as read_crops does it")


def rows(device: str) -> Iterator[Row]:
    laptop = settings("laptop")
    yield from measured(laptop, gallery(laptop, N), K, device, rounds=3)
    paper = replace(settings("paper"), pretrained=False)
    yield from measured(paper, gallery(paper, N), K, device, rounds=1 if device == "cpu" else 5)


def main() -> None:
    common.main_on_device(__doc__, Path(__file__).stem, rows)


if __name__ == "__main__":
    main()
