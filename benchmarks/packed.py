"""How fast packing is beside Pillow alone, and how fast a pack is opened: ``python
benchmarks/packed.py``.

Generates JPEGs, then in turns opens, decodes and resizes them by Pillow in a plain loop, which writes and
checks nothing, and packs them.
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import common
import numpy as np
from common import Row
from joblib import Parallel, delayed, parallel_config
from PIL import Image

from bnta_lib.data.packed import BLOCK, open_pack, pack, pack_folder
from bnta_lib.data.published import Found
from bnta_lib.data.sets import Sample

SIZE = (256, 128)  # height and width of the paper's input


def write_crops(folder: Path, height: int, width: int, count: int, times: int) -> Found:
    """Crops as JPEG, in Market-1501 naming: smooth colours under noise, some 4 kB at 128 x 64."""
    folder.mkdir(parents=True)
    rng, samples = np.random.default_rng(0), []
    for i in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8))
        pixels = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
        pixels = pixels + rng.normal(0, 6, pixels.shape)
        pid, camid = i // 8 + 1, i % 6 + 1
        file = folder / f"{pid:04d}_c{camid}s1_{i:06d}_00.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        samples.append(Sample(file, pid, camid))
    return Found("Market-1501", folder, tuple(samples) * times)


def pillow(files: list[Path]) -> None:
    for file in files:
        with Image.open(file) as opened:
            opened.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)


def rate_of_pillow(found: Found, workers: int) -> float:
    """Images a second of Pillow alone, in as many processes as packing takes."""
    files = [sample.file for sample in found.samples]
    jobs = [delayed(pillow)(files[k : k + BLOCK]) for k in range(0, len(files), BLOCK)]
    with parallel_config("loky", inner_max_num_threads=1):
        return len(files) / common.seconds(lambda: Parallel(workers)(jobs))


def measured(folder: Path, height: int, width: int, count: int, times: int, rounds: int) -> Iterator[Row]:
    """A row for one process, and one for all cores; then one of opening what was packed."""
    found = write_crops(folder / f"{height}x{width}", height, width, count, times)
    opened = []

    def rate(workers: int) -> float:
        folder = pack_folder(found, SIZE)
        with mock.patch.dict(os.environ, LOKY_MAX_CPU_COUNT=str(workers)):
            took = common.seconds(lambda: pack(found, SIZE, progress=False))
        opened.append(1000 * common.seconds(lambda: open_pack(folder, found.name, check=False)))
        shutil.rmtree(folder)
        return len(found) / took

    for workers in dict.fromkeys((1, os.cpu_count() or 1)):
        rate_of_pillow(found, workers)  # starts processes, fills caches
        ours, rival = common.in_turns(partial(rate, workers), partial(rate_of_pillow, found, workers), rounds)
        yield Row(f"packing crops of {height} x {width}, {workers} process{'es' * (workers > 1)}", ours,
                  "images/s", rival, "Pillow alone, nothing written", ">= 0.8x", note=(
                      "hashing the pack, and starting processes if there are several, weigh more the fewer "
                      "and smaller the images are"))
    yield Row(f"opening a pack of {len(found):,} images", statistics.median(opened), "ms", goal="< 20 ms")


def rows(device: str, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="bnta-packed-") as name:
        os.environ["BNTA_CACHE"] = str(Path(name) / "cache")
        if quick:
            yield from measured(Path(name), 32, 16, 6, 1, 1)
        else:
            yield from measured(Path(name), 128, 64, 4_000, 2, 3)
            yield from measured(Path(name), 600, 240, 1_000, 2, 3)


if __name__ == "__main__":
    common.main(__doc__, rows)
