"""What the benchmarks share: a row and its goal, timers, the memory of a step, the table of rows."""

from __future__ import annotations

import argparse
import gc
import math
import operator
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.suite.store import machine, write_rows
from bnta_lib.settings import ROOT

RESULTS = ROOT / "benchmarks" / "results.csv"
COLUMNS = ("benchmark", "name", "ours", "rival", "unit", "ratio", "goal", "met", "against", "peak_mb",
           "seconds", "machine", "note")
SMALLER_IS_BETTER = ("s", "ms", "MB")
_GOAL = re.compile(r"(<=|>=|<|>) ([\d,.]+)(x| .+)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class NoRival(Exception):
    """A rival is not there: the sentence says what is missing, and what to do."""


@dataclass(frozen=True)
class Row:
    """One measured number beside its rival's, or beside a limit. NaN: not measured, not given.

    Raises ValueError for a goal that cannot be read, or whose unit is not the row's.
    """

    name: str
    ours: float
    unit: str
    rival: float = math.nan
    against: str = ""  # what the rival is
    goal: str = ""  # of the ratio: ">= 3x", "<= 1.2x"; of ours, in its unit: "< 200 ms"; or none
    peak_mb: float = math.nan  # peak memory of ours, where that was measured too
    note: str = ""
    why: str = ""  # what a profile says of a miss: joins the note where the goal is missed

    def __post_init__(self) -> None:
        if self.goal and (match := _GOAL.fullmatch(self.goal)) is None:
            raise ValueError(f"{self.name}: a goal is '>= 3x' or '< 200 ms', got {self.goal!r}")
        if self.goal and match[3] not in ("x", f" {self.unit}"):
            raise ValueError(f"{self.name}: the goal {self.goal!r} is not in the row's unit {self.unit!r}")
        if self.why and self.met == "missed":
            object.__setattr__(self, "note", f"{self.note}; missed: {self.why}".removeprefix("; "))
        object.__setattr__(self, "why", "")

    @property
    def ratio(self) -> float:
        """Of four digits, what the goal judges: ours / rival where it sets a limit from above, or
        ours / the goal's number where that is in a unit; else how many times better ours is."""
        sign, limit, of_ratio = self._goal
        if sign and not of_ratio:
            value = self.ours / limit
        elif sign in ("<=", "<") or self.unit not in SMALLER_IS_BETTER:
            value = self.ours / self.rival
        else:
            value = self.rival / self.ours
        return float(f"{value:.4g}")

    @property
    def met(self) -> str:
        """"met", "missed", or "" where there is no goal, or no rival to hold ours against."""
        sign, limit, of_ratio = self._goal
        if not sign or math.isnan(self.ratio):
            return ""
        return "met" if _COMPARE[sign](self.ratio, limit if of_ratio else 1) else "missed"

    @property
    def standing(self) -> float:
        """How many times better than the goal asks: 1 is just what it asks, less is missed."""
        sign, limit, of_ratio = self._goal
        share = self.ratio / (limit if of_ratio else 1)
        return (1 / share if sign in ("<=", "<") else share) if sign else math.nan

    @property
    def _goal(self) -> tuple[str, float, bool]:
        if not self.goal:
            return "", math.nan, True
        sign, number, of = _GOAL.fullmatch(self.goal).groups()
        return sign, float(number.replace(",", "")), of == "x"


# ---------------------------------------------------------------- time and memory


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock time of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def least(run: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """The least time of some calls, which other work on the machine disturbs least; one warms up."""
    run()
    return min(seconds(run, device) for _ in range(repeats))


def in_turns(
    ours: Callable[[], object], rival: Callable[[], object], rounds: int, device: str = "cpu"
) -> tuple[float, float]:
    """Median times of both, measured in turns, so that what slows the machine slows both."""
    pairs = [(seconds(ours, device), seconds(rival, device)) for _ in range(rounds)]
    return tuple(map(statistics.median, zip(*pairs)))


def memory() -> tuple[float, float]:
    """Memory that this process holds, and the most that it has held, in MB.

    From /proc where there is one: there ``ru_maxrss`` begins with what the parent process held.
    """
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        return most, most


def in_fresh_process(function: Callable, *arguments, first: Callable | None = None) -> tuple[object, float]:
    """What ``function`` gives in a process of its own, and the most memory it took there, in MB,
    beyond what the process held after its imports, and after a call of ``first``, which may import
    more. Both are passed by name: define them in a module."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_with_peak, function, arguments, first).result()


def _with_peak(function: Callable, arguments: tuple, first: Callable | None) -> tuple[object, float]:
    if first is not None:
        first()
    gc.collect()
    before, _ = memory()
    forget_peak()  # importing held more for a moment
    result = function(*arguments)
    return result, memory()[1] - before


def forget_peak() -> None:
    """What was held until now, and is free again, does not count as the most that a step held."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of all


def megabytes(*tensors: torch.Tensor) -> float:
    """What tensors take, in MB."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


# ---------------------------------------------------------------- the table


def table(rows: Iterable[Row], benchmark: str, took: Iterable[float]) -> pd.DataFrame:
    """Rows with :data:`COLUMNS`; ``took``: the seconds that measuring each took."""
    found = [{"benchmark": benchmark, **vars(row), "ratio": row.ratio, "met": row.met, "seconds": s,
              "machine": machine()} for row, s in zip(rows, took, strict=True)]
    return pd.DataFrame(found, columns=[*COLUMNS])


def read(path: Path) -> pd.DataFrame:
    """The rows of a file; none where it is absent. Raises ValueError for another table."""
    if not path.is_file():
        return pd.DataFrame(columns=[*COLUMNS])
    words = [name for name in COLUMNS if name not in ("ours", "rival", "ratio", "peak_mb", "seconds")]
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(words, str))
    except ValueError as error:  # pandas' own are of its kind, and so is what no UTF-8 text is
        raise ValueError(f"{path} is no table: name another file, or move this one away") from error
    if tuple(rows.columns) != COLUMNS:
        raise ValueError(f"{path} is no table of benchmarks (its columns are {', '.join(rows.columns)}): "
                         "name another file, or move this one away")
    return rows.fillna(dict.fromkeys(words, ""))


def save(new: pd.DataFrame, path: Path) -> None:
    """Put rows in a file, in the place of those of the same machine and name; others stay."""
    old = read(path)
    keys = set(zip(new["machine"], new["name"]))
    kept = old[[key not in keys for key in zip(old["machine"], old["name"])]]
    both = pd.concat([t for t in (kept, new) if len(t)] or [new], ignore_index=True)
    both = both.round({"ours": 4, "rival": 4, "peak_mb": 1, "seconds": 1})
    write_rows(both.sort_values(["machine", "benchmark"], kind="stable"), path)


def rows_of(found: pd.DataFrame) -> list[Row]:
    """The table's rows as :class:`Row`."""
    own = ["name", "ours", "unit", "rival", "against", "goal", "peak_mb", "note"]
    return [Row(*values) for values in found[own].itertuples(index=False)]


# ---------------------------------------------------------------- the commands


def parser(doc: str) -> argparse.ArgumentParser:
    """What every benchmark's command takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--csv", type=Path, help="put the rows in this file, in the place of this machine's")
    return made


def add_device(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")


def check_device(device: str) -> None:
    """SystemExit where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU here: leave --device out")


def run(benchmark: str, rows: Iterable[Row], csv: Path | None = None) -> None:
    """Measure: print each row as it comes, and put it in the file. SystemExit, before, for another table."""
    machine()  # named before anything changes the number of threads
    if csv is not None:
        readable(csv)
    start = time.perf_counter()
    for row in rows:
        took = time.perf_counter() - start
        print(line(row), flush=True)
        if csv is not None:
            save(table([row], benchmark, [took]), csv)
        start = time.perf_counter()
    print(machine())


def main_on_device(doc: str, benchmark: str, rows: Callable[[str], Iterable[Row]]) -> None:
    """The command of a benchmark whose rows hang on the device alone."""
    made = parser(doc)
    add_device(made)
    chosen = made.parse_args()
    check_device(chosen.device)
    run(benchmark, rows(chosen.device), chosen.csv)


def readable(csv: Path) -> pd.DataFrame:
    """:func:`read` for a command: SystemExit with its sentence."""
    try:
        return read(csv)
    except ValueError as error:
        raise SystemExit(str(error)) from None


def line(row: Row) -> str:
    """A row in words."""
    words = f"{row.name}: {row.ours:.4g} {row.unit}"
    if not math.isnan(row.rival):
        words += f"; {row.against}: {row.rival:.4g} {row.unit}"
    if not math.isnan(row.ratio):
        words += f"; ratio {row.ratio:.4g}"
    if not math.isnan(row.peak_mb):
        words += f"; peak {row.peak_mb:.0f} MB"
    if row.goal:
        words += f"; goal {row.goal}: {row.met or 'not judged'}"
    return words + (f" ({row.note})" if row.note else "")
