"""What all figures share: one style, one palette, and one way to save."""

import io
from base64 import b64encode
from html import escape

import matplotlib as mpl
import numpy as np
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox
from PIL import Image as pil
from PIL.PngImagePlugin import PngInfo

from bnta_lib.files import atomic
from bnta_lib.suite.runs import figures_dir

# Okabe and Ito's colour-blind safe palette: one fixed colour for each thing we compare.
COLOURS = {"source": "#D55E00", "frozen": "#009E73", "adapted": "#0072B2", "right": "#0072B2",
           "wrong": "#D55E00", "Baseline": "#999999", "BNTA w/o TTA": "#009E73", "BNTA": "#0072B2",
           "AdaBN": "#E69F00", "Tent": "#CC79A7"}
INK, GREY, PALE, BAND = "#222222", "#8a8a8a", "#eeeeee", "#F0E442"  # yellow is seen on any clothes
METRICS = {"R1": "rank 1", "R5": "rank 5", "R10": "rank 10", "mAP": "mAP"}
# Where axes stand without a layout, for which a slider does not wait.
UNMOVED = {"left": 0.1, "right": 0.99, "bottom": 0.18, "top": 0.84, "wspace": 0.35}
TEXT_WIDTH = 7.0  # inches: the paper's two columns
SCREEN_DPI, PHOTO_DPI, PLOT_DPI = 110, 150, 200  # in a notebook; of PNG files


def use_style() -> None:
    """Set the suite's matplotlib style for the session, as `Lab` does."""
    sns.set_theme(context="paper", style="ticks", font_scale=1.0)
    mpl.rcParams.update({
        "figure.dpi": SCREEN_DPI, "savefig.dpi": PLOT_DPI, "savefig.bbox": "tight", "axes.spines.top": False,
        "axes.spines.right": False, "pdf.fonttype": 42, "font.size": 9, "axes.titlesize": 9,
        "axes.labelsize": 9, "legend.frameon": False, "image.interpolation": "nearest",
    })


def save_figure(figure: Figure, name: str, run: str, alt: str = "", caption: str = "") -> Image:
    """Write ``name``.pdf and .png under the run's figures; returns what a notebook shows.

    ``alt``, in words, is stored in both, ``caption`` in the PNG. The same figure is the same bytes.
    """
    shown, photos, words = picture(figure, alt), photographs(figure), PngInfo()
    words.add_text("Description", alt)
    words.add_text("Comment", caption)
    dpi = PHOTO_DPI if photos else PLOT_DPI
    with atomic(figures_dir(run) / f"{name}.png") as temporary:
        _pixels(figure, dpi).save(temporary, "PNG", optimize=True, pnginfo=words, dpi=(dpi, dpi))
    for photo in photos:  # as pixels of 256 colours, a third of the size; a viewer scales them
        few = pil.fromarray(np.asarray(photo.get_array())).quantize(256).convert("RGB")
        photo.set(data=np.asarray(few), interpolation="none")
    with atomic(figures_dir(run) / f"{name}.pdf") as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Subject": alt or None})
    return shown


def picture(figure: Figure, alt: str = "") -> Image:
    """The figure as a notebook shows it: a JPEG if it holds photographs, or else a PNG of 256 colours."""
    kind, options = ("jpeg", {"quality": 80}) if photographs(figure) else ("png", {"optimize": True})
    return encoded(_pixels(figure, SCREEN_DPI), kind, alt, **options)


def drawn(figure: Figure, alt: str = "") -> Image:
    """What the figure's canvas holds, as a PNG with its margins: for sliders, which do not wait for less."""
    pixels = pil.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    return encoded(pixels.quantize(256, pil.Quantize.FASTOCTREE, dither=0), "png", alt, compress_level=1)


def encoded(pixels: pil.Image, kind: str, alt: str = "", **options) -> Image:
    """Pixels as a JPEG or PNG to show; ``options`` are Pillow's."""
    pixels.save(buffer := io.BytesIO(), kind, **options)
    return Image(buffer.getvalue(), format=kind, metadata={"alt": alt} if alt else None)


def element(image: Image) -> str:
    """The image as an element of HTML."""
    data, alt = b64encode(image.data).decode(), escape((image.metadata or {}).get("alt", ""))
    return f'<img src="data:image/{image.format};base64,{data}" alt="{alt}">'


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
    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=SCREEN_DPI, layout=layout)).figure


def emptied(figure: Figure) -> list[Axes]:
    """A figure's axes without what was drawn in them: to make axes takes longer than to fill them."""
    for axis in figure.axes:
        for line in [*axis.lines]:
            line.remove()
        axis.dataLim, axis.ignore_existing_data_limits = Bbox.null(), True
        axis.autoscale()
        axis.xaxis.set_label_coords(0.5, -0.16)  # else found at every drawing
    return figure.axes


def legend(figure: Figure, side: str = "upper", **options) -> None:
    """A legend above or below all panels, with every label once; of panels that have none of their own."""
    handles = {}
    for axis in figure.axes:
        if axis.get_legend() is None:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels())))
    options = {"handletextpad": 0.4, "columnspacing": 1.2, "ncols": len(handles)} | options
    outside = "outside " * (figure.get_layout_engine() is not None)
    figure.legend(handles.values(), handles.keys(), loc=f"{outside}{side} center", **options)


def bars(value, low, high) -> np.ndarray:
    """Lengths (2, n) of error bars from ``value`` to its ends; 0 where there are none."""
    value, low, high = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (value, low, high))
    return np.nan_to_num(np.stack([value - low, high - value]))
