"""Adaption by camera: what it adds, what it needs, and where the shift lies."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnta_lib.figures.adaption import DEPTH, layer_axis
from bnta_lib.figures.base import COLOURS, METRICS, bars, legend, panels
from bnta_lib.suite.specs import IMAGES
from bnta_lib.suite.stats import describe_by, split_gains

# Gallery, probes and gallery, other people: colour and marker.
PROTOCOLS = (("0.45", "s"), (COLOURS["AdaBN"], "^"), (COLOURS["adapted"], "o"))


def cameras_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """What adaption adds, to the place and by camera, for each kind of images adapted on: a panel a target.

    ``rows``: of ``lab.measure("by_camera")``. A bar is the mean's 95 % interval over splits.
    """
    gains = describe_by(split_gains(rows, ["method", "adapted on"], metric=metric),
                        ["method", "adapted on", "target"])
    gains["method"] = gains["method"].str.partition(";")[0]
    methods, targets = list(gains["method"].unique()), list(gains["target"].unique())
    figure, (axes,) = panels(1, len(targets), 1.2 + 0.28 * len(methods), sharex=True, sharey=True)
    for axis, target in zip(axes, targets):
        axis.axvline(0, color="0.35", linewidth=0.8)
        for y in range(0, len(methods), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0, linewidth=0)
        for place, (words, (colour, marker)) in enumerate(zip(IMAGES.values(), PROTOCOLS)):
            part = gains[(gains["target"] == target) & (gains["adapted on"] == words)]
            axis.errorbar(part["difference"], part["method"].map(methods.index) + 0.25 * (place - 1),
                          xerr=bars(part["difference"], part["low"], part["high"]), fmt=marker, color=colour,
                          ms=4.5, mew=0, elinewidth=1.3, label=f"adapted on {words}")
        axis.set_title(target)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel(f"{METRICS[metric]}: difference from no adaption, points", fontsize=9)
    legend(figure)
    return figure


def along_figure(sweeps: Mapping[str, pd.DataFrame], metric: str = "R1") -> Figure:
    """What adaption by camera adds along a sweep: a row each of ``sweeps``, by axis label, a column a target.

    Each is of :func:`bnta_lib.suite.sweeps.gains_along`.
    """
    targets = list(pd.concat(sweeps.values())["target"].unique())
    figure, axes = panels(len(sweeps), len(targets), 0.4 + 1.75 * len(sweeps), sharey="row", sharex="row")
    for row, (label, table) in zip(axes, sweeps.items()):
        for axis, target in zip(row, targets):
            axis.axhline(0, color="0.35", linewidth=0.8)
            lines = table[table["target"] == target].groupby("line", sort=False)
            for (line, part), (colour, marker) in zip(lines, (PROTOCOLS[2], PROTOCOLS[0])):
                mean = part["difference"]
                axis.errorbar(part["x"], mean, bars(mean, part["low"], part["high"]), fmt=f"-{marker}",
                              color=colour, ms=4, capsize=2, elinewidth=1, label=line)
            if "image" in label or "step" in label:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:g}")
        row[len(targets) // 2].set_xlabel(label)
        if table["line"].nunique() > 1:
            row[0].legend(fontsize=7)
    for axis, target in zip(axes[0], targets):
        axis.set_title(target)
    figure.supylabel(f"{METRICS[metric]}: difference from no adaption, points", fontsize=9)
    return figure


def camera_shift_figure(rows: pd.DataFrame) -> Figure:
    """How much of the distance from the source lies between a place's cameras, in every BN layer.

    ``rows``: of ``lab.measure("camera_shift")``; a panel a target.
    """
    layers = rows.drop_duplicates("index").sort_values("index")["layer"].tolist()
    targets = list(rows["target"].unique())
    figure, axes = panels(len(targets), 1, 1.0 + 1.35 * len(targets), sharex=True, sharey=True)
    for axis, target in zip(axes.flat, targets):
        parts = rows[rows["target"] == target].pivot(index="index", columns="metric", values="value")
        share = 100 * parts["cameras"] / parts.sum(axis=1)
        layer_axis(axis, layers, names=target == targets[0])
        axis.bar(share.index, share, color=COLOURS["adapted"], width=0.8)
        axis.axhline(share.mean(), color="0.35", linewidth=0.8, linestyle="--")
        axis.text(0.995, 0.95, f"mean {share.mean():.0f} %", transform=axis.transAxes, ha="right", va="top",
                  fontsize=8, backgroundcolor="white")
        axis.set_ylabel(f"{target}\nshare, %")
    axes[-1, 0].set_xlabel(DEPTH)
    return figure
