"""The versions in use, and a check of what would stop a reader: environment, GPU, weights, cache."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from bnta_lib import __version__
from bnta_lib.data import real_root
from bnta_lib.files import atomic
from bnta_lib.settings import MODELS, ROOT, Settings, cache_dir, device_of
from bnta_lib.weights import read_weights, weights_path

_NEEDED_GIB = 2.0  # rendered sets, checkpoints and measured rows of the laptop profile


def versions() -> str:
    """One line: Python, the libraries that decide results, and the machine's kind."""
    names = ("torch", "torchvision", "numpy", "pandas", "matplotlib")
    return ", ".join([f"bnta_lib {__version__}", f"Python {platform.python_version()}",
                      *[f"{name} {importlib.metadata.version(name)}" for name in names],
                      f"{sys.platform} {platform.machine()}"])


def shown(path: str | Path) -> str:
    """``path`` as a notebook may print it: from the repository's root, or else its name alone."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def check_environment(settings: Settings, data: str | Path = "embedded") -> pd.DataFrame:
    """One row a check: what, found, fine (bool), remedy. Nothing is downloaded or trained."""
    rows = [
        ("Python", platform.python_version(), "" if sys.version_info >= (3, 11, 5) else
         "make env PYTHON=python3.12, or another of 3.11.5 or newer"),
        ("Packages", *_packages()),
        ("GPU", *_gpu(settings.profile)),
        ("Weights", *_weights(settings, real_root(data))),
        ("Cache folder", *_cache()),
    ]
    table = pd.DataFrame(rows, columns=["what", "found", "remedy"])
    return table.assign(fine=table["remedy"] == "")[["what", "found", "fine", "remedy"]]


def styled_check(rows: pd.DataFrame) -> Styler:
    """The rows of :func:`check_environment` for a notebook, each with a tick or a cross."""
    table = rows.assign(fine=rows["fine"].map({True: "✓", False: "✗"}))[["fine", "what", "found", "remedy"]]
    left = [{"selector": "th, td", "props": "text-align: left"}]
    return table.style.format(escape="html").hide(axis="index").set_table_styles(left)


def check_cache() -> None:
    """Write a small file into the cache folder and remove it.

    Raises OSError, which names the folder and the remedy, if that fails.
    """
    folder = cache_dir()
    try:
        with atomic(folder / "probe") as temporary:
            temporary.write_bytes(b"written")
        (folder / "probe").unlink()
    except OSError as error:
        reason = f"cannot write to the cache folder {folder}: {os.strerror(error.errno or 5)}"
        raise OSError(error.errno, f"{reason}; set BNTA_CACHE to a folder that you may write to") from error


# Each of these returns what was found, and what to do about it: "" if it is fine.


def _packages() -> tuple[str, str]:
    """Versions against requirements.txt, without those of other systems."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and ";" not in line)
    names = {part.metadata["Name"].lower().replace("_", "-"): part.version.split("+")[0]
             for part in importlib.metadata.distributions()}
    other = [name for name, pin in pins.items() if names.get(name.lower().replace("_", "-")) != pin]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:  # as with a torch that it was not built for
        return str(error), "make env installs a pair of torch and torchvision that fits"
    remedy = f"make env installs the pins; last digits may differ with other {', '.join(other[:4])}"
    return f"{len(pins) - len(other)} of {len(pins)} as pinned", remedy if other else ""


def _gpu(profile: str) -> tuple[str, str]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        device = device_of(profile)
    except ValueError as error:
        return name, str(error)
    if profile == "paper" and device.type == "cpu":
        return name, "the paper profile needs a GPU: choose laptop, or a machine with one"
    return f"{name}; models measure on the {device}", ""


def _weights(settings: Settings, root: Path | None) -> tuple[str, str]:
    minutes, missing = [], []
    for name in MODELS:
        try:
            minutes.append(read_weights(weights_path(settings, name, root))[0].get("seconds", 0.0) / 60)
        except (FileNotFoundError, ValueError):
            missing.append(name)
    found = f"{len(minutes)} of {len(MODELS)} trainings"
    if minutes:
        found += f", which took {min(minutes):.0f} to {max(minutes):.0f} minutes each"
    if settings.profile == "smoke" or not missing:
        return f"{found}; others are trained when first needed" if missing else found, ""
    return found, f"restore {', '.join(missing)} from version control, or run make train"


def _cache() -> tuple[str, str]:
    folder = cache_dir()
    name = shown(folder) if folder.is_relative_to(ROOT) else "$BNTA_CACHE"
    try:
        check_cache()
    except OSError as error:
        return f"{name}: {os.strerror(error.errno or 5)}", "set BNTA_CACHE to a folder that you may write to"
    free = shutil.disk_usage(folder).free / 2**30
    remedy = "" if free > _NEEDED_GIB else f"free {_NEEDED_GIB:.0f} GiB, or set BNTA_CACHE to a larger disk"
    return f"{name}, writable, {free:.0f} GiB free", remedy
