"""What commands and notebooks share: a run's name, device and files, options and exit codes."""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

import torch

from bnta_lib.data import data_folder
from bnta_lib.data.sets import ReIDSet
from bnta_lib.settings import AT_SIZE, ROOT, Settings, cache_dir, model_settings
from bnta_lib.settings import settings as load_settings
from bnta_lib.training import OutOfTime, training_key


def run_name(profile: str, data: str | Path = "embedded") -> str:
    """Name of a run's files: the profile, and for a folder of images its name and some digits of its path."""
    path = data_folder(data)
    if path is None:
        return profile
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:6]
    # The name becomes a part of file names, whose length is limited.
    return f"{profile}_{os.fsencode(path.name)[:100].decode('utf-8', 'ignore')}-{digest}"


def device_of(profile: str) -> torch.device:
    """Device of the models that measure at a profile: ``$BNTA_DEVICE`` ("cpu", "cuda", "cuda:1" or "mps").

    Default: a GPU at the profiles of the paper's size if there is one, else the CPU, where the committed
    rows of smoke and laptop were measured. Raises ValueError for another word, or a GPU that is absent.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = os.environ.get("BNTA_DEVICE", "").strip() or ("cuda" if profile in AT_SIZE and gpus else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f'BNTA_DEVICE is "cpu", "cuda", "mps", or a GPU by its number as in "cuda:1"; '
                         f"got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f"BNTA_DEVICE is {name}, and PyTorch finds {gpus} NVIDIA GPUs{drivers()}: "
                         "unset BNTA_DEVICE")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("BNTA_DEVICE is mps, and PyTorch finds no Apple GPU: unset BNTA_DEVICE")
    return device


def drivers() -> str:
    """The versions on which a GPU depends, in brackets: PyTorch's CUDA and the driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()[:1]
    except (OSError, subprocess.TimeoutExpired):
        driver = []
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return (f" (PyTorch {torch.__version__} {built}; driver {driver[0] if driver else 'not found'}; CUDA 13 "
            "needs 580 or newer, CUDA 12 525 or newer)")


def caution(run: str) -> str:
    """A warning for runs at the profiles that only try the code; otherwise empty."""
    if re.split("[_+]", run)[0] not in ("smoke", "rehearsal"):
        return ""
    return "A small network, few people: this run shows that everything works, and nothing of the method."


def figures_dir(run: str) -> Path:
    """Folder of the figures and tables of a run (:func:`run_name`): in ``$BNTA_FIGURES``, else figures."""
    return Path(os.environ.get("BNTA_FIGURES") or ROOT / "figures").absolute() / run


def weights_path(settings: Settings, name: str, root: str | Path | None = None) -> Path:
    """Path of a training's weights, beside its losses by epoch (.csv): in the repository for laptop and
    steady, else in the cache, and apart for those of published sets below ``root``. Raises ValueError for an
    unknown name."""
    model_settings(settings, name)
    committed = settings.profile in ("laptop", "steady") and root is None
    folder = (ROOT / "data" if committed else cache_dir()) / "weights"
    return folder / run_name(settings.profile, root or "embedded") / f"{name}.safetensors"


def checkpoint_path(sources: ReIDSet, settings: Settings, name: str) -> Path:
    """The file of a training's resumable state."""
    key = training_key(sources, settings)[:16]
    return cache_dir() / "checkpoints" / f"{settings.profile}-{name}-{key}.pt"


def shown(path: Path) -> str:
    """``path`` as a notebook may print it: from the repository's root, or else its name alone."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def parse_run(module: str, purpose: str, arguments: Sequence[str] | None,
              more: Mapping[str, dict] = {}) -> argparse.Namespace:
    """Parse a command's options: ``--profile``, ``--data``, and ``more`` by name, as argparse takes them."""
    parser = argparse.ArgumentParser(prog=f"python -m bnta_lib.suite.{module}", description=purpose)
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", default="embedded",
                        help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    for name, options in more.items():
        parser.add_argument(name, **options)
    parsed = parser.parse_args(arguments)
    try:
        parsed.profile = load_settings(parsed.profile).profile
        device_of(parsed.profile)
        if (folder := data_folder(parsed.data)) is not None and not folder.is_dir():
            raise ValueError(f'no folder {folder}: --data takes "embedded", "real" or a folder of images')
        cache_dir().mkdir(parents=True, exist_ok=True)
        if not os.access(cache_dir(), os.W_OK):
            raise ValueError(f"cannot write to {cache_dir()}: set BNTA_CACHE to another folder")
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: an unknown ~user
        parser.error(str(error))
    return parsed


def exit_code(work: Callable[[], int | None]) -> int:
    """Do ``work`` and return its exit code: 1 for an error, 3 for out of time, 130 for an interrupt."""
    try:
        return work() or 0
    except OutOfTime as error:
        print(f"out of time: {error}; the same command continues")
        return 3
    except KeyboardInterrupt:
        print("\nStopped. What is done is kept: the same command continues.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError, BrokenExecutor) as error:
        print(error, file=sys.stderr)
        return 1
