"""Peak memory of every step, beside what its inputs and outputs need: ``python benchmarks/memory.py``.

Each step runs in a process of its own. Ours is the most memory that the process held beyond what it held
after its imports, inputs and outputs included; the rival is the size of those alone. No goal is set.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import adaption
import common
import evaluation
import packed as packing
import pairing
import training
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.rendered import benchmark
from bnta_lib.data.packed import open_pack
from bnta_lib.evaluation import evaluate
from bnta_lib.model import embed
from bnta_lib.pairing import nearest_pairs
from bnta_lib.settings import Settings, settings
from bnta_lib.training import train


def model_mb(model) -> float:
    return common.megabytes(*model.state_dict().values())


# Each gives what its inputs and outputs take, in MB.


def render(own: Settings, n: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BNTA_CACHE"] = folder
        return common.megabytes(benchmark.source("Market-1501", -(-n // 8), n, own.size).images)


def embed_images(own: Settings, n: int) -> float:
    model, images = adaption.network(own, "cpu"), training.people(n, own).images
    return model_mb(model) + common.megabytes(images, *embed(model, images))


def pair(n: int, k: int) -> float:
    local = pairing.features(n)
    pairs = nearest_pairs(local, k)
    return common.megabytes(local, pairs.index, pairs.part, pairs.distance)


def adapt_images(own: Settings, n: int, k: int) -> float:
    model, images = adaption.network(own, "cpu"), training.people(n, own).images
    return model_mb(model) + model_mb(adapt(model, images, own, K=k).model) + common.megabytes(images)


def train_step(own: Settings) -> float:
    """One step: images, and of the model weights, gradients and Adam's two averages."""
    data = training.people(own.batch, own)
    model, _ = train(data, replace(own, epochs=1), progress=False, device="cpu")
    return common.megabytes(data.images) + model_mb(model) + 3 * common.megabytes(*model.parameters())


def score(size: evaluation.Size) -> float:
    data = evaluation.retrieval(size)
    scores = evaluate(*data)
    return common.megabytes(*data, scores.ap, scores.ap_trapezoid, scores.rank)


def open_full(n: int) -> float:
    """Labels: the images stay in the file."""
    with tempfile.TemporaryDirectory() as folder:
        packing.unread(Path(folder), n)
        pack = open_pack(Path(folder) / "full")
        return common.megabytes(pack.pids, pack.camids, pack.checks)


def step(name: str, function: Callable, *arguments, note: str = "") -> Row:
    """The row of one step."""
    needed, peak = common.in_fresh_process(function, *arguments)
    return Row(f"memory of a step: {name}", peak, "MB", needed, "its inputs and outputs", peak_mb=peak,
               note=note)


def rows() -> Iterator[Row]:
    laptop, paper = settings("laptop"), replace(settings("paper"), pretrained=False)
    yield step("render 2,048 images, 96x48", render, laptop, 2_048)
    yield step("render 512 images, 256x128", render, paper, 512)
    yield step("embed 900 images, laptop", embed_images, laptop, 900)
    yield step("embed 64 images, paper", embed_images, paper, 64)
    yield step("pair 5,000 images, K=128", pair, 5_000, 128)
    yield step("adapt to 900 images, K=128, laptop", adapt_images, laptop, 900, 128)
    yield step("adapt to 64 images, K=32, paper", adapt_images, paper, 64, 32)
    yield step("train, batch 64, laptop", train_step, laptop)
    yield step("train, batch 16, paper", train_step, replace(paper, batch=16),
               note="the profile's batch of 64 is not measured here")
    yield step("evaluate 3,368 x 15,913", score, evaluation.MARKET)
    yield step(f"open a pack of {packing.FULL:,} images", open_full, packing.FULL)


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    common.run(Path(__file__).stem, rows(), chosen.csv)


if __name__ == "__main__":
    main()
