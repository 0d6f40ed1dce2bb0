"""Switching a loaded model between deltas, against reloading it: ``python benchmarks/deltas.py``.

A row a goal: what is measured, ours, the rival, their ratio, the goal, whether it is met, and the
machine. The rival of a switch is :func:`bnta_lib.weights.load_model` on the same weights file, and,
to be fair to it, the fastest way that torch and safetensors have: reading an uncompressed file
straight into the model at hand. Files are in the page cache. Random weights do: no number depends
on what is learnt.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from bnta_lib.adaption import adapt
from bnta_lib.deltas import DeltaBank
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.results import machine
from bnta_lib.settings import Settings, settings
from bnta_lib.weights import load_model, save_model

GOAL = 20  # a switch is so many times faster than reloading


def milliseconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Wall-clock time of a call: the least of some, which other work on the machine disturbs least."""
    times = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])


def measure(own: Settings, device: str, folder: Path, repeats: int) -> list[dict]:
    """The rows of one network: 2,000 people, compact weights, two sites of 8 images each."""
    torch.manual_seed(0)
    save_model(BNTANet(2000, own), folder / "weights.safetensors", {})
    model = load_model(folder / "weights.safetensors", own).to(device)
    save_model(model, folder / "plain.safetensors", {}, compact=False)
    bank = DeltaBank(model)
    for name in ("one", "other"):
        images = torch.randint(0, 256, (8, 3, *own.size), dtype=torch.uint8)
        bank.add(name, adapt(model, images, own).delta)
    bank.save(folder / "deltas")
    names = itertools.cycle(["one", "other"])
    switch = milliseconds(lambda: bank.use(next(names)), 20 * repeats, device)
    assert all(torch.equal(model.state_dict()[k].cpu(), v) for k, v in bank[bank.current].tensors.items())
    bank.source()
    weights, unpacked = folder / "weights.safetensors", folder / "plain.safetensors"
    reload = milliseconds(lambda: load_model(weights, own).to(device), repeats, device)
    fill = milliseconds(lambda: model.load_state_dict(load_file(unpacked, device), strict=False), repeats,
                        device)
    size = (folder / "deltas" / "one.safetensors").stat().st_size
    network = f"{own.profile}, {len(bn_layers(model))} BN layers, {device}"

    def row(name: str, ours: float, rival: str, theirs: float, unit: str, goal: float | None) -> dict:
        met = "" if goal is None else ("met" if theirs / ours >= goal else "missed")
        return {"name": f"{name} ({network})", "ours": f"{ours:.3g} {unit}",
                "rival": f"{rival}: {theirs:.4g} {unit}", "ratio": f"{theirs / ours:.1f}",
                "goal": "" if goal is None else f">= {goal:g}", "met": met, "machine": machine()}

    plain = unpacked.stat().st_size
    return [row("switch", switch, "load_model", reload, "ms", GOAL),
            row("switch", switch, "load_state_dict of a plain file", fill, "ms", None),
            row("file of a site", size / 1e6, "plain weights file", plain / 1e6, "MB", None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=10, help="of the rival; default 10")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here: leave --device out")
    rows = []
    for profile in ("laptop", "paper"):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(settings(profile, pretrained=False), options.device, Path(folder),
                            max(1, options.repeats))
    print(pd.DataFrame(rows).to_csv(index=False, sep="\t").strip())


if __name__ == "__main__":
    main()
