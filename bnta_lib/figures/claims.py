"""The paper's claims beside what is measured here: a forest plot, one line a claim."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnta_lib.suite.stats import RATE, SHARE
from bnta_lib.figures.base import TEXT_WIDTH

# Colour and marker of a verdict: blue, vermilion and grey tell apart for every eye.
VERDICTS = {"holds": ("#0072B2", "o"), "does not hold": ("#D55E00", "X"),
            "not resolved": ("0.45", "s")}
# The least that a claim needs to hold; times have the paper's diamond for that.
THRESHOLDS = {"points": 0, RATE: 0, SHARE: 50}
UNITS = {"points": "points of rank 1", "s": "seconds of adaption (a level)",
         "times": "times the inference without adaption (a level)", SHARE: f"{SHARE} (a share)"}
LINE, GAP = 0.128, 0.4  # inches: a claim, and what stands between two panels


def claims_figure(table: pd.DataFrame) -> Figure:
    """What each claim compares, with its 95 % interval, and the paper's as an open diamond.

    ``table``: of :func:`bnta_lib.suite.claims.check`. A panel for each table or figure of the paper and
    each unit; those in points of rank 1 share their axis, where zero is no difference.
    """
    panels = list(table.groupby(["where", "unit"], sort=False))
    heights = [len(own) for _, own in panels]
    size = TEXT_WIDTH, LINE * sum(heights) + GAP * len(panels) + 0.35
    figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False,
                                gridspec_kw={"height_ratios": heights})
    ends = table.loc[table["unit"] == "points",
                     ["low", "high", "here", "paper"]].to_numpy(float)
    limits = (np.nanmin(ends), np.nanmax(ends)) if np.isfinite(ends).any() else (-1, 1)
    pad = 0.04 * (limits[1] - limits[0]) + 0.1
    before = ""
    for axis, ((where, unit), own) in zip(axes[:, 0], panels):
        _panel(axis, own, unit)
        if unit == "points":
            axis.set_xlim(limits[0] - pad, limits[1] + pad)
        elif unit == SHARE:
            axis.set_xlim(-3, 103)
        if where != before:
            axis.set_title(where, loc="left", x=-1.28, fontweight="bold", fontsize=8, pad=2)
        axis.set_xlabel(UNITS.get(unit, unit), fontsize=7, labelpad=1)
        before = where
    # The panels' heights in inches come out as LINE a claim.
    figure.subplots_adjust(left=0.56, right=0.99, top=1 - 0.35 / size[1],
                           bottom=GAP / size[1], hspace=GAP / (LINE * np.mean(heights)))
    figure.legend(handles=_legend(), loc="upper center", ncols=4, fontsize=7.5,
                  bbox_to_anchor=(0.5, 1.0), handletextpad=0.4, columnspacing=1.4,
                  borderaxespad=0)
    return figure


def _panel(axis: Axes, own: pd.DataFrame, unit: str) -> None:
    if unit in THRESHOLDS:
        axis.axvline(THRESHOLDS[unit], color="0.6", linewidth=0.8, zorder=0)
    for y, row in enumerate(own.itertuples(index=False)):
        colour, marker = VERDICTS[row.verdict]
        if np.isfinite(row.low):
            axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.3,
                      solid_capstyle="butt")
        axis.plot(row.here, y, marker, color=colour, markersize=4.5, markeredgewidth=0)
    axis.plot(own["paper"], range(len(own)), "D", markerfacecolor="none",
              markeredgecolor="black", markersize=4.5, markeredgewidth=0.8)
    named = [_symbols(claim if target == "all" else f"{claim} · {target}")
             for claim, target in zip(own["claim"], own["target"])]
    axis.set_yticks(range(len(own)), named, fontsize=6.5)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7, length=2.5, pad=1.5)
    axis.set_ylim(len(own) - 0.4, -0.6)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", color="0.93", linewidth=0.6)
    axis.set_axisbelow(True)


def _symbols(text: str) -> str:
    """L_mat as a symbol of matplotlib's; dollars of a folder's name stay dollars."""
    return re.sub(r"\bL_([a-z]+)", r"$L_{\\mathrm{\1}}$", text.replace("$", r"\$"))


def _legend() -> list[Line2D]:
    ours = [Line2D([], [], color=colour, marker=marker, markersize=4.5, markeredgewidth=0,
                   linewidth=1.3, label=f"here: {verdict}")
            for verdict, (colour, marker) in VERDICTS.items()]
    return [*ours, Line2D([], [], linestyle="", marker="D", markerfacecolor="none", color="black",
                          markersize=4.5, markeredgewidth=0.8, label="paper, cited")]
