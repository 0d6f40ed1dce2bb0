"""What the benchmarks share: a row and its goal, timers, memory, the table of rows, the command line.

A benchmark is a function ``rows(device, quick)`` that measures and yields rows, one at a time. ``quick``
takes sizes that show in seconds whether it works; its numbers mean nothing and are not recorded.
"""

import argparse
import math
import operator
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.files import atomic
from bnta_lib.settings import ROOT
from bnta_lib.suite.store import machine

RESULTS = ROOT / "benchmarks" / "results.csv"
COLUMNS = ["benchmark", "name", "ours", "rival", "unit", "ratio", "goal", "met", "against", "peak_mb",
           "seconds", "machine", "note"]
SMALLER_IS_BETTER = ("s", "ms", "MB")
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Row:
    """One measured number beside its rival's, or beside a limit; NaN if not measured.

    ``goal`` is of the ratio (">= 3x", "<= 1.2x"), or of ours in its unit ("< 200 ms"), or "". Raises
    ValueError for another.
    """

    name: str
    ours: float
    unit: str
    rival: float = math.nan
    against: str = ""  # what the rival is
    goal: str = ""
    peak_mb: float = math.nan  # peak memory of ours, if it was measured too
    note: str = ""

    def __post_init__(self) -> None:
        if self.goal and (self._limit is None or self._limit[2] not in ("x", f" {self.unit}")):
            raise ValueError(f"{self.name}: a goal is '>= 3x' or '< 200 {self.unit}', got {self.goal!r}")

    @property
    def _limit(self) -> tuple[str, float, str] | None:
        match = re.fullmatch(r"(<=|>=|<|>) ([\d,]+(?:\.\d+)?)(x| .+)", self.goal)
        return (match[1], float(match[2].replace(",", "")), match[3]) if match else None

    @property
    def ratio(self) -> float:
        """What the goal judges: ours / rival if it is a limit from above, ours / limit if that is in a unit;
        else how many times better ours is."""
        sign, limit, unit = self._limit or ("", math.nan, "x")
        if unit != "x":
            return self.ours / limit
        inverse = self.unit in SMALLER_IS_BETTER and sign not in ("<=", "<")
        return self.rival / self.ours if inverse else self.ours / self.rival

    @property
    def met(self) -> str:
        """"met", "missed", or "" if there is no goal or nothing to compare with."""
        if self._limit is None or math.isnan(self.ratio):
            return ""
        sign, limit, unit = self._limit
        return "met" if COMPARE[sign](float(f"{self.ratio:.4g}"), limit if unit == "x" else 1) else "missed"

    @property
    def standing(self) -> float:
        """How many times better than the goal requires."""
        sign, limit, unit = self._limit
        share = self.ratio / (limit if unit == "x" else 1)
        return 1 / share if sign in ("<=", "<") else share

    def line(self) -> str:
        text = f"{self.name}: {self.ours:.4g} {self.unit}"
        if self.against:
            text += f"; {self.against}: {self.rival:.4g} {self.unit}"
        if not math.isnan(self.ratio):
            text += f"; ratio {self.ratio:.4g}"
        if self.goal:
            text += f"; goal {self.goal}: {self.met or 'not judged'}"
        return text + (f" ({self.note})" if self.note else "")


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock time of a call."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], float], rival: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median numbers of both, measured in turns, so that what slows the machine slows both."""
    pairs = [(ours(), rival()) for _ in range(rounds)]
    return tuple(map(statistics.median, zip(*pairs)))


def peak_memory() -> float:
    """The most memory that this process has held, in MB."""
    try:  # ru_maxrss begins with what the parent process held
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def forget_peak() -> None:
    """Let the peak begin anew with what is held now, as far as the system can."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def in_fresh_process(function: Callable, *arguments) -> tuple[object, float]:
    """What ``function`` returns in a process of its own, and the most memory it held there beyond its
    imports, in MB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable, arguments: tuple) -> tuple[object, float]:
    forget_peak()  # importing held more for a moment
    before = peak_memory()
    result = function(*arguments)
    return result, peak_memory() - before


def read(path: Path) -> pd.DataFrame:
    """The rows of a file; none if it is absent."""
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    words = ("goal", "met", "against", "note")
    return pd.read_csv(path, dtype=dict.fromkeys(words, str)).fillna(dict.fromkeys(words, ""))


def save(row: Row, benchmark: str, took: float, path: Path) -> None:
    """Put a row in a file, in place of that of the same machine and name."""
    new = {"benchmark": benchmark, **vars(row), "ratio": row.ratio, "met": row.met, "seconds": took,
           "machine": machine()}
    old = read(path)
    kept = old[(old["machine"] != new["machine"]) | (old["name"] != row.name)]
    rows = pd.DataFrame([*kept.to_dict("records"), new], columns=COLUMNS)
    rows = rows.sort_values(["machine", "benchmark"], kind="stable")
    rows = rows.round({"ours": 4, "rival": 4, "ratio": 4, "peak_mb": 1, "seconds": 1})
    with atomic(path) as temporary:
        rows.to_csv(temporary, index=False)


def main(doc: str, rows: Callable[[str, bool], Iterator[Row]], *, cuda: bool = False,
         **others: Callable[[str, bool], Iterator[Row]]) -> None:
    """The command of a benchmark: print each row as it is measured, and record it with ``--csv``.

    ``others``: functions that an option of their name measures in place of ``rows``. ``cuda``: ``--device
    cuda`` is an option.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="record the rows in this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is recorded")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda") if cuda else ("cpu",))
    for name in others:
        parser.add_argument(f"--{name}", dest="other", action="store_const", const=name)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here: leave --device out")
    measure = others.get(options.other, rows) if others else rows
    start = time.perf_counter()
    for row in measure(options.device, options.quick):
        print(row.line(), flush=True)
        if options.csv and not options.quick:
            save(row, Path(sys.argv[0]).stem, time.perf_counter() - start, options.csv)
        start = time.perf_counter()
    print(machine())
