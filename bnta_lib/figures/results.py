"""Pictures of results: Tables 2-5, claims, open choices, estimate and Figure 4, with spreads."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, INK, METRICS, UNMOVED, bars, drawn, legend, panels
from bnta_lib.site.judge import Estimate
from bnta_lib.suite.specs import CHOICES, DIVERGED, Choice
from bnta_lib.suite.stats import RATE, SHARE, averaged, by_training, interval, split_gains
from bnta_lib.suite.sweeps import VALUE, diverged, gain_rows, grid_cells
from bnta_lib.suite.tables import gains, reading_of, row_name

PAPERS = "GRID"  # the target of the paper's Figure 4
# The two readings of "only mu" in Table 5; the other tables have the first alone.
READING_STYLES = {"alone": ("s", COLOURS["adapted"]), "restore": ("o", COLOURS["AdaBN"])}
# Colour and marker of a verdict: blue, vermilion and grey differ for every eye.
VERDICTS = {"holds": ("#0072B2", "o"), "does not hold": ("#D55E00", "X"), "not resolved": ("0.45", "s")}
# The least that a claim needs to hold; times have the paper's diamond for that.
THRESHOLDS = {"points": 0, RATE: 0, SHARE: 50}
UNITS = {"points": "points of rank 1", "s": "seconds of adaption (a level)",
         "times": "times the inference without adaption (a level)", SHARE: f"{SHARE} (a share)"}
PAPER = {"marker": "D", "linestyle": "", "ms": 4.5, "mfc": "none", "mec": "black", "mew": 0.8, "zorder": 4}
# Of the explorer of N and K.
NK_LINES = {"mean of splits": {"color": "0.6", "lw": 1.5},
            "this split": {"color": COLOURS["adapted"], "lw": 1.5, "marker": "o", "ms": 3.5},
            "run by hand": {"color": COLOURS["wrong"], "ls": "", "marker": "*", "ms": 12},
            "no adaption": {"color": COLOURS["adapted"], "ls": "--", "lw": 1},
            "this setting": {"color": INK, "ls": "", "marker": "o", "ms": 10, "mfc": "none", "mew": 1.6}}


def draw_splits(axis: Axes, y: float, values: pd.Series, colour: str, marker: str = "o", spread=interval,
                apart: float = 0.15, label: str = "") -> None:
    """Splits as faint dots above ``y``, below it their mean and its ``spread``."""
    axis.plot(values, np.full(len(values), y - apart), marker, color=colour, ms=3.2, alpha=0.55, mew=0,
              label=f"{label}a split")
    axis.errorbar(values.mean(), y + apart, xerr=bars(values.mean(), *spread(values)), fmt="|", color=colour,
                  ms=9, mew=2, capsize=2.5, elinewidth=1.4, label=f"{label}mean, 95 % interval")


def methods_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: each method on each split; below: what each adapter adds to the same training unadapted.

    ``rows``: of Table 2; a dot is a split, seeds averaged.
    """
    levels = averaged(rows[rows["metric"] == metric], ["target", "method", "split"])
    added = split_gains(rows, ["method"], metric=metric)
    targets, counts = list(rows["target"].unique()), [rows["method"].nunique(), added["method"].nunique()]
    figure, axes = panels(2, len(targets), 1.4 + 0.26 * sum(counts), sharey="row", sharex="row",
                          height_ratios=counts)
    def deviation(values: pd.Series) -> np.ndarray:
        return values.mean() + np.array([-1, 1]) * values.std()

    for row, table, value, spread, text in (
        (axes[0], levels.reset_index(), "value", deviation, "% (mean ± std over splits)"),
        (axes[1], added, "difference", interval, "points more than without adaption (mean, 95 % interval)")):
        methods = list(table["method"].unique())
        for (target, method), values in table.groupby(["target", "method"], sort=False)[value]:
            draw_splits(row[targets.index(target)], methods.index(method), values,
                        COLOURS.get(method, "0.4"), spread=spread)
        row[0].set_yticks(range(len(methods)), methods)
        row[0].set_ylim(len(methods) - 0.5, -0.5)
        row[len(targets) // 2].set_xlabel(f"{METRICS[metric]}, {text}")
    for (above, below), target in zip(axes.T, targets):
        above.set_title(target)
        below.axvline(0, color="0.35", linewidth=0.8)
    return figure


def gains_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """What adaption adds in each row of Table 3, 4 or 5: a panel a target, the paper's own first.

    ``rows``: of one table, Table 5 in both readings. A dot is a split, seeds averaged.
    """
    splits = split_gains(rows, ["table", "method"], ["table"], metric)
    cited = gains(rows, metric).reindex(columns=["target", "method", "paper"]).dropna()
    targets = sorted(splits["target"].unique(), key=lambda name: name not in set(cited["target"]))
    methods, tables = list(splits["method"].unique()), list(splits["table"].unique())
    # In each row, from above: the dots and the mean of each reading, then the paper's diamond.
    step = 0.36 / len(tables)
    figure, (axes,) = panels(1, len(targets), 1.3 + (0.18 + 0.18 * len(tables)) * len(methods), sharex=True,
                             sharey=True)
    for axis, target in zip(axes, targets):
        axis.axvline(0, color="0.35", linewidth=0.8)
        for y in range(0, len(methods), 2):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0, linewidth=0)
        of_target = splits[splits["target"] == target].groupby(["table", "method"], sort=False)
        for (table, method), values in of_target["difference"]:
            y = methods.index(method) - 0.36 + step * (2 * tables.index(table) + 0.5)
            marker, colour = READING_STYLES[reading_of(table)]
            draw_splits(axis, y, values, colour, marker, apart=step / 2,
                        label=f"{reading_of(table)}: " * (len(tables) > 1))
        paper = cited[cited["target"] == target]
        if len(paper):
            axis.plot(paper["paper"], paper["method"].map(methods.index) + 0.36, **PAPER,
                      label="the paper's difference, cited")
        axis.set(title=f"{target}, the paper's target" if len(paper) else target)
    names = [row_name(method, ", ") for method in methods]
    kind = "updated at the target" if len(names[0]) == 1 else "losses of training → of adaption"
    axes[0].set_yticks(range(len(methods)), [_in_symbols(" → ".join(name)) for name in names])
    axes[0].set(ylim=(len(methods) - 0.5, -0.5), ylabel=kind)
    figure.supxlabel(f"{METRICS[metric]}: difference from no adaption, points", fontsize=9)
    legend(figure, ncols=3, fontsize=8)
    return figure


def trainings_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """How trainings of a model vary: left each without adaption, right what adaption adds to it.

    ``rows``: of one table and target. A dot is a training, its splits and adaption seeds averaged; the bar is
    mean ± standard deviation of the trainings.
    """
    each, (figure, (axes,)) = by_training(rows, metric), panels(1, 2, 3.2)
    frozen = each["adapter"] == "none"
    for axis, part, value, text in ((axes[0], each[frozen], "value", "without adaption, %"),
                                    (axes[1], each[~frozen], "gain", "what adaption adds, points")):
        for y, (_, values) in enumerate(part.groupby("method", sort=False)[value]):
            axis.plot(values, np.full(len(values), y - 0.15), "o", color=COLOURS["adapted"], ms=4, alpha=0.6,
                      mew=0, label="a training")
            axis.errorbar(values.mean(), y + 0.15, xerr=np.nan_to_num(values.std()), fmt="|", color=INK, ms=9,
                          mew=2, capsize=2.5, elinewidth=1.4, label="mean ± standard deviation of trainings")
        names = [_in_symbols(" → ".join(row_name(method, ", "))) for method in part["method"].unique()]
        axis.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"{METRICS[metric]}, {text}")
        axis.set_yticks(range(len(names)), [name.replace(" → None", "") for name in names])
    axes[1].axvline(0, color="0.35", linewidth=0.8)
    legend(figure)
    return figure


def _in_symbols(text: str) -> str:
    """L_mat and L_mat^tta as matplotlib's symbols; dollars of a folder's name stay dollars."""
    text = re.sub(r"\bL_([a-z]+)", r"$L_{\\mathrm{\1}}$", text.replace("$", r"\$"))
    return text.replace("^tta", r"$^{\mathrm{tta}}$")


def claims_figure(table: pd.DataFrame) -> Figure:
    """What each claim (of :func:`bnta_lib.suite.claims.judge`) compares, beside the paper's number."""
    groups = table.groupby(["where", "unit"], sort=False)
    heights = groups.size() + 0.5
    figure, axes = panels(len(groups), 1, (0.128 * heights + 0.4).sum() + 0.35, height_ratios=heights)
    points = table.loc[table["unit"] == "points", ["low", "high", "here", "paper"]].to_numpy(float)
    for axis, ((where, unit), rows) in zip(axes[:, 0], groups):
        y = pd.Series(range(len(rows)), rows.index)
        for verdict, (colour, marker) in VERDICTS.items():
            part = rows[rows["verdict"] == verdict]
            axis.errorbar(part["here"], y[part.index], xerr=bars(part["here"], part["low"], part["high"]),
                          fmt=marker, color=colour, ms=4.5, mew=0, elinewidth=1.3, label=f"here: {verdict}")
        axis.plot(rows["paper"], y, label="paper, cited", **PAPER)
        if unit in THRESHOLDS:
            axis.axvline(THRESHOLDS[unit], color="0.6", linewidth=0.8, zorder=0)
        if unit == "points":
            axis.set_xlim(np.nanmin(points) - 0.6, np.nanmax(points) + 0.6)
        names = rows["claim"] + np.where(rows["target"] == "all", "", " · " + rows["target"])
        axis.set_yticks(y, map(_in_symbols, names), fontsize=6.5)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel(UNITS.get(unit, unit), fontsize=7, labelpad=1)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=7, length=2.5, pad=1.5)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", color="0.93", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.annotate(where, (0, 1), (-250, 2), "axes fraction", "offset points", weight="bold", size=8)
    legend(figure, fontsize=7.5)
    return figure


def overview_figure(rows: pd.DataFrame, metric: str = "R1", choices: Iterable[Choice] = CHOICES.values(),
                    cited: float | None = None) -> Figure:
    """All values of the choices, a column a target: mean gain, 95 % interval, the default filled.

    What was not measured on a target, or diverged there, is marked so. ``cited``: the paper's gain.
    """
    blocks = {choice.name: [value.method for value in choice.values] for choice in choices}
    keys = pd.MultiIndex.from_tuples([(name, value) for name, values in blocks.items() for value in values])
    heights = pd.Series(np.arange(len(keys)) + 0.7 * keys.get_level_values(0).factorize()[0], keys)
    gains, lost = gain_rows(rows, metric).set_index(VALUE), diverged(rows).set_index(VALUE)
    gains = gains[gains.index.isin(keys)]
    targets, colour = list(gains["target"].unique()), COLOURS["BNTA"]
    figure, (axes,) = panels(1, len(targets), 0.19 * heights.max() + 1.5, sharey=True)
    for axis, (target, table) in zip(axes, gains.groupby("target", sort=False)):
        for default, label in ((True, "default"), (False, "another value")):
            part = table[table["default"] == default]
            axis.errorbar(part["difference"], heights[part.index], fmt="o", color=colour, ms=4,
                          xerr=bars(part["difference"], part["low"], part["high"]), elinewidth=1.1,
                          mfc=colour if default else "white", label=f"{label}, 95 % interval")
        ends = -1, heights[table.index].max() + 1  # below them nothing is measured
        axis.vlines(table.loc[table["default"], "difference"].iloc[0], *ends, color=colour, lw=1,
                    linestyle=":", label="gain under the defaults")
        axis.vlines(0, *ends, color="0.35", linewidth=0.8, label="no gain")
        if cited is not None:
            axis.vlines(cited, *ends, color="0.35", lw=1.2, linestyle="--", label="paper, on its GRID")
        failed = lost.index[lost["target"] == target]
        for key, height in heights.drop(table.index).items():
            axis.text(0.5, height, DIVERGED if key in failed else "not measured", fontsize=7, color="0.35",
                      ha="center", va="center", transform=axis.get_yaxis_transform(), backgroundcolor="white")
        axis.set(title=target, xlabel=f"gain in {METRICS[metric]}, points")
    axes[0].set_yticks(heights, keys.get_level_values(1))
    axes[0].set_ylim(heights.max() + 1, -1)
    for name, values in blocks.items() if len(blocks) > 1 else ():
        axes[0].annotate({"lambda3": r"$\mathbf{\lambda_3}$"}.get(name, name), (0, heights[name, values[0]]),
                         (-76, 0), axes[0].get_yaxis_transform(), "offset points", ha="right", va="center",
                         fontweight="bold")
    legend(figure, "lower", fontsize=8)
    return figure


def estimate_figure(estimate: Estimate) -> Figure:
    """Rank 1 by tracks before and after with 95 % intervals; right, their paired difference."""
    figure, ((left, right),) = panels(1, 2, 1.5, width_ratios=[1.4, 1])
    for axis, y, measured, colour in ((left, 0, estimate.before, COLOURS["frozen"]),
                                      (left, 1, estimate.after, COLOURS["adapted"]),
                                      (right, 0, estimate.difference, "0.2")):
        axis.errorbar(measured[0], y, xerr=bars(*measured), fmt="o", color=colour, capsize=3)
    left.set(yticks=[0, 1], yticklabels=["before", "after"], ylim=(1.6, -0.6), xlabel="rank 1 by tracks, %")
    right.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    right.set(yticks=[], ylim=(1.0, -1.0), xlabel="after minus before, points")
    return figure


def figure_4(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Above: retrieval against K, a line each N; below: seconds of the adaption. Target by target.

    The band is the 95 % interval of the largest N's paired difference from no adaption (dashed).
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
    legend(figure)
    return figure


def gain_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Heat maps of the gain over no adaption, N by K, a panel a target, in points.

    In brackets: the 95 % interval of the difference includes 0, or there is no spread to judge by.
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
        axis.tick_params(length=0, rotation=0)
        axis.set(xlabel="K, pairs", ylabel="N, images", title=_title(target), facecolor="0.85")
    figure.colorbar(axis.collections[0], ax=axes[:, 0].tolist(), pad=0.015, aspect=35,
                    label=f"{METRICS[metric]}: gain over no adaption, points")
    figure.supxlabel("in brackets: the 95 % interval includes 0, or there is none; grey: 2K > N", fontsize=8)
    return figure


class NKFigure:
    """Rank 1 along K and along N, around one setting; what stays while sliders move is drawn once."""

    def __init__(self, gallery: int):
        self.figure, (axes,) = panels(1, 2, 2.8, 1.3, "none", sharey=True, gridspec_kw=UNMOVED | {
            "left": 0.06, "top": 0.78, "wspace": 0.08})
        for axis in axes:
            axis.axvline(math.nan, color="0.35", ls=":", lw=1, label="_at")
            for label, style in NK_LINES.items():
                axis.plot([], [], label=label, **style)
            axis.margins(y=0.08)
            axis.yaxis.set_animated(True)  # it moves
        axes[0].set(xlabel="K, pairs", ylabel="rank 1, %", xlim=(1.8, 0.55 * gallery))
        axes[1].set(xlabel="N, images", xlim=(0, 1.03 * gallery))
        _log_axis(axes[0])
        legend(self.figure)
        self.figure.canvas.draw()
        self.empty = self.figure.canvas.copy_from_bbox(self.figure.bbox)

    def picture(self, along_k: Mapping[str, pd.DataFrame], along_n: Mapping[str, pd.DataFrame], n: int,
                k: int, point: Mapping | None, frozen: Mapping | None, alt: str) -> Image:
        """``along_k``, ``along_n``: :func:`bnta_lib.explore.nk.curves` at this N, or at this K; ``point`` and
        ``frozen``: the cells of the setting and of no adaption, None if not measured."""
        self.figure.canvas.restore_region(self.empty)
        scores = [math.nan if cell is None else cell["R1"] for cell in (point, frozen)]
        for axis, along, lines, at, fixed in zip(self.figure.axes, "KN", (along_k, along_n), (k, n),
                                                 (f"N = {n}", f"K = {k}")):
            values = {label: (table[along], table["R1"]) for label, table in lines.items()} | {
                "this setting": ([at], scores[:1]), "no adaption": (axis.get_xlim(), 2 * scores[1:]),
                "_at": ([at, at], [0, 1])}
            for line in axis.lines:
                line.set_data(*values[line.get_label()])
            axis.set_title(f"along {along}, at {fixed}", y=1)
            axis.relim()
        axis.autoscale_view(scalex=False)
        for axis in self.figure.axes:
            for artist in (axis.yaxis, *axis.lines, axis.title):
                axis.draw_artist(artist)
        return drawn(self.figure, alt)


def _log_axis(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def _title(target: str) -> str:
    return f"{target} (the paper's)" if target == PAPERS else target
