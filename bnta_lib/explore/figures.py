"""Figure functions under ipywidgets' ``interactive``: retrieval, BN layers, and the cameras of a domain."""

from collections.abc import Mapping, Sequence

import ipywidgets as W
import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from torch import Tensor

from bnta_lib.adaption import QUANTITIES, adapt
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking
from bnta_lib.explore.widgets import RELEASED, WIDE, Explorer
from bnta_lib.figures.adaption import retrieval_figure
from bnta_lib.figures.base import picture
from bnta_lib.figures.data import rows_sheet
from bnta_lib.figures.layers import layer_figure, stem_figure
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.rendered import render
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import Settings
from bnta_lib.suite.shift import bn_outputs, shift_by_layer, source_sample

ORDERS = ("most improved first", "most worsened first", "in the target's order")


def probe_order(before: Ranking, after: Ranking, order: str) -> Tensor:
    """Probes (P,) sorted by the ratio of the ranks of their first match, as one of ORDERS names it.

    Probes without a match come last.
    """
    if order == ORDERS[2]:
        return torch.arange(len(before.rank))
    ratio = after.rank.double() / before.rank.clamp(min=1) * (1 if order == ORDERS[0] else -1)
    return torch.argsort(ratio.masked_fill((before.rank == 0) | (after.rank == 0), torch.inf), stable=True)


def retrieval_explorer(target: Target, split: Split, before: Ranking, after: Ranking) -> Explorer:
    """Any probe of a split: its gallery ranking before and after adaption, right ones marked.

    ``before`` and ``after``: of :func:`bnta_lib.evaluation.top_gallery` on the split's images.
    """
    probes, gallery = target.data.images[split.probe], target.data.images[split.gallery]

    def draw(order: str, number: int) -> tuple[str, Image]:
        probe = int(probe_order(before, after, order)[number - 1])
        figure = retrieval_figure(probes, gallery, before, after, {f"probe {probe}": [probe]})
        return (f"probe {probe}: rank of the first match {before.rank[probe]} to {after.rank[probe]}",
                picture(figure, f"Probe {probe} and its nearest gallery images before and after", trim=False))

    return Explorer(draw, order=W.Dropdown(description="probes", options=ORDERS, **WIDE),
                    number=W.IntSlider(description="number", min=1, max=len(probes), value=1, **RELEASED))


def layer_explorer(model: BNTANet, targets: Mapping[str, Target], sources: Sequence[ReIDSet],
                   settings: Settings, split: int = 0, seed: int = 0, layer: str | None = None,
                   images: int = 200) -> Explorer:
    """Any BN layer: its outputs on source and target, and the change of μ, σ², γ and β.

    Adapts to one split of each target and passes at most ``images`` images a side through the models;
    the sliders then need no network. ``layer``: the one to begin with, by name.
    """
    names, outputs, adapted = list(bn_layers(model)), {}, {}
    of_source = bn_outputs(model, source_sample(sources, max(1, images // len(sources))), names, 400)
    for name, target in targets.items():
        parts = target.split(split)
        adapted[name] = adapt(model, target.data.images[parts.gallery], settings, seed=seed).model
        both = torch.cat([parts.probe, parts.gallery])
        some = target.data.images[both[:: -(-len(both) // images)]]
        outputs[name] = {kind: bn_outputs(net, some, names, 400)
                         for kind, net in (("frozen", model), ("adapted", adapted[name]))}

    def draw(target: str, index: int, channel: int) -> tuple[str, Image]:
        name, label = names[index - 1], f"output of {names[index - 1].removeprefix('backbone.')}"
        shown = {"source": of_source[name], **{kind: y[name] for kind, y in outputs[target].items()}}
        number = min(channel, len(shown["source"])) or None
        if number:
            label += f", channel {number}"
            shown = {kind: y[number - 1 : number] for kind, y in shown.items()}
        moments = {kind: {name: (y.mean(1), y.std(1))} for kind, y in shown.items()}
        d = {kind: shift_by_layer(moments["source"], moments[kind])["distance"].item()
             for kind in ("frozen", "adapted")}
        old, new = bn_layers(model)[name], bn_layers(adapted[target])[name]
        changes = {quantity: (getattr(new, kind) - getattr(old, kind)).detach().cpu()
                   for quantity, kind in QUANTITIES.items()}
        alt = f"Outputs of {name} on source and {target}, and the change of its four quantities"
        return (f"{target}: {name}, BN layer {index} of {len(names)}, d = {d['frozen']:.3f} frozen, "
                f"{d['adapted']:.3f} adapted",
                picture(layer_figure(shown, d, changes, label, number), alt, trim=False))

    return Explorer(draw, target=W.Dropdown(description="target", options=list(outputs), **WIDE),
                    index=W.IntSlider(description="BN layer", min=1, max=len(names),
                                      value=names.index(layer) + 1 if layer else 1, **RELEASED),
                    channel=W.IntSlider(description="channel (0: all)", min=0, value=0,
                                        max=max(map(len, of_source.values())), **RELEASED))


def scene_of(name: str, size: tuple[int, int], people: int = 48) -> tuple[Tensor, dict]:
    """The first ``people`` people of an embedded domain before its cameras, in turn; rows of their shots."""
    cams = np.arange(people) % DOMAINS[name].cameras
    return render.stage(DOMAINS[name], np.arange(1, people + 1), cams, np.zeros(people, int), size)


def photograph(scene: tuple[Tensor, dict], size: tuple[int, int], exposure: float = 1.0, haze: float = 0.0,
               resolution: float = 1.0, noise: float = 0.0) -> Tensor:
    """Pictures uint8 (P, 3, height, width) of a scene, by cameras turned away from the set's own.

    Exposure and resolution are multiplied, haze and noise added (units as in
    :mod:`bnta_lib.rendered.domains`). With nothing turned they are the set's own pixels.
    """
    people, shot = scene
    turned = {"exposure": shot["exposure"] * exposure, "haze": shot["haze"] + haze,
              "resolution": shot["resolution"] * resolution, "noise": shot["noise"] + noise}
    return render.photograph(people, shot | turned, size)


@torch.no_grad()
def stem_statistics(model: BNTANet, of_set: Tensor, moved: Tensor) -> pd.DataFrame:
    """The first BN layer's stored statistics beside those of images that enter it: a row a channel.

    Columns: "stored", "set" and "moved", each with mean and std.
    """
    layer = model.backbone.bn1
    table = {"stored mean": layer.running_mean, "stored std": layer.running_var.sqrt()}
    for side, images in (("set", of_set), ("moved", moved)):
        y = model.backbone.conv1(model.normalised(images)).transpose(0, 1).flatten(1)
        table |= {f"{side} mean": y.mean(1), f"{side} std": y.std(1)}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in table.items()})


def stem_distance(stem: pd.DataFrame, side: str) -> float:
    """Mean over channels of the Gaussians' Wasserstein-2 distance from the stored, in stored std."""
    apart = np.hypot(stem[f"{side} mean"] - stem["stored mean"], stem[f"{side} std"] - stem["stored std"])
    return float(apart.mean() / stem["stored std"].mean())


def domain_explorer(model: BNTANet, settings: Settings, names: Sequence[str] = ("VIPeR", "GRID", "iLIDS"),
                    people: int = 48) -> Explorer:
    """Exposure, haze, resolution and noise of an embedded place under sliders, on the same people.

    Above: mean and deviation of what enters the first BN layer, over ``people`` pictures, against what
    that layer has stored. A folder of crops holds no scene that could be photographed again.
    """
    scenes = {name: scene_of(name, settings.size, people) for name in names}
    in_set = {name: photograph(scene, settings.size) for name, scene in scenes.items()}

    def draw(place: str, **turned: float) -> tuple[str, Image, Image]:
        of_set, moved = in_set[place], photograph(scenes[place], settings.size, **turned)
        stem = stem_statistics(model, of_set, moved)
        people = rows_sheet({"as in\nthe set": of_set[:7], "moved": moved[:7]})
        setting = ", ".join(f"{name} {value:.3g}" for name, value in turned.items())
        return (f"{place}: distance from the stored statistics {stem_distance(stem, 'set'):.3f} as in the "
                f"set, {stem_distance(stem, 'moved'):.3f} (stored deviations) with {setting}",
                picture(stem_figure(stem), "Statistics of each channel against the stored ones", trim=False),
                picture(people, f"People of {place} as in the set, and by the cameras as turned", trim=False))

    sliders = {name: W.FloatSlider(description=label, min=low, max=high, step=step, value=value, **RELEASED)
               for name, label, low, high, step, value in (
                   ("exposure", "exposure ×", 0.25, 3.0, 0.05, 0.5), ("haze", "haze +", 0.0, 0.5, 0.01, 0.0),
                   ("resolution", "resolution ×", 0.2, 1.0, 0.02, 1.0),
                   ("noise", "noise +", 0.0, 0.1, 0.002, 0.0))}
    return Explorer(draw, place=W.Dropdown(options=list(scenes), **WIDE), **sliders)
