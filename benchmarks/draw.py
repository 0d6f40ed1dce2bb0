"""The speed suite's two figures, of one machine's rows: ``python benchmarks/draw.py [--csv FILE]``.

``results.png`` and ``.pdf`` beside the rows: every goal, and how many times better than it asks ours is.
``growth.png`` and ``.pdf``: seconds over sizes, both logarithmic, with the fitted exponents.
"""

from __future__ import annotations

import sys
from pathlib import Path

import common
import growth
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, use_style
from bnta_lib.files import atomic
from bnta_lib.suite.store import machine

# Okabe and Ito's; each with a marker of its own.
LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"),
         ("#56B4E9", "P"), ("#000000", "X"))


def draw_results(rows: list[common.Row], where: str) -> Figure:
    """A line a goal, the best standing on top: its ratio, its goal, and whether it is met."""
    judged = sorted((row for row in rows if row.met), key=lambda row: row.standing)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 1.3 + 0.27 * len(judged)), layout="constrained")
    for place, row in enumerate(judged):
        met = row.met == "met"
        colour = COLOURS["right" if met else "wrong"]
        axis.plot([1, row.standing], [place, place], color=colour, linewidth=1.2, zorder=1)
        axis.plot(row.standing, place, "o" if met else "X", color=colour, markersize=6,
                  markerfacecolor=colour if met else "white")
        value = f"{row.ratio:#.3g}".rstrip(".") + "x" if row.goal.endswith("x") else f"{row.ours:,.4g} {row.unit}"
        axis.annotate(f"{value}, {'met' if met else 'MISSED'}", (max(row.standing, 1), place), (7, 0),
                      textcoords="offset points", va="center", fontsize=7)
    axis.axvline(1, color="0.3", linewidth=1)
    axis.set_yticks(range(len(judged)), [f"{row.name}  [{row.goal}]" for row in judged], fontsize=7)
    axis.set(xscale="log", ylim=(-0.7, len(judged) - 0.3),
             xlabel="times better than the goal asks (1: just what it asks)")
    axis.set_xlim(axis.get_xlim()[0], axis.get_xlim()[1] ** 1.25)
    in_numbers(axis.xaxis)
    axis.margins(x=0.1)
    marks = [plt.Line2D([], [], color=COLOURS[name], marker=marker, markersize=6, label=label,
                        markerfacecolor=fill)
             for name, marker, label, fill in (("right", "o", "met", COLOURS["right"]),
                                               ("wrong", "X", "missed", "white"))]
    figure.legend(handles=marks, loc="outside lower right", ncol=2, fontsize=8)
    figure.suptitle(f"Ours against each goal (in brackets), on {where}", fontsize=7)
    return figure


def in_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())


def draw_growth(points: pd.DataFrame, where: str) -> Figure:
    """Above, what grows with images; below, with pairs. Open marks and dashes: at the paper profile's sizes.

    The thin grey line beside the points is the fit whose exponent is named.
    """
    pairs = points["of"].str.contains("pairs")
    panels = [own for own in (points[~pairs], points[pairs]) if len(own)]
    figure, axes = plt.subplots(len(panels), figsize=(TEXT_WIDTH, 2.0 + 2.1 * len(panels)), layout="constrained",
                                squeeze=False, height_ratios=[1.5, 1][: len(panels)])
    names = list(dict.fromkeys(points["step"].str.removesuffix(growth.PAPER)))
    for axis, own_points in zip(axes[:, 0], panels):
        for name, own in own_points.groupby("step", sort=False):
            paper, place = name.endswith(growth.PAPER), names.index(name.removesuffix(growth.PAPER))
            (slope, last), (colour, marker) = growth.exponent(own), LINES[place % len(LINES)]
            size, took = np.log(own["size"]), np.log(own["seconds"])
            axis.plot(own["size"], np.exp(took.mean() + slope * (size - size.mean())), color="0.6", linewidth=0.7)
            axis.plot(own["size"], own["seconds"], marker, color=colour, linestyle="--" if paper else "-",
                      linewidth=1.2, markersize=5, markerfacecolor="white" if paper else colour,
                      label=f"{name} ({own['setting'].iloc[0]}): exponent {slope:.2f}, last two {last:.2f}")
        of = own_points["of"].iloc[0] if own_points["of"].nunique() == 1 else "images, or images of the gallery"
        axis.set(xscale="log", yscale="log", xlabel=of, ylabel="seconds")
        in_numbers(axis.xaxis)
        in_numbers(axis.yaxis)
        axis.grid(True, which="major", color="0.9", linewidth=0.6)
    figure.legend(loc="outside lower center", fontsize=7)
    figure.suptitle(where, fontsize=7)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path``.pdf and .png; the same figure is the same bytes."""
    paths = [path.with_suffix(f".{kind}") for kind in ("pdf", "png")]
    for file in paths:
        with atomic(file) as temporary:
            metadata = {"CreationDate": None} if file.suffix == ".pdf" else {"Software": None}
            figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    plt.close(figure)
    return paths


def main(arguments: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    path, here = chosen.csv or common.RESULTS, machine()
    rows = common.read(path)
    rows = rows[rows["machine"] == here]
    if rows.empty:
        raise SystemExit(f"{path} has no rows of this machine ({here}): make bench measures them")
    points = growth.read(path.with_name("growth.csv"))
    points = points[points["machine"] == here]
    use_style()
    written = save(draw_results(common.rows_of(rows), here), path.with_name("results"))
    if len(points):
        written += save(draw_growth(points, here), path.with_name("growth"))
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
