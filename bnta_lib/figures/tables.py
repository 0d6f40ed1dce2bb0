"""Pictures of tables: every split a dot, so that a mean is never seen without its spread."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, METRICS, draw_splits, legend, mark, panels
from bnta_lib.suite.stats import RATE, SHARE, differences, interval
from bnta_lib.suite.tables import gains, losses_of, reading_of, symbols

MARKERS = dict(zip(sorted(COLOURS), "osD^vPXosD"))
# The two readings of "only mu" in Table 5; the other tables have the first alone.
READING_STYLES = {"alone": ("s", COLOURS["adapted"]), "restore": ("o", COLOURS["AdaBN"])}
# Colour and marker of a verdict: blue, vermilion and grey differ for every eye.
VERDICTS = {"holds": ("#0072B2", "o"), "does not hold": ("#D55E00", "X"), "not resolved": ("0.45", "s")}
# The least that a claim needs to hold; times have the paper's diamond for that.
THRESHOLDS = {"points": 0, RATE: 0, SHARE: 50}
UNITS = {"points": "points of rank 1", "s": "seconds of adaption (a level)",
         "times": "times the inference without adaption (a level)", SHARE: f"{SHARE} (a share)"}


def methods_figure(rows: pd.DataFrame, against: str = "BNTA w/o TTA", metric: str = "R1") -> Figure:
    """Above: each method on each split; below: what each adapter adds to ``against`` on it.

    ``rows``: tidy rows of Table 2. A dot is a split, seeds averaged. Above, the bar is the mean and the
    whisker one standard deviation over splits; below, mean and 95 % interval of the paired difference.
    """
    targets, methods = list(rows["target"].unique()), list(rows["method"].unique())
    adapters = [method for method in methods if method not in (against, "Baseline")]
    measured = rows[rows["metric"] == metric]
    levels = measured.groupby(["target", "method", "split"], sort=False, as_index=False)["value"].mean()
    paired = {adapter: differences(measured, adapter, against, metric) for adapter in adapters}
    paired = pd.concat(paired, names=["method"]).reset_index("method").rename(columns={"difference": "value"})
    figure, axes = panels(2, len(targets), 5.4, sharey="row", sharex="row", height_ratios=[1.15, 1])
    for (above, below), target in zip(axes.T, targets):
        for axis, table, names, spread in ((above, levels, methods, deviation),
                                           (below, paired, adapters, interval)):
            for x, name in enumerate(names):
                values = table.loc[(table["target"] == target) & (table["method"] == name), "value"]
                draw_splits(axis, x, values, COLOURS.get(name, "0.4"), MARKERS.get(name, "o"), spread)
            axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
            axis.set_xlim(-0.5, len(names) - 0.5)
        above.set(title=target)
        below.axhline(0, color="0.35", linewidth=0.8)
    axes[0, 0].set(ylabel=f"{METRICS[metric]}, %\n(mean ± std over splits)")
    axes[1, 0].set(ylabel=f"{METRICS[metric]}: difference from\n{against}, points\n(mean, 95 % interval)")
    figure.align_ylabels()
    return figure


def deviation(values: np.ndarray) -> tuple[float, float]:
    """One standard deviation below the mean, and one above."""
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return values.mean() - spread, values.mean() + spread


def gains_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """What adaption adds in each row of Table 3, 4 or 5: a panel a target, the paper's own first.

    ``rows``: of Table 3, 4 or 5, the last in both readings. A dot is a split, seeds averaged; the bar is mean
    and 95 % interval of the paired difference from the row without adaption. Open diamonds: the paper's.
    """
    tests = gains(rows, metric)
    tests["paper"] = tests.get("paper", np.nan)  # a user's folder has none
    cited = set(tests.loc[tests["paper"].notna(), "target"])
    targets = sorted(tests["target"].unique(), key=lambda name: name not in cited)
    methods = list(tests["method"].unique())
    readings = [reading_of(table) for table in tests["table"].unique()]
    # In each row, from above: the dots and the mean of each reading, then the paper's diamond.
    step = 0.36 / len(readings)
    figure, (axes,) = panels(1, len(targets), 1.3 + (0.18 + 0.18 * len(readings)) * len(methods), sharex=True,
                             sharey=True)
    for axis, target in zip(axes, targets):
        axis.axvline(0, color="0.35", linewidth=0.8)
        for y in range(0, len(methods), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0, linewidth=0)
        for test in tests[tests["target"] == target].itertuples(index=False):
            reading, y = reading_of(test.table), methods.index(test.method)
            splits = differences(rows[rows["table"] == test.table], test.method, test.against, metric)
            marker, colour = READING_STYLES[reading]
            draw_splits(axis, y - 0.36 + step * (2 * readings.index(reading) + 0.5),
                        splits.loc[splits["target"] == target, "difference"], colour, marker, bar="|",
                        apart=step / 2, jitter=0, upright=False)
            if not np.isnan(test.paper):
                axis.plot(test.paper, y + 0.36, "D", ms=4.5, mfc="none", mec="black", zorder=4)
        axis.set(title=f"{target}, the paper's target" if target in cited else target)
    kind, names = "updated at the target", [symbols(method, ", ") for method in methods]
    if "; tta " in methods[0]:
        kind = "losses of training → of adaption"
        names = [" → ".join(symbols(losses, ", ") for losses in losses_of(method)) for method in methods]
    axes[0].set_yticks(range(len(methods)), map(_in_symbols, names))
    axes[0].set(ylim=(len(methods) - 0.5, -0.5), ylabel=kind)
    figure.supxlabel(f"{METRICS[metric]}: difference from no adaption, points", fontsize=9)
    marks = []
    for reading in readings:
        name, (marker, colour) = f"{reading}: " if len(readings) > 1 else "", READING_STYLES[reading]
        marks += [mark(f"{name}a split", marker, colour, ms=3.2, alpha=0.55),
                  mark(f"{name}mean, 95 % interval", "|", colour, ms=7, mew=2, linestyle="-")]
    marks += [mark("the paper's difference, cited", "D", "black", ms=4.5, mfc="none")] * bool(cited)
    legend(figure, marks, ncols=3, fontsize=8)
    return figure


def _in_symbols(text: str) -> str:
    """L_mat and L_mat^tta as matplotlib's symbols; dollars of a folder's name stay dollars."""
    text = re.sub(r"\bL_([a-z]+)", r"$L_{\\mathrm{\1}}$", text.replace("$", r"\$"))
    return text.replace("^tta", r"$^{\mathrm{tta}}$")


def claims_figure(table: pd.DataFrame) -> Figure:
    """What each claim compares, with its 95 % interval, and the paper's as an open diamond.

    ``table``: of :func:`bnta_lib.suite.judge.judge`. A panel for each table or figure of the paper and
    each unit; those in points of rank 1 share their axis, where zero is no difference.
    """
    groups = list(table.groupby(["where", "unit"], sort=False))
    heights = [len(rows) + 0.5 for _, rows in groups]
    figure, axes = panels(len(groups), 1, 0.128 * sum(heights) + 0.4 * len(groups) + 0.35,
                          height_ratios=heights)
    points = table.loc[table["unit"] == "points", ["low", "high", "here", "paper"]].to_numpy(float)
    limits = {"points": (np.nanmin(points) - 0.6, np.nanmax(points) + 0.6), SHARE: (-3, 103)}
    before = None
    for axis, ((where, unit), rows) in zip(axes[:, 0], groups):
        _claims_panel(axis, rows, THRESHOLDS.get(unit))
        axis.set_xlim(limits.get(unit))
        axis.set_xlabel(UNITS.get(unit, unit), fontsize=7, labelpad=1)
        axis.annotate("" if where == before else where, (0, 1), (-250, 2), "axes fraction", "offset points",
                      fontweight="bold", fontsize=8)
        before = where
    marks = [mark(f"here: {verdict}", marker, colour, ms=4.5, mew=0, lw=1.3, linestyle="-")
             for verdict, (colour, marker) in VERDICTS.items()]
    legend(figure, [*marks, mark("paper, cited", "D", "black", ms=4.5, mfc="none", mew=0.8)], fontsize=7.5)
    return figure


def _claims_panel(axis: Axes, rows: pd.DataFrame, threshold: float | None) -> None:
    if threshold is not None:
        axis.axvline(threshold, color="0.6", linewidth=0.8, zorder=0)
    for y, row in enumerate(rows.itertuples(index=False)):
        colour, marker = VERDICTS[row.verdict]
        axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
        axis.plot(row.here, y, marker, color=colour, ms=4.5, mew=0)
    axis.plot(rows["paper"], range(len(rows)), "D", mfc="none", mec="black", ms=4.5, mew=0.8)
    names = rows["claim"] + np.where(rows["target"] == "all", "", " · " + rows["target"])
    axis.set_yticks(range(len(rows)), map(_in_symbols, names), fontsize=6.5)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7, length=2.5, pad=1.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", color="0.93", linewidth=0.6)
    axis.set_axisbelow(True)
