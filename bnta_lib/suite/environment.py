"""The versions in use, and a check of what would stop a reader: environment, GPU, weights, cache."""

import importlib.metadata
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from bnta_lib import __version__
from bnta_lib.data import real_root
from bnta_lib.settings import MODELS, ROOT, Settings, cache_dir, device_of
from bnta_lib.suite.runs import weights_path
from bnta_lib.weights import read_weights


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


def check_environment(settings: Settings, data: str | Path = "embedded") -> Styler:
    """A table for a notebook, a row a check: ✓ or ✗, what, found, remedy. It downloads and trains nothing."""
    checks = {"Python": (platform.python_version(), ""), "Packages": _packages(),
              "GPU": _gpu(settings.profile), "Weights": _weights(settings, real_root(data)),
              "Cache folder": _cache()}
    rows = [("✗" if remedy else "✓", what, found, remedy) for what, (found, remedy) in checks.items()]
    table = pd.DataFrame(rows, columns=["fine", "what", "found", "remedy"])
    left = [{"selector": "th, td", "props": "text-align: left"}]
    return table.style.format(escape="html").hide(axis="index").set_table_styles(left)


# Each of these returns what was found, and what to do about it: "" if it is fine.


def _packages() -> tuple[str, str]:
    """Versions against requirements.txt, without those of other systems."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and ";" not in line)
    names = {part.metadata["Name"].lower().replace("_", "-"): part.version.split("+")[0]
             for part in importlib.metadata.distributions()}
    other = [name for name, pin in pins.items() if names.get(name.lower().replace("_", "-")) != pin]
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
    paths = {name: weights_path(settings, name, root) for name in MODELS}
    minutes = [read_weights(path)[0].get("seconds", 0.0) / 60 for path in paths.values() if path.is_file()]
    missing = [name for name, path in paths.items() if not path.is_file()]
    found = f"{len(minutes)} of {len(MODELS)} trainings"
    if minutes:
        found += f", which took {min(minutes):.0f} to {max(minutes):.0f} minutes each"
    if settings.profile == "smoke" or not missing:  # smoke trains when it needs to
        return found, ""
    return found, f"restore {', '.join(missing)} from version control, or run make train"


def _cache() -> tuple[str, str]:
    folder = cache_dir()
    name = shown(folder) if folder.is_relative_to(ROOT) else "$BNTA_CACHE"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{name}: {error.strerror}", "set BNTA_CACHE to a folder that you may write to"
    free = shutil.disk_usage(folder).free / 2**30
    # Rendered sets, checkpoints and measured rows of the laptop profile take 2 GiB.
    return f"{name}, writable, {free:.0f} GiB free", "" if free > 2 else "free 2 GiB, or set BNTA_CACHE"
