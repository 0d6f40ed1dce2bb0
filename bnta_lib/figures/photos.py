"""Sheets of images: people and crops, pairs of Algorithm 1, and retrieval before and after adaption."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as pil
from torch import Tensor

from bnta_lib.data.sets import ReIDSet
from bnta_lib.evaluation import Ranking
from bnta_lib.figures.base import BAND, COLOURS, INK, TEXT_WIDTH, element, encoded, new_figure
from bnta_lib.model import stripe_rows
from bnta_lib.pairing import Pairs
from bnta_lib.settings import Settings
from bnta_lib.site.crops import Site
from bnta_lib.site.judge import most_changed, neighbours, track_ranking, track_trial

COLUMNS = 16  # images in a row of a contact sheet
# Frame, line and character of a gallery image of another person, and of the probe's.
MARKS = ((COLOURS["wrong"], 0.9, "×"), (COLOURS["right"], 2.2, "✓"))
# Of a page.
STYLE = f"""<style>
.bnta-sheet > div {{ display: flex; margin: 6px 4px; font-size: 11px; line-height: 15px }}
.bnta-sheet span {{ flex: none; align-self: center; text-align: center; white-space: pre }}
.bnta-sheet figure {{ flex: none; margin: 0; white-space: nowrap }}
.bnta-sheet figure > div {{ position: relative }}
.bnta-sheet img {{ display: block; width: 100% }}
.bnta-sheet i {{ position: absolute; left: 0; right: 0; border: 2px solid {BAND}; outline: 1px solid black }}
.bnta-sheet b {{ position: absolute; top: 0; right: 0; padding: 0 3px; color: white }}
</style>"""


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


Rows = Sequence[Sequence[Photo | str | float]]  # cells of a sheet; a number: so many widths left empty


def photo_sheet(rows: Rows, title: str = "", gap: float = 0.06) -> Figure:
    """Rows of photographs of one size, ``gap`` widths of a photograph apart."""
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
                _draw_photo(axis, cell, x, top)
            elif isinstance(cell, str):
                axis.text(x + 0.75 * width, top + height / 2, cell, fontsize=7, ha="center", va="center")
            x += space(cell)
    return figure


def _draw_photo(axis: Axes, photo: Photo, x: float, y: float) -> None:
    _, height, width = photo.image.shape
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
    words = {"fontsize": 6.5, "color": INK}
    if photo.heading:
        axis.text(x, y - 0.015 * height, photo.heading, va="bottom", **words)
    if photo.caption:
        axis.text(x + width / 2, y + 1.03 * height, photo.caption, ha="center", va="top", **words)


def photo_page(rows: Rows, gap: float = 0.06, width: int = 64) -> str:
    """The same in HTML, photographs ``width`` pixels wide: a browser draws it while a slider moves."""
    def html(cell: Photo | str | float) -> str:
        if not isinstance(cell, Photo):
            space, text = (1.5, cell) if isinstance(cell, str) else (cell, "")
            return f'<span style="width: {space * width:.1f}px">{escape(text)}</span>'
        image = encoded(pil.fromarray(cell.image.permute(1, 2, 0).numpy()), "jpeg", "a person", quality=90)
        top, bottom = (row / cell.image.shape[1] for row in cell.band or (0, 0))
        band = f'<i style="top: {top:.2%}; bottom: {1 - bottom:.2%}"></i>' if cell.band else ""
        mark = f'<b style="background: {cell.frame}">{cell.mark}</b>' if cell.mark else ""
        return (f'<figure style="width: {width}px; margin-right: {gap * width:.1f}px">'
                f'<div style="outline: {1.4 * cell.line:.1f}px solid {cell.frame or "transparent"}">'
                f"{element(image)}{band}{mark}</div>{escape(cell.heading or cell.caption)}</figure>")

    lines = "".join(f"<div>{''.join(map(html, row))}</div>" for row in rows)
    return f'{STYLE}<div class="bnta-sheet">{lines}</div>'


# ---------------------------------------------------------------- people and tracks


def contact_sheet(data: ReIDSet, title: str = "", rows: int = 2, seed: int = 0) -> Figure:
    """Up to four images each of random people who have two or more, over cameras, which are named below.

    Distractors fill the last groups.
    """
    random = torch.Generator().manual_seed(seed)
    groups, slots = _id_groups("person", data.pids, data.camids, 4, rows, random)
    if (data.pids == 0).any():
        others = (data.pids == 0).nonzero().flatten()
        others = others[torch.randperm(len(others), generator=random)[: 2 * slots]]
        groups[-2:] = [("distractors", part.tolist()) for part in others.split(slots)]
    return _group_sheet(data.images, groups, slots, title, data.camids)


def crops_figure(site: Site, rows: int = 4, seed: int = 0) -> Figure:
    """Some of the site's crops, in their own order; if tracks are known, some tracks, in time."""
    random = torch.Generator().manual_seed(seed)
    if site.tracks is not None:
        return _group_sheet(site.images, *_id_groups("track", site.tracks, site.times, 8, rows, random))
    crops = _drawn(torch.arange(len(site)), rows * COLUMNS, random)
    return _group_sheet(site.images, [("", part.tolist()) for part in crops.split(COLUMNS)], COLUMNS)


def _drawn(values: Tensor, count: int, random: torch.Generator) -> Tensor:
    """``count`` of the values at random, in their own order."""
    return values[torch.randperm(len(values), generator=random)[:count]].sort().values


def _id_groups(word: str, ids: Tensor, order: Tensor, slots: int, rows: int,
               random: torch.Generator) -> tuple[list[tuple[str, list[int]]], int]:
    """Rows full of random ids above 0, each with so many of its images in ``order``; and the slots used."""
    names, counts = torch.unique(ids[ids > 0], return_counts=True)
    slots, groups = min(slots, int(counts.max())), []
    for name in _drawn(names[counts >= min(2, slots)], rows * (COLUMNS // slots), random).tolist():
        index = (ids == name).nonzero().flatten()
        index = index[torch.argsort(order[index], stable=True)]
        evenly = np.linspace(0, len(index) - 1, min(slots, len(index))).round().astype(int)
        groups.append((f"{word} {name}", index[evenly].tolist()))
    return groups, slots


def _group_sheet(images: Tensor, groups: Sequence[tuple[str, Sequence[int]]], slots: int, title: str = "",
                 camids: Tensor | None = None) -> Figure:
    """Labelled groups of rows of ``images``, as many beside each other as fit; cameras below."""
    cells = [[Photo(images[i], heading="" if k else label, caption="" if camids is None else f"c{camids[i]}")
              for k, i in enumerate(index)] + [0.3] for label, index in groups]
    across = COLUMNS // slots
    return photo_sheet([sum(cells[i : i + across], []) for i in range(0, len(cells), across)], title, 0.01)


# ---------------------------------------------------------------- pairs


def pairs_figure(images: Tensor, pairs: Pairs, settings: Settings, closest: int = 12,
                 layout: Callable = photo_sheet) -> Figure | str:
    """Couples of Algorithm 1 with the matched stripe outlined on both, their distance beneath.

    The ``closest`` pairs, and six from the middle and from the end. ``images``: uint8 (N, 3, h, w) that the
    pairs index. ``layout``: :func:`photo_sheet` or :func:`photo_page`.
    """
    step = 16 * settings.last_stride  # image rows of a row of the feature maps
    bands = [(step * start, min(step * end, settings.height)) for start, end in
             stripe_rows(math.ceil(settings.height / step), settings.stripes)]
    count, rows = len(pairs.index), []
    middle = max(closest, (count - 6) // 2)
    last = max(count - 6, middle + 6)
    for label, block in (("closest", range(closest)), ("middle", range(middle, middle + 6)),
                         ("last", range(last, count))):
        for place, number in enumerate(block[: max(0, count - block.start)]):
            if place % 6 == 0:
                rows.append(["" if place else label])
            part, (first, second) = int(pairs.part[number]), images[pairs.index[number]]
            caption = f"part {part + 1}: {float(pairs.distance[number]):.3f}"
            rows[-1] += [Photo(first, caption=caption, band=bands[part]),
                         Photo(second, band=bands[part]), 0.25]
    return layout(rows)


# ---------------------------------------------------------------- before and after


def select_example_probes(before: Tensor, after: Tensor, each: int = 2) -> dict[str, Tensor]:
    """Indices of ``each`` probes that ``improved`` most, are ``median``, and ``worsened`` most.

    ``before`` and ``after`` are ranks (P,) of the first match; 0, for no match, is left out. A change is
    the ratio of the ranks, since 12 to 1 matters more to a user than 250 to 120. Equal changes are in
    the order of the rank before, then of the probe.
    """
    usable = ((before > 0) & (after > 0)).nonzero()[:, 0]
    order = usable[np.lexsort((before[usable], after[usable].double() / before[usable]))]
    each = min(each, len(order) // 3)
    middle = (len(order) - each) // 2
    return {"improved": order[:each], "median": order[middle : middle + each],
            "worsened": order[len(order) - each :].flip(0)}


def retrieval_figure(probes: Tensor, gallery: Tensor, before: Ranking, after: Ranking,
                     selected: Mapping[str, Sequence[int]], columns: int = 10,
                     layout: Callable = photo_sheet) -> Figure | str:
    """Selected probes, each with its nearest gallery images before and after adaption.

    ``probes`` (P, 3, h, w), ``gallery`` (G, 3, h, w): uint8. ``selected``: groups of probe indices
    as :func:`select_example_probes` gives. ``layout``: as in :func:`pairs_figure`.
    Raises ValueError without probes.
    """
    def side(when: str, ranking: Ranking, probe: int) -> list:
        rank = f"match at\nrank {ranking.rank[probe]}" if ranking.rank[probe] else "no match\nin gallery"
        near = zip(ranking.index[probe, :columns], ranking.right[probe].tolist())
        return [f"{when}\n{rank}", *(Photo(gallery[i], *MARKS[right]) for i, right in near)]

    return _before_after([(probes[probe], group, side("before", before, probe), side("after", after, probe))
                          for group, indices in selected.items() for probe in indices], layout)


def neighbours_figure(probes: Tensor, gallery: Tensor, before: Tensor, after: Tensor,
                      selected: Tensor) -> Figure:
    """Selected probes with their nearest crops before and after: what is new or lost is framed.

    ``probes`` (P, 3, h, w) and ``gallery`` (N, 3, h, w), uint8; ``before`` and ``after`` (P, k): rows of the
    gallery, nearest first. Nothing here shows which crops are right. Raises ValueError without probes.
    """
    def side(when: str, near: Tensor, other: Tensor, colour: str) -> list:
        return [when, *(Photo(gallery[i], None if i in other else colour) for i in near)]

    return _before_after([(probes[probe], "", side("before", before[probe], after[probe], COLOURS["frozen"]),
                           side("after", after[probe], before[probe], COLOURS["adapted"]))
                          for probe in selected])


def _before_after(rows: Sequence[tuple[Tensor, str, list, list]],
                  layout: Callable = photo_sheet) -> Figure | str:
    """A sheet of probes with a heading, each beside a row of cells before and one after adaption."""
    if not rows:
        raise ValueError("no probe to show: choose at least one")
    return layout([row for probe, heading, before, after in rows for row in (
        [Photo(probe, "black", 1.0, heading=heading), *before], [1.1, *after])], gap=0.1)


def search_figure(site: Site, before: Tensor, after: Tensor, settings: Settings, probes: Site | None = None,
                  probe_features: tuple[Tensor, Tensor] | None = None) -> Figure:
    """Nearest crops by features (N, C) before and after: of tracks, with their right answer, if there are
    three, or else of ``probes`` or crops, with what is new or lost framed."""
    tracks = torch.tensor([]) if site.tracks is None else torch.unique(site.tracks, return_counts=True)[1]
    if probes is None and (tracks > 1).sum() >= 3:
        early, late = trial = track_trial(site)
        rankings = [track_ranking(features, trial, settings) for features in (before, after)]
        selected = select_example_probes(rankings[0].rank, rankings[1].rank, 1)
        return retrieval_figure(site.images[early], site.images[late], *rankings, selected)
    searched = zip((before, after), probe_features or (None, None))
    near = [neighbours(gallery, probe, settings) for gallery, probe in searched]
    return neighbours_figure((probes or site).images, site.images, *near, most_changed(*near))
