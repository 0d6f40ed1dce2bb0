"""Train, run the notebooks and gather ``full_size/`` at the paper's size, in parts if time is short.

The rehearsal runs the same code with a small network on few people, without a GPU.
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
from pathlib import Path

import torch

from bnta_lib.files import atomic_folder
from bnta_lib.settings import AT_SIZE, MODELS, PROFILES, ROOT, Settings
from bnta_lib.suite import train
from bnta_lib.suite.reproduce import EXECUTED, executed_notebooks, find_notebooks
from bnta_lib.suite.runs import device_of, exit_code, figures_dir, weights_path
from bnta_lib.suite.store import export
from bnta_lib.training import OutOfTime

GATHERED = ROOT / "full_size"


def run_all(settings: Settings, training: Sequence[str], minutes: float) -> int:
    """Train with the options ``training``, run the notebooks and gather; return the exit code."""
    profile, end = ["--profile", settings.profile], time.monotonic() + 60 * minutes
    if code := train.main([*profile, f"--minutes={minutes}", *training]):
        return code
    trained = max(weights_path(settings, name).stat().st_mtime for name in MODELS)
    done = {path.name for path in executed_notebooks(settings.profile) if path.stat().st_mtime > trained}
    # The claims and the report follow the last notebook: if they alone are missing, it runs again.
    remaining = [path for path in find_notebooks() if path.name not in done] or find_notebooks()[-1:]
    code = run_notebooks([*profile, "--only", *(path.name[:2] for path in remaining)], end)
    if not code:
        print(f"gathered in {gather(settings)}")
    return code


def run_notebooks(options: Sequence[str], end: float) -> int:
    """Run the notebooks until ``end``, or until this process is stopped. Raises OutOfTime."""
    command = [sys.executable, "-m", "bnta_lib.suite.reproduce", *options]
    try:
        return subprocess.run(command, timeout=end - time.monotonic()).returncode
    except subprocess.TimeoutExpired:
        raise OutOfTime("within the notebooks") from None


def gather(settings: Settings) -> Path:
    """Copy the results into a folder of the device, whole or not at all; return it."""
    device = device_of(settings.profile)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    folder = GATHERED / re.sub(r"\W+", "-", f"{name} {settings.profile}")
    with atomic_folder(folder) as new:
        shutil.copytree(figures_dir(settings.profile), new / "figures")
        shutil.copytree(EXECUTED / settings.profile, new / "notebooks")
        weights = weights_path(settings, "bnta").parent
        shutil.copytree(weights, new / "trainings", ignore=shutil.ignore_patterns("*.safetensors", ".*"))
        export(new / "rows.csv.gz", settings.profile)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.full", description=__doc__)
    parser.add_argument("--profile", choices=AT_SIZE, default="paper", help="default: paper")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these, with exit code 3")
    parser.add_argument("--epochs", help="of every training (default: the profile's)")
    parser.add_argument("--scratch", action="store_true", help="train without ImageNet weights")
    options = parser.parse_args(arguments)
    training = [f"--epochs={options.epochs}"] if options.epochs else []
    training += ["--scratch"] if options.scratch else []
    on_gpu = torch.cuda.is_available() or os.environ.get("BNTA_DEVICE")
    if options.profile == "paper" and not on_gpu:
        parser.error("the full size needs an NVIDIA GPU, and PyTorch finds none: look at the driver, or run "
                     "--profile rehearsal; with BNTA_DEVICE=cpu it takes weeks")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return exit_code(lambda: run_all(PROFILES[options.profile], training, options.minutes))


if __name__ == "__main__":
    sys.exit(main())
