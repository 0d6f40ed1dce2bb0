"""One data class of settings: the choices of the paper, and those that it leaves open ([O]), once.

A profile is a set of values for it: ``smoke`` for tests (mechanism, not science), ``laptop`` for two cores
without a GPU, ``paper`` for the paper's network and schedule on a GPU, ``rehearsal`` to try that in small.
"""

import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]

# Version of the measured numbers: raise it by hand whenever a measured number may change.
# tests/test_golden.py fails if numbers move and it stays, or if it is raised and nothing is recorded anew.
METHOD_VERSION = 1

# The paper's five sources and the counts (images, people) that give its 121,765 images of 18,530 people.
PAPER_SOURCES = {"CUHK02": (7_264, 1_816), "CUHK03": (14_097, 1_467), "Market-1501": (29_419, 1_501),
                 "DukeMTMC-reID": (36_411, 1_812), "CUHK-SYSU": (34_574, 11_934)}
SOURCES = tuple(PAPER_SOURCES)
TARGETS = ("VIPeR", "GRID", "iLIDS")

# Ranges of settings. What is not listed: whole numbers from 1, others from 0.
RANGES = {"batch": (2, math.inf), "tta_momentum": (0, 1), **dict.fromkeys(
    ("seed", "tta_epochs", "warmup_epochs", "lr_decay_epoch", "pad"), (0, math.inf))}

# The trainings by name, and the settings that they change. Table 3 has the first six. "other_stripes" has the
# input height `other_height`, whose maps six stripes do not divide: their bins overlap. "misaligned" sees
# rendered people as a poor detector crops them; those profiles train it whose `trainings` name it.
MODELS: dict[str, dict[str, Any]] = {
    "bnta": {},
    "baseline": {"lambda1": 0.0, "lambda2": 0.0},
    "pos": {"loss_id": 0.0, "lambda2": 0.0},
    "mat": {"loss_id": 0.0, "lambda1": 0.0},
    "id_pos": {"lambda2": 0.0},
    "id_mat": {"lambda1": 0.0},
    "other_stripes": {},
    "misaligned": {"misaligned": 0.15},
}


@dataclass(frozen=True)
class Settings:
    """Settings of one experiment; the paper's by default. Choices that it leaves open are marked [O]."""

    profile: str = "paper"
    seed: int = 0

    # ---- data
    height: int = 256  # input height, pixels [O]
    width: int = 128  # input width, pixels [O]
    other_height: int = 384  # a second input height: six stripes do not divide its maps [O]
    people: dict[str, int] = field(default_factory=lambda: {k: v[1] for k, v in PAPER_SOURCES.items()})
    images: dict[str, int] = field(default_factory=lambda: {k: v[0] for k, v in PAPER_SOURCES.items()})
    splits: int = 10  # random probe/gallery splits of each target
    misaligned: float = 0.0  # deviation of rendered boxes' place and size, share of the size; 0: each set's
    heldout: int = 200  # people of each source that training never sees (headroom)

    # ---- network
    base_width: int = 64  # channels of the stem; 64 is ResNet-50, C = 32 * base_width
    last_stride: Literal[1, 2] = 1  # stride of layer4 [O]
    stripes: int = 6  # H
    local_dim: int = 256  # C_l
    pretrained: bool = True  # start from torchvision's ImageNet weights

    # ---- training, Eq. (9) and (10)
    loss_id: float = 1.0  # weight of L_id (0 leaves it out, as Table 3 does)
    lambda1: float = 0.1  # weight of L_pos
    lambda2: float = 0.1  # weight of L_mat
    loss_tri: float = 0.0  # weight of L_tri (3), defined in the paper but absent from (9)
    triplet_margin: float = 0.3  # phi_tri [O]
    epochs: int = 60
    lr: float = 0.005  # eta_t
    lr_decay_epoch: int = 40
    warmup_epochs: int = 0
    batch: int = 64  # of all processes together, if several train
    label_smoothing: float = 0.1  # [O] DualNorm's
    pad: int = 10  # random crop after this padding, pixels at height 256 [O] DualNorm's
    weight_decay: float = 0.0  # decoupled (AdamW), of convolution and linear weights [O]

    # ---- test-time adaption, Eq. (8), (13), (14) and Algorithm 1
    K: int = 128  # pairs; the protocol uses min(K, N // 2)
    tta_batch: int = 32  # pairs a batch
    tta_epochs: int = 1
    tta_lr: float = 0.0005  # eta_tta
    tta_optimizer: Literal["adam", "sgd"] = "adam"  # [O]
    tta_momentum: float = 0.1  # of mu and sigma^2 [O]; training keeps torch's 0.1
    margin: float = 0.3  # phi
    lambda3: float = 1.0  # weight of L_mat^tta
    matching_reduction: Literal["sum", "mean"] = "sum"  # of (8) over the pairs of a batch [O]
    tta_seeds: int = 3  # adaption seeds a table averages over
    trainings: dict[str, int] = field(default_factory=dict)  # of each model that tables average over; else 1

    # ---- evaluation
    normalise_features: bool = True  # Euclidean distance on L2-normalised features [O]
    viper_probe: Literal["cam_a", "cam_b", "both"] = "cam_a"  # camera of the published VIPeR that probes [O]
    ilids_images: Literal["single", "multi"] = "single"  # of a person in the published iLIDS's gallery [O]

    def __post_init__(self) -> None:
        for item in fields(self)[1:]:  # all but the profile
            name, value, kind = item.name, getattr(self, item.name), item.type
            if get_origin(kind) is Literal:
                good, wanted = value in get_args(kind), f"one of {get_args(kind)}"
            elif kind in (int, float):
                least, most = RANGES.get(name, (int(kind is int), math.inf))
                good = isinstance(value, (int, kind)) and math.isfinite(value) and least <= value <= most
                wanted = f"a {'whole' if kind is int else 'finite'} number in [{least}, {most}]"
            elif kind is bool:
                good, wanted = isinstance(value, bool), "True or False"
            else:
                good, wanted = self.people.keys() == self.images.keys(), "of the same sources as images"
            if not good:
                raise ValueError(f"setting {name} is {wanted}; got {value!r}")

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
        return self.height, self.width


# The profiles that take the paper's code path: rehearsal does with a small network on few people.
AT_SIZE = ("paper", "rehearsal")
_LAPTOP = Settings(
    profile="laptop", height=96, width=48, other_height=128, base_width=16, local_dim=64, pretrained=False,
    people=dict(zip(SOURCES, (600, 500, 500, 600, 1_800), strict=True)),
    images=dict(zip(SOURCES, (2_400, 4_800, 8_000, 9_600, 7_200), strict=True)),
    epochs=16, lr=0.002, lr_decay_epoch=12, warmup_epochs=1,
)
# The same network, trained with weight decay: docs/results.md, "On a better network".
_STEADY = replace(_LAPTOP, profile="steady", epochs=8, lr=0.008, lr_decay_epoch=6, weight_decay=0.3,
                  trainings={"bnta": 5, "baseline": 5, "misaligned": 3,
                             **dict.fromkeys(("pos", "mat", "id_pos", "id_mat"), 3)})
_REHEARSAL = Settings(  # few people and a small network: seconds, not science
    profile="rehearsal", height=128, width=64, other_height=192, base_width=8, local_dim=32, pretrained=False,
    people=dict.fromkeys(SOURCES, 16), images=dict.fromkeys(SOURCES, 64), splits=2, heldout=20,
    epochs=6, lr=0.002, lr_decay_epoch=4, tta_seeds=2,
)
_SMOKE = replace(_REHEARSAL, profile="smoke", height=48, width=24, other_height=64, stripes=3, K=64,
                 lr_decay_epoch=5, warmup_epochs=1, tta_seeds=1, trainings={"misaligned": 1})
PROFILES = {one.profile: one for one in (_SMOKE, _LAPTOP, _STEADY, Settings(), _REHEARSAL)}


def settings(profile: str | None = None, **overrides) -> Settings:
    """The settings of ``profile`` (default: ``$BNTA_PROFILE``, else laptop), some of them overridden.

    Raises ValueError for an unknown profile or setting, or a value out of range.
    """
    name = profile or os.environ.get("BNTA_PROFILE") or "laptop"
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    default = asdict(PROFILES[name])  # with new dictionaries: a caller may change them
    if unknown := overrides.keys() - default.keys():
        raise ValueError(f"unknown setting {min(unknown)!r}: the settings are {', '.join(sorted(default))}")
    return Settings(**{**default, **overrides})


def trainings_of(settings: Settings, *models: str) -> list[str]:
    """Trainings of these models, or of all, that tables average over: "bnta"; with another seed "bnta-1"."""
    counts = {model: settings.trainings.get(model, int(model != "misaligned")) for model in models or MODELS}
    return [f"{model}-{seed}" if seed else model for model, count in counts.items() for seed in range(count)]


def model_of(training: str) -> str:
    """The model that a training is one of: "bnta" of "bnta-1"."""
    return training.partition("-")[0]


def model_settings(settings: Settings, name: str) -> Settings:
    """``settings`` with the changes of the training ``name``. Raises ValueError for an unknown name."""
    parts = re.fullmatch(r"(\w+)(?:-([1-9]\d*))?", name)
    if not parts or parts[1] not in MODELS:
        raise ValueError(f"unknown model {name!r}: the models are {', '.join(MODELS)}; bnta-1 has seed 1")
    model, seed = parts.groups()
    if model == "other_stripes":
        settings = replace(settings, height=settings.other_height)
    return replace(settings, seed=int(seed or settings.seed), **MODELS[model])


def cache_dir() -> Path:
    """Folder of rendered sets, packs, weights, checkpoints and rows: ``$BNTA_CACHE``, else .cache."""
    return Path(os.environ.get("BNTA_CACHE") or ROOT / ".cache").expanduser().resolve()
