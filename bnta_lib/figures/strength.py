"""What adaption brings against how well the network was trained."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bnta_lib.figures.base import COLOURS, TEXT_WIDTH
from bnta_lib.figures.grid import NAMES

# A ladder is told by colour, marker and line.
STYLES = {"people": {"color": COLOURS["adapted"], "marker": "o", "linestyle": "-"},
          "epochs": {"color": COLOURS["source"], "marker": "s", "linestyle": "--"}}


def strength_figure(
    gains: pd.DataFrame, metric: str = "R1", others: Mapping[str, pd.DataFrame] | None = None
) -> Figure:
    """Above: rank 1 without adaption; below: the gain, with its 95 % interval. Target by target.

    ``gains``: of :func:`bnta_lib.suite.strength.strength_gains`. ``others``: those of other profiles by name,
    drawn in grey over the same share of their own people and epochs.
    """
    targets, others = list(gains["target"].unique()), others or {}
    width = TEXT_WIDTH if len(targets) > 1 else 0.6 * TEXT_WIDTH
    figure, axes = plt.subplots(2, len(targets), figsize=(width, 4.2), squeeze=False, sharex=True, sharey="row",
                                layout="constrained", gridspec_kw={"height_ratios": [1, 1.2]})
    for (above, below), target in zip(axes.T, targets):
        for name, table in others.items():
            for ladder, own in table[table["target"] == target].groupby("ladder", sort=False):
                style = STYLES[ladder] | {"color": "0.6", "markersize": 3, "linewidth": 0.9,
                                          "label": f"{ladder}, {name} profile"}
                above.plot(own["share"], own["frozen"], **style)
                below.plot(own["share"], own["difference"], **style)
        # A ladder stands a little aside of the other, so that no interval hides another.
        for (ladder, own), aside in zip(gains[gains["target"] == target].groupby("ladder", sort=False),
                                        (0.97, 1.03)):
            own = own.sort_values("share")
            style = STYLES[ladder] | {"markersize": 4, "linewidth": 1.3, "label": f"share of {ladder}"}
            above.plot(own["share"] * aside, own["frozen"], **style)
            ends = [(own["difference"] - own["low"]).fillna(0), (own["high"] - own["difference"]).fillna(0)]
            below.errorbar(own["share"] * aside, own["difference"], yerr=ends, capsize=2, elinewidth=0.9, **style)
        below.axhline(0, color="0.2", linewidth=0.8)
        above.set_title(target)
        ticks = sorted(gains["share"].unique())
        below.set_xscale("log", base=2)
        below.xaxis.set_major_locator(FixedLocator(ticks))
        below.xaxis.set_minor_locator(NullLocator())
        below.set_xticklabels([_share(tick) for tick in ticks])
        below.set_xlabel("share trained on")
    word = NAMES.get(metric, metric)
    axes[0, 0].set_ylabel(f"{word} without\nadaption, %")
    axes[1, 0].set_ylabel(f"{word}: gain by\nadaption, points")
    figure.align_ylabels()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _share(value: float) -> str:
    return "all" if value == 1 else f"1/{round(1 / value)}"
