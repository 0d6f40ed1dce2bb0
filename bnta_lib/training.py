"""Training on the labelled sources: Eq. (9) and (10).

``python -m bnta_lib.training`` trains the models of a profile and stores their weights. A stop
loses at most one epoch: the same command goes on from the last checkpoint, to the same weights.
Launched by ``accelerate launch --multi_gpu`` it trains the same models in several processes
(docs/training_on_more.md).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shlex
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from bnta_lib.data.sets import ReIDSet
from bnta_lib.files import atomic
from bnta_lib.losses import identity_loss, matching_train_loss, positioning_loss, triplet_loss
from bnta_lib.model import BNTANet, load_imagenet
from bnta_lib.processes import Processes
from bnta_lib.suite.store import digest_of
from bnta_lib.settings import (
    AT_SIZE, PROFILES, Settings, cache_dir, data_folder, device_of, settings as load_settings,
)
from bnta_lib.weights import (
    MODELS, SHAPELESS, WEAKER, OtherTraining, load_model, model_settings, read_meta, save_model,
    weights_path,
)


class OutOfTime(Exception):
    """The minutes that training was given are over; its checkpoint is saved."""


def train(
    sources: ReIDSet,
    settings: Settings,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    imagenet: str | Path | None = None,
    minutes: float | None = None,
    compile: bool | str = False,
) -> tuple[BNTANet, pd.DataFrame]:
    """Train from nothing, or on from ``checkpoint``; returns the model and a row an epoch.

    ``sources``: uint8 images (N, 3, h, w) with pids 1..M. The rows hold epoch, lr, the mean
    losses, accuracy of G on the (augmented) training images and seconds. On a GPU (``device``,
    default: one if there is one) the forward pass is bf16 autocast, and the images stay resident
    where they fit (:func:`fits_on_device`); else each batch is gathered ahead of its step. With ``compile``
    (True, or the name of a backend of torch.compile) it is compiled, which moves the last digits.
    Raises ValueError for no image, pids that are not 1..M, or a checkpoint of other settings or
    data; OutOfTime after an epoch, once it is saved, that took longer than what it left of
    ``minutes`` (counted from the call).

    Of several processes that a launcher started each takes its rows of every batch, drawn and
    augmented as one process would; gradients, losses and accuracy are those of the mean over the
    batch. Three things are local to a process's rows: the triplets of L_tri, batch statistics
    (unless ``settings.sync_bn``, on GPUs), and so the running statistics, of which the main
    process's go to the others, into checkpoints and into the result. That process alone writes and
    reads the checkpoint, which any number of processes can go on from: to the same weights with
    the same number, and with another to those of other batch statistics.
    Raises ValueError where a process has one image of a batch, or ``sync_bn`` no GPU.
    """
    begin = time.perf_counter()
    if len(sources) == 0:
        raise ValueError(f"nothing to train on: {sources.name} is empty")
    people = int(sources.pids.max())
    if len(sources.pids.unique()) != people or int(sources.pids.min()) != 1:
        raise ValueError("training pids must be 1..M without gaps")
    if minutes is not None and checkpoint is None:
        raise ValueError("training with a limit of minutes needs a checkpoint to go on from")
    processes, key = Processes(device), training_key(sources, settings)
    device, group = processes.device, max(1, settings.instances)
    _check_processes(processes, sources, settings, key)
    torch.manual_seed(settings.seed)
    model = BNTANet(people, settings)
    if settings.pretrained:
        processes.in_turn(lambda: load_imagenet(model, imagenet))
    model.to(device)
    synchronised = settings.sync_bn and processes.count > 1
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=(0.9, 0.999))
    random = torch.Generator().manual_seed(settings.seed)
    history: list[dict] = []
    if checkpoint is not None and (state := processes.by_main(lambda: _read(checkpoint, key))):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        random.set_state(state["random"])
        history = state["history"]

    objective = Objective(model, settings)
    if compile:
        objective.compile(backend="inductor" if compile is True else compile)
    left_out = not (settings.loss_id and settings.lambda1 and settings.lambda2)  # a head has no gradient
    objective = processes.averaging(objective, some_unused=left_out)
    images, labels = sources.images, (sources.pids - 1).to(device)
    if fits_on_device(images, device):
        images = images.to(device)
    bar = tqdm(
        total=settings.epochs * -(-len(images) // settings.batch), disable=not (progress and processes.main),
        initial=len(history) * -(-len(images) // settings.batch), unit="batch", mininterval=1,
    )
    for epoch in range(len(history), settings.epochs):
        start = time.perf_counter()
        for optimised in optimiser.param_groups:
            optimised["lr"] = learning_rate(epoch, settings)
        model.train()
        sums: dict[str, float] = {}
        drawn = epoch_batches(sources.pids, settings, random)
        own = [index[processes.share(len(index), group)] for index in drawn]
        for whole, index, batch in zip(drawn, own, prefetch_batches(images, own, device)):
            batch = augment(batch, settings, random, processes.share(len(whole), group), len(whole))
            y = labels[index.to(device)]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                values = objective(batch, y)
            optimiser.zero_grad(set_to_none=True)
            # Gradients are averaged over processes, of which one may have an image more: 1 if none has.
            weight = processes.count * len(index) / len(whole)
            (values["total"] * weight).backward()
            optimiser.step()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * len(index)
            bar.update()
        size = sum(map(len, drawn))  # more than the images where PK repeats some
        row = {"epoch": epoch + 1, "lr": learning_rate(epoch, settings)}
        totals = processes.summed(torch.stack([value.float() for value in sums.values()]))
        row |= {name: total / size for name, total in zip(sums, totals.tolist())}
        row["seconds"] = processes.by_main(lambda: time.perf_counter() - start)
        if not torch.isfinite(torch.tensor(row["total"])):
            raise FloatingPointError(f"the training loss is {row['total']} in epoch {epoch + 1}: "
                                     "lower lr; the last checkpoint is unchanged")
        history.append(row)
        bar.set_postfix(epoch=epoch + 1, loss=f"{row['total']:.2f}", acc=f"{row['accuracy']:.2f}")
        last = epoch + 1 == settings.epochs
        stop = minutes is not None and not last and processes.by_main(
            lambda: time.perf_counter() - begin + row["seconds"] > 60 * minutes)
        if checkpoint is not None and (last or stop or (epoch + 1) % settings.save_every == 0):
            processes.by_main(lambda: _save(checkpoint, key, model, optimiser, random, history))
        if stop:
            bar.close()
            raise OutOfTime(f"another epoch does not fit after epoch {epoch + 1} of {settings.epochs}, "
                            "which is saved")
    bar.close()
    processes.align(model)
    if synchronised:
        model = _unsynchronised(model, settings)
    return model.cpu().eval(), pd.DataFrame(history)


def _check_processes(processes: Processes, sources: ReIDSet, settings: Settings, key: str) -> None:
    """Whether the processes can share this training. Raises ValueError."""
    if processes.count == 1:
        return
    odd = torch.tensor(float(processes.by_main(lambda: key) != key), device=processes.device)
    if processes.summed(odd):
        raise ValueError("the processes have different data or settings: give every machine the same "
                         "files and the same command")
    drawn = epoch_batches(sources.pids, settings, torch.Generator())
    rows = min(processes.smallest_share(len(index), max(1, settings.instances)) for index in drawn)
    if rows < 2:
        raise ValueError(f"batches of {settings.batch} images of these {len(sources)} are too small for "
                         f"{processes.count} processes: one would have {rows} of a batch, and batch norm "
                         "cannot train on fewer than 2; raise batch in the settings, or launch fewer")
    if settings.sync_bn and processes.device.type != "cuda":
        raise ValueError("sync_bn=True needs GPUs, since torch synchronises batch norm nowhere else: set "
                         "sync_bn=False, with which each process normalises its own share")


def _unsynchronised(model: BNTANet, settings: Settings) -> BNTANet:
    """A model of the usual classes with the tensors of one whose batch norm is synchronised."""
    usual = BNTANet(model.identities, settings)
    usual.load_state_dict(model.state_dict())
    return usual


class Objective(nn.Module):
    """:func:`training_losses` as a module, whose forward pass gives the losses alone.

    What averages gradients and what compiles take it as one.
    """

    def __init__(self, model: BNTANet, settings: Settings):
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return training_losses(self.model, images, labels, self.settings)


def training_losses(
    model: BNTANet, images: Tensor, labels: Tensor, settings: Settings
) -> dict[str, Tensor]:
    """The terms of Eq. (9), the total, and G's accuracy, for one batch. Unused terms are 0."""
    out = model(images)
    smooth, zero = settings.label_smoothing, out.logits.new_zeros(())
    l_id = identity_loss(out.logits, labels, smooth) if settings.loss_id else zero
    l_pos = positioning_loss(out.positions) if settings.lambda1 else zero
    l_mat = matching_train_loss(out.local_logits, labels, smooth) if settings.lambda2 else zero
    total = settings.loss_id * l_id + settings.lambda1 * l_pos + settings.lambda2 * l_mat
    if settings.loss_tri:
        tri = triplet_loss(out.features.float(), labels, settings.triplet_margin)
        total = total + settings.loss_tri * tri
    accuracy = (out.logits.argmax(1) == labels).float().mean()
    return {"L_id": l_id, "L_pos": l_pos, "L_mat": l_mat, "total": total, "accuracy": accuracy}


def learning_rate(epoch: int, settings: Settings) -> float:
    """eta_t of an epoch counted from 0: a linear warm-up if any, then divided by 10 once."""
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / (settings.warmup_epochs + 1)
    return settings.lr * (0.1 if epoch >= settings.lr_decay_epoch else 1.0)


def epoch_batches(pids: Tensor, settings: Settings, random: torch.Generator) -> list[Tensor]:
    """Indices of an epoch's batches: plain, or ``instances`` images of each person (PK).

    Every image comes once (PK fills up a person's last group by repeating, and never cuts a
    group). Batches are as even as can be, so that none is left with a single image.
    """
    order = torch.randperm(len(pids), generator=random)
    if settings.instances > 1:
        k = settings.instances
        order = order[torch.argsort(pids[order], stable=True)]
        groups = []
        for own in order.split(torch.bincount(pids)[pids.unique()].tolist()):
            groups += own.repeat(k)[: -(-len(own) // k) * k].split(k)
        mixed = torch.stack(groups)[torch.randperm(len(groups), generator=random)]
        count = -(-len(groups) // max(1, settings.batch // k))
        return [batch.flatten() for batch in mixed.tensor_split(count)]
    count = min(-(-len(order) // settings.batch), len(order) // 2)
    return list(order.tensor_split(max(1, count)))


def fits_on_device(images: Tensor, device: torch.device) -> bool:
    """Whether images may stay on the device: always on a CPU, where nothing is copied; on a GPU if
    they take no more than half of its free memory, since training needs the rest."""
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


def prefetch_batches(
    images: Tensor, drawn: list[Tensor], device: torch.device, ahead: int | None = None
) -> Iterator[Tensor]:
    """The images (B, 3, h, w) of each batch of indices, on the device.

    Images that lie elsewhere (in memory, or mapped from a file) are gathered by a thread, ``ahead``
    batches (default: two; none of resident images) before they are asked for, and copied from
    pinned memory: the GPU does not wait.
    """
    def fetch(index: Tensor) -> Tensor:
        batch = images[index.to(images.device)]
        if batch.device.type != device.type:
            batch = batch.pin_memory().to(device, non_blocking=True)
        return batch

    if ahead is None:
        ahead = 0 if images.device.type == device.type else 2
    if not ahead:
        yield from map(fetch, drawn)
        return
    thread = ThreadPoolExecutor(1, "batches")
    try:
        waiting = deque(thread.submit(fetch, index) for index in drawn[:ahead])
        for number in range(len(drawn)):
            ready = waiting.popleft().result()
            if number + ahead < len(drawn):
                waiting.append(thread.submit(fetch, drawn[number + ahead]))
            yield ready
    finally:  # a training that is stopped does not gather the rest first
        thread.shutdown(cancel_futures=True)


def augment(
    images: Tensor, settings: Settings, random: torch.Generator, rows: slice = slice(None),
    size: int | None = None,
) -> Tensor:
    """DualNorm's: pad with black, crop at random, flip half; each image draws its own.

    ``images`` may be the ``rows`` alone of a batch of ``size``: they become what they would in it.
    """
    n, _, height, width = images.shape
    size = n if size is None else size
    pad = round(settings.pad * height / 256)
    top, left = torch.randint(0, 2 * pad + 1, (2, size, 1), generator=random)[:, rows]
    flip = (torch.rand(size, 1, generator=random) < 0.5)[rows]
    down = top + torch.arange(height)
    across = torch.where(flip, torch.arange(width - 1, -1, -1), torch.arange(width)) + left
    padded = F.pad(images, (pad, pad, pad, pad))
    down, across = down.to(images.device), across.to(images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    # Indexing across the channels gives (n, height, width, 3): channels-last as it comes.
    return padded[which, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


# Modules that decide what a training gives, beside data and settings.
_DECIDING = ("losses", "model", "training")

# Settings younger than the first weights: at their defaults they are left out of the key.
_YOUNGER = {"people_share": 1.0, "sync_bn": False}


def training_key(sources: ReIDSet, settings: Settings) -> str:
    """Digest of all that decides the weights: the data, and every setting of the training."""
    return _key(sources.digest, settings)


def _imagenet() -> str:
    """Eight digits of the SHA-256 of what E starts from: torchvision's file, or that of $BNTA_IMAGENET."""
    own = os.environ.get("BNTA_IMAGENET")
    if not own or not Path(own).is_file():  # torchvision names its file after these digits
        return "0676ba61"
    with open(own, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _key(data: str, settings: Settings, imagenet: str | None = None) -> str:
    later = ("K", "margin", "lambda3", "matching_reduction", "normalise_features", "splits",
             "heldout", "save_every", "other_height",
             "viper_probe", "ilids_images")  # adaption, evaluation, and when to save
    chosen = {k: v for k, v in asdict(settings).items()
              if not k.startswith("tta_") and k not in later and v != _YOUNGER.get(k)}
    if settings.pretrained:
        chosen["imagenet"] = imagenet or _imagenet()
    text = json.dumps([data, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path, key, model, optimiser, random, history) -> None:
    state = {"key": key, "code": digest_of(_DECIDING), "model": model.state_dict(), "optimiser": optimiser.state_dict(),
             "random": random.get_state(), "history": history}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)  # into an open file: its own writer hides a full disk


def _read(path, key) -> dict | None:
    """The state in a checkpoint; None where there is none."""
    if not Path(path).is_file():
        return None
    try:
        with zipfile.ZipFile(path) as parts:  # torch writes checksums, and looks at none
            if (broken := parts.testzip()) is not None:
                raise ValueError(f"damaged in {broken}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): delete it to start "
                         "again") from error
    if not isinstance(state, dict) or state.get("key") != key:
        raise ValueError(f"{path} is a checkpoint of other data or settings: delete it, or name "
                         "another file")
    if state.get("code", own := digest_of(_DECIDING)) != own:
        warnings.warn(f"{path} was begun by another version of the library's training, and goes on by this one: "
                      "delete it to train by one alone", stacklevel=3)
    return state


def trained_model(
    settings: Settings, name: str = "bnta", progress: bool = True, retrain: bool = False,
    data: str | Path = "embedded", minutes: float | None = None, compile: bool = False,
) -> BNTANet:  # fmt: skip
    """A training's model: from its weights file; the smoke profile trains where there is none.

    With ``data`` naming published sets (see :mod:`.data`) it is the model trained on those of them
    that are sources; else, on the embedded ones: also for a user's own folder, which is a target.
    With ``retrain`` it is trained in any profile (resumable) and stored; ``minutes``, from now on,
    and ``compile`` are :func:`train`'s. It is on the device that :func:`.settings.device_of` gives the profile.
    Raises FileNotFoundError where the weights are absent otherwise, ValueError where they were
    trained on other published sets than are there now or with other settings, and as
    :func:`.settings.device_of`.
    """
    from bnta_lib.data import load_sources, pictures_in_both, real_root

    begin, device = time.perf_counter(), device_of(settings.profile)
    root = real_root(data)
    path, chosen = weights_path(settings, name, root), model_settings(settings, name)
    if retrain or settings.profile == "smoke":
        processes = Processes(device)
        progress = progress and processes.main
        sources = processes.in_turn(
            lambda: load_sources(chosen, root or "embedded", progress=progress and root is not None))
        key = training_key(sources, chosen)
        code = digest_of(_DECIDING)

        def of_today(meta: dict) -> bool:
            return meta.get("key") == key and meta.get("code") == code

        # Smoke weights live in the cache: they are made, and made again when they are out of date.
        with suppress(FileNotFoundError, OtherTraining):
            if not retrain:
                loaded = processes.by_main(lambda: load_model(path, chosen, of_today)).to(device)
                if root is not None and processes.main:
                    _warn_of_targets(path, root, settings)
                return loaded
        checkpoint = checkpoint_path(sources, chosen, name)
        if minutes is not None:
            minutes -= (time.perf_counter() - begin) / 60
        model, history = train(sources, chosen, checkpoint, progress, device, minutes=minutes, compile=compile)
        meta = {"model": name, "profile": settings.profile, "data": sources.digest, "epochs": len(history),
                "sources": sources.name, "key": key, "code": code, "torch": torch.__version__,
                "seconds": float(history["seconds"].sum()),
                "history": history.round(5).to_csv(index=False),
                "pretrained": chosen.pretrained, **({"imagenet": _imagenet()} if chosen.pretrained else {}),
                **({"processes": processes.count} if processes.count > 1 else {}),
                **{name: getattr(chosen, name) for name in SHAPELESS}}

        if root is not None and (both := processes.by_main(lambda: pictures_in_both(chosen, root, sources))):
            meta["shared"] = both
            if processes.main:
                warnings.warn(f"{_of_both(both)} among those trained on: their scores are not those of an unseen "
                              "place", stacklevel=2)

        def store() -> BNTANet:
            # The record first: weights without one would never be trained again to get it.
            with atomic(path.with_suffix(".csv")) as temporary:
                history.round(5).to_csv(temporary, index=False)
            save_model(model, path, meta, compact=settings.profile not in AT_SIZE)
            checkpoint.unlink(missing_ok=True)
            return load_model(path, chosen, of_today)

        return processes.by_main(store).to(device)
    if root is not None:
        _check_mixture(path, root, settings)
        _warn_of_targets(path, root, settings)
    return load_model(path, chosen, partial(_is_of, chosen, name)).to(device)


def _is_of(settings: Settings, name: str, meta: dict) -> bool:
    """Whether metadata are of the training ``name`` with these settings, maybe for fewer epochs or from nothing."""
    epochs = meta.get("epochs", settings.epochs)
    if meta.get("model") != name or not isinstance(epochs, int):
        return False
    if 1 <= epochs < settings.epochs:
        settings = shortened(settings, epochs)
    if meta.get("pretrained") is False:
        settings = replace(settings, pretrained=False)
    return meta.get("key") == _key(str(meta.get("data")), settings, meta.get("imagenet"))


def _warn_of_targets(path: Path, root: Path, settings: Settings) -> None:
    """Of targets that came, or changed, after the training, which could not know them."""
    from bnta_lib.data import pictures_seen

    both = pictures_seen(settings, root)
    if both and both != read_meta(path).get("shared"):
        warnings.warn(f"{_of_both(both)} among those trained on: their scores are not those of an unseen place",
                      stacklevel=3)


def _check_mixture(path: Path, root: Path, settings: Settings) -> None:
    """Whether the weights are there and were trained on the sources that ``root`` holds.

    A folder of targets alone is taken as it is: the weights then come from elsewhere.
    """
    from bnta_lib.data import real_mixture

    command = f"python -m bnta_lib.training --profile {settings.profile} --data {shlex.quote(str(root))}"
    if not path.is_file():
        raise FileNotFoundError(f"no weights of the data sets in {root} at {path}: train them with "
                                f"`{command}` (make train DATA=...)")
    try:
        here = real_mixture(root).name
    except FileNotFoundError:
        return
    there = read_meta(path).get("sources", "")
    if there != here and not there.startswith(f"{here}, "):  # a share of its people is named after it
        raise ValueError(f"{path} was trained on {there}, and {root} now holds {here}: train again "
                         f"with `{command}`, or restore the sets")


def trained_on(settings: Settings, data: str | Path = "embedded", name: str = "bnta") -> str:
    """The published sets that a model was trained on, with their counts; "" for the embedded ones.

    Pictures of a target that are among them are named.
    Of both, which of the tables' trainings began without the profile's ImageNet weights, and which
    were for fewer epochs than it has. Raises as :func:`bnta_lib.weights.load_model`.
    """
    from bnta_lib.data import pictures_seen, real_root

    root = real_root(data)
    words = []
    if root is not None:
        meta = read_meta(weights_path(settings, name, root))
        seen = pictures_seen(settings, root)
        both = meta.get("shared") if seen is None else seen
        words = [meta.get("sources", ""), *([f"{_of_both(both)} among them"] if both else [])]
    short, scratch = {}, []
    for other in MODELS:
        if (path := weights_path(settings, other, root)).is_file():
            meta, full = read_meta(path), model_settings(settings, other)
            if meta.get("epochs", full.epochs) < full.epochs:
                short[other] = meta["epochs"]
            if full.pretrained and meta.get("pretrained") is False:
                scratch.append(other)
    if root is None and (short or scratch):
        words.append("the embedded sources")
    if scratch:
        words.append(f"from nothing, without ImageNet weights: {', '.join(scratch)}")
    if short:
        counts = ", ".join(f"{other} for {epochs}" for other, epochs in short.items())
        words.append(f"of {settings.epochs} epochs of the schedule: {counts}")
    return "; ".join(words)


def _of_both(both: dict[str, int]) -> str:
    counts = [f"{count} of {name}'s pictures" for name, count in both.items()]
    return f"{', '.join(counts)} {'is' if [*both.values()] == [1] else 'are'}"


def shortened(settings: Settings, epochs: int) -> Settings:
    """The same schedule in fewer epochs: the rate falls after the same share of them.

    Raises ValueError for less than one epoch, or more than there are.
    """
    if not 1 <= epochs <= settings.epochs:
        raise ValueError(f"the schedule has {settings.epochs} epochs: train for 1 to {settings.epochs}, not "
                         f"{epochs}")
    decay = max(1, round(epochs * settings.lr_decay_epoch / settings.epochs))
    return replace(settings, epochs=epochs, lr_decay_epoch=decay)


def checkpoint_path(sources: ReIDSet, settings: Settings, name: str) -> Path:
    """Where a training keeps its resumable state."""
    key = training_key(sources, settings)[:16]
    return cache_dir() / "checkpoints" / f"{settings.profile}-{name}-{key}.pt"


def training_history(
    settings: Settings, name: str = "bnta", data: str | Path = "embedded"
) -> pd.DataFrame:
    """The rows that :func:`train` recorded for the stored weights."""
    from bnta_lib.data import real_root

    weights = weights_path(settings, name, real_root(data))
    if weights.is_file() and (held := read_meta(weights).get("history")):
        return pd.read_csv(io.StringIO(held))  # the file beside it could be of another training
    path = weights.with_suffix(".csv")
    if not path.is_file():
        raise FileNotFoundError(f"no training record at {path}: train with "
                                "`python -m bnta_lib.training` (make train)")
    return pd.read_csv(path)


def is_trained(settings: Settings, name: str = "bnta", data: str | Path = "embedded") -> bool:
    """Whether the stored weights of a training are there, whole, and of these data and settings."""
    from bnta_lib.data import load_sources, real_root

    root = real_root(data)
    path, chosen = weights_path(settings, name, root), model_settings(settings, name)
    try:
        stored = read_meta(path).get("key")
    except (FileNotFoundError, ValueError):
        return False
    return stored == training_key(load_sources(chosen, root or "embedded"), chosen)


def main(arguments: list[str] | None = None) -> None:
    from bnta_lib.data import real_root

    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description="Train the models of a profile; resumable.")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: $BNTA_PROFILE, laptop")
    parser.add_argument("--model", nargs="+", choices=[*MODELS, *WEAKER], default=list(MODELS),
                        help="default: those of the tables")
    parser.add_argument("--data", default="embedded", help='"embedded" (default), "real" ($BNTA_DATA), '
                        "or a folder of published data sets")
    parser.add_argument("--minutes", type=float, help="stop, with exit code 3, where the next epoch would "
                        "end later; the same command goes on, and passes over models that are trained")
    parser.add_argument("--epochs", type=int, help="a shorter schedule; tables say for how many of the "
                        "profile's epochs a model was trained")
    parser.add_argument("--scratch", action="store_true", help="train from nothing where the profile starts from "
                        "ImageNet weights; tables say so")
    parser.add_argument("--compile", action="store_true", help="compile the forward pass (torch.compile)")
    chosen = parser.parse_args(arguments)
    if chosen.minutes is not None and not chosen.minutes > 0:
        parser.error(f"--minutes is more than 0; got {chosen.minutes:g}")
    try:
        current = load_settings(chosen.profile)
        if chosen.epochs is not None:
            current = shortened(current, chosen.epochs)
        if chosen.scratch:
            current = replace(current, pretrained=False)
        root = real_root(chosen.data)
        if root is None and chosen.data != "embedded":
            path = data_folder(chosen.data)
            if not path.is_dir():
                raise ValueError(f"--data: {path} is a file: name the folder that holds the data sets"
                                 if path.exists() else f"--data: no such folder: {path}")
            raise ValueError(f"{path} holds no published data set: notebook 03 trains on a folder of your "
                             "own crops")
        processes = Processes(device_of(current.profile))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))

    if current.pretrained:  # before anything is rendered; what is downloaded here is kept by torchvision
        try:
            processes.in_turn(lambda: load_imagenet(BNTANet(2, current)))
        except (OSError, ValueError, RuntimeError) as error:
            raise SystemExit("training starts from ImageNet weights: set $BNTA_IMAGENET to the path of torchvision's "
                             "resnet50 IMAGENET1K_V1 file, or train from nothing with --scratch (make full SCRATCH=1); "
                             f"here: {error.__cause__ or error}") from None

    def say(text: str) -> None:
        processes.by_main(lambda: print(text, flush=True))

    def left() -> float | None:
        return None if chosen.minutes is None else chosen.minutes - (time.perf_counter() - begin) / 60

    needed = 0.0  # minutes of the last epoch; none yet: every run trains one at least
    for name in chosen.model:
        start, path = time.perf_counter(), weights_path(current, name, root)
        try:
            if chosen.minutes is not None:
                if processes.by_main(lambda: is_trained(current, name, chosen.data)):
                    say(f"{name} is trained with these data and settings: delete {path} to train it again")
                    continue
                if processes.by_main(lambda: needed > 0 and left() < needed):
                    raise OutOfTime(f"an epoch of {name} does not fit")
            say(f"training {name}, profile {current.profile}")
            trained_model(current, name, retrain=True, data=chosen.data, minutes=left(),
                          compile=chosen.compile)
            say(f"wrote {path} in {(time.perf_counter() - start) / 60:.1f} min")
            if root is not None:
                say(f"trained on {processes.by_main(lambda: trained_on(current, chosen.data, name))}")
            if processes.main and chosen.minutes is not None:
                needed = float(training_history(current, name, chosen.data)["seconds"].iloc[-1]) / 60
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on from the last epoch") from None
        except OutOfTime as error:
            say(f"out of time: {error}; the same command goes on")
            processes.end()
            raise SystemExit(3) from None
        except (OSError, ValueError, FloatingPointError) as error:
            raise SystemExit(f"cannot go on: {error}") from None
    processes.end()


if __name__ == "__main__":
    main()
