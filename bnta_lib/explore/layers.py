"""Layer explorer: what each BN layer puts out on the source and on a target, and what moved in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as W
import torch
from IPython.display import Image
from torch import Tensor

from bnta_lib.adaption import QUANTITIES, adapt
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.explore.widgets import RELEASED, WIDE, Explorer
from bnta_lib.figures.base import picture
from bnta_lib.figures.layers import layer_figure
from bnta_lib.model import BNTANet, bn_layers, preserve_modes
from bnta_lib.settings import Settings
from bnta_lib.suite.shift import channel_distances, source_sample


@torch.no_grad()
def all_outputs(model: BNTANet, images: Tensor, values: int = 400) -> dict[str, Tensor]:
    """Outputs of every BN layer in eval mode: by layer float32 (channels, at most about ``values``).

    The values are those of images and places drawn at random (seeded), the same in every channel.
    """
    outputs: dict[str, list[Tensor]] = {name: [] for name in bn_layers(model)}
    random = torch.Generator().manual_seed(0)

    def watch(name: str):
        def hook(layer, inputs, output) -> None:
            y = output.float().transpose(0, 1).flatten(1).cpu()
            some = torch.randperm(y.shape[1], generator=random)[: -(-values * len(output) // len(images))]
            outputs[name].append(y[:, some])
        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in bn_layers(model).items()]
    try:
        with preserve_modes(model):
            model.eval()
            for chunk in images.split(64):
                maps = model.forward_features(chunk)
                model.bnneck(model.global_pool(maps))
                model.local_features(model.stripe_pool(maps))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts, 1) for name, parts in outputs.items()}


def distances(source: Tensor, outputs: Mapping[str, Tensor], channel: int | None = None) -> dict[str, float]:
    """Distance of each of ``outputs`` (channels, values) from the source's, as in
    :mod:`bnta_lib.suite.shift`: of all channels, or of one (from 1)."""
    rows = slice(None) if channel is None else slice(channel - 1, channel)
    m, s = source.mean(1)[rows], source.std(1)[rows]
    return {kind: float(channel_distances((m, s), (y.mean(1)[rows], y.std(1)[rows])).mean() / s.mean().clamp(min=1e-12))
            for kind, y in outputs.items()}


def layer_explorer(
    model: BNTANet, targets: Mapping[str, Target], sources: Sequence[ReIDSet], settings: Settings,
    split: int = 0, seed: int = 0, layer: str | None = None, images: int = 200,
) -> Explorer:
    """Any BN layer: its outputs on source and target, and the change of μ, σ², γ and β.

    Adapts to one split of each target and passes at most ``images`` images a side through the models;
    the sliders then need no network. ``layer``: the one to begin with, by name.
    """
    of_source, before = all_outputs(model, source_sample(sources, max(1, images // len(sources)))), bn_layers(model)
    outputs, changes = {}, {}
    for name, target in targets.items():
        parts = target.split(split)
        adapted = adapt(model, target.data.images[parts.gallery], settings, seed=seed).model
        both = torch.cat([parts.probe, parts.gallery])
        some = target.data.images[both[:: -(-len(both) // images)]]
        outputs[name] = {"frozen": all_outputs(model, some), "adapted": all_outputs(adapted, some)}
        changes[name] = {key: {quantity: (getattr(new, kind) - getattr(before[key], kind)).detach().cpu()
                               for quantity, kind in QUANTITIES.items()} for key, new in bn_layers(adapted).items()}
    names = list(before)

    def draw(target: str, index: int, channel: int) -> Image:
        name, source = names[index - 1], of_source[names[index - 1]]
        number = min(channel, len(source)) or None
        sides = {kind: values[name] for kind, values in outputs[target].items()}
        d = distances(source, sides, number)
        print(f"{target}: {name}, BN layer {index} of {len(names)}, d = {d['frozen']:.3f} frozen, {d['adapted']:.3f} adapted")
        shown = {kind: (y if number is None else y[number - 1]).numpy() for kind, y in {"source": source, **sides}.items()}
        label = f"output of {name.removeprefix('backbone.')}" + (f", channel {number}" if number else "")
        return picture(layer_figure(shown, d, changes[target][name], label, number),
                       f"Outputs of {name} on the source and on {target}, and the change of its four quantities", False)

    most = max(len(y) for y in of_source.values())
    return Explorer(draw, target=W.Dropdown(description="target", options=list(outputs), **WIDE),
                    index=W.IntSlider(description="BN layer", min=1, max=len(names),
                                      value=names.index(layer) + 1 if layer else 1, **RELEASED),
                    channel=W.IntSlider(description="channel (0: all)", min=0, max=most, value=0, **RELEASED))
