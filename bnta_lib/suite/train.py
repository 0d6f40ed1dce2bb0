"""The trained models of a profile: from their weights files, or trained and stored.

``python -m bnta_lib.suite.train`` trains them. A stop loses at most one epoch: the same command continues from
the last checkpoint, to the same weights. ``accelerate launch`` trains them in several processes
(docs/training_on_more.md).
"""

from __future__ import annotations

import argparse
import shlex
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.data import load_sources, pictures_seen, real_mixture, real_root
from bnta_lib.data.sets import ReIDSet
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, load_imagenet
from bnta_lib.settings import (
    AT_SIZE, METHOD_VERSION, PROFILES, Settings, cache_dir, data_folder, device_of, settings as load_settings,
)
from bnta_lib.training import OutOfTime, from_main, launched, train, training_key
from bnta_lib.weights import (
    MODELS, WEAKER, differences, load_model, model_settings, read_weights, save_model, weights_path,
)


def trained_model(
    settings: Settings, name: str = "bnta", progress: bool = True, retrain: bool = False,
    data: str | Path = "embedded", minutes: float | None = None, compile: bool = False,
) -> BNTANet:
    """A training's model, on the profile's device, from its weights file; the smoke profile trains if it has none.

    If ``data`` names published sets, the model is the one trained on those of them that are sources. With
    ``retrain`` it is trained in any profile and stored; ``minutes`` and ``compile`` are those of
    :func:`~bnta_lib.training.train`. Warns of pictures of a target among those trained on.

    Raises:
        FileNotFoundError: if the weights are absent.
        ValueError: if they were trained with other settings or on other published sets, or BNTA_DEVICE is wrong.
    """
    device, root = device_of(settings.profile), real_root(data)
    path, wanted = weights_path(settings, name, root), model_settings(settings, name)
    processes = launched(device) if retrain else None
    main = not processes or processes.is_main_process
    if retrain or (settings.profile == "smoke" and not is_trained(settings, name, data)):
        begin = time.perf_counter()
        sources = _sources(wanted, root, processes, progress)
        checkpoint = checkpoint_path(sources, wanted, name)
        if minutes is not None:
            minutes -= (time.perf_counter() - begin) / 60
        model, history = train(sources, wanted, checkpoint, progress, device, minutes, compile)
        meta = {"model": name, "data": sources.digest, "sources": sources.name, "torch": torch.__version__,
                "epochs": len(history), "seconds": float(history["seconds"].sum()),
                "processes": processes.num_processes if processes else 1}
        if main:
            # The record first: weights without one would never be trained again to get it.
            with atomic(path.with_suffix(".csv")) as temporary:
                history.round(5).to_csv(temporary, index=False)
            save_model(model, path, wanted, meta, compact=settings.profile not in AT_SIZE)
            checkpoint.unlink(missing_ok=True)
    elif root is not None:
        _check_sources(path, root, settings)
    if main and root is not None and (seen := _pictures_of_targets(settings, root)):
        warnings.warn(f"{seen} among those trained on: their scores are not those of an unseen place", stacklevel=2)
    return from_main(processes, lambda: _load(path, wanted, name)).to(device)


def _sources(settings: Settings, root: Path | None, processes, progress: bool) -> ReIDSet:
    with processes.main_process_first() if processes else nullcontext():
        progress = progress and root is not None and (not processes or processes.is_main_process)
        return load_sources(settings, root or "embedded", progress=progress)


def _load(path: Path, settings: Settings, name: str) -> BNTANet:
    """The model of ``path``. Raises ValueError for another training; fewer epochs or no ImageNet weights will do."""
    record, _ = read_weights(path)
    shorter = shortened(settings, min(record["settings"]["epochs"], settings.epochs))
    pretrained = settings.pretrained and record["settings"]["pretrained"]
    odd = differences(record, replace(shorter, pretrained=pretrained))
    if record["model"] != name or odd:
        raise ValueError(f"{path} holds the training {record['model']!r} with {', '.join(odd) or 'its settings'}, and "
                         f"{name!r} with other settings is wanted: choose those of the weights, or train again with "
                         "`python -m bnta_lib.suite.train` (make train)")
    return load_model(path, settings)


def _check_sources(path: Path, root: Path, settings: Settings) -> None:
    """Raise unless the weights were trained on the sources in ``root``; a folder of targets alone has none."""
    command = f"python -m bnta_lib.suite.train --profile {settings.profile} --data {shlex.quote(str(root))}"
    if not path.is_file():
        raise FileNotFoundError(f"no weights of the data sets in {root} at {path}: train them with `{command}`")
    try:
        present = real_mixture(root).name
    except FileNotFoundError:
        return
    trained = read_weights(path)[0]["sources"]
    if not trained.startswith(present):  # a share of its people is named after it
        raise ValueError(f"{path} was trained on {trained}, and {root} now holds {present}: train again with "
                         f"`{command}`, or restore the sets")


def _pictures_of_targets(settings: Settings, root: Path) -> str:
    """Pictures of the targets below ``root`` that are trained on, "2 of VIPeR's pictures are"; "" for none."""
    counts = pictures_seen(settings, root)
    verb = "is" if sum(counts.values()) == 1 else "are"
    return f"{', '.join(f'{n} of {name}{chr(39)}s pictures' for name, n in counts.items())} {verb}" if counts else ""


def trained_on(settings: Settings, data: str | Path = "embedded", name: str = "bnta") -> str:
    """The published sets that a model was trained on, and pictures of targets among them; "" if embedded.

    Of both, it names the tables' trainings that began without the profile's ImageNet weights, or had fewer epochs.
    """
    root, words, short, scratch = real_root(data), [], [], []
    if root is not None:
        words = [read_weights(weights_path(settings, name, root))[0]["sources"]]
        words += [f"{seen} among them"] if (seen := _pictures_of_targets(settings, root)) else []
    for other in MODELS:
        if (path := weights_path(settings, other, root)).is_file():
            trained = read_weights(path)[0]["settings"]
            short += [f"{other} for {trained['epochs']}"] if trained["epochs"] < settings.epochs else []
            scratch += [other] if settings.pretrained and not trained["pretrained"] else []
    if root is None and (short or scratch):
        words.append("the embedded sources")
    if scratch:
        words.append(f"from nothing, without ImageNet weights: {', '.join(scratch)}")
    if short:
        words.append(f"of {settings.epochs} epochs of the schedule: {', '.join(short)}")
    return "; ".join(words)


def training_history(settings: Settings, name: str = "bnta", data: str | Path = "embedded") -> pd.DataFrame:
    """The rows that :func:`~bnta_lib.training.train` recorded for the stored weights."""
    path = weights_path(settings, name, real_root(data)).with_suffix(".csv")
    if not path.is_file():
        raise FileNotFoundError(f"no training record at {path}: train with `python -m bnta_lib.suite.train` (make train)")
    return pd.read_csv(path)


def is_trained(settings: Settings, name: str = "bnta", data: str | Path = "embedded") -> bool:
    """Whether stored weights are of these data and settings, by this version of the method."""
    root = real_root(data)
    wanted = model_settings(settings, name)
    try:
        record, _ = read_weights(weights_path(settings, name, root))
    except (FileNotFoundError, ValueError):
        return False
    current = record.get("version", METHOD_VERSION) == METHOD_VERSION and not differences(record, wanted)
    return current and record["data"] == load_sources(wanted, root or "embedded").digest


def checkpoint_path(sources: ReIDSet, settings: Settings, name: str) -> Path:
    """The file of a training's resumable state."""
    return cache_dir() / "checkpoints" / f"{settings.profile}-{name}-{training_key(sources, settings)[:16]}.pt"


def shortened(settings: Settings, epochs: int) -> Settings:
    """The same schedule in fewer epochs: the rate falls after the same share of them. Raises ValueError for none,
    or for more than there are."""
    if not 1 <= epochs <= settings.epochs:
        raise ValueError(f"the schedule has {settings.epochs} epochs: train for 1 to {settings.epochs}, not {epochs}")
    decay = max(1, round(epochs * settings.lr_decay_epoch / settings.epochs))
    return replace(settings, epochs=epochs, lr_decay_epoch=decay)


def check_start(settings: Settings) -> None:
    """Raise SystemExit unless the ImageNet weights that a pretrained network starts from are there."""
    try:
        if settings.pretrained:
            load_imagenet(BNTANet(2, settings))
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit("training starts from ImageNet weights: set $BNTA_IMAGENET to the path of torchvision's resnet50 "
                         "IMAGENET1K_V1 file, or train from nothing with --scratch (make full SCRATCH=1); here: "
                         f"{error.__cause__ or error}") from None


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.train",
                                     description="Train the models of a profile; resumable.")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: $BNTA_PROFILE, laptop")
    parser.add_argument("--model", nargs="+", choices=[*MODELS, *WEAKER], default=list(MODELS),
                        help="default: those of the tables")
    parser.add_argument("--data", default="embedded",
                        help='"embedded" (default), "real" ($BNTA_DATA), or a folder of published data sets')
    parser.add_argument("--minutes", type=float, help="stop, with exit code 3, if the next epoch would end later; the "
                        "same command continues, and passes over models that are trained")
    parser.add_argument("--epochs", type=int, help="a shorter schedule; tables name it")
    parser.add_argument("--scratch", action="store_true", help="train without ImageNet weights; tables name it")
    parser.add_argument("--compile", action="store_true", help="compile the forward pass (torch.compile)")
    options = parser.parse_args(arguments)
    try:
        if options.minutes is not None and not options.minutes > 0:
            raise ValueError(f"--minutes is more than 0; got {options.minutes:g}")
        settings = load_settings(options.profile)
        settings = shortened(settings, settings.epochs if options.epochs is None else options.epochs)
        settings = replace(settings, pretrained=settings.pretrained and not options.scratch)
        root = real_root(options.data)
        if root is None and options.data != "embedded":
            raise ValueError(f"--data: {data_folder(options.data)} is no folder of published data sets")
        processes = launched(device_of(settings.profile))
    except ImportError as error:
        parser.error(f"several processes need Accelerate ({error}): pip install accelerate")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with processes.main_process_first() if processes else nullcontext():
        check_start(settings)
    say = print if not processes or processes.is_main_process else lambda *_, **__: None
    needed = 0.0  # minutes of the last epoch; none yet, since every run trains one at least
    try:
        for name in options.model:
            left = None if options.minutes is None else options.minutes - (time.perf_counter() - begin) / 60
            if left is not None and from_main(processes, lambda: is_trained(settings, name, options.data)):
                say(f"{name} is trained with these data and settings", flush=True)
                continue
            if left is not None and from_main(processes, lambda: 0 < needed and left < needed):
                raise OutOfTime(f"an epoch of {name} does not fit")
            say(f"training {name}, profile {settings.profile}", flush=True)
            trained_model(settings, name, retrain=True, data=options.data, minutes=left, compile=options.compile)
            say(f"wrote {weights_path(settings, name, root)}", flush=True)
            needed = from_main(processes, lambda: training_history(settings, name, options.data)["seconds"].iloc[-1] / 60)
    except OutOfTime as error:
        say(f"out of time: {error}; the same command continues")
        raise SystemExit(3) from None
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command continues from the last epoch") from None
    except (OSError, ValueError, FloatingPointError) as error:
        raise SystemExit(f"cannot continue: {error}") from None
    finally:
        if processes:
            processes.end_training()


if __name__ == "__main__":
    main()
