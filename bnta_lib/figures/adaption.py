"""What adaption does: losses, BN layers from shallow to deep (Figures 1 and 3), and cameras."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

from bnta_lib.figures.base import COLOURS, METRICS, UNMOVED, bars, emptied, legend, new_figure, panels
from bnta_lib.suite.layers import TOP, top_layers
from bnta_lib.suite.specs import IMAGES
from bnta_lib.suite.stats import describe_by, split_gains

SYMBOLS = {"mean": r"$\mu$", "var": r"$\sigma^2$", "gamma": r"$\gamma$", "beta": r"$\beta$"}
LOSSES = {"pos": "$L_{pos}$", "mat": "$L_{mat}^{tta}$"}
DEPTH = "BN layer, from shallow to deep"
KINDS = {"source": "source", "frozen": "target, frozen", "adapted": "target, adapted"}
TARGETS = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))  # colour and marker
# Gallery, probes and gallery, other people: colour and marker.
PROTOCOLS = (("0.45", "s"), (COLOURS["AdaBN"], "^"), (COLOURS["adapted"], "o"))


def losses_figure(steps: pd.DataFrame, frozen: pd.DataFrame, adapted: pd.DataFrame) -> Figure:
    """The two terms of Eq. (13), step by step, and on the same batches before and after.

    All rows have columns seed, step, pos and mat; those of ``steps`` were taken during adaption.
    """
    figure, (axes,) = panels(1, 2, 2.5)
    for axis, (term, symbol) in zip(axes, LOSSES.items()):
        for label, table, colour, marker in (("frozen model", frozen, COLOURS["frozen"], "s"),
                                             ("during adaption", steps, "0.35", "^"),
                                             ("adapted model", adapted, COLOURS["adapted"], "o")):
            axis.plot(table["step"], table[term], marker, color=colour, markersize=4, alpha=0.45)
            axis.plot(table.groupby("step")[term].mean(), "-", marker=marker, color=colour, ms=5, label=label)
        axis.set(xlabel="step (batch of pairs)", ylabel=symbol, xticks=sorted(steps["step"].unique()))
        axis.margins(x=0.15, y=0.12)
    legend(figure)
    return figure


def stages(layers: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of BN layers, by name, of one part of the network: (label, first index, last index), from 1."""
    labels = [layer.removeprefix("backbone.").split(".")[0].replace("bn1", "stem") for layer in layers]
    return [(label, labels.index(label) + 1, labels.index(label) + labels.count(label))
            for label in dict.fromkeys(labels)]


def layer_panels(rows: pd.DataFrame, count: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    """Panels over the BN indices of ``rows``: every second stage of the network shaded, its stages on top."""
    layers = rows.drop_duplicates("index").sort_values("index")["layer"].tolist()
    figure, axes = panels(count, 1, height, sharex=True, **options)
    for axis in axes.flat:
        for _, first, last in stages(layers)[1::2]:
            axis.axvspan(first - 0.5, last + 0.5, color="0.93", zorder=0, linewidth=0)
        axis.set(xlim=(0.5, len(layers) + 0.5), xticks=sorted({1, *range(10, len(layers) + 1, 10)}))
    top = axes[0, 0]
    for label, first, last in stages(layers):
        # The single-layer stages are narrow: their names lean over to keep clear of others.
        lean = {"rotation": 40, "ha": "left"} if last - first < 2 else {"ha": "center"}
        top.text((first + last) / 2, 1.02, label, transform=top.get_xaxis_transform(), va="bottom",
                 color="0.35", fontsize=7, **lean)
    axes[-1, 0].set_xlabel(DEPTH)
    return figure, axes[:, 0]


def figure_1(outputs: Mapping[str, Mapping[str, np.ndarray]], distances: Mapping[str, Mapping[str, float]],
             label: str = "output of the BN layer") -> Figure:
    """Densities of a BN layer's outputs, a panel a target, with their distance to the source.

    ``outputs[target]`` holds values of any shape for "source", "frozen" and "adapted";
    ``distances[target]`` the distance of the last two from the source.
    """
    figure, (axes,) = panels(1, len(outputs), 2.5, sharex=True, sharey=True)
    for axis, (target, values) in zip(axes, outputs.items()):
        _draw_densities(axis, values, distances[target])
        axis.set_title(target)
    figure.supxlabel(label, fontsize=9)
    axes[0].set(ylabel="density", ylim=(0, 1.45 * axes[0].get_ylim()[1]))
    return figure


def _draw_densities(axis: Axes, outputs: Mapping[str, np.ndarray], distances: Mapping[str, float]) -> None:
    for kind, text in KINDS.items():
        values = np.ravel(outputs[kind])
        values = values[:: len(values) // 5_000 + 1]  # so many are enough for a curve
        x = np.linspace(*np.quantile(values, (0.002, 0.998)), 100)
        y = stats.gaussian_kde(values)(x) if x[0] < x[-1] else np.full(100, np.nan)  # a constant has none
        axis.plot(x, y, color=COLOURS[kind], linestyle="--" if kind == "frozen" else "-", linewidth=1.4,
                  label=text + (f", d = {distances[kind]:.3f}" if kind in distances else ""))
    axis.legend(*axis.get_legend_handles_labels(), fontsize=7, loc="upper left", handlelength=1.6,
                borderaxespad=0.1)


def distances_figure(shift: pd.DataFrame, layer: str | None = None) -> Figure:
    """Distance from the source in every BN layer, frozen and adapted, a panel a target.

    ``shift``: rows with target, model, index, layer, distance. ``layer`` is marked.
    """
    targets = list(shift["target"].unique())
    figure, axes = layer_panels(shift, len(targets), 1.0 + 1.35 * len(targets))
    for axis, target in zip(axes, targets):
        table = shift[shift["target"] == target].pivot(index="index", columns="model", values="distance")
        axis.vlines(table.index, table["adapted"], table["frozen"], linewidth=1.2, color=np.where(
            table["adapted"] < table["frozen"], COLOURS["adapted"], COLOURS["frozen"]))
        axis.plot(table["frozen"], "s", color=COLOURS["frozen"], ms=3.6, fillstyle="none", label="frozen")
        axis.plot(table["adapted"], "o", color=COLOURS["adapted"], ms=2.8, label="adapted")
        axis.set(ylabel=f"{target}\ndistance", ylim=(0, 1.08 * table.max(axis=None)))
        if layer is not None:
            at = shift.loc[shift["layer"] == layer, "index"].iloc[0]
            axis.axvline(at, color="0.35", linewidth=0.8, linestyle=":")
    legend(figure)
    return figure


def changes_figure(changes: pd.DataFrame) -> Figure:
    """Change rate of mu, sigma^2, gamma and beta in every BN layer, from shallow to deep.

    ``changes``: of :func:`bnta_lib.adaption.change_rates`; a dot is the mean over seeds, a line their range.
    What did not move, or was zero before, has no dot.
    """
    figure, axes = layer_panels(changes, 4, 5.6)
    for axis, (quantity, symbol) in zip(axes, SYMBOLS.items()):
        rate = changes[changes["quantity"] == quantity].groupby("index")["rate"].agg(["mean", "min", "max"])
        rate = 100 * rate[rate["mean"] > 0]
        axis.errorbar(rate.index, rate["mean"], bars(rate["mean"], rate["min"], rate["max"]), fmt="o",
                      color=COLOURS["adapted"], ms=3.5, elinewidth=1.2)
        _log_rates(axis, rate["min"].where(rate["min"] > 0, rate["mean"]), rate["max"])
        axis.grid(axis="y", color="0.85", linewidth=0.6)
        axis.set_ylabel(f"{symbol}\nchange, %")
    figure.align_ylabels()
    return figure


def _log_rates(axis: Axes, low: pd.Series, high: pd.Series) -> None:
    """A logarithmic axis around these rates; linear if nothing moved."""
    if len(low):
        axis.set(yscale="log", ylim=(0.7 * low.min(), 1.4 * high.max()))
        subs = (1, 3) if high.max() > 20 * low.min() else (1, 2, 5)
        axis.yaxis.set_major_locator(LogLocator(subs=subs))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def figure_3(rates: pd.DataFrame, top: int = TOP) -> Figure:
    """Change rates of the top layers of each quantity: mean over splits and one standard deviation.

    ``rates``: of :func:`bnta_lib.suite.layers.change_rates_by_split`. Layers are chosen by their mean.
    """
    by_layer = rates.groupby(["target", "quantity", "index"], sort=False)["rate"]
    means, targets = by_layer.agg(rate="mean", std="std").reset_index(), list(rates["target"].unique())
    figure, axes = panels(2, 2, 4.4)
    for axis, (quantity, symbol) in zip(axes.flat, SYMBOLS.items()):
        layers = top_layers(means, quantity, top)
        shown = means[(means["quantity"] == quantity) & means["index"].isin(layers) & (means["rate"] > 0)]
        for number, target in enumerate(targets):
            table, (colour, marker) = shown[shown["target"] == target], TARGETS[number % len(TARGETS)]
            x = table["index"].map(layers.index) + 0.22 * (number - (len(targets) - 1) / 2)
            axis.errorbar(x, table["rate"], table["std"].fillna(0), fmt=marker, color=colour, ms=4,
                          capsize=1.5, elinewidth=0.9, label=f"S→{target}")
        for x in range(1, len(layers), 2):
            axis.axvspan(x - 0.5, x + 0.5, color="0.95", zorder=0, linewidth=0)
        axis.set_xticks(range(len(layers)), layers)
        axis.set(xlabel=DEPTH, ylabel=f"change rate of {symbol}, %", xlim=(-0.5, len(layers) - 0.5))
        _log_rates(axis, shown["rate"], shown["rate"] + shown["std"].fillna(0))
    legend(figure)
    return figure


def layer_figure(outputs: Mapping[str, np.ndarray], distances: Mapping[str, float],
                 changes: Mapping[str, np.ndarray], label: str, channel: int | None = None,
                 figure: Figure | None = None) -> Figure:
    """One BN layer: its outputs as in :func:`figure_1`, and the change of its quantities by channel.

    ``changes``: after minus before, by quantity. ``channel``, from 1, is marked. ``figure``: to draw into.
    """
    if figure is None:
        figure = new_figure(9.1, 3.0)
        axes = figure.subplot_mosaic([["y", "mean", "var"], ["y", "gamma", "beta"]], width_ratios=[2, 1, 1],
                                     gridspec_kw=UNMOVED | {"left": 0.07, "hspace": 0.6})
        axes["y"].yaxis.set_label_coords(-0.13, 0.5)
        for quantity, symbol in SYMBOLS.items():
            axes[quantity].set_title(f"change of {symbol}", y=1)
            axes[quantity].ticklabel_format(axis="y", scilimits=(-2, 2))
            axes[quantity].locator_params(axis="y", nbins=3)
    density, *others = emptied(figure)
    _draw_densities(density, outputs, distances)
    density.set(xlabel=label, ylabel="density", ylim=(0, 1.45 * density.get_ylim()[1]))
    for axis, quantity in zip(others, SYMBOLS):
        change = np.asarray(changes[quantity])
        strokes = np.stack([0 * change, change, math.nan * change], 1)  # as one line, which is drawn faster
        axis.plot(np.arange(1, len(change) + 1).repeat(3), strokes.ravel(), color=COLOURS["adapted"],
                  lw=min(2.0, 120 / len(change)), solid_capstyle="butt")
        axis.axhline(0, color="0.3", linewidth=0.7)
        axis.set(xlabel="channel" * (quantity in ("gamma", "beta")), xticks=[1, len(change)])
        if channel is not None:
            axis.axvline(channel, color=COLOURS["wrong"], linewidth=1.1, linestyle=":")
    return figure


# ---------------------------------------------------------------- by camera


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
    targets = list(rows["target"].unique())
    figure, axes = layer_panels(rows, len(targets), 1.0 + 1.35 * len(targets), sharey=True)
    for axis, target in zip(axes, targets):
        parts = rows[rows["target"] == target].pivot(index="index", columns="metric", values="value")
        share = 100 * parts["cameras"] / parts.sum(axis=1)
        axis.bar(share.index, share, color=COLOURS["adapted"], width=0.8)
        axis.axhline(share.mean(), color="0.35", linewidth=0.8, linestyle="--")
        axis.text(0.995, 0.95, f"mean {share.mean():.0f} %", transform=axis.transAxes, ha="right", va="top",
                  fontsize=8, backgroundcolor="white")
        axis.set_ylabel(f"{target}\nshare, %")
    return figure
