"""Train, measure, run the notebooks and gather ``full_size/`` at the paper's size, in parts if time is short.

What gives most comes first, and after each step what is there is gathered, whole at any moment. A machine
without the packages of notebooks does all but those (``--plain``), and ``--take`` continues on another one
from a gathered folder. The rehearsal runs the same code with a small network on few people, without a GPU.
"""

import argparse
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from bnta_lib.adaption import adapt
from bnta_lib.files import atomic, atomic_folder
from bnta_lib.model import BNTANet, load_imagenet
from bnta_lib.settings import (
    AT_SIZE,
    MODELS,
    PROFILES,
    ROOT,
    Settings,
    cache_dir,
    model_settings,
    trainings_of,
)
from bnta_lib.suite import train
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.runs import device_of, drivers, exit_code, figures_dir, weights_path
from bnta_lib.suite.specs import TABLE_2, TABLES
from bnta_lib.suite.store import export, recorded_path
from bnta_lib.training import OutOfTime

GATHERED, EXECUTED = ROOT / "full_size", ROOT / "executed"
PART = 16_000_000  # bytes: files of weights are cut, for whoever must carry them
GPU_MEMORY = 20 << 30  # bytes that training takes at the paper's size
# Which trainings come first, what is measured when they are there, and which notebooks run.
FIRST = ((("bnta",), ("bnta's rows",), ()),
         (("baseline",), ("table_2", "figure_4", "changes"), ("04", "05", "08", "09")))


def check(settings: Settings, plain: bool) -> None:
    """Print what a run needs and has. Raises ValueError or FileNotFoundError if something is missing."""
    device, folder = device_of(settings.profile), cache_dir()
    if settings.profile == "paper" and device.type == "cpu" and not os.environ.get("BNTA_DEVICE"):
        raise ValueError(f"the full size needs an NVIDIA GPU, and PyTorch finds none{drivers()}: look at the "
                         "driver, or run --profile rehearsal; with BNTA_DEVICE=cpu it takes weeks")
    if settings.pretrained:
        load_imagenet(BNTANet(2, settings))
    if not plain and not find_spec("papermill"):
        raise ValueError("papermill is not installed, which runs the notebooks: install it, or add --plain")
    folder.mkdir(parents=True, exist_ok=True)
    images, written = size_of(settings)
    written -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    pages = hasattr(os, "sysconf") and os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needs = [(f"disk at {folder}", max(0, written), shutil.disk_usage(folder).free),
             ("memory", images, pages or math.inf)]
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        least = GPU_MEMORY if settings.profile == "paper" else 0
        needs.append((f"{gpu.name}{drivers()}", least, gpu.total_memory))
    print("start from:", "ImageNet weights" if settings.pretrained else "nothing, no ImageNet weights")
    for what, needed, there in needs:
        print(sentence := f"{what}: {needed / 1e9:.1f} GB needed, {there / 1e9:.1f} GB there", flush=True)
        if needed > there:
            raise ValueError(f"not enough, {sentence}: free some, or use another (BNTA_CACHE, BNTA_DEVICE)")


def size_of(settings: Settings) -> tuple[int, int]:
    """Bytes of the largest training set, and of all that a run writes."""
    pixels = [3 * math.prod(model_settings(settings, name).size) for name in ("bnta", "other_stripes")]
    images, people = sum(settings.images.values()), sum(settings.people.values())
    others = 4 * settings.heldout * len(settings.images) + 4_000  # held-out people, and the three targets
    with torch.device("meta"):
        weights = 4 * sum(p.numel() for p in BNTANet(people, settings).parameters())
    # A checkpoint has Adam's moments too. Models take a byte a weight: here, gathered, and gathered anew.
    models = 3 * weights + 3 * len(MODELS) * weights // 4
    return images * max(pixels), (images + 2 * others) * sum(pixels) + models


def steps(settings: Settings, training: Sequence[str], plain: bool, end: float) -> Iterator[partial]:
    """What is done, one after the other."""
    early = {name for trainings, *_ in FIRST for name in trainings}
    late = [name for name in trainings_of(settings, *MODELS) if name not in early]
    rest = late, [*TABLES, "headroom"], None
    lab = Lab(settings.profile)
    for trainings, tables, notebooks in (*FIRST, rest):
        yield partial(trained, [f"--profile={settings.profile}", *training, "--model", *trainings], end)
        if trainings == ("bnta",):
            yield partial(save_deltas, lab)
        for table in tables:
            rows = [spec for spec in TABLE_2 if spec.training == "bnta"] if table == "bnta's rows" else table
            yield partial(lab.measure, rows)
        if not plain:
            yield partial(run_notebooks, settings.profile, notebooks)


def trained(command: Sequence[str], end: float) -> None:
    """Train; what is trained is passed over. Raises OutOfTime, or ValueError if a training failed."""
    if code := train.main([*command, f"--minutes={(end - time.monotonic()) / 60}"]):
        raise OutOfTime("while training") if code == 3 else ValueError("a training failed")


def save_deltas(lab: Lab) -> None:
    """Write the delta of each target's first split, as notebook 04 does."""
    for name, target in lab.targets.items():
        path = cache_dir() / "deltas" / f"{lab.run}-{name}-split0-seed0.safetensors"
        if not path.is_file():
            gallery = target.data.images[target.splits[0].gallery]
            adapt(lab.model(), gallery, lab.settings).delta.save(path)


def run_notebooks(profile: str, numbers: Sequence[str] | None) -> None:
    """Run these notebooks, None for all, but not those that ran with today's weights. Raises ValueError."""
    from bnta_lib.suite.reproduce import executed_notebooks, find_notebooks

    names = trainings_of(PROFILES[profile], *(MODELS if numbers is None else ("bnta", "baseline")))
    newest = max(weights_path(PROFILES[profile], name).stat().st_mtime for name in names)
    done = {path.name for path in executed_notebooks(profile) if path.stat().st_mtime > newest}
    remaining = [path.name[:2] for path in find_notebooks()
                 if path.name not in done and (numbers is None or path.name[:2] in numbers)]
    if numbers is None:  # the claims and the report follow the last one: if they alone are missing, it runs
        remaining = remaining or [find_notebooks()[-1].name[:2]]
    command = [sys.executable, "-m", "bnta_lib.suite.reproduce", "--profile", profile, "--only", *remaining]
    if remaining and subprocess.run(command).returncode:
        raise ValueError("a notebook failed")


def run_all(settings: Settings, training: Sequence[str], plain: bool, end: float) -> None:
    """Take all steps until ``end`` of time.monotonic(), and gather after each. Raises OutOfTime."""
    for step in steps(settings, training, plain, end):
        try:
            with until(math.inf if step.func is trained else end):  # training ends after an epoch
                step()
        finally:
            folder = gather(settings)
    print(f"gathered in {folder}")


@contextmanager
def until(end: float) -> Iterator[None]:
    """Raise OutOfTime inside the block at ``end`` of time.monotonic(); Windows has no such alarm."""
    def late(*_) -> None:
        raise OutOfTime("what was measured is kept")

    if alarm := getattr(signal, "setitimer", None):
        signal.signal(signal.SIGALRM, late)
        alarm(signal.ITIMER_REAL, min(max(end - time.monotonic(), 1e-6), 1e8))
    try:
        yield
    finally:
        if alarm:
            alarm(signal.ITIMER_REAL, 0)


def gather(settings: Settings) -> Path:
    """Copy what there is into a folder of the device, whole or not at all; return it.

    Files of weights are cut into parts: joined, they are the file again."""
    device, profile = device_of(settings.profile), settings.profile
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    weights = weights_path(settings, "bnta").parent
    folder = GATHERED / re.sub(r"\W+", "-", f"{name} {profile}")
    with atomic_folder(folder) as new:
        for kind, files in {"figures": figures_dir(profile).glob("*"), "trainings": weights.glob("*.csv"),
                            "notebooks": (EXECUTED / profile).glob("*"),
                            "deltas": (cache_dir() / "deltas").glob(f"{profile}-*")}.items():
            (new / kind).mkdir()
            for file in files:
                if file.is_file() and not file.name.startswith("."):
                    shutil.copy(file, new / kind)
        (new / "weights").mkdir()
        for file in weights.glob("*.safetensors"):
            content = file.read_bytes()
            for number, start in enumerate(range(0, len(content), PART)):
                (new / "weights" / f"{file.name}.{number:02}").write_bytes(content[start : start + PART])
        export(new / "rows.csv.gz", profile)
    return folder


def take(folder: Path, settings: Settings) -> None:
    """Put weights and rows of a gathered folder where this machine looks. Raises FileNotFoundError."""
    there = weights_path(settings, "bnta").parent
    names = {path.with_suffix("").name for path in (folder / "weights").iterdir()}
    files = {there / name: sorted((folder / "weights").glob(f"{name}.*")) for name in names}
    files |= {there / path.name: [path] for path in (folder / "trainings").iterdir()}
    for path, parts in {**files, recorded_path(settings.profile): [folder / "rows.csv.gz"]}.items():
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(part.read_bytes() for part in parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.full", description=__doc__)
    parser.add_argument("--profile", choices=AT_SIZE, default="paper", help="default: paper")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop then, with exit code 3")
    parser.add_argument("--plain", action="store_true", help="without notebooks, which are drawn elsewhere")
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="only take what was gathered there")
    for name, kind in train.OPTIONS.items():
        parser.add_argument(name, **kind)
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name.strip("-").replace("-", "_")) for name in train.OPTIONS}
    training = [name if value is True else f"{name}={value}" for name, value in given.items() if value]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    def work() -> None:
        settings = train.scheduled(options)
        if options.take:
            take(options.take, settings)
            return
        check(settings, options.plain)
        run_all(PROFILES[options.profile], training, options.plain, begin + 60 * options.minutes)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
