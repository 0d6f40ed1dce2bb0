"""Work that is killed at random moments, and continued: its results against those of work that was not.

``python tests/torture.py [--trials 12] [--seed 0] [--only training pack]`` (``make torture``) runs each kind
of work without a stop, then ``trials`` times with SIGKILL: one to three runs in the same folder are killed at
moments drawn evenly over the time that the work takes, then one more is left to end, with the very same bits.
Prints a row a kind; exits with 1 if one trial ended otherwise.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file
from tqdm.auto import tqdm

from bnta_lib import BNTANet, settings
from bnta_lib.data.__main__ import prepare
from bnta_lib.data.packed import pack as make_pack
from bnta_lib.data.published import Found
from bnta_lib.data.sets import Sample
from bnta_lib.rendered import benchmark
from bnta_lib.settings import ROOT, SOURCES
from bnta_lib.suite.runs import figures_dir, run_name, weights_path
from bnta_lib.suite.specs import Spec
from bnta_lib.suite.train import trained_model
from conftest import crop, lab_of, target_of_dots

PATIENCE = 600  # seconds after which the last run counts as stuck


# ---------------------------------------------------------------- the work: folder of its own -> digest


def training(folder: Path, shared: Path) -> str:
    """A few people of every source, a checkpoint after each epoch; the rendered images are shared."""
    sets = folder / "cache" / "sets"
    if not sets.exists():
        sets.parent.mkdir(parents=True)
        (shared / "sets").mkdir(exist_ok=True)
        sets.symlink_to(shared / "sets")
    people, images = dict.fromkeys(SOURCES, 4), dict.fromkeys(SOURCES, 8)
    small = settings("smoke", base_width=4, people=people, images=images)
    trained_model(small, progress=False)
    path = weights_path(small, "bnta")
    history = pd.read_csv(path.with_suffix(".csv")).drop(columns="seconds")
    return _sha(_tensors(path), history.to_csv().encode())


def sweep(folder: Path, shared: Path) -> str:
    """Fourteen measurements of a table, over two processes."""
    small = settings("rehearsal", height=96, width=48, base_width=4, local_dim=8, tta_batch=4, tta_seeds=2)
    torch.manual_seed(0)
    lab = lab_of(small, {"bnta": BNTANet(6, small).eval()}, {"dots": target_of_dots((96, 48))})
    os.environ["LOKY_MAX_CPU_COUNT"] = "2"
    rows = lab.measure([Spec("none", adapter="none"), Spec("all"), Spec("two", options={"K": 2}),
                        Spec("adabn", adapter="adabn")])
    rows = rows[rows["unit"] != "s"].drop(columns=["seconds", "machine"])  # what two runs do not share
    assert len(rows) == 4 * 14
    return _sha(rows.to_csv(index=False).encode())


def pack(folder: Path, shared: Path) -> str:
    """1,000 images decoded by two processes into one file."""
    crops = shared / "crops"
    if not crops.is_dir():
        making = shared / "crops.new"
        making.mkdir()
        for k in range(1_000):
            noise = np.random.default_rng(k).integers(0, 256, (40, 20, 3), np.uint8)
            Image.fromarray(noise).save(making / f"{k:04d}.bmp")
        making.rename(crops)
    samples = tuple(Sample(file, k // 7 + 1, 1) for k, file in enumerate(sorted(crops.iterdir())))
    made = make_pack(Found("crops", crops, samples), (128, 64), progress=False)
    return _sha(made.images.numpy().tobytes(), made.pids.numpy().tobytes())


def rendering(folder: Path, shared: Path) -> str:
    """2,048 people rendered by two processes into one file."""
    made = benchmark.source("CUHK-SYSU", 512, 2_048, (32, 16))
    return _sha(made.images.numpy().tobytes(), made.digest.encode())


def archive(folder: Path, shared: Path) -> str:
    """2,000 files unpacked."""
    packed_up = shared / "set.zip"
    if not packed_up.is_file():
        with zipfile.ZipFile(shared / "new.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for k in range(2_000):
                noise = np.random.default_rng(k).integers(0, 256, 40_000, np.uint8).tobytes()
                file.writestr(zipfile.ZipInfo(f"P{k % 5}/{k:04d}.png"), noise[:5_000])
        (shared / "new.zip").rename(packed_up)
    there = prepare(packed_up, folder / "sets")
    # What a killed run unpacked lies in hidden folders, which no reader of images enters.
    assert [path.name for path in (folder / "sets").iterdir() if not path.name.startswith(".")] == ["set"]
    return _sha(*(path.read_bytes() for path in sorted(there.rglob("*.png"))))


def batch(folder: Path, shared: Path) -> str:
    """Notebook 11 as a step of a batch: a folder of crops in, delta, ranking and record out."""
    crops = folder / "crops"
    crops.mkdir(exist_ok=True)
    for k in range(40):
        Image.fromarray(crop(k)).save(crops / f"{k}.png")
    out, record = folder / "out", folder / "record.ipynb"
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / "11_your_own_gallery.ipynb"),
               str(record), "-p", "images", str(crops), "-p", "probes", str(crops), "-p", "out", str(out),
               "-p", "profile", "smoke"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    finally:
        shutil.rmtree(figures_dir(run_name("smoke", crops)), ignore_errors=True)
    assert json.loads(record.read_text())["metadata"]["papermill"]["exception"] is None
    return _sha(_tensors(out / "delta.safetensors"), (out / "ranked.csv").read_bytes())


KINDS: dict[str, Callable[[Path, Path], str]] = {
    work.__name__: work for work in (training, sweep, pack, rendering, archive, batch)}


def _tensors(path: Path) -> bytes:
    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(load_file(path).items()))


def _sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


# ---------------------------------------------------------------- kills

# Processes are forked from one that has imported all that takes long (Adam imports _dynamo) and done nothing.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["bnta_lib.suite.lab", "torch._dynamo", "bnta_lib.data.__main__", __name__])


def _do(kind: str, folder: Path, shared: Path, pipe) -> None:
    cache = (shared if kind == "batch" else folder) / "cache"  # a batch shares the smoke weights
    os.environ |= {"BNTA_CACHE": str(cache), "BNTA_PROFILE": "smoke"}
    folder.mkdir(parents=True, exist_ok=True)
    pipe.send("ready")
    try:
        pipe.send((KINDS[kind](folder, shared), ""))
    except Exception:
        pipe.send(("", traceback.format_exc()))
    os._exit(0)  # or it waits minutes for joblib's idle processes


class Work:
    """A run of one kind of work in a process of its own."""

    def __init__(self, kind: str, folder: Path, shared: Path):
        self.pipe, there = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=_do, args=(kind, folder, shared, there))
        self.process.start()
        there.close()
        assert self.pipe.recv() == "ready"
        self.start = time.perf_counter()

    def killed(self, after: float) -> bool:
        """Kill it so many seconds after it began; False if it had ended by then."""
        ended = self.pipe.poll(after)
        if not ended:
            self.process.kill()
        self.process.join()
        return not ended

    def result(self) -> tuple[str, float, str]:
        """Its digest ("" if it failed), seconds, and what went wrong."""
        if not self.pipe.poll(PATIENCE):
            self.process.kill()
            return "", PATIENCE, "it does not end"
        digest, errors = self.pipe.recv()
        return digest, time.perf_counter() - self.start, errors


def torture(kind: str, trials: int, seed: int, place: Path, progress: bool = False) -> dict:
    """One kind of work: how often it was killed, and how often it ended otherwise than undisturbed."""
    rng, shared = random.Random(f"{kind} {seed}"), place / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    expected, _, errors = Work(kind, place / "first", shared).result()
    again, whole, _ = Work(kind, place / "undisturbed", shared).result()  # what is shared is made now
    assert expected and expected == again, f"{kind} by itself: {errors}"
    kills, faults = 0, []
    for number in tqdm(range(trials), desc=kind, unit="trial", disable=not progress):
        folder = place / f"trial {number}"
        for _ in range(rng.randint(1, 3)):
            kills += Work(kind, folder, shared).killed(rng.uniform(0, whole))
        digest, _, errors = Work(kind, folder, shared).result()
        if digest != expected:
            faults.append(f"trial {number}: {'other bits' if digest else errors.strip()[-600:]}")
        shutil.rmtree(folder)
    return {"kind": kind, "trials": trials, "kills": kills, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=12, help="of each kind of work")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    rows = []
    for kind in options.only:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            rows.append(torture(kind, options.trials, options.seed, Path(place), progress=True))
        row = rows[-1]
        print(f"{kind}: {row['trials']} trials, {row['kills']} kills, {len(row['faults'])} ended otherwise",
              *row["faults"], sep="\n  ", flush=True)
    print(f"\n{sum(row['kills'] for row in rows)} kills in {sum(row['trials'] for row in rows)} trials, "
          f"{sum(len(row['faults']) for row in rows)} ended otherwise")
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
