"""Rendering a source of the embedded benchmark: ``python benchmarks/rendering.py``.

Images a second of :func:`bnta_lib.rendered.benchmark.source` into an empty cache, so with parameters,
pixels, digest and the file. One thread a process. With several processes each renders a source of its
own, all begin together, and the rate is that of all images until the last process ends; the rival is
then the rate of one process, and the ratio how many times as fast all of them are.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import torch
from common import Row

from bnta_lib.rendered import benchmark
from bnta_lib.settings import settings

SOURCE = "Market-1501"


def in_process(size: tuple[int, int], images: int, number: int) -> float:
    """Seconds of rendering so many images, when all processes have warmed up."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BNTA_CACHE"] = folder
        benchmark.source(SOURCE, 16, 64, size)  # reads the bodies and draws the places
        _BEGIN.wait()
        # The number makes another set of each process's.
        return common.seconds(lambda: benchmark.source(SOURCE, images // 8 + number, images, size))


def _share(barrier) -> None:
    global _BEGIN
    _BEGIN = barrier


def rate(size: tuple[int, int], images: int, processes: int) -> float:
    """Images a second of so many processes, each rendering ``images``."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _share, (context.Barrier(processes),)) as pool:
        took = list(pool.map(in_process, *zip(*[(size, images, number) for number in range(processes)])))
    return processes * images / max(took)


def measured(size: tuple[int, int], images: int, counts: tuple[int, ...], goal: str) -> Iterator[Row]:
    """A row for each number of processes, the first of them one; the goal is that of one."""
    name, single = f"rendering {size[0]}x{size[1]}", None
    for processes in counts:
        found = rate(size, images, processes)
        if single is None:
            single = found
            yield Row(f"{name}, one core", found, "images/s", goal=goal,
                      note=f"{images:,} images of {SOURCE}")
        else:
            yield Row(f"{name}, {processes} processes", found, "images/s", single, "one process",
                      note=f"{found / single / processes:.0%} of so many times one process's rate")


def counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... and all cores."""
    return tuple(sorted({*(2**i for i in range(cores.bit_length())), cores}))


def rows() -> Iterator[Row]:
    cores = counts(os.cpu_count() or 1)
    yield from measured(settings("laptop").size, 4_096, cores, ">= 500 images/s")
    yield from measured(settings("paper").size, 1_024, cores, "")


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    common.run(Path(__file__).stem, rows(), chosen.csv)


if __name__ == "__main__":
    main()
