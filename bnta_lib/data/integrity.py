"""What would falsify a score, found in the pictures before it is measured."""

from __future__ import annotations

import hashlib

import pandas as pd
from torch import Tensor

from bnta_lib.data.sets import Target


def problems(target: Target) -> list[str]:
    """What is wrong with the splits of a target, a sentence each; counts are those of the worst split.

    Probes without a match by another camera, probes that lie in the gallery as the very same picture, and
    pictures under two persons' names.
    """
    data = target.data
    rows = pd.DataFrame({"key": [_key(image) for image in data.images], "pid": data.pids.numpy(),
                         "camid": data.camids.numpy()})
    unmatched = same = 0
    for split in target.splits:
        probe, gallery = rows.iloc[split.probe.numpy()], rows.iloc[split.gallery.numpy()]
        pairs = probe.reset_index().merge(gallery[gallery["pid"] > 0], on="pid")
        matched = pairs.loc[pairs["camid_x"] != pairs["camid_y"], "index"].nunique()
        unmatched = max(unmatched, len(probe) - matched)
        same = max(same, int(probe["key"].isin(gallery["key"]).sum()))
    twice = int((rows[rows["pid"] > 0].groupby("key")["pid"].nunique() > 1).sum())
    counts = {"probes without a match by another camera, left out of every score": unmatched,
              "probes that lie in the gallery as the very same picture": same,
              "pictures under more than one person's name": twice}
    return [f"{data.name}: {sentence}: {count}" for sentence, count in counts.items() if count]


def shared(sources: Tensor, pictures: Tensor) -> int:
    """How many pictures, uint8 (N, 3, H, W), are among the sources, which are of one size with them."""
    line = sources.shape[2] // 2  # of a pack, which may not fit in memory, only this line is read
    wanted = {_key(image) for image in pictures[:, :, line]}
    known = {_key(image) for image in sources if _key(image[:, line]) in wanted}
    return sum(_key(image) in known for image in pictures)


def _key(image: Tensor) -> bytes:
    return hashlib.sha1(image.contiguous().numpy()).digest()
