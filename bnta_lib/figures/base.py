"""What all figures share: one style, one palette, sheets of photographs, and one way to save."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image as pil
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bnta_lib.files import atomic
from bnta_lib.suite.runs import figures_dir
from bnta_lib.suite.stats import interval

# Okabe and Ito's colour-blind safe palette: one fixed colour for each thing we compare.
COLOURS = {"source": "#D55E00", "frozen": "#009E73", "adapted": "#0072B2", "right": "#0072B2",
           "wrong": "#D55E00", "Baseline": "#999999", "BNTA w/o TTA": "#009E73", "BNTA": "#0072B2",
           "AdaBN": "#E69F00", "Tent": "#CC79A7"}
INK, GREY, PALE, BAND = "#222222", "#8a8a8a", "#eeeeee", "#F0E442"  # yellow is seen on any clothes
SYMBOLS = {"mean": r"$\mu$", "var": r"$\sigma^2$", "gamma": r"$\gamma$", "beta": r"$\beta$"}
LOSSES = {"id": "$L_{id}$", "pos": "$L_{pos}$", "mat": "$L_{mat}^{tta}$"}
METRICS = {"R1": "rank 1", "R5": "rank 5", "R10": "rank 10", "mAP": "mAP"}
DEPTH = "BN layer, from shallow to deep"
# Where axes stand without a layout, for which a slider does not wait.
UNMOVED = {"left": 0.1, "right": 0.99, "bottom": 0.18, "top": 0.84, "wspace": 0.35}
TEXT_WIDTH = 7.0  # inches: the paper's two columns
SCREEN_DPI, PHOTO_DPI, PLOT_DPI = 110, 150, 200  # in a notebook; of PNG files


def use_style() -> None:
    """Set the suite's matplotlib style for the session; call once at the top of a notebook."""
    sns.set_theme(context="paper", style="ticks", font_scale=1.0)
    mpl.rcParams.update({
        "figure.dpi": SCREEN_DPI, "savefig.dpi": PLOT_DPI, "savefig.bbox": "tight", "axes.spines.top": False,
        "axes.spines.right": False, "pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9,
        "axes.labelsize": 9, "legend.frameon": False, "image.interpolation": "nearest",
    })


def save_figure(figure: Figure, name: str, run: str, alt: str = "") -> Image:
    """Write ``name``.pdf and .png under the run's figures; returns what a notebook shows.

    ``alt``: what the figure shows, in words, stored in both files. They hold no date: the same figure is the
    same bytes.
    """
    shown, photos, words = picture(figure, alt), photographs(figure), PngInfo()
    words.add_text("Description", alt)
    dpi = PHOTO_DPI if photos else PLOT_DPI
    with atomic(figures_dir(run) / f"{name}.png") as temporary:
        _pixels(figure, dpi).save(temporary, "PNG", optimize=True, pnginfo=words, dpi=(dpi, dpi))
    for photo in photos:  # as pixels of 256 colours, a third of the size; a viewer scales them
        few = pil.fromarray(np.asarray(photo.get_array())).quantize(256).convert("RGB")
        photo.set(data=np.asarray(few), interpolation="none")
    with atomic(figures_dir(run) / f"{name}.pdf") as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Subject": alt or None})
    return shown


def picture(figure: Figure, alt: str = "", trim: bool = True) -> Image:
    """The figure as a notebook shows it: a JPEG if it holds photographs, or else a PNG of 256 colours.

    Without ``trim`` it keeps its margins and all colours, and is drawn once instead of twice, for sliders.
    """
    if trim:
        pixels = _pixels(figure, SCREEN_DPI)
    else:
        figure.canvas.draw()
        pixels = pil.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    kind, options = ("jpeg", {"quality": 80}) if photographs(figure) else ("png", {"optimize": trim})
    pixels.save(buffer := io.BytesIO(), kind, **options)
    return Image(buffer.getvalue(), format=kind, alt=alt or None)


def photographs(figure: Figure) -> list[AxesImage]:
    """The images of three colours in a figure."""
    return [image for axis in figure.axes for image in axis.images if image.get_array().ndim == 3]


def _pixels(figure: Figure, dpi: int) -> pil.Image:
    """The figure without its margins; in 256 colours if it holds no photograph."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    pixels = pil.open(buffer).convert("RGB")
    return pixels if photographs(figure) else pixels.quantize(256)


def panels(rows: int, columns: int, height: float, width: float = 1.0, layout: str = "constrained",
           **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``height`` inches and ``width`` text widths; its axes (rows, columns)."""
    figure = new_figure(width * TEXT_WIDTH, height, layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def new_figure(width: float, height: float, layout: str = "none") -> Figure:
    """A figure that pyplot does not know: JupyterLab's sliders call back on a thread beside pyplot's."""
    figure = Figure(figsize=(width, height), dpi=SCREEN_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, side: str = "upper", axes: Sequence[Axes] | None = None, **options) -> None:
    """A legend above or below all panels, with every label of ``axes`` (default: all) once."""
    handles = {}
    for axis in figure.axes if axes is None else axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    options = {"handletextpad": 0.4, "columnspacing": 1.2, "ncols": len(handles)} | options
    outside = "outside " * (figure.get_layout_engine() is not None)
    figure.legend(handles.values(), handles.keys(), loc=f"{outside}{side} center", **options)


def bars(value, low, high) -> np.ndarray:
    """Lengths (2, n) of error bars from ``value`` to its ends; 0 where there are none."""
    value, low, high = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (value, low, high))
    return np.nan_to_num(np.stack([value - low, high - value]))


def draw_splits(axis: Axes, at: float, values: pd.Series, colour: str, marker: str = "o", spread=interval,
                apart: float = 0.18, jitter: float = 0.12, bar: str = "_", upright: bool = True,
                label: str = "") -> None:
    """Splits as faint dots on one side of ``at``, their mean and its ``spread`` on the other."""
    turn = 1 if upright else -1
    aside = np.linspace(-jitter, jitter, len(values)) if len(values) > 1 else 0
    axis.plot(*(at - apart + aside + 0 * values, values)[::turn], marker, color=colour, ms=3.2, alpha=0.55,
              mew=0, label=f"{label}a split")
    axis.errorbar(*(at + apart, values.mean())[::turn], fmt=bar, color=colour, ms=9 if bar in "_|" else 4,
                  **{"yerr" if upright else "xerr": bars(values.mean(), *spread(values))},
                  mew=2, capsize=2.5, elinewidth=1.4, label=f"{label}mean, 95 % interval")


# ---------------------------------------------------------------- photographs


@dataclass(frozen=True)
class Photo:
    """An image on a sheet, and what is drawn on it."""

    image: Tensor  # uint8 (3, h, w)
    frame: str | None = None  # its colour
    line: float = 2.0
    mark: str = ""  # a character in the corner, white on the frame's colour
    band: tuple[int, int] | None = None  # rows of the image that are outlined
    heading: str = ""  # above
    caption: str = ""  # beneath


def photo_sheet(rows: Sequence[Sequence[Photo | str | float]], title: str = "", gap: float = 0.06) -> Figure:
    """Rows of photographs of one size, ``gap`` widths of a photograph apart.

    A cell is a :class:`Photo`, a text, or a number: so many widths left empty.
    """
    photos = [cell for row in rows for cell in row if isinstance(cell, Photo)]
    _, height, width = photos[0].image.shape

    def space(cell) -> float:
        return width * (1 + gap if isinstance(cell, Photo) else 1.5 if isinstance(cell, str) else cell)

    across = max(sum(map(space, row)) for row in rows)
    size = min(TEXT_WIDTH, 0.7 * across / width)
    point = across / size / 72  # a point of type, in pixels of the images
    above = 9 * point * any(photo.heading for photo in photos)
    step = height + above + 2 * gap * width + 10 * point * any(photo.caption for photo in photos)
    figure = new_figure(size, size * len(rows) * step / across)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-3 * point, across), ylim=(len(rows) * step, -3 * point))
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=8)
    for y, row in enumerate(rows):
        x, top = 0.0, y * step + above
        for cell in row:
            if isinstance(cell, Photo):
                draw_photo(axis, cell, x, top, height, width)
            elif isinstance(cell, str):
                axis.text(x + 0.75 * width, top + height / 2, cell, fontsize=7, ha="center", va="center")
            x += space(cell)
    return figure


def draw_photo(axis: Axes, photo: Photo, x: float, y: float, height: int, width: int) -> None:
    axis.imshow(photo.image.permute(1, 2, 0).numpy(), extent=(x, x + width, y + height, y), aspect="auto",
                interpolation="bilinear")
    boxes = [(0, height, photo.frame, photo.line)] if photo.frame else []
    boxes += [(*photo.band, "black", 2.6), (*photo.band, BAND, 1.2)] if photo.band else []
    for top, bottom, colour, line in boxes:
        axis.add_patch(Rectangle((x + 0.5, y + top), width - 1, bottom - top, fill=False, ec=colour, lw=line))
    if photo.mark:
        axis.text(x + 0.96 * width, y + 0.015 * height, photo.mark, ha="right", va="top", fontsize=7,
                  color="white", fontweight="bold", family="DejaVu Sans",
                  bbox={"boxstyle": "square,pad=0.12", "facecolor": photo.frame, "edgecolor": "none"})
    axis.text(x, y - 0.015 * height, photo.heading, va="bottom", fontsize=6.5, color=INK)
    axis.text(x + width / 2, y + 1.03 * height, photo.caption, ha="center", va="top", fontsize=6.5, color=INK)


def even(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` rows, evenly spread."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()


# ---------------------------------------------------------------- an axis of BN layers


def stages(layers: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of BN layers of one part of the network: (label, first index, last index), from 1.

    ``layers``: names in the order of :func:`bnta_lib.model.bn_layers`.
    """
    labels = [layer.removeprefix("backbone.").split(".")[0].replace("bn1", "stem") for layer in layers]
    return [(label, labels.index(label) + 1, labels.index(label) + labels.count(label))
            for label in dict.fromkeys(labels)]


def layer_axis(axis: Axes, layers: Sequence[str], names: bool = True, shade: bool = True) -> None:
    """An axis of BN indices: every second stage of the network shaded, ``names`` of stages on top."""
    for number, (label, first, last) in enumerate(stages(layers)):
        if shade and number % 2:
            axis.axvspan(first - 0.5, last + 0.5, color="0.93", zorder=0, linewidth=0)
        if names:
            # The single-layer stages are narrow: their names lean over to keep clear of others.
            lean = {"rotation": 40, "ha": "left"} if last - first < 2 else {"ha": "center"}
            axis.text((first + last) / 2, 1.02, label, transform=axis.get_xaxis_transform(), va="bottom",
                      color="0.35", fontsize=7, **lean)
    axis.set(xlim=(0.5, len(layers) + 0.5), xticks=sorted({1, *range(10, len(layers) + 1, 10)}))
