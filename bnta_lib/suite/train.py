"""The trained models of a profile: from their weights files, or trained and stored.

``python -m bnta_lib.suite.train`` trains those that are not. A stop loses at most one epoch: the same
command continues to the same weights. docs/training_on_more.md: in several processes.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.data import find_real, load_sources, mixture, real_root
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, load_imagenet
from bnta_lib.settings import METHOD_VERSION, MODELS, PROFILES, Settings, model_settings, trainings_of
from bnta_lib.suite.runs import checkpoint_path, device_of, exit_code, parse_run, weights_path
from bnta_lib.training import OutOfTime, from_main, launched, train
from bnta_lib.weights import differences, load_model, read_weights, save_model

SCHEDULE = ("epochs", "lr_decay_epoch", "lr", "warmup_epochs", "pretrained")
SCRATCH = {"pretrained": False, "lr": 0.001, "warmup_epochs": 2}  # 0.005 is for weights that are nearly right
# What changes the schedule of trainings; tables name it.
OPTIONS: dict[str, dict] = {
    "--epochs": dict(type=int, help="a shorter schedule"),
    "--lr": dict(type=float, help="the learning rate"),
    "--warmup-epochs": dict(type=int, help="epochs in which the learning rate grows to --lr"),
    "--scratch": dict(action="store_true", help="train without ImageNet weights, at rate {lr:g} after "
                      "{warmup_epochs} epochs of warm-up unless others are given".format(**SCRATCH))}


def trained_model(settings: Settings, name: str = "bnta", progress: bool = True,
                  data: str | Path = "embedded") -> BNTANet:
    """A training's model, on the profile's device, from its weights file; smoke trains what is out of date.

    If ``data`` names published sets, it is trained on their sources. Raises FileNotFoundError if the weights
    are absent, ValueError if they were trained with other settings.
    """
    path, wanted = weights_path(settings, name, real_root(data)), model_settings(settings, name)
    if settings.profile == "smoke" and not is_trained(settings, name, data):
        train_and_save(settings, name, progress, data)
    record, _ = read_weights(path)
    # Another schedule than the profile's will do unless one was asked for: see trained_on.
    own, trained = PROFILES[settings.profile], {**asdict(Settings()), **record["settings"]}
    accepted = {key: trained[key] for key in SCHEDULE if getattr(wanted, key) == getattr(own, key)}
    return load_model(path, replace(wanted, **accepted)).to(device_of(settings.profile))


def is_trained(settings: Settings, name: str = "bnta", data: str | Path = "embedded") -> bool:
    """Whether stored weights are of these data and settings, by this version of the method."""
    root = real_root(data)
    with suppress(FileNotFoundError, ValueError):  # absent or damaged weights, absent sources
        record, _ = read_weights(weights_path(settings, name, root))
        current = record.get("version", METHOD_VERSION) == METHOD_VERSION
        same = root is None or record["sources"] == mixture(find_real(root)).note
        return current and same and not differences(record, model_settings(settings, name))
    return False


def train_and_save(settings: Settings, name: str = "bnta", progress: bool = True,
                   data: str | Path = "embedded", minutes: float = math.inf) -> pd.DataFrame:
    """Train as :func:`~bnta_lib.training.train`, write weights and record, and return the record."""
    begin, device, root = time.perf_counter(), device_of(settings.profile), real_root(data)
    path, wanted = weights_path(settings, name, root), model_settings(settings, name)
    processes = launched(device)
    main = processes.is_main_process
    with processes.main_process_first():
        sources = load_sources(wanted, root or "embedded", progress=progress and main)
    checkpoint = checkpoint_path(sources, wanted, name)
    minutes -= (time.perf_counter() - begin) / 60
    model, history = train(sources, wanted, checkpoint, progress, device, minutes)
    if main:
        # The record first: weights without one would never be trained again to get it.
        with atomic(path.with_suffix(".csv")) as temporary:
            history.round(5).to_csv(temporary, index=False)
        meta = {"model": name, "data": sources.digest, "sources": sources.name, "torch": torch.__version__,
                "processes": processes.num_processes}
        # Trainings with other seeds come without FC_G, so that many fit into the repository.
        save_model(model, path, wanted, meta, classifier=name in MODELS)
        checkpoint.unlink(missing_ok=True)
    return history


def trained_on(settings: Settings, data: str | Path = "embedded") -> str:
    """The published sets that models were trained on, and settings that differ from ``settings``."""
    root = real_root(data)
    paths = {name: weights_path(settings, name, root) for name in MODELS}
    records = {name: read_weights(path)[0] for name, path in paths.items() if path.is_file()}
    notes = [f"{name} with {', '.join(odd)} instead of its profile's" for name, record in records.items()
             if (odd := differences(record, model_settings(settings, name)))]
    sources = read_weights(paths["bnta"])[0]["sources"] if root else "the embedded sources"
    return "; ".join([sources, *notes]) if root or notes else ""


def shortened(settings: Settings, epochs: int | None) -> Settings:
    """The same schedule in fewer epochs (None: in all). Raises ValueError for 0, or more than there are."""
    epochs = settings.epochs if epochs is None else epochs
    if not 1 <= epochs <= settings.epochs:
        raise ValueError(f"train for 1 to {settings.epochs} epochs, the whole schedule; got {epochs}")
    decay = max(1, round(epochs * settings.lr_decay_epoch / settings.epochs))
    return replace(settings, epochs=epochs, lr_decay_epoch=decay)


def scheduled(options: argparse.Namespace) -> Settings:
    """The profile's settings with the schedule that :data:`OPTIONS` give."""
    settings = shortened(PROFILES[options.profile], options.epochs)
    if options.scratch and settings.pretrained:
        settings = replace(settings, **SCRATCH)
    given = {"lr": options.lr, "warmup_epochs": options.warmup_epochs}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; return the exit code."""
    options = parse_run("train", "Train the models of a profile; resumable.", arguments, {
        "--model": dict(nargs="+", help="such as bnta, or bnta-1 with seed 1; default: all that tables need"),
        "--minutes": dict(type=float, default=math.inf,
                          help="stop, with exit code 3, if the next epoch would end later"),
        **OPTIONS})
    processes = launched(device_of(options.profile))
    try:  # the main process alone prints
        with nullcontext() if processes.is_main_process else redirect_stdout(None):
            return exit_code(lambda: _train_models(options, processes))
    finally:
        processes.end_training()


def _train_models(options: argparse.Namespace, processes) -> int:
    begin, needed = time.perf_counter(), -math.inf  # every run trains one epoch at least
    settings, code = scheduled(options), 0
    if options.data != "embedded" and real_root(options.data) is None:
        raise ValueError(f"--data: {options.data} is no folder of published data sets")
    if settings.pretrained:  # before images are rendered or decoded, which takes minutes
        load_imagenet(BNTANet(2, settings))
    models = [model for model in MODELS if options.data == "embedded" or model != "misaligned"]
    for name in options.model or trainings_of(settings, *models):
        path = weights_path(settings, name, real_root(options.data))
        if from_main(processes, is_trained(settings, name, options.data)):
            print(f"{name} is trained with these data and settings; delete {path} to train it anew")
            continue
        minutes = from_main(processes, options.minutes - (time.perf_counter() - begin) / 60)
        if minutes < needed:
            raise OutOfTime(f"an epoch of {name} does not fit")
        print(f"training {name}, profile {settings.profile}", flush=True)
        try:
            history = train_and_save(settings, name, True, options.data, minutes)
        except FloatingPointError as error:  # the others may do better
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
            continue
        needed = history["seconds"].iloc[-1] / 60
        print(f"wrote {path}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
