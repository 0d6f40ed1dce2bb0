"""Pictures of tables: every split a dot, so that a mean is never seen without its spread."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..tables import differences, paired_test
from .base import COLOURS, TEXT_WIDTH

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def methods_figure(
    rows: pd.DataFrame, against: str = "BNTA w/o TTA", adapters: tuple[str, ...] = (),
    metric: str = "R1",
) -> Figure:
    """Above: each method on each split; below: what an adapter adds to ``against`` on it.

    ``rows``: tidy rows of :func:`bnta_lib.experiments.table_2_rows`. A dot is a split, seeds
    averaged. Above, the bar is the mean and the whisker one standard deviation over splits;
    below, mean and 95 % interval of the paired difference.
    """
    targets = list(rows["target"].unique())
    methods = list(rows["method"].unique())
    adapters = adapters or tuple(m for m in methods if m not in (against, "Baseline"))
    figure, axes = plt.subplots(
        2, len(targets), figsize=(TEXT_WIDTH, 4.6), squeeze=False, sharey="row", sharex="row",
        layout="constrained", gridspec_kw={"height_ratios": [1.15, 1]},
    )
    chosen = rows[rows["metric"] == metric]
    by_split = chosen.groupby(["target", "method", "split"], sort=False)["value"].mean()
    for column, target in enumerate(targets):
        above, below = axes[:, column]
        for x, method in enumerate(methods):
            value = by_split.loc[target, method].to_numpy()
            spread = value.std(ddof=1) if len(value) > 1 else 0.0
            _dots(above, x, value, value.mean(), spread, spread, method)
        above.set(title=target)
        _name_ticks(above, methods)
        below.axhline(0, color="0.35", linewidth=0.8)
        for x, method in enumerate(adapters):
            own = differences(chosen, method, against, metric).query("target == @target")
            test = paired_test(chosen, method, against, metric).set_index("target").loc[target]
            mean, low, high = (np.nan_to_num(test[k], nan=test["difference"])
                               for k in ("difference", "low", "high"))
            _dots(below, x, own["difference"].to_numpy(), mean, mean - low, high - mean, method)
        _name_ticks(below, adapters)
    name = {"R1": "rank 1"}.get(metric, metric)
    axes[0, 0].set(ylabel=f"{name}, %")
    axes[1, 0].set(ylabel=f"{name}: difference from\n{against}, points")
    figure.align_ylabels()
    return figure


def _dots(axis, x, values, mean, down, up, method) -> None:
    """Dots of the splits on the left, mean and whisker on the right of a tick."""
    colour = COLOURS.get(method, "0.4")
    order = sorted(COLOURS)
    marker = MARKERS[order.index(method) % len(MARKERS)] if method in order else "o"
    jitter = np.linspace(-0.28, -0.04, len(values)) if len(values) > 1 else np.array([-0.16])
    axis.plot(x + jitter, values, marker, color=colour, markersize=3.6, alpha=0.7,
              markeredgewidth=0)
    axis.errorbar(x + 0.2, mean, [[down], [up]], fmt="_", color=colour, markersize=11,
                  markeredgewidth=2, elinewidth=1.4, capsize=3)


def _name_ticks(axis, names) -> None:
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(names) - 0.5)
