"""Pictures of sweeps: the gain of adaption against the value of an open choice, or against training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, METRICS, bars, draw_splits, legend, panels
from bnta_lib.suite.choices import gain_rows, split_gains
from bnta_lib.suite.specs import AFFINE, ALL, CHOICES, DIVERGED, Choice

SERIES = ((COLOURS["BNTA"], "o"), (COLOURS["AdaBN"], "s"))
NAMES = {"adam": "Adam", "sgd": "SGD", "1": "1 epoch", "4": "4 epochs"}
LADDERS = {"people": (-0.04, {"color": COLOURS["adapted"], "marker": "o"}),
           "epochs": (0.04, {"color": COLOURS["source"], "marker": "s", "linestyle": "--"})}
VALUE = ["choice", "value_label"]


def choice_figure(rows: pd.DataFrame, choice: Choice, metric: str = "R1",
                  names: Mapping[str, object] | None = None, cited: float | None = None) -> Figure:
    """Gain against the values of a choice, a panel a target (of AFFINE: an optimiser).

    ``rows``: of ``lab.measure("open_choices")``; ``names``: other names of values than their labels;
    ``cited``: the paper's gain.
    """
    rows = rows[rows["choice"] == choice.name]
    lost = rows.loc[rows["metric"] == DIVERGED, [*VALUE, "updated", "target", "split"]]
    gains = _laid_out(pd.concat([split_gains(rows, metric), lost]), choice, names or {})
    titles, series = (list(gains[column].unique()) for column in ("panel", "series"))
    figure, (axes,) = panels(1, len(titles), 2.7, 0.5 if len(titles) == 1 else 1, sharey=True)
    for axis, (title, table) in zip(axes, gains.groupby("panel", sort=False)):
        order = list(table["x"].unique())
        for name, line in table.groupby("series", sort=False):
            colour, marker = SERIES[series.index(name)]
            at = line["x"].map(order.index) + 0.45 * (series.index(name) - (len(series) - 1) / 2)
            for x, values in line.groupby(at)["difference"]:
                if values.isna().all():
                    axis.text(x, 0.03, DIVERGED, transform=axis.get_xaxis_transform(), rotation=90,
                              fontsize=7, ha="center", color=colour)
                else:
                    draw_splits(axis, x, values, colour, marker, apart=0.08, jitter=0.05, bar=marker,
                                label=name and f"{name}: ")
            means = line.groupby(at + 0.08).agg({"difference": "mean", "default": "any"})
            if choice.axis:
                axis.plot(means["difference"], color=colour, lw=0.9, alpha=0.6)
            if means["default"].any():
                ringed = means.loc[means["default"], "difference"]
                axis.plot(ringed, "o", mfc="none", mec="black", ms=9, label="default")
        axis.axhline(0, color="0.35", linewidth=0.8, zorder=0)
        if cited is not None:
            axis.axhline(cited, color="0.35", linestyle=":", linewidth=1.2, label="paper, on its GRID")
        axis.set(title=title, xlabel=choice.title, xlim=(-0.6, len(order) - 0.4))
        axis.set_xticks(range(len(order)), order)
        if len(order) > 3:
            axis.tick_params(axis="x", rotation=90)
    axes[0].set_ylabel(f"gain in {METRICS[metric]}, points")
    legend(figure, "lower", ncols=2 if len(titles) == 1 else 3)
    return figure


def _laid_out(gains: pd.DataFrame, choice: Choice, names: Mapping[str, object]) -> pd.DataFrame:
    """Gains in the order of the values, with columns panel, series, x (text of the axis) and default."""
    gains = gains.assign(panel=gains["target"], default=gains["value_label"] == choice.default)
    gains = gains if choice is AFFINE else gains[gains["updated"] == ALL]
    places, lines, texts = {}, {}, {}
    for i, value in enumerate(choice.values):
        label, place = value.method, value.overrides.get(choice.axis, i)
        others = (NAMES.get(str(v), "") for k, v in value.overrides.items() if k != choice.axis)
        lines[label], places[label] = ["", *others] if choice.axis else [""], place
        texts[label] = (np.format_float_positional(place, trim="-") if choice.axis
                        else str(names.get(label, label)))
    gains = gains.sort_values("value_label", kind="stable", key=lambda labels: labels.map(places))
    labels = gains["value_label"]
    if choice is AFFINE:
        gains["panel"] = gains["target"] + ", " + labels.map(lambda label: lines[label][1])
    return gains.assign(series=labels.map(lambda label: lines[label][-1]), x=labels.map(texts))


def overview_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """All values of all CHOICES, a column a target: mean gain, 95 % interval, the default filled.

    What was not measured on a target, or diverged there, is marked so.
    """
    gains = gain_rows(rows, metric)
    gains = gains[(gains["updated"] == ALL) & gains["choice"].isin(list(CHOICES))]
    lost = rows[(rows["metric"] == DIVERGED) & (rows["updated"] == ALL)]
    keys = [(choice.name, value.method) for choice in CHOICES.values() for value in choice.values]
    blocks = np.repeat(range(len(CHOICES)), [len(choice.values) for choice in CHOICES.values()])
    heights = pd.Series(np.arange(len(keys)) + 0.7 * blocks, pd.MultiIndex.from_tuples(keys))
    targets, colour = list(gains["target"].unique()), COLOURS["BNTA"]
    figure, (axes,) = panels(1, len(targets), 0.19 * heights.max() + 1.5, sharey=True)
    for axis, (target, table) in zip(axes, gains.set_index(VALUE).groupby("target", sort=False)):
        for default, label in ((True, "default"), (False, "another value")):
            part = table[table["default"] == default]
            axis.errorbar(part["difference"], heights[part.index], fmt="o", color=colour, ms=4,
                          xerr=bars(part["difference"], part["low"], part["high"]), elinewidth=1.1,
                          mfc=colour if default else "white", label=f"{label}, 95 % interval")
        axis.axvline(table.loc[table["default"], "difference"].iloc[0], color=colour, lw=1, linestyle=":",
                     label="gain under the defaults")
        axis.axvline(0, color="0.35", linewidth=0.8, label="no gain")
        failed = pd.MultiIndex.from_frame(lost.loc[lost["target"] == target, VALUE])
        for key, height in heights.drop(table.index).items():
            axis.text(0.5, height, DIVERGED if key in failed else "not measured", fontsize=7, color="0.35",
                      ha="center", va="center", transform=axis.get_yaxis_transform(), backgroundcolor="white")
        axis.set(title=target, xlabel=f"gain in {METRICS[metric]}, points")
    axes[0].set_yticks(heights, heights.index.get_level_values(1))
    axes[0].set_ylim(heights.max() + 1, -1)
    for name, top in heights.groupby(level=0).min().items():
        axes[0].annotate({"lambda3": r"$\mathbf{\lambda_3}$"}.get(name, name), (0, top), (-76, 0),
                         axes[0].get_yaxis_transform(), "offset points", ha="right", va="center",
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
