"""Domain explorer: one set's people again and again, while a camera's values are turned.

Only what a camera does to the finished scene is turned, so that the scene is composed once and every
picture is that scene through another camera. It is of the embedded benchmark: a folder of crops
holds no scene that could be photographed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bnta_lib.rendered import render
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.model import BNTANet

# What can be turned: the lowest and highest value, the step; units as in bnta_lib.rendered.domains.
TURNED = {"exposure": (0.3, 2.5, 0.05), "haze": (0.0, 0.5, 0.01), "resolution": (0.2, 1.0, 0.02),
          "noise": (0.0, 0.1, 0.002)}


@dataclass(frozen=True)
class Scene:
    """People of a set, standing before its cameras: all but what the camera makes of it."""

    name: str
    size: tuple[int, int]  # height and width of the pictures
    picture: Tensor  # float32 (3, P, h, w) before the camera
    shot: dict[str, np.ndarray]  # rows of scene.shots()

    def own(self) -> dict[str, float]:
        """The cameras' values as the set has them, mean over the pictures."""
        return {name: float(self.shot[name].mean()) for name in TURNED}


def scene_of(name: str, size: tuple[int, int], people: int = 48, camera: int | None = None) -> Scene:
    """The first ``people`` people of an embedded domain, one shot each.

    ``camera`` (from 0): all by this one; None: by the domain's cameras in turn. Raises ValueError for
    a domain or camera that does not exist.
    """
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}: the domains are {', '.join(DOMAINS)}")
    domain = DOMAINS[name]
    if camera is not None and not 0 <= camera < domain.cameras:
        raise ValueError(f"{name} has cameras 0 to {domain.cameras - 1}, no {camera}")
    ids, numbers = np.arange(1, people + 1), np.zeros(people, int)
    cams = np.arange(people) % domain.cameras if camera is None else np.full(people, camera)
    picture, shot = render.stage(domain, ids, cams, numbers, size)
    return Scene(name, size, picture, shot)


def seen(of: Scene, people: int | None = None, **turned: float) -> Tensor:
    """Pictures uint8 (P, 3, height, width) of a scene by cameras with some values ``turned``.

    With none turned they are the set's own pixels. ``people``: only the first so many. Raises
    ValueError for a value that cannot be turned.
    """
    if odd := turned.keys() - TURNED.keys():
        raise ValueError(f"{min(odd)!r} cannot be turned: choose of {', '.join(TURNED)}")
    shot = {name: value[:people] for name, value in of.shot.items()}
    shot |= {name: np.full_like(shot[name], value) for name, value in turned.items()}
    return render.photograph(of.picture[:, :people], shot, of.size)


@torch.no_grad()
def stem_moments(model: BNTANet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channels,) of what enters the first BN layer."""
    x = images.to(model.scale.device, model.scale.dtype) * model.scale + model.shift
    y = model.backbone.conv1(x).transpose(0, 1).flatten(1)
    return y.mean(1).cpu(), y.std(1).cpu()


def stem_statistics(model: BNTANet, own: tuple[Tensor, Tensor], moved: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """The first BN layer's stored statistics beside those of images: a row a channel.

    ``own`` and ``moved``: of :func:`stem_moments`. Columns: "stored", "set" and "moved", each with
    mean and std.
    """
    layer = model.backbone.bn1
    sides = {"stored": (layer.running_mean.cpu(), layer.running_var.cpu().sqrt()), "set": own,
             "moved": moved}
    return pd.DataFrame({f"{side} {what}": values.numpy()
                         for side, pair in sides.items() for what, values in zip(("mean", "std"), pair)})


def stem_distance(stem: pd.DataFrame, side: str) -> float:
    """Mean over channels of the Gaussians' Wasserstein-2 distance from the stored, in stored std."""
    apart = np.hypot(stem[f"{side} mean"] - stem["stored mean"], stem[f"{side} std"] - stem["stored std"])
    return float(apart.mean() / stem["stored std"].mean())


def domain_sentence(of: Scene, stem: pd.DataFrame, turned: dict[str, float]) -> str:
    """How far the first BN layer's input lies from what it has stored, as the set is and as turned."""
    values = ", ".join(f"{name} {value:.3g}" for name, value in turned.items())
    return (f"{of.name}, {values}: the first BN layer's input lies {stem_distance(stem, 'moved'):.3f} "
            f"stored deviations from what it has stored; as the set is, {stem_distance(stem, 'set'):.3f}.")
