"""Two well-known adapters on the same network, for Table 2: statistics alone, and entropy."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.adaption import check_images
from bnta_lib.model import BNTANet, bn_layers, preserve_modes
from bnta_lib.settings import Settings


@torch.no_grad()
def adabn(model: BNTANet, images: Tensor, batch: int = 64, seed: int = 0) -> BNTANet:
    """AdaBN (Li et al., 2018): the statistics of every BN layer become those of ``images``.

    One pass over the shuffled uint8 images (N, 3, h, w) in batches; mean and variance are the
    averages over batches. Returns a copy. Raises ValueError for fewer than 4 images or a model
    with values that are not finite, FloatingPointError when the result has such.
    """
    _check(model, images)
    adapted = copy.deepcopy(model)
    with preserve_modes(adapted):
        adapted.eval()
        for layer in bn_layers(adapted).values():
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # the cumulative average
        for index in batches(len(images), batch, seed):
            maps = adapted.forward_features(images[index])
            adapted.bnneck(adapted.global_pool(maps))
            adapted.local_features(adapted.stripe_pool(maps))
    _forget_counts(adapted, model)
    if (broken := _not_finite(adapted)) is not None:
        raise FloatingPointError(f"the adaption left values that are not finite (for one, in {broken}): "
                                 "the model's features overflow on these images; it is unchanged")
    return adapted


def tent(
    model: BNTANet, images: Tensor, settings: Settings, batch: int = 64, seed: int = 0
) -> BNTANet:
    """Tent (Wang et al., 2021): gamma and beta follow the entropy of G's output.

    As published, every batch is normalised by its own statistics while Adam lowers the mean
    entropy of the predictions, one step a batch. Two things differ, because retrieval compares
    features across batches: it runs for ``tta_epochs`` over the gallery before inference
    instead of during it, and inference uses stored statistics, re-estimated from the same images
    as in :func:`adabn` instead of the test batch's. Rate ``tta_lr``. Returns a copy. Raises like
    :func:`adabn`.
    """
    _check(model, images)
    adapted = copy.deepcopy(model)
    with preserve_modes(adapted):
        adapted.eval().requires_grad_(False)
        parameters = []
        for layer in bn_layers(adapted).values():
            layer.train()
            parameters += [layer.weight, layer.bias]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimiser = torch.optim.Adam(parameters, lr=settings.tta_lr)
        for epoch in range(settings.tta_epochs):
            for index in batches(len(images), batch, seed + epoch):
                logits = adapted.fc_g(adapted.bnneck(adapted.global_pool(adapted.forward_features(images[index]))))
                loss = entropy(logits).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    _forget_counts(adapted, model)
    if (broken := _not_finite(adapted)) is not None:
        raise FloatingPointError(f"the steps left values that are not finite (for one, in {broken}): "
                                 "lower tta_lr; the model is unchanged")
    return adabn(adapted, images, batch, seed)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the softmax of each row: (B, M) to (B,)."""
    log = F.log_softmax(logits, dim=1)
    return -(log.exp() * log).sum(1)


def batches(n: int, size: int, seed: int) -> Sequence[Tensor]:
    """Shuffled indices in batches as even as can be, none of one image (BN cannot train on it)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.tensor_split(max(1, min(-(-n // size), n // 2)))


def _check(model: BNTANet, images: Tensor) -> None:
    check_images(images)
    if len(images) < 4:
        raise ValueError(f"adaption needs at least 4 images, got N = {len(images)}")
    if (broken := _not_finite(model)) is not None:
        raise ValueError(f"the model holds NaN or infinite values (for one, in {broken}): its weights "
                         "are broken")


def _not_finite(model: BNTANet) -> str | None:
    return next((k for k, v in model.state_dict().items() if not torch.isfinite(v).all()), None)


def _forget_counts(adapted: BNTANet, model: BNTANet) -> None:
    for layer, source in zip(bn_layers(adapted).values(), bn_layers(model).values()):
        layer.num_batches_tracked.copy_(source.num_batches_tracked)
