"""Switching a loaded model between deltas, against reloading it: ``python benchmarks/deltas.py``.

The rival of a switch is :func:`bnta_lib.weights.load_model` on the same weights file, and,
to be fair to it, the fastest way that torch and safetensors have: reading an uncompressed file
straight into the model at hand. Files are in the page cache. Random weights do: no number depends
on what is learnt.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common
import torch
from common import Row
from safetensors.torch import load_file

from bnta_lib.adaption import adapt
from bnta_lib.deltas import DeltaBank
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import Settings, settings
from bnta_lib.weights import load_model, save_model

GOAL = ">= 20x"


def measured(own: Settings, device: str, folder: Path, repeats: int) -> Iterator[Row]:
    """The rows of one network: 2,000 people, compact weights, two sites of 8 images each."""
    torch.manual_seed(0)
    weights, unpacked = folder / "weights.safetensors", folder / "plain.safetensors"
    save_model(BNTANet(2000, own), weights, {})
    model = load_model(weights, own).to(device)
    save_model(model, unpacked, {}, compact=False)
    bank = DeltaBank(model)
    for name in ("one", "other"):
        images = torch.randint(0, 256, (8, 3, *own.size), dtype=torch.uint8)
        bank.add(name, adapt(model, images, own).delta)
    bank.save(folder / "deltas")
    names = itertools.cycle(["one", "other"])

    def milliseconds(run, times: int) -> float:
        return 1000 * common.least(run, times, device)

    switch = milliseconds(lambda: bank.use(next(names)), 20 * repeats)
    assert all(torch.equal(model.state_dict()[k].cpu(), v) for k, v in bank[bank.current].tensors.items())
    bank.source()
    network = f"{own.profile} network, {len(bn_layers(model))} BN layers, {device}"
    yield Row(f"switch of a delta ({network})", switch, "ms",
              milliseconds(lambda: load_model(weights, own).to(device), repeats),
              "load_model of the weights file", GOAL)
    yield Row(f"switch of a delta, against filling the model ({network})", switch, "ms",
              milliseconds(lambda: model.load_state_dict(load_file(unpacked, device), strict=False), repeats),
              "load_state_dict of a plain file")
    yield Row(f"file of a site's delta ({network})", (folder / "deltas/one.safetensors").stat().st_size / 1e6,
              "MB", unpacked.stat().st_size / 1e6, "plain weights file")


def rows(device: str, repeats: int) -> Iterator[Row]:
    for profile in ("laptop", "paper"):
        with tempfile.TemporaryDirectory() as folder:
            yield from measured(settings(profile, pretrained=False), device, Path(folder), repeats)


def main() -> None:
    parser = common.parser(__doc__)
    common.add_device(parser)
    parser.add_argument("--repeats", type=int, default=10, help="of the rival; default 10")
    chosen = parser.parse_args()
    common.check_device(chosen.device)
    common.run(Path(__file__).stem, rows(chosen.device, max(1, chosen.repeats)), chosen.csv)


if __name__ == "__main__":
    main()
