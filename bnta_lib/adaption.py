"""Batch-norm test-time adaption: Section 3.6 of the paper.

In the batch-norm layers the statistics mu and sigma^2 follow the batches as running averages, and the affine
gamma and beta of Eq. (12) follow the gradient of Eq. (13).
"""

import copy
import math
import operator
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import pandas as pd
import torch
from torch import Tensor, nn

from bnta_lib.losses import matching_tta_loss, positioning_loss
from bnta_lib.model import (
    LAYERS,
    BNTANet,
    bn_layers,
    embed,
    layers_of,
    plain_mode,
    plain_model,
    preserve_modes,
)
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import METHOD_VERSION, Settings
from bnta_lib.weights import QUANTITIES, Delta, bn_tensors, load_bn_tensors, model_digest

LOSSES = ("pos", "mat")
# The settings that decide the result. So do K, an option, and tta_batch, the batch of every adapter.
READS = ("tta_momentum", "tta_epochs", "tta_lr", "tta_optimizer", "margin", "lambda3", "matching_reduction")
OPTIMISERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Adaption:
    """What :func:`adapt` returns."""

    model: BNTANet  # the adapted copy
    pairs: Pairs  # Algorithm 1's pairs; rows of the images
    losses: pd.DataFrame  # one row a step: step, pos, mat, total
    seconds: float  # wall-clock time of pairing and steps
    before: dict[str, Tensor] = field(repr=False)  # BN tensors of the base model
    meta: dict = field(repr=False)  # JSON-able: N, K, seed, the options and the versions

    @cached_property
    def changes(self) -> pd.DataFrame:
        """The :func:`change_rates` of the BN layers."""
        return change_rates(self.before, self.model)

    @property
    def delta(self) -> Delta:
        """The BN tensors of the adapted model. Raises ValueError if other layers were adapted too."""
        if set(self.meta["layers"]) - {"bn"}:
            raise ValueError("this adaption changed more than batch-norm layers: use the adapted model")
        base = copy.deepcopy(self.model)
        load_bn_tensors(base, self.before)
        return Delta(bn_tensors(self.model), model_digest(base), self.meta)

    def summary(self) -> str:
        """One line: pairs, steps, seconds and the mean change rate of each quantity."""
        rates = self.changes.groupby("quantity", sort=False)["rate"].mean()
        moved = ", ".join(f"{name} {100 * rate:.2g} %" for name, rate in rates.items())
        return (f"{len(self.pairs.index)} pairs, {len(self.losses)} steps, {self.seconds:.1f} s; "
                f"mean change rate: {moved}")


@plain_mode()
def adapt(
    model: BNTANet, images: Tensor, settings: Settings, *, K: int | None = None,
    layers: Collection[str] = ("bn",), quantities: Collection[str] = tuple(QUANTITIES),
    losses: Collection[str] = LOSSES, reading: str = "alone", follow_bnneck: bool = True, seed: int = 0,
    steps: int | None = None, local: Tensor | None = None, pairs: Pairs | None = None,
    on_step: Callable[[int, BNTANet, dict[str, float]], None] | None = None,
) -> Adaption:
    """Adapt a copy of ``model`` to unlabelled images: Algorithm 1, then Eq. (14).

    - ``images``: uint8 (N, 3, h, w) of the model's size, the gallery or a sample of it, N >= 4
    - ``settings``: K, margin, lambda3, matching_reduction and those that begin with tta_, but for tta_seeds
    - ``K``: pairs; default min(settings.K, N // 2), as in the paper
    - ``layers``: what Eq. (14) updates, any of "bn", "in", "conv" (Table 4)
    - ``quantities``: of BN, any of "mean", "var", "gamma", "beta" (Table 5)
    - ``losses``: any of "pos", "mat" (Table 3); with none only the statistics move
    - ``reading``: of "update only mu" [O]: whether gamma and beta learn only if they are named ("alone") or
      always ("restore"). mu and sigma^2 move together. What is not named is put back at the end
    - ``follow_bnneck``: whether the statistics of `bnneck`, which is outside both losses, follow [O]
    - ``seed``: of the order of the pairs
    - ``steps``: take so many; default as many as tta_epochs epochs have
    - ``local``, ``pairs``: local features (N, H, C_l) or Algorithm 1's pairs of these images, if known
    - ``on_step``: called after each step with its number, the adapted model and the losses; may raise

    Batches are normalised by their own statistics if mean or var is free, otherwise by the stored ones.
    Raises ValueError for N < 4, 2K > N, an unknown option, or images of another size or type, and
    FloatingPointError for a loss or an adapted tensor that is not finite.
    """
    _check_options(len(images), layers, quantities, losses, reading, steps, local, pairs)
    model = plain_model(model, images, adapts=True)
    start = time.perf_counter()
    taken: list[dict[str, Tensor]] = []
    adapted, before = copy.deepcopy(model), bn_tensors(model)
    K = operator.index(min(settings.K, len(images) // 2) if K is None else K)
    pairs = (pairs or nearest_pairs(embed(adapted, images)[1] if local is None else local, K)).first(K)
    free = tuple(QUANTITIES) if reading == "restore" else quantities
    with preserve_modes(adapted):
        configure_model(adapted, layers, free, follow_bnneck, settings.tta_momentum)
        parameters = collect_params(adapted, layers, free) if losses else []
        optimiser = OPTIMISERS[settings.tta_optimizer](
            parameters, lr=settings.tta_lr, fused=model.scale.is_cuda or None) if parameters else None
        steps = settings.tta_epochs * math.ceil(K / settings.tta_batch) if steps is None else steps
        # All that the steps read is moved at once, and their losses at the end: no step waits for a GPU.
        couples, parts = (x.to(model.scale.device) for x in (images[pairs.index], pairs.part))
        for step, batch in enumerate(_batches(K, settings.tta_batch, steps, seed, parts.device), start=1):
            taken.append(adaption_step(adapted, couples[batch].flatten(0, 1), parts[batch], settings,
                                       optimiser, losses))
            if on_step is not None:
                on_step(step, adapted, _rows(taken)[-1])
        rows = _rows(taken)
    restored = [kind for name, kind in QUANTITIES.items() if name not in quantities]  # in both readings
    load_bn_tensors(adapted, model.state_dict(), [*restored, "num_batches_tracked"])
    adapted.zero_grad()
    require_finite(adapted.state_dict().values(), "a tensor after the last step")
    meta = {"N": len(images), "K": K, "size": list(images.shape[2:]), "seed": int(seed), "reading": reading,
            "layers": list(layers), "quantities": list(quantities), "losses": list(losses),
            "follow_bnneck": bool(follow_bnneck), "steps": steps,
            "settings": {name: getattr(settings, name) for name in (*READS, "tta_batch")},
            "versions": {"method": METHOD_VERSION, "torch": torch.__version__}}
    return Adaption(adapted, pairs, pd.DataFrame(rows), time.perf_counter() - start, before, meta)


def _check_options(n, layers, quantities, losses, reading, steps, local, pairs) -> None:
    for name, value, known in (("layers", layers, LAYERS), ("quantities", quantities, QUANTITIES),
                               ("losses", losses, LOSSES), ("reading", [reading], ("alone", "restore"))):
        if isinstance(value, str) or not set(value) <= set(known):
            raise ValueError(f"{name}: any of {', '.join(known)}; got {value!r}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps is at least 1; got {steps!r}")
    if (local is not None and len(local) != n) or (pairs is not None and pairs.index.max() >= n):
        raise ValueError(f"these are not the local features or pairs of {n} images")


def require_finite(values: Iterable[Tensor | float], what: str, remedy: str = "lower tta_lr, or look for "
                   "broken weights or images") -> None:
    """Raise FloatingPointError for a NaN or infinite value."""
    finite = [torch.as_tensor(value).isfinite().all() for value in values]
    if not torch.stack(finite).all():  # one answer for all: a GPU is waited for once
        raise FloatingPointError(f"{what} is not finite: {remedy}")


def configure_model(model: BNTANet, layers: Collection[str], quantities: Collection[str],
                    follow_bnneck: bool, momentum: float) -> None:
    """Freeze the model in eval mode, but let mu and sigma^2 of its BN layers follow the batches."""
    model.eval().requires_grad_(False)
    if "bn" in layers and {"mean", "var"} & set(quantities):
        for layer in bn_layers(model).values():
            if follow_bnneck or layer is not model.bnneck:
                layer.train()
                layer.momentum = momentum


def collect_params(model: BNTANet, layers: Collection[str],
                   quantities: Collection[str]) -> list[nn.Parameter]:
    """Unfreeze and return what follows the gradient in Eq. (14): gamma and beta, or all of other layers.

    Excluded, since they get no gradient from Eq. (13): `bnneck`, and the classifiers of G and M.
    """
    outside = {model.bnneck, model.fc_g, *model.fc_m}
    affine = [QUANTITIES[q] for q in ("gamma", "beta") if q in quantities]
    free = [parameter for kind in LAYERS if kind in layers
            for layer in layers_of(model, kind).values() if layer not in outside
            for name, parameter in layer.named_parameters() if kind != "bn" or name in affine]
    for parameter in free:
        parameter.requires_grad_(True)
    return free


def adaption_step(
    model: BNTANet, images: Tensor, parts: Tensor, settings: Settings,
    optimiser: torch.optim.Optimizer | None, losses: Collection[str] = LOSSES,
) -> dict[str, Tensor]:
    """Take a step of Eq. (14) on a batch of B pairs; return the losses before it: pos, mat and total.

    Images (2B, 3, h, w) of a pair lie side by side; ``parts`` (B,) are the matched ones. Without an
    optimiser only the statistics move, if their layers are in train mode.
    """
    with torch.set_grad_enabled(optimiser is not None):
        maps = model.forward_features(images)
        model.bnneck(model.global_pool(maps))  # for its running statistics only, in train mode
        stripes = model.stripe_pool(maps)
        local = model.local_features(stripes)
        pos = positioning_loss(model.fc_p(stripes))
        mat = matching_tta_loss(local, parts.to(local.device), settings.margin, settings.matching_reduction)
        total = pos * ("pos" in losses) + settings.lambda3 * mat * ("mat" in losses)  # Eq. (13)
    if optimiser is not None:
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return {"pos": pos.detach(), "mat": mat.detach(), "total": total.detach()}


def _batches(K: int, size: int, steps: int, seed: int, device: torch.device) -> Sequence[Tensor]:
    """Which of K pairs each step takes, shuffled anew in every epoch."""
    order = torch.Generator().manual_seed(seed)
    drawn = (b for _ in range(steps) for b in torch.randperm(K, generator=order).split(size))
    batches = [*islice(drawn, steps)]
    return torch.cat([*batches, torch.arange(0)]).to(device).split([len(batch) for batch in batches])


def _rows(taken: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Losses of steps as rows. Raises FloatingPointError for one that is not finite."""
    rows = [{"step": step, **dict(zip(terms, torch.stack([*terms.values()]).tolist()))}
            for step, terms in enumerate(taken, start=1)]
    for row in rows:
        require_finite([row["total"]], f"the adaption loss at step {row['step']}")
    return rows


def pair_losses(model: BNTANet, images: Tensor, pairs: Pairs, settings: Settings,
                seed: int = 0) -> pd.DataFrame:
    """Both terms of Eq. (13) on given pairs while nothing moves, to compare models.

    In eval mode and in the batches of the first epoch of :func:`adapt` with this seed, since the hardest
    negative of Eq. (8) is one of its batch. One row a batch: step, pos, mat, total.
    """
    order = torch.randperm(len(pairs.index), generator=torch.Generator().manual_seed(seed))
    with preserve_modes(model):
        model.eval()
        terms = [adaption_step(model, images[pairs.index[batch].flatten()], pairs.part[batch], settings, None)
                 for batch in order.split(settings.tta_batch)]
    return pd.DataFrame(_rows(terms))


def change_rates(before: Mapping[str, Tensor], after: nn.Module) -> pd.DataFrame:
    """How far each quantity of each BN layer moved (Fig. 3) from the BN tensors ``before``.

    rate: the sum over channels of |after - before|, divided by that of |before|; NaN if that is 0
    """
    rows = []
    for index, (name, layer) in enumerate(bn_layers(after).items(), start=1):
        for quantity, kind in QUANTITIES.items():
            old = before[f"{name}.{kind}"]
            moved, size = (getattr(layer, kind).detach().cpu() - old).abs(), float(old.abs().sum())
            rows.append({"index": index, "layer": name, "quantity": quantity,
                         "rate": float(moved.sum()) / size if size else math.nan})
    return pd.DataFrame(rows)
