"""Figure 3 of the paper: how far adaption moves each BN layer."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from bnta_lib.adaption import QUANTITIES
from bnta_lib.suite.changes import TOP, mean_rates, top_layers
from bnta_lib.figures.base import TEXT_WIDTH, stages

SYMBOLS = {"mean": r"$\mu$", "var": r"$\sigma^2$", "gamma": r"$\gamma$", "beta": r"$\beta$"}
BARS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: a target each
HATCHES = ("", "////", "....", "xxxx")  # and for who does not tell colours apart


def figure_3(rates: pd.DataFrame, top: int = TOP) -> Figure:
    """Change rates of the top layers of each quantity, a bar a target, a whisker one std.

    ``rates``: of :func:`bnta_lib.suite.changes.change_rates_by_split`. Layers are chosen by their mean
    over targets and stand from shallow to deep; mean and standard deviation over splits. Bars
    far above the others are cut, with a break near the end and their values over them.
    """
    means, targets = mean_rates(rates), list(rates["target"].unique())
    figure, axes = plt.subplots(2, 2, figsize=(TEXT_WIDTH, 4.4), layout="constrained")
    width = 0.86 / len(targets)
    for axis, quantity in zip(axes.flat, QUANTITIES):
        chosen = top_layers(means, quantity, top)
        own = means[means["quantity"] == quantity].set_index(["target", "index"])
        for number, target in enumerate(targets):
            x = np.arange(len(chosen)) + (number - (len(targets) - 1) / 2) * width
            rate, std = (own.loc[target].loc[chosen, c].to_numpy() for c in ("rate", "std"))
            std = np.nan_to_num(std)
            # A whisker below zero would say that a rate can be negative.
            axis.bar(x, rate, width, yerr=[np.minimum(std, rate), std], label=f"S→{target}",
                     color=BARS[number % len(BARS)], hatch=HATCHES[number % len(HATCHES)],
                     edgecolor="white", linewidth=0.4,
                     error_kw={"elinewidth": 0.8, "capsize": 1.2, "ecolor": "0.25"})
        axis.set_xticks(range(len(chosen)), chosen)
        axis.set(xlabel="BN layer, from shallow to deep", ylabel=f"change rate of {SYMBOLS[quantity]}, %")
        _cut(axis)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(targets))
    figure.supxlabel("mean and standard deviation over splits; a broken bar goes on to the value over it",
                     fontsize=8)
    return figure


def _cut(axis: Axes) -> None:
    """Cut an axis of bars at a few times their median: a break, and the value, for each that is cut."""
    bars = [bar for group in axis.containers if isinstance(group, BarContainer) for bar in group]
    heights = np.array([bar.get_height() for bar in bars])
    limit = 4 * np.median(heights)
    if heights.max() <= limit:
        return
    axis.set_ylim(0, limit)
    inside = axis.get_xaxis_transform()
    for bar in (bar for bar in bars if bar.get_height() > limit):
        left, width = bar.get_x(), bar.get_width()
        for colour, line in (("black", 3.2), ("white", 1.8)):
            axis.plot([left, left + width], [0.9, 0.94], color=colour, linewidth=line, transform=inside,
                      solid_capstyle="butt", scalex=False, scaley=False)
        axis.annotate(f"{bar.get_height():.3g}", (left + width / 2, 1), (0, 2), xycoords=inside, ha="center",
                      va="bottom", rotation=90, textcoords="offset points", fontsize=5.6)


def rates_heat_map(rates: pd.DataFrame) -> Figure:
    """Change rates of all layers on a logarithmic colour scale, a row a quantity and target.

    Mean over splits, per cent; grey where nothing moved on any split.
    """
    means, targets = mean_rates(rates), list(rates["target"].unique())
    layers = means.drop_duplicates("index").sort_values("index")["layer"].tolist()
    table = means.pivot(index=["quantity", "target"], columns="index", values="rate")
    table = table.reindex(pd.MultiIndex.from_product([QUANTITIES, targets]))
    values = np.ma.masked_less_equal(table.fillna(0).to_numpy(), 0)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 1.3 + 0.19 * len(table)),
                                layout="constrained")
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.8")
    image = axis.pcolormesh(np.arange(len(layers) + 1) + 0.5, np.arange(len(table) + 1) - 0.5,
                            values, cmap=colours, norm=mpl.colors.LogNorm())
    axis.invert_yaxis()
    axis.set_yticks(range(len(table)), [f"{SYMBOLS[q]}  S→{t}" for q, t in table.index])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="BN layer, from shallow to deep (grey: did not move)",
             ylabel="quantity and target", xticks=sorted({1, *range(10, len(layers) + 1, 10)}))
    for row in range(len(targets), len(table), len(targets)):
        axis.axhline(row - 0.5, color="white", linewidth=3)
    for label, first, last in stages(layers):
        axis.axvline(last + 0.5, color="white", linewidth=0.8)
        lean = {"rotation": 40, "ha": "left"} if last - first < 2 else {"ha": "center"}
        axis.text((first + last) / 2, 1.02, label, transform=axis.get_xaxis_transform(),
                  va="bottom", color="0.35", fontsize=7, **lean)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="change rate, %", pad=0.01)
    return figure
