"""Pictures of the explorers: drawn anew while a slider moves, so quick to draw and small to send.

Figures here are matplotlib's without pyplot (nothing is kept of them), image strips are put together
by Pillow.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bnta_lib.evaluation import Ranking
from bnta_lib.pairing import Pairs
from bnta_lib.settings import Settings
from bnta_lib.figures.adaption import SYMBOLS
from bnta_lib.figures.base import COLOURS
from bnta_lib.figures.grid import NAMES
from bnta_lib.figures.network import stripe_rows

DPI = 96  # of a browser
CELL = 128  # pixels: the height of a person in a strip
INK, OUTLINE = "#222222", "#F0E442"  # yellow on black is seen on any clothes
LIVE = "#D55E00"


def png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Frame:
    """A matplotlib figure whose axes stand still: only what moves is drawn anew.

    Drawing axes and their ticks is what takes the time: too long for a slider.
    """

    def __init__(self, figure: Figure):
        self.figure, self._canvas, self._background = figure, FigureCanvasAgg(figure), None

    def ready(self) -> None:
        """Draw what stands still, which no slider should wait for."""
        if self._background is None:
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self.figure.bbox)

    def picture(self, moving: Sequence[Artist]) -> Image.Image:
        """The figure with the ``moving`` artists on it, which belong to it and are ``animated``."""
        self.ready()
        self._canvas.restore_region(self._background)
        for artist in moving:
            self.figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())


def _frame_figure(width: float, height: float, columns: int, **places) -> tuple[Figure, np.ndarray]:
    """A figure (inches) with one row of axes at fixed places: a layout engine takes too long here."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    return figure, figure.subplots(1, columns, squeeze=False, gridspec_kw=places)[0]


# ---------------------------------------------------------------- N and K


class NKFrame(Frame):
    """Retrieval along K and along N, and the seconds along K, with a chosen setting marked.

    ``cells`` (see :mod:`bnta_lib.explore.nk`) of one target, on all its splits, decide the axes, so that
    these stand still while N, K, the split or the momentum moves.
    """

    PANELS = (("K", ""), ("N", ""), ("K", "seconds"))

    def __init__(self, cells: pd.DataFrame, metric: str, largest: int):
        figure, self.axes = _frame_figure(9.6, 2.7, 3, left=0.075, right=0.99, bottom=0.2, top=0.8,
                                          wspace=0.3)
        super().__init__(figure)
        self.metric, self._parts = metric, []
        adapted = cells[cells["N"] > 0]
        for axis, (along, value) in zip(self.axes, self.PANELS):
            name = value or metric
            ticks = {int(t) for t in adapted[along]} or {4, largest if along == "N" else largest // 2}
            _size_axis(axis, sorted(ticks), 2 if along == "K" else 4,
                       largest if along == "N" else largest // 2)
            known = (cells if not value else adapted)[name].dropna()
            low, high = (known.min(), known.max()) if len(known) else (0, 1 if value else 100)
            room = 0.08 * (high - low) + 0.02
            axis.set_ylim(0 if value else low - room, high + room)
            axis.yaxis.set_major_locator(MaxNLocator(5))
            axis.set_xlabel("K, pairs" if along == "K" else "N, images")
            axis.set_ylabel("adaption time, s" if value else f"{NAMES.get(metric, metric)}, %")
            if not value and len(frozen := cells.loc[cells["N"] == 0, name]):
                axis.axhline(frozen.mean(), color="0.6", ls="--", lw=1)
            more = {"animated": True}
            blue, grey = COLOURS["adapted"], "0.6"
            self._parts.append({
                "mean": axis.plot([], [], color=grey, lw=1.2, label="mean of splits (dashed: no adaption)",
                                  **more)[0],
                "split": axis.plot([], [], "o-", color=blue, lw=1.6, ms=3.5, label="this split", **more)[0],
                "frozen": axis.axhline(low, color=blue, ls="--", lw=1, **more),
                "at": axis.axvline(ticks and min(ticks), color="0.35", ls=":", lw=1, **more),
                "live": axis.plot([], [], "*", color=LIVE, ms=12, mec="white", label="run by hand",
                                  **more)[0],
                "point": axis.plot([], [], "o", ms=10, mfc="none", mec=INK, mew=1.6,
                                   label="chosen setting", **more)[0],
                "title": axis.set_title("", fontsize=9, **more)})
        shown = [part for key, part in self._parts[0].items() if key not in ("at", "title", "frozen")]
        legend = figure.legend(shown, [part.get_label() for part in shown], loc="upper center", ncols=4,
                               fontsize=8, frameon=False, handlelength=1.8, borderaxespad=0.1)
        for handle in legend.legend_handles:
            handle.set_animated(False)

    def show(
        self, lines: Mapping[str, pd.DataFrame], point: Mapping | None, live: pd.DataFrame,
        frozen: float, n: int, k: int,
    ) -> Image.Image:
        """The picture of one setting.

        ``lines``: cells under "K split", "K mean", "N split" and "N mean": along K at the chosen N, or
        along N at the chosen K, of the split and averaged over the splits. ``point``: the chosen cell;
        None where it is not measured (the dotted line alone then marks the place). ``live``: cells run
        by hand. ``frozen``: the split's value without adaption, NaN where unknown.
        """
        moving = []
        for axis, part, (along, value) in zip(self.axes, self._parts, self.PANELS):
            name, chosen = value or self.metric, k if along == "K" else n
            for which in ("mean", "split"):
                line = lines[f"{along} {which}"]
                part[which].set_data(line[along], line[name])
            beside = live[live["N" if along == "K" else "K"] == (n if along == "K" else k)]
            part["live"].set_data(beside[along], beside[name])
            marked = point is not None and not math.isnan(point[name])
            part["point"].set_data(*([[chosen], [point[name]]] if marked else [[], []]))
            part["at"].set_xdata([chosen, chosen])
            part["frozen"].set_ydata([frozen, frozen])
            part["title"].set_text(f"along K, at N = {n}" if along == "K" else f"along N, at K = {k}")
            # A time is of its machine, not of its split; and there is none without adaption.
            left_out = {"mean", "frozen"} if value else {"frozen"} if math.isnan(frozen) else set()
            moving += [artist for key, artist in part.items() if key not in left_out]
        return self.picture(moving)


def _size_axis(axis: Axes, ticks: list[int], low: int, high: int) -> None:
    """A logarithmic axis from ``low`` to ``high`` whose ticks are values there are, where there is room."""
    axis.set_xscale("log", base=2)
    low, high = min(low, ticks[0]), max(high, ticks[-1], low + 1)
    # Figure 4's own values fill the axis where there are some.
    low = low if len(ticks) < 3 else ticks[0]
    room, least = (high / low) ** 0.05, max(1.3, (high / low) ** 0.1)
    axis.set_xlim(low / room, high * room)
    shown: list[int] = []
    for tick in ticks:
        if not shown or tick >= least * shown[-1]:
            shown.append(tick)
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels([str(t) for t in shown], fontsize=7)


def couples_picture(
    images: Tensor, pairs: Pairs, settings: Settings, rows: Mapping[str, Sequence[int]]
) -> Image.Image:
    """Couples of Algorithm 1, their matched stripe outlined on both, part and distance beneath.

    ``images``: uint8 (N, 3, h, w) that the pairs index; ``rows``: label and numbers of the pairs.
    """
    step = 16 * settings.last_stride  # image rows of a row of the feature maps
    bounds = stripe_rows(math.ceil(settings.height / step), settings.stripes)
    scale = CELL / images.shape[2]
    wide = round(images.shape[3] * scale)
    couple, text, side = 2 * wide + 14, 17, 66
    most = max(len(chosen) for chosen in rows.values())
    sheet = Image.new("RGB", (side + most * couple, len(rows) * (CELL + text + 6)), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (label, chosen) in enumerate(rows.items()):
        top = r * (CELL + text + 6)
        pen.text((side - 8, top + CELL / 2), label, INK, _font(11), "rm",
                 align="right")
        for c, number in enumerate(chosen):
            left, part = side + c * couple, int(pairs.part[number])
            for i, image in enumerate(pairs.index[number].tolist()):
                x = left + i * (wide + 2)
                sheet.paste(_person(images[image], wide), (x, top))
                start, end = (min(step * b, settings.height) * scale for b in bounds[part])
                _frame(pen, (x, top + start, x + wide - 1, top + end - 1), "black", 4)
                _frame(pen, (x + 1, top + start + 1, x + wide - 2, top + end - 2), OUTLINE, 2)
            words = f"{number + 1}: part {part + 1}, {float(pairs.distance[number]):.3f}"
            pen.text((left + wide + 1, top + CELL + 3), words, INK, _font(10), "ma")
    return sheet


# ---------------------------------------------------------------- retrieval


def ranking_picture(
    probe: Tensor, gallery: Tensor, rows: Mapping[str, tuple[Ranking, int]]
) -> Image.Image:
    """A probe and its nearest gallery images, a row a model; right ones ticked, others crossed.

    ``probe``: uint8 (3, h, w); ``gallery``: uint8 (G, 3, h, w); ``rows``: by label, a ranking and the
    row of it that is the probe's.
    """
    wide = round(gallery.shape[3] * CELL / gallery.shape[2])
    shown = max(ranking.index.shape[1] for ranking, _ in rows.values())
    cell, label, gap = wide + 14, 92, 12
    sheet = Image.new("RGB", (wide + 24 + label + shown * cell, len(rows) * (CELL + gap + 8)), "white")
    pen = ImageDraw.Draw(sheet)
    middle = (sheet.height - CELL) // 2
    sheet.paste(_person(probe, wide), (6, middle))
    _frame(pen, (4, middle - 2, wide + 7, middle + CELL + 1), INK, 2)
    pen.text((6 + wide / 2, middle - 6), "probe", INK, _font(11), "ms")
    for r, (name, (ranking, number)) in enumerate(rows.items()):
        top = 6 + r * (CELL + gap + 8)
        rank = int(ranking.rank[number])
        found = f"match at\nrank {rank}" if rank else "no match\nin gallery"
        pen.text((wide + 24 + label / 2, top + CELL / 2), f"{name}\n{found}", INK, _font(12), "mm",
                 align="center", spacing=5)
        hits = zip(ranking.index[number].tolist(), ranking.right[number].tolist())
        for c, (image, right) in enumerate(hits):
            x = wide + 24 + label + c * cell
            colour = COLOURS["right" if right else "wrong"]
            sheet.paste(_person(gallery[image], wide), (x, top))
            _frame(pen, (x - 4, top - 4, x + wide + 3, top + CELL + 3), colour, 5 if right else 2)
            pen.rectangle((x + wide - 15, top, x + wide, top + 16), fill=colour)
            pen.text((x + wide - 7, top + 8), "✓" if right else "×", "white", _font(13, True), "mm")
    return sheet


# ---------------------------------------------------------------- domains


def people_picture(rows: Mapping[str, Tensor]) -> Image.Image:
    """Rows of people, uint8 (P, 3, h, w) each, labelled on the left."""
    first = next(iter(rows.values()))
    wide, side = round(first.shape[3] * CELL / first.shape[2]), 66
    sheet = Image.new("RGB", (side + len(first) * (wide + 3), len(rows) * (CELL + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (label, images) in enumerate(rows.items()):
        top = r * (CELL + 4)
        pen.text((side - 8, top + CELL / 2), label, INK, _font(11), "rm",
                 align="right")
        for c, image in enumerate(images):
            sheet.paste(_person(image, wide), (side + c * (wide + 3), top))
    return sheet


class StemFrame(Frame):
    """Mean and deviation of each channel that enters the first BN layer, beside its stored ones.

    ``stems``: rows of :func:`bnta_lib.explore.domains.stem_statistics` that decide the axes.
    """

    def __init__(self, stems: pd.DataFrame):
        figure, self.axes = _frame_figure(4.6, 2.75, 2, left=0.14, right=0.98, bottom=0.19, top=0.88,
                                          wspace=0.42)
        super().__init__(figure)
        self._parts = []
        for axis, what, symbol in zip(self.axes, ("mean", "std"), (r"$\mu$", r"$\sigma$")):
            stored = stems[f"stored {what}"]
            ends = stems[[f"stored {what}", f"set {what}", f"moved {what}"]]
            low, high = float(ends.min(axis=None)), float(ends.max(axis=None))
            room = 0.05 * (high - low) + 1e-6
            axis.plot([stored.min(), stored.max()], [stored.min(), stored.max()], color="0.6", lw=0.8)
            beside = 0.06 * (stored.max() - stored.min()) + 1e-6
            axis.set(xlabel=f"stored {symbol}", ylabel=f"{symbol} of these images",
                     xlim=(stored.min() - beside, stored.max() + beside), ylim=(low - room, high + room))
            self._parts.append({
                "between": axis.vlines([], [], [], color="0.75", linewidth=1, animated=True),
                "set": axis.plot([], [], "s", color=COLOURS["frozen"], ms=4, fillstyle="none",
                                 label="as in the set", animated=True)[0],
                "moved": axis.plot([], [], "o", color=LIVE, ms=3.5, label="moved", animated=True)[0]})
        shown = [self._parts[0][key] for key in ("set", "moved")]
        legend = figure.legend(shown, [part.get_label() for part in shown], loc="upper center", ncols=2,
                               fontsize=8, frameon=False, borderaxespad=0.1)
        for handle in legend.legend_handles:
            handle.set_animated(False)

    def show(self, stem: pd.DataFrame) -> Image.Image:
        """The picture of one setting. On the grey line images have what is stored."""
        moving = []
        for part, what in zip(self._parts, ("mean", "std")):
            stored, own, moved = (stem[f"{side} {what}"].to_numpy() for side in ("stored", "set", "moved"))
            ends = [np.stack([stored, y], 1) for y in (own, moved)]
            part["between"].set_segments(np.stack(ends, 1))
            part["set"].set_data(stored, own)
            part["moved"].set_data(stored, moved)
            moving += part.values()
        return self.picture(moving)


# ---------------------------------------------------------------- layers


class LayerFrame(Frame):
    """Outputs of a BN layer on the source and on a target, and the change of its four quantities."""

    def __init__(self):
        figure = Figure(figsize=(9.6, 3.0), dpi=DPI)
        super().__init__(figure)
        outer = figure.add_gridspec(1, 2, left=0.04, right=0.99, bottom=0.17, top=0.9, wspace=0.1,
                                    width_ratios=[1, 1.25])
        self.left = axis = figure.add_subplot(outer[0])
        axis.set(ylabel="density", yticks=[], ylim=(0, 1.5))
        axis.xaxis.set_animated(True)
        styles = {"source": "-", "frozen": "--", "adapted": "-"}
        self.lines = {kind: axis.plot([], [], style, color=COLOURS[kind], lw=1.4, animated=True)[0]
                      for kind, style in styles.items()}
        places = dict(zip(styles, (1.42, 1.31, 1.20)))
        self.texts = {kind: axis.text(0.1, y, "", fontsize=8, va="center", animated=True,
                                      transform=axis.get_yaxis_transform())
                      for kind, y in places.items()}
        for kind, y in places.items():
            axis.plot([0.02, 0.085], [y, y], styles[kind], color=COLOURS[kind], lw=1.6,
                      transform=axis.get_yaxis_transform())
        inner = outer[1].subgridspec(2, 2, hspace=0.62, wspace=0.16)
        self.panels = {}
        for place, quantity in enumerate(SYMBOLS):
            axis = figure.add_subplot(inner[place // 2, place % 2])
            axis.set(xlim=(-0.02, 1.02), ylim=(-1.08, 1.08), xticks=[], yticks=[-1, 0, 1])
            axis.set_yticklabels(["−", "0", "+"], fontsize=7)
            axis.axhline(0, color="0.3", linewidth=0.7)
            if place % 2:
                axis.set_yticklabels([])
            self.panels[quantity] = (
                axis.vlines([], [], [], color=COLOURS["adapted"], animated=True),
                axis.axvline(0, color=LIVE, lw=1.1, ls=":", animated=True),
                axis.set_title("", fontsize=8, pad=3, animated=True),
                axis.text(0.5, -0.04, "", fontsize=7, ha="center", va="top", animated=True,
                          transform=axis.transAxes))

    def show(
        self, densities: Mapping[str, np.ndarray], edges: np.ndarray, distances: Mapping[str, float],
        changes: Mapping[str, np.ndarray], rates: Mapping[str, float], label: str,
        channel: int | None = None,
    ) -> Image.Image:
        """The picture of one layer.

        ``densities``: of "source", "frozen" and "adapted" over the bins of ``edges``; ``distances``: of
        the last two from the source; ``changes``: after minus before, (channels,), of mean, var, gamma
        and beta; ``rates``: change rates, per cent; ``channel`` (from 1): the one shown on the left,
        None for all of them.
        """
        names = {"source": "source", "frozen": "target, frozen", "adapted": "target, adapted"}
        middles, most = (edges[1:] + edges[:-1]) / 2, max(float(v.max()) for v in densities.values())
        self.left.set_xlim(edges[0], edges[-1])
        self.left.set_xlabel(label)
        for kind, line in self.lines.items():
            line.set_data(middles, densities[kind] / max(most, 1e-12))
            self.texts[kind].set_text(
                names[kind] + (f", d = {distances[kind]:.3f}" if kind in distances else ""))
        moving = [self.left.xaxis, *self.lines.values(), *self.texts.values()]
        for quantity, (bars, mark, title, below) in self.panels.items():
            change, rate = changes[quantity], rates[quantity]
            largest = float(np.abs(change).max())
            x, height = np.linspace(0, 1, len(change)), change / max(largest, 1e-30)
            bars.set_segments(np.stack([np.stack([x, 0 * x], 1), np.stack([x, height], 1)], 1))
            bars.set_linewidth(min(2.0, 160 / len(change)))
            words = "0 before" if math.isnan(rate) else f"change rate {rate:.2g} %"
            title.set_text(f"{SYMBOLS[quantity]}: {words}, largest ±{largest:.2g}")
            below.set_text(f"channels 1 to {len(change)}")
            moving += [bars, title, below]
            if channel is not None:
                mark.set_xdata([x[channel - 1]] * 2)
                moving.append(mark)
        return self.picture(moving)


# ---------------------------------------------------------------- small parts


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"  # comes with matplotlib
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", name), size)


def _person(image: Tensor, wide: int) -> Image.Image:
    """A uint8 image (3, h, w) at the height of a strip's cell."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return picture.resize((wide, CELL), Image.Resampling.BICUBIC)


def _frame(pen: ImageDraw.ImageDraw, box: tuple, colour: str, width: int) -> None:
    pen.rectangle(tuple(round(value) for value in box), outline=colour, width=width)
