"""What a machine can do in minutes, from what was measured: ``python benchmarks/capacity.py [--csv FILE]``.

Writes the table between the marks in docs/speed.md, and ``capacity.csv`` beside the rows. A time is that
of the largest size that was measured, times the growth from there by the larger of the fitted exponent
and the order of the work (pairing compares every image with every other; all else is one pass). So no
entry is measured but where the size was; what stands behind each of the others is in its last columns.

Machines that were not measured are derived from one that was by ASSUMED, and marked so.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import common
import growth
import pandas as pd

from bnta_lib.files import atomic
from bnta_lib.suite.store import machine, write_rows
from bnta_lib.settings import ROOT

DOCS = ROOT / "docs" / "speed.md"
MARKS = "<!-- capacity: written by benchmarks/capacity.py -->", "<!-- end of capacity -->"
GALLERIES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
PROBES = 3_368
MIXTURE = 121_765  # images of the paper's five sources
PAPERS_SECONDS = 6.8  # of adaption on a Titan Xp, N=900, K=128: the paper's Figure 4
PAPER_ROW = "adaption (paper network 256x128, N=900, K=128, cpu)"
LAPTOP_ROW = "adaption (laptop network 96x48, N=900, K=128, cpu)"
# What a machine is taken to be: GPUs, each of the speed of the paper's, and cores, each of the speed
# of one here. Work is taken to divide evenly over both, which the library does over cores for packing
# and for rows of a table alone.
ASSUMED = {"one GPU": (1, 16), "one node": (8, 128), "a cluster": (128, 2_048)}


def extrapolated(points: pd.DataFrame, size: float, order: float) -> tuple[float, bool]:
    """Seconds of a step at a size, and whether that size was measured."""
    same = points[points["size"] == size]
    if len(same):
        return float(same["seconds"].iloc[0]), True
    slope, _ = growth.exponent(points)
    largest = points.loc[points["size"].idxmax()]
    if size < largest["size"]:  # between measured sizes: a straight line on logarithmic axes
        return float(largest["seconds"] * (size / largest["size"]) ** slope), False
    return float(largest["seconds"] * (size / largest["size"]) ** max(slope, order)), False


def cores_of(where: str) -> int:
    """How many cores a machine has, by its name in the rows."""
    return int(re.search(r"threads of (\d+)", where)[1])


def work(points: pd.DataFrame) -> list[dict]:
    """Every task with its seconds on the machine of the points.

    Columns: task, size, profile ("laptop" or "paper"), seconds, measured (bool), points (of which it is
    extrapolated), passes (through the network: on a GPU where there is one; then of the laptop alone).
    """
    of = {name: own for name, own in points.groupby("step")}
    found = []

    def add(task: str, step: str, size: int, order: float, times: float = 1, passes: bool = False) -> None:
        for profile, own in (("laptop", of[step]),) if passes else (
                ("laptop", of[step]), ("paper", of[step + growth.PAPER])):
            seconds, measured = extrapolated(own, size, order)
            about = "" if passes else f" ({own['setting'].iloc[0]})"
            found.append({"task": task, "size": size, "profile": profile, "seconds": times * seconds,
                          "passes": passes, "measured": measured and times == 1,
                          "points": f"{own['size'].min():,} to {own['size'].max():,} {own['of'].iloc[0]}{about}"})

    for n in GALLERIES:
        add("render the gallery", "rendering", n, 1)
    for n in GALLERIES:
        add("embed the gallery", "embedding", n, 1, passes=True)
    for n in GALLERIES:
        add("choose K=128 pairs among all of it", "pairing", n, 2)
    add("adapt on K=128 pairs, once they are chosen", "adaption over K", 128, 1, passes=True)
    for n in GALLERIES:
        probes = of["evaluation"]["setting"].iloc[0].split()[0]
        add(f"evaluate {PROBES:,} probes", "evaluation", n, 1, PROBES / int(probes))
    add("train an epoch of the paper's mixture", "training", MIXTURE, 1, passes=True)
    return found


def table(points: pd.DataFrame, rows: pd.DataFrame, cores: int) -> pd.DataFrame:
    """Minutes of each task: a row a task, size and machine, with how it is known.

    Raises ValueError where the rows lack an adaption, which tells the networks' costs apart.
    """
    ours = rows.set_index("name")["ours"]
    missing = [name for name in (PAPER_ROW, LAPTOP_ROW) if name not in ours]
    if missing:
        raise ValueError(f"no row {missing[0]!r} of this machine: run benchmarks/adaption.py first")
    paper = float(ours[PAPER_ROW])
    wider = paper / float(ours[LAPTOP_ROW])  # the paper's network, over the laptop's
    faster = paper / PAPERS_SECONDS  # the paper's GPU, over this machine
    found = []
    for task in work(points):
        held = "" if task["measured"] else f"size, from {task['points']}"
        own, network = task["seconds"], "network" if task["passes"] else ""
        entries = [(f"this machine, {task['profile']} profile", own, held)]
        if task["passes"]:
            own *= wider
            entries.append(("this machine, paper profile", own, "; ".join(
                filter(None, [held, f"network: {wider:.0f} times the laptop's, as in adaption"]))))
        at_paper = task["passes"] or task["profile"] == "paper"  # the columns of other machines are
        for name, (gpus, others) in ASSUMED.items() if at_paper else ():
            if task["passes"]:
                one = task["task"].startswith("adapt")  # its steps follow one another
                speed = faster * (1 if one else gpus)
                words = f"{faster:.0f} times this machine a GPU, from the paper's {PAPERS_SECONDS} s" + (
                    "; on one of them" if one else "")
            else:
                speed, words = others / cores, f"{others:,} cores as fast as one here"
            entries.append((name, own / speed, "; ".join(filter(None, [held, words]))))
        found += [{"task": task["task"], "size": task["size"], "network": network, "machine": where,
                   "minutes": float(f"{seconds / 60:.3g}"), "known": "measured" if not how else
                   f"extrapolated: {how}"} for where, seconds, how in entries]
    return pd.DataFrame(found)


def markdown(found: pd.DataFrame, where: str) -> str:
    """The table for people: a row a task and size, a column a machine; ~ where it is extrapolated."""
    names = ["this machine, laptop profile", "this machine, paper profile", *ASSUMED]
    lines = [f"Minutes. Measured on: {where}. `~` is extrapolated.", "",
             "| task | size | " + " | ".join(names) + " | what stands behind the `~` |",
             "|---|---:|" + "---:|" * len(names) + "---|"]
    for (task, size), own in found.groupby(["task", "size"], sort=False):
        cells = {row.machine: ("" if row.known == "measured" else "~") + words(row.minutes)
                 for row in own.itertuples()}
        how = dict.fromkeys(part for text in own["known"] if text != "measured"
                            for part in text.removeprefix("extrapolated: ").split("; "))
        lines.append(f"| {task} | {size:,} | " + " | ".join(cells[name] for name in names)
                     + f" | {'; '.join(how)} |")
    return "\n".join(lines)


def words(minutes: float) -> str:
    """Minutes of two digits, or in full from 100 on."""
    if minutes < 0.01:
        return "< 0.01"
    rounded = float(f"{minutes:.2g}") if minutes < 100 else minutes
    return f"{rounded:,.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


def inserted(text: str, between: str) -> str:
    """``text`` with what stands between the marks replaced. Raises ValueError where they are not there."""
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"{DOCS.name} lacks the two lines between which the table goes: {', '.join(MARKS)}")
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n\n{between}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main(arguments: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--docs", type=Path,
                        help="default: docs/speed.md for the suite's own rows, else none")
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    path, here = chosen.csv or common.RESULTS, machine()
    rows, points = common.read(path), growth.read(path.with_name("growth.csv"))
    rows, points = rows[rows["machine"] == here], points[points["machine"] == here]
    if rows.empty or points.empty:
        raise SystemExit(f"{path} or growth.csv beside it has no rows of this machine ({here}): make bench "
                         "measures them")
    try:
        found = table(points, rows, cores_of(here))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    write_rows(found, path.with_name("capacity.csv"))
    print(path.with_name("capacity.csv"))
    docs = chosen.docs or (DOCS if path.resolve() == common.RESULTS else None)
    if docs is not None:
        text = inserted(docs.read_text(encoding="utf-8"), markdown(found, here))
        with atomic(docs) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(docs)


if __name__ == "__main__":
    main()
