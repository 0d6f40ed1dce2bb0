"""One data class of settings: every choice of the paper, and every choice it leaves open, once.

A profile is a set of values for it:

* ``smoke``   tests; trains from nothing in under a minute; mechanism, not science.
* ``laptop``  the default; two cores, no GPU; trained weights are committed.
* ``paper``   the paper's network and schedule; a GPU.

The profile is chosen by argument, or else by the environment variable ``BNTA_PROFILE``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]

# Version of the measured numbers: raise it by hand whenever a measured number may change.
# tests/test_golden.py fails if numbers move and it stays, or if it is raised and nothing is recorded anew.
METHOD_VERSION = 1

# The paper's five sources and the counts that give its 121,765 images of 18,530 people
# (images, people). The embedded sources keep these proportions' character at a smaller size.
PAPER_SOURCES = {
    "CUHK02": (7_264, 1_816),
    "CUHK03": (14_097, 1_467),
    "Market-1501": (29_419, 1_501),
    "DukeMTMC-reID": (36_411, 1_812),
    "CUHK-SYSU": (34_574, 11_934),
}
SOURCES = tuple(PAPER_SOURCES)
TARGETS = ("VIPeR", "GRID", "iLIDS")


@dataclass(frozen=True)
class Settings:
    """All settings of one experiment. The default values are those of the paper.

    Open choices, where the paper does not say, are marked [O].
    """

    profile: str = "paper"
    seed: int = 0

    # ---- data
    height: int = 256  # input height, pixels [O]
    width: int = 128  # input width, pixels [O]
    other_height: int = 384  # another input height, whose maps are cut into stripes otherwise [O]
    people: dict[str, int] = field(
        default_factory=lambda: {name: people for name, (_, people) in PAPER_SOURCES.items()}
    )
    images: dict[str, int] = field(
        default_factory=lambda: {name: images for name, (images, _) in PAPER_SOURCES.items()}
    )
    splits: int = 10  # random probe/gallery splits of each target
    people_share: float = 1.0  # of the sources' people that are trained on, evenly spaced
    heldout: int = 200  # people of each source that training never sees (headroom)

    # ---- network
    base_width: int = 64  # channels of the stem; 64 is ResNet-50, C = 32 * base_width
    last_stride: int = 1  # stride of layer4 [O]
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
    batch: int = 64  # of all processes together, where several train
    sync_bn: bool = False  # batch statistics over all GPUs that train, not each one's own [O]
    instances: int = 0  # images a person in a batch (PK); 0 draws plain batches [O]
    label_smoothing: float = 0.1  # [O] DualNorm's
    pad: int = 10  # random crop after this padding, pixels at height 256 [O] DualNorm's
    save_every: int = 1  # epochs between resumable checkpoints

    # ---- test-time adaption, Eq. (8), (13), (14) and Algorithm 1
    K: int = 128  # pairs; the protocol uses min(K, N // 2)
    tta_batch: int = 32  # pairs a batch
    tta_epochs: int = 1
    tta_lr: float = 0.0005  # eta_tta
    tta_optimizer: str = "adam"  # [O] adam | sgd
    tta_momentum: float = 0.1  # of the running statistics mu and sigma^2 [O]
    margin: float = 0.3  # phi
    lambda3: float = 1.0  # weight of L_mat^tta
    matching_reduction: str = "sum"  # of (8) over the pairs of a batch [O] sum | mean
    tta_seeds: int = 3  # adaption seeds a table averages over

    # ---- evaluation
    normalise_features: bool = True  # Euclidean distance on L2-normalised features [O]
    viper_probe: str = "cam_a"  # which camera of the published VIPeR probes: cam_a | cam_b | both [O]
    ilids_images: str = "single"  # of a person in the published iLIDS's gallery: single | multi [O]

    def __post_init__(self) -> None:
        counts = ("height", "width", "other_height", "splits", "heldout", "base_width", "stripes", "local_dim",
                  "epochs", "K", "tta_batch", "tta_seeds", "save_every")
        for name in counts:
            _check(self, name, isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                   "a whole number of at least 1")
        for name in ("lr", "tta_lr", "margin", "lambda1", "lambda2", "lambda3", "loss_id",
                     "loss_tri", "label_smoothing"):
            value = getattr(self, name)
            _check(self, name, isinstance(value, (int, float)) and 0 <= value < float("inf"),
                   "a finite number of at least 0")
        _check(self, "tta_epochs", isinstance(self.tta_epochs, int) and self.tta_epochs >= 0,
               "a whole number of at least 0")
        _check(self, "batch", isinstance(self.batch, int) and self.batch >= 2,
               "at least 2 images, since batch norm cannot train on one")
        _check(self, "sync_bn", isinstance(self.sync_bn, bool), "True or False")
        _check(self, "tta_momentum", isinstance(self.tta_momentum, (int, float)) and 0 <= self.tta_momentum <= 1,
               "between 0 and 1")
        _check(self, "last_stride", self.last_stride in (1, 2), "1 or 2")
        _check(self, "tta_optimizer", self.tta_optimizer in ("adam", "sgd"), "'adam' or 'sgd'")
        _check(self, "matching_reduction", self.matching_reduction in ("sum", "mean"),
               "'sum' or 'mean'")
        _check(self, "viper_probe", self.viper_probe in ("cam_a", "cam_b", "both"),
               "'cam_a', 'cam_b' or 'both'")
        _check(self, "ilids_images", self.ilids_images in ("single", "multi"), "'single' or 'multi'")
        _check(self, "people_share", isinstance(self.people_share, (int, float)) and 0 < self.people_share <= 1,
               "above 0 and at most 1")
        _check(self, "people", self.people.keys() == self.images.keys(),
               "given for the same sources as images")

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
        return self.height, self.width


def _check(chosen: Settings, name: str, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"setting {name} is {wanted}; got {getattr(chosen, name)!r}")


_LAPTOP = dict(
    height=96,
    width=48,
    other_height=128,
    people={"CUHK02": 600, "CUHK03": 500, "Market-1501": 500, "DukeMTMC-reID": 600,
            "CUHK-SYSU": 1_800},
    images={"CUHK02": 2_400, "CUHK03": 4_800, "Market-1501": 8_000, "DukeMTMC-reID": 9_600,
            "CUHK-SYSU": 7_200},
    base_width=16,
    local_dim=64,
    pretrained=False,
    epochs=16,
    lr=0.002,
    lr_decay_epoch=12,
    warmup_epochs=1,
    instances=0,
)
_FEW = dict(  # people, and a small network: seconds, not science
    people={name: 16 for name in SOURCES},
    images={name: 64 for name in SOURCES},
    splits=2,
    heldout=20,
    base_width=8,
    local_dim=32,
    epochs=6,
    tta_seeds=2,
)
_SMOKE = {**_LAPTOP, **_FEW, "lr_decay_epoch": 5}
# The paper's size, and its code path with a small network on few people (:mod:`bnta_lib.suite.full`).
AT_SIZE = ("paper", "rehearsal")
_REHEARSAL = dict(_FEW, height=128, width=64, other_height=192, pretrained=False, lr=0.002, lr_decay_epoch=4)
PROFILES = {
    "smoke": Settings(profile="smoke", **_SMOKE),
    "laptop": Settings(profile="laptop", **_LAPTOP),
    "paper": Settings(),
    "rehearsal": Settings(profile="rehearsal", **_REHEARSAL),
}


def settings(profile: str | None = None, **overrides) -> Settings:
    """The settings of ``profile`` (default: ``$BNTA_PROFILE``, else laptop), some overridden.

    Raises ValueError for a profile or a setting that does not exist.
    """
    name = profile or os.environ.get("BNTA_PROFILE") or "laptop"
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    known = {f.name for f in fields(Settings)}
    for key in overrides:
        if key not in known:
            raise ValueError(f"unknown setting {key!r}: the settings are {', '.join(sorted(known))}")
    own = PROFILES[name]
    # The caller gets dictionaries of his own: changing them leaves the profile as it is.
    return replace(own, **{"people": dict(own.people), "images": dict(own.images), **overrides})


def cache_dir() -> Path:
    """Where rendered sets, checkpoints and measured rows are kept: ``$BNTA_CACHE`` or .cache.

    Raises ValueError where that is below the home folder of nobody.
    """
    return _expanded(os.environ.get("BNTA_CACHE") or ROOT / ".cache", "BNTA_CACHE").absolute()


def _expanded(path: str | Path, what: str) -> Path:
    """``path`` with ``~`` as a home folder. Raises ValueError for a person unknown to this machine."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{what} is {str(path)!r}, and this machine knows no such home folder") from error


def _resolved(path: str | Path, what: str) -> Path:
    """The same from the root, links followed. Raises ValueError for a link that leads to itself, too."""
    try:
        return _expanded(path, what).resolve()
    except (RuntimeError, OSError) as error:  # which of them hangs on the version of Python
        raise ValueError(f"{what} is {str(path)!r}, a link that leads to itself") from error


def device_of(profile: str) -> torch.device:
    """Where the models that measure at a profile are: at those of the paper's size (:data:`AT_SIZE`) a GPU
    where there is one, else the CPU.

    ``$BNTA_DEVICE`` overrides that at every profile: "cpu", "cuda", or a GPU by its number ("cuda:1").
    Smoke and laptop are on the CPU unless it is said: what is committed of them was measured there, and the
    keys of the results store do not tell devices apart (the column ``machine`` of its rows does).
    Raises ValueError for another word, or a GPU that is not there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = os.environ.get("BNTA_DEVICE", "").strip()
    if not asked:
        return torch.device("cuda" if profile in AT_SIZE and there else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", asked):
        raise ValueError('BNTA_DEVICE is "cpu", "cuda", or a GPU by its number as in "cuda:1"; '
                         f"got {asked!r}")
    device = torch.device(asked)
    if device.type == "cuda" and (device.index or 0) >= there:
        found = f"{there} NVIDIA GPU{'s' * (there != 1)}" if there else "no NVIDIA GPU that it can use"
        raise ValueError(f"BNTA_DEVICE asks for {asked}, and PyTorch finds {found} here: leave BNTA_DEVICE "
                         'out, set it to "cpu", or look at the driver and at CUDA_VISIBLE_DEVICES')
    return device


def choose_algorithms() -> None:
    """PyTorch's deterministic algorithms alone, where ``$BNTA_DETERMINISTIC`` is 1; no change for 0 or nothing.

    A GPU then gives the same bits each time, and an operation that has no such algorithm there raises
    RuntimeError. Called as the library is imported: cuBLAS reads its variable once, at its first product.
    Raises ValueError for another value.
    """
    asked = os.environ.get("BNTA_DETERMINISTIC", "").strip()
    if asked not in ("", "0", "1"):
        raise ValueError(f"BNTA_DETERMINISTIC is 1 or 0, got {asked!r}")
    if asked == "1":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # a size with which cuBLAS repeats itself
        torch.backends.cudnn.benchmark = False  # or it would choose by speed, which differs each time
        torch.use_deterministic_algorithms(True)


def worker_count(default: int | None = None) -> int:
    """How many processes work side by side: ``$BNTA_WORKERS``, else ``default``, else one a core.

    Raises ValueError where the variable is no count.
    """
    text = os.environ.get("BNTA_WORKERS") or str(default or os.cpu_count() or 1)
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"BNTA_WORKERS is a number of processes, a whole number of at least 1; got {text!r}")
    return int(text)


def data_folder(data: str | Path) -> Path | None:
    """The folder that ``data`` names: a path, "real" for ``$BNTA_DATA``; None for "embedded".

    Raises ValueError where it is "real" and the variable is not set, empty, or an address.
    """
    if data == "embedded":
        return None
    if not str(data).strip() or "://" in str(data):
        raise ValueError(f'data is "embedded", "real" or a folder; got {str(data)!r}')
    if data != "real":
        return _resolved(data, "data")
    if not os.environ.get("BNTA_DATA", "").strip():
        raise ValueError('data="real" is the folder that the environment variable BNTA_DATA names, and it '
                         "is not set: set it to the folder that holds the published data sets")
    return _resolved(os.environ["BNTA_DATA"], "BNTA_DATA")


def run_name(profile: str, data: str | Path = "embedded") -> str:
    """Names what a run writes: the profile, and the folder of images where there is one.

    So that runs on other images leave the embedded benchmark's figures and tables alone; a few
    digits of the whole path tell folders of the same name apart. Raises as :func:`data_folder`.
    """
    path = data_folder(data)
    if path is None:
        return profile
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:6]
    # A name may be as long as a file system takes, and is a part of one here.
    return f"{profile}_{os.fsencode(path.name)[:100].decode('utf-8', 'ignore')}-{digest}"


def caution(run: str) -> str:
    """What the numbers of a run are not, at the profiles that only try the code."""
    if run.partition("_")[0] not in ("smoke", "rehearsal"):
        return ""
    return "A small network that saw few people: this run shows that everything works, and nothing of the method."


def figures_dir(run: str) -> Path:
    """Where the figures and tables of a run (see :func:`run_name`) are written: in ``$BNTA_FIGURES``, or figures."""
    return Path(os.environ.get("BNTA_FIGURES") or ROOT / "figures").absolute() / run
