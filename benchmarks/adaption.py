"""Adaption against the passes through the network that it cannot avoid: ``python benchmarks/adaption.py``.

Adapts to the N = 900 gallery images of GRID's counterpart with K = 128 pairs. The rival is written out here:
forward passes of the N images in eval mode, and forward and backward passes of 2K images with gradients of
gamma and beta alone, in the same batches. It chooses no pairs, has no loss but a sum, and takes no step. With
``--device cuda`` another row decodes the images from JPEG files first.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace

import common
import torch
from common import Row
from torch import Tensor

from bnta_lib.adaption import adapt
from bnta_lib.data.sets import ReIDSet, write_folder
from bnta_lib.model import BNTANet, bn_layers, embed, fused, preserve_modes
from bnta_lib.pairing import nearest_pairs
from bnta_lib.rendered import benchmark
from bnta_lib.settings import Settings, settings
from bnta_lib.site.crops import read_crops

N, K = 900, 128


@torch.no_grad()
def forward(model: BNTANet, images: Tensor, batch: int = 64) -> Tensor:
    """Local features (N, H, C_l): what Algorithm 1 needs, and no more."""
    with preserve_modes(model):
        model.eval()
        backbone = fused(model.backbone)
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


def network(settings: Settings, device: str) -> BNTANet:
    """A network of random weights: no time depends on what is learnt."""
    torch.manual_seed(0)
    return BNTANet(751, settings).to(device).eval()


def gallery(settings: Settings, n: int) -> Tensor:
    """Images of GRID's counterpart, uint8 (n, 3, h, w), n <= 900."""
    target = benchmark.target("GRID", settings.size, splits=1)
    return target.data.images[target.splits[0].gallery[:n]]


def measured(settings: Settings, images: Tensor, k: int, device: str, rounds: int) -> Iterator[Row]:
    """The row of one network; ours is measured between the two halves of its rival."""
    model, n = network(settings, device), len(images)
    adapt(model, images[:8], settings, K=4)  # warms up
    local, times, batch = forward(model, images), [], 2 * settings.tta_batch
    for _ in range(rounds):
        times.append((common.seconds(lambda: forward(model, images), device),
                      common.seconds(lambda: adapt(model, images, settings, K=k), device),
                      common.seconds(lambda: forward_backward(model, images[: 2 * k], batch), device),
                      common.seconds(lambda: nearest_pairs(local, k), device)))
    once, ours, twice, pairing = map(min, zip(*times))
    about = f"{settings.profile} network {settings.height}x{settings.width}, N={n}, K={k}, {device}"
    yield Row(f"adaption ({about})", ours, "s", once + twice, "bare passes through the network", "<= 1.2x",
              note=f"{once:.3g} s forward ({1000 * once / n:.3g} ms an image) and {twice:.3g} s forward and "
              f"backward ({500 * twice / k:.3g} ms an image); pairing {pairing:.2g} s")
    if device == "cuda":
        yield decoded(model, settings, images, k, device, about)
        yield from embedded(model, settings, images, k, device, about)


def embedded(model: BNTANet, settings: Settings, images: Tensor, k: int, device: str,
             about: str) -> Iterator[Row]:
    """Rows of what an adaption consists of: features with batch norms folded or not, and its delta."""
    @torch.no_grad()
    def unfolded() -> None:
        for chunk in images.split(64):
            model(chunk)

    ours, rival = common.in_turns(lambda: common.seconds(lambda: embed(model, images), device),
                                  lambda: common.seconds(unfolded, device), rounds=5)
    yield Row(f"embedding ({about})", ours, "s", rival, "forward passes of the model in eval mode")
    result = adapt(model, images, settings, K=k)
    yield Row(f"delta ({about})", common.seconds(lambda: result.delta, device), "s",
              note="with the SHA-256 of the base model, once a delta")


def decoded(model: BNTANet, settings: Settings, images: Tensor, k: int, device: str, about: str) -> Row:
    """The row of an adaption that begins with JPEG files."""
    ones = torch.ones(len(images), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(ReIDSet("gallery", images, ones, ones), folder)
        files = min(common.seconds(lambda: read_crops(folder, settings.size)) for _ in range(3))
        both = min(common.seconds(lambda: adapt(
            model, read_crops(folder, settings.size).images, settings, K=k), device) for _ in range(3))
    return Row(f"adaption from files ({about})", both, "s", goal="< 0.5 s",
               note=f"{files:.2g} s of it decoding {len(images)} JPEG files, as read_crops does it")


def rows(device: str, quick: bool) -> Iterator[Row]:
    if quick:
        smoke = settings("smoke")
        yield from measured(smoke, gallery(smoke, 16), 4, device, 1)
        return
    laptop, paper = settings("laptop"), replace(settings("paper"), pretrained=False)
    yield from measured(laptop, gallery(laptop, N), K, device, rounds=3)
    yield from measured(paper, gallery(paper, N), K, device, rounds=1 if device == "cpu" else 5)


if __name__ == "__main__":
    common.main(__doc__, rows, cuda=True)
