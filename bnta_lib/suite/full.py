"""The paper's network at the paper's size, by one command, in parts if time is short.

``python -m bnta_lib.suite.full`` (``make full``) trains the models of the tables, runs the notebooks, checks the
paper's claims, and gathers the results in ``full_size/<device>/``: figures and tables, executed notebooks, the
targets' deltas, measured rows, and ``about.md``. Baseline and full model are trained for ``--epochs``, the others
for ``--other-epochs``; tables name a schedule that is shorter than the profile's.

The same command continues what was stopped. With ``--minutes`` it stops by itself, with exit code 3.
``--profile rehearsal`` runs the same code with a small network on few people, without a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from bnta_lib.adaption import adapt
from bnta_lib.data import load_targets
from bnta_lib.settings import AT_SIZE, ROOT, Settings, cache_dir, device_of, figures_dir, settings as load_settings
from bnta_lib.suite import train
from bnta_lib.suite.report import EXECUTED, NOTEBOOKS, finished
from bnta_lib.suite.store import export, machine
from bnta_lib.training import OutOfTime
from bnta_lib.weights import MODELS, weights_path

FIRST = ("baseline", "bnta")  # trained for --epochs; the others for --other-epochs
GATHERED = {"figures", "notebooks", "deltas", "rows.csv.gz", "about.md"}
SHORTEST = 3.0  # minutes in which a notebook ends


def check(settings: Settings, folder: Path) -> None:
    """Raise ValueError for what would stop the run later: no GPU, a small disk, files of others in ``folder``."""
    if settings.profile == "paper" and device_of("paper").type == "cpu" and not os.environ.get("BNTA_DEVICE"):
        raise ValueError("the full size needs an NVIDIA GPU, and PyTorch finds none: look at the driver, or run "
                         "--profile rehearsal; BNTA_DEVICE=cpu insists (weeks)")
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    used = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    needed = 1.1 * 3 * settings.height * settings.width * sum(settings.images.values())
    if used + shutil.disk_usage(cache).free < needed:
        raise ValueError(f"rendered images take {needed / 1e9:.0f} GB, and {cache} has less: set BNTA_CACHE to a "
                         "folder on a larger disk")
    if any(path.is_file() for path in (folder, *folder.parents)) or (
            folder.is_dir() and {path.name for path in folder.iterdir()} - GATHERED):
        raise ValueError(f"{folder} holds what this command did not write: move it, or choose another --out")


def train_all(settings: Settings, epochs: int, others: int, left: Callable[[], float], scratch: bool) -> None:
    """Train the models of the tables, each resumable. Raises OutOfTime, and SystemExit if training fails."""
    for names, count in ((FIRST, epochs), ([name for name in MODELS if name not in FIRST], others)):
        if left() <= 0:
            raise OutOfTime(f"before {names[0]} was trained")
        try:
            train.main(["--profile", settings.profile, "--model", *names, "--epochs", str(count),
                        "--minutes", f"{min(left(), 1e6):g}", *["--scratch"] * scratch])
        except SystemExit as end:
            if end.code == 3:
                raise OutOfTime(f"while {', '.join(names)} were trained") from None
            raise


def run_notebooks(settings: Settings, left: Callable[[], float]) -> None:
    """Run the notebooks that are not finished with these weights, then claims and report. Raises OutOfTime."""
    out = EXECUTED / settings.profile
    trained = max(weights_path(settings, name).stat().st_mtime for name in MODELS)
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        executed = out / source.name
        if not finished(executed, source) or executed.stat().st_mtime < trained:
            _run(["reproduce", "--profile", settings.profile, "--only", source.stem[:2]], left, source.stem)
    for module in ("claims", "report"):
        _run([module, "--profile", settings.profile], left, module)


def _run(command: list[str], left: Callable[[], float], name: str) -> None:
    if left() < 1:
        raise OutOfTime(f"before {name}")
    limit = None if left() == float("inf") else 60 * left()
    try:  # the process is killed when it is late, and when this one is interrupted or ended
        code = subprocess.run([sys.executable, "-m", f"bnta_lib.suite.{command[0]}", *command[1:]], timeout=limit).returncode
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"while {name} ran") from None
    if code:
        raise SystemExit(code)


def gather(settings: Settings, folder: Path) -> None:
    """Copy the results into ``folder``, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        new = Path(partial) / folder.name
        shutil.copytree(figures_dir(settings.profile), new / "figures")
        shutil.copytree(EXECUTED / settings.profile, new / "notebooks")
        export(new / "rows.csv.gz", settings.profile)
        model, lines = train.trained_model(settings, progress=False), []
        for name, target in load_targets(settings, progress=False).items():
            images = target.data.images[target.splits[0].gallery]
            adapt(model, images, settings)  # a GPU's first run pays for what no later one does
            result = adapt(model, images, settings)
            result.delta.save(new / "deltas" / f"{name}.safetensors", f"{name}, split 0")
            lines.append(f"| {name} | {len(images)} | {len(result.pairs.index)} | {result.seconds:.3g} |")
        (new / "about.md").write_text(about(settings, lines), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(partial) / "old")
        new.rename(folder)


def about(settings: Settings, adaptions: list[str]) -> str:
    """The page on what was trained and adapted, on which machine and in what time."""
    trained, note = [], train.trained_on(settings)
    for name in MODELS:
        history = train.training_history(settings, name)
        trained.append(f"| {name} | {len(history)} of {settings.epochs} | {history['seconds'].sum() / 60:.1f} | "
                       f"{history['seconds'].median():.3g} |")
    return "\n".join([
        f"# {'Full size' if settings.profile == 'paper' else 'Rehearsal of the full size'}, {date.today()}", "",
        f"{sum(settings.images.values()):,} images of {sum(settings.people.values()):,} rendered people, "
        f"{settings.height} × {settings.width}, {32 * settings.base_width} channels. {machine()}. {note}", "",
        "| training | epochs | minutes | seconds an epoch |", "|---|---|---|---|", *trained, "",
        "Adaption to the gallery of split 0, features, pairing and steps together:", "",
        "| target | N | K | seconds |", "|---|---|---|---|", *adaptions, ""])


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.full", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=AT_SIZE, default="paper", help="default: paper")
    parser.add_argument("--epochs", type=int, help="of baseline and bnta (default: the profile's)")
    parser.add_argument("--other-epochs", type=int, help="of the other trainings (default: as --epochs)")
    parser.add_argument("--scratch", action="store_true", help="train without ImageNet weights; tables name it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many, with exit code 3")
    parser.add_argument("--out", type=Path, default=ROOT / "full_size", help="folder (default: full_size)")
    options = parser.parse_args(arguments)
    start, settings = time.monotonic(), load_settings(options.profile)
    epochs = settings.epochs if options.epochs is None else options.epochs
    others = epochs if options.other_epochs is None else options.other_epochs
    try:
        for count in (epochs, others):
            train.shortened(settings, count)
        device = device_of(settings.profile)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        suffix = "" if settings.profile == "paper" else f"-{settings.profile}"
        folder = options.out.expanduser().resolve() / (re.sub(r"\W+", "-", name).strip("-") + suffix)
        check(settings, folder)
        if not options.minutes > 0:
            raise ValueError(f"--minutes is more than 0; got {options.minutes:g}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    left = lambda: options.minutes - (time.monotonic() - start) / 60  # noqa: E731
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        train_all(settings, epochs, others, left, options.scratch)
        if options.minutes < SHORTEST:
            parser.error(f"everything is trained, and no notebook ends in {options.minutes:g} minutes: give --minutes "
                         f"{SHORTEST:g} or more")
        run_notebooks(settings, left)
        gather(settings, folder)
        print(f"gathered in {folder}")
    except OutOfTime as error:
        print(f"out of time {error}: the same command continues")
        return 3
    except (OSError, ValueError) as error:
        print(f"{error}\nThen the same command continues.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
