"""Algorithm 1 and Eq. (14) seen: the pairs, the losses, what moved, and retrieval before, after."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from bnta_lib.evaluation import Ranking
from bnta_lib.pairing import Pairs
from bnta_lib.settings import Settings
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, mark_stages, show_image
from bnta_lib.figures.network import stripe_rows

SYMBOLS = {"mean": r"$\mu$", "var": r"$\sigma^2$", "gamma": r"$\gamma$", "beta": r"$\beta$"}
LOSS_NAMES = {"pos": r"$L_{pos}$", "mat": r"$L_{mat}^{tta}$"}
OUTLINE = "#F0E442"  # yellow on black: seen on any clothes


def pairs_figure(
    images: Tensor, pairs: Pairs, settings: Settings, each: int = 6, closest: int = 12
) -> Figure:
    """Couples of Algorithm 1 with the matched stripe outlined on both, their distance beneath.

    ``images``: uint8 (N, 3, h, w) that the pairs index. Shows the ``closest`` pairs, then
    ``each`` from the middle and the end of the K pairs, ``each`` a row.
    """
    step = 16 * settings.last_stride  # image rows of a row of the feature maps
    bounds = [(step * start, min(step * end, settings.height)) for start, end in
              stripe_rows(math.ceil(settings.height / step), settings.stripes)]
    k = len(pairs.index)
    blocks = {"closest": range(min(closest, k))}
    if k > closest:
        middle = max(closest, (k - each) // 2)
        blocks["middle"] = range(middle, min(middle + each, k))
        blocks["last"] = range(max(k - each, blocks["middle"].stop), k)
    rows = [(label, list(chosen)[i : i + each])
            for label, chosen in blocks.items() for i in range(0, len(chosen), each)]
    aspect = images.shape[2] / images.shape[3]
    height = TEXT_WIDTH / (each * 2.35) * aspect + 0.24
    figure, axes = plt.subplots(
        len(rows), 3 * each - 1, figsize=(TEXT_WIDTH, len(rows) * height), squeeze=False,
        gridspec_kw={"wspace": 0.06, "hspace": 0.24, "width_ratios": ([1, 1, 0.25] * each)[:-1]},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    previous = None
    for row, (label, chosen) in zip(axes, rows):
        for c, pair in enumerate(chosen):
            couple = row[3 * c], row[3 * c + 1]
            for axis, image in zip(couple, pairs.index[pair].tolist()):
                axis.set_axis_on()
                show_image(axis, images[image])
                _outline(axis, *bounds[int(pairs.part[pair])], images.shape[3])
            couple[0].text(
                1.03, -0.04, f"part {int(pairs.part[pair]) + 1}: {float(pairs.distance[pair]):.3f}",
                transform=couple[0].transAxes, ha="center", va="top", fontsize=7,
            )
        if chosen and label != previous:
            row[0].set_ylabel(label, fontsize=8)
        previous = label
    return figure


def _outline(axis: Axes, top: float, bottom: float, width: int) -> None:
    for colour, line in (("black", 2.6), (OUTLINE, 1.2)):
        axis.add_patch(Rectangle((0, top - 0.5), width - 1, bottom - top, fill=False,
                                 edgecolor=colour, linewidth=line))


def pair_statistics_figure(
    pairs: Pairs, others: Tensor, others_part: Tensor, stripes: int
) -> Figure:
    """Left: D of the K pairs and of pairs taken at random; right: the matched parts of both.

    ``others``: D (R,) of the random pairs; ``others_part``: their parts (R,), from 0.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    bins = np.linspace(0, max(float(others.max()), float(pairs.distance.max())), 41)
    left.hist(others.numpy(), bins, density=True, color="0.75",
              label=f"{len(others)} random pairs")
    left.hist(pairs.distance.numpy(), bins, density=True, histtype="step", linewidth=1.6,
              color=COLOURS["adapted"], label=f"the K = {len(pairs.index)} pairs")
    left.set(xlabel="distance of the closest part, D", ylabel="density")
    left.margins(y=0.25)
    left.legend(fontsize=8)
    for shift, part, colour in ((-0.2, pairs.part, COLOURS["adapted"]), (0.2, others_part, "0.75")):
        share = np.bincount(part.numpy(), minlength=stripes) / len(part)
        right.bar(np.arange(1, stripes + 1) + shift, 100 * share, 0.38, color=colour)
    right.axhline(100 / stripes, color="0.35", linewidth=0.8, linestyle=":")
    right.set(xlabel="matched part n (1 = head)", ylabel="share of pairs, %",
              xticks=range(1, stripes + 1))
    return figure


def losses_figure(steps: pd.DataFrame, frozen: pd.DataFrame, adapted: pd.DataFrame) -> Figure:
    """The two terms of Eq. (13), step by step, and on the same batches before and after.

    ``steps``: rows of :class:`bnta_lib.adaption.Adaption` with a column seed, during adaption
    (batch statistics); ``frozen`` and ``adapted``: rows of
    :func:`bnta_lib.adaption.pair_losses` with a column seed (stored statistics).
    """
    series = [("frozen model", frozen, COLOURS["frozen"], "s"),
              ("during adaption", steps, "0.35", "^"),
              ("adapted model", adapted, COLOURS["adapted"], "o")]
    figure, axes = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.5), layout="constrained")
    for axis, term in zip(axes, LOSS_NAMES):
        for label, table, colour, marker in series:
            for _, own in table.groupby("seed"):
                axis.plot(own["step"], own[term], marker, color=colour, markersize=4, alpha=0.45)
            mean = table.groupby("step")[term].mean()
            axis.plot(mean.index, mean, "-", marker=marker, color=colour, markersize=5, label=label)
        axis.set(xlabel="step (batch of pairs)", ylabel=LOSS_NAMES[term],
                 xticks=sorted(steps["step"].unique()))
        axis.margins(x=0.15, y=0.12)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def changes_figure(changes: pd.DataFrame) -> Figure:
    """Change rate of mu, sigma^2, gamma and beta in every BN layer, from shallow to deep.

    ``changes``: rows of :func:`bnta_lib.adaption.change_rates`, with a column seed where there
    are several: a dot is the mean over seeds, a line their range. On a log scale, so a line that
    begins at 0 begins at the panel's lower end; what moved on no seed, or was zero before, has no dot.
    """
    layers = changes.drop_duplicates("index").sort_values("index")["layer"].tolist()
    figure, axes = plt.subplots(4, 1, figsize=(TEXT_WIDTH, 5.6), sharex=True, layout="constrained")
    for axis, (quantity, symbol) in zip(axes, SYMBOLS.items()):
        own = changes[changes["quantity"] == quantity].groupby("index")["rate"]
        rate = 100 * own.agg(["mean", "min", "max"])
        mark_stages(axis, layers, labels=axis is axes[0])
        rate = rate[rate["mean"] > 0]
        least = 0.7 * rate["min"].where(rate["min"] > 0, rate["mean"]).min()
        axis.plot(rate.index, rate["mean"], "o", color=COLOURS["adapted"], markersize=3.5)
        axis.vlines(rate.index, rate["min"].clip(lower=least), rate["max"], color=COLOURS["adapted"],
                    linewidth=1.2)
        if len(rate):
            axis.set(yscale="log", ylim=(least, 1.4 * rate["max"].max()))
            _label_log(axis)
        axis.grid(axis="y", color="0.85", linewidth=0.6)
        axis.set_ylabel(f"{symbol}\nchange, %")
    axes[-1].set(xlabel="BN layer, from shallow to deep",
                 xticks=sorted({1, *range(10, len(layers) + 1, 10)}))
    figure.align_ylabels()
    return figure


def _label_log(axis: Axes) -> None:
    """Label two ticks or more of a logarithmic axis, however little of a decade it spans."""
    low, high = axis.get_ylim()
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, *range(2, 10))):
        axis.yaxis.set_major_locator(LogLocator(subs=steps))
        if sum(low <= tick <= high for tick in axis.get_yticks()) > 1:
            break
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def retrieval_figure(
    probes: Tensor,
    gallery: Tensor,
    before: Ranking,
    after: Ranking,
    chosen: dict[str, Tensor],
    columns: int = 10,
) -> Figure:
    """Chosen probes, each with its nearest gallery images before and after adaption.

    ``probes`` (P, 3, h, w), ``gallery`` (G, 3, h, w): uint8. ``chosen``: groups of probe indices
    as :func:`bnta_lib.evaluation.select_example_probes` gives. The probe's person is framed and ticked,
    others are framed in the other colour and crossed.
    """
    entries = [(group, int(p)) for group, indices in chosen.items() for p in indices]
    if not entries:
        raise ValueError("no probe to show: choose at least one")
    aspect = probes.shape[2] / probes.shape[3]
    cell = TEXT_WIDTH / (1.1 * (columns + 2.5))  # inches; 1.1 for the gaps
    figure, axes = plt.subplots(
        2 * len(entries), columns + 2, squeeze=False,
        figsize=(TEXT_WIDTH, 2 * len(entries) * 1.09 * cell * aspect),
        gridspec_kw={"wspace": 0.1, "hspace": 0.08, "width_ratios": [1, 1.5] + [1] * columns,
                     "left": 0.005, "right": 0.995, "bottom": 0.005, "top": 0.995},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (group, probe) in enumerate(entries):
        for offset, (word, ranking) in enumerate((("before", before), ("after", after))):
            row = axes[2 * number + offset]
            if not offset:
                row[0].set_axis_on()
                show_image(row[0], probes[probe], "black", 1.0)
                row[0].set_title(group, fontsize=7, pad=2)
            row[1].text(0.5, 0.5, f"{word}\nmatch at\nrank {int(ranking.rank[probe])}", fontsize=7,
                        ha="center", va="center", transform=row[1].transAxes)
            hits = zip(ranking.index[probe].tolist(), ranking.right[probe].tolist())
            for axis, (image, right) in zip(row[2:], hits):
                axis.set_axis_on()
                _marked(axis, gallery[image], right)
    return figure


def _marked(axis: Axes, image: Tensor, right: bool) -> None:
    colour = COLOURS["right" if right else "wrong"]
    show_image(axis, image, colour, 2.2 if right else 0.9)
    axis.text(0.96, 0.985, "✓" if right else "×", transform=axis.transAxes, ha="right", va="top",
              fontsize=7, fontweight="bold", color="white", family="DejaVu Sans",
              bbox={"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"})
