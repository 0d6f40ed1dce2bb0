"""mAP and CMC, distances included, against torchreid's evaluation in Python and in Cython.

``python benchmarks/evaluation.py [--csv benchmarks/results.csv]`` scores Market-1501's numbers of
probes and gallery images, and, ours alone, MSMT17's. Each side runs in a process of its own, where its
memory is measured; both must give the same scores before a row is written. torchreid is no part of the
suite's environment: docs/speed.md says how to install it. Its Python takes two minutes and is run once.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import common
import torch
from common import NoRival, Row
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.evaluation import evaluate

TOLERANCE = 1e-6  # of mAP and of each CMC value, in 0..1
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Size:
    """A retrieval problem. Distractors are gallery images of nobody who is searched for."""

    probes: int
    gallery: int
    people: int
    cameras: int
    distractors: int
    dims: int = 512


MARKET = Size(3_368, 15_913, 750, 6, 2_793)
MSMT = Size(11_659, 82_161, 3_060, 15, 0)


def retrieval(size: Size, seed: int = 0) -> tuple[Tensor, ...]:
    """Features and labels, in the order in which `evaluate` takes them; mAP is near a half.

    A person's features lie around a place of his own, moved by each camera.
    """
    random = torch.Generator().manual_seed(seed)

    def side(pids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        camids = torch.randint(1, size.cameras + 1, (len(pids),), generator=random)
        features = torch.randn(len(pids), size.dims, generator=random)
        # Half of a person's look differs from camera to camera, as pose and light do.
        features.mul_(2.0).add_(people[pids]).add_(cameras[camids])
        features.add_(looks[pids % len(looks), camids])
        return features, pids, camids

    people = torch.randn(size.people + 1, size.dims, generator=random)
    cameras = torch.randn(size.cameras + 1, size.dims, generator=random) * 0.3
    looks = torch.randn(97, size.cameras + 1, size.dims, generator=random) * 0.8
    probe = side(torch.randint(1, size.people + 1, (size.probes,), generator=random))
    shown = torch.randint(1, size.people + 1, (size.gallery,), generator=random)
    shown[torch.randperm(size.gallery, generator=random)[: size.distractors]] = 0
    gallery = side(shown)
    gallery[0][shown == 0] += torch.randn(size.distractors, size.dims, generator=random)
    return tuple(x for both in zip(probe, gallery) for x in both)


Result = tuple[float, list[float]]  # seconds; mAP, then CMC at RANKS


def ours(size: Size, rounds: int) -> Result:
    """The least seconds of evaluate, and what it gives."""
    data, found = retrieval(size), []
    common.forget_peak()  # what making the data held
    took = [common.seconds(lambda: found.append(evaluate(*data))) for _ in range(rounds)]
    return min(took), [found[0].mAP, *(found[0].cmc(k) for k in RANKS)]


def metrics() -> ModuleType:
    """torchreid's, of the project's own package or of the one that bears its name on PyPI.

    Raises NoRival where it is not installed, or lacks a package.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torchreid.metrics", "torchreid.reid.metrics"):
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name == "torchreid":
                    raise NoRival("rival not installed: pip install torchreid") from error
                if error.name not in ("torchreid.metrics", "torchreid.reid"):
                    raise NoRival(f"rival cannot be imported: pip install {error.name}, which it needs"
                                  ) from error
    raise NoRival("rival not found in the package torchreid that is installed: pip install torchreid==0.2.5")


def torchreids(size: Size, rounds: int, cython: bool) -> Result:
    """The same of torchreid, from features to scores. Raises NoRival where it is not there."""
    rival = metrics()
    if cython and not importlib.import_module(f"{rival.__name__}.rank").IS_CYTHON_AVAI:
        raise NoRival("rival installed without its Cython part: docs/speed.md says how to build it")
    probe, gallery, *labels = retrieval(size)
    labels, found = [label.numpy() for label in labels], []
    common.forget_peak()  # what making the data held

    def score() -> None:
        distances = rival.compute_distance_matrix(F.normalize(probe), F.normalize(gallery)).numpy()
        found.append(rival.evaluate_rank(distances, *labels, max_rank=max(RANKS), use_cython=cython))

    took = [common.seconds(score) for _ in range(rounds)]
    cmc, mean = found[0]
    return min(took), [float(mean), *(float(cmc[k - 1]) for k in RANKS)]


def products(size: Size) -> float:
    """Seconds of the float32 products of all probes and gallery images alone, which every way needs."""
    probe, gallery = retrieval(size)[:2]
    return common.seconds(lambda: [torch.mm(block, gallery.T) for block in probe.split(128)])


def agree(own: list[float], other: list[float], who: str) -> None:
    """Raise ValueError where scores differ: a wrong answer has no time."""
    worst = max(abs(a - b) for a, b in zip(own, other, strict=True))
    if worst > TOLERANCE:
        raise ValueError(f"scores differ from {who}'s by {worst:.2g}: {own} and {other}")


def measured(size: Size, rounds: int = 3) -> Iterator[Row]:
    """Three rows: against Cython, its memory, against Python."""
    (own, scores), peak = common.in_fresh_process(ours, size, rounds)
    rival, memory, why = math.nan, math.nan, ""
    try:
        (rival, theirs), memory = common.in_fresh_process(torchreids, size, rounds, True, first=metrics)
        agree(scores, theirs, "torchreid")
        again, _ = common.in_fresh_process(ours, size, rounds)
        own = min(own, again[0])
    except NoRival as error:
        why = f"; {error}"
    about = f"{size.probes:,} x {size.gallery:,} x {size.dims}"
    name = f"mAP and CMC ({about})"
    bare = min(products(size) for _ in range(rounds))
    slow = f"the float32 products of all pairs alone take {bare:.2g} s, {bare / own:.0%} of ours"
    held = ("features are held in float32 as given and centred, 39 MB each; the rest is a block's products and "
            "what the processor's libraries take for them, which varies from run to run")
    note = f"mAP {100 * scores[0]:.2f} %, rank 1 {100 * scores[1]:.2f} %"
    same = f"; the same scores to {TOLERANCE:g}"
    told = note + (why or same)
    yield Row(f"{name}, against Cython", own, "s", rival, "torchreid, Cython", ">= 3x", peak, told, slow)
    yield Row(f"memory of {name}", peak, "MB", memory, "torchreid, Cython", "<= 0.2x", peak,
              "features and labels included" + why, held)
    rival, told = math.nan, note + same
    try:
        (rival, theirs), _ = common.in_fresh_process(torchreids, size, 1, False, first=metrics)
        agree(scores, theirs, "torchreid")
    except NoRival as error:
        told = f"{note}; {error}"
    yield Row(f"{name}, against Python", own, "s", rival, "torchreid, Python, once", ">= 60x", peak, told, slow)


def large(size: Size = MSMT) -> Iterator[Row]:
    """The row of a gallery that a matrix of all distances would not leave room for."""
    (own, scores), peak = common.in_fresh_process(ours, size, 1)
    matrix = 4e-6 * size.probes * size.gallery
    yield Row(f"memory of mAP and CMC ({size.probes:,} x {size.gallery:,} x {size.dims})", peak, "MB",
              goal="< 4,000 MB", peak_mb=peak, note=f"{own:.3g} s; mAP {100 * scores[0]:.2f} %; features "
              f"and labels included; a float32 matrix of all distances would be {matrix:,.0f} MB")


def rows() -> Iterator[Row]:
    yield from measured(MARKET)
    yield from large()


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    common.run(Path(__file__).stem, rows(), chosen.csv)


if __name__ == "__main__":
    main()
