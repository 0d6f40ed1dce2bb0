"""Pictures of sweeps: the gain of adaption against the value of an open choice, or against training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, METRICS, bars, draw_splits, legend, mark, panels
from bnta_lib.suite.choices import gain_rows, split_gains
from bnta_lib.suite.specs import AFFINE, ALL, CHOICES, DIVERGED, Choice

SERIES = ((COLOURS["BNTA"], "o"), (COLOURS["AdaBN"], "s"))
NAMES = {"adam": "Adam", "sgd": "SGD", "1": "1 epoch", "4": "4 epochs"}
LEANING = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
LADDERS = {"people": {"color": COLOURS["adapted"], "marker": "o"},
           "epochs": {"color": COLOURS["source"], "marker": "s", "linestyle": "--"}}
VALUE = ["choice", "value_label"]


def choice_figure(rows: pd.DataFrame, choice: Choice, metric: str = "R1",
                  names: Mapping[str, object] | None = None, cited: float | None = None) -> Figure:
    """Gain against the values of a choice, a panel a target (of AFFINE: an optimiser).

    ``rows``: of ``lab.measure("open_choices")``; ``names``: what to call values on the axis instead of their
    label. A faint dot is a split; beside them mean and 95 % interval; the default is ringed. ``cited``: the
    paper's gain, drawn as a line.
    """
    rows = rows[rows["choice"] == choice.name]
    lost = rows.loc[rows["metric"] == DIVERGED, [*VALUE, "updated", "target", "split"]]
    gains = _laid_out(pd.concat([split_gains(rows, metric), lost]), choice, names or {})
    titles, series = (list(gains[column].unique()) for column in ("panel", "series"))
    figure, (axes,) = panels(1, len(titles), 2.7, 0.5 if len(titles) == 1 else 1, sharey=True)
    for axis, title in zip(axes, titles):
        table = gains[gains["panel"] == title]
        order = list(table["x"].unique())
        for number, (name, (colour, marker)) in enumerate(zip(series, SERIES)):
            line = table[table["series"] == name]
            at = line["x"].map(order.index) + 0.45 * (number - (len(series) - 1) / 2)
            for x, values in line.groupby(at)["difference"]:
                if values.isna().all():
                    axis.text(x, 0.03, DIVERGED, transform=axis.get_xaxis_transform(), rotation=90,
                              fontsize=7, ha="center", color=colour)
                else:
                    draw_splits(axis, x, values, colour, marker, apart=0.08, jitter=0.05, bar=marker)
            means = line.groupby(at + 0.08).agg({"difference": "mean", "default": "any"})
            if choice.axis:
                axis.plot(means["difference"], color=colour, lw=0.9, alpha=0.6)
            axis.plot(means.loc[means["default"], "difference"], "o", mfc="none", mec="black", ms=9)
        axis.axhline(0, color="0.35", linewidth=0.8, zorder=0)
        if cited is not None:
            axis.axhline(cited, color="0.35", linestyle=":", linewidth=1.2)
        axis.set(title=title, xlabel=choice.title, xlim=(-0.6, len(order) - 0.4))
        axis.set_xticks(range(len(order)), order, **(LEANING if len(order) > 3 else {}))
    axes[0].set_ylabel(f"gain in {METRICS[metric]}, points")
    marks = [mark(name, marker, colour, ms=4) for name, (colour, marker) in zip(series, SERIES) if name]
    marks += [mark("a split", ".", "0.5"), mark("mean, 95 % interval", "|", "0.35", ms=9, mew=1.3),
              mark("default", "o", "black", ms=8, mfc="none")]
    marks += [mark("paper, on its GRID", color="0.35", linestyle=":", linewidth=1.2)] * (cited is not None)
    legend(figure, marks, side="lower", ncols=len(marks) if len(titles) > 2 else 3)
    return figure


def _laid_out(gains: pd.DataFrame, choice: Choice, names: Mapping[str, object]) -> pd.DataFrame:
    """Gains in the order of the values, with columns panel, series, x (text of the axis) and default."""
    gains = gains.assign(panel=gains["target"], default=gains["value_label"] == choice.default)
    gains = gains if choice is AFFINE else gains[gains["updated"] == ALL]
    overrides = {value.method: value.overrides for value in choice.values}
    places = {label: given.get(choice.axis, i) for i, (label, given) in enumerate(overrides.items())}
    gains = gains.sort_values("value_label", kind="stable", key=lambda labels: labels.map(places))
    lines = {label: [NAMES.get(str(v), "") for k, v in given.items() if choice.axis and k != choice.axis]
             for label, given in overrides.items()}
    if choice is AFFINE:
        gains["panel"] = gains["target"] + ", " + gains["value_label"].map(lambda label: lines[label][0])
    texts = {label: np.format_float_positional(place, trim="-") for label, place in places.items()}
    if not choice.axis:
        texts = {label: str(names.get(label, label)) for label in places}
    return gains.assign(series=gains["value_label"].map(lambda label: "".join(lines[label][-1:])),
                        x=gains["value_label"].map(texts))


def overview_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """All values of all CHOICES as a forest plot, a column a target: mean gain, 95 % interval.

    The dotted line is the gain under the defaults; a filled marker is a default value. What was
    not measured on a target, or diverged there, is marked so.
    """
    gains = gain_rows(rows, metric)
    gains = gains[(gains["updated"] == ALL) & gains["choice"].isin(list(CHOICES))]
    targets, colour, heights, bottom = list(gains["target"].unique()), COLOURS["BNTA"], {}, 0.0
    for choice in CHOICES.values():
        heights |= {(choice.name, value.method): bottom + i for i, value in enumerate(choice.values)}
        bottom += len(choice.values) + 0.7
    heights = pd.Series(heights)
    figure, (axes,) = panels(1, len(targets), 0.19 * bottom + 1.2, sharey=True)
    for axis, target in zip(axes, targets):
        table = gains[gains["target"] == target].set_index(VALUE)
        axis.axvline(0, color="0.35", linewidth=0.8)
        axis.axvline(table.loc[table["default"], "difference"].iloc[0], color=colour, lw=1, linestyle=":")
        for default, part in table.groupby("default"):
            axis.errorbar(part["difference"], heights[part.index], fmt="o", color=colour, ms=4,
                          elinewidth=1.1, xerr=bars(part["difference"], part["low"], part["high"]),
                          mfc=colour if default else "white")
        lost = rows[(rows["metric"] == DIVERGED) & (rows["updated"] == ALL) & (rows["target"] == target)]
        lost = heights.index.intersection(pd.MultiIndex.from_frame(lost[VALUE]))
        notes = dict.fromkeys(heights[lost], DIVERGED)
        for name, missing in heights.drop([*table.index, *lost]).groupby(level=0):
            whole = len(missing) == len(CHOICES[name].values)
            notes |= dict.fromkeys([missing.mean()] if whole else missing, "not measured")
        for height, note in notes.items():
            axis.text(0.5, height, note, fontsize=7, color="0.35", ha="center", va="center",
                      transform=axis.get_yaxis_transform(), backgroundcolor="white")
        axis.set(title=target, xlabel=f"gain in {METRICS[metric]}, points")
    axes[0].set_yticks(heights, heights.index.get_level_values(1))
    axes[0].set_ylim(bottom - 0.2, -1)
    for name, top in heights.groupby(level=0).min().items():
        axes[0].annotate({"lambda3": r"$\mathbf{\lambda_3}$"}.get(name, name), (0, top), (-76, 0),
                         axes[0].get_yaxis_transform(), "offset points", ha="right", va="center",
                         fontweight="bold")
    style = {"linewidth": 1.1, "linestyle": "-", "markersize": 4}
    legend(figure, [mark("default, 95 % interval", "o", colour, **style),
                    mark("another value", "o", colour, mfc="white", **style),
                    mark("gain under the defaults", color=colour, linestyle=":"),
                    mark("no gain", color="0.35", linestyle="-", linewidth=0.8)], side="lower", fontsize=8)
    return figure


def strength_figure(gains: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: rank 1 without adaption; below: the gain, with its 95 % interval. Target by target.

    ``gains``: of :func:`bnta_lib.suite.strength.strength_gains`, over the share of people and of
    epochs that a network was trained on.
    """
    targets, shares = list(gains["target"].unique()), sorted(gains["share"].unique())
    figure, axes = panels(2, len(targets), 4.2, 1 if len(targets) > 1 else 0.6, sharex=True, sharey="row",
                          height_ratios=[1, 1.2])
    for (above, below), target in zip(axes.T, targets):
        # A ladder stands a little aside of the other, so that no interval hides another.
        for aside, (ladder, style) in zip((-0.04, 0.04), LADDERS.items()):
            line = gains[(gains["target"] == target) & (gains["ladder"] == ladder)].sort_values("share")
            x, ends = np.log2(line["share"]) + aside, bars(line["difference"], line["low"], line["high"])
            style = style | {"ms": 4, "lw": 1.3, "label": f"share of {ladder}"}
            above.plot(x, line["frozen"], **style)
            below.errorbar(x, line["difference"], ends, capsize=2, elinewidth=0.9, **style)
        below.axhline(0, color="0.2", linewidth=0.8)
        above.set_title(target)
        below.set_xticks(np.log2(shares), ["all" if s == 1 else f"1/{round(1 / s)}" for s in shares])
        below.set_xlabel("share trained on")
    axes[0, 0].set_ylabel(f"{METRICS[metric]} without\nadaption, %")
    axes[1, 0].set_ylabel(f"{METRICS[metric]}: gain by\nadaption, points")
    figure.align_ylabels()
    legend(figure, *axes[0, 0].get_legend_handles_labels())
    return figure
