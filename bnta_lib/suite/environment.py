"""The versions in use, and a check of the machine before work begins."""

from __future__ import annotations

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
from bnta_lib.rendered.bank import FILE_NAME
from bnta_lib.settings import ROOT, Settings, cache_dir, device_of
from bnta_lib.weights import MODELS, read_weights, weights_path

_SHOWN = ("torch", "torchvision", "numpy", "pandas", "matplotlib")
_NEEDED_GIB = 2.0  # rendered sets, checkpoints and measured rows of the laptop profile


def versions() -> str:
    """Return one line: Python, the libraries that decide results, and the machine's kind."""
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in _SHOWN]
    return ", ".join([f"bnta_lib {__version__}", f"Python {platform.python_version()}", *libraries,
                      f"{sys.platform} {platform.machine()}"])


def shown(path: str | Path) -> str:
    """Return ``path`` as a notebook may print it: from the repository's root, or else its name alone."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def check_environment(settings: Settings, data: str | Path = "embedded") -> pd.DataFrame:
    """Return one row a check: what, found, fine (bool), remedy.

    ``data`` decides whose weights are looked for. Nothing is downloaded or trained. The cache folder is
    tried by writing a small file.
    """
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    rows = [
        ("Python", platform.python_version(), sys.version_info >= (3, 11, 5),
         "make the environment with Python 3.11.5 or newer: make env PYTHON=python3.12"),
        ("Packages", *_packages()),
        ("torch with torchvision", *_torch_pair()),
        ("Cores and torch threads", f"{cores} cores, {threads} threads", threads >= min(2, cores),
         "call torch.set_num_threads, or unset OMP_NUM_THREADS"),
        ("GPU", *_gpu(settings.profile)),
        *[(f"Weights of {name}", *_weights(settings, name, real_root(data))) for name in MODELS],
        ("Body bank", f"data/{FILE_NAME}", (ROOT / "data" / FILE_NAME).is_file(),
         f"restore data/{FILE_NAME} from version control"),
        ("Cache folder", *_cache()),
    ]
    return pd.DataFrame(rows, columns=["what", "found", "fine", "remedy"]).astype({"fine": bool})


def styled_check(rows: pd.DataFrame) -> Styler:
    """Return the rows of :func:`check_environment` for a notebook: a mark, and advice where needed."""
    table = pd.DataFrame({
        "": rows["fine"].map({True: "✓", False: "✗"}), "Check": rows["what"],
        "Found": rows["found"], "What to do": rows["remedy"].where(~rows["fine"], ""),
    })
    mark = {"✓": "color: #0072B2", "✗": "color: #D55E00; font-weight: bold"}
    style = table.style.format(escape="html").hide(axis="index").map(mark.get, subset=[""])
    left = [("text-align", "left")]
    return style.set_table_styles([{"selector": "th", "props": left}, {"selector": "td", "props": left}])


def _packages() -> tuple[str, bool, str]:
    """Compare installed versions with requirements.txt, without those of other systems."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and ";" not in line)
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0]
                 for d in importlib.metadata.distributions()}
    other = [name for name, pin in pins.items() if installed.get(name.lower().replace("_", "-")) != pin]
    return (f"{len(pins) - len(other)} of {len(pins)} as pinned", not other,
            f"make env installs the pins; results may differ in the last digits: {', '.join(other[:4])}")


def _torch_pair() -> tuple[str, bool, str]:
    name = f"{torch.__version__} and {importlib.metadata.version('torchvision')}"
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"{name}: {error}", False, "install the pair that requirements.txt names (make env)"
    return name, True, ""


def _gpu(profile: str) -> tuple[str, bool, str]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        device = device_of(profile)
    except ValueError as error:
        return name, False, str(error)
    if profile != "paper" and device.type == "cpu":
        return f"{name}; the smoke and laptop profiles need none", True, ""
    return (f"{name}; models measure on {device}", device.type == "cuda",
            "the paper profile needs a GPU: choose laptop, or a machine with one")


def _weights(settings: Settings, name: str, root: Path | None) -> tuple[str, bool, str]:
    path = weights_path(settings, name, root)
    if settings.profile == "smoke" and not path.is_file():
        return "none yet: trained when first needed, in under a minute", True, ""
    try:
        minutes = read_weights(path)[0].get("seconds", 0.0) / 60
    except (FileNotFoundError, ValueError) as error:
        remedy = "restore the file from version control, or run make train"
        return f"{type(error).__name__}: {shown(path)}", False, remedy
    return f"{shown(path)}, {path.stat().st_size / 1e6:.1f} MB, trained in {minutes:.1f} min", True, ""


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
        raise OSError(error.errno, f"cannot write to the cache folder {folder}: {os.strerror(error.errno or 5)}; "
                      "set BNTA_CACHE to a folder that you may write to") from error


def _cache() -> tuple[str, bool, str]:
    folder = cache_dir()
    name = shown(folder) if folder.is_relative_to(ROOT) else "$BNTA_CACHE"
    remedy = f"free {_NEEDED_GIB:.0f} GiB, or set BNTA_CACHE to a folder that you may write to"
    try:
        check_cache()
    except OSError as error:
        return f"{name}: {os.strerror(error.errno or 5)}", False, remedy
    free = shutil.disk_usage(folder).free / 2**30
    return f"{name}, writable, {free:.0f} GiB free", free > _NEEDED_GIB, remedy
