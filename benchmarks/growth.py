"""How the cost of each step grows: ``python benchmarks/growth.py [--csv benchmarks/results.csv]``.

Seconds of a step over one size, the others held: the least of some runs. The measured points go to
``growth.csv`` beside the rows, and an exponent is fitted to each step's: the slope of a straight line
through all its points on two logarithmic axes. What a step costs at the least whatever its size pulls
that slope below the one that large sizes have, so the slope of the last two points is noted beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import adaption
import common
import evaluation
import numpy as np
import pairing
import pandas as pd
import torch
import training
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.rendered import benchmark
from bnta_lib.evaluation import evaluate
from bnta_lib.model import embed
from bnta_lib.pairing import nearest_pairs
from bnta_lib.suite.store import machine, write_rows
from bnta_lib.settings import Settings, settings
from bnta_lib.training import train

PAPER = ", paper profile"  # in the names of steps that are measured at its sizes too
COLUMNS = ("step", "size", "of", "setting", "seconds", "machine")


@dataclass(frozen=True)
class Step:
    """A step whose size grows. ``prepare(size)`` makes its inputs, ``run`` takes them."""

    name: str
    of: str  # what grows
    setting: str  # what is held
    sizes: tuple[int, ...]
    prepare: Callable[[int], tuple]
    run: Callable[..., object]
    repeats: int = 2


def doubled(first: int, times: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(times))


def steps(own: Settings, scale: int = 1) -> list[Step]:
    """The steps of a profile; ``scale`` divides their sizes."""
    model = adaption.network(own, "cpu")
    about = f"{own.profile} network, {own.height}x{own.width}"
    images = benchmark.source("Market-1501", 256 // scale, 2_048 // scale, own.size).images
    random = torch.randn(len(images), own.stripes, own.local_dim, generator=torch.Generator().manual_seed(0))
    held = 64 // scale

    def adapting(n: int, k: int) -> tuple:
        return images[:n], k

    paper = settings("paper")

    def probes(gallery: int, dims: int) -> tuple:
        # Some 17 gallery images a person, as in Market-1501: a larger gallery shows more people.
        people = max(2, gallery // 20)
        return evaluation.retrieval(evaluation.Size(512 // scale, gallery, people, 6, gallery // 6, dims))

    def render(n: int, size: tuple[int, int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            before = os.environ.get("BNTA_CACHE")
            os.environ["BNTA_CACHE"] = folder
            try:
                benchmark.source("Market-1501", max(2, n // 8), n, size)
            finally:
                os.environ.pop("BNTA_CACHE")
                if before is not None:
                    os.environ["BNTA_CACHE"] = before

    return [
        Step("adaption over N", "images N", f"{about}, K={held}", doubled(128 // scale, 5),
             lambda n: adapting(n, held), lambda some, k: adapt(model, some, own, K=k)),
        Step("adaption over K", "pairs K", f"{about}, N={len(images)}, local features given",
             doubled(16 // scale, 6), lambda k: adapting(len(images), k),
             lambda some, k: adapt(model, some, own, K=k, local=random)),
        Step("embedding", "images", about, doubled(128 // scale, 5), lambda n: (images[:n],),
             lambda some: embed(model, some)),
        *[Step("pairing" + more, "images N", f"K={128 // scale}, H=6, C_l={at.local_dim}", doubled(1_000 // scale, 5),
               lambda n, width=at.local_dim: (pairing.features(n, width=width),),
               lambda local: nearest_pairs(local, 128 // scale)) for at, more in ((own, ""), (paper, PAPER))],
        *[Step("evaluation" + more, "gallery images", f"{512 // scale} probes, {32 * at.base_width} dims",
               doubled(2_048 // scale, times), lambda n, dims=32 * at.base_width: probes(n, dims),
               lambda *data: evaluate(*data)) for at, more, times in ((own, "", 6), (paper, PAPER, 5))],
        *[Step("rendering" + more, "images", f"{at.height}x{at.width}, all threads", doubled(first // scale, 5),
               lambda n, size=at.size: (n, size), render)  # twice: the first starts processes
          for at, more, first in ((own, "", 256), (paper, PAPER, 64))],
        Step("training", "images", f"{about}, an epoch of batches of {own.batch}", doubled(128 // scale, 4),
             lambda n: (training.people(n, own),),
             lambda data: train(data, replace(own, epochs=1), progress=False, device="cpu"), repeats=1),
    ]


def points(step: Step) -> pd.DataFrame:
    """The measured points of a step: a row a size."""
    step.run(*step.prepare(step.sizes[0]))  # warms up
    found = []
    for size in step.sizes:
        given = step.prepare(size)
        took = min(common.seconds(lambda: step.run(*given)) for _ in range(step.repeats))
        found.append({"step": step.name, "size": size, "of": step.of, "setting": step.setting,
                      "seconds": round(took, 5), "machine": machine()})
    return pd.DataFrame(found, columns=[*COLUMNS])


def exponent(found: pd.DataFrame) -> tuple[float, float]:
    """Slope over all points on logarithmic axes, and that of the two largest sizes."""
    size, took = np.log(found["size"].to_numpy(float)), np.log(found["seconds"].to_numpy(float))
    slope = np.polyfit(size, took, 1)[0]
    return float(slope), float((took[-1] - took[-2]) / (size[-1] - size[-2]))


def save(new: pd.DataFrame, path: Path) -> None:
    """Put points in a file, in the place of those of the same machine and step; others stay."""
    old = read(path)
    keys = set(zip(new["machine"], new["step"]))
    kept = old[[key not in keys for key in zip(old["machine"], old["step"])]]
    both = pd.concat([t for t in (kept, new) if len(t)], ignore_index=True)
    write_rows(both.sort_values(["machine", "step", "size"], kind="stable"), path)


def read(path: Path) -> pd.DataFrame:
    """The points of a file; none where it is absent."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=[*COLUMNS])


def rows(chosen: list[Step], path: Path | None) -> Iterator[Row]:
    for step in chosen:
        found = points(step)
        if path is not None:
            save(found, path)
        slope, last = exponent(found)
        largest = found.iloc[-1]
        yield Row(f"growth of {step.name}, exponent", slope, "exponent",
                  note=f"over {step.of} {found['size'].iloc[0]:,} to {largest['size']:,} ({step.setting}); "
                  f"{last:.2f} between the last two; {largest['seconds']:.3g} s at {largest['size']:,}")


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    path = None if chosen.csv is None else chosen.csv.with_name("growth.csv")
    common.run(Path(__file__).stem, rows(steps(settings("laptop")), path), chosen.csv)


if __name__ == "__main__":
    main()
