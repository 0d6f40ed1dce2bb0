"""Figure 2 and what belongs to it: the network drawn with its real shapes, the stripes on an
image, where the 60 BN layers sit, the training curves, and the map of the suite."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from torch import Tensor

from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.settings import Settings
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH, show_image, stages

INK, GREY, PALE = "#222222", "#8a8a8a", "#eeeeee"
UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
PARTS = {  # what a forward pass is watched at, in the order of the paper
    "stem": "backbone.conv1", "layer1": "backbone.layer1", "layer2": "backbone.layer2",
    "layer3": "backbone.layer3", "layer4": "backbone.layer4", "bnneck": "bnneck", "FC_G": "fc_g",
    "FC_P": "fc_p", "Conv of M, each": "parts.0", "FC_M, each": "fc_m.0",
}


@torch.no_grad()
def trace_shapes(model: BNTANet, images: Tensor) -> pd.DataFrame:
    """What comes out of each part in a forward pass of uint8 ``images`` (B, 3, h, w).

    A row a part, in the paper's order: part, shape (of one image, without B), BN and IN layers
    in it, weights. A model on torch's meta device is traced without computing anything; compact
    weights hold no FC_M, which then has no row.
    """
    shapes: dict[str, tuple[int, ...]] = {"input": tuple(images.shape[1:])}

    def watch(part):
        def hook(module, inputs, output):
            if part == "layer1":
                shapes["stem, pooled"] = tuple(inputs[0].shape[1:])
            if part == "bnneck":
                shapes["f"] = tuple(inputs[0].shape[1:])
            if part == "FC_P":
                shapes["stripes f^h"] = tuple(inputs[0].shape[1:])
            shapes[part] = tuple(output.shape[1:])
        return hook

    modules = dict(model.named_modules())
    watched = {part: modules[name] for part, name in PARTS.items() if name in modules}
    handles = [module.register_forward_hook(watch(part)) for part, module in watched.items()]
    try:
        with preserve_modes(model):
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    order = ["input", "stem", "stem, pooled", *(f"layer{k}" for k in range(1, 5)), "f", "bnneck",
             "FC_G", "stripes f^h", "FC_P", "Conv of M, each", "FC_M, each"]
    rows = []
    for part in filter(shapes.get, order):
        shape = shapes[part]
        # The stem's BN stands beside its convolution.
        own = [watched[part]] if part in watched else []
        own += [model.backbone.bn1] if part == "stem" else []
        rows.append({
            "part": part, "shape": shape, "BN layers": sum(len(bn_layers(m)) for m in own),
            "IN layers": sum(len(layers_of(m, "in")) for m in own),
            "weights": sum(p.numel() for m in own for p in m.parameters()),
        })
    return pd.DataFrame(rows)


def stripe_rows(map_height: int, stripes: int) -> list[tuple[int, int]]:
    """Rows [start, end) of a feature map that each stripe averages, as Eq. (4) is pooled here.

    Where ``stripes`` does not divide ``map_height`` neighbours share a row.
    """
    return [(h * map_height // stripes, -(-(h + 1) * map_height // stripes))
            for h in range(stripes)]


# ---------------------------------------------------------------- Figure 2


def _box(axis: Axes, x, y, w, h, text="", face="white", edge=INK, size=6.5, **options) -> None:
    axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.06",
                                  facecolor=face, edgecolor=edge, linewidth=0.8, **options))
    dark = face in (UPDATED, *STRIPES[:4])
    axis.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size,
              color="white" if dark else INK, linespacing=1.15)


def _arrow(axis: Axes, start, end, colour=INK, **options) -> None:
    axis.annotate("", end, start, arrowprops=dict(
        arrowstyle="-|>", color=colour, linewidth=0.9, shrinkA=0, shrinkB=0, mutation_scale=7,
        **options))


def _note(axis: Axes, x, y, text, size=6.0, **options) -> None:
    options = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.15} | options
    axis.text(x, y, text, fontsize=size, **options)


def _picture(axis: Axes, image: Tensor, x, y, h, edge=INK, stripe: tuple[int, int] | None = None):
    """An image of height ``h`` at (x, y); ``stripe`` outlines stripe n of H. Returns its width."""
    _, rows, columns = image.shape
    w = h * columns / rows
    axis.imshow(image.permute(1, 2, 0).numpy(), extent=(x, x + w, y, y + h), zorder=2,
                interpolation="bilinear")
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=edge, linewidth=0.8, zorder=3))
    if stripe is not None:
        n, stripes = stripe
        axis.add_patch(Rectangle((x, y + h * (1 - (n + 1) / stripes)), w, h / stripes, fill=False,
                                 edgecolor=STRIPES[n % 6], linewidth=2, zorder=4))
    return w


def _backbone(axis: Axes, shapes: dict, bn: dict, x: float, y: float) -> float:
    """E as five trapezoids with real shapes; returns the x where it ends."""
    heights = {"stem": 1.65, "layer1": 1.4, "layer2": 1.15, "layer3": 0.9, "layer4": 0.9}
    before = 1.9
    for part, height in heights.items():
        w = 0.5 if part == "stem" else 0.72
        corners = [(x, y - before / 2), (x, y + before / 2), (x + w, y + height / 2),
                   (x + w, y - height / 2)]
        axis.add_patch(Polygon(corners, facecolor=UPDATED, edgecolor="white", linewidth=0.8))
        _note(axis, x + w / 2, y, f"{part}\n{bn[part]} BN", 5.8, color="white")
        if part in ("layer1", "layer2", "layer3"):
            axis.add_patch(Rectangle((x + w - 0.09, y - height / 2), 0.07, height,
                                     facecolor=NORM, edgecolor="none"))
        c, rows, columns = shapes["stem, pooled" if part == "stem" else part]
        _note(axis, x + w / 2, y - before / 2 - 0.08, f"{c}\n{rows}×{columns}", 5.2, va="top",
              color=GREY)
        x, before = x + w + 0.03, height
    return x


def network_figure(
    shapes: pd.DataFrame,
    settings: Settings,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    pairs: Sequence[tuple[Tensor, Tensor, int]],
) -> Figure:
    """Figure 2: training above, test-time adaption below.

    ``shapes`` comes from :func:`trace_shapes`; ``sources`` and ``targets`` are a few uint8 images
    (3, h, w); ``pairs`` a few of Algorithm 1's pairs with their matched stripe.
    """
    size = dict(zip(shapes["part"], shapes["shape"]))
    bn = dict(zip(shapes["part"], shapes["BN layers"]))
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 5.3))
    _training_half(axis, size, bn, settings, sources)
    _adaption_half(axis, size, settings, targets, pairs)
    _legend(axis, 0.1, -0.02)
    axis.set(xlim=(0, 14), ylim=(-0.25, 10.35), aspect="equal")
    axis.set_axis_off()
    figure.tight_layout(pad=0.2)
    return figure


def _training_half(axis: Axes, size: dict, bn: dict, settings: Settings, sources) -> None:
    axis.add_patch(Rectangle((0.02, 3.75), 13.96, 6.55, facecolor="#fafafa", edgecolor=PALE))
    _note(axis, 0.15, 10.05, "Training on labelled sources, Eq. (9)", 8, ha="left", weight="bold")
    middle, people = 6.95, size["FC_G"][0]
    for i, image in enumerate(sources[:3]):
        w = _picture(axis, image, 0.2 + 0.3 * i, middle - 0.75 - 0.2 * i, 1.8)
    right = 0.2 + 0.6 + w
    _note(axis, 0.9, middle - 1.5, f"images\n{size['input'][1]}×{size['input'][2]}")
    _arrow(axis, (right + 0.06, middle), (right + 0.36, middle))
    x = _backbone(axis, size, bn, right + 0.4, middle)
    _note(axis, right + 2.2, middle + 1.28, "E: DualNorm-ResNet-50", 7, weight="bold")

    terms = rf"$L_t = L_{{id}} + {settings.lambda1:g}\,L_{{pos}} + {settings.lambda2:g}\,L_{{mat}}$"
    _box(axis, 1.9, 4.25, 3.6, 0.75, terms + " (9)\nmoves all weights (10)", size=7)

    # feature maps: the real grid of rows and columns
    channels, rows, columns = size["layer4"]
    _arrow(axis, (x + 0.02, middle), (x + 0.27, middle))
    x, cell = x + 0.3, 1.9 / rows
    top = middle + 0.95
    for r in range(rows):
        stripe = min(settings.stripes - 1, r * settings.stripes // rows)
        for c in range(columns):
            axis.add_patch(Rectangle((x + c * cell, top - (r + 1) * cell), cell, cell,
                                     facecolor=STRIPES[stripe % 6], edgecolor="white", lw=0.5))
    right = x + columns * cell
    _note(axis, (x + right) / 2, middle - 1.03, f"maps\n{channels}×{rows}×{columns}", va="top")

    # global branch
    y, x0 = 9.05, right + 0.45
    axis.plot([right - columns * cell / 2] * 2, [top + 0.05, y], color=INK, lw=0.9)
    _arrow(axis, (right - columns * cell / 2, y), (x0, y))
    _note(axis, x0 - 0.06, y + 0.3, "average\npool (1)", ha="right")
    _box(axis, x0, y - 0.2, 1.05, 0.4, f"f ({size['f'][0]})", PALE)
    _arrow(axis, (x0 + 1.05, y), (x0 + 1.35, y))
    _box(axis, x0 + 1.35, y - 0.28, 1.05, 0.56, "bnneck\n1 BN", FOLLOWS)
    _arrow(axis, (x0 + 2.4, y), (x0 + 2.85, y))
    _box(axis, x0 + 2.85, y - 0.28, 1.35, 0.56, f"G: FC\n→ M = {people:,}")
    _arrow(axis, (x0 + 4.2, y), (x0 + 4.6, y))
    _note(axis, x0 + 4.68, y, r"$L_{id}$ (2)", 8, ha="left")
    axis.plot([x0 + 2.6] * 2, [y, y + 0.62], color=INK, lw=0.9)
    _arrow(axis, (x0 + 2.6, y + 0.62), (x0 + 2.85, y + 0.62))
    _note(axis, x0 + 2.9, y + 0.62, "retrieval: Euclidean distance", ha="left")

    # stripes
    h = 0.3
    x1, y1 = right + 0.45, middle - 3 * h
    for n in range(settings.stripes):
        bottom = middle + (settings.stripes / 2 - 1 - n) * h
        axis.add_patch(Rectangle((x1, bottom + 0.03), 1.0, h - 0.06,
                                 facecolor=STRIPES[n % 6], edgecolor="none"))
        _note(axis, x1 + 0.5, bottom + h / 2, rf"$f^{n + 1}$", 6, color="white" if n < 4 else INK)
    _arrow(axis, (right + 0.06, middle), (x1 - 0.04, middle))
    _note(axis, x1 + 0.5, y1 - 0.06, f"stripes (4)\n{settings.stripes} × {size['stripes f^h'][-1]}",
          va="top")

    # P
    y = 7.72
    x2 = x1 + 1.45
    _box(axis, x2, y - 0.3, 1.95, 0.6, f"P: one FC, shared\n→ {size['FC_P'][0]} positions")
    _arrow(axis, (x1 + 1.04, middle + 0.35), (x2 - 0.02, y), connectionstyle="arc3,rad=0")
    _arrow(axis, (x2 + 1.95, y), (x1 + 5.05, y))
    _note(axis, x1 + 5.13, y, r"$L_{pos}$ (5)", 8, ha="left")

    # M
    local, step = size["Conv of M, each"][0], 0.36
    base = middle - 0.15
    for n in range(settings.stripes):
        y = base - (n + 0.5) * step
        _box(axis, x2, y - step / 2 + 0.03, 1.05, step - 0.06, "conv 1×1", "white", size=5.5)
        _box(axis, x2 + 1.05, y - step / 2 + 0.03, 0.4, step - 0.06, "BN", UPDATED, size=5.5)
        _box(axis, x2 + 1.45, y - step / 2 + 0.03, 0.5, step - 0.06, "ReLU", "white", size=5.5)
        _arrow(axis, (x2 + 1.95, y), (x2 + 2.15, y))
        axis.add_patch(Rectangle((x2 + 2.17, y - step / 2 + 0.06), 0.42, step - 0.12,
                                 facecolor=STRIPES[n % 6]))
        axis.plot([x1 + 1.04, x2 - 0.04], [middle - 0.1 - 0.1 * n, y], color=INK, lw=0.5)
    bottom = base - settings.stripes * step
    _note(axis, x2 + 0.97, bottom - 0.05, f"M: {settings.stripes} part convolutions (6)", va="top")
    _note(axis, x2 + 2.38, bottom - 0.05, f"local\n{settings.stripes} × {local}", va="top")
    y = base - settings.stripes * step / 2
    _arrow(axis, (x2 + 2.65, y), (x2 + 2.89, y))
    _box(axis, x2 + 2.92, y - 0.38, 1.06, 0.76, f"{settings.stripes} FC\n→ M each")
    _arrow(axis, (x2 + 3.98, y), (x2 + 4.2, y))
    _note(axis, x2 + 4.23, y, r"$L_{mat}$ (7)", 8, ha="left")


def _adaption_half(axis: Axes, size: dict, settings: Settings, targets, pairs) -> None:
    axis.add_patch(Rectangle((0.02, 0.3), 13.96, 3.3, facecolor="#f4f9fd", edgecolor=PALE))
    _note(axis, 0.15, 3.35, "Test-time adaption on an unlabelled target, Eq. (13) and (14)", 8,
          ha="left", weight="bold")
    middle = 1.85
    for i, image in enumerate(targets[:6]):
        w = 0.98 * size["input"][2] / size["input"][1]
        _picture(axis, image, 0.2 + (i % 3) * (w + 0.06), middle + 0.05 - (i // 3) * 1.06, 0.98)
    x = 0.2 + 3 * (w + 0.06)
    _note(axis, 0.2 + 1.5 * (w + 0.06), middle - 1.1, "N target images", va="top")
    _arrow(axis, (x + 0.05, middle), (x + 0.4, middle))
    _box(axis, x + 0.43, middle - 0.75, 2.15, 1.5,
         "Algorithm 1\nlocal features (4), (6)\n"
         r"$D$ = min over $h$ of $D^h$" "\nK closest pairs,\nno image twice", size=6.3)
    x += 2.58
    _arrow(axis, (x + 0.05, middle), (x + 0.4, middle))
    x += 0.45
    for i, (first, second, n) in enumerate(pairs[:2]):
        y = middle + 0.05 - 1.06 * i
        height = 0.98
        for image in (first, second):
            x_next = _picture(axis, image, x + (0 if image is first else w + 0.05), y, height,
                              stripe=(n, settings.stripes))
            w = x_next
    right = x + 2 * w + 0.05
    _note(axis, right + 0.1, middle + 0.85, "pair k,\nmatched\nstripe n", ha="left", size=5.8)
    _arrow(axis, (right + 0.1, middle), (right + 0.75, middle))
    x = right + 0.8
    _box(axis, x, middle - 0.62, 2.3, 1.24, "E, P, M\nBN layers move:\n"
         r"$\mu, \sigma^2$ by running average" "\n" r"$\gamma, \beta$ by gradient", UPDATED,
         size=6.1)
    x += 0.3
    _arrow(axis, (x + 2.0, middle), (x + 2.35, middle))
    _box(axis, x + 2.38, middle - 0.42, 1.95, 0.84,
         r"$L_{tta} = L_{pos} + \lambda_3 L_{mat}^{tta}$" "\n(5), (8)", size=6.5)
    _note(axis, x + 3.35, middle - 0.55, f"{settings.tta_batch} pairs a batch", va="top")
    axis.annotate("", (x + 1.0, middle + 0.66), (x + 3.35, middle + 0.46), arrowprops=dict(
        arrowstyle="-|>", color=UPDATED, lw=1.1, connectionstyle="arc3,rad=0.35", mutation_scale=7))
    _note(axis, x + 2.25, middle + 1.3, rf"(14), $\eta_{{tta}}$ = {settings.tta_lr:g}", color=UPDATED)
    _arrow(axis, (x + 4.33, middle), (x + 4.68, middle))
    _box(axis, x + 4.7, middle - 0.5, 13.85 - x - 4.7, 1.0, "adapted model:\nfeatures for\nretrieval", "white", size=6.2)


def _legend(axis: Axes, x: float, y: float) -> None:
    entries = [(UPDATED, "BN moved by adaption"), (FOLLOWS, "BN outside both losses: its "
               "statistics follow"), (NORM, "instance norm, fixed"), ("white", "fixed at test time")]
    for colour, text in entries:
        axis.add_patch(Rectangle((x, y - 0.09), 0.3, 0.18, facecolor=colour, edgecolor=INK, lw=0.5))
        note = axis.text(x + 0.38, y, text, fontsize=6.2, va="center", color=INK)
        x += 0.75 + 0.083 * len(note.get_text())


# ---------------------------------------------------------------- stripes on an image


def stripes_figure(images: Tensor, maps: Tensor, stripes: int) -> Figure:
    """Images (B, 3, h, w) with the H stripes, and beside each the strength of its feature maps.

    ``maps`` (B, C, h', w') are the images' own; a place's strength is the norm over channels,
    black at the image's smallest and white at its largest. Brackets name the rows that each stripe averages.
    """
    count, height, width = len(images), images.shape[2], images.shape[3]
    strength = maps.float().norm(dim=1).cpu()
    figure, axes = plt.subplots(1, 2 * count, figsize=(TEXT_WIDTH, 2.6), layout="constrained")
    for i in range(count):
        left, right = axes[2 * i], axes[2 * i + 1]
        show_image(left, images[i])
        map_height, map_width = strength.shape[1:]
        right.imshow(strength[i].numpy(), cmap="Greys_r", extent=(0, width, height, 0))
        right.set(xticks=[], yticks=[])
        for spine in right.spines.values():
            spine.set_visible(False)
        for n, (start, end) in enumerate(stripe_rows(map_height, stripes)):
            top, bottom = (row * height / map_height for row in (start, end))
            inset = 1 + (n % 2 if end - start > map_height / stripes else 0) * 1.5
            for axis in (left, right):
                axis.add_patch(Rectangle((inset, top + 1), width - 2 * inset - 1, bottom - top - 2,
                                         fill=False, edgecolor=STRIPES[n % 6], linewidth=1.6))
            if i == 0:
                left.text(-3, (top + bottom) / 2, rf"$f^{n + 1}$", ha="right", va="center",
                          fontsize=7, color=STRIPES[n % 6])
        right.set_title(f"{map_height} × {map_width} map", fontsize=7)
        left.set_title(f"{height} × {width}", fontsize=7)
    return figure


def stripe_choices_figure(choices: dict[str, int], stripes: int) -> Figure:
    """Which rows each of the H stripes averages, for several map heights (name: rows)."""
    figure, axes = plt.subplots(1, len(choices), figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    for axis, (name, rows) in zip(np.atleast_1d(axes), choices.items()):
        for r in range(rows):
            axis.add_patch(Rectangle((-1.15, r / rows), 0.9, 1 / rows, facecolor=PALE,
                                     edgecolor="white"))
        for n, (start, end) in enumerate(stripe_rows(rows, stripes)):
            axis.add_patch(Rectangle((n * 0.42, start / rows), 0.36, (end - start) / rows,
                                     facecolor=STRIPES[n % 6], edgecolor="white"))
        shared = sum(end for _, end in stripe_rows(rows, stripes)) - sum(
            start for start, _ in stripe_rows(rows, stripes)) - rows
        axis.set_title(f"{name}\n{rows} rows: " + (f"{shared} shared" if shared else "none shared"),
                       fontsize=7)
        axis.set(xlim=(-1.25, 2.55), ylim=(1.02, -0.02), xticks=[], yticks=[])
        axis.text(-0.7, 1.04, "map", ha="center", va="top", fontsize=6.5)
        axis.text(1.2, 1.04, "stripes 1–6", ha="center", va="top", fontsize=6.5)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure


# ---------------------------------------------------------------- the 60 BN layers


def bn_figure(model: BNTANet) -> Figure:
    """All BN layers from shallow to deep: a bar a layer, its height the channels (log scale)."""
    layers, inner = bn_layers(model), layers_of(model, "in")
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 2.0), layout="constrained")
    channels = [layer.num_features for layer in layers.values()]
    for i, (name, count) in enumerate(zip(layers, channels), 1):
        shortcut = "downsample" in name
        axis.bar(i, count, width=0.8, color=FOLLOWS if name == "bnneck" else UPDATED,
                 alpha=0.55 if shortcut else 1, hatch="////" if shortcut else None,
                 edgecolor="white", linewidth=0)
    names = list(layers)
    top = max(channels) * 1.6
    for name, layer in inner.items():  # after the last BN of its block
        block = name.removesuffix(".instance_norm")
        last = max(i for i, n in enumerate(names, 1) if n.startswith(block + "."))
        axis.plot([last + 0.5] * 2, [min(channels) * 0.7, top], color=NORM, lw=1.8)
    for group, first, last in stages(names):
        low, high = first - 0.4, last + 0.4
        axis.plot([low, high], [top * 1.25] * 2, color=INK, lw=1, clip_on=False)
        axis.text((low + high) / 2, top * (3.0 if group == "bnneck" else 1.5), group, ha="center",
                  va="bottom", fontsize=7)
    axis.set_yscale("log", base=2)
    axis.set(xlabel="BN layer, from shallow to deep", ylabel="channels", xlim=(0.2, len(names) + 0.8),
             ylim=(min(channels) * 0.7, top * 1.3))
    axis.set_xticks([1, *range(10, len(names), 10), len(names)])
    marks = [Rectangle((0, 0), 1, 1, color=UPDATED),
             Rectangle((0, 0), 1, 1, facecolor=UPDATED, alpha=0.55, hatch="////", edgecolor="white"),
             Rectangle((0, 0), 1, 1, color=FOLLOWS), plt.Line2D([], [], color=NORM, lw=1.8)]
    figure.legend(marks, ["on the main path", "on a shortcut", "bnneck, outside both losses",
                          "instance norm after this layer"], ncols=4, fontsize=7,
                  loc="outside lower center")
    return figure


# ---------------------------------------------------------------- training curves


def training_curves(histories: dict[str, pd.DataFrame], identities: int) -> Figure:
    """Losses and accuracy by epoch, a line a model; ``histories`` as recorded by training.

    Terms that a model does not train are left out of its panel. Dashed is where the learning rate
    falls; dotted is the loss of a uniform guess among ``identities``.
    """
    panels = {"L_id": r"$L_{id}$ (2)", "L_pos": r"$L_{pos}$ (5)", "L_mat": r"$L_{mat}$ (7)",
              "accuracy": "G's accuracy, training images"}
    names = {"bnta": "BNTA", "baseline": "Baseline"}
    marks = {}
    figure, axes = plt.subplots(1, 4, figsize=(TEXT_WIDTH, 1.9), layout="constrained")
    for axis, (column, title) in zip(axes, panels.items()):
        for name, history in histories.items():
            if history[column].abs().max() == 0:
                continue
            shown = names.get(name, name)
            axis.plot(history["epoch"], history[column], label=shown, lw=1.5,
                      color=COLOURS.get(shown, COLOURS["adapted"]))
        for history in histories.values():
            falls = history["lr"].diff() < -0.5 * history["lr"].shift()
            for epoch in history["epoch"][falls]:
                marks["the learning rate falls"] = axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--",
                                                                zorder=0)
        if column == "L_id":
            marks["a uniform guess"] = axis.axhline(np.log(identities), color=INK, lw=0.9, ls=":")
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
    axes[3].set_ylim(0, 1)
    handles, labels = axes[0].get_legend_handles_labels()
    handles, labels = [*handles, *marks.values()], [*labels, *marks]
    figure.legend(handles, labels, ncols=len(labels), fontsize=7, loc="outside upper center")
    return figure


# ---------------------------------------------------------------- the suite as a map


def suite_map() -> Figure:
    """The notebooks along the way from labelled sources to a target."""
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 3.1))
    boxes = [  # x, y, width, colour, notebook, what happens there
        (0.0, 2.85, 2.3, PALE, "01 data", "five sources,\nthree targets"),
        (0.0, 1.35, 2.3, PALE, "02 model", "E, G, P, M;\n60 BN layers"),
        (3.0, 2.1, 2.5, PALE, "03 training", "on the sources;\nheadroom"),
        (6.2, 2.1, 3.0, UPDATED, "04 test-time adaption", "Algorithm 1, losses,\nsteps, what moved"),
        (6.2, 0.3, 3.0, PALE, "11 your own gallery", "your crops or a video,\nwithout labels"),
        (9.9, 3.85, 4.0, PALE, "05 Table 2", "does it help? beside\nthe paper's numbers"),
        (9.9, 2.55, 4.0, PALE, "06, 07 Tables 3, 4, 5", "which losses, layers\nand BN quantities"),
        (9.9, 1.25, 4.0, PALE, "08, 09 Figures 1, 3", "outputs of BN layers,\nand what moved in them"),
        (9.9, -0.05, 4.0, PALE, "10 Figure 4; 12, 13 beyond it", "N, K and seconds; open choices,\nstrength of the features"),
    ]
    for x, y, w, colour, name, text in boxes:
        _box(axis, x, y, w, 1.2, face=colour)
        ink = "white" if colour == UPDATED else INK
        _note(axis, x + w / 2, y + 0.92, name, 8, weight="bold", color=ink)
        _note(axis, x + w / 2, y + 0.42, text, 7, color=ink)
    for start, end in (((2.35, 3.35), (2.95, 2.9)), ((2.35, 1.95), (2.95, 2.45)),
                       ((5.55, 2.7), (6.15, 2.7)), ((9.25, 3.2), (9.85, 4.3)),
                       ((9.25, 2.85), (9.85, 3.1)), ((9.25, 2.5), (9.85, 1.95)),
                       ((9.25, 2.2), (9.85, 0.75)), ((7.7, 2.05), (7.7, 1.55))):
        _arrow(axis, start, end)
    axis.set(xlim=(-0.05, 13.95), ylim=(-0.1, 5.15), aspect="equal")
    axis.set_axis_off()
    figure.tight_layout(pad=0.1)
    return figure
