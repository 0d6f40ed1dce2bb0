"""Adaption by camera, beyond the paper: each camera of a place gets batch-norm tensors of its own.

A place's images are a mixture of its cameras', and statistics of a mixture fit none of them. What is needed
is the camera of each image, which every installation knows, and no label of a person. CBN (Zhuang et al.,
ECCV 2020) trains and tests with batch norm by camera; here a model that was trained without is adapted.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from bnta_lib.adapters import ADAPTERS
from bnta_lib.evaluation import whole_numbers
from bnta_lib.model import BNTANet, embed, plain_model
from bnta_lib.settings import METHOD_VERSION, Settings
from bnta_lib.weights import PLACE, Delta, bn_tensors, model_digest

# Images of a camera, for statistics of its own. 16 gain 4.9, 8.9 and -0.7 points of rank 1 on VIPeR, GRID and
# iLIDS, about 32 gain 6.6, 10.7 and 7.7, and the place's statistics -2.1, 6.8 and 5.7 (notebook 14).
LEAST = 32


def sample_by_camera(rows: Tensor, camids: Tensor, size: int | None, seed: int = 0) -> Tensor:
    """``size`` of the images ``rows`` of each camera, or as many as it has; None or 0: all, in order."""
    if not size:
        return rows
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return torch.cat([rows[camids[rows] == camera][:size] for camera in camids.unique()])


def adapt_by_camera(model: BNTANet, images: Tensor, camids: Tensor, settings: Settings,
                    adapter: str = "adabn", *, least: int = LEAST, place: bool = True, seed: int = 0,
                    **options) -> dict[int, Delta]:
    """Adapt to each camera's images; returns a BN delta for each camera id, the place's under PLACE, 0.

    images    uint8 (N, 3, h, w), unlabelled, of all cameras
    camids    int64 (N,): the camera of each image, from 1
    adapter   a name in ADAPTERS, with its ``options``
    least     a camera with fewer images gets the place's delta, with a warning
    place     whether to adapt to all images too; otherwise a camera with fewer images gets no delta

    Raises ValueError for a label below 1 or an adapter that changes more than BN, and as the adapter.
    """
    model = plain_model(model, images, adapts=True)
    camids = whole_numbers(camids, len(images), "camids", 1)
    if adapter not in ADAPTERS or set(options.get("layers", ())) - {"bn"}:
        raise ValueError(f"{adapter!r} with {options} is no adapter of batch norm alone: there are "
                         f"{', '.join(ADAPTERS)}")
    base, reads = model_digest(model), (*ADAPTERS[adapter].reads, "tta_batch")

    def delta(rows: Tensor, camera: int) -> Delta:
        adapted = ADAPTERS[adapter](model, images[rows], settings, seed=seed, **options)
        meta = {"adapter": adapter, "camera": camera, "N": len(rows), "seed": seed, "options": options,
                "settings": {name: getattr(settings, name) for name in reads},
                "versions": {"method": METHOD_VERSION, "torch": torch.__version__}}
        return Delta(bn_tensors(adapted), base, meta)

    deltas = {PLACE: delta(torch.arange(len(images)), PLACE)} if place else {}
    for camera, count in zip(*(values.tolist() for values in camids.unique(return_counts=True))):
        if count >= max(least, 4):  # what an adapter takes
            deltas[camera] = delta((camids == camera).nonzero()[:, 0], camera)
        elif place:
            warnings.warn(f"camera {camera} has {count} images, and {least} are needed: it gets the delta of "
                          "all cameras together", stacklevel=2)
            deltas[camera] = deltas[PLACE]
    return deltas


def embed_by_camera(model: BNTANet, images: Tensor, camids: Tensor,
                    deltas: Mapping[int, Delta]) -> tuple[Tensor, Tensor]:
    """Global features (N, C) and local ones (N, H, C_l), on the CPU, of each image with its camera's delta.

    ``images``: uint8 (N, 3, h, w); ``camids``: int64 (N,), 0 if the camera is not known. Images of a camera
    without a delta take that of PLACE, with a warning. Raises ValueError without one, for labels that do not
    fit, or if the deltas were made for another model.
    """
    parts, order, camids = [], [], whole_numbers(camids, len(images), "camids", PLACE)
    digest = model_digest(model)
    for camera in camids.unique().tolist():
        if not {camera, PLACE} & deltas.keys():
            raise ValueError(f"there is no delta of camera {camera}, and none of the place")
        if camera not in deltas:
            warnings.warn(f"camera {camera} has no delta: its images take that of all cameras together",
                          stacklevel=2)
        order.append((camids == camera).nonzero()[:, 0])
        with deltas[camera if camera in deltas else PLACE].applied(model, digest):
            parts.append(embed(model, images[order[-1]]))
    back = torch.cat(order).argsort()
    features, local = (torch.cat(part)[back] for part in zip(*parts))
    return features, local


def normalise_by_camera(features: Tensor, camids: Tensor, seen: Tensor, seen_camids: Tensor,
                        least: int = LEAST) -> Tensor:
    """Features (N, C), centred and scaled by mean and standard deviation of their camera's (M, C) ``seen``.

    The rival that leaves the network alone: Song et al., ICLR 2025, arXiv:2502.10195. A camera with fewer
    than ``least`` features seen takes those of all cameras.
    """
    if len(seen) < 2:
        raise ValueError("a standard deviation needs at least two features that were seen")
    normalised = torch.empty_like(features)
    for camera in camids.unique():
        own = seen[seen_camids == camera]
        own = own if len(own) >= max(least, 2) else seen
        rows = camids == camera
        normalised[rows] = (features[rows] - own.mean(0)) / own.std(0).clamp(min=1e-12)
    return normalised
