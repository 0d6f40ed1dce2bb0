"""Figure 4 of the paper: rank 1 and time of adaption over N and K."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bnta_lib.figures.base import COLOURS, INK, METRICS, UNMOVED, legend, panels
from bnta_lib.suite.grid import grid_cells

PAPERS = "GRID"  # the target of the paper's figure


def figure_4(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: retrieval against K, a line each N; below: seconds of the adaption. Target by target.

    ``rows``: of ``lab.measure("figure_4")``. The band is the 95 % interval of the largest N's paired
    difference from no adaption (dashed), put about the line.
    """
    cells, targets = grid_cells(rows, metric), list(rows["target"].unique())
    frozen = rows[(rows["N"] == 0) & (rows["metric"] == metric)].groupby("target")["value"].mean()
    figure, axes = panels(2, len(targets), 4.8, 1 if len(targets) > 1 else 0.6, sharex="col",
                          height_ratios=[1.5, 1])
    for (above, below), target in zip(axes.T, targets):
        table = cells[cells["target"] == target].sort_values("K")
        colours = sns.color_palette("viridis_r", table["N"].nunique())
        for colour, (n, line) in zip(colours, table.groupby("N")):
            above.plot(line["K"], line["value"], "o-", color=colour, ms=3, lw=1.2)
            below.plot(line["K"], line["seconds"], "o-", color=colour, ms=3, lw=1.2, label=f"{n}")
        below.legend(title="N", fontsize=7, title_fontsize=7, ncols=2, loc="upper left", handlelength=1.0,
                     columnspacing=0.8, labelspacing=0.2, borderaxespad=0)
        half = (line["high"] - line["low"]) / 2  # NaN: no spread to judge by, and no band
        above.axhline(frozen[target], color="0.2", linestyle="--", linewidth=1, label="no adaption")
        above.fill_between(line["K"], line["value"] - half, line["value"] + half, color=colour, alpha=0.15,
                           linewidth=0, label="95 % interval of the difference, largest N")
        above.set(title=_title(target))
        _log_axis(below)
        below.set(xlabel="K, pairs", ylim=(0, 1.5 * table["seconds"].max()))
    axes[0, 0].set_ylabel(f"{METRICS[metric]}, %")
    axes[1, 0].set_ylabel("adaption time, s")
    figure.align_ylabels()
    legend(figure, axes=axes[0])
    return figure


def gain_figure(rows: pd.DataFrame, metric: str = "R1", default: int = 128) -> Figure:
    """Heat maps of the gain over no adaption, N by K, a panel a target, in points.

    In brackets: the 95 % interval of the difference includes 0, or there is no spread to judge by.
    Framed: the whole gallery with K = min(default, N // 2), as in Table 2. Grey: 2K > N.
    """
    cells, targets = grid_cells(rows, metric), list(rows["target"].unique())
    text = cells["difference"].map(lambda v: f"{round(v, 1) + 0.0:+.1f}".replace("-", "−"))  # never -0.0
    cells["text"] = text.where((cells["low"] > 0) | (cells["high"] < 0), "(" + text + ")")
    heights = cells.groupby("target", sort=False)["N"].nunique()[targets].to_numpy()
    figure, axes = panels(len(targets), 1, 0.9 + (0.27 * heights + 0.62).sum(), height_ratios=heights)
    largest = max(float(cells["difference"].abs().max()), 1e-6)
    for axis, target in zip(axes.flat, targets):
        values, texts = (cells[cells["target"] == target].pivot(index="N", columns="K", values=name)
                         .sort_index(ascending=False) for name in ("difference", "text"))
        sns.heatmap(values, vmin=-largest, vmax=largest, cmap="RdBu", annot=texts.fillna(""), fmt="",
                    cbar=False, ax=axis, annot_kws={"fontsize": 7})
        for cell in axis.texts:
            cell.set_fontweight("normal" if cell.get_text().startswith("(") else "bold")
        framed = values.columns.get_loc(min(default, int(values.index[0]) // 2))
        axis.add_patch(Rectangle((framed + 0.02, 0.04), 0.96, 0.92, fill=False, edgecolor="black", lw=1.4))
        axis.tick_params(length=0, rotation=0)
        axis.set(xlabel="K, pairs", ylabel="N, images", title=_title(target), facecolor="0.85")
    figure.colorbar(axis.collections[0], ax=axes[:, 0].tolist(), pad=0.015, aspect=35,
                    label=f"{METRICS[metric]}: gain over no adaption, points")
    figure.supxlabel("in brackets: the 95 % interval includes 0, or there is none; framed: the sample of "
                     "Table 2; grey: 2K > N", fontsize=8)
    return figure


def nk_figure(along_k: Mapping[str, pd.DataFrame], along_n: Mapping[str, pd.DataFrame], n: int, k: int,
              point: Mapping | None, frozen: float | None, metric: str = "R1") -> Figure:
    """One target around one setting: retrieval along K and along N, and the seconds along K.

    ``along_k``, ``along_n``: :func:`bnta_lib.explore.nk.curves` at this N, or at this K; ``point``: the
    setting's own cell, None if it is not measured; ``frozen``: the split's value without adaption, if known.
    """
    styles = {"mean of splits": ("-", "0.6", 0), "this split": ("o-", COLOURS["adapted"], 3.5),
              "run by hand": ("*", COLOURS["wrong"], 12)}
    figure, (axes,) = panels(1, 3, 2.8, 1.3, layout="none", gridspec_kw=UNMOVED | {"top": 0.78})
    for axis, along, value in zip(axes, "KNK", (metric, metric, "seconds")):
        lines = along_k if along == "K" else along_n
        at, fixed = (k, f"N = {n}") if along == "K" else (n, f"K = {k}")
        if along == "K":
            _log_axis(axis)
        for label, (style, colour, size) in styles.items():
            if value == metric or label != "mean of splits":  # a time is of its machine
                axis.plot(along, value, style, data=lines[label], color=colour, ms=size, lw=1.5, label=label)
        if frozen is not None and value == metric:
            axis.axhline(frozen, color=COLOURS["adapted"], ls="--", lw=1, label="no adaption")
        axis.axvline(at, color="0.35", ls=":", lw=1)
        if point is not None:
            axis.plot(at, point[value], "o", ms=10, mfc="none", mec=INK, mew=1.6, label="this setting")
        axis.margins(0.08)
        axis.set(title=f"along {along}, at {fixed}", xlabel="K, pairs" if along == "K" else "N, images",
                 ylabel="adaption time, s" if value == "seconds" else f"{METRICS[metric]}, %")
    axes[2].set_ylim(bottom=0)
    legend(figure)
    return figure


def _log_axis(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def _title(target: str) -> str:
    return f"{target} (the paper's)" if target == PAPERS else target
