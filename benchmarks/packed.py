"""How near packing comes to what the image library takes alone, and how fast a pack is opened.

``python benchmarks/packed.py [--csv benchmarks/results.csv]`` generates JPEGs, then in turns, in one
run, (a) opens, decodes and resizes them by Pillow in a plain loop, which writes and checks nothing, and
(b) packs them: flushed to the disk, with checksums and a journal. One row a goal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, parallel_config
from PIL import Image

from bnta_lib.data.real import packed as packing
from bnta_lib.data.real.records import Found, Sample
from bnta_lib.results import machine

SIZE = (256, 128)  # height and width of the paper's input
# Height and width of the files, how many of them, and how often each is read.
KINDS = {"crops of 128 x 64": (128, 64, 4_000, 4), "crops of 600 x 240": (600, 240, 1_000, 3)}
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
    start = time.perf_counter()
    if workers == 1:
        alone(files)
    else:
        with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=30):
            Parallel(workers, batch_size=1)(delayed(alone)(task) for task in tasks)
    return time.perf_counter() - start


def seconds_packed(found: Found, workers: int) -> float:
    start = time.perf_counter()
    pack = packing.packed(found, SIZE, workers=workers, progress=False)
    seconds = time.perf_counter() - start
    shutil.rmtree(pack.folder)
    return seconds


def decoding(folder: Path, rounds: int) -> list[dict]:
    rows = []
    for kind, (height, width, count, times) in KINDS.items():
        found = write_crops(folder / kind, height, width, count, times)
        cores = os.cpu_count() or 1
        for workers in dict.fromkeys((1, cores)):
            seconds_alone(found, workers), seconds_packed(found, workers)  # starts processes, fills caches
            pairs = [(seconds_alone(found, workers), seconds_packed(found, workers)) for _ in range(rounds)]
            rival, ours = (len(found) / statistics.median(side) for side in zip(*pairs))
            ratio = statistics.median(a / b for a, b in pairs)
            rows.append({"name": f"packing {kind}, {workers} process{'es' * (workers > 1)}, images a second",
                         "ours": round(ours, 1), "rival": round(rival, 1), "ratio": round(ratio, 3),
                         "goal": ">= 0.8", "met": ratio >= 0.8})
    return rows


def opening(folder: Path, rounds: int = 20) -> list[dict]:
    """A pack of the paper's size, whose pixels are a hole in the file: opening must not read them."""
    part = folder / "full.part"
    part.mkdir(parents=True)
    np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (FULL, 3, *SIZE))
    samples = tuple(Sample(Path("-"), i // 7 + 1, i % 6 + 1) for i in range(FULL))
    sets = [("full", Path("-"), samples)]
    packing._finish(folder / "full", part, sets, np.zeros(FULL, np.int64), [], (FULL, 3, *SIZE))

    def took(work) -> float:
        start = time.perf_counter()
        work()
        return 1_000 * (time.perf_counter() - start)

    def by_numpy() -> None:
        np.load(folder / "full/images.npy", mmap_mode="r")
        np.load(folder / "full/labels.npy")

    pairs = [(took(lambda: packing.open_pack(folder / "full")), took(by_numpy)) for _ in range(rounds)]
    ours, rival = map(statistics.median, zip(*pairs))
    return [{"name": f"opening a pack of {FULL:,} images, ms (rival: numpy.load without a check)",
             "ours": round(ours, 2), "rival": round(rival, 2), "ratio": round(ours / rival, 2),
             "goal": "< 20 ms", "met": ours < 20}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, in turns")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder); "
                        "/dev/shm leaves the disk out")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnta-packed-", dir=chosen.folder) as name:
        os.environ["BNTA_CACHE"] = str(Path(name) / "cache")
        rows = decoding(Path(name), chosen.rounds) + opening(Path(name))
    verdicts = ["met" if row["met"] else "missed" for row in rows]
    table = pd.DataFrame(rows).assign(met=verdicts, machine=machine())
    print(table.drop(columns="machine").to_string(index=False))
    print(machine())
    if chosen.csv:
        table.to_csv(chosen.csv, mode="a", index=False, header=not chosen.csv.is_file())


if __name__ == "__main__":
    main()
