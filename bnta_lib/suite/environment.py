"""What a run stands on: the versions in use, and a check of the machine before work begins."""

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
from bnta_lib.rendered.bank import FILE_NAME
from bnta_lib.files import atomic
from bnta_lib.settings import ROOT, Settings, cache_dir, device_of
from bnta_lib.weights import MODELS, read_meta, weights_path

_SHOWN = ("torch", "torchvision", "numpy", "pandas", "matplotlib")
_NEEDED_GIB = 2.0  # rendered sets, checkpoints and measured rows of the laptop profile


def versions() -> str:
    """One line: Python, the libraries that decide results, and the machine's kind."""
    others = [f"{name} {importlib.metadata.version(name)}" for name in _SHOWN]
    python = f"Python {platform.python_version()}"
    return ", ".join([f"bnta_lib {__version__}", python, *others, f"{sys.platform} {platform.machine()}"])


def shown(path: str | Path) -> str:
    """``path`` as a notebook may print it: from the repository's root, or else its name alone."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def check_environment(settings: Settings, data: str | Path = "embedded") -> pd.DataFrame:
    """One row a check: what, found, fine (bool), remedy (what to do where it is not fine).

    ``data`` (see :mod:`.data`) decides whose weights are looked for.

    Nothing is downloaded or trained. The cache folder is tried by writing a small file.
    """
    rows = [
        _row("Python", platform.python_version(), sys.version_info >= (3, 11, 5),
             "make the environment with Python 3.11.5 or newer: make env PYTHON=python3.12"),
        _packages(),
        _row("torch with torchvision", *_pair()),
        _row("Cores and torch threads", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
             torch.get_num_threads() >= min(2, os.cpu_count() or 1),
             "call torch.set_num_threads, or unset OMP_NUM_THREADS"),
        _row("GPU", *_gpu(settings.profile)),
        _row("Profile", f"{settings.profile}: {settings.height} x {settings.width} pixels, "
             f"{32 * settings.base_width} channels, {settings.splits} splits", True, ""),
        *[_weights(settings, name, real_root(data)) for name in MODELS],
        _row("Body bank", f"data/{FILE_NAME}", (ROOT / "data" / FILE_NAME).is_file(),
             f"restore data/{FILE_NAME} from version control, or run data/build_body_bank.py"),
        _cache(),
    ]
    return pd.DataFrame(rows)


def styled_check(rows: pd.DataFrame) -> Styler:
    """The rows of :func:`check_environment` for a notebook: a mark, and advice where needed."""
    table = pd.DataFrame({
        "": rows["fine"].map({True: "✓", False: "✗"}), "Check": rows["what"],
        "Found": rows["found"], "What to do": rows["remedy"].where(~rows["fine"], ""),
    })
    mark = {"✓": "color: #0072B2", "✗": "color: #D55E00; font-weight: bold"}
    left = [("text-align", "left")]
    # What was found, as a folder's name, is text and no HTML.
    style = table.style.format(escape="html").hide(axis="index").map(mark.get, subset=[""])
    return style.set_table_styles([{"selector": "th", "props": left}, {"selector": "td", "props": left}])


def _row(what: str, found: str, fine: bool, remedy: str) -> dict:
    return {"what": what, "found": found, "fine": bool(fine), "remedy": remedy}


def _packages() -> dict:
    """Installed versions against requirements.txt, leaving out those of other systems."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and ";" not in line)
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0]
             for d in importlib.metadata.distributions()}
    pins = {k.lower().replace("_", "-"): v for k, v in pins.items()}
    other = [name for name, pin in pins.items() if found.get(name) != pin]
    text = f"{len(pins) - len(other)} of {len(pins)} as pinned"
    return _row("Packages", text, not other, "results may differ in the last digits, or install "
                f"the pins (make env); not as pinned: {', '.join(other[:4])}"
                + (" ..." if len(other) > 4 else ""))


def _pair() -> tuple[str, bool, str]:
    """Whether torchvision's operators load beside this torch."""
    name = f"{torch.__version__} and {importlib.metadata.version('torchvision')}"
    remedy = "install the pair that requirements.txt names (make env)"
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"{name}: {error}", False, remedy
    return name, True, remedy


def _gpu(profile: str) -> tuple[str, bool, str]:
    """What is there, and whether the profile measures where it should."""
    found = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        device = device_of(profile)
    except ValueError as error:
        return found, False, str(error)
    if profile != "paper" and device.type == "cpu":
        return f"{found}; the smoke and laptop profiles need none", True, ""
    remedy = ("the paper profile needs a GPU: choose laptop, or a machine with one" if found == "none" else
              "BNTA_DEVICE keeps the paper profile on the CPU: leave it out")
    kind = ", deterministic algorithms alone" if torch.are_deterministic_algorithms_enabled() else ""
    return f"{found}; models measure on {device}{kind}", device.type == "cuda", remedy


def _weights(settings: Settings, name: str, root: Path | None) -> dict:
    path = weights_path(settings, name, root)
    what = f"Weights of {name}"
    if settings.profile == "smoke" and not path.is_file():
        return _row(what, "none yet: trained when first needed, in under a minute", True, "")
    try:
        meta = read_meta(path)
    except (FileNotFoundError, ValueError) as error:
        remedy = "restore the file from version control, or run make train"
        return _row(what, f"{type(error).__name__}: {shown(path)}", False, remedy)
    megabytes = path.stat().st_size / 1e6
    seconds = meta.get("seconds", 0.0)
    made = f"trained in {seconds:.0f} s" if seconds < 90 else f"trained in {seconds / 60:.0f} min"
    return _row(what, f"{shown(path)}, {megabytes:.1f} MB, {made}", True, "")


def check_cache() -> None:
    """Write a small file into the cache folder and remove it; OSError, which names it, if that fails."""
    folder = cache_dir()
    try:
        probe = folder / "probe"
        with atomic(probe) as temporary:
            temporary.write_bytes(b"written")
        probe.unlink()
    except OSError as error:
        origin = " ($BNTA_CACHE)" if os.environ.get("BNTA_CACHE") else ""
        raise OSError(error.errno, f"cannot write to the cache folder {folder}{origin}: "
                      f"{os.strerror(error.errno)}; set BNTA_CACHE to a folder that you may write to"
                      ) from error


def _cache() -> dict:
    folder = cache_dir()
    name = shown(folder) if folder.is_relative_to(ROOT) else "$BNTA_CACHE"
    remedy = f"free {_NEEDED_GIB:.0f} GiB, or set BNTA_CACHE to a folder that you may write to"
    try:
        check_cache()
    except OSError as error:
        return _row("Cache folder", f"{name}: {os.strerror(error.errno)}", False, remedy)
    free = shutil.disk_usage(folder).free / 2**30
    return _row("Cache folder", f"{name}, writable, {free:.0f} GiB free", free > _NEEDED_GIB, remedy)
