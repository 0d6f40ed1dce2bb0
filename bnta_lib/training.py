"""Training on the labelled sources: Eq. (9) and (10).

``python -m bnta_lib.training`` trains the models of a profile and stores their weights. A stop
loses at most one epoch: the same command goes on from the last checkpoint, to the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .data.sets import ReIDSet
from .files import atomic
from .losses import identity_loss, matching_train_loss, positioning_loss, triplet_loss
from .model import BNTANet, load_imagenet
from .settings import PROFILES, Settings, cache_dir, device_of, settings as load_settings
from .weights import (
    MODELS, SHAPELESS, WEAKER, load_model, model_settings, read_meta, save_model, weights_path,
)


def train(
    sources: ReIDSet,
    settings: Settings,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    imagenet: str | Path | None = None,
) -> tuple[BNTANet, pd.DataFrame]:
    """Train from nothing, or on from ``checkpoint``; returns the model and a row an epoch.

    ``sources``: uint8 images (N, 3, h, w) with pids 1..M. The rows hold epoch, lr, the mean
    losses, accuracy of G on the (augmented) training images and seconds. On a GPU (``device``,
    default: one if there is one) the forward pass is bf16 autocast, and the images stay resident
    where they fit (:func:`fits`); else each batch is gathered ahead of its step.
    Raises ValueError for no image, pids that are not 1..M, or a checkpoint of other settings or
    data.
    """
    if len(sources) == 0:
        raise ValueError(f"nothing to train on: {sources.name} is empty")
    people = int(sources.pids.max())
    if len(sources.pids.unique()) != people or int(sources.pids.min()) != 1:
        raise ValueError("training pids must be 1..M without gaps")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(settings.seed)
    model = BNTANet(people, settings)
    if settings.pretrained:
        load_imagenet(model, imagenet)
    model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=(0.9, 0.999))
    random = torch.Generator().manual_seed(settings.seed)
    history: list[dict] = []
    key = training_key(sources, settings)
    if checkpoint is not None and Path(checkpoint).is_file():
        history = _resume(checkpoint, key, model, optimiser, random)

    images, labels = sources.images, (sources.pids - 1).to(device)
    if fits(images, device):
        images = images.to(device)
    bar = tqdm(
        total=settings.epochs * -(-len(images) // settings.batch), disable=not progress,
        initial=len(history) * -(-len(images) // settings.batch), unit="batch", mininterval=1,
    )
    for epoch in range(len(history), settings.epochs):
        start = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch, settings)
        model.train()
        sums: dict[str, float] = {}
        drawn = epoch_batches(sources.pids, settings, random)
        for index, batch in zip(drawn, gathered(images, drawn, device)):
            batch = augment(batch, settings, random)
            y = labels[index.to(device)]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                values = training_losses(model, batch, y, settings)
            optimiser.zero_grad(set_to_none=True)
            values["total"].backward()
            optimiser.step()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * len(index)
            bar.update()
        size = sum(map(len, drawn))  # more than the images where PK repeats some
        row = {"epoch": epoch + 1, "lr": learning_rate(epoch, settings)}
        row |= {name: value.item() / size for name, value in sums.items()}
        row["seconds"] = time.perf_counter() - start
        if not torch.isfinite(torch.tensor(row["total"])):
            raise FloatingPointError(f"the training loss is {row['total']} in epoch {epoch + 1}: "
                                     "lower lr; the last checkpoint is unchanged")
        history.append(row)
        bar.set_postfix(epoch=epoch + 1, loss=f"{row['total']:.2f}", acc=f"{row['accuracy']:.2f}")
        last = epoch + 1 == settings.epochs
        if checkpoint is not None and (last or (epoch + 1) % settings.save_every == 0):
            _save(checkpoint, key, model, optimiser, random, history)
    bar.close()
    return model.cpu().eval(), pd.DataFrame(history)


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


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images may stay on the device: always on a CPU, where nothing is copied; on a GPU if
    they take no more than half of its free memory, since training needs the rest."""
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


def gathered(
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


def augment(images: Tensor, settings: Settings, random: torch.Generator) -> Tensor:
    """DualNorm's: pad with black, crop at random, flip half; each image draws its own."""
    n, _, height, width = images.shape
    pad = round(settings.pad * height / 256)
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=random)
    flip = torch.rand(n, 1, generator=random) < 0.5
    rows = top + torch.arange(height)
    columns = torch.where(flip, torch.arange(width - 1, -1, -1), torch.arange(width)) + left
    padded = F.pad(images, (pad, pad, pad, pad))
    rows, columns = rows.to(images.device), columns.to(images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    # Indexing across the channels gives (n, height, width, 3): channels-last as it comes.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


# Settings younger than the first weights: at their defaults they are left out of the key.
_YOUNGER = {"people_share": 1.0}


def training_key(sources: ReIDSet, settings: Settings) -> str:
    """Digest of all that decides the weights: the data, and every setting of the training."""
    later = ("K", "margin", "lambda3", "matching_reduction", "normalise_features", "splits",
             "heldout", "save_every", "other_height",
             "viper_probe", "ilids_images")  # adaption, evaluation, and when to save
    chosen = {k: v for k, v in asdict(settings).items()
              if not k.startswith("tta_") and k not in later and v != _YOUNGER.get(k)}
    text = json.dumps([sources.digest, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path, key, model, optimiser, random, history) -> None:
    state = {"key": key, "model": model.state_dict(), "optimiser": optimiser.state_dict(),
             "random": random.get_state(), "history": history}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)  # into an open file: its own writer hides a full disk


def _resume(path, key, model, optimiser, random) -> list[dict]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): delete it to start "
                         "again") from error
    if not isinstance(state, dict) or state.get("key") != key:
        raise ValueError(f"{path} is a checkpoint of other data or settings: delete it, or name "
                         "another file")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    random.set_state(state["random"])
    return state["history"]


def trained_model(
    settings: Settings, name: str = "bnta", progress: bool = True, retrain: bool = False,
    data: str | Path = "embedded",
) -> BNTANet:  # fmt: skip
    """A training's model: from its weights file; the smoke profile trains where there is none.

    With ``data`` naming published sets (see :mod:`.data`) it is the model trained on those of them
    that are sources; else, on the embedded ones: also for a user's own folder, which is a target.
    With ``retrain`` it is trained in any profile (resumable) and stored.
    It is on the device that :func:`.settings.device_of` gives the profile.
    Raises FileNotFoundError where the weights are absent otherwise, ValueError where they were
    trained on other published sets than are there now, and as :func:`.settings.device_of`.
    """
    from .data import load_sources, real_root

    device = device_of(settings.profile)
    root = real_root(data)
    path, chosen = weights_path(settings, name, root), model_settings(settings, name)
    if retrain or settings.profile == "smoke":
        sources = load_sources(chosen, root or "embedded", progress=progress and root is not None)
        key = training_key(sources, chosen)
        # Smoke weights live in the cache: they are made, and made again when they are out of date.
        if not retrain and path.is_file() and read_meta(path).get("key") == key:
            return load_model(path, chosen).to(device)
        checkpoint = checkpoint_path(sources, chosen, name)
        model, history = train(sources, chosen, checkpoint, progress)
        meta = {"model": name, "profile": settings.profile, "data": sources.digest,
                "sources": sources.name, "key": key, "torch": torch.__version__,
                "seconds": float(history["seconds"].sum()),
                **{name: getattr(chosen, name) for name in SHAPELESS}}
        # The record first: weights without one would never be trained again to get it.
        with atomic(path.with_suffix(".csv")) as temporary:
            history.round(5).to_csv(temporary, index=False)
        save_model(model, path, meta, compact=settings.profile != "paper")
        checkpoint.unlink(missing_ok=True)
    elif root is not None:
        _check_mixture(path, root, settings)
    return load_model(path, chosen).to(device)


def _check_mixture(path: Path, root: Path, settings: Settings) -> None:
    """Whether the weights are there and were trained on the sources that ``root`` holds.

    A folder of targets alone is taken as it is: the weights then come from elsewhere.
    """
    from .data import real_mixture

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

    Raises as :func:`bnta_lib.weights.load_model`.
    """
    from .data import real_root

    root = real_root(data)
    return "" if root is None else read_meta(weights_path(settings, name, root)).get("sources", "")


def checkpoint_path(sources: ReIDSet, settings: Settings, name: str) -> Path:
    """Where a training keeps its resumable state."""
    key = training_key(sources, settings)[:16]
    return cache_dir() / "checkpoints" / f"{settings.profile}-{name}-{key}.pt"


def training_history(
    settings: Settings, name: str = "bnta", data: str | Path = "embedded"
) -> pd.DataFrame:
    """The rows that :func:`train` recorded for the stored weights."""
    from .data import real_root

    path = weights_path(settings, name, real_root(data)).with_suffix(".csv")
    if not path.is_file():
        raise FileNotFoundError(f"no training record at {path}: train with "
                                "`python -m bnta_lib.training` (make train)")
    return pd.read_csv(path)


def main(arguments: list[str] | None = None) -> None:
    from .data import real_root

    parser = argparse.ArgumentParser(description="Train the models of a profile; resumable.")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: $BNTA_PROFILE, laptop")
    parser.add_argument("--model", nargs="+", choices=[*MODELS, *WEAKER], default=list(MODELS),
                        help="default: those of the tables")
    parser.add_argument("--data", default="embedded", help='"embedded" (default), "real" ($BNTA_DATA), '
                        "or a folder of published data sets")
    chosen = parser.parse_args(arguments)
    try:
        current = load_settings(chosen.profile)
        root = real_root(chosen.data)
        if root is None and chosen.data != "embedded":
            raise ValueError(f"{chosen.data} holds no published data set: notebook 03 trains on a "
                             "folder of your own crops")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for name in chosen.model:
        start = time.perf_counter()
        print(f"training {name}, profile {current.profile}", flush=True)
        try:
            trained_model(current, name, retrain=True, data=chosen.data)
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on from the last epoch") from None
        except (OSError, ValueError, FloatingPointError) as error:
            raise SystemExit(f"cannot go on: {error}") from None
        minutes = (time.perf_counter() - start) / 60
        print(f"wrote {weights_path(current, name, root)} in {minutes:.1f} min", flush=True)
        if root is not None:
            print(f"trained on {trained_on(current, chosen.data, name)}", flush=True)


if __name__ == "__main__":
    main()
