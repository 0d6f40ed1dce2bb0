"""Training, data included, against the bare model's step on a batch that lies ready.

``python benchmarks/training.py [--device cuda] [--csv benchmarks/results.csv]``. Ours is an epoch of
:func:`bnta_lib.training.train` as it is: it gathers each batch from the uint8 images, pads, crops, flips
and normalises it, and adds up the losses that it reports. The rival is its step alone (forward pass,
losses, backward pass, Adam) on one random float batch, normalised beforehand.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common
import torch
from common import Row

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings, settings
from bnta_lib.training import train, training_losses

PEOPLE = 1_000  # of G's and M's classifiers


def people(images: int, own: Settings) -> ReIDSet:
    """Images of noise; no time depends on what they show."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, *own.size), dtype=torch.uint8, generator=random)
    pids = torch.arange(images) % min(PEOPLE, images) + 1
    return ReIDSet("noise", pixels, pids, torch.ones_like(pids), known_digest="noise")


def ours(data: ReIDSet, own: Settings, device: str) -> float:
    """Images a second of one epoch."""
    _, history = train(data, replace(own, epochs=1), progress=False, device=device)
    return len(data) / float(history["seconds"].iloc[-1])


class Bare:
    """The step on a batch that lies ready."""

    def __init__(self, identities: int, own: Settings, device: str):
        torch.manual_seed(0)
        self.own, self.device = own, device
        self.model = BNTANet(identities, own).to(device, memory_format=torch.channels_last).train()
        self.model.maps = lambda images: self.model.backbone(images)  # they are normalised
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=own.lr)
        batch = torch.randn(own.batch, 3, *own.size, device=device)
        self.batch = batch.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, identities, (own.batch,), device=device)

    def step(self) -> None:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = training_losses(self.model, self.batch, self.labels, self.own)["total"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def rate(self, steps: int) -> float:
        """Images a second."""
        took = common.seconds(lambda: [self.step() for _ in range(steps)], self.device)
        return steps * len(self.batch) / took


def measured(own: Settings, steps: int, rounds: int, device: str = "cpu") -> Iterator[Row]:
    """The row of one network: both sides take ``steps`` steps, in turns."""
    own = replace(own, pretrained=False)
    data = people(steps * own.batch, own)
    bare = Bare(int(data.pids.max()), own, device)
    bare.step()  # warms up; so does the first round of ours, in longer epochs
    pairs = [(ours(data, own, device), bare.rate(steps)) for _ in range(rounds)]
    mine, rival = map(statistics.median, zip(*pairs))
    about = f"{own.profile} network, {own.height}x{own.width}, batch {own.batch}, {device}"
    yield Row(f"training ({about})", mine, "images/s", rival, "bare step on a ready batch", ">= 0.9x",
              note=f"{rounds} x {steps} steps each, in turns")


def rows(device: str) -> Iterator[Row]:
    laptop, paper = settings("laptop"), settings("paper")
    if device == "cuda":
        yield from measured(laptop, 200, 3, device)
        yield from measured(paper, 100, 3, device)
    else:
        yield from measured(laptop, 30, 3, device)
        # A batch of 64 takes half a minute here: smaller ones, of as many images a second.
        yield from measured(replace(paper, batch=16), 3, 1, device)


def main() -> None:
    common.main_on_device(__doc__, Path(__file__).stem, rows)


if __name__ == "__main__":
    main()
