"""Algorithm 1 and Eq. (13) seen: the pairs, the losses, and retrieval before and after."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from bnta_lib.evaluation import Ranking
from bnta_lib.figures.base import COLOURS, LOSSES, Photo, legend, panels, photo_sheet
from bnta_lib.figures.network import stripe_rows
from bnta_lib.pairing import Pairs
from bnta_lib.settings import Settings

# Frame, line and character of a gallery image of another person, and of the probe's.
MARKS = ((COLOURS["wrong"], 0.9, "×"), (COLOURS["right"], 2.2, "✓"))


def example_pairs(count: int, each: int = 6, closest: int = 12) -> dict[str, list[int]]:
    """Which of ``count`` pairs to show: the closest, then ``each`` from the middle and from the end."""
    middle = max(closest, (count - each) // 2)
    last = max(count - each, middle + each)
    blocks = {"closest": range(closest), "middle": range(middle, middle + each), "last": range(last, count)}
    return {label: [i for i in block if i < count] for label, block in blocks.items() if block.start < count}


def pairs_figure(images: Tensor, pairs: Pairs, settings: Settings,
                 shown: Mapping[str, Sequence[int]] | None = None) -> Figure:
    """Couples of Algorithm 1 with the matched stripe outlined on both, their distance beneath.

    ``images``: uint8 (N, 3, h, w) that the pairs index. ``shown``: labels and numbers of pairs,
    six a row; by default :func:`example_pairs`.
    """
    step = 16 * settings.last_stride  # image rows of a row of the feature maps
    bands = [(step * start, min(step * end, settings.height)) for start, end in
             stripe_rows(math.ceil(settings.height / step), settings.stripes)]
    rows = []
    for label, numbers in (shown or example_pairs(len(pairs.index))).items():
        for count, number in enumerate(numbers):
            if count % 6 == 0:
                rows.append(["" if count else label])
            part, (first, second) = int(pairs.part[number]), images[pairs.index[number]]
            caption = f"part {part + 1}: {float(pairs.distance[number]):.3f}"
            rows[-1] += [Photo(first, caption=caption, band=bands[part]),
                         Photo(second, band=bands[part]), 0.25]
    return photo_sheet(rows)


def pair_statistics_figure(pairs: Pairs, others: Tensor, others_part: Tensor, stripes: int) -> Figure:
    """Left: D of the K pairs and of pairs taken at random; right: the matched parts of both.

    ``others``: D (R,) of the random pairs; ``others_part``: their parts (R,), from 0.
    """
    figure, ((left, right),) = panels(1, 2, 2.3)
    bins = np.linspace(0, max(float(others.max()), float(pairs.distance.max())), 41)
    left.hist(others.numpy(), bins, density=True, color="0.75", label=f"{len(others)} random pairs")
    left.hist(pairs.distance.numpy(), bins, density=True, histtype="step", linewidth=1.6,
              color=COLOURS["adapted"], label=f"the K = {len(pairs.index)} pairs")
    left.set(xlabel="distance of the closest part, D", ylabel="density")
    left.margins(y=0.25)
    left.legend(fontsize=8)
    for shift, part, colour in ((-0.2, pairs.part, COLOURS["adapted"]), (0.2, others_part, "0.75")):
        share = np.bincount(part.numpy(), minlength=stripes) / len(part)
        right.bar(np.arange(1, stripes + 1) + shift, 100 * share, 0.38, color=colour)
    right.axhline(100 / stripes, color="0.35", linewidth=0.8, linestyle=":")
    right.set(xlabel="matched part n (1 = head)", ylabel="share of pairs, %", xticks=range(1, stripes + 1))
    return figure


def losses_figure(steps: pd.DataFrame, frozen: pd.DataFrame, adapted: pd.DataFrame) -> Figure:
    """The two terms of Eq. (13), step by step, and on the same batches before and after.

    All rows have columns seed, step, pos and mat; those of ``steps`` were taken during adaption.
    """
    figure, (axes,) = panels(1, 2, 2.5)
    for axis, term in zip(axes, ("pos", "mat")):
        for label, table, colour, marker in (("frozen model", frozen, COLOURS["frozen"], "s"),
                                             ("during adaption", steps, "0.35", "^"),
                                             ("adapted model", adapted, COLOURS["adapted"], "o")):
            axis.plot(table["step"], table[term], marker, color=colour, markersize=4, alpha=0.45)
            axis.plot(table.groupby("step")[term].mean(), "-", marker=marker, color=colour, ms=5, label=label)
        axis.set(xlabel="step (batch of pairs)", ylabel=LOSSES[term], xticks=sorted(steps["step"].unique()))
        axis.margins(x=0.15, y=0.12)
    legend(figure)
    return figure


def retrieval_figure(probes: Tensor, gallery: Tensor, before: Ranking, after: Ranking,
                     selected: Mapping[str, Sequence[int]], columns: int = 10) -> Figure:
    """Selected probes, each with its nearest gallery images before and after adaption.

    ``probes`` (P, 3, h, w), ``gallery`` (G, 3, h, w): uint8. ``selected``: groups of probe indices
    as :func:`bnta_lib.evaluation.select_example_probes` gives. Raises ValueError without probes.
    """
    rows = []
    for group, probe in ((group, int(probe)) for group, indices in selected.items() for probe in indices):
        sides = []
        for when, ranking in (("before", before), ("after", after)):
            rank, near = int(ranking.rank[probe]), ranking.index[probe, :columns].tolist()
            sides.append([f"{when}\nmatch at\nrank {rank}" if rank else f"{when}\nno match\nin gallery"])
            sides[-1] += [Photo(gallery[i], *MARKS[right])
                          for i, right in zip(near, ranking.right[probe].tolist())]
        rows.append((probes[probe], group, *sides))
    return before_after(rows)


def before_after(rows: Sequence[tuple[Tensor, str, list, list]]) -> Figure:
    """A sheet of probes with a heading, each beside a row of cells before and one after adaption.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("no probe to show: choose at least one")
    return photo_sheet([row for probe, heading, before, after in rows for row in (
        [Photo(probe, "black", 1.0, heading=heading), *before], [1.1, *after])], gap=0.1)
