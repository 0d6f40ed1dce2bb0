"""Pictures of a site without labels: its crops and tracks, its neighbours, and the estimate."""

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bnta_lib.evaluation import select_example_probes
from bnta_lib.figures.adaption import before_after, retrieval_figure
from bnta_lib.figures.base import COLOURS, Photo, bars, legend, panels
from bnta_lib.figures.data import COLUMNS, drawn, group_sheet, in_order
from bnta_lib.settings import Settings
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import Estimate, most_changed, neighbours, track_ranking, track_trial

STUDY_MARKS = {"default": ("o", "#0072B2"), "10 epochs": ("s", "#E69F00"), "rate × 40": ("^", "#D55E00"),
               "momentum 1": ("D", "#009E73")}


def crops_figure(site: Site, rows: int = 4, seed: int = 0) -> Figure:
    """Some of the site's crops; if tracks are known, a track or two in each row, in time.

    Tracks, or else crops, are drawn with ``seed`` and shown in their own order.
    """
    random = torch.Generator().manual_seed(seed)
    if site.tracks is None:
        crops = drawn(torch.arange(len(site)), rows * COLUMNS, random)
        return group_sheet(site.images, [("", part.tolist()) for part in crops.split(COLUMNS)], 1)
    names, counts = torch.unique(site.tracks, return_counts=True)
    slots = int(counts.max().clamp(2, 8))
    groups = [(f"track {track}", in_order(site.tracks == track, site.times, slots))
              for track in drawn(names, rows * (COLUMNS // slots), random).tolist()]
    return group_sheet(site.images, groups, COLUMNS // slots)


def neighbours_figure(probes: Tensor, gallery: Tensor, before: Tensor, after: Tensor,
                      selected: Tensor) -> Figure:
    """Selected probes with their nearest crops before and after: what is new or lost is framed.

    ``probes`` (P, 3, h, w) and ``gallery`` (N, 3, h, w), uint8; ``before`` and ``after`` (P, k): rows of the
    gallery, nearest first. Nothing here shows which crops are right. Raises ValueError without probes.
    """
    def framed(near: list[int], other: list[int], colour: str) -> list[Photo]:
        return [Photo(gallery[i], None if i in other else colour) for i in near]

    rows = []
    for probe in selected.tolist():
        old, new = before[probe].tolist(), after[probe].tolist()
        rows.append((probes[probe], "", ["before", *framed(old, new, COLOURS["frozen"])],
                     ["after", *framed(new, old, COLOURS["adapted"])]))
    return before_after(rows)


def search_figure(site: Site, before: Tensor, after: Tensor, settings: Settings, probes: Site | None = None,
                  probe_features: tuple[Tensor, Tensor] | None = None) -> Figure:
    """Examples of nearest crops before and after: of tracks with their right answer, or else of ``probes``
    or crops with what is new or lost framed.

    ``before`` and ``after``: features (N, C) of the crops; ``probe_features``: those of ``probes``.
    """
    tracks = torch.tensor([]) if site.tracks is None else torch.unique(site.tracks, return_counts=True)[1]
    if probes is None and (tracks > 1).sum() >= 3:
        early, late = trial = track_trial(site)
        rankings = [track_ranking(features, trial, settings) for features in (before, after)]
        selected = select_example_probes(rankings[0].rank, rankings[1].rank, 1)
        return retrieval_figure(site.images[early], site.images[late], *rankings, selected)
    searched = zip((before, after), probe_features or (None, None))
    near = [neighbours(gallery, probe, settings) for gallery, probe in searched]
    return neighbours_figure((probes or site).images, site.images, *near, most_changed(*near))


def estimate_figure(estimate: Estimate, true: tuple[float, float] | None = None) -> Figure:
    """Rank 1 by tracks before and after with 95 % intervals; right, their paired difference.

    ``true``: rank 1 across cameras before and after, per cent, if it is known.
    """
    figure, ((left, right),) = panels(1, 2, 1.7, width_ratios=[1.4, 1])
    before, after = true or (None, None)
    for axis, y, measured, colour, truth in ((left, 0, estimate.before, COLOURS["frozen"], before),
                                             (left, 1, estimate.after, COLOURS["adapted"], after),
                                             (right, 0, estimate.difference, "0.2", true and after - before)):
        axis.errorbar(measured[0], y, xerr=bars(*measured), fmt="o", color=colour, capsize=3,
                      label="by tracks, no labels (95 % interval)")
        if true is not None:
            axis.plot(truth, y + 0.22, "D", color=colour, mfc="white", ms=5, label="truth across cameras")
    left.set(yticks=[0, 1], yticklabels=["before", "after"], ylim=(1.6, -0.6), xlabel="rank 1, %")
    left.margins(x=0.12)
    right.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    right.set(yticks=[], ylim=(1.0, -1.0), xlabel="after minus before, points")
    legend(figure, fontsize=7)
    return figure


def study_figure(study: pd.DataFrame) -> Figure:
    """Change of rank 1 by tracks against the true change across cameras, a point a site.

    ``study``: rows of ``data/site_study.csv``. Lines: the estimate's interval.
    """
    figure, ((axis,),) = panels(1, 1, 3.0, 0.62)
    for kind, rows in study.groupby("adaption", sort=False):
        marker, colour = STUDY_MARKS[kind]
        axis.errorbar(rows["true"], rows["estimate"], bars(rows["estimate"], rows["low"], rows["high"]),
                      fmt=marker, color=colour, markersize=4.5, elinewidth=0.6, alpha=0.8, label=kind)
    axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.set(xlabel="true change of rank 1 across cameras, points",
             ylabel="change by tracks,\nwithout labels, points")
    figure.legend(title="adaption", fontsize=7, title_fontsize=7, loc="outside right center")
    return figure
