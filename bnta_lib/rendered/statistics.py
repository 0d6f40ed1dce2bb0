"""How domains differ in numbers, and one person seen through the cameras of them all."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.rendered.render import render

# Unit of all: per cent of the full range of a pixel.
STATISTICS = ("brightness", "contrast", "saturation", "warmth", "sharpness")
# What a camera does to colour and detail; place, viewpoint, crop and people are left alone.
_CAMERA = ("gain", "cast", "exposure", "gamma", "contrast", "haze", "haze_colour", "saturation",
           "resolution", "blur", "noise", "quality")


def image_statistics(images: Tensor) -> pd.DataFrame:
    """A row an image of uint8 (N, 3, H, W); columns in per cent of a pixel's full range.

    brightness: mean of luma; contrast: its standard deviation; saturation: mean of largest minus smallest
    channel; warmth: mean red minus mean blue; sharpness: mean absolute difference of luma between neighbours.
    """
    parts = []
    for chunk in images.split(512):
        x = chunk.double() / 2.55
        luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
        across = (luma[:, :, 1:] - luma[:, :, :-1]).abs().mean((1, 2))
        down = (luma[:, 1:] - luma[:, :-1]).abs().mean((1, 2))
        saturation, warmth = (x.amax(1) - x.amin(1)).mean((1, 2)), (x[:, 0] - x[:, 2]).mean((1, 2))
        columns = luma.mean((1, 2)), luma.std((1, 2)), saturation, warmth, (across + down) / 2
        parts.append(torch.stack(columns, dim=1))
    return pd.DataFrame(torch.cat(parts).numpy(), columns=list(STATISTICS))


def statistics_of(sets: dict[str, ReIDSet], limit: int = 1000) -> pd.DataFrame:
    """Set, camera and :func:`image_statistics` of several sets, at most ``limit`` images of each, evenly
    spread."""
    tables = []
    for name, data in sets.items():
        selected = torch.linspace(0, len(data) - 1, min(limit, len(data))).round().long()
        labels = pd.DataFrame({"set": name, "camera": data.camids[selected].numpy()})
        tables.append(labels.join(image_statistics(data.images[selected])))
    return pd.concat(tables, ignore_index=True)


def through_cameras(home: str, people: Sequence[int], size: tuple[int, int]) -> dict[str, Tensor]:
    """The same ``people`` of one domain in its own place, by a camera of every domain.

    Its first camera keeps place, viewpoint and crop; colour, contrast, haze and detail are drawn from the
    other domain's ranges. Returns uint8 (P, 3, H, W) by domain, first of all "neutral": true colours, no
    blur, no noise.
    """
    ids = np.array(people)
    shot = ids, 0 * ids, 0 * ids
    pictures = {"neutral": render(DOMAINS[home], *shot, size, photometric=False)}
    for name, other in DOMAINS.items():
        seen = replace(DOMAINS[home], **{field: getattr(other, field) for field in _CAMERA})
        pictures[name] = render(seen, *shot, size)
    return pictures
