"""What would falsify a score, found in the pictures before it is measured."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from torch import Tensor

from bnta_lib.data.sets import Split, Target


def problems(target: Target) -> list[str]:
    """What is wrong with the splits of a target, a sentence each; counts are those of the worst split.

    Probes without a match by another camera, probes that lie in the gallery as the very same picture, and
    pictures under two persons' names.
    """
    keys, people = [_key(image) for image in target.data.images], defaultdict(set)
    for key, pid in zip(keys, target.data.pids.tolist()):
        people[key] |= {pid} - {0}
    gallery = [{keys[row] for row in split.gallery} for split in target.splits]
    unmatched = max(_unmatched(target, split) for split in target.splits)
    same = max(sum(keys[row] in shown for row in split.probe) for split, shown in zip(target.splits, gallery))
    twice = sum(len(pids) > 1 for pids in people.values())
    counts = {f"probes without a match by another camera, left out of every score: {unmatched}": unmatched,
              f"probes that lie in the gallery as the very same picture: {same}": same,
              f"pictures under more than one person's name: {twice}": twice}
    return [f"{target.data.name}: {sentence}" for sentence, count in counts.items() if count]


def shared(sources: Tensor, pictures: Tensor) -> int:
    """How many of the pictures, uint8 (N, 3, H, W), are among the sources, pixel by pixel.

    Raises ValueError if the two are of different sizes.
    """
    if sources.shape[1:] != pictures.shape[1:]:
        sizes = [tuple(images.shape[1:]) for images in (sources, pictures)]
        raise ValueError(f"pictures of {sizes[0]} and {sizes[1]} do not compare")
    line = sources.shape[2] // 2  # of a pack, which may not fit in memory, only this line is read
    wanted = {_key(image) for image in pictures[:, :, line]}
    known = {_key(image) for image in sources if _key(image[:, line]) in wanted}
    return sum(_key(image) in known for image in pictures)


def _key(image: Tensor) -> bytes:
    return hashlib.sha1(image.contiguous().numpy()).digest()


def _unmatched(target: Target, split: Split) -> int:
    pids, camids, cameras = target.data.pids.tolist(), target.data.camids.tolist(), defaultdict(set)
    for row in split.gallery.tolist():
        cameras[pids[row]].add(camids[row])
    return sum(pids[row] < 1 or not cameras[pids[row]] - {camids[row]} for row in split.probe.tolist())
