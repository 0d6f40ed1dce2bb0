"""The paper's network at the paper's size, by one command, in parts if time is short.

``python -m bnta_lib.suite.full`` (``make full``) trains the models of the tables, runs the notebooks, checks
the paper's claims, and gathers the results in ``full_size/<device>/``. The same command continues what was
stopped. ``--profile rehearsal`` runs the same code with a small network on few people, without a GPU.
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
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.files import atomic_folder
from bnta_lib.settings import AT_SIZE, MODELS, ROOT, Settings, device_of
from bnta_lib.settings import settings as load_settings
from bnta_lib.suite import train
from bnta_lib.suite.commands import exit_code, usage_errors
from bnta_lib.suite.report import EXECUTED, executed_notebooks, find_notebooks
from bnta_lib.suite.runs import figures_dir, weights_path
from bnta_lib.suite.store import export, machine
from bnta_lib.training import OutOfTime

GATHERED = ROOT / "full_size"
FIRST = ["baseline", "bnta"]  # trained for --epochs; the others for --other-epochs


def run_all(settings: Settings, options: argparse.Namespace, end: float) -> int:
    """Train, run the notebooks and gather until ``end`` (of the monotonic clock); return the exit code."""
    profile, rest = ["--profile", settings.profile], [name for name in MODELS if name not in FIRST]
    for names, epochs in ((FIRST, options.epochs), (rest, options.other_epochs or options.epochs)):
        minutes = (end - time.monotonic()) / 60
        shorter = ["--epochs", str(epochs)] if epochs else []
        if code := train.main([*profile, "--model", *names, f"--minutes={minutes:g}", *shorter,
                               *["--scratch"] * options.scratch]):
            return code
    trained = max(weights_path(settings, name).stat().st_mtime for name in MODELS)
    done = {path.stem for path in executed_notebooks(settings.profile) if path.stat().st_mtime > trained}
    remaining = [source.stem for source in find_notebooks() if source.stem not in done]
    # A whole run of the notebooks ends with the claims and the report.
    for command in [["reproduce", "--only", *remaining]] if remaining else [["claims"], ["report"]]:
        if code := run_command([*command, *profile], end):
            return code
    print(f"gathered in {gather(settings)}")
    return 0


def run_command(command: Sequence[str], end: float) -> int:
    """Run a command of the suite; it is killed at ``end``, and when this process ends. Raises OutOfTime."""
    try:
        return subprocess.run([sys.executable, "-m", f"bnta_lib.suite.{command[0]}", *command[1:]],
                              timeout=end - time.monotonic()).returncode
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"within {command[0]}") from None


def gather(settings: Settings) -> Path:
    """Copy the results into a folder of the device, whole or not at all; return it."""
    device = device_of(settings.profile)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    name += "" if settings.profile == "paper" else f" {settings.profile}"
    folder = GATHERED / re.sub(r"\W+", "-", name)
    with atomic_folder(folder) as new:
        shutil.copytree(figures_dir(settings.profile), new / "figures")
        shutil.copytree(EXECUTED / settings.profile, new / "notebooks")
        export(new / "rows.csv.gz", settings.profile)
        (new / "about.md").write_text(_about(settings), encoding="utf-8")
    return folder


def _about(settings: Settings) -> str:
    """A page on the machine and its time for each training; times of adaptions are among the rows."""
    trainings = []
    for name in MODELS:
        seconds = train.training_history(settings, name)["seconds"]
        trainings.append({"training": name, "epochs": f"{len(seconds)} of {settings.epochs}",
                          "minutes": seconds.sum() / 60, "seconds an epoch": seconds.median()})
    table = pd.DataFrame(trainings).to_markdown(index=False, floatfmt=".3g")
    return (f"# Profile {settings.profile}, {date.today()}\n\n"
            f"{machine()}. {train.trained_on(settings)}\n\n{table}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.full", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=AT_SIZE, default="paper", help="default: paper")
    parser.add_argument("--epochs", type=int, help="of baseline and bnta (default: the profile's)")
    parser.add_argument("--other-epochs", type=int, help="of the other trainings (default: as --epochs)")
    parser.add_argument("--scratch", action="store_true", help="train without ImageNet weights")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these, with exit code 3")
    options = parser.parse_args(arguments)
    settings, end = load_settings(options.profile), time.monotonic() + 60 * options.minutes
    with usage_errors(parser):
        for epochs in (options.epochs, options.other_epochs):
            train.shortened(settings, epochs)
        on_cpu = device_of(options.profile).type == "cpu" and not os.environ.get("BNTA_DEVICE")
        if options.profile == "paper" and on_cpu:
            raise ValueError("the full size needs an NVIDIA GPU, and PyTorch finds none: look at the driver, "
                             "or run --profile rehearsal; BNTA_DEVICE=cpu insists (weeks)")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return exit_code(lambda: run_all(settings, options, end))


if __name__ == "__main__":
    sys.exit(main())
