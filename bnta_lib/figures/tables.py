"""Pictures of tables: every split a dot, so that a mean is never seen without its spread."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, METRICS, bars, draw_splits, legend, panels
from bnta_lib.suite.stats import RATE, SHARE, differences, interval
from bnta_lib.suite.tables import gains, losses_of, reading_of, symbols

# The two readings of "only mu" in Table 5; the other tables have the first alone.
READING_STYLES = {"alone": ("s", COLOURS["adapted"]), "restore": ("o", COLOURS["AdaBN"])}
# Colour and marker of a verdict: blue, vermilion and grey differ for every eye.
VERDICTS = {"holds": ("#0072B2", "o"), "does not hold": ("#D55E00", "X"), "not resolved": ("0.45", "s")}
# The least that a claim needs to hold; times have the paper's diamond for that.
THRESHOLDS = {"points": 0, RATE: 0, SHARE: 50}
UNITS = {"points": "points of rank 1", "s": "seconds of adaption (a level)",
         "times": "times the inference without adaption (a level)", SHARE: f"{SHARE} (a share)"}
PAPER = {"marker": "D", "linestyle": "", "ms": 4.5, "mfc": "none", "mec": "black", "mew": 0.8, "zorder": 4}


def methods_figure(rows: pd.DataFrame, against: str = "BNTA w/o TTA", metric: str = "R1") -> Figure:
    """Above: each method on each split; below: what each adapter adds to ``against`` on it.

    ``rows``: of Table 2; a dot is a split, seeds averaged. Whiskers above are one standard deviation over
    splits, below the 95 % interval of the paired difference.
    """
    measured, targets = rows[rows["metric"] == metric], list(rows["target"].unique())
    levels = measured.groupby(["target", "method", "split"], sort=False, as_index=False)["value"].mean()
    adapters = [method for method in levels["method"].unique() if method not in (against, "Baseline")]
    paired = pd.concat([differences(measured, adapter, against, metric).assign(method=adapter)
                        for adapter in adapters]).rename(columns={"difference": "value"})
    spreads = (lambda values: values.mean() + np.array([-1, 1]) * values.std()), interval
    figure, axes = panels(2, len(targets), 5.4, sharey="row", sharex="row", height_ratios=[1.15, 1])
    for column, target in zip(axes.T, targets):
        for axis, table, spread in zip(column, (levels, paired), spreads):
            groups = table[table["target"] == target].groupby("method", sort=False)["value"]
            for x, (name, values) in enumerate(groups):
                draw_splits(axis, x, values, COLOURS.get(name, "0.4"), spread=spread)
            axis.set_xticks(range(len(groups)), groups.groups)
            axis.tick_params(axis="x", rotation=90)
        column[0].set(title=target)
        column[1].axhline(0, color="0.35", linewidth=0.8)
    axes[0, 0].set(ylabel=f"{METRICS[metric]}, %\n(mean ± std over splits)")
    axes[1, 0].set(ylabel=f"{METRICS[metric]}: difference from\n{against}, points\n(mean, 95 % interval)")
    figure.align_ylabels()
    return figure


def gains_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """What adaption adds in each row of Table 3, 4 or 5: a panel a target, the paper's own first.

    ``rows``: of one table, Table 5 in both readings. A dot is a split, seeds averaged; the bar is mean
    and 95 % interval of the paired difference from the row without adaption.
    """
    tests = gains(rows, metric)
    tests["paper"] = tests.get("paper", np.nan)  # a user's folder has none
    cited = set(tests.loc[tests["paper"].notna(), "target"])
    targets = sorted(tests["target"].unique(), key=lambda name: name not in cited)
    methods, tables = list(tests["method"].unique()), list(tests["table"].unique())
    # In each row, from above: the dots and the mean of each reading, then the paper's diamond.
    step = 0.36 / len(tables)
    figure, (axes,) = panels(1, len(targets), 1.3 + (0.18 + 0.18 * len(tables)) * len(methods), sharex=True,
                             sharey=True)
    for axis, target in zip(axes, targets):
        axis.axvline(0, color="0.35", linewidth=0.8)
        for y in range(0, len(methods), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0, linewidth=0)
        for test in tests[tests["target"] == target].itertuples(index=False):
            reading, y = reading_of(test.table), methods.index(test.method)
            splits = differences(rows[rows["table"] == test.table], test.method, test.against, metric)
            marker, colour = READING_STYLES[reading]
            draw_splits(axis, y - 0.36 + step * (2 * tables.index(test.table) + 0.5),
                        splits.loc[splits["target"] == target, "difference"], colour, marker, bar="|",
                        apart=step / 2, jitter=0, upright=False, label=f"{reading}: " * (len(tables) > 1))
            if not np.isnan(test.paper):
                axis.plot(test.paper, y + 0.36, label="the paper's difference, cited", **PAPER)
        axis.set(title=f"{target}, the paper's target" if target in cited else target)
    kind, names = "updated at the target", [symbols(method, ", ") for method in methods]
    if "; tta " in methods[0]:
        kind = "losses of training → of adaption"
        names = [" → ".join(symbols(losses, ", ") for losses in losses_of(method)) for method in methods]
    axes[0].set_yticks(range(len(methods)), map(_in_symbols, names))
    axes[0].set(ylim=(len(methods) - 0.5, -0.5), ylabel=kind)
    figure.supxlabel(f"{METRICS[metric]}: difference from no adaption, points", fontsize=9)
    legend(figure, ncols=3, fontsize=8)
    return figure


def _in_symbols(text: str) -> str:
    """L_mat and L_mat^tta as matplotlib's symbols; dollars of a folder's name stay dollars."""
    text = re.sub(r"\bL_([a-z]+)", r"$L_{\\mathrm{\1}}$", text.replace("$", r"\$"))
    return text.replace("^tta", r"$^{\mathrm{tta}}$")


def claims_figure(table: pd.DataFrame) -> Figure:
    """What each claim compares, with its 95 % interval, beside the paper's number.

    ``table``: of :func:`bnta_lib.suite.claims.judge`. A panel for each table or figure of the paper and unit.
    """
    groups = table.groupby(["where", "unit"], sort=False)
    heights = groups.size() + 0.5
    figure, axes = panels(len(groups), 1, (0.128 * heights + 0.4).sum() + 0.35, height_ratios=heights)
    points = table.loc[table["unit"] == "points", ["low", "high", "here", "paper"]].to_numpy(float)
    for axis, ((where, unit), rows) in zip(axes[:, 0], groups):
        _draw_claims(axis, rows)
        if unit in THRESHOLDS:
            axis.axvline(THRESHOLDS[unit], color="0.6", linewidth=0.8, zorder=0)
        if unit == "points":
            axis.set_xlim(np.nanmin(points) - 0.6, np.nanmax(points) + 0.6)
        axis.set_xlabel(UNITS.get(unit, unit), fontsize=7, labelpad=1)
        axis.annotate(where, (0, 1), (-250, 2), "axes fraction", "offset points", weight="bold", size=8)
    legend(figure, fontsize=7.5)
    return figure


def _draw_claims(axis: Axes, rows: pd.DataFrame) -> None:
    y = pd.Series(range(len(rows)), rows.index)
    for verdict, (colour, marker) in VERDICTS.items():
        part = rows[rows["verdict"] == verdict]
        axis.errorbar(part["here"], y[part.index], xerr=bars(part["here"], part["low"], part["high"]),
                      fmt=marker, color=colour, ms=4.5, mew=0, elinewidth=1.3, label=f"here: {verdict}")
    axis.plot(rows["paper"], y, label="paper, cited", **PAPER)
    names = rows["claim"] + np.where(rows["target"] == "all", "", " · " + rows["target"])
    axis.set_yticks(y, map(_in_symbols, names), fontsize=6.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7, length=2.5, pad=1.5)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", color="0.93", linewidth=0.6)
    axis.set_axisbelow(True)
