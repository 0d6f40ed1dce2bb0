"""Domain explorer: one set's people again and again, while a camera's values are turned.

Only what a camera does to the finished scene is turned, so that the scene is composed once and every
picture is that scene through another camera. It is of the embedded benchmark: a folder of crops
holds no scene that could be photographed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets as W
import numpy as np
import pandas as pd
import torch
from IPython.display import Image, display
from torch import Tensor

from bnta_lib.explore.widgets import RELEASED, WIDE, Explorer
from bnta_lib.figures.base import picture
from bnta_lib.figures.data import rows_sheet
from bnta_lib.figures.layers import stem_figure
from bnta_lib.model import BNTANet
from bnta_lib.rendered import render
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import Settings


@dataclass(frozen=True)
class Scene:
    """People of a set, standing before its cameras: all but what the camera makes of it."""

    size: tuple[int, int]  # height and width of the pictures
    picture: Tensor  # float32 (3, P, h, w) before the camera
    shot: dict[str, np.ndarray]  # rows of its shots


def scene_of(name: str, size: tuple[int, int], people: int = 48) -> Scene:
    """The first ``people`` people of an embedded domain, one shot each, by its cameras in turn."""
    domain = DOMAINS[name]
    ids, numbers = np.arange(1, people + 1), np.zeros(people, int)
    cams = np.arange(people) % domain.cameras
    return Scene(size, *render.stage(domain, ids, cams, numbers, size))


def photograph(
    of: Scene, exposure: float = 1.0, haze: float = 0.0, resolution: float = 1.0, noise: float = 0.0
) -> Tensor:
    """Pictures uint8 (P, 3, height, width) of a scene, by cameras turned away from the set's own.

    Exposure and resolution are multiplied, haze and noise added to (units as in
    :mod:`bnta_lib.rendered.domains`). With nothing turned they are the set's own pixels.
    """
    shot = of.shot | {"exposure": of.shot["exposure"] * exposure, "haze": of.shot["haze"] + haze,
                      "resolution": of.shot["resolution"] * resolution, "noise": of.shot["noise"] + noise}
    return render.photograph(of.picture, shot, of.size)


@torch.no_grad()
def stem_statistics(model: BNTANet, of_set: Tensor, moved: Tensor) -> pd.DataFrame:
    """The first BN layer's stored statistics beside those of images that enter it: a row a channel.

    Columns: "stored", "set" and "moved", each with mean and std.
    """
    layer = model.backbone.bn1
    sides = {"stored": (layer.running_mean, layer.running_var.sqrt())}
    for side, images in (("set", of_set), ("moved", moved)):
        x = images.to(model.scale.device, model.scale.dtype) * model.scale + model.shift
        y = model.backbone.conv1(x).transpose(0, 1).flatten(1)
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

    Beneath: mean and deviation of what enters the first BN layer, over ``people`` pictures, against
    what that layer has stored.
    """
    scenes = {name: scene_of(name, settings.size, people) for name in names}
    of_set = {name: photograph(of) for name, of in scenes.items()}

    def draw(place: str, **turned: float) -> Image:
        moved = photograph(scenes[place], **turned)
        stem = stem_statistics(model, of_set[place], moved)
        print(f"{place}: distance from the stored statistics {stem_distance(stem, 'set'):.3f} as in the set, "
              f"{stem_distance(stem, 'moved'):.3f} as moved (stored deviations)")
        display(picture(stem_figure(stem), "Statistics of each channel against the stored ones", False))
        return picture(rows_sheet({"as in\nthe set": of_set[place][:7], "moved": moved[:7]}),
                       f"People of {place} as in the set, and by the cameras as they are turned", False)

    sliders = {name: W.FloatSlider(description=label, min=low, max=high, step=step, value=value, **RELEASED)
               for name, label, low, high, step, value in (
                   ("exposure", "exposure ×", 0.25, 3.0, 0.05, 0.5), ("haze", "haze +", 0.0, 0.5, 0.01, 0.0),
                   ("resolution", "resolution ×", 0.2, 1.0, 0.02, 1.0), ("noise", "noise +", 0.0, 0.1, 0.002, 0.0))}
    return Explorer(draw, place=W.Dropdown(options=list(scenes), **WIDE), **sliders)
