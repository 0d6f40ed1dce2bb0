"""Pictures of the benchmark: how its sets differ, how the network was trained on them, and the headroom."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bnta_lib.figures.base import COLOURS, GREY, INK, legend, panels
from bnta_lib.rendered.benchmark import STATISTICS
from bnta_lib.suite.sweeps import KINDS, headroom_scores

SOURCE, TARGET = COLOURS["source"], COLOURS["adapted"]


def statistics_figure(statistics: pd.DataFrame, targets: Sequence[str]) -> Figure:
    """How images are spread in each set: median, quartiles and 5-95 %, a panel a statistic.

    ``statistics``: rows of :func:`bnta_lib.rendered.benchmark.statistics_of`. Sets in ``targets``
    are drawn in the targets' colour; small ticks are the medians of single cameras.
    """
    names = list(statistics["set"].unique())
    cameras = statistics.groupby(["set", "camera"], sort=False)[list(STATISTICS)].median().reset_index()
    palette = {name: TARGET if name in targets else SOURCE for name in names}
    figure, (axes,) = panels(1, len(STATISTICS), 0.5 + 0.26 * len(names), sharey=True)
    for axis, what in zip(axes, STATISTICS):
        sns.boxplot(statistics, x=what, y="set", hue="set", palette=palette, whis=(5, 95), showfliers=False,
                    showcaps=False, width=0.3, linecolor=INK, linewidth=0.9, ax=axis)
        axis.plot(cameras[what], cameras["set"].map(names.index) + 0.35, "|", color=INK, ms=4, mew=0.7)
        axis.set(title=what, xlabel="", ylabel="")
        axis.tick_params(axis="y", length=0)
    axes[len(axes) // 2].set_xlabel("per cent of a pixel's full range")
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], identities: int) -> Figure:
    """Losses and accuracy by epoch, a line a model; ``histories`` as recorded by training.

    Terms that a model does not train are left out. A uniform guess is among ``identities``.
    """
    titles = {"L_id": r"$L_{id}$ (2)", "L_pos": r"$L_{pos}$ (5)", "L_mat": r"$L_{mat}$ (7)",
              "accuracy": "G's accuracy, training images"}
    figure, (axes,) = panels(1, 4, 1.9)
    axes[0].axhline(np.log(identities), color=INK, lw=0.9, ls=":", label="a uniform guess")
    for axis, (column, title) in zip(axes, titles.items()):
        for name, history in histories.items():
            label = {"bnta": "BNTA", "baseline": "Baseline"}.get(name, name)
            if history[column].any():
                colour = COLOURS.get(label, TARGET)
                axis.plot("epoch", column, data=history, label=label, lw=1.5, color=colour)
        for history in histories.values():
            for epoch in history["epoch"][history["lr"].diff() < -0.5 * history["lr"].shift()]:
                axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--", label="the learning rate falls")
        axis.set_title(title, fontsize=8)
        axis.set(xlabel="epoch", ylim=(0, 1 if column == "accuracy" else None))
    legend(figure, fontsize=7)
    return figure


def headroom_figure(rows: pd.DataFrame) -> Figure:
    """Rank 1 without adaption, by set: left as evaluated, right at one common gallery size.

    ``rows``: ``lab.measure("headroom")``. A hollow dot is the same target by neutral cameras: the line to it
    is what is photometric.
    """
    (home, away, neutral), scores = KINDS, headroom_scores(rows)
    names = list(scores.loc[scores["kind"] != neutral, "set"])
    scores["y"] = scores["set"].map(names.index)
    figure, ((left, right),) = panels(1, 2, 0.9 + 0.27 * len(names), sharey=True)
    for kind, colour, fill in ((home, SOURCE, SOURCE), (away, TARGET, TARGET), (neutral, TARGET, "white")):
        part = scores[scores["kind"] == kind]
        right.plot(part["R1 common"], part["y"], "o", color=colour, mfc=fill, mew=1.4, ms=5, label=kind)
        if kind != neutral:
            left.errorbar(part["R1"], part["y"], xerr=part["std"].fillna(0), fmt="o", color=colour, ms=5,
                          capsize=2)
    common = scores.pivot(index="y", columns="kind", values="R1 common").reindex(columns=list(KINDS))
    right.hlines(common.index, common[away], common[neutral], color=TARGET, lw=1, zorder=0)
    right.axvline(common[home].mean(), color=SOURCE, lw=0.9, ls="--", label="mean of the sources")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axis, title in ((left, "as evaluated"), (right, f"galleries of {rows['gallery'].min():g} images")):
        axis.set(xlim=(-3, 103), xlabel="rank 1, per cent", title=title)
        axis.tick_params(axis="y", length=0)
    legend(figure, "lower", fontsize=7)
    return figure
