"""Figure functions under ipywidgets' ``interactive``: retrieval, BN layers, and the cameras of a domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as W
import numpy as np
import pandas as pd
import torch
from IPython.display import Image, display
from torch import Tensor

from bnta_lib.adaption import QUANTITIES, adapt
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking
from bnta_lib.explore.widgets import RELEASED, WIDE, Explorer
from bnta_lib.figures.adaption import retrieval_figure
from bnta_lib.figures.base import picture
from bnta_lib.figures.data import rows_sheet
from bnta_lib.figures.layers import layer_figure, stem_figure
from bnta_lib.model import BNTANet, bn_layers, preserve_modes
from bnta_lib.rendered import render
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import Settings
from bnta_lib.suite.shift import channel_distances, source_sample

ORDERS = ("most improved first", "most worsened first", "in the target's order")


def probe_order(before: Ranking, after: Ranking, order: str) -> Tensor:
    """Probes (P,) sorted by the ratio of the ranks of their first match, as one of ORDERS names it.

    Probes without a match come last.
    """
    if order == ORDERS[2]:
        return torch.arange(len(before.rank))
    ratio = after.rank.double() / before.rank.clamp(min=1).double()
    ratio = ratio if order == ORDERS[0] else -ratio
    return torch.argsort(ratio.masked_fill((before.rank == 0) | (after.rank == 0), torch.inf), stable=True)


def retrieval_explorer(target: Target, split: Split, before: Ranking, after: Ranking) -> Explorer:
    """Any probe of a split: its gallery ranking before and after adaption, right ones marked.

    ``before`` and ``after``: of :func:`bnta_lib.evaluation.top_gallery` on the split's images.
    """
    probes, gallery = target.data.images[split.probe], target.data.images[split.gallery]

    def draw(order: str, number: int) -> Image:
        probe = int(probe_order(before, after, order)[number - 1])
        print(f"probe {probe}: rank of the first match {int(before.rank[probe])} to {int(after.rank[probe])}")
        return picture(retrieval_figure(probes, gallery, before, after, {f"probe {probe}": [probe]}),
                       f"Probe {probe} and its nearest gallery images before and after adaption", trim=False)

    return Explorer(draw, order=W.Dropdown(description="probes", options=ORDERS, **WIDE),
                    number=W.IntSlider(description="number", min=1, max=len(probes), value=1, **RELEASED))


# ---------------------------------------------------------------- BN layers


@torch.no_grad()
def all_outputs(model: BNTANet, images: Tensor, values: int = 400) -> dict[str, Tensor]:
    """Outputs of every BN layer in eval mode: by layer float32 (channels, at most about ``values``).

    The values are those of images and places drawn at random (seeded), the same in every channel.
    """
    outputs: dict[str, list[Tensor]] = {name: [] for name in bn_layers(model)}
    random, handles = torch.Generator().manual_seed(0), []
    for name, layer in bn_layers(model).items():
        def hook(layer, inputs, output, name=name) -> None:
            y = output.float().transpose(0, 1).flatten(1).cpu()
            some = torch.randperm(y.shape[1], generator=random)[: -(-values * len(output) // len(images))]
            outputs[name].append(y[:, some])
        handles.append(layer.register_forward_hook(hook))
    with preserve_modes(model):
        model.eval()
        for chunk in images.split(64):
            maps = model.forward_features(chunk)
            model.bnneck(model.global_pool(maps))
            model.local_features(model.stripe_pool(maps))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts, 1) for name, parts in outputs.items()}


def distances(source: Tensor, outputs: Mapping[str, Tensor], channel: int | None = None) -> dict[str, float]:
    """Distance of each of ``outputs`` (channels, values) from the source's, as in
    :mod:`bnta_lib.suite.shift`: of all channels, or of one (from 1)."""
    rows = slice(None) if channel is None else slice(channel - 1, channel)
    m, s = source.mean(1)[rows], source.std(1)[rows]
    return {kind: float(channel_distances((m, s),
            (y.mean(1)[rows], y.std(1)[rows])).mean() / s.mean().clamp(min=1e-12))
            for kind, y in outputs.items()}


def layer_explorer(
    model: BNTANet, targets: Mapping[str, Target], sources: Sequence[ReIDSet], settings: Settings,
    split: int = 0, seed: int = 0, layer: str | None = None, images: int = 200,
) -> Explorer:
    """Any BN layer: its outputs on source and target, and the change of μ, σ², γ and β.

    Adapts to one split of each target and passes at most ``images`` images a side through the models;
    the sliders then need no network. ``layer``: the one to begin with, by name.
    """
    before, outputs, changes = bn_layers(model), {}, {}
    of_source = all_outputs(model, source_sample(sources, max(1, images // len(sources))))
    for name, target in targets.items():
        parts = target.split(split)
        adapted = adapt(model, target.data.images[parts.gallery], settings, seed=seed).model
        both = torch.cat([parts.probe, parts.gallery])
        some = target.data.images[both[:: -(-len(both) // images)]]
        outputs[name] = {"frozen": all_outputs(model, some), "adapted": all_outputs(adapted, some)}
        changes[name] = {key: {quantity: (getattr(new, kind) - getattr(before[key], kind)).detach().cpu()
                               for quantity, kind in QUANTITIES.items()} for key,
                         new in bn_layers(adapted).items()}
    names = list(before)

    def draw(target: str, index: int, channel: int) -> Image:
        name, source = names[index - 1], of_source[names[index - 1]]
        number = min(channel, len(source)) or None
        sides = {kind: values[name] for kind, values in outputs[target].items()}
        d = distances(source, sides, number)
        print(f"{target}: {name}, BN layer {index} of {len(names)}, d = {d['frozen']:.3f} frozen, "
              f"{d['adapted']:.3f} adapted")
        shown = {kind: (y if number is None else y[number - 1]).numpy() for kind,
                 y in {"source": source, **sides}.items()}
        label = f"output of {name.removeprefix('backbone.')}" + (f", channel {number}" if number else "")
        return picture(layer_figure(shown, d, changes[target][name], label, number),
                       f"Outputs of {name} on source and {target}, and the change of its four quantities",
                       trim=False)

    return Explorer(draw, target=W.Dropdown(description="target", options=list(outputs), **WIDE),
                    index=W.IntSlider(description="BN layer", min=1, max=len(names),
                                      value=names.index(layer) + 1 if layer else 1, **RELEASED),
                    channel=W.IntSlider(description="channel (0: all)", min=0, value=0,
                                        max=max(map(len, of_source.values())), **RELEASED))


# ---------------------------------------------------------------- cameras of a domain


@dataclass(frozen=True)
class Scene:
    """People of a set, standing before its cameras: all but what the camera makes of it."""

    size: tuple[int, int]  # height and width of the pictures
    picture: Tensor  # float32 (3, P, h, w) before the camera
    shot: dict[str, np.ndarray]  # rows of its shots


def scene_of(name: str, size: tuple[int, int], people: int = 48) -> Scene:
    """The first ``people`` people of an embedded domain, one shot each, by its cameras in turn."""
    cams = np.arange(people) % DOMAINS[name].cameras
    return Scene(size, *render.stage(DOMAINS[name], np.arange(1, people + 1), cams, np.zeros(people, int),
                                     size))


def photograph(
    of: Scene, exposure: float = 1.0, haze: float = 0.0, resolution: float = 1.0, noise: float = 0.0
) -> Tensor:
    """Pictures uint8 (P, 3, height, width) of a scene, by cameras turned away from the set's own.

    Exposure and resolution are multiplied, haze and noise added (units as in
    :mod:`bnta_lib.rendered.domains`). With nothing turned they are the set's own pixels.
    """
    shot = of.shot
    turned = {"exposure": shot["exposure"] * exposure, "haze": shot["haze"] + haze,
              "resolution": shot["resolution"] * resolution, "noise": shot["noise"] + noise}
    return render.photograph(of.picture, shot | turned, of.size)


@torch.no_grad()
def stem_statistics(model: BNTANet, of_set: Tensor, moved: Tensor) -> pd.DataFrame:
    """The first BN layer's stored statistics beside those of images that enter it: a row a channel.

    Columns: "stored", "set" and "moved", each with mean and std.
    """
    layer = model.backbone.bn1
    sides = {"stored": (layer.running_mean, layer.running_var.sqrt())}
    for side, images in (("set", of_set), ("moved", moved)):
        y = model.backbone.conv1(model.normalised(images)).transpose(0, 1).flatten(1)
        sides[side] = y.mean(1), y.std(1)
    return pd.DataFrame({f"{side} {what}": values.cpu().numpy()
                         for side, pair in sides.items() for what, values in zip(("mean", "std"), pair)})


def stem_distance(stem: pd.DataFrame, side: str) -> float:
    """Mean over channels of the Gaussians' Wasserstein-2 distance from the stored, in stored std."""
    apart = np.hypot(stem[f"{side} mean"] - stem["stored mean"], stem[f"{side} std"] - stem["stored std"])
    return float(apart.mean() / stem["stored std"].mean())


def domain_explorer(
    model: BNTANet, settings: Settings, names: Sequence[str] = ("VIPeR", "GRID", "iLIDS"), people: int = 48,
) -> Explorer:
    """Exposure, haze, resolution and noise of an embedded place under sliders, on the same people.

    Above: mean and deviation of what enters the first BN layer, over ``people`` pictures, against what
    that layer has stored. A folder of crops holds no scene that could be photographed again.
    """
    scenes = {name: scene_of(name, settings.size, people) for name in names}
    of_set = {name: photograph(of) for name, of in scenes.items()}

    def draw(place: str, **turned: float) -> Image:
        moved = photograph(scenes[place], **turned)
        stem = stem_statistics(model, of_set[place], moved)
        print(f"{place}: distance from the stored statistics {stem_distance(stem, 'set'):.3f} as in the set, "
              f"{stem_distance(stem, 'moved'):.3f} as moved (stored deviations)")
        display(picture(stem_figure(stem), "Statistics of each channel against the stored ones", trim=False))
        return picture(rows_sheet({"as in\nthe set": of_set[place][:7], "moved": moved[:7]}),
                       f"People of {place} as in the set, and by the cameras as they are turned", trim=False)

    sliders = {name: W.FloatSlider(description=label, min=low, max=high, step=step, value=value, **RELEASED)
               for name, label, low, high, step, value in (
                   ("exposure", "exposure ×", 0.25, 3.0, 0.05, 0.5), ("haze", "haze +", 0.0, 0.5, 0.01, 0.0),
                   ("resolution", "resolution ×", 0.2, 1.0, 0.02, 1.0),
                   ("noise", "noise +", 0.0, 0.1, 0.002, 0.0))}
    return Explorer(draw, place=W.Dropdown(options=list(scenes), **WIDE), **sliders)
