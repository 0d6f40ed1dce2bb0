"""Batch-norm test-time adaption: Section 3.6 of the paper.

:func:`adapt` forms the adaption sample set by Algorithm 1 and takes a few steps of Eq. (14) on a
copy of the model. What it changes are the batch-norm tensors: the statistics mu and sigma^2,
which follow the batches as running averages, and the affine gamma and beta of Eq. (12), which
follow the gradient of Eq. (13). They alone make a :class:`.deltas.Delta`, which can be saved and
put on another copy of the same model. Whether an adaption is stopped where it does harm is up to
:mod:`bnta_lib.site.guards`.
"""

from __future__ import annotations

import copy
import operator
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from bnta_lib.deltas import QUANTITIES, Delta, bn_digest, bn_tensors, images_digest, load_bn_tensors
from bnta_lib.losses import matching_tta_loss, positioning_loss
from bnta_lib.model import BNTANet, bn_layers, embed, layers_of, preserve_modes
from bnta_lib.pairing import Pairs, check_sizes, nearest_pairs
from bnta_lib.settings import Settings

if TYPE_CHECKING:
    from bnta_lib.site.guards import Guards

__all__ = ["LAYERS", "LOSSES", "QUANTITIES", "Adaption", "Delta", "adapt", "bn_digest", "change_rates",
           "check_images", "pair_losses"]

LAYERS = ("bn", "in", "conv")
LOSSES = ("pos", "mat")


@dataclass(frozen=True)
class Adaption:
    """What :func:`adapt` returns."""

    model: BNTANet  # the adapted copy
    pairs: Pairs  # Algorithm 1's pairs; rows of the images given
    losses: pd.DataFrame  # a row a step: step, pos, mat, total (batch means and sums as trained)
    changes: pd.DataFrame  # a row a layer and quantity: index (1-60), layer, quantity, rate, shift
    delta: Delta  # the BN tensors of the adapted model
    seconds: float  # wall-clock time of pairing and steps, and of the guards
    guarded: pd.DataFrame | None = None  # with guards: what they measured, and their thresholds

    def summary(self) -> str:
        """One line: pairs, steps, seconds and the mean change rate of each quantity."""
        rate = self.changes.groupby("quantity", sort=False)["rate"].mean()
        moved = ", ".join(f"{name} {100 * value:.2g} %" for name, value in rate.items())
        return (f"{len(self.pairs.index)} pairs, {len(self.losses)} steps, {self.seconds:.1f} s; "
                f"mean change rate: {moved}")


def adapt(
    model: BNTANet,
    images: Tensor,
    settings: Settings,
    *,
    K: int | None = None,
    layers: tuple[str, ...] = ("bn",),
    quantities: tuple[str, ...] = tuple(QUANTITIES),
    losses: tuple[str, ...] = LOSSES,
    reading: str = "alone",
    follow_bnneck: bool = True,
    seed: int = 0,
    local: Tensor | None = None,
    pairs: Pairs | None = None,
    guards: Guards | None = None,
) -> Adaption:
    """Adapt ``model`` to unlabelled images of a new place; the given model is left untouched.

    images      uint8 (N, 3, h, w) of the model's size, the gallery (or a sample of it), N >= 4
    settings    tta_batch, tta_epochs, tta_lr, tta_optimizer, tta_momentum, margin, lambda3,
                matching_reduction and K
    K           pairs; default min(settings.K, N // 2), as in the paper
    layers      what Eq. (14) updates: any of "bn", "in", "conv" (Table 4)
    quantities  of BN: any of "mean", "var", "gamma", "beta" (Table 5)
    losses      any of "pos", "mat" (Table 3); none leaves the statistics alone to move
    reading     what "update only mu" means [O]: "alone" adapts with only the chosen quantities
                free; "restore" adapts all of them and then puts the others back
    follow_bnneck   whether the statistics of `bnneck`, which lies outside both losses, follow [O]
    seed        of the order of the pairs
    local       local features (N, H, C_l) of these images, if at hand (saves one pass)
    pairs       Algorithm 1's pairs of these images, if at hand; the first K of more are taken
    guards      what stops an adaption that does harm; None stops at values that are not finite,
                as measuring needs it, and at nothing else

    The batches normalise by their own statistics where the mean or variance is chosen (train
    mode); otherwise by the stored ones. Raises ValueError for N < 4, 2K > N, an unknown choice,
    images of another size or an argument of another kind, FloatingPointError when a loss or an
    adapted tensor is not finite, and with guards :class:`bnta_lib.site.guards.AdaptionStopped` for
    that and for what they find.
    Modes, gradients and random state are as before when it returns or raises.
    """
    check_images(images)
    if not isinstance(settings, Settings):
        raise ValueError(f"settings are those of bnta_lib.settings(); got {type(settings).__name__}")
    _check_choice("layers", layers, LAYERS)
    _check_choice("quantities", quantities, QUANTITIES)
    _check_choice("losses", losses, LOSSES)
    if reading not in ("alone", "restore"):
        raise ValueError(f"reading is 'alone' or 'restore', not {reading!r}")
    if settings.tta_optimizer not in ("adam", "sgd"):
        raise ValueError(f"tta_optimizer is 'adam' or 'sgd', not {settings.tta_optimizer!r}")
    n, seed = len(images), _seed(seed)
    K = min(settings.K, n // 2) if K is None else K
    check_sizes(n, K)
    K = operator.index(K)
    if local is not None and not isinstance(local, Tensor):
        raise ValueError(f"local features are a torch tensor (N, H, C_l), got a {type(local).__name__}")
    if local is not None and len(local) != n:
        raise ValueError(f"local features of {len(local)} images do not fit {n} images")
    if pairs is not None:
        last = int(pairs.index.max()) if len(pairs.index) else -1
        if len(pairs.index) < K or last >= n:
            raise ValueError(f"these are not {K} pairs of {n} images: {len(pairs.index)} pairs, the "
                             f"last image is number {last}")

    start = time.perf_counter()
    adapted = copy.deepcopy(model)
    features = None
    if pairs is None and local is None:
        features, local = embed(adapted, images)
    if pairs is None:
        pairs = nearest_pairs(local, K)
    pairs = pairs.first(K)
    watch = None if guards is None else guards.watch(model, images, features, local)

    moving = tuple(QUANTITIES) if reading == "restore" else quantities
    norms = bn_layers(adapted) if "bn" in layers else {}
    before = bn_tensors(adapted)
    with preserve_modes(adapted):
        parameters = configure_model(adapted, norms, layers, moving, follow_bnneck, settings.tta_momentum)
        frozen = [QUANTITIES[q] for q in ("mean", "var") if q not in moving]
        steps = []
        optimiser = _optimiser(parameters, settings) if parameters and losses else None
        order = torch.Generator().manual_seed(seed)
        for _ in range(settings.tta_epochs):
            shuffled = torch.randperm(K, generator=order)
            for batch in shuffled.split(settings.tta_batch):
                index, part = pairs.index[batch].flatten(), pairs.part[batch]
                with torch.set_grad_enabled(optimiser is not None):
                    values = _losses(adapted, images[index], part, losses, settings, follow_bnneck)
                if not torch.isfinite(values["total"]):
                    if watch is not None:
                        watch.loss_not_finite(len(steps) + 1, values["total"].item())
                    raise FloatingPointError(
                        f"the adaption loss is {values['total'].item()} at step {len(steps) + 1}: "
                        "lower tta_lr, or look for broken images; the model is unchanged"
                    )
                if optimiser is not None:
                    optimiser.zero_grad()
                    values["total"].backward()
                    optimiser.step()
                load_bn_tensors(norms, before, frozen)
                steps.append({"step": len(steps) + 1, **{k: v.item() for k, v in values.items()}})
                if watch is not None:
                    watch.step(adapted, steps[-1])
        if optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
    if not all(torch.isfinite(tensor).all() for tensor in adapted.state_dict().values()):
        if watch is not None:
            watch.tensors_not_finite(len(steps))
        raise FloatingPointError("the last step left values that are not finite: lower tta_lr; the "
                                 "model is unchanged")
    if reading == "restore":
        load_bn_tensors(norms, before, [QUANTITIES[q] for q in QUANTITIES if q not in quantities])
    for name, layer in norms.items():
        layer.num_batches_tracked.copy_(model.get_submodule(name).num_batches_tracked)
    guarded = None if watch is None else watch.end(len(steps), adapted)
    seconds = time.perf_counter() - start

    meta = {"N": n, "K": K, "seed": seed, "layers": list(layers), "quantities": list(quantities),
            "losses": list(losses), "reading": reading, "follow_bnneck": bool(follow_bnneck),
            "momentum": settings.tta_momentum, "settings": _deciding(settings),
            "size": list(images.shape[2:]), "data": images_digest(images)}
    delta = Delta.between(model, adapted, meta, complete=set(layers) <= {"bn"})
    return Adaption(
        adapted, pairs, pd.DataFrame(steps), change_rates(model, adapted), delta, seconds, guarded
    )


@torch.no_grad()
def pair_losses(
    model: BNTANet, images: Tensor, pairs: Pairs, settings: Settings, seed: int = 0
) -> pd.DataFrame:
    """Both terms of Eq. (13) on given pairs while nothing moves: to compare models.

    In eval mode, as a model is used afterwards, and in the batches of the first epoch of
    :func:`adapt` with this seed (the hardest negative of Eq. (8) is one of its batch). A row a
    batch: step, pos, mat, total.
    """
    order = torch.randperm(len(pairs.index), generator=torch.Generator().manual_seed(seed))
    rows = []
    with preserve_modes(model):
        model.eval()
        for step, batch in enumerate(order.split(settings.tta_batch), start=1):
            index, part = pairs.index[batch].flatten(), pairs.part[batch]
            values = _losses(model, images[index], part, LOSSES, settings, follow_bnneck=False)
            rows.append({"step": step, **{k: v.item() for k, v in values.items()}})
    return pd.DataFrame(rows)


def check_images(images: Tensor) -> None:
    """Raise ValueError, saying what was given, unless these are uint8 images (N, 3, h, w)."""
    wanted = "images must be uint8 of shape (N, 3, height, width) in one torch tensor"
    if not isinstance(images, Tensor):
        raise ValueError(f"{wanted}, got a {type(images).__name__}: torch.from_numpy and "
                         "torch.stack make one of arrays and lists")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{wanted}, got {images.dtype} {tuple(images.shape)}")
    if len(images) and 0 in images.shape:
        raise ValueError(f"{wanted}, got images without pixels: {tuple(images.shape)}")


def _seed(seed: int) -> int:
    try:
        number = operator.index(seed)
        torch.Generator().manual_seed(number)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"seed is a whole number of at most 64 bits; got {seed!r}") from error
    return number


def _deciding(settings: Settings) -> dict:
    """The settings that decide an adaption beside K, which is given by itself."""
    names = ("margin", "lambda3", "matching_reduction")
    return {k: v for k, v in asdict(settings).items()
            if k in names or (k.startswith("tta_") and k != "tta_seeds")}


def _check_choice(name: str, chosen: tuple[str, ...], known) -> None:
    if not isinstance(chosen, (tuple, list, set, frozenset)) or not set(chosen) <= set(known):
        raise ValueError(f"{name} is a tuple of {', '.join(known)}; got {chosen!r}")


def configure_model(model, norms, layers, quantities, follow_bnneck, momentum) -> list[nn.Parameter]:
    """Put the model in eval mode, free what Eq. (14) updates; return the free parameters."""
    model.eval().requires_grad_(False)
    free = []
    affine = [QUANTITIES[q] for q in ("gamma", "beta") if q in quantities]
    for name, layer in norms.items():
        if {"mean", "var"} & set(quantities) and (follow_bnneck or layer is not model.bnneck):
            layer.train()
            layer.momentum = momentum
        if layer is not model.bnneck:  # outside the gradient of both losses
            free += [getattr(layer, kind) for kind in affine]
    if "in" in layers:
        free += [p for layer in layers_of(model, "in").values() for p in layer.parameters()]
    if "conv" in layers:
        # G and M's classifiers take no part in Eq. (13): they would get no gradient.
        unused = {id(m) for m in (model.fc_g, *model.fc_m)}
        free += [p for layer in layers_of(model, "conv").values() if id(layer) not in unused
                 for p in layer.parameters()]
    for parameter in free:
        parameter.requires_grad_(True)
    return free


def _optimiser(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.tta_optimizer]
    return kind(parameters, lr=settings.tta_lr)


def _losses(model, images, part, losses, settings, follow_bnneck) -> dict[str, Tensor]:
    """Eq. (13), and its two terms, for one batch of pairs. Images of a pair lie side by side."""
    maps = model.forward_features(images)
    if follow_bnneck:
        model.bnneck(model.global_pool(maps))  # for its running statistics only
    stripes = model.stripe_pool(maps)
    local = model.local_features(stripes)
    pos = positioning_loss(model.fc_p(stripes))
    mat = matching_tta_loss(
        local, part.to(local.device), settings.margin, settings.matching_reduction
    )
    total = pos * ("pos" in losses) + settings.lambda3 * mat * ("mat" in losses)
    return {"pos": pos, "mat": mat, "total": total}


def change_rates(before: nn.Module, after: nn.Module) -> pd.DataFrame:
    """How far each quantity of each BN layer moved (Fig. 3).

    rate   sum over channels of |after - before|, divided by the sum of |before|
    shift  mean over channels of |after - before|, in units of the source's standard deviation
           sqrt(sigma^2 + eps) for the mean, of the tensor itself for the others
    """
    rows = []
    old, new = bn_tensors(before), bn_tensors(after)
    for index, (name, layer) in enumerate(bn_layers(before).items(), start=1):
        std = (old[f"{name}.running_var"] + layer.eps).sqrt()
        for quantity, kind in QUANTITIES.items():
            a, b = old[f"{name}.{kind}"], new[f"{name}.{kind}"]
            moved = (b - a).abs()
            size = float(a.abs().sum())
            rows.append({
                "index": index,
                "layer": name,
                "quantity": quantity,
                "rate": float(moved.sum()) / size if size else float("nan"),
                "shift": float((moved / std).mean() if quantity == "mean" else moved.mean()),
            })
    return pd.DataFrame(rows)
