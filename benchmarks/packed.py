"""How near packing comes to what the image library takes alone, and how fast a pack is opened.

``python benchmarks/packed.py [--csv benchmarks/results.csv]`` generates JPEGs, then in turns, in one
run, (a) opens, decodes and resizes them by Pillow in a plain loop, which writes and checks nothing, and
(b) packs them: flushed to the disk, with checksums and a journal.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from common import Row
from PIL import Image

from bnta_lib.data import packed as packing
from bnta_lib.data.records import Found, Sample
from bnta_lib.workers import side_by_side

SIZE = (256, 128)  # height and width of the paper's input
# Height and width of the files, how many of them, and how often each is read.
KINDS = {"crops of 128 x 64": (128, 64, 4_000, 2), "crops of 600 x 240": (600, 240, 1_000, 2)}
FULL = 121_765  # images of the paper's mixture


def write_crops(folder: Path, height: int, width: int, count: int, times: int = 1) -> Found:
    """Crops as JPEG, in Market-1501 naming: smooth colours under noise, some 4 kB at 128 x 64."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    samples = []
    for i in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8))
        pixels = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC))
        pixels = pixels + rng.normal(0, 6, pixels.shape)
        pid, camid = i // 8 + 1, i % 6 + 1
        file = folder / f"{pid:04d}_c{camid}s1_{i:06d}_00.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        samples.append(Sample(file, pid, camid))
    return Found("Market-1501", "generated", folder, tuple(samples) * times)


def alone(files: list[str]) -> None:
    """What Pillow takes at the least."""
    for file in files:
        with Image.open(file) as opened:
            opened.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)


def seconds_alone(found: Found, workers: int) -> float:
    """Pillow alone, in as many processes as packing takes, with as many files a task."""
    files = [str(sample.file) for sample in found.samples]
    tasks = [files[k : k + packing.BLOCK] for k in range(0, len(files), packing.BLOCK)]
    if workers == 1:
        return common.seconds(lambda: alone(files))
    jobs = ((task,) for task in tasks)
    return common.seconds(lambda: list(side_by_side(alone, jobs, workers, in_order=False)))


def seconds_packed(found: Found, workers: int) -> float:
    packs = []
    took = common.seconds(
        lambda: packs.append(packing.packed(found, SIZE, workers=workers, progress=False)))
    shutil.rmtree(packs[0].folder)
    return took


def decoding(folder: Path, rounds: int, kinds: dict = KINDS) -> Iterator[Row]:
    for kind, (height, width, count, times) in kinds.items():
        found = write_crops(folder / kind, height, width, count, times)
        cores = os.cpu_count() or 1
        for workers in dict.fromkeys((1, cores)):
            seconds_alone(found, workers)  # starts processes, fills caches
            pairs = [(seconds_packed(found, workers), seconds_alone(found, workers)) for _ in range(rounds)]
            ours, rival = (len(found) / statistics.median(side) for side in zip(*pairs))
            yield Row(f"packing {kind}, {workers} process{'es' * (workers > 1)}", ours, "images/s", rival,
                      "Pillow alone, nothing written", ">= 0.8x")


def unread(folder: Path, count: int) -> None:
    """Makes the pack folder/full, whose pixels are a hole in the file: opening must not read them."""
    part = folder / "full.part"
    part.mkdir(parents=True)
    np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (count, 3, *SIZE))
    samples = tuple(Sample(Path("-"), i // 7 + 1, i % 6 + 1) for i in range(count))
    sets = [("full", Path("-"), samples)]
    packing._finish(folder / "full", part, sets, np.zeros(count, np.int64), [], (count, 3, *SIZE))


def opening(folder: Path, rounds: int = 20, count: int = FULL) -> Iterator[Row]:
    """A pack of the paper's size."""
    unread(folder, count)

    def by_numpy() -> None:
        np.load(folder / "full/images.npy", mmap_mode="r")
        np.load(folder / "full/labels.npy")

    ours, rival = common.in_turns(lambda: packing.open_pack(folder / "full"), by_numpy, rounds)
    yield Row(f"opening a pack of {count:,} images", 1000 * ours, "ms", 1000 * rival,
              "numpy.load without a check", "< 20 ms")


def rows(rounds: int, folder: Path | None = None) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="bnta-packed-", dir=folder) as name:
        os.environ["BNTA_CACHE"] = str(Path(name) / "cache")
        yield from decoding(Path(name), rounds)
        yield from opening(Path(name))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, in turns")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder); "
                        "/dev/shm leaves the disk out")
    chosen = parser.parse_args()
    common.run(Path(__file__).stem, rows(chosen.rounds, chosen.folder), chosen.csv)


if __name__ == "__main__":
    main()
