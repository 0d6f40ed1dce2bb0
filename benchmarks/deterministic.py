"""What deterministic algorithms cost: adaption and training with
``torch.use_deterministic_algorithms(True)`` and without.

``python benchmarks/deterministic.py [--device cuda]``. Each side has a process of its own, since cuBLAS reads
its switch once; they work in turns. The note records whether a side's runs gave the same bits: on a CPU
both should, on a GPU the deterministic side.
"""

import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import adaption
import common
import torch
import training
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.settings import Settings, settings
from bnta_lib.training import train
from bnta_lib.weights import model_digest


def once(work: str, settings: Settings, n: int, k: int, steps: int, device: str) -> tuple[float, str]:
    """Seconds of one adaption to n images with k pairs, or of an epoch of so many steps; a digest of the
    weights it ends with."""
    if work == "adaption":
        model, images, results = adaption.network(settings, device), adaption.gallery(settings, n), []
        adapt(model, images[:8], settings, K=4)  # warms up
        took = common.seconds(lambda: results.append(adapt(model, images, settings, K=k)), device)
        return took, model_digest(results[0].model)
    data = training.noise(steps * settings.batch, settings)
    model, history = train(data, replace(settings, epochs=1), progress=False, device=device)
    return float(history["seconds"].iloc[-1]), model_digest(model)


def process(deterministic: bool) -> ProcessPoolExecutor:
    """A process with deterministic algorithms, or without."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8" if deterministic else ""
    executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    executor.submit(torch.use_deterministic_algorithms, deterministic).result()
    return executor


def measured(settings: Settings, n: int, k: int, steps: int, rounds: int, device: str) -> Iterator[Row]:
    """A row for adaption and one for training, of one network."""
    settings = replace(settings, pretrained=False)
    with process(True) as on, process(False) as off:
        for work, size in (("adaption", f"N={n}, K={k}"), ("training", f"{steps} steps of {settings.batch}")):
            arguments = (work, settings, n, k, steps, device)
            both = [(on.submit(once, *arguments).result(), off.submit(once, *arguments).result())
                    for _ in range(rounds + 1)][1:]  # the first warms up
            ours, rival = (statistics.median(took for took, _ in side) for side in zip(*both))
            bits = ["the same bits" if len({digest for _, digest in side}) == 1 else "other bits each time"
                    for side in zip(*both)]
            about = f"{settings.profile} network {settings.height}x{settings.width}, {size}, {device}"
            yield Row(f"deterministic {work} ({about})", ours, "s", rival, "without deterministic algorithms",
                      note=f"{rounds} runs each, in turns: {bits[0]} with it, {bits[1]} without")


def rows(device: str, quick: bool) -> Iterator[Row]:
    if quick:
        yield from measured(settings("smoke", batch=4), 16, 4, 2, 1, device)
    elif device == "cuda":
        yield from measured(settings("laptop"), 900, 128, 100, 3, device)
        yield from measured(settings("paper"), 900, 128, 100, 3, device)
    else:
        yield from measured(settings("laptop"), 900, 128, 10, 3, device)


if __name__ == "__main__":
    common.main(__doc__, rows, cuda=True)
