"""The paper's network at the paper's size: everything by one command, in parts where time is short.

``python -m bnta_lib.suite.full`` (``make full``) trains the models of the tables, runs the notebooks, checks the
paper's claims, and gathers what is to be kept in ``full_size/<device>/``: figures and tables, executed
notebooks, the targets' deltas, measured rows, and ``about.md``, which says on what, for how long, and for how
many epochs. The baseline and the full model are trained for ``--epochs``, the other trainings for
``--other-epochs``; where that is less than the profile's 60, each table says so.

Every part goes on where it was stopped. With ``--minutes`` it stops by itself, with exit code 3, and the
same command goes on. ``--profile rehearsal`` does all of it with a small network on few people: the same
code, in minutes, without a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch

from bnta_lib.adaption import adapt
from bnta_lib.data import load_targets
from bnta_lib.files import a_path, atomic_folder
from bnta_lib.suite.report import EXECUTED, NOTEBOOKS, finished
from bnta_lib.suite.store import machine, of_the_suite, stored, write_rows
from bnta_lib.settings import AT_SIZE, ROOT, Settings, device_of, figures_dir, settings as load_settings
from bnta_lib.training import OutOfTime, shortened, trained_model, trained_on, training_history
from bnta_lib.weights import MODELS, weights_path

FIRST = ("baseline", "bnta")  # trained for --epochs; the others for --other-epochs
OUT = ROOT / "full_size"
LEAST = 1.0  # minutes: a notebook is not begun with fewer left
SHORTEST = 3.0  # minutes of a run that notebooks can go on in: with fewer none would ever end


class TooShort(ValueError):
    """No run of so few minutes would end a notebook."""


class Clock:
    """The minutes that are left."""

    def __init__(self, minutes: float | None):
        self.start, self.minutes = time.perf_counter(), minutes

    def left(self) -> float:
        """Minutes; infinite where there is no limit."""
        if self.minutes is None:
            return float("inf")
        return self.minutes - (time.perf_counter() - self.start) / 60


def train_all(chosen: Settings, epochs: int, others: int, clock: Clock, scratch: bool = False) -> None:
    """Every training that a table asks for, each resumable, with ``scratch`` from nothing. Raises OutOfTime."""
    for names, count in ((FIRST, epochs), ([name for name in MODELS if name not in FIRST], others)):
        if clock.left() <= 0:
            raise OutOfTime(f"before {names[0]} was trained")
        command = ["bnta_lib.training", "--profile", chosen.profile, "--model", *names,
                   "--epochs", str(count), "--minutes", f"{min(clock.left(), 1e6):g}",
                   *(["--scratch"] if scratch else [])]
        if _run(command, None) == 3:
            raise OutOfTime(f"while {', '.join(names)} were trained")


def run_notebooks(chosen: Settings, clock: Clock) -> None:
    """The notebooks that are not finished yet, one by one. Raises OutOfTime and TooShort."""
    if clock.minutes is not None and clock.minutes < SHORTEST:
        raise TooShort(f"everything is trained, and no notebook ends in {clock.minutes:g} minutes: give --minutes "
                       f"{SHORTEST:g} or more")
    out, notebooks = EXECUTED / chosen.profile, sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    weights = [weights_path(chosen, name) for name in MODELS]
    newest = max(path.stat().st_mtime for path in weights)
    for path in notebooks:  # those of earlier weights must not pass for these
        if (out / path.name).is_file() and (out / path.name).stat().st_mtime < newest:
            (out / path.name).unlink()
    done = {path.name for path in notebooks if finished(out / path.name, path)}
    for path in (path for path in notebooks if path.name not in done):
        if clock.left() < LEAST:
            raise OutOfTime(f"before {path.stem}")
        _run(["bnta_lib.suite.reproduce", "--profile", chosen.profile, "--only", path.stem[:2]], clock, path.stem)
    for module in ("bnta_lib.suite.claims", "bnta_lib.suite.report"):
        _run([module, "--profile", chosen.profile], clock, module)


def _run(command: list[str], clock: Clock | None, what: str = "") -> int:
    """A command of the library, as a process. Raises OutOfTime, and SystemExit where it fails."""
    limit = None if clock is None or clock.left() == float("inf") else max(60 * clock.left(), 1)
    process = subprocess.Popen([sys.executable, "-m", *command])
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"while {what} ran") from None
    except KeyboardInterrupt:  # it got the same signal, and says how it stopped
        process.wait()
        raise
    finally:  # also where this process was asked to end: the next run must not work beside it
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code not in (0, 3):
        raise SystemExit(code)
    return code


GATHERED = {"figures", "notebooks", "deltas", "rows.csv.gz", "about.md"}


def gather(chosen: Settings, out: Path) -> Path:
    """Copies all that is worth keeping to a folder named after the device, whole or not at all; returns it."""
    device = device_of(chosen.profile)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    folder = out / (re.sub(r"\W+", "-", name).strip("-") + ("" if chosen.profile == "paper"
                                                            else f"-{chosen.profile}"))
    if folder.is_dir() and (other := sorted(set(os.listdir(folder)) - GATHERED)):
        raise FileExistsError(f"{folder} holds what this did not put there, for one {other[0]}: move it, or choose "
                              "another --out")
    with atomic_folder(folder) as partial:
        shutil.copytree(figures_dir(chosen.profile), partial / "figures")
        shutil.copytree(EXECUTED / chosen.profile, partial / "notebooks")
        write_rows(of_the_suite(stored(chosen.profile)), partial / "rows.csv.gz")
        model, lines = trained_model(chosen, progress=False), []
        for target, own in load_targets(chosen, progress=False).items():
            split = own.splits[0]
            images = own.data.images[split.gallery]
            adapt(model, images, chosen)  # a GPU's first run pays for what no later one does
            result = adapt(model, images, chosen)
            result.delta.save(partial / "deltas" / f"{target}.safetensors", f"{target}, split 0")
            lines.append(f"| {target} | {len(images)} | {len(result.pairs.index)} | {result.seconds:.3g} |")
        (partial / "about.md").write_text(_about(chosen, name, lines), encoding="utf-8")
    return folder


def _about(chosen: Settings, device: str, adaptions: list[str]) -> str:
    trained = []
    for name in MODELS:
        history = training_history(chosen, name)
        trained.append(f"| {name} | {len(history)} of {chosen.epochs} | {history['seconds'].sum() / 60:.1f} | "
                       f"{history['seconds'].median():.3g} |")
    size = f"{sum(chosen.images.values()):,} images of {sum(chosen.people.values()):,} rendered people"
    note = trained_on(chosen)
    return "\n".join([
        f"# {'Full size' if chosen.profile == 'paper' else 'Rehearsal of the full size'}, {device}, "
        f"{date.today()}", "",
        f"Trained on {size}, {chosen.height} × {chosen.width}, {32 * chosen.base_width} channels. {machine()}.",
        *([f"{note}."] if note else []), "",
        "| training | epochs | minutes | seconds an epoch |", "|---|---|---|---|", *trained, "",
        "Adaption to the gallery of split 0, features, pairing and steps together:", "",
        "| target | N | K | seconds |", "|---|---|---|---|", *adaptions, "",
        "`figures/`, `notebooks/`, `deltas/` (of these weights alone), `rows.csv.gz` (every measured number).", ""])


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.full", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=AT_SIZE, default="paper", help="default: paper")
    parser.add_argument("--epochs", type=int, help="of baseline and bnta (default: the profile's)")
    parser.add_argument("--other-epochs", type=int, help="of the other trainings (default: as --epochs)")
    parser.add_argument("--scratch", action="store_true", help="train from nothing, without ImageNet weights; tables "
                        "say so")
    parser.add_argument("--minutes", type=float, help="stop after so many, with exit code 3")
    parser.add_argument("--out", type=a_path, default=OUT, help="folder (default: full_size)")
    options = parser.parse_args(arguments)
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes is more than 0; got {options.minutes:g}")
    try:
        chosen = load_settings(options.profile)
        epochs = chosen.epochs if options.epochs is None else options.epochs
        others = epochs if options.other_epochs is None else options.other_epochs
        for count in (epochs, others):
            shortened(chosen, count)  # refuses what is no number of epochs
        if options.profile == "paper" and device_of("paper").type == "cpu" and not os.environ.get("BNTA_DEVICE"):
            raise ValueError("the full size needs an NVIDIA GPU, and PyTorch finds none: --profile rehearsal runs "
                             "the same on a CPU with few people; BNTA_DEVICE=cpu insists (weeks)")
    except ValueError as error:
        parser.error(str(error))
    clock = Clock(options.minutes)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        train_all(chosen, epochs, others, clock, options.scratch)
        run_notebooks(chosen, clock)
        if clock.left() < LEAST:
            raise OutOfTime("before the results were gathered")
        print(f"gathered in {gather(chosen, options.out.expanduser().resolve())}")
    except OutOfTime as error:
        print(f"out of time {error}: the same command goes on")
        return 3
    except TooShort as error:
        parser.error(str(error))
    except (OSError, ValueError) as error:  # a full disk, weights of another training: the message says it
        print(f"{getattr(error, 'strerror', None) or error}\nThen the same command goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
