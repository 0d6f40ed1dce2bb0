"""Pictures of sweeps: the gain of adaption against the value of an open choice, or against training."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, METRICS, bars, legend, panels
from bnta_lib.suite.choices import VALUE, diverged, gain_rows
from bnta_lib.suite.specs import AFFINE, ALL, CHOICES, DIVERGED, NONE, Choice

LADDERS = {"people": (-0.04, {"color": COLOURS["adapted"], "marker": "o"}),
           "epochs": (0.04, {"color": COLOURS["source"], "marker": "s", "linestyle": "--"})}


def overview_figure(rows: pd.DataFrame, metric: str = "R1", choices: Iterable[Choice] = CHOICES.values(),
                    cited: float | None = None) -> Figure:
    """All values of the choices, a column a target: mean gain, 95 % interval, the default filled.

    What was not measured on a target, or diverged there, is marked so. ``cited``: the paper's gain.
    """
    blocks = {choice.name: [value.method for value in choice.values] for choice in choices}
    keys = pd.MultiIndex.from_tuples([(name, value) for name, values in blocks.items() for value in values])
    heights = pd.Series(np.arange(len(keys)) + 0.7 * keys.get_level_values(0).factorize()[0], keys)
    # Of AFFINE only gamma and beta are updated, of the others all four.
    rows = rows[(rows["updated"].isin([ALL, NONE]) | (rows["choice"] == AFFINE.name))]
    gains, lost = gain_rows(rows, metric).set_index(VALUE), diverged(rows).set_index(VALUE)
    gains = gains[gains.index.isin(keys)]
    targets, colour = list(gains["target"].unique()), COLOURS["BNTA"]
    figure, (axes,) = panels(1, len(targets), 0.19 * heights.max() + 1.5, sharey=True)
    for axis, (target, table) in zip(axes, gains.groupby("target", sort=False)):
        for default, label in ((True, "default"), (False, "another value")):
            part = table[table["default"] == default]
            axis.errorbar(part["difference"], heights[part.index], fmt="o", color=colour, ms=4,
                          xerr=bars(part["difference"], part["low"], part["high"]), elinewidth=1.1,
                          mfc=colour if default else "white", label=f"{label}, 95 % interval")
        axis.axvline(table.loc[table["default"], "difference"].iloc[0], color=colour, lw=1, linestyle=":",
                     label="gain under the defaults")
        axis.axvline(0, color="0.35", linewidth=0.8, label="no gain")
        if cited is not None:
            axis.axvline(cited, color="0.35", linewidth=1.2, linestyle="--", label="paper, on its GRID")
        failed = lost.index[lost["target"] == target]
        for key, height in heights.drop(table.index).items():
            axis.text(0.5, height, DIVERGED if key in failed else "not measured", fontsize=7, color="0.35",
                      ha="center", va="center", transform=axis.get_yaxis_transform(), backgroundcolor="white")
        axis.set(title=target, xlabel=f"gain in {METRICS[metric]}, points")
    axes[0].set_yticks(heights, keys.get_level_values(1))
    axes[0].set_ylim(heights.max() + 1, -1)
    for name, values in blocks.items() if len(blocks) > 1 else ():
        axes[0].annotate({"lambda3": r"$\mathbf{\lambda_3}$"}.get(name, name), (0, heights[name, values[0]]),
                         (-76, 0), axes[0].get_yaxis_transform(), "offset points", ha="right", va="center",
                         fontweight="bold")
    legend(figure, "lower", fontsize=8)
    return figure


def strength_figure(gains: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: rank 1 without adaption; below: the gain, with its 95 % interval. Target by target.

    ``gains``: of :func:`bnta_lib.suite.strength.strength_gains`.
    """
    targets, shares = list(gains["target"].unique()), sorted(gains["share"].unique())
    figure, axes = panels(2, len(targets), 4.2, 1 if len(targets) > 1 else 0.6, sharex=True, sharey="row")
    for (above, below), target in zip(axes.T, targets):
        # A ladder stands a little aside of the other, so that no interval hides another.
        for ladder, (aside, style) in LADDERS.items():
            line = gains[(gains["target"] == target) & (gains["ladder"] == ladder)].sort_values("share")
            x, ends = np.log2(line["share"]) + aside, bars(line["difference"], line["low"], line["high"])
            above.plot(x, line["frozen"], **style, ms=4, lw=1.3, label=f"share of {ladder}")
            below.errorbar(x, line["difference"], ends, **style, ms=4, lw=1.3, capsize=2, elinewidth=0.9)
        below.axhline(0, color="0.2", linewidth=0.8)
        above.set_title(target)
        below.set_xticks(np.log2(shares), ["all" if s == 1 else f"1/{round(1 / s)}" for s in shares])
        below.set_xlabel("share trained on")
    axes[0, 0].set_ylabel(f"{METRICS[metric]} without\nadaption, %")
    axes[1, 0].set_ylabel(f"{METRICS[metric]}: gain by\nadaption, points")
    figure.align_ylabels()
    legend(figure)
    return figure
