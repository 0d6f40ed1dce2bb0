"""mAP and CMC, distances included, against torchreid's evaluation in Cython: ``python
benchmarks/evaluation.py``.

Scores Market-1501's numbers of probes and gallery images, and, ours alone, MSMT17's. Each side runs in a
process of its own, where its memory is measured; both must give the same scores before a row is written.
torchreid is no part of the suite's environment: docs/speed.md says how to install it.
"""

import importlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import common
import torch
from common import Row
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.evaluation import evaluate

TOLERANCE = 1e-6  # of mAP and of each CMC value, in 0..1
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Size:
    """A retrieval problem. Distractors are gallery images that match no probe."""

    probes: int
    gallery: int
    people: int
    cameras: int
    distractors: int
    dims: int = 512


MARKET = Size(3_368, 15_913, 750, 6, 2_793)
MSMT = Size(11_659, 82_161, 3_060, 15, 0)
TINY = Size(12, 60, 6, 3, 10, dims=16)


def retrieval(size: Size, seed: int = 0) -> tuple[Tensor, ...]:
    """Features and labels, in the order in which `evaluate` takes them; mAP is near a half.

    A person's features lie around a point of its own, moved by each camera.
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
    """The least seconds of evaluate, and its scores."""
    data, results = retrieval(size), []
    common.forget_peak()  # what making the data held
    took = [common.seconds(lambda: results.append(evaluate(*data))) for _ in range(rounds)]
    return min(took), [results[0].mAP, *(results[0].cmc(k) for k in RANKS)]


def metrics() -> ModuleType:
    """torchreid's, of the project's own package or of the one of its name on PyPI; ImportError if there is
    none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("torchreid.reid.metrics")
        except ModuleNotFoundError:
            return importlib.import_module("torchreid.metrics")


def torchreids(size: Size, rounds: int) -> Result:
    """The same of torchreid, from features to scores. ImportError if it is not there with its Cython part."""
    rival = metrics()
    if not importlib.import_module(f"{rival.__name__}.rank").IS_CYTHON_AVAI:
        raise ImportError("torchreid is installed without its Cython part")
    probe, gallery, *labels = retrieval(size)
    labels, results = [label.numpy() for label in labels], []
    common.forget_peak()  # what making the data held

    def score() -> None:
        distances = rival.compute_distance_matrix(F.normalize(probe), F.normalize(gallery)).numpy()
        results.append(rival.evaluate_rank(distances, *labels, max_rank=max(RANKS), use_cython=True))

    took = [common.seconds(score) for _ in range(rounds)]
    cmc, mean = results[0]
    return min(took), [float(mean), *(float(cmc[k - 1]) for k in RANKS)]


def measured(size: Size, rounds: int = 3) -> Iterator[Row]:
    """Two rows: time and memory against Cython."""
    (took, scores), peak = common.in_fresh_process(ours, size, rounds)
    note = f"mAP {100 * scores[0]:.2f} %, rank 1 {100 * scores[1]:.2f} %"
    try:
        (rival, theirs), memory = common.in_fresh_process(torchreids, size, rounds)
        if max(abs(a - b) for a, b in zip(scores, theirs, strict=True)) > TOLERANCE:
            raise ValueError(f"scores differ from torchreid's: {scores} and {theirs}")
        took = min(took, common.in_fresh_process(ours, size, rounds)[0][0])
        note += f"; the same scores to {TOLERANCE:g}"
    except ImportError as error:
        rival, memory, note = math.nan, math.nan, f"{note}; no rival: {error}, see docs/speed.md"
    about = f"mAP and CMC ({size.probes:,} x {size.gallery:,} x {size.dims})"
    yield Row(f"{about}, against Cython", took, "s", rival, "torchreid, Cython", ">= 3x", peak, note)
    yield Row(f"memory of {about}", peak, "MB", memory, "torchreid, Cython", "<= 0.2x", peak,
              "features and labels included")


def large(size: Size) -> Row:
    """The row of a gallery for which a matrix of all distances takes most of the limit."""
    (took, scores), peak = common.in_fresh_process(ours, size, 1)
    matrix = 4e-6 * size.probes * size.gallery
    return Row(f"memory of mAP and CMC ({size.probes:,} x {size.gallery:,} x {size.dims})", peak, "MB",
               goal="< 4,000 MB", peak_mb=peak,
               note=f"{took:.3g} s; mAP {100 * scores[0]:.2f} %; features and "
               f"labels included; a float32 matrix of all distances would be {matrix:,.0f} MB")


def rows(device: str, quick: bool) -> Iterator[Row]:
    yield from measured(TINY if quick else MARKET, 1 if quick else 3)
    yield large(Size(24, 120, 6, 3, 10) if quick else MSMT)


if __name__ == "__main__":
    common.main(__doc__, rows)
