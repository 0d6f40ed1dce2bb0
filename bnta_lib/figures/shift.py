"""Figure 1 of the paper: what a BN layer puts out on the source and on a target."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, mark_stages

KINDS = {"source": "source", "frozen": "target, frozen", "adapted": "target, adapted"}
STYLES = {"source": "-", "frozen": "--", "adapted": "-"}


def figure_1(
    outputs: Mapping[str, Mapping[str, Tensor]],
    distances: Mapping[str, Mapping[str, float]],
    label: str = "output of the BN layer",
) -> Figure:
    """Densities of a BN layer's outputs, a panel a target, with their distance to the source.

    ``outputs[target]`` holds values of any shape for "source", "frozen" and "adapted";
    ``distances[target]`` the distance of the last two from the source, shown in the legend.
    """
    figure, axes = plt.subplots(
        1, len(outputs), figsize=(TEXT_WIDTH, 2.5), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )
    every = [v.flatten().double().numpy() for own in outputs.values() for v in own.values()]
    low = min(np.quantile(v, 0.002) for v in every)
    high = max(np.quantile(v, 0.998) for v in every)
    if low == high:  # a dead channel puts out one value
        low, high = low - 0.5, high + 0.5
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    edges = np.linspace(low, high, 301)
    for axis, (target, own) in zip(axes[0], outputs.items()):
        for kind, text in KINDS.items():
            if kind in distances[target]:
                text += f", d = {distances[target][kind]:.3f}"
            axis.plot((edges[1:] + edges[:-1]) / 2, _density(own[kind], edges), STYLES[kind],
                      color=COLOURS[kind], linewidth=1.4, label=text)
        axis.set(title=target)
        axis.legend(fontsize=7, loc="upper left", handlelength=1.6, borderaxespad=0.1)
    figure.supxlabel(label, fontsize=9)
    axes[0][0].set(ylabel="density")
    axes[0][0].set_ylim(0, 1.45 * axes[0][0].get_ylim()[1])  # room for the legends
    axes[0][0].set_xlim(low, high)
    return figure


def _density(values: Tensor, edges: np.ndarray) -> np.ndarray:
    """Histogram smoothed with a Gaussian of Scott's bandwidth: a KDE fast on a million values."""
    v = values.flatten().double().numpy()
    counts, _ = np.histogram(v, edges)
    step = edges[1] - edges[0]
    inside = v[(v >= edges[0]) & (v <= edges[-1])]
    bandwidth = inside.std() * len(inside) ** -0.2
    return gaussian_filter1d(counts / (len(v) * step), max(bandwidth / step, 0.5),
                             mode="constant")


def distances_figure(shift: pd.DataFrame, layer: str | None = None) -> Figure:
    """Distance from the source in every BN layer, frozen and adapted, a panel a target.

    ``shift``: rows of :func:`bnta_lib.suite.experiments.shift_rows`. ``layer`` is marked where given.
    """
    layers = shift.drop_duplicates("index").sort_values("index")["layer"].tolist()
    targets = list(shift["target"].unique())
    figure, axes = plt.subplots(
        len(targets), 1, figsize=(TEXT_WIDTH, 1.0 + 1.35 * len(targets)), squeeze=False,
        sharex=True, layout="constrained",
    )
    for axis, target in zip(axes[:, 0], targets):
        own = shift[shift["target"] == target]
        own = own.pivot(index="index", columns="model", values="distance")
        mark_stages(axis, layers, labels=axis is axes[0, 0])
        closer = own["adapted"] < own["frozen"]
        axis.vlines(own.index, own["adapted"], own["frozen"], linewidth=1.2,
                    color=np.where(closer, COLOURS["adapted"], COLOURS["frozen"]))
        axis.plot(own.index, own["frozen"], "s", color=COLOURS["frozen"], markersize=3.6,
                  fillstyle="none", label="frozen")
        axis.plot(own.index, own["adapted"], "o", color=COLOURS["adapted"], markersize=2.8,
                  label="adapted")
        axis.set_ylabel(f"{target}\ndistance")
        axis.set_ylim(0, 1.08 * float(own.max().max()))
        if layer is not None:
            axis.axvline(layers.index(layer) + 1, color="0.35", linewidth=0.8, linestyle=":")
    axes[-1, 0].set(xlabel="BN layer, from shallow to deep",
                    xticks=sorted({1, *range(10, len(layers) + 1, 10)}))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
