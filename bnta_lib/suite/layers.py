"""What adaption does to each BN layer: change rates (Figure 3), distance from the source (Figure 1).

The distance is the mean over channels of the Wasserstein-2 distance of Gaussians, sqrt((m_a - m_b)^2 +
(s_a - s_b)^2), of the outputs y of Eq. (12), in units of the source's mean standard deviation.
"""

import copy
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet, bn_layers

# The layers that the paper names in Section 4.3, by its index "from shallow to deep".
PAPER_LAYERS = {"mean": (1, 52, 57, 58, 60), "var": (1, 52, 57, 58, 60),
                "gamma": (2, 6, 9, 42, 51), "beta": (2, 6, 9, 42, 51)}
TOP = 10
LAYER_LEVEL = 0.05  # of the analysis of variance of a layer; the share that differs by chance


def change_rates_by_split(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows of ``lab.measure("changes")``: target, split, quantity, index, layer, rate (per cent).

    The rate is NaN if the quantity was 0 in every channel, as beta of `bnneck` is.
    """
    rates = rows[rows["metric"].str.startswith("rate ")].rename(columns={"value": "rate"})
    rates = rates.assign(quantity=rates["metric"].str.removeprefix("rate "), index=rates["index"].astype(int))
    return rates[["target", "split", "quantity", "index", "layer", "rate"]].reset_index(drop=True)


def top_layers(rates: pd.DataFrame, quantity: str, top: int = TOP) -> list[int]:
    """Indices of the layers whose rate is largest on average over the targets, in their order."""
    means = rates[rates["quantity"] == quantity].groupby(["target", "index"])["rate"].mean()
    return sorted(means.groupby("index").mean().nlargest(top).index.tolist())


def between_targets(rates: pd.DataFrame) -> pd.DataFrame:
    """A row a quantity: how many layers moved, and the share (per cent) of them whose rates differ between
    targets, by an analysis of variance over splits at LAYER_LEVEL. No row for a single target or split."""
    rows = []
    for quantity, group in rates.dropna(subset="rate").groupby("quantity", sort=False):
        table = group.pivot(index=["target", "split"], columns="index", values="rate")
        table = table.loc[:, table.max() > 0]
        targets = [target for _, target in table.groupby("target")]
        if len(targets) > 1 and min(map(len, targets)) > 1:
            differing = stats.f_oneway(*targets).pvalue < LAYER_LEVEL
            rows.append({"quantity": quantity, "layers": len(differing), "share": 100 * differing.mean()})
    return pd.DataFrame(rows, columns=["quantity", "layers", "share"])


def source_sample(sources: Sequence[ReIDSet], each: int = 200) -> Tensor:
    """At most ``each`` images of every source, evenly spread over its rows: uint8 (N, 3, h, w)."""
    return torch.cat([s.images[:: -(-len(s.images) // each)] for s in sources])


def bn_moments(model: BNTANet, images: Tensor, batch: int = 128) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation (channels,) of each BN layer's outputs over uint8 images (N, 3, h, w)."""
    sums = dict.fromkeys(bn_layers(model), (0, 0, 0))

    def add(name: str, output: Tensor) -> None:
        y = output.double().transpose(0, 1).flatten(1)
        count, first, second = sums[name]
        sums[name] = count + y.shape[1], first + y.sum(1).cpu(), second + y.square().sum(1).cpu()

    _visit_outputs(model, images, sums, add, batch)
    return {name: (first / count, (second / count - (first / count).square()).clamp(min=0).sqrt())
            for name, (count, first, second) in sums.items()}


def bn_outputs(model: BNTANet, images: Tensor, layers: Iterable[str], limit: int) -> dict[str, Tensor]:
    """Outputs of BN layers in eval mode: float32 (channels, about ``limit`` values at most) each, of images
    and places drawn at random (seeded), the same in every channel. Raises ValueError for an unknown layer."""
    parts = {name: ([], torch.Generator().manual_seed(0)) for name in layers}

    def draw(name: str, output: Tensor) -> None:
        y = output.float().transpose(0, 1).flatten(1).cpu()
        keep = -(-limit * len(output) // len(images))  # this batch's part of the limit
        places = torch.randperm(y.shape[1], generator=parts[name][1])[:keep]
        parts[name][0].append(y[:, places])  # a copy: what follows the layer writes in place

    _visit_outputs(model, images, parts, draw)
    return {name: torch.cat(pieces, dim=1) for name, (pieces, _) in parts.items()}


@torch.no_grad()
def _visit_outputs(model: BNTANet, images: Tensor, names: Iterable[str],
                   visit: Callable[[str, Tensor], None], batch: int = 128) -> None:
    """Call ``visit`` with the name and outputs (images, channels, ...) of these BN layers, batch by batch."""
    model = copy.deepcopy(model).eval()  # its hooks and modes end with it
    layers = bn_layers(model)
    for name in names:
        if name not in layers:
            raise ValueError(f"no BN layer {name!r}: for one, {next(iter(layers))!r}")
        layers[name].register_forward_hook(lambda _, inputs, output, name=name: visit(name, output))
    for chunk in images.split(batch):
        model(chunk)


def shift_by_camera(source: dict, cameras: Sequence[dict]) -> pd.DataFrame:
    """The mean squared distance of a place's cameras from the source in two parts, a row a layer.

    place: from the source to the mean of the cameras' moments; cameras: from there to each camera. The parts
    add up, in squares of the source's mean standard deviation. ``source`` and each of ``cameras``: a result
    of :func:`bn_moments`. Columns: index, layer, place, cameras.
    """
    rows = []
    for index, (name, moments) in enumerate(source.items(), start=1):
        origin = torch.stack(moments)  # (2, channels): means and standard deviations
        each = torch.stack([torch.stack(camera[name]) for camera in cameras])  # (cameras, 2, channels)
        centre, unit = each.mean(0), origin[1].mean().square()
        parts = [(end - start).square().sum(-2).mean() / unit
                 for start, end in ((origin, centre), (centre, each))]
        rows.append({"index": index, "layer": name, **dict(zip(("place", "cameras"), map(float, parts)))})
    return pd.DataFrame(rows)


def shift_by_layer(source: dict, target: dict) -> pd.DataFrame:
    """Distance between two results of :func:`bn_moments`, a row a layer: index, layer, distance."""
    rows = []
    for index, (name, (m, s)) in enumerate(source.items(), start=1):
        n, t = target[name]
        distance = ((m - n).square() + (s - t).square()).sqrt().mean() / s.mean()
        rows.append({"index": index, "layer": name, "distance": float(distance)})
    return pd.DataFrame(rows)
