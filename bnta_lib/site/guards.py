"""What stops an adaption that does harm, says why, and leaves the model as it was.

``adapt(model, images, settings, guards=Guards())`` looks at the images before the first step, at the
BN layers after every step, and at the features at the end. Nothing has to be put back by hand:
:func:`.adaption.adapt` works on a copy, and the copy is dropped.

No guard sees a label. What they cannot tell from a sound adaption goes on: statistics moved all the
way (momentum 1 on 16 images or more, ten epochs) lose 8 to 12 points of rank 1 on the VIPeR
counterpart and gain 2 to 8 on the two others; images of another place lose up to 3; ten times the
rate, noise, or black images beside sixteen good ones, up to 2. All runs are in
``figures/laptop/guards.csv`` and ``.png``, by ``benchmarks/guards.py``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnta_lib.model import BNTANet, bn_layers, embed, embed_global


class AdaptionStopped(RuntimeError):
    """An adaption was stopped by a guard; the model given is unchanged.

    reason    the guard: "images", "duplicates", "loss", "move" or "spread"
    step      after how many steps; 0 is before the first
    measured  what was measured until then: see :meth:`Guards.watch`
    """

    def __init__(self, reason: str, step: int, measured: pd.DataFrame, sentence: str):
        super().__init__(sentence)
        self.reason, self.step, self.measured = reason, step, measured


@dataclass(frozen=True)
class Guards:
    """Thresholds of :func:`.adaption.adapt`; 0 for a least value, 1 for the share, inf for the move: off.

    The defaults come from 78 adaptions at the laptop profile (``figures/laptop/guards.csv``; gains
    are of rank 1, on VIPeR, GRID and iLIDS counterparts):

    min_images      different images. With momentum 1, 4 images lose 18, 6 and 12 points; 8 lose 9, 1
                    and 0; 16 change rank 1 by -12, +3 and +2, the whole galleries by -9, +3 and +8. With
                    the default momentum even 4 lose less than 2.
    max_duplicates  share of images that repeat another. 16 images eight times each (0.875) do what 16
                    do: repeats are no harm by themselves, and 0.9 says that something is wrong with
                    the images. In a surveillance video with 8 crops a track the share is 0.04.
    same            distance, of local features of unit length, below which an image repeats another.
                    The nearest different images of the three galleries are 0.28 apart; the same image
                    a pixel aside, three grey levels brighter or as JPEG of quality 75 is 0.21 away at
                    most. It belongs to a trained model: one that learnt little finds all images alike.
    max_move        how far a BN layer's output may move, in units of its size: see :class:`Moves`. Sound
                    adaptions reach 0.19; 1.09 (momentum 1 on GRID) still gains 3; from 1.38 on 6 to 47
                    points are lost.
    min_spread      of the features, after divided by before: see :func:`spread`. Sound adaptions give
                    1.007 to 1.06; 0.85 (a hundred times the rate, on iLIDS) still gains 3; 0.65 loses 4,
                    0.64 loses 9 and 0.13 and less 20 to 47.
    sample          images whose features are compared

    Guarding takes up to a fifth of the adaption's own time, less the larger the gallery.
    """

    min_images: int = 16
    max_duplicates: float = 0.9
    same: float = 0.2
    max_move: float = 1.3
    min_spread: float = 0.75
    sample: int = 128

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("min_images", self.min_images >= 0, "at least 0"),
            ("max_duplicates", 0 <= self.max_duplicates <= 1, "a share between 0 and 1"),
            ("same", 0 <= self.same < math.inf, "a distance of at least 0"),
            ("max_move", self.max_move > 0, "above 0"),
            ("min_spread", 0 <= self.min_spread <= 1, "a ratio between 0 and 1"),
            ("sample", self.sample >= 2, "at least 2 images"),
        ):
            if not good:
                raise ValueError(f"guard {name} is {wanted}; got {getattr(self, name)!r}")

    def watch(self, model: BNTANet, images: Tensor, features: Tensor | None = None,
              local: Tensor | None = None) -> Watch:
        """Look at the images before the first step, and keep what later looks compare with.

        ``features`` (N, C) and ``local`` (N, H, C_l) of the images, if at hand. Raises
        :class:`AdaptionStopped` for too few images or too many repeated ones.
        """
        return Watch(self, model, images, features, local)


class Watch:
    """One adaption under guards: :func:`.adaption.adapt` calls it."""

    def __init__(self, guards: Guards, model: BNTANet, images: Tensor, features: Tensor | None,
                 local: Tensor | None):
        self.guards, self.moves, self._rows = guards, Moves(model), {}
        self.images = images[evenly(len(images), guards.sample)]
        if features is None or local is None:
            some, parts = embed(model, self.images)
            local = parts if local is None else local
        else:
            some = features[evenly(len(images), guards.sample)]
        self.spread = spread(some)

        n, share = len(images), duplicates(images, local, guards.same)
        different = n - round(share * n)
        self._rows["images"] = (0, different, guards.min_images, f"different ones of {n}")
        self._rows["duplicates"] = (0, share, guards.max_duplicates, "share of images that repeat another")
        if different < guards.min_images:
            self._stop("images", f"only {different} of {n} images are different once near-duplicates are left "
                       f"out, and {guards.min_images} are needed for statistics of the place (min_images): "
                       "collect more images")
        if share > guards.max_duplicates:
            self._stop("duplicates", f"{share:.0%} of {n} images repeat another, more than the "
                       f"{guards.max_duplicates:.0%} allowed (max_duplicates): take fewer frames of each "
                       "track, or remove the copies")

    def loss_not_finite(self, step: int, value: float) -> NoReturn:
        """The loss of a step, before it is taken."""
        self._rows["loss"] = (step - 1, value, math.inf, "Eq. (13)")
        self._stop("loss", f"the loss is {value}: lower tta_lr, or look for broken images")

    def tensors_not_finite(self, step: int) -> NoReturn:
        """What the last step left."""
        self._rows["loss"] = (step, math.nan, math.inf, "an adapted tensor")
        self._stop("loss", "it left a tensor that is not finite: lower tta_lr")

    def step(self, adapted: nn.Module, losses: dict[str, float]) -> None:
        """After a step: how far the BN layers have moved until now."""
        self._rows["loss"] = (losses["step"], losses["total"], math.inf, "Eq. (13)")
        moves = self.moves(adapted)
        if not torch.isfinite(moves).all():
            self.tensors_not_finite(losses["step"])
        place = int(moves.argmax())
        move, layer, limit = float(moves[place]), self.moves.names[place], self.guards.max_move
        self._rows["move"] = (losses["step"], move, limit, layer)
        if move > limit:
            self._stop("move", f"the layer {layer} has moved by {move:.2f} of its output's size, more "
                       f"than the {limit:g} allowed (max_move): lower tta_lr, tta_momentum or tta_epochs, or "
                       "look whether these are images of people")

    def end(self, step: int, adapted: BNTANet) -> pd.DataFrame:
        """After the last step: whether the features still tell the images apart; the whole table."""
        after, limit = spread(embed_global(adapted, self.images)), self.guards.min_spread
        # Images that were all alike before have no spread to lose.
        ratio = after / self.spread if self.spread > 1e-6 or math.isnan(after) else 1.0
        self._rows["spread"] = (step, ratio, limit,
                                f"mean distance {self.spread:.3g} before, {after:.3g} after")
        if not ratio >= limit:
            self._stop("spread", "the features have collapsed: the mean distance between images fell to "
                       f"{ratio:.2f} of what it was, below the {limit:g} allowed (min_spread): lower tta_lr "
                       "or tta_epochs")
        return self.table()

    def table(self) -> pd.DataFrame:
        """What was measured until now, a row a guard: guard, step, measured, limit, what."""
        rows = [(name, *row) for name, row in self._rows.items()]
        return pd.DataFrame(rows, columns=["guard", "step", "measured", "limit", "what"])

    def _stop(self, reason: str, sentence: str) -> NoReturn:
        step = self._rows[reason][0]
        when = f"after step {step}" if step else "before the first step"
        raise AdaptionStopped(reason, step, self.table(), f"the adaption was stopped {when}: {sentence}. "
                              "The model is unchanged.")


def evenly(n: int, most: int) -> Tensor:
    """At most ``most`` of n indices, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()


def duplicates(images: Tensor, local: Tensor, same: float, most: int = 1024) -> float:
    """Share of uint8 images (N, 3, h, w) that repeat an earlier one, up to small differences.

    Two images are the same where their pixels are, or where the distance of their local features
    (n, H, C_l), flattened and of unit length, is below ``same``. Pixels are compared among all N,
    features among ``most`` evenly spaced ones: the larger of both shares is given.
    """
    pixels = {hashlib.blake2b(image.tobytes(), digest_size=16).digest()
              for chunk in images.split(256) for image in chunk.cpu().numpy()}
    rows = F.normalize(local[evenly(len(local), most)].double().flatten(1))
    near = (torch.cdist(rows, rows) < same).tril(-1).any(1)
    return max(1 - len(pixels) / len(images), float(near.double().mean()))


def spread(features: Tensor) -> float:
    """Mean Euclidean distance between features (n, C) of unit length, as retrieval compares them.

    0 where all are alike; about sqrt(2) where they share no direction; NaN where one is not finite.
    """
    return float(F.pdist(F.normalize(features.float())).mean())


class Moves:
    """How far the outputs of the BN layers have moved from those of ``model``.

    A BN layer is a line through the channel's inputs, y = gamma (x - mu) / s + beta with s =
    sqrt(sigma^2 + eps). On inputs of the source's statistics, x = mu + s e with e of mean 0 and
    variance 1, the adapted layer (primed) differs by

        y' - y = (gamma' s / s' - gamma) e + gamma' (mu - mu') / s' + beta' - beta,

    and a layer's move is the root mean square of that over e and channels, divided by that of
    gamma, which is the size of its outputs on the source. One number for all four quantities.
    """

    def __init__(self, model: nn.Module):
        self.names = list(bn_layers(model))
        self._before = _flat(model)
        sizes = torch.tensor([len(layer.weight) for layer in bn_layers(model).values()])
        self._layer = torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    def __call__(self, adapted: nn.Module) -> Tensor:
        """The move of every layer, float64 (layers,)."""
        (mean, std, gamma, beta), (mean2, std2, gamma2, beta2) = self._before, _flat(adapted)
        slope = gamma2 * (std / std2) - gamma
        offset = gamma2 * (mean - mean2) / std2 + beta2 - beta
        zero = torch.zeros(len(self.names), dtype=torch.float64)
        moved = zero.index_add(0, self._layer, slope.square() + offset.square())
        return (moved / zero.index_add(0, self._layer, gamma.square()).clamp(min=1e-30)).sqrt()


def _flat(model: nn.Module) -> list[Tensor]:
    """mu, s, gamma and beta of all channels of all layers in a row, float64 on the CPU."""
    layers = bn_layers(model).values()
    columns = [torch.cat([getattr(layer, kind).detach() for layer in layers])
               for kind in ("running_mean", "running_var", "weight", "bias")]
    eps = torch.cat([torch.full_like(layer.running_var, layer.eps) for layer in layers])
    mean, var, gamma, beta = (column.cpu().double() for column in columns)
    return [mean, (var + eps.cpu().double()).sqrt(), gamma, beta]
