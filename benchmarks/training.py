"""Training, data included, against the bare model's step on a batch that lies ready.

``python benchmarks/training.py [--device cuda]``. Ours is an epoch of :func:`bnta_lib.training.train`: it
gathers each batch from the uint8 images, pads, crops, flips and normalises it, and adds up the losses that it
reports. The rival is its step alone (forward pass, losses, backward pass, Adam) on one random float batch,
normalised beforehand.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import common
import torch
from common import Row

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings, settings
from bnta_lib.training import Objective, train

PEOPLE = 1_000  # of G's and M's classifiers


def noise(images: int, settings: Settings) -> ReIDSet:
    """Images of noise; no time depends on what they show."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, *settings.size), dtype=torch.uint8, generator=random)
    pids = torch.arange(images) % min(PEOPLE, images) + 1
    return ReIDSet("noise", pixels, pids, torch.ones_like(pids))


def bare_step(people: int, settings: Settings, device: str, compiled: bool = False) -> Callable[[], None]:
    """The step on a batch that lies ready."""
    torch.manual_seed(0)
    model = BNTANet(people, settings).to(device, memory_format=torch.channels_last).train()
    model.forward_features = model.backbone.forward  # the batch is normalised
    objective = Objective(model, settings)
    if compiled:  # into one CUDA graph
        objective = torch.compile(objective, mode="reduce-overhead", fullgraph=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=device == "cuda" or None)
    batch = torch.randn(settings.batch, 3, *settings.size, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, people, (settings.batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = objective(batch, labels)["total"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def measured(settings: Settings, steps: int, rounds: int, device: str) -> Iterator[Row]:
    """The row of one network: both sides take ``steps`` steps, in turns."""
    settings = replace(settings, pretrained=False, epochs=1)
    data = noise(steps * settings.batch, settings)
    step = bare_step(int(data.pids.max()), settings, device)
    step()  # warms up

    def ours() -> float:
        _, history = train(data, settings, progress=False, device=device)
        return len(data) / float(history["seconds"].iloc[-1])

    def rival() -> float:
        return len(data) / common.seconds(lambda: [step() for _ in range(steps)], device)

    mine, bare = common.in_turns(ours, rival, rounds)
    size = f"{settings.height}x{settings.width}"
    about = f"{settings.profile} network, {size}, batch {settings.batch}, {device}"
    yield Row(f"training ({about})", mine, "images/s", bare, "bare step on a ready batch", ">= 0.9x",
              note=f"{rounds} x {steps} steps each, in turns")
    if device == "cuda":
        graph = bare_step(int(data.pids.max()), settings, device, compiled=True)
        graph()  # compiles
        took = min(common.seconds(lambda: [graph() for _ in range(steps)], device) for _ in range(rounds))
        yield Row(f"compiled step ({about})", len(data) / took, "images/s", bare, "bare step, not compiled")


def rows(device: str, quick: bool) -> Iterator[Row]:
    laptop, paper = settings("laptop"), settings("paper")
    if quick:
        yield from measured(settings("smoke", batch=4), 2, 1, device)
    elif device == "cuda":
        yield from measured(laptop, 200, 3, device)
        yield from measured(paper, 100, 3, device)
    else:
        yield from measured(laptop, 30, 3, device)
        # A batch of 64 takes half a minute here: smaller ones give as many images a second.
        yield from measured(replace(paper, batch=16), 3, 1, device)


if __name__ == "__main__":
    common.main(__doc__, rows, cuda=True)
