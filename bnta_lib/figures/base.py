"""What all figures share: one style, one palette, one way to save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bnta_lib.files import atomic
from bnta_lib.settings import figures_dir

# Okabe and Ito's colour-blind safe palette: one fixed colour for each thing we compare.
COLOURS = {
    "source": "#D55E00",
    "frozen": "#009E73",
    "adapted": "#0072B2",
    "right": "#0072B2",
    "wrong": "#D55E00",
    "Baseline": "#999999",
    "BNTA w/o TTA": "#009E73",
    "BNTA": "#0072B2",
    "AdaBN": "#E69F00",
    "Tent": "#CC79A7",
}
TEXT_WIDTH = 7.0  # inches: the paper's two columns


def use_style() -> None:
    """Set the suite's matplotlib style for the session; call once at the top of a notebook."""
    sns.set_theme(context="paper", style="ticks", font_scale=1.0)
    mpl.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 200, "savefig.bbox": "tight", "axes.spines.top": False,
        "axes.spines.right": False, "pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9,
        "axes.labelsize": 9, "legend.frameon": False, "image.interpolation": "nearest",
    })


def save_figure(figure: Figure, name: str, profile: str) -> list[Path]:
    """Write ``name``.pdf and .png under the profile's figures; returns the paths."""
    paths = [figures_dir(profile) / f"{name}.{kind}" for kind in ("pdf", "png")]
    for path in paths:
        with atomic(path) as temporary:
            # No dates in the files: the same figure is the same bytes.
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def show_image(axis: Axes, image: Tensor, colour: str | None = None, width: float = 2.5) -> None:
    """Draw a uint8 image (3, h, w) without ticks, framed where a colour is given."""
    axis.imshow(image.permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=width)


def image_rows(
    rows: Sequence[Sequence[Tensor]], labels: Sequence[str] = (), height: float = 0.9
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of uint8 images (3, h, w), a list a row, with a label left of each row.

    ``height`` is that of an image in inches. Returns the figure and its axes.
    """
    columns = max(len(row) for row in rows)
    _, h, w = rows[0][0].shape
    size = (columns * height * w / h * 1.06, len(rows) * height * 1.06)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False,
                                gridspec_kw={"wspace": 0.04, "hspace": 0.04})
    for r, row in enumerate(rows):
        for c, axis in enumerate(axes[r]):
            axis.set_axis_off() if c >= len(row) else show_image(axis, row[c])
        if r < len(labels):
            axes[r][0].set_ylabel(labels[r], rotation=0, ha="right", va="center")
    return figure, axes.tolist()


def stages(layers: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of BN layers of one part of the network: (label, first index, last index), from 1.

    ``layers``: names in the order of :func:`bnta_lib.model.bn_layers`.
    """
    runs: list[tuple[str, int, int]] = []
    for index, layer in enumerate(layers, start=1):
        head, _, rest = layer.partition(".")
        label = {"backbone": rest.split(".")[0], "parts": "parts"}.get(head, head)
        label = "stem" if label == "bn1" else label
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], index)
        else:
            runs.append((label, index, index))
    return runs


def mark_stages(axis: Axes, layers: Sequence[str], labels: bool = True) -> None:
    """Shade every second stage of the network behind an axis of BN indices, named on top."""
    for number, (label, first, last) in enumerate(stages(layers)):
        if number % 2:
            axis.axvspan(first - 0.5, last + 0.5, color="0.93", zorder=0, linewidth=0)
        if labels:
            # The single-layer stages are narrow: their names lean over to keep clear of others.
            lean = {"rotation": 40, "ha": "left"} if last - first < 2 else {"ha": "center"}
            axis.text((first + last) / 2, 1.02, label, transform=axis.get_xaxis_transform(),
                      va="bottom", color="0.35", fontsize=7, **lean)
    axis.set_xlim(0.5, len(layers) + 0.5)
