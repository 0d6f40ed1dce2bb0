"""What deterministic algorithms cost: adaption and training with ``BNTA_DETERMINISTIC=1`` and without.

``python benchmarks/deterministic.py [--device cuda] [--csv benchmarks/results.csv]``. Each side has a process
of its own, since cuBLAS reads its switch once; they work in turns. The note says whether a side's runs gave
the same bits: on a CPU both should, on a GPU the one that pays for it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import adaption
import common
import training
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.deltas import model_digest
from bnta_lib.settings import Settings, settings
from bnta_lib.training import train

WORK = ("adaption", "training")


def once(work: str, own: Settings, n: int, k: int, steps: int, device: str) -> tuple[float, str]:
    """Seconds of one adaption to n images with k pairs, or of an epoch of so many steps; a digest of the
    weights it ends with."""
    if work == "adaption":
        model, images = adaption.network(own, device), adaption.gallery(own, n)
        adapt(model, images[:8], own, K=4)  # warms up
        results = []
        took = common.seconds(lambda: results.append(adapt(model, images, own, K=k)), device)
        return took, model_digest(results[0].model)
    data = training.people(steps * own.batch, own)
    model, history = train(data, replace(own, epochs=1), progress=False, device=device)
    return float(history["seconds"].iloc[-1]), model_digest(model)


@contextmanager
def process(asked: str) -> Iterator[ProcessPoolExecutor]:
    """A process that begins with $BNTA_DETERMINISTIC as asked."""
    before = os.environ.get("BNTA_DETERMINISTIC")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as made:
        os.environ["BNTA_DETERMINISTIC"] = asked
        try:
            made.submit(os.getpid).result()
        finally:
            os.environ.pop("BNTA_DETERMINISTIC")
            if before is not None:
                os.environ["BNTA_DETERMINISTIC"] = before
        yield made


def measured(own: Settings, n: int, k: int, steps: int, rounds: int, device: str = "cpu") -> Iterator[Row]:
    """A row for adaption and one for training, of one network."""
    own = replace(own, pretrained=False)
    with process("1") as same, process("0") as usual:
        for work in WORK:
            arguments = (work, own, n, k, steps, device)
            both = [(same.submit(once, *arguments).result(), usual.submit(once, *arguments).result())
                    for _ in range(rounds + 1)][1:]  # the first warms up
            ours, rival = (statistics.median(took for took, _ in side) for side in zip(*both))
            bits = ["the same bits" if len({digest for _, digest in side}) == 1 else "other bits each time"
                    for side in zip(*both)]
            size = f"N={n}, K={k}" if work == "adaption" else f"{steps} steps of {own.batch}"
            yield Row(f"deterministic {work} ({own.profile} network {own.height}x{own.width}, {size}, {device})",
                      ours, "s", rival, "without BNTA_DETERMINISTIC=1",
                      note=f"{rounds} runs each, in turns: {bits[0]} with it, {bits[1]} without")


def rows(device: str) -> Iterator[Row]:
    if device == "cuda":
        yield from measured(settings("laptop"), 900, 128, 100, 3, device)
        yield from measured(settings("paper"), 900, 128, 100, 3, device)
    else:
        yield from measured(settings("laptop"), 900, 128, 10, 3, device)


def main() -> None:
    common.main_on_device(__doc__, Path(__file__).stem, rows)


if __name__ == "__main__":
    main()
