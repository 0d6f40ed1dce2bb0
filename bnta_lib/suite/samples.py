"""Which images of a target a unit adapts on, and by which camera labels."""

import torch
from torch import Tensor

from bnta_lib.data.sets import Split, Target


def sample_of(split: Split, size: int | None) -> Tensor:
    """``size`` images of a split's gallery to adapt on, a part of every larger sample; None: all, in order.
    Raises ValueError for more images than there are."""
    images = len(split.gallery)
    if size in (None, images):
        return split.gallery
    if size > images:
        raise ValueError(f"a gallery of {images} images has no {size} to adapt on")
    return split.gallery[torch.randperm(images, generator=torch.Generator().manual_seed(0))[:size]]


def images_of(target: Target, split: Split, kind: str) -> Tensor:
    """Rows of a set's images of a ``kind`` (see IMAGES), in order: none of other people in some sets."""
    if kind == "gallery":
        return split.gallery
    test = torch.cat([split.probe, split.gallery]).sort().values
    pids = target.data.pids
    return test if kind == "test" else (~torch.isin(pids, pids[test])).nonzero()[:, 0]


def exchanged(camids: Tensor, share: float, seed: int) -> Tensor:
    """Camera labels, a ``share`` of them exchanged at random. Some images get their own label back: of two
    equal cameras half of them do."""
    order = torch.randperm(len(camids), generator=torch.Generator().manual_seed(seed))
    rows = order[: round(share * len(camids))]
    return camids.scatter(0, rows, camids[rows.roll(1)])
