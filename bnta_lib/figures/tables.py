"""Pictures of tables: every split a dot, so that a mean is never seen without its spread."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnta_lib.suite.stats import differences, paired_test
from bnta_lib.suite.tables import gains, reading_of
from bnta_lib.figures.adaption import LOSS_NAMES, SYMBOLS
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def methods_figure(
    rows: pd.DataFrame, against: str = "BNTA w/o TTA", adapters: tuple[str, ...] = (),
    metric: str = "R1",
) -> Figure:
    """Above: each method on each split; below: what an adapter adds to ``against`` on it.

    ``rows``: tidy rows of :func:`bnta_lib.suite.experiments.table_2_rows`. A dot is a split, seeds
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
    axes[0, 0].set(ylabel=f"{name}, %\n(mean ± std over splits)")
    axes[1, 0].set(ylabel=f"{name}: difference from\n{against}, points\n(mean, 95 % interval)")
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


# The two readings of "only mu" in Table 5; the other tables have the first alone.
READINGS = {"alone": ("s", COLOURS["adapted"]), "restore": ("o", COLOURS["AdaBN"])}


def gains_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """What adaption adds in each row of Table 3, 4 or 5: a panel a target, the paper's own first.

    ``rows``: of one of the functions of :mod:`bnta_lib.suite.ablations`; Table 5's of both readings. A
    dot is a split, seeds averaged; the bar is mean and 95 % interval of the paired difference
    from the row without adaption. Open diamonds: the paper's difference, cited.
    """
    tests = gains(rows, metric)
    tests["paper"] = tests.get("paper", np.nan)  # a user's folder has none
    cited = set(tests.loc[tests["paper"].notna(), "target"])
    targets = sorted(tests["target"].unique(), key=lambda name: name not in cited)
    methods = list(tests["method"].unique())
    readings = [reading_of(table) for table in tests["table"].unique()]
    # In each row, from above: the dots and the mean of each reading, then the paper's diamond.
    places = np.linspace(-0.36, 0.36, 2 * len(readings) + 1)
    figure, axes = plt.subplots(
        1, len(targets), figsize=(TEXT_WIDTH, 1.3 + (0.18 + 0.18 * len(readings)) * len(methods)),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )
    for axis, target in zip(axes[0], targets):
        axis.axvline(0, color="0.35", linewidth=0.8)
        for y in range(0, len(methods), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0, linewidth=0)
        for test in tests[tests["target"] == target].itertuples(index=False):
            reading, own = reading_of(test.table), rows[rows["table"] == test.table]
            split = differences(own, test.method, test.against, metric).query("target == @target")
            y = methods.index(test.method) + places
            first = 2 * readings.index(reading)
            own_y = y[first], y[first + 1]
            _gain(axis, own_y, split["difference"].to_numpy(), test, *READINGS[reading])
            if not np.isnan(test.paper):
                axis.plot(test.paper, y[-1], "D", markersize=4.5, markerfacecolor="none",
                          markeredgecolor="black", zorder=4)
        axis.set(title=f"{target}, the paper's target" if target in cited else target)
    axes[0, 0].set(yticks=range(len(methods)), yticklabels=[_row_name(m) for m in methods],
                   ylim=(len(methods) - 0.5, -0.5), ylabel=_row_kind(methods[0]))
    name = {"R1": "rank 1"}.get(metric, metric)
    figure.supxlabel(f"{name}: difference from no adaption, points", fontsize=9)
    _gain_legend(figure, readings, bool(cited))
    return figure


def _gain(axis, y, values, test, marker, colour) -> None:
    """Dots of the splits at the height y[0], mean and interval at y[1]."""
    low, high = np.nan_to_num([test.low, test.high], nan=test.difference)
    axis.plot(values, np.full(len(values), y[0]), marker, color=colour, markersize=3.2,
              alpha=0.55, markeredgewidth=0)
    axis.errorbar(test.difference, y[1], xerr=[[test.difference - low], [high - test.difference]],
                  fmt="|", color=colour, markersize=7, markeredgewidth=2, elinewidth=1.4,
                  capsize=2.5)


def _row_name(method: str) -> str:
    """A row of Tables 3-5 in symbols; Table 3's: the losses of training → those of adaption."""
    if "; tta " in method:
        training, adaption = method.removeprefix("train ").split("; tta ")
        symbols = {"id": "$L_{id}$", "pos": LOSS_NAMES["pos"], "mat": "$L_{mat}$"}
        before = ", ".join(symbols[name] for name in training.split("+"))
        return f"{before} → " + ", ".join(LOSS_NAMES[name] for name in adaption.split("+"))
    names = dict(zip(("mu", "var", "gamma", "beta"), SYMBOLS.values()))
    if set(parts := method.split("+")) <= names.keys():
        return ", ".join(names[part] for part in parts)
    return method


def _row_kind(method: str) -> str:
    return "losses of training → of adaption" if "; tta " in method else "updated at the target"


def _gain_legend(figure: Figure, readings: list[str], cited: bool) -> None:
    handles = []
    for reading in readings:
        marker, colour = READINGS[reading]
        name = f"{reading}: " if len(readings) > 1 else ""
        handles += [Line2D([], [], marker=marker, color=colour, linestyle="", markersize=3.2,
                           alpha=0.55, label=f"{name}a split"),
                    Line2D([], [], marker="|", color=colour, markersize=7, markeredgewidth=2,
                           label=f"{name}mean, 95 % interval")]
    if cited:
        handles.append(Line2D([], [], marker="D", color="black", linestyle="", markersize=4.5,
                              markerfacecolor="none", label="the paper's difference, cited"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
