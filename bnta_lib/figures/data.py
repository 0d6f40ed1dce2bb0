"""Pictures of the data: contact sheets, how the domains differ, and the benchmark's headroom."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.figures.base import COLOURS, INK, Photo, even, legend, panels, photo_sheet
from bnta_lib.rendered.benchmark import STATISTICS
from bnta_lib.suite.strength import KINDS, headroom_scores

COLUMNS = 16  # images in a row of a contact sheet
SOURCE, TARGET = COLOURS["source"], COLOURS["adapted"]


def contact_sheet(data: ReIDSet, title: str = "", rows: int = 2, seed: int = 0) -> Figure:
    """Images of a few people, a group each, with the cameras below.

    Up to four images a person, over as many cameras as saw them; people are drawn with ``seed``
    among those with two images or more. Distractors fill the last groups.
    """
    counts = torch.bincount(data.pids[data.pids > 0])
    slots = int(counts.max().clamp(max=4))
    random = torch.Generator().manual_seed(seed)
    people = drawn((counts >= min(2, slots)).nonzero().flatten(), rows * (COLUMNS // slots), random).tolist()
    groups = [(f"person {pid}", in_order(data.pids == pid, data.camids, slots)) for pid in people]
    if (data.pids == 0).any():
        others = (data.pids == 0).nonzero().flatten()
        others = others[torch.randperm(len(others), generator=random)[: 2 * slots]]
        groups[-2:] = [("distractors", part.tolist()) for part in others.split(slots)]
    return group_sheet(data.images, groups, COLUMNS // slots, title, data.camids)


def drawn(values: Tensor, count: int, random: torch.Generator) -> Tensor:
    """``count`` of the values at random, in their own order."""
    return values[torch.randperm(len(values), generator=random)[:count]].sort().values


def in_order(rows: Tensor, key: Tensor, limit: int) -> list[int]:
    """At most ``limit`` of the marked rows, sorted by ``key`` and evenly spread."""
    index = rows.nonzero().flatten()
    return index[torch.argsort(key[index], stable=True)][even(len(index), limit)].tolist()


def group_sheet(images: Tensor, groups: Sequence[tuple[str, Sequence[int]]], across: int, title: str = "",
                camids: Tensor | None = None) -> Figure:
    """A sheet of ``across`` groups a row: the label and the rows of ``images`` of each, cameras below."""
    cells = [[Photo(images[i], heading="" if k else label, caption="" if camids is None else f"c{camids[i]}")
              for k, i in enumerate(index)] + [0.3] for label, index in groups]
    rows = [sum(cells[i : i + across], []) for i in range(0, len(cells), across)]
    return photo_sheet(rows, title, gap=0.01)


def columns_sheet(columns: Mapping[str, Sequence[Tensor]], labels: Sequence[str] = ()) -> Figure:
    """A named column of images (3, h, w) each, with labels left of the rows."""
    names = [re.sub("[- ]", lambda cut: f"{cut[0].strip()}\n", name, count=1) if len(name) > 8 else name
             for name in columns]
    return photo_sheet([[*labels[r : r + 1], *(Photo(image, heading="" if r else name)
                                               for name, image in zip(names, images))]
                        for r, images in enumerate(zip(*columns.values()))])


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


def headroom_figure(rows: pd.DataFrame) -> Figure:
    """Rank 1 without adaption, by set: left as evaluated, right at one common gallery size.

    ``rows``: ``lab.measure("headroom")``. A hollow dot is the same target by neutral cameras, so that the
    arrow is what is photometric.
    """
    home, away, neutral = KINDS
    scores = headroom_scores(rows)
    names = list(scores.loc[scores["kind"] != neutral, "set"])
    scores["y"] = scores["set"].map(names.index)
    figure, ((left, right),) = panels(1, 2, 0.9 + 0.27 * len(names), sharey=True)
    for kind, colour, fill in ((home, SOURCE, SOURCE), (away, TARGET, TARGET), (neutral, TARGET, "white")):
        part = scores[scores["kind"] == kind]
        if len(part):
            right.plot(part["R1 common"], part["y"], "o", color=colour, mfc=fill, mew=1.4, ms=5, label=kind)
        if kind != neutral:
            left.errorbar(part["R1"], part["y"], xerr=part["std"].fillna(0), fmt="o", color=colour, ms=5,
                          capsize=2)
    common = scores.pivot(index="y", columns="kind", values="R1 common").reindex(columns=list(KINDS))
    for y, start, end in common[[away, neutral]].dropna().itertuples():
        right.annotate("", (end, y), (start, y), arrowprops={
            "arrowstyle": "-|>", "color": TARGET, "lw": 1, "shrinkA": 4, "shrinkB": 4, "mutation_scale": 7})
    if common[home].notna().any():
        right.axvline(common[home].mean(), color=SOURCE, lw=0.9, ls="--", label="mean of the sources")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axis, title in ((left, "as evaluated"), (right, f"galleries of {rows['gallery'].min():g} images")):
        axis.set(xlim=(-3, 103), xlabel="rank 1, per cent", title=title)
        axis.tick_params(axis="y", length=0)
    legend(figure, "lower", fontsize=7)
    return figure
