"""Layer explorer: what each BN layer puts out on the source and on a target, and what moved in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from bnta_lib.adaption import QUANTITIES, adapt, change_rates
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.model import BNTANet, bn_layers, preserve_modes
from bnta_lib.settings import Settings
from bnta_lib.suite.shift import bn_moments, shift_by_layer, source_sample

KINDS = ("source", "frozen", "adapted")
VALUES = 400  # values kept of a channel
BINS = 120


@dataclass(frozen=True)
class LayerBook:
    """All that the layer explorer shows of one target; nothing of it needs the network again."""

    target: str
    layers: list[str]  # by Figure 3's index, which counts from 1
    normalised: dict[str, dict[str, Tensor]]  # kind, layer: float32 (channels, values) of x̂
    affine: dict[str, dict[str, tuple[Tensor, Tensor]]]  # kind, layer: gamma, beta (channels,)
    distances: dict[str, list[float]]  # frozen, adapted: of each layer's outputs from the source's
    changes: dict[str, dict[str, np.ndarray]]  # layer, quantity: after minus before (channels,)
    rates: pd.DataFrame  # per cent: a row a layer (index), a column a quantity


def layer_books(
    model: BNTANet,
    targets: Mapping[str, Target],
    sources: Sequence[ReIDSet],
    settings: Settings,
    split: int = 0,
    seed: int = 0,
    images: int = 200,
) -> dict[str, LayerBook]:
    """A book for each target: the model adapted to a split's gallery, and the outputs of all layers.

    Outputs are those on at most ``images`` images a side, evenly spread: of all given sources, and of
    the target's probes and gallery. Distances are those of :mod:`bnta_lib.suite.shift`, on these images.
    """
    seen = source_sample(sources, max(1, images // len(sources)))
    moments, of_source = bn_moments(model, seen), normalised_outputs(model, seen)
    books = {}
    for name, target in targets.items():
        chosen = target.splits[split]
        adapted = adapt(model, target.data.images[chosen.gallery], settings, seed=seed).model
        both = torch.cat([chosen.probe, chosen.gallery])
        own = target.data.images[both[:: -(-len(both) // images)]]
        used = {"frozen": model, "adapted": adapted}
        values = {kind: normalised_outputs(m, own) for kind, m in used.items()}
        shift = {kind: shift_by_layer(moments, bn_moments(m, own)) for kind, m in used.items()}
        rates = change_rates(model, adapted).pivot(index="index", columns="quantity", values="rate")
        books[name] = LayerBook(
            name, list(moments), {"source": of_source, **values},
            {"source": _affine(model), **{kind: _affine(m) for kind, m in used.items()}},
            {kind: table["distance"].tolist() for kind, table in shift.items()},
            _changes(model, adapted), 100 * rates[list(QUANTITIES)])
    return books


@torch.no_grad()
def normalised_outputs(model: BNTANet, images: Tensor, values: int = VALUES) -> dict[str, Tensor]:
    """x̂ = (x - mu) / sqrt(sigma^2 + eps) of every BN layer by its stored statistics, in eval mode.

    By layer: float32 (channels, at most ``values``); the same images and places, drawn at random
    (seeded), in every channel.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in bn_layers(model)}
    random = torch.Generator().manual_seed(0)

    def hook(name: str):
        def keep(layer, inputs) -> None:
            x = inputs[0].float().transpose(0, 1).flatten(1)
            kept = -(-values * len(inputs[0]) // len(images))  # this batch's part
            if kept < x.shape[1]:
                x = x[:, torch.randperm(x.shape[1], generator=random)[:kept].to(x.device)]
            std = (layer.running_var + layer.eps).sqrt()
            parts[name].append(((x - layer.running_mean[:, None]) / std[:, None]).cpu())
        return keep

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in bn_layers(model).items()]
    try:
        with preserve_modes(model):
            model.eval()
            for chunk in images.split(128):
                maps = model.forward_features(chunk)
                model.bnneck(model.global_pool(maps))
                model.local_features(model.stripe_pool(maps))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(chunks, 1) for name, chunks in parts.items()}


def outputs(
    book: LayerBook, index: int, channel: int | None = None, affine: bool = True
) -> dict[str, np.ndarray]:
    """Values that layer ``index`` (from 1) puts out, by kind; of one channel (from 1) or of all.

    ``affine``: y = gamma x̂ + beta, what the layer hands on (Eq. 12); otherwise x̂ alone. Raises
    ValueError for a layer or channel that does not exist.
    """
    name = layer_name(book, index)
    found = {}
    for kind in KINDS:
        x = book.normalised[kind][name]
        if channel is not None and not 1 <= channel <= len(x):
            raise ValueError(f"{name} has channels 1 to {len(x)}, no {channel}")
        if affine:
            gamma, beta = book.affine[kind][name]
            x = gamma[:, None] * x + beta[:, None]
        found[kind] = (x if channel is None else x[channel - 1]).flatten().numpy()
    return found


def layer_name(book: LayerBook, index: int) -> str:
    """The layer's name. Raises ValueError for an index that does not exist."""
    if not 1 <= index <= len(book.layers):
        raise ValueError(f"BN layers are numbered 1 to {len(book.layers)}, there is no {index}")
    return book.layers[index - 1]


def channel_distance(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Wasserstein-2 distance of one channel's Gaussians from the source's, in source deviations."""
    m, s = float(values["source"].mean()), float(values["source"].std())
    return {kind: float(np.hypot(values[kind].mean() - m, values[kind].std() - s) / max(s, 1e-12))
            for kind in KINDS[1:]}


def densities(values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Edges (BINS + 1,) that hold 99.6 % of each kind, and smoothed densities (BINS,) by kind."""
    ends = [np.quantile(v, (0.002, 0.998)) for v in values.values()]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    if low == high:  # a dead channel puts out one value
        low, high = low - 0.5, high + 0.5
    room = 0.06 * (high - low)
    edges = np.linspace(low - room, high + room, BINS + 1)
    step, found = edges[1] - edges[0], {}
    for kind, v in values.items():
        counts = np.histogram(v, edges)[0] / (len(v) * step)
        width = v.std() * len(v) ** -0.2 / step  # Scott's rule, in bins
        found[kind] = gaussian_filter1d(counts, max(width, 0.5), mode="constant")
    return edges, found


def layer_sentence(book: LayerBook, index: int) -> str:
    """The layer in one line: its distances from the source and how far its quantities moved."""
    a, b = (book.distances[kind][index - 1] for kind in KINDS[1:])
    word = "closer to the source" if b < a else "no closer to the source"
    rates = ", ".join(f"{name} {value:.2g} %" for name, value in book.rates.loc[index].items()
                      if not np.isnan(value))
    return (f"{book.target}: {layer_name(book, index)}, BN layer {index} of {len(book.layers)}, came "
            f"{word} (d {a:.3f} to {b:.3f}); change rates: {rates}.")


def _affine(model: BNTANet) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (layer.weight.detach().cpu().clone(), layer.bias.detach().cpu().clone())
            for name, layer in bn_layers(model).items()}


def _changes(before: BNTANet, after: BNTANet) -> dict[str, dict[str, np.ndarray]]:
    new = bn_layers(after)
    return {name: {quantity: (getattr(new[name], kind) - getattr(layer, kind)).detach().cpu().numpy()
                   for quantity, kind in QUANTITIES.items()}
            for name, layer in bn_layers(before).items()}
