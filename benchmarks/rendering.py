"""Rendering a source of the embedded benchmark: ``python benchmarks/rendering.py``.

Images a second of :func:`bnta_lib.rendered.benchmark.source` into an empty cache: parameters, pixels, digest
and the file. One thread a process. Several processes share one source, block by block; the rival is then the
rate of one process, and the ratio how many times as fast all of them are.
"""

import os
import tempfile
from collections.abc import Iterator

import common
import torch
from common import Row

from bnta_lib.rendered import benchmark
from bnta_lib.settings import settings

SOURCE = "Market-1501"


def rate(size: tuple[int, int], images: int, processes: int) -> float:
    """Images a second of this process alone, or of so many that it starts."""
    before = {name: os.environ.get(name) for name in ("BNTA_CACHE", "LOKY_MAX_CPU_COUNT")}
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"BNTA_CACHE": folder, "LOKY_MAX_CPU_COUNT": str(processes)}
        torch.set_num_threads(1)
        try:
            # Reads the bodies and draws the places, in every process.
            benchmark.source(SOURCE, 256, 2 * benchmark.MANY if processes > 1 else 256, (16, 8))
            return images / common.seconds(lambda: benchmark.source(SOURCE, images // 8, images, size))
        finally:
            torch.set_num_threads(threads)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def rows(device: str, quick: bool) -> Iterator[Row]:
    cores = os.cpu_count() or 1
    sizes = ((settings("laptop").size, 4_096, ">= 500 images/s"), (settings("paper").size, 1_024, ""))
    for size, images, goal in sizes:
        images = images // 32 if quick else images
        name, single = f"rendering {size[0]}x{size[1]}", rate(size, images, 1)
        yield Row(f"{name}, one core", single, "images/s", goal=goal, note=f"{images:,} images of {SOURCE}")
        for processes in sorted({*(2**i for i in range(1, cores.bit_length())), cores} - {1}):
            several = rate(size, images * processes, processes)
            yield Row(f"{name}, {processes} processes", several, "images/s", single, "one process",
                      note=f"{several / single / processes:.0%} of so many times one process's rate")


if __name__ == "__main__":
    common.main(__doc__, rows)
