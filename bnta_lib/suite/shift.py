"""How far the outputs of a BN layer lie from those on the source: the numbers behind Figure 1.

The outputs y of Eq. (12) are compared channel by channel: the mean over channels of the
Wasserstein-2 distance between Gaussians of the channel's mean and standard deviation,
sqrt((m_a - m_b)^2 + (s_a - s_b)^2), in units of the source's mean standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet, bn_layers, preserve_modes


def source_sample(sources: Sequence[ReIDSet], each: int = 200) -> Tensor:
    """At most ``each`` images of every source, evenly spaced over its rows: uint8 (N, 3, h, w)."""
    return torch.cat([s.images[:: -(-len(s.images) // each)] for s in sources])


@torch.no_grad()
def bn_moments(
    model: BNTANet, images: Tensor, batch: int = 128
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation (channels,) of each BN layer's outputs, in eval mode.

    ``images``: uint8 (N, 3, h, w). Over all images and places of the maps.
    """
    sums: dict[str, list] = {}

    def record(name):
        def hook(layer, inputs, output):
            y = output.double().transpose(0, 1).flatten(1)
            total = sums.setdefault(name, [0, 0.0, 0.0])
            total[0] += y.shape[1]
            total[1] = total[1] + y.sum(1).cpu()
            total[2] = total[2] + y.square().sum(1).cpu()
        return hook

    _forward(model, images, batch, {name: record(name) for name in bn_layers(model)})
    moments = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        moments[name] = mean, (second / count - mean.square()).clamp(min=0).sqrt()
    return {name: moments[name] for name in bn_layers(model)}


@torch.no_grad()
def bn_outputs(model: BNTANet, images: Tensor, layer: str, limit: int = 20_000) -> Tensor:
    """Outputs of one BN layer in eval mode: float32 (channels, about ``limit`` values at most).

    The values are those of images and places drawn at random (seeded), the same in every
    channel; all of them where there are fewer. Raises ValueError for a layer that does not exist.
    """
    if layer not in bn_layers(model):
        raise ValueError(f"no BN layer {layer!r}: for one, {next(iter(bn_layers(model)))!r}")
    parts, random = [], torch.Generator().manual_seed(0)

    def hook(module, inputs, output) -> None:
        y = output.float().transpose(0, 1).flatten(1).cpu()
        keep = -(-limit * len(output) // len(images))  # this batch's part of the limit
        if keep < y.shape[1]:
            y = y[:, torch.randperm(y.shape[1], generator=random)[:keep]]
        parts.append(y.clone())  # what follows the layer writes in place

    _forward(model, images, 128, {layer: hook})
    return torch.cat(parts, dim=1)


def _forward(model: BNTANet, images: Tensor, batch: int, hooks: dict) -> None:
    layers = bn_layers(model)
    handles = [layers[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        with preserve_modes(model):
            model.eval()
            for chunk in images.split(batch):
                maps = model.forward_features(chunk)
                model.bnneck(model.global_pool(maps))
                model.local_features(model.stripe_pool(maps))
    finally:
        for handle in handles:
            handle.remove()


def channel_distances(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]
) -> Tensor:
    """Wasserstein-2 distance of each channel's Gaussian, (channels,), in the outputs' unit.

    Each side is a layer's mean and standard deviation (channels,) of :func:`bn_moments`.
    """
    (m, s), (n, t) = source, target
    return ((m - n).square() + (s - t).square()).sqrt()


def channel_shift(source: Tensor, target: Tensor) -> Tensor:
    """As :func:`channel_distances` from outputs (channels, values), in each channel's own source
    standard deviations: (channels,)."""
    moments = [(v.double().mean(1), v.double().std(1)) for v in (source, target)]
    return channel_distances(*moments) / moments[0][1].clamp(min=1e-12)


def shift_by_layer(source: dict, target: dict) -> pd.DataFrame:
    """Distance of a target's outputs from the source's, a row a layer: index, layer, distance.

    ``source`` and ``target`` come from :func:`bn_moments`.
    """
    rows = []
    for index, name in enumerate(source, start=1):
        distance = channel_distances(source[name], target[name]).mean() / source[name][1].mean()
        rows.append({"index": index, "layer": name, "distance": float(distance)})
    return pd.DataFrame(rows)


def most_shifted_layer(shift: pd.DataFrame) -> str:
    """The layer that Figure 1 shows by default: the largest shift of the *frozen* model.

    The rule looks at nothing that adaption does. The part layers and `bnneck` are left out: they do
    not feed the backbone.
    """
    backbone = shift[shift["layer"].str.startswith("backbone.")]
    return str(backbone.loc[backbone["distance"].idxmax(), "layer"])


def closer_by_target(shift: pd.DataFrame) -> pd.DataFrame:
    """Whether adaption brought a target closer: a row a target, in the order given.

    ``shift``: rows of ``lab.measure("shift")``, value renamed distance. Columns: frozen and adapted (mean
    distance over layers), closer (share of the layers whose distance fell, per cent).
    """
    wide = shift.pivot(index=["target", "index"], columns="model", values="distance")
    wide["closer"] = 100.0 * (wide["adapted"] < wide["frozen"])
    table = wide.groupby(level="target").mean().rename_axis(columns=None)
    return table.loc[shift["target"].unique(), ["frozen", "adapted", "closer"]]
