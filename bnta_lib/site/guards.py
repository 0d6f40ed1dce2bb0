"""Guards: they stop an adaption that does harm; the model stays as it was.

No guard sees a label. What they cannot tell from a sound adaption goes on: with momentum 1 on 16 images or
more, ten epochs, the VIPeR counterpart loses 8 to 12 points of rank 1 and the two others gain 2 to 8.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnta_lib.adaption import Adaption, adapt
from bnta_lib.by_camera import LEAST, PLACE, adapt_by_camera
from bnta_lib.data.sets import picture_keys
from bnta_lib.evaluation import whole_numbers
from bnta_lib.model import BNTANet, bn_layers, embed, plain_model
from bnta_lib.settings import Settings
from bnta_lib.weights import Delta

# Distance of local features of unit length below which an image repeats another. Different images are 0.28
# apart or more, one a pixel aside or as JPEG of quality 75 at most 0.21.
SAME = 0.2
SAMPLE = 128  # images whose features are compared before and after


class AdaptionStopped(RuntimeError):
    """A guard, ``reason``, stopped an adaption after ``step`` steps; ``measured`` is the table until then."""

    def __init__(self, reason: str, step: int, measured: pd.DataFrame, sentence: str):
        super().__init__(sentence)
        self.reason, self.step, self.measured = reason, step, measured


@dataclass(frozen=True)
class Guards:
    """Thresholds of :func:`guarded_adapt`. Disable one with 0 (minima) or inf (move).

    The defaults come from 78 adaptions at the laptop profile (``figures/laptop/guards.csv``, by
    ``benchmarks/guards.py --study``). Gains are of rank 1, on the VIPeR, GRID and iLIDS counterparts.

    min_images  different images. With momentum 1, 8 images lose 9, 1 and 0 points, 16 gain -12, 3 and 2;
                16 images eight times each do what 16 do.
    max_move    move of a BN layer's output in units of its size: see :func:`moves`. Sound adaptions reach
                0.19; 1.09 (momentum 1 on GRID) still gains 3; from 1.38 on 6 to 47 are lost.
    min_spread  :func:`spread` of the features, after divided by before. Sound adaptions give 1.007 to 1.06;
                0.85 (a hundred times the rate, on iLIDS) still gains 3; 0.65 loses 4.
    """

    min_images: int = 16
    max_move: float = 1.3
    min_spread: float = 0.75

    def __post_init__(self) -> None:
        if not (self.min_images >= 0 and self.max_move > 0 and 0 <= self.min_spread <= 1):
            raise ValueError(f"a threshold is out of range: {self}")


def guarded_adapt(model: BNTANet, images: Tensor, settings: Settings, guards: Guards = Guards(),
                  **options) -> tuple[Adaption, pd.DataFrame]:
    """:func:`adapt` with its ``options`` under guards; returns also what they measured, a row a guard.

    They look at the images before the first step, at the BN layers after every step, and at the features at
    the end. Raises :class:`AdaptionStopped` if one stops the adaption; the model is then unchanged.
    """
    model = plain_model(model, images, adapts=True)
    n, rows = len(images), {}

    def table() -> pd.DataFrame:
        return pd.DataFrame(rows.values(), columns=["guard", "step", "measured", "limit", "what"])

    def measure(guard: str, step: int, value: float, limit: str, what: str, good: bool, why: str) -> None:
        rows[guard] = guard, step, value, limit, what
        if not good:
            when = f"after step {step}" if step else "before the first step"
            raise AdaptionStopped(guard, step, table(),
                                  f"the adaption was stopped {when}: {why}. The model is unchanged.")

    sample, local = images[evenly(n, SAMPLE)], options.pop("local", None)
    local = embed(model, images)[1] if local is None else local
    before, least = spread(embed(model, sample)[0]), guards.min_images
    different = n - round(duplicates(images, local, SAME) * n)
    measure("images", 0, different, f"≥ {least}", f"different ones of {n}", different >= least,
            f"only {different} of {n} images are different without near-duplicates, and {least} are needed "
            "(min_images): collect more images")

    def on_step(step: int, adapted: BNTANet, losses: dict[str, float]) -> None:
        measure("loss", step, losses["total"], "finite", "Eq. (13)", True, "")
        moved, layers = moves(model, adapted), list(bn_layers(model))
        move, layer = float(moved.max()), layers[moved.argmax()]  # a NaN counts as the largest
        measure("move", step, move, f"≤ {guards.max_move:g}", layer, move <= guards.max_move,
                f"the layer {layer} has moved by {move:.2f} of its output's size, more than the "
                f"{guards.max_move:g} allowed (max_move): lower tta_lr, tta_momentum or tta_epochs, or check "
                "the images")

    try:
        result = adapt(model, images, settings, local=local, on_step=on_step, **options)
    except FloatingPointError as error:
        step = rows["loss"][1] if "loss" in rows else 0
        measure("loss", step, math.nan, "finite", str(error), False, str(error))
    after = spread(embed(result.model, sample)[0])
    # Images that were all alike before have no spread to lose.
    ratio = after / before if before > 1e-6 or math.isnan(after) else 1.0
    measure("spread", len(result.losses), ratio, f"≥ {guards.min_spread:g}",
            f"mean distance {before:.3g} before, {after:.3g} after", ratio >= guards.min_spread,
            f"the features have collapsed: the mean distance between images fell to {ratio:.2f} of what it "
            f"was, below the {guards.min_spread:g} allowed (min_spread): lower tta_lr or tta_epochs")
    return result, table()


# Statistics that are all of a camera's images move further than BNTA's: by 0.27 to 1.38 for the 14 cameras of
# the benchmark and 4 of the rendered site, by 2.4 or more for negatives, black and flat images.
BY_CAMERA = Guards(max_move=2.0)


def guarded_by_camera(model: BNTANet, images: Tensor, camids: Tensor, names: Mapping[int, str],
                      settings: Settings, adapter: str = "adabn", guards: Guards = BY_CAMERA, *,
                      seed: int = 0) -> tuple[dict[int, Delta], pd.DataFrame]:
    """:func:`adapt_by_camera` under guards: the deltas, and what was measured of each, a row a camera.

    A camera with fewer than LEAST images, or whose delta is refused, takes the one of all images, PLACE's.
    ``camids`` are 0 for images of no known camera. The ``names`` of the others go into the ``meta`` of their
    deltas. Raises AdaptionStopped if PLACE's is refused, and as :func:`adapt_by_camera`.
    """
    camids = whole_numbers(camids, len(images), "camids", PLACE)
    names, unknown = {PLACE: "all crops", **names}, max(names, default=0) + 1
    if unnamed := {*camids[camids > 0].tolist()} - {*names}:
        raise ValueError(f"camera {min(unnamed)} has no name")
    with warnings.catch_warnings(action="ignore"):  # the table says it of cameras with few images
        made = adapt_by_camera(model, images, camids.where(camids > 0, unknown), settings, adapter,
                               least=LEAST, seed=seed)
    deltas, rows, adapted = {}, [], copy.deepcopy(model)
    made.pop(unknown, None)
    for camera, delta in made.items():
        own = images if camera == PLACE else images[camids == camera]
        sample = own[evenly(len(own), SAMPLE)]
        with delta.applied(adapted):
            move, after = float(moves(model, adapted).max()), spread(embed(adapted, sample)[0])
        ratio = after / max(spread(embed(model, sample)[0]), 1e-12)  # 0 if all are alike
        limits = {f"fewer than {LEAST} images": len(own) >= LEAST,
                  f"move over {guards.max_move:g}": move <= guards.max_move,
                  f"spread under {guards.min_spread:g}": ratio >= guards.min_spread,
                  f"fewer than {LEAST} different images": len({*picture_keys(own)}) >= LEAST}
        why = next((limit for limit, kept in limits.items() if not kept), "")
        rows.append((len(own), move, ratio, why))
        delta = made[PLACE] if why else delta
        deltas[camera] = replace(delta, meta={**delta.meta, "camera": camera, "name": names[camera]})
    table = pd.DataFrame(rows, [names[camera] for camera in deltas], ["images", "move", "spread", "refused"])
    if why := table["refused"].iloc[0]:
        raise AdaptionStopped("place", 0, table, f"the delta of all crops together was refused: {why}")
    return deltas, table


def evenly(n: int, size: int) -> Tensor:
    """At most ``size`` of n indices, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, size)).round().long()


def duplicates(images: Tensor, local: Tensor, same: float, size: int = 1024) -> float:
    """Share of uint8 images (N, 3, h, w) that repeat an earlier one, up to small differences.

    The larger share of two: of equal pixels among all N, and, among ``size`` of them, of flattened local
    features of unit length that are nearer than ``same``.
    """
    pixels = {*picture_keys(images.cpu())}
    rows = F.normalize(local[evenly(len(local), size)].double().flatten(1))
    near = (torch.cdist(rows, rows) < same).tril(-1).any(1)
    return max(1 - len(pixels) / len(images), float(near.double().mean()))


def spread(features: Tensor) -> float:
    """Mean Euclidean distance between features (n, C) of unit length: 0 where all are alike."""
    return float(F.pdist(F.normalize(features.float())).mean())


def moves(model: nn.Module, adapted: nn.Module) -> Tensor:
    """How far the outputs of the BN layers have moved from those of ``model``, float64 (layers,).

    With s = sqrt(sigma^2 + eps), on inputs x = mu + s e of the source's statistics (e has mean 0 and variance
    1), the adapted layer (primed) differs by

        y' - y = (gamma' s / s' - gamma) e + gamma' (mu - mu') / s' + beta' - beta.

    A layer's move is the root mean square of that over e and channels, divided by that of gamma.
    """
    moved = []
    for layers in zip(bn_layers(model).values(), bn_layers(adapted).values()):
        (mean, std, gamma, beta), (mean2, std2, gamma2, beta2) = (
            (m.running_mean.double(), (m.running_var.double() + m.eps).sqrt(), m.weight.detach().double(),
             m.bias.detach().double()) for m in layers)
        slope = gamma2 * (std / std2) - gamma
        offset = gamma2 * (mean - mean2) / std2 + beta2 - beta
        square = (slope.square() + offset.square()).sum()
        moved.append((square / gamma.square().sum().clamp(min=1e-30)).sqrt())
    return torch.stack(moved).cpu()
