"""Every benchmark of the speed suite, one after the other: ``make bench``.

Each runs in a process of its own and records its rows in ``benchmarks/results.csv``; then the figure is
drawn. If a benchmark fails, it is named, the others still run, and the exit code is 1. A missed goal is no
failure. ``--only pairing grid`` runs some; ``--quick`` shows in a few minutes whether all of them work.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import common

from bnta_lib.suite.store import machine

HERE = Path(__file__).parent
BENCHMARKS = ("packed", "rendering", "guards", "sliders", "grid", "deterministic", "training", "pairing",
              "evaluation", "adaption")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=common.RESULTS, help="default: benchmarks/results.csv")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME",
                        help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is recorded")
    options = parser.parse_args(arguments)
    csv = options.csv.absolute()
    known = common.read(csv)
    known = known[known["machine"] == machine()].groupby("benchmark")["seconds"].sum()
    failed = []
    for name in [*options.only, *(() if options.quick else ("draw",))]:
        took = f", took {known[name]:.0f} s here" if name in known and not options.quick else ""
        print(f"== {name}{took}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--csv", str(csv)]
        if subprocess.run(command + ["--quick"] * options.quick).returncode:
            failed.append(name)
    rows = common.read(csv)
    counts = rows[rows["machine"] == machine()]["met"].value_counts()
    print(f"{counts.get('met', 0)} goals met, {counts.get('missed', 0)} missed: {csv}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
