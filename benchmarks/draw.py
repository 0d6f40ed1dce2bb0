"""The speed suite's figure, of this machine's rows if there are any: ``python benchmarks/draw.py [--csv
FILE]``.

Writes ``results.png`` and ``.pdf`` beside the rows: every goal, and by how many times ours is better than the
goal requires.
"""

import argparse
from pathlib import Path

import common
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, use_style
from bnta_lib.files import atomic
from bnta_lib.suite.store import machine

ALT = "Every goal, and by how many times ours is better than the goal requires"


def draw(rows: pd.DataFrame, where: str) -> Figure:
    """A line a goal, the best standing on top: its ratio, its goal, and whether it is met."""
    names = ["name", "ours", "unit", "rival", "against", "goal"]
    judged = [common.Row(*values) for values in rows.loc[rows["met"] != "", names].itertuples(index=False)]
    judged.sort(key=lambda row: row.standing)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 1.3 + 0.27 * len(judged)), layout="constrained")
    for y, row in enumerate(judged):
        met = row.met == "met"
        colour = COLOURS["right" if met else "wrong"]
        axis.plot([1, row.standing], [y, y], color=colour, linewidth=1.2, zorder=1)
        axis.plot(row.standing, y, "o" if met else "X", color=colour, markersize=6,
                  markerfacecolor=colour if met else "white")
        ratio, ours = f"{row.ratio:#.3g}".rstrip(".") + "x", f"{row.ours:,.4g} {row.unit}"
        value = ratio if row.goal.endswith("x") else ours
        axis.annotate(f"{value}, {'met' if met else 'MISSED'}", (max(row.standing, 1), y), (7, 0),
                      textcoords="offset points", va="center", fontsize=7)
    axis.axvline(1, color="0.3", linewidth=1)
    axis.set_yticks(range(len(judged)), [f"{row.name}  [{row.goal}]" for row in judged], fontsize=7)
    axis.set(xscale="log", ylim=(-0.7, len(judged) - 0.3),
             xlabel="times better than the goal requires (1: just what it requires)")
    axis.set_xlim(axis.get_xlim()[0], axis.get_xlim()[1] ** 1.25)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=7)
    axis.xaxis.label.set_size(8)
    figure.suptitle(f"Ours against each goal (in brackets), on {where}", fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=common.RESULTS)
    path = parser.parse_args(arguments).csv
    rows = common.read(path)
    if rows.empty:
        raise SystemExit(f"{path} has no rows: make bench measures them")
    where = machine() if machine() in set(rows["machine"]) else rows["machine"].iloc[-1]
    use_style()
    figure = draw(rows[rows["machine"] == where], where)
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None, "Description": ALT})):
        with atomic(path.with_name(f"results.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)


if __name__ == "__main__":
    main()
