"""Every benchmark of the speed suite, one after the other: ``make bench``.

Each runs in a process of its own and puts its rows in ``benchmarks/results.csv``, in the place of those
of the same machine and name; then the figures and the estimates of docs/speed.md are made from them. A
benchmark that fails is named with its reason, the others run, and the exit code is 1. A goal that is
missed is a row, and no failure. ``--only pairing grid`` runs some, and leaves the estimates.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common
import pandas as pd

from bnta_lib.suite.store import machine

HERE = Path(__file__).parent
# The command of each; those that take longest last, where the estimate is best.
BENCHMARKS = {
    "deltas": [], "packed": [], "rendering": [], "guards": ["--cost"], "sliders": [], "grid": [],
    "deterministic": [], "training": [], "memory": [], "pairing": [], "growth": [], "evaluation": [], "adaption": [],
}
AFTER = ("draw", "capacity")  # made from the rows; these print what they wrote


def expected(rows: pd.DataFrame, name: str) -> float:
    """Seconds that a benchmark took before, here or else on another machine; NaN where it never ran."""
    own = rows[rows["benchmark"] == name].groupby("machine")["seconds"].sum()
    return float(own.get(machine(), own.median()))


def minutes(seconds: float) -> str:
    """In words; NaN is unknown."""
    if seconds != seconds:
        return "of unknown length"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def reason(errors: str, code: int) -> str:
    """Why a process failed: the last line that it wrote to its standard error."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code < 0:
        return f"it was ended by signal {-code}" + (f": {lines[-1]}" if lines else "")
    return lines[-1] if lines else f"exit code {code}, without a word"


def run(commands: dict[str, list[str]], csv: Path) -> dict[str, str]:
    """Run each, telling of it; the reasons of those that failed, by name."""
    rows, failed = common.read(csv), {}
    ahead = {name: expected(rows, name) for name in commands}
    for number, (name, command) in enumerate(commands.items(), start=1):
        rest = pd.Series([ahead[other] for other in list(commands)[number - 1 :]]).sum()
        print(f"[{number}/{len(commands)}] {name}: {minutes(ahead[name])}; all that is left "
              f"{minutes(rest) if rest else 'of unknown length'}", flush=True)
        start = time.monotonic()
        # Its rows go to the terminal as they come; what it says of an error is kept.
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        took = time.monotonic() - start
        if done.returncode:
            failed[name] = reason(done.stderr, done.returncode)
            print(f"    FAILED after {took:.0f} s: {failed[name]}", flush=True)
        else:
            print(f"    {took:.0f} s", flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=common.RESULTS, help="default: benchmarks/results.csv")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME",
                        help=f"of {', '.join(BENCHMARKS)}")
    chosen = parser.parse_args(arguments)
    csv, start = chosen.csv.absolute(), time.monotonic()
    common.readable(csv)
    commands = {name: [sys.executable, str(HERE / f"{name}.py"), *BENCHMARKS[name], "--csv", str(csv)]
                for name in BENCHMARKS if name in chosen.only}
    # Estimates need rows of several benchmarks: a run of some leaves them as they are.
    after = [name for name in AFTER if name == "draw" or set(chosen.only) == set(BENCHMARKS)]
    commands |= {name: [sys.executable, str(HERE / f"{name}.py"), "--csv", str(csv)] for name in after}
    failed = run(commands, csv)
    rows = common.read(csv)
    counts = rows[rows["machine"] == machine()]["met"].value_counts()
    print(f"{counts.get('met', 0)} goals met, {counts.get('missed', 0)} missed, in "
          f"{(time.monotonic() - start) / 60:.1f} min: {csv}")
    for name, why in failed.items():
        print(f"{name} failed: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
