"""Batch-norm test-time adaption: Section 3.6 of the paper.

:func:`adapt` forms the adaption sample set by Algorithm 1 and takes a few steps of Eq. (14) on a
copy of the model. What it changes are the batch-norm tensors: the statistics mu and sigma^2,
which follow the batches as running averages, and the affine gamma and beta of Eq. (12), which
follow the gradient of Eq. (13). They alone make a :class:`Delta`, which can be saved and put on
another copy of the same model.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import atomic
from .losses import matching_tta_loss, positioning_loss
from .model import BNTANet, bn_layers, conv_layers, embed, in_layers, modes_kept
from .pairing import Pairs, check_sizes, nearest_pairs
from .settings import Settings

# The paper's names for what a BN layer holds, and torch's.
QUANTITIES = {"mean": "running_mean", "var": "running_var", "gamma": "weight", "beta": "bias"}
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
    seconds: float  # wall-clock time of pairing and steps

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
    follow_fn: bool = True,
    seed: int = 0,
    local: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Adaption:
    """Adapt ``model`` to unlabelled images of a new place; the given model is left untouched.

    images      uint8 (N, 3, h, w), the gallery (or a sample of it), N >= 4
    settings    tta_batch, tta_epochs, tta_lr, tta_optimizer, tta_momentum, margin, lambda3,
                matching_reduction and K
    K           pairs; default min(settings.K, N // 2), as in the paper
    layers      what Eq. (14) updates: any of "bn", "in", "conv" (Table 4)
    quantities  of BN: any of "mean", "var", "gamma", "beta" (Table 5)
    losses      any of "pos", "mat" (Table 3); none leaves the statistics alone to move
    reading     what "update only mu" means [O]: "alone" adapts with only the chosen quantities
                free; "restore" adapts all of them and then puts the others back
    follow_fn   whether the statistics of `fn`, which lies outside both losses, follow [O]
    seed        of the order of the pairs
    local       local features (N, H, C_l) of these images, if at hand (saves one pass)
    pairs       Algorithm 1's pairs of these images, if at hand; the first K of more are taken

    The batches normalise by their own statistics where the mean or variance is chosen (train
    mode); otherwise by the stored ones. Raises ValueError for N < 4, 2K > N or an unknown
    choice, FloatingPointError when a loss or an adapted tensor is not finite. Modes, gradients
    and random state are as before when it returns or raises.
    """
    _check_choice("layers", layers, LAYERS)
    _check_choice("quantities", quantities, QUANTITIES)
    _check_choice("losses", losses, LOSSES)
    if reading not in ("alone", "restore"):
        raise ValueError(f"reading is 'alone' or 'restore', not {reading!r}")
    if settings.tta_optimizer not in ("adam", "sgd"):
        raise ValueError(f"tta_optimizer is 'adam' or 'sgd', not {settings.tta_optimizer!r}")
    n = len(images)
    K = min(settings.K, n // 2) if K is None else K
    check_sizes(n, K)
    if local is not None and len(local) != n:
        raise ValueError(f"local features of {len(local)} images do not fit {n} images")

    if pairs is not None and (len(pairs.index) < K or int(pairs.index.max()) >= n):
        raise ValueError(f"these are not {K} pairs of {n} images: {len(pairs.index)} pairs, the last "
                         f"image is number {int(pairs.index.max())}")

    start = time.perf_counter()
    adapted = copy.deepcopy(model)
    if pairs is None:
        pairs = nearest_pairs(embed(adapted, images)[1] if local is None else local, K)
    pairs = pairs.first(K)

    moving = tuple(QUANTITIES) if reading == "restore" else quantities
    norms = bn_layers(adapted) if "bn" in layers else {}
    before = _tensors(adapted)
    with modes_kept(adapted):
        parameters = _set_free(adapted, norms, layers, moving, follow_fn, settings.tta_momentum)
        frozen = [QUANTITIES[q] for q in ("mean", "var") if q not in moving]
        steps = []
        optimiser = _optimiser(parameters, settings) if parameters and losses else None
        order = torch.Generator().manual_seed(seed)
        for _ in range(settings.tta_epochs):
            shuffled = torch.randperm(K, generator=order)
            for batch in shuffled.split(settings.tta_batch):
                index, part = pairs.index[batch].flatten(), pairs.part[batch]
                with torch.set_grad_enabled(optimiser is not None):
                    values = _losses(adapted, images[index], part, losses, settings, follow_fn)
                if not torch.isfinite(values["total"]):
                    raise FloatingPointError(
                        f"the adaption loss is {values['total'].item()} at step {len(steps) + 1}: "
                        "lower tta_lr, or look for broken images; the model is unchanged"
                    )
                if optimiser is not None:
                    optimiser.zero_grad()
                    values["total"].backward()
                    optimiser.step()
                _put_back(norms, before, frozen)
                steps.append({"step": len(steps) + 1, **{k: v.item() for k, v in values.items()}})
        if optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
    if not all(torch.isfinite(tensor).all() for tensor in adapted.state_dict().values()):
        raise FloatingPointError("the last step left values that are not finite: lower tta_lr; the "
                                 "model is unchanged")
    if reading == "restore":
        _put_back(norms, before, [QUANTITIES[q] for q in QUANTITIES if q not in quantities])
    for name, layer in norms.items():
        layer.num_batches_tracked.copy_(model.get_submodule(name).num_batches_tracked)
    seconds = time.perf_counter() - start

    delta = Delta(
        _tensors(adapted),
        bn_digest(model),
        {"N": n, "K": K, "seed": seed, "layers": list(layers), "quantities": list(quantities),
         "losses": list(losses), "reading": reading, "momentum": settings.tta_momentum},
        complete=set(layers) <= {"bn"},
    )
    return Adaption(
        adapted, pairs, pd.DataFrame(steps), change_rates(model, adapted), delta, seconds
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
    with modes_kept(model):
        model.eval()
        for step, batch in enumerate(order.split(settings.tta_batch), start=1):
            index, part = pairs.index[batch].flatten(), pairs.part[batch]
            values = _losses(model, images[index], part, LOSSES, settings, follow_fn=False)
            rows.append({"step": step, **{k: v.item() for k, v in values.items()}})
    return pd.DataFrame(rows)


def _check_choice(name: str, chosen: tuple[str, ...], known) -> None:
    if isinstance(chosen, str) or not set(chosen) <= set(known):
        raise ValueError(f"{name} is a tuple of {', '.join(known)}; got {chosen!r}")


def _set_free(model, norms, layers, quantities, follow_fn, momentum) -> list[nn.Parameter]:
    """Put the model in eval mode, free what Eq. (14) updates; return the free parameters."""
    model.eval().requires_grad_(False)
    free = []
    affine = [QUANTITIES[q] for q in ("gamma", "beta") if q in quantities]
    for name, layer in norms.items():
        if {"mean", "var"} & set(quantities) and (follow_fn or layer is not model.fn):
            layer.train()
            layer.momentum = momentum
        if layer is not model.fn:  # outside the gradient of both losses
            free += [getattr(layer, kind) for kind in affine]
    if "in" in layers:
        free += [p for layer in in_layers(model).values() for p in layer.parameters()]
    if "conv" in layers:
        # G and M's classifiers take no part in Eq. (13): they would get no gradient.
        unused = {id(m) for m in (model.fc_g, *model.fc_m)}
        free += [p for layer in conv_layers(model).values() if id(layer) not in unused
                 for p in layer.parameters()]
    for parameter in free:
        parameter.requires_grad_(True)
    return free


def _optimiser(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.tta_optimizer]
    return kind(parameters, lr=settings.tta_lr)


def _losses(model, images, part, losses, settings, follow_fn) -> dict[str, Tensor]:
    """Eq. (13), and its two terms, for one batch of pairs. Images of a pair lie side by side."""
    maps = model.maps(images)
    if follow_fn:
        model.fn(model.pooled(maps))  # for its running statistics only
    stripes = model.stripes_of(maps)
    local = model.local_features(stripes)
    pos = positioning_loss(model.fc_p(stripes))
    mat = matching_tta_loss(
        local, part.to(local.device), settings.margin, settings.matching_reduction
    )
    total = pos * ("pos" in losses) + settings.lambda3 * mat * ("mat" in losses)
    return {"pos": pos, "mat": mat, "total": total}


def _put_back(norms: dict[str, nn.Module], tensors: dict[str, Tensor], kinds: list[str]) -> None:
    with torch.no_grad():
        for name, layer in norms.items():
            for kind in kinds:
                getattr(layer, kind).copy_(tensors[f"{name}.{kind}"])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of mu, sigma^2, gamma and beta of every BN layer, by name."""
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().clone().cpu()
        for name, layer in bn_layers(model).items()
        for kind in QUANTITIES.values()
    }


def bn_digest(model: nn.Module) -> str:
    """SHA-256 of the model's BN tensors and their names: what a delta was made for."""
    return _digest(_tensors(model))


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].contiguous().float().numpy().tobytes())
    return sha.hexdigest()


def change_rates(before: nn.Module, after: nn.Module) -> pd.DataFrame:
    """How far each quantity of each BN layer moved (Fig. 3).

    rate   sum over channels of |after - before|, divided by the sum of |before|
    shift  mean over channels of |after - before|, in units of the source's standard deviation
           sqrt(sigma^2 + eps) for the mean, of the tensor itself for the others
    """
    rows = []
    old, new = _tensors(before), _tensors(after)
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


@dataclass(frozen=True)
class Delta:
    """The batch-norm tensors of an adapted model: all that a site needs beside the base model."""

    tensors: dict[str, Tensor]  # e.g. "backbone.bn1.running_mean": (channels,)
    base: str  # digest of the BN tensors that they replace
    meta: dict = field(default_factory=dict)
    complete: bool = True  # False where other layers were adapted too

    def apply(self, model: nn.Module) -> Delta:
        """Put the tensors into ``model``; returns the delta that takes them out again.

        Raises ValueError when the model's BN tensors are not those the delta was made for.
        """
        if not self.complete:
            raise ValueError("this adaption changed more than batch-norm layers: its delta would "
                             "not give the adapted model; use the model itself")
        previous = _tensors(model)
        if previous.keys() != self.tensors.keys():
            odd = sorted(previous.keys() ^ self.tensors.keys())
            raise ValueError(f"the delta is for a model with other BN layers (for one, {odd[0]})")
        for name, tensor in self.tensors.items():
            if previous[name].shape != tensor.shape:
                raise ValueError(f"the delta is for a model of another width: {name} has "
                                 f"{tensor.numel()} channels, the model {previous[name].numel()}")
        if (found := _digest(previous)) != self.base:
            raise ValueError(f"the delta was made for other weights: its base is {self.base[:12]}, "
                             f"the model's BN tensors are {found[:12]}")
        _put_back(bn_layers(model), self.tensors, list(QUANTITIES.values()))
        return Delta(previous, _digest(self.tensors), {"undoes": self.base})

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """``with delta.applied(model):`` the model is adapted inside and as before after."""
        previous = self.apply(model).tensors
        try:
            yield model
        finally:  # whatever the block did to the batch-norm tensors
            _put_back(bn_layers(model), previous, list(QUANTITIES.values()))

    def save(self, path: str | Path) -> None:
        """Write the tensors and the metadata as safetensors, whole or not at all."""
        if not self.complete:
            raise ValueError("this adaption changed more than batch-norm layers: a delta of BN "
                             "tensors would not give the adapted model")
        meta = {"kind": "bnta-delta", "base": self.base, "meta": json.dumps(self.meta)}
        with atomic(path) as temporary:
            save_file({k: v.contiguous() for k, v in self.tensors.items()}, temporary, meta)

    @staticmethod
    def load(path: str | Path) -> Delta:
        """Read a delta; FileNotFoundError or ValueError says what is wrong with the file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no delta at {path}: make one with adapt(...).delta.save(...)")
        try:
            with safetensors.safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
        if meta.get("kind") != "bnta-delta":
            raise ValueError(f"{path} is no delta of batch-norm tensors")
        return Delta(tensors, meta["base"], json.loads(meta["meta"]))
