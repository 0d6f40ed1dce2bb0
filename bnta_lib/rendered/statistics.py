"""How domains differ in numbers, and one person seen through the cameras of them all."""

from __future__ import annotations

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

    brightness: mean of luma; contrast: its standard deviation; saturation: mean of largest minus
    smallest channel; warmth: mean red minus mean blue; sharpness: mean absolute difference of
    luma between neighbouring pixels (noise counts as well).
    """
    parts = []
    for chunk in images.split(512):
        x = chunk.double() / 2.55
        luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
        across = (luma[:, :, 1:] - luma[:, :, :-1]).abs().mean((1, 2))
        down = (luma[:, 1:] - luma[:, :-1]).abs().mean((1, 2))
        parts.append(torch.stack([
            luma.mean((1, 2)), luma.std((1, 2)), (x.amax(1) - x.amin(1)).mean((1, 2)),
            (x[:, 0] - x[:, 2]).mean((1, 2)), (across + down) / 2,
        ], dim=1))
    return pd.DataFrame(torch.cat(parts).numpy(), columns=list(STATISTICS))


def statistics_of(sets: dict[str, ReIDSet], limit: int = 1000) -> pd.DataFrame:
    """:func:`image_statistics` of several sets, at most ``limit`` images of each, evenly spread.

    Columns: set, camera, and the statistics.
    """
    tables = []
    for name, data in sets.items():
        selected = torch.linspace(0, len(data) - 1, min(limit, len(data))).round().long()
        table = image_statistics(data.images[selected])
        table.insert(0, "camera", data.camids[selected].numpy())
        table.insert(0, "set", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def through_cameras(
    home: str, people: Sequence[int], size: tuple[int, int], camera: int = 0
) -> dict[str, Tensor]:
    """The same ``people`` of one domain in its own place, by a camera of every domain.

    ``camera`` (from 0) of ``home`` keeps place, viewpoint and crop; colour, contrast, haze and
    detail are drawn from the other domain's ranges. Returns uint8 (P, 3, H, W) by domain, first
    of all "neutral": true colours, sharp, without noise. Raises ValueError for an unknown home.
    """
    if home not in DOMAINS:
        raise ValueError(f"unknown domain {home!r}: the domains are {', '.join(DOMAINS)}")
    ids = np.array(people)
    shot = (ids, np.full(len(ids), camera), np.zeros(len(ids), int))
    pictures = {"neutral": render(DOMAINS[home], *shot, size, photometric=False)}
    for name, other in DOMAINS.items():
        seen = replace(DOMAINS[home], **{field: getattr(other, field) for field in _CAMERA})
        pictures[name] = render(seen, *shot, size)
    return pictures
