"""Training on the labelled sources by Eq. (9) and (10), in one process or several."""

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from bnta_lib.files import atomic
from bnta_lib.losses import identity_loss, matching_train_loss, positioning_loss, triplet_loss
from bnta_lib.model import BNTANet, Outputs, batches, load_imagenet
from bnta_lib.settings import METHOD_VERSION, Settings
from bnta_lib.weights import differences, training_settings

if TYPE_CHECKING:
    from bnta_lib.data.sets import ReIDSet


class OutOfTime(Exception):
    """Another epoch does not fit into the minutes given; the checkpoint is saved."""


def train(
    sources: "ReIDSet", settings: Settings, checkpoint: str | Path | None = None, progress: bool = True,
    device: str | torch.device | None = None, minutes: float | None = None,
) -> tuple[BNTANet, pd.DataFrame]:
    """Train from nothing, or continue ``checkpoint``; return the model on the CPU and one row an epoch.

    ``sources`` holds uint8 images (N, 3, h, w) and pids 1..M. ``device`` defaults to a GPU if there is one,
    where training computes in bf16. A continued training gives the weights of an uninterrupted one. Several
    processes follow the mean gradient over each batch. Batch statistics are of a process's rows; the running
    statistics are those of the main process, which alone writes and reads files.

    Raises:
        ValueError: for pids that are not 1..M, too many processes, or a checkpoint of another training.
        FloatingPointError: if the loss is not finite; the last checkpoint, of finite losses, is kept.
        OutOfTime: after an epoch, which is saved, if the next does not fit into ``minutes`` from the call.
    """
    begin, people = time.perf_counter(), len(sources.pids.unique())
    if not people or sources.pids.unique().tolist() != list(range(1, people + 1)):
        raise ValueError(f"{sources.name}: training pids must be 1..M without gaps")
    if minutes is not None and checkpoint is None:
        raise ValueError("training with a limit of minutes needs a checkpoint to continue from")
    key = training_key(sources, settings)
    processes = launched(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
                         some_unused=0 in (settings.loss_id, settings.lambda1, settings.lambda2))
    _check_processes(processes, key, len(sources.pids), settings)
    torch.manual_seed(settings.seed)
    model = BNTANet(people, settings)
    if settings.pretrained:
        load_imagenet(model)
    model.to(processes.device)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay}, {"params": others}]
    optimiser = torch.optim.AdamW(groups, settings.lr, betas=(0.9, 0.999), weight_decay=0.0,
                                  fused=model.scale.is_cuda or None)  # one kernel instead of hundreds
    random, history = torch.Generator().manual_seed(settings.seed), []
    path = Path(checkpoint) if checkpoint and processes.is_main_process else None
    if state := from_main(processes, path and read_checkpoint(path, key)):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        random.set_state(state["random"])
        history = state["history"]
    objective, images = processes.prepare_model(Objective(model, settings)), sources.images
    if processes.device.type == "cuda" and 2 * images.nbytes <= torch.cuda.mem_get_info(processes.device)[0]:
        images = images.to(processes.device)
    labels = (sources.pids - 1).to(processes.device)
    for epoch in range(len(history), settings.epochs):
        history.append(train_epoch(objective, optimiser, images, labels, settings, epoch, random, processes,
                                   progress))
        if path:
            write_checkpoint(path, key=key, model=model.state_dict(), optimiser=optimiser.state_dict(),
                             random=random.get_state(), history=history)
        seconds = time.perf_counter() - begin + history[-1]["seconds"]
        # The main process decides, since clocks differ.
        late = minutes is not None and from_main(processes, seconds > 60 * minutes)
        if late and epoch + 1 < settings.epochs:
            raise OutOfTime(f"another epoch does not fit after epoch {epoch + 1} of {settings.epochs}")
    model.cpu().load_state_dict(from_main(processes, model.state_dict()))
    return model.eval(), pd.DataFrame(history)


def train_epoch(
    objective: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor,
    settings: Settings, epoch: int, random: torch.Generator, processes: Any, progress: bool = False,
) -> dict[str, float]:
    """Train one epoch, counted from 0, and return its row of :func:`train`.

    ``labels`` (N,), from 0, are on the device. No step waits for the device, and none moves data there but
    images that lie elsewhere.
    """
    start, device, n = time.perf_counter(), processes.device, 0
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(epoch, settings)
    objective.train()
    sums: dict[str, Tensor] = {}
    drawn = [torch.cat([index[None], draw(len(index), settings, random)])
             for index in epoch_batches(len(labels), settings.batch, random, device)]
    sizes, numbers = [batch.shape[1] for batch in drawn], torch.cat(drawn, 1)
    moved = numbers[0].to(images.device).split(sizes), numbers.to(device).split(sizes, 1)
    bar = tqdm(zip(*moved), f"epoch {epoch + 1} of {settings.epochs}", len(sizes), mininterval=1,
               disable=not (progress and processes.is_main_process))
    part, parts = processes.process_index, processes.num_processes
    for images_of, batch in bar:
        whole = len(images_of)
        rows = slice(whole * part // parts, whole * (part + 1) // parts)
        raw, (index, *draws) = images[images_of[rows]].to(device), batch[:, rows]
        # Gradients are averaged over processes, and one may hold an image more: 1 if all hold the same.
        weight = parts * len(raw) / whole
        losses = training_step(objective, optimiser, augment(raw, draws, settings), labels[index], weight)
        sums = {name: sums.get(name, 0.0) + value.detach() * len(raw) for name, value in losses.items()}
        n += whole
    totals = processes.reduce(torch.stack([value.float() for value in sums.values()]), "sum").tolist()
    row = {"epoch": epoch + 1, "lr": learning_rate(epoch, settings)}
    row |= {name: total / n for name, total in zip(sums, totals, strict=True)}
    bar.set_postfix(loss=f"{row['total']:.2f}", accuracy=f"{row['accuracy']:.2f}")
    bar.close()
    if not math.isfinite(row["total"]):
        raise FloatingPointError(
            f"the training loss is {row['total']} in epoch {epoch + 1}; the last checkpoint stays. Lower lr "
            f"(--lr {settings.lr / 5:g} --warmup-epochs {max(2, settings.warmup_epochs)})")
    return row | {"seconds": from_main(processes, time.perf_counter() - start)}


def training_step(objective: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor,
                  weight: float = 1.0) -> dict[str, Tensor]:
    """Take one step of Eq. (10), its gradient times ``weight``; return the terms of Eq. (9) before it."""
    with torch.autocast("cuda", torch.bfloat16) if images.is_cuda else nullcontext():
        losses = objective(images, labels)
    optimiser.zero_grad(set_to_none=True)
    (losses["total"] * weight).backward()
    optimiser.step()
    return losses


class Objective(nn.Module):
    """Eq. (9) of a model, as a module that can average its gradients over processes."""

    def __init__(self, model: BNTANet, settings: Settings):
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of Eq. (9), their total, and G's accuracy, for one batch. Unused terms are 0."""
        # In bf16 the softmax of thousands of people would lose the gradients of the wrong ones.
        out, settings = self.model(images), self.settings
        if images.is_cuda:
            out = Outputs(*(x.float() for x in out))
        smooth, zero = settings.label_smoothing, out.logits.new_zeros(())
        l_id = identity_loss(out.logits, labels, smooth) if settings.loss_id else zero
        l_pos = positioning_loss(out.positions) if settings.lambda1 else zero
        l_mat = matching_train_loss(out.local_logits, labels, smooth) if settings.lambda2 else zero
        total = settings.loss_id * l_id + settings.lambda1 * l_pos + settings.lambda2 * l_mat
        if settings.loss_tri:
            l_tri = triplet_loss(out.features, labels, settings.triplet_margin)
            total = total + settings.loss_tri * l_tri
        accuracy = (out.logits.argmax(1) == labels).float().mean()
        return {"L_id": l_id, "L_pos": l_pos, "L_mat": l_mat, "total": total, "accuracy": accuracy}


def learning_rate(epoch: int, settings: Settings) -> float:
    """eta_t of an epoch, counted from 0: a linear warm-up if there is one, then divided by 10 once."""
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / (settings.warmup_epochs + 1)
    return settings.lr * (0.1 if epoch >= settings.lr_decay_epoch else 1.0)


def epoch_batches(n: int, size: int, random: torch.Generator, device: torch.device) -> Sequence[Tensor]:
    """Shuffled rows of ``n`` images: :func:`batches`, but on a GPU whole ones alone, all of one shape.

    There the rest is left out, another one each epoch, as DualNorm does."""
    if device.type != "cuda" or n < size:
        return batches(n, size, random)
    return torch.randperm(n, generator=random)[: n - n % size].split(size)


def draw(n: int, settings: Settings, random: torch.Generator) -> Tensor:
    """What :func:`augment` takes for a batch of ``n``: int64 (3, n), top, left, and whether to flip."""
    crops = torch.randint(0, 2 * _padding(settings) + 1, (2, n, 1), generator=random)[..., 0]
    flips = torch.rand(n, 1, generator=random)[:, 0] < 0.5
    return torch.cat([crops, flips[None].long()])


def augment(images: Tensor, draws: Sequence[Tensor], settings: Settings) -> Tensor:
    """Pad with black, crop at random and flip half, as DualNorm does. ``draws``: top, left and flip, (n,)."""
    n, _, height, width = images.shape
    pad, device = _padding(settings), images.device
    top, left, flip = (values[:, None] for values in draws)
    down, columns = top + torch.arange(height, device=device), torch.arange(width, device=device)
    across = torch.where(flip > 0, columns.flip(0), columns) + left
    padded, image = F.pad(images, (pad, pad, pad, pad)), torch.arange(n, device=device)[:, None, None]
    # Indexing across the channels gives (n, height, width, 3), which is channels-last.
    return padded[image, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def _padding(settings: Settings) -> int:
    return round(settings.pad * settings.height / 256)


def training_key(sources: "ReIDSet", settings: Settings) -> str:
    """Digest of what decides the weights: version, data, and settings that are not the paper's."""
    changed = differences({"settings": training_settings(settings)}, Settings())
    text = json.dumps([METHOD_VERSION, sources.digest, changed])
    return hashlib.sha256(text.encode()).hexdigest()


def write_checkpoint(path: str | Path, **state) -> None:
    """Write all that :func:`train` needs to continue, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)  # into an open file: its own writer hides a full disk


def read_checkpoint(path: str | Path, key: str) -> dict | None:
    """The state in a checkpoint, None without one. Raises ValueError if it is damaged or another's."""
    if not Path(path).is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): delete it to start anew") from error
    if not isinstance(state, dict) or state.get("key") != key:
        raise ValueError(f"{path} is a checkpoint of other data or settings: delete it, or name another file")
    return state


# ---- several processes


def launched(device: torch.device, some_unused: bool = False) -> Any:
    """The Accelerator of several processes, or a stand-in for one. Some parameters may get no gradient."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return SimpleNamespace(
            device=device, is_main_process=True, process_index=0, num_processes=1,
            prepare_model=lambda model: model, reduce=lambda tensor, reduction: tensor,
            main_process_first=nullcontext, end_training=lambda: None)
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    # The others may wait for hours while the main process renders or decodes the images.
    handlers = [InitProcessGroupKwargs(timeout=timedelta(hours=3)),
                DistributedDataParallelKwargs(find_unused_parameters=some_unused)]
    # Precision is training's own, whatever the launcher's configuration says.
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no", dynamo_backend="no",
                       kwargs_handlers=handlers)


def from_main(processes: Any, value: Any) -> Any:
    """The main process's ``value``, on every process."""
    if processes.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def _check_processes(processes: Any, key: str, images: int, settings: Settings) -> None:
    differs = torch.tensor([from_main(processes, key) != key], dtype=torch.int, device=processes.device)
    if processes.reduce(differs, "sum").any():
        raise ValueError("the processes have different data or settings: give every machine the same")
    smallest = min(map(len, batches(images, settings.batch, torch.Generator())))
    if (fewest := smallest // processes.num_processes) < 2:
        raise ValueError(f"batches of {settings.batch} images are too small for {processes.num_processes} "
                         f"processes: one has {fewest}, and batch norm needs 2; raise batch, or launch fewer")
