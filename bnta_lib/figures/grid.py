"""Figure 4 of the paper: rank 1 and time of adaption over N and K."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bnta_lib.suite.grid import grid_cells
from bnta_lib.figures.base import TEXT_WIDTH

PAPERS = "GRID"  # the target of the paper's figure
NAMES = {"R1": "rank 1", "R5": "rank 5", "R10": "rank 10"}


def figure_4(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: retrieval against K, a line each N; below: seconds of the adaption. Target by target.

    ``rows``: of :func:`bnta_lib.suite.grid.grid_rows`. The band is the 95 % interval of the largest N's
    paired difference from no adaption (dashed), put about the line; :func:`gain_figure` says of
    every cell whether its own includes 0.
    """
    cells, targets = grid_cells(rows, metric), list(rows["target"].unique())
    frozen = rows[(rows["N"] == 0) & (rows["metric"] == metric)]
    frozen = frozen.groupby("target")["value"].mean()
    figure, axes = plt.subplots(2, len(targets), figsize=(_width(targets), 4.8), squeeze=False,
                                sharex="col", layout="constrained",
                                gridspec_kw={"height_ratios": [1.5, 1]})
    for column, target in enumerate(targets):
        above, below = axes[:, column]
        own = cells[cells["target"] == target]
        sizes = sorted(own["N"].unique())
        for number, n in enumerate(sizes):
            line = own[own["N"] == n].sort_values("K")
            colour = mpl.colormaps["viridis"](0.92 * (1 - number / max(1, len(sizes) - 1)))
            style = {"color": colour, "markersize": 3, "linewidth": 1.2, "label": f"{n}"}
            above.plot(line["K"], line["value"], "o-", **style)
            below.plot(line["K"], line["seconds"], "o-", **style)
        half = (line["high"] - line["low"]) / 2  # NaN: no spread to judge by, and no band
        band = above.fill_between(line["K"], (line["value"] - half).clip(lower=0),
                                  (line["value"] + half).clip(upper=100), color=colour,
                                  alpha=0.15, linewidth=0)
        above.set_ylim(*_limits([*own["value"], frozen[target]], half.fillna(0).max()))
        dashed = above.axhline(frozen[target], color="0.2", linestyle="--", linewidth=1)
        above.set_title(_title(target))
        below.legend(title="N", fontsize=7, title_fontsize=7, ncols=2, loc="upper left",
                     handlelength=1.0, columnspacing=0.8, labelspacing=0.2, borderaxespad=0)
        _k_axis(below, sorted(own["K"].unique()))
        below.set(xlabel="K, pairs", ylim=(0, 1.5 * own["seconds"].max()))
    axes[0, 0].set_ylabel(f"{NAMES.get(metric, metric)}, %")
    axes[1, 0].set_ylabel("adaption time, s")
    figure.align_ylabels()
    figure.legend([dashed, band], ["no adaption", "95 % interval of the difference, largest N"],
                  loc="outside upper center", ncols=2)
    return figure


def gain_figure(rows: pd.DataFrame, metric: str = "R1", default: int = 128) -> Figure:
    """Heat maps of the gain over no adaption, N by K, a panel a target, in points.

    In brackets: the 95 % interval of the difference includes 0, or there is no spread to judge by. Framed: the whole gallery with
    K = min(default, N // 2), as in Table 2. Grey: 2K > N.
    """
    cells, targets = grid_cells(rows, metric), list(rows["target"].unique())
    heights = [cells.loc[cells["target"] == t, "N"].nunique() for t in targets]
    figure, axes = plt.subplots(
        len(targets), 1, figsize=(TEXT_WIDTH, 0.9 + sum(0.27 * h + 0.62 for h in heights)),
        squeeze=False, layout="constrained", gridspec_kw={"height_ratios": heights})
    most = max(float(cells["difference"].abs().max()), 1e-6)
    norm, colours = mpl.colors.Normalize(-most, most), mpl.colormaps["RdBu"]
    for axis, target in zip(axes[:, 0], targets):
        own = cells[cells["target"] == target]
        table = own.pivot(index="N", columns="K", values="difference").sort_index(ascending=False)
        image = axis.imshow(np.ma.masked_invalid(table.to_numpy()), aspect="auto", norm=norm,
                            cmap=colours.with_extremes(bad="0.85"))
        for cell in own.itertuples(index=False):
            y, x = table.index.get_loc(cell.N), table.columns.get_loc(cell.K)
            resolved = cell.low > 0 or cell.high < 0
            text = f"{round(cell.difference, 1) + 0.0:+.1f}".replace("-", "−")  # never -0.0
            text = text if resolved else f"({text})"
            axis.text(x, y, text, ha="center", va="center", fontsize=7,
                      fontweight="bold" if resolved else "normal",
                      color="white" if abs(cell.difference) > 0.62 * most else "black")
        full = int(table.index[0])
        chosen = table.columns.get_loc(min(default, full // 2))
        axis.add_patch(plt.Rectangle((chosen - 0.48, -0.46), 0.96, 0.92, fill=False,
                                     edgecolor="black", linewidth=1.4))
        axis.set_xticks(range(table.shape[1]), table.columns)
        axis.set_yticks(range(table.shape[0]), table.index)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set(xlabel="K, pairs", ylabel="N, images", title=_title(target))
    figure.colorbar(image, ax=axes[:, 0].tolist(), pad=0.015, aspect=35,
                    label=f"{NAMES.get(metric, metric)}: gain over no adaption, points")
    figure.supxlabel("in brackets: the 95 % interval includes 0" + (
                         ", or there is no spread to judge by" if cells["low"].isna().any() else "")
                     + "; framed: the sample of Table 2; grey: 2K > N", fontsize=8)
    return figure


def _title(target: str) -> str:
    return f"{target} (the paper's)" if target == PAPERS else target


def _limits(values: list[float], half: float) -> tuple[float, float]:
    """Room for the lines and the band; a band of very few splits must not flatten the lines."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) + min(half, 0.6 * (high - low) + 1)
    return max(low - room, -0.3), high + room


def _k_axis(axis, ticks: list[int]) -> None:
    """A logarithmic axis whose ticks are the values of K, as many as there is room for."""
    axis.set_xscale("log", base=2)
    shown, last = [], 0.0
    for tick in ticks:
        if tick >= 1.45 * last:
            shown.append(tick)
            last = tick
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([str(t) for t in shown], fontsize=7)


def _width(targets: list[str]) -> float:
    return TEXT_WIDTH if len(targets) > 1 else 0.6 * TEXT_WIDTH
