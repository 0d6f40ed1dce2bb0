"""Pictures of a site without labels: its crops and tracks, its neighbours, and the estimate."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bnta_lib.evaluation import select_example_probes
from bnta_lib.settings import Settings
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import Estimate, most_changed, neighbours, track_ranking, track_trial
from bnta_lib.figures.adaption import retrieval_figure
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, show_image

COLUMNS = 16  # crops in a row of the sheet
INK = "0.35"


def crops_figure(site: Site, rows: int = 4, seed: int = 0) -> Figure:
    """Some of the site's crops: where tracks are known, a track or two in each row, in time.

    Tracks, or else crops, are drawn with ``seed`` and shown in their own order.
    """
    random = torch.Generator().manual_seed(seed)
    groups: list[tuple[str, list[int]]] = []
    if site.tracks is None:
        drawn = torch.randperm(len(site), generator=random)[: rows * COLUMNS].sort().values.tolist()
        groups = [("", drawn[i : i + COLUMNS]) for i in range(0, len(drawn), COLUMNS)]
        slots = COLUMNS
    else:
        names, counts = torch.unique(site.tracks, return_counts=True)
        slots = min(8, max(2, int(counts.max())))
        drawn = torch.randperm(len(names), generator=random)[: rows * (COLUMNS // slots)].sort().values
        for track in names[drawn].tolist():
            own = (site.tracks == track).nonzero()[:, 0]
            own = own[torch.argsort(site.times[own], stable=True)]
            even = torch.linspace(0, len(own) - 1, min(slots, len(own))).round().long()
            groups.append((f"track {track}", own[even].tolist()))
    height, width = site.images.shape[2:]
    gap, line = 0.35 * width, 0.16 * height if site.tracks is not None else 0.04 * height
    a_row = COLUMNS // slots
    across = a_row * slots * width + (a_row - 1) * gap
    down = -(-len(groups) // a_row) * (height + line)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, TEXT_WIDTH * down / across + 0.1))
    for g, (label, index) in enumerate(groups):
        left, top = (g % a_row) * (slots * width + gap), (g // a_row) * (height + line) + line
        for k, i in enumerate(index):
            x = left + k * width
            axis.imshow(site.images[i].permute(1, 2, 0).numpy(), interpolation="bilinear",
                        extent=(x, x + width - 1, top + height - 1, top))
        axis.text(left, top - 0.02 * height, label, va="bottom", fontsize=6.5, color=INK)
    axis.set(xlim=(-2, across + 2), ylim=(down + 2, -2), aspect="equal")
    axis.set_axis_off()
    figure.tight_layout(pad=0.2)
    return figure


def neighbours_figure(
    probes: Tensor, gallery: Tensor, before: Tensor, after: Tensor, chosen: Tensor
) -> Figure:
    """Chosen probes with their nearest crops before and after: what is new or lost is framed.

    ``probes`` (P, 3, h, w) and ``gallery`` (N, 3, h, w), uint8; ``before`` and ``after`` (P, k):
    rows of the gallery, nearest first. Nothing here says which crops are right.
    """
    if not len(chosen):
        raise ValueError("no probe to show: choose at least one")
    columns = before.shape[1]
    cell = TEXT_WIDTH / (1.1 * (columns + 2.3))
    aspect = probes.shape[2] / probes.shape[3]
    figure, axes = plt.subplots(
        2 * len(chosen), columns + 2, squeeze=False,
        figsize=(TEXT_WIDTH, 2 * len(chosen) * 1.09 * cell * aspect),
        gridspec_kw={"wspace": 0.1, "hspace": 0.08, "width_ratios": [1, 1.3] + [1] * columns,
                     "left": 0.005, "right": 0.995, "bottom": 0.005, "top": 0.995},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for number, probe in enumerate(chosen.tolist()):
        sides = (("before", before[probe], after[probe], COLOURS["frozen"]),
                 ("after", after[probe], before[probe], COLOURS["adapted"]))
        for offset, (word, own, other, colour) in enumerate(sides):
            row = axes[2 * number + offset]
            if not offset:
                row[0].set_axis_on()
                show_image(row[0], probes[probe], "black", 1.0)
            row[1].text(0.5, 0.5, word, fontsize=7, ha="center", va="center",
                        transform=row[1].transAxes)
            for axis, image in zip(row[2:], own.tolist()):
                axis.set_axis_on()
                changed = image not in other.tolist()
                show_image(axis, gallery[image], colour if changed else None, 2.2)
    return figure


def examples_figure(
    site: Site, before: Tensor, after: Tensor, settings: Settings, probes: Site | None = None,
    probe_features: tuple[Tensor, Tensor] | None = None, each: int = 1,
) -> Figure:  # fmt: skip
    """Retrieval before and after: of the given probes, or of tracks, or of the crops themselves.

    ``before`` and ``after``: features (N, C) of the site's crops; ``probe_features``: those of the
    probes. With tracks as :func:`.adaption.retrieval_figure`, or else :func:`neighbours_figure`.
    """
    if probes is None:
        try:
            trial = track_trial(site)
        except ValueError:  # no tracks, or too few: the crops themselves are searched for
            trial = None
        if trial is not None and len(trial.probe) >= 3:
            rankings = [track_ranking(features, trial, settings) for features in (before, after)]
            chosen = select_example_probes(rankings[0].rank, rankings[1].rank, each)
            return retrieval_figure(site.images[trial.probe], site.images[trial.gallery], *rankings,
                                    chosen, rankings[0].index.shape[1])
    near = neighbours(before, after, settings, probes=probe_features if probes else None)
    return neighbours_figure((probes or site).images, site.images, *near, most_changed(*near, each))


def estimate_figure(estimate: Estimate, true: tuple[float, float] | None = None) -> Figure:
    """Rank 1 by tracks before and after with 95 % intervals; right, their paired difference.

    ``true``: rank 1 across cameras before and after, per cent, where it is known.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 1.7), layout="constrained",
                                         gridspec_kw={"width_ratios": [1.4, 1]})
    rows = (("before", estimate.before, COLOURS["frozen"]), ("after", estimate.after, COLOURS["adapted"]))
    for y, (word, (value, low, high), colour) in enumerate(rows):
        left.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
        if true is not None:
            left.plot(true[y], y + 0.22, "D", color=colour, markerfacecolor="white", markersize=5)
    left.set(yticks=[0, 1], yticklabels=["before", "after"], ylim=(1.6, -0.6), xlabel="rank 1, %")
    left.margins(x=0.12)
    value, low, high = estimate.difference
    right.errorbar(value, 0, xerr=[[value - low], [high - value]], fmt="o", color="0.2", capsize=3)
    if true is not None:
        right.plot(true[1] - true[0], 0.22, "D", color="0.2", markerfacecolor="white", markersize=5)
    right.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    right.set(yticks=[], ylim=(1.0, -1.0), xlabel="after minus before, points")
    marks = [plt.Line2D([], [], marker="o", color="0.2", label="by tracks, no labels (95 % interval)")]
    if true is not None:
        marks.append(plt.Line2D([], [], marker="D", markerfacecolor="white", linestyle="", color="0.2",
                                label="truth across cameras"))
    figure.legend(handles=marks, ncols=2, fontsize=7, loc="outside upper center")
    return figure


STUDY_MARKS = {"default": ("o", "#0072B2"), "10 epochs": ("s", "#E69F00"),
               "rate × 40": ("^", "#D55E00"), "momentum 1": ("D", "#009E73")}


def study_figure(study: pd.DataFrame) -> Figure:
    """Change of rank 1 by tracks against the true change across cameras, a point a site.

    ``study``: rows of :func:`bnta_lib.site.study.study_rows`. Lines: the estimate's interval.
    """
    figure, axis = plt.subplots(figsize=(0.62 * TEXT_WIDTH, 3.0), layout="constrained")
    for kind, own in study.groupby("adaption", sort=False):
        marker, colour = STUDY_MARKS.get(kind, ("o", "0.3"))
        axis.errorbar(own["true"], own["estimate"], fmt=marker, color=colour, markersize=4.5,
                      yerr=np.stack([own["estimate"] - own["low"], own["high"] - own["estimate"]]),
                      elinewidth=0.6, alpha=0.8, label=kind)
    axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.set(xlabel="true change of rank 1 across cameras, points",
             ylabel="change by tracks,\nwithout labels, points")
    figure.legend(title="adaption", fontsize=7, title_fontsize=7, loc="outside right center")
    return figure
