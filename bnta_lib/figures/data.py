"""Pictures of the data: contact sheets, how the domains differ, and the benchmark's headroom."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.rendered.statistics import STATISTICS
from bnta_lib.suite.headroom import KINDS, common_size, headroom_scores
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, show_image

INK, GREY = "#222222", "#8a8a8a"
COLUMNS = 16  # images in a row of a contact sheet
SOURCE, TARGET = COLOURS["source"], COLOURS["adapted"]


def contact_sheet(data: ReIDSet, title: str = "", rows: int = 2, seed: int = 0) -> Figure:
    """Images of a few people, each person framed as a group with the cameras below.

    Up to four images a person, over as many cameras as saw them; people are drawn with ``seed``
    among those with two images or more. Where the set has distractors they fill the last group.
    """
    groups = _groups(data, rows, seed)
    height, width = data.images.shape[2:]
    gap, line = 0.28 * width, 0.42 * height  # between groups, and for the text of a row
    slots = max(len(index) for _, index in groups)
    a_row = COLUMNS // slots
    across = a_row * slots * width + (a_row - 1) * gap
    down = -(-len(groups) // a_row) * (height + line)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, TEXT_WIDTH * down / across + 0.3))
    for g, (label, index) in enumerate(groups):
        left, top = (g % a_row) * (slots * width + gap), (g // a_row) * (height + line) + line / 2
        for k, i in enumerate(index):
            x = left + k * width
            axis.imshow(data.images[i].permute(1, 2, 0).numpy(),
                        extent=(x, x + width, top + height, top), interpolation="bilinear")
            axis.text(x + width / 2, top + height + 0.03 * height, f"c{int(data.camids[i])}",
                      ha="center", va="top", fontsize=5.5, color=GREY)
        axis.add_patch(Rectangle((left, top), len(index) * width, height, fill=False, lw=1.1,
                                 edgecolor=INK))
        axis.text(left, top - 0.03 * height, label, va="bottom", fontsize=6, color=INK)
    axis.set(xlim=(-2, across + 2), ylim=(down + 2, -2), aspect="equal")
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=8)
    figure.tight_layout(pad=0.3)
    return figure


def _groups(data: ReIDSet, rows: int, seed: int) -> list[tuple[str, list[int]]]:
    """Label and image indices of each group of a contact sheet."""
    counts = torch.bincount(data.pids[data.pids > 0])
    slots = int(counts.max().clamp(max=4))
    usable = (counts >= min(2, slots)).nonzero().flatten()
    random = torch.Generator().manual_seed(seed)
    chosen = usable[torch.randperm(len(usable), generator=random)[: rows * (COLUMNS // slots)]]
    groups = []
    for pid in sorted(chosen.tolist()):
        own = (data.pids == pid).nonzero().flatten()
        own = own[torch.argsort(data.camids[own], stable=True)]
        even = torch.linspace(0, len(own) - 1, min(slots, len(own))).round().long()
        groups.append((f"person {pid}", own[even].tolist()))
    others = (data.pids == 0).nonzero().flatten()
    if len(others):
        drawn = others[torch.randperm(len(others), generator=random)[: 2 * slots]].tolist()
        groups[-2:] = [("distractors", drawn[:slots]), ("distractors", drawn[slots:])]
    return groups


def _two_lines(name: str) -> str:
    """A long name broken behind its first hyphen or space, for a narrow column."""
    place = min((i for i in (name.find("-"), name.find(" ")) if i > 0), default=-1)
    return name if place < 0 or len(name) < 9 else f"{name[: place + 1].rstrip()}\n{name[place + 1:]}"


def mean_images(sets: dict[str, ReIDSet], limit: int = 1000) -> Figure:
    """The mean image of each set above, the standard deviation over images below."""
    figure, axes = plt.subplots(2, len(sets), figsize=(TEXT_WIDTH, 3.45), squeeze=False,
                                layout="constrained")
    figure.get_layout_engine().set(h_pad=0.01, hspace=0.01, w_pad=0.02, wspace=0.01)
    for column, (name, data) in enumerate(sets.items()):
        even = torch.linspace(0, len(data) - 1, min(limit, len(data))).round().long()
        images = data.images[even].float()
        show_image(axes[0][column], images.mean(0).round().byte())
        # Twice, because a deviation of more than half the range cannot be.
        show_image(axes[1][column], (2 * images.std(0)).clamp(max=255).round().byte())
        axes[0][column].set_title(_two_lines(name), fontsize=6.5)
    for row, label in enumerate(("mean", "deviation × 2")):
        axes[row][0].set_ylabel(label, fontsize=7)
    return figure


def statistics_figure(statistics: pd.DataFrame, targets: Sequence[str]) -> Figure:
    """How images are spread in each set: median, quartiles and 5-95 %, a panel a statistic.

    ``statistics``: rows of :func:`bnta_lib.rendered.statistics.statistics_of`. Sets in ``targets``
    are drawn in the targets' colour; small ticks are the medians of single cameras.
    """
    names = list(statistics["set"].unique())
    figure, axes = plt.subplots(1, len(STATISTICS), sharey=True, layout="constrained",
                                figsize=(TEXT_WIDTH, 0.5 + 0.26 * len(names)))
    for axis, what in zip(axes, STATISTICS):
        for y, name in enumerate(names):
            own = statistics[statistics["set"] == name]
            low, first, middle, third, high = np.percentile(own[what], (5, 25, 50, 75, 95))
            colour = TARGET if name in targets else SOURCE
            axis.plot([low, high], [y, y], color=colour, lw=1)
            axis.plot([first, third], [y, y], color=colour, lw=4, solid_capstyle="butt")
            axis.plot(middle, y, "o", color="white", ms=4, mec=colour, mew=1.2)
            cameras = own.groupby("camera")[what].median()
            axis.plot(cameras, np.full(len(cameras), y + 0.33), "|", color=INK, ms=4, mew=0.7)
        axis.set_title(what)
        axis.margins(x=0.06)
        axis.tick_params(axis="y", length=0)
        if what == "warmth":
            axis.axvline(0, color=GREY, lw=0.7, zorder=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    axes[len(axes) // 2].set_xlabel("per cent of a pixel's full range")
    return figure


def cameras_figure(pictures: dict[str, Tensor], height: float = 1.0) -> Figure:
    """The same people by many cameras: a row a person, a column a camera.

    ``pictures``: of :func:`bnta_lib.rendered.statistics.through_cameras`, uint8 (P, 3, h, w) each.
    """
    people = len(next(iter(pictures.values())))
    figure, axes = plt.subplots(people, len(pictures), figsize=(TEXT_WIDTH, people * height * 1.45),
                                squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for column, (name, images) in enumerate(pictures.items()):
        for row in range(people):
            show_image(axes[row][column], images[row])
        axes[0][column].set_title(_two_lines(name), fontsize=6.5)
    return figure


def headroom_figure(rows: pd.DataFrame) -> Figure:
    """Rank 1 without adaption, by set: left as evaluated, right at one common gallery size.

    ``rows``: of :func:`bnta_lib.suite.headroom.headroom_rows`. Left, a dot is the mean over splits with
    its standard deviation, a tick a camera pair of 20 probes or more. Right, hollow is the same
    target by neutral cameras; the arrow is what is photometric; the line the sources' mean.
    """
    scores = headroom_scores(rows)
    pairs = headroom_scores(rows, ("cameras",)).query("probes >= 20")
    shown = scores[scores["kind"] != KINDS[2]]
    names = list(shown["set"])
    figure, (left, right) = plt.subplots(1, 2, sharey=True, layout="constrained",
                                         figsize=(TEXT_WIDTH, 0.9 + 0.27 * len(names)))
    colours = dict(zip(KINDS, (SOURCE, TARGET, TARGET)))
    for y, (_, row) in enumerate(shown.iterrows()):
        colour = colours[row["kind"]]
        own = pairs[(pairs["set"] == row["set"]) & (pairs["kind"] == row["kind"])]
        left.plot(own["R1"], np.full(len(own), y + 0.27), "|", color=INK, ms=5, mew=0.7)
        left.errorbar(row["R1"], y, xerr=row["std"], fmt="o", color=colour, ms=5, capsize=2)
        right.plot(row["R1 common"], y, "o", color=colour, ms=5)
        neutral = scores[(scores["set"] == row["set"]) & (scores["kind"] == KINDS[2])]
        if row["kind"] == KINDS[1] and len(neutral):
            value = neutral["R1 common"].iloc[0]
            right.plot(value, y, "o", mfc="white", mec=TARGET, mew=1.4, ms=5, zorder=4)
            right.annotate("", (value, y), (row["R1 common"], y), arrowprops=dict(
                arrowstyle="-|>", color=TARGET, lw=1, shrinkA=4, shrinkB=4, mutation_scale=7))
    sources = scores[scores["kind"] == KINDS[0]]["R1 common"]
    if len(sources):
        right.axvline(sources.mean(), color=SOURCE, lw=0.9, ls="--", zorder=0)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axis, title in ((left, "as evaluated"), (right, f"galleries of {common_size(rows)} images")):
        axis.set(xlim=(-3, 103), xlabel="rank 1, per cent", title=title)
        axis.tick_params(axis="y", length=0)
    marks = [plt.Line2D([], [], marker="o", ls="", color=colours[KINDS[0]]),
             plt.Line2D([], [], marker="o", ls="", color=colours[KINDS[1]]),
             plt.Line2D([], [], marker="o", ls="", mfc="white", mec=TARGET, mew=1.4),
             plt.Line2D([], [], marker="|", ls="", color=INK)]
    drawn = {name: mark for name, mark in zip((*KINDS, "a camera pair"), marks, strict=True)
             if name not in KINDS or name in set(scores["kind"])}
    if len(sources):
        drawn["mean of the sources"] = plt.Line2D([], [], color=SOURCE, lw=0.9, ls="--")
    figure.legend(drawn.values(), drawn, ncols=5, fontsize=7, loc="outside lower center",
                  columnspacing=1.2, handletextpad=0.4)
    return figure
