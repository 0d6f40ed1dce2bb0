"""How far the outputs of a BN layer lie from those on the source: the numbers behind Figure 1.

The mean over channels of the Wasserstein-2 distance between Gaussians, sqrt((m_a - m_b)^2 + (s_a - s_b)^2),
of the outputs y of Eq. (12), in units of the source's mean standard deviation.
"""

import copy
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet, bn_layers


def source_sample(sources: Sequence[ReIDSet], each: int = 200) -> Tensor:
    """At most ``each`` images of every source, evenly spaced over its rows: uint8 (N, 3, h, w)."""
    return torch.cat([s.images[:: -(-len(s.images) // each)] for s in sources])


def bn_moments(model: BNTANet, images: Tensor, batch: int = 128) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation (channels,) of each BN layer's outputs, in eval mode.

    ``images``: uint8 (N, 3, h, w). Over all images and places of the maps.
    """
    sums = dict.fromkeys(bn_layers(model), (0, 0, 0))

    def add(name: str, output: Tensor) -> None:
        y = output.double().transpose(0, 1).flatten(1)
        count, first, second = sums[name]
        sums[name] = count + y.shape[1], first + y.sum(1).cpu(), second + y.square().sum(1).cpu()

    _visit_outputs(model, images, sums, add, batch)
    moments = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        moments[name] = mean, (second / count - mean.square()).clamp(min=0).sqrt()
    return moments


def bn_outputs(model: BNTANet, images: Tensor, layers: Iterable[str], limit: int) -> dict[str, Tensor]:
    """Outputs of BN layers in eval mode: float32 (channels, about ``limit`` values at most) each.

    The values are those of images and places drawn at random (seeded), the same in every channel; all of
    them if there are fewer. Raises ValueError for a layer that does not exist.
    """
    if unknown := [name for name in layers if name not in bn_layers(model)]:
        raise ValueError(f"no BN layer {unknown[0]!r}: for one, {next(iter(bn_layers(model)))!r}")
    parts = {name: ([], torch.Generator().manual_seed(0)) for name in layers}

    def draw(name: str, output: Tensor) -> None:
        y = output.float().transpose(0, 1).flatten(1).cpu()
        keep = -(-limit * len(output) // len(images))  # this batch's part of the limit
        if keep < y.shape[1]:
            y = y[:, torch.randperm(y.shape[1], generator=parts[name][1])[:keep]]
        parts[name][0].append(y.clone())  # what follows the layer writes in place

    _visit_outputs(model, images, parts, draw)
    return {name: torch.cat(pieces, dim=1) for name, (pieces, _) in parts.items()}


@torch.no_grad()
def _visit_outputs(model: BNTANet, images: Tensor, names: Iterable[str],
                   visit: Callable[[str, Tensor], None], batch: int = 128) -> None:
    """Call ``visit`` with the name and outputs (images, channels, ...) of these BN layers, batch by batch."""
    model = copy.deepcopy(model).eval()  # its hooks and modes end with it
    for name in names:
        bn_layers(model)[name].register_forward_hook(lambda _, inputs, output, name=name: visit(name, output))
    for chunk in images.split(batch):
        maps = model.forward_features(chunk)
        model.bnneck(model.global_pool(maps))
        model.local_features(model.stripe_pool(maps))


def channel_distances(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Wasserstein-2 distance of each channel's Gaussian, (channels,), in the outputs' unit.

    Each side is a layer's mean and standard deviation (channels,) of :func:`bn_moments`.
    """
    (m, s), (n, t) = source, target
    return ((m - n).square() + (s - t).square()).sqrt()


def channel_shift(source: Tensor, target: Tensor) -> Tensor:
    """Distance of outputs (channels, values) in the channel's source standard deviations: (channels,)."""
    moments = [(v.double().mean(1), v.double().std(1)) for v in (source, target)]
    return channel_distances(*moments) / moments[0][1].clamp(min=1e-12)


def shift_by_layer(source: dict, target: dict) -> pd.DataFrame:
    """Distance between two results of :func:`bn_moments`, a row a layer: index, layer, distance."""
    rows = [(index, name, float(channel_distances(moments, target[name]).mean() / moments[1].mean()))
            for index, (name, moments) in enumerate(source.items(), start=1)]
    return pd.DataFrame(rows, columns=["index", "layer", "distance"])


def most_shifted_layer(shift: pd.DataFrame) -> str:
    """The layer that Figure 1 shows by default: the largest shift of the *frozen* model's backbone."""
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
