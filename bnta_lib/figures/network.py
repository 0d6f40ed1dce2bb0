"""Figure 2 and what belongs to it: the network with its real shapes, stripes, BN layers, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from torch import Tensor

from bnta_lib.figures.base import COLOURS, DEPTH, GREY, INK, PALE, legend, mark, panels, stages
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.settings import Settings

UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
# What a forward pass is watched at, in the order of the paper; "<" is what enters a module.
PARTS = {
    "input": "<backbone.conv1", "stem": "backbone.conv1", "stem, pooled": "<backbone.layer1",
    **{f"layer{k}": f"backbone.layer{k}" for k in range(1, 5)}, "f": "<bnneck", "bnneck": "bnneck",
    "FC_G": "fc_g",
    "stripes f^h": "<fc_p", "FC_P": "fc_p", "Conv of M, each": "parts.0", "FC_M, each": "fc_m.0",
}


@torch.no_grad()
def trace_shapes(model: BNTANet, images: Tensor) -> pd.DataFrame:
    """What comes out of each part in a forward pass of uint8 ``images`` (B, 3, h, w).

    A row a part, in the paper's order: part, shape (of one image, without B), BN and IN layers
    in it, weights. On torch's meta device nothing is computed. Compact weights hold no FC_M.
    """
    modules, shapes, handles, rows = dict(model.named_modules()), {}, [], []
    parts = {part: name for part, name in PARTS.items() if name.strip("<") in modules}
    for part, name in parts.items():
        def watch(module, inputs, output, part=part, entering=name.startswith("<")):
            shapes[part] = tuple((inputs[0] if entering else output).shape[1:])
        handles.append(modules[name.strip("<")].register_forward_hook(watch))
    with preserve_modes(model):
        model.eval()(images)
    for handle in handles:
        handle.remove()
    for part, name in parts.items():
        # The stem's BN stands beside its convolution.
        inside = [] if name.startswith("<") else [modules[name]] + [model.backbone.bn1] * (part == "stem")
        rows.append({"part": part, "shape": shapes[part], "BN layers": sum(len(bn_layers(m)) for m in inside),
                     "IN layers": sum(len(layers_of(m, "in")) for m in inside),
                     "weights": sum(p.numel() for m in inside for p in m.parameters())})
    return pd.DataFrame(rows)


def stripe_rows(map_height: int, stripes: int) -> list[tuple[int, int]]:
    """Rows [start, end) of a feature map that each stripe averages, as Eq. (4) is pooled here.

    If ``stripes`` does not divide ``map_height``, neighbours share a row.
    """
    return [(h * map_height // stripes, -(-(h + 1) * map_height // stripes)) for h in range(stripes)]


# ---------------------------------------------------------------- Figure 2


def network_figure(
    shapes: pd.DataFrame, settings: Settings, sources: Sequence[Tensor], targets: Sequence[Tensor],
    pairs: Sequence[tuple[Tensor, Tensor, int]],
) -> Figure:
    """Figure 2: training above, test-time adaption below.

    ``shapes`` comes from :func:`trace_shapes`; ``sources`` and ``targets`` are a few uint8 images
    (3, h, w); ``pairs`` a few of Algorithm 1's pairs with their matched stripe.
    """
    figure, ((axis,),) = panels(1, 1, 5.4)
    _training_half(axis, shapes.set_index("part"), settings, sources[:3])
    _adaption_half(axis, settings, targets[:6], pairs[:2])
    axis.set(xlim=(0, 14), ylim=(0.25, 10.35), aspect="equal")
    axis.set_axis_off()
    legend(figure, [Patch(facecolor=colour, edgecolor=INK, lw=0.5, label=text) for colour, text in (
        (UPDATED, "BN moved by adaption"), (FOLLOWS, "BN outside both losses: its statistics follow"),
        (NORM, "instance norm, fixed"), ("white", "fixed at test time"))], side="lower", fontsize=7,
        handlelength=1.2)
    return figure


def _box(axis: Axes, x: float, y: float, text: str, face: str = "white", size: float = 6.3) -> None:
    """A text in a round box about (x, y)."""
    axis.text(x, y, text, fontsize=size, ha="center", va="center", color="white" if face == UPDATED else INK,
              bbox={"boxstyle": "round,pad=0.45", "facecolor": face, "edgecolor": INK, "linewidth": 0.8})


def _note(axis: Axes, x: float, y: float, text: str, size: float = 6.0, **options) -> None:
    axis.text(x, y, text, fontsize=size, **{"ha": "center", "va": "center", "color": INK} | options)


def _arrows(axis: Axes, *ends: tuple[float, float, float, float], colour: str = INK, **options) -> None:
    for x, y, x_end, y_end in ends:
        axis.annotate("", (x_end, y_end), (x, y), arrowprops={
            "arrowstyle": "-|>", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 0,
            "mutation_scale": 7} | options)


def _picture(axis: Axes, image: Tensor, x: float, y: float, h: float, stripe: int | None = None,
             stripes: int = 6) -> None:
    """An image of height ``h``, its lower left corner at (x, y), one ``stripe`` outlined."""
    w = h * image.shape[2] / image.shape[1]
    axis.imshow(image.permute(1, 2, 0).numpy(), extent=(x, x + w, y, y + h), zorder=2,
                interpolation="bilinear")
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=INK, linewidth=0.8, zorder=3))
    if stripe is not None:
        axis.add_patch(Rectangle((x, y + h * (1 - (stripe + 1) / stripes)), w, h / stripes, fill=False,
                                 edgecolor=STRIPES[stripe % 6], linewidth=2, zorder=4))


def _training_half(axis: Axes, parts: pd.DataFrame, settings: Settings, sources: Sequence[Tensor]) -> None:
    size, count = parts["shape"], settings.stripes
    axis.add_patch(Rectangle((0.02, 3.75), 13.96, 6.55, facecolor="#fafafa", edgecolor=PALE))
    _note(axis, 0.15, 10.05, "Training on labelled sources, Eq. (9)", 8, ha="left", weight="bold")
    for i, image in enumerate(sources):
        _picture(axis, image, 0.2 + 0.3 * i, 6.2 - 0.2 * i, 1.8)
    x, before = 2.1, 1.9
    for part, height in {"stem": 1.65, "layer1": 1.4, "layer2": 1.15, "layer3": 0.9, "layer4": 0.9}.items():
        w = 0.5 if part == "stem" else 0.72
        axis.add_patch(Polygon([(x, 6.95 - before / 2), (x, 6.95 + before / 2), (x + w, 6.95 + height / 2),
                                (x + w, 6.95 - height / 2)], facecolor=UPDATED, edgecolor="white",
                               linewidth=0.8))
        if part in ("layer1", "layer2", "layer3"):
            axis.add_patch(Rectangle((x + w - 0.09, 6.95 - height / 2), 0.07, height, facecolor=NORM))
        channels, rows, columns = size["stem, pooled" if part == "stem" else part]
        _note(axis, x + w / 2, 6.95, f"{part}\n{parts.loc[part, 'BN layers']} BN", 5.8, color="white")
        _note(axis, x + w / 2, 6.85 - before / 2, f"{channels}\n{rows}×{columns}", 5.2, va="top", color=GREY)
        x, before = x + w + 0.03, height
    for stripe in range(count):  # the maps as a real grid of rows and columns; beside them the stripes
        for row in range(-(-stripe * rows // count), -(-(stripe + 1) * rows // count)):
            for column in range(columns):
                axis.add_patch(Rectangle((5.9 + 0.95 * column / columns, 7.9 - 1.9 * (row + 1) / rows),
                                         0.95 / columns,
                                         1.9 / rows, facecolor=STRIPES[stripe % 6], edgecolor="white",
                                         lw=0.5))
        y, ink = 7.9 - 1.9 * (stripe + 0.5) / count, "white" if stripe < 4 else INK
        axis.add_patch(Rectangle((7.35, y - 0.75 / count), 1.0, 1.5 / count, facecolor=STRIPES[stripe % 6]))
        axis.add_patch(Rectangle((11.2, 6.83 - 1.5 * (stripe + 1) / count), 0.5, 1.3 / count,
                                 facecolor=STRIPES[stripe % 6]))
        _note(axis, 7.85, y, rf"$f^{stripe + 1}$", color=ink)
    for x, y, text, options in (
        (0.9, 5.45, f"images\n{size['input'][1]}×{size['input'][2]}", {}),
        (3.9, 8.23, "E: DualNorm-ResNet-50", {"weight": "bold"}),
        (6.38, 5.55, f"maps\n{channels}×{rows}×{columns}", {}),
        (7.85, 5.55, f"stripes (4)\n{count} × {size['stripes f^h'][-1]}", {}),
        (7.1, 9.4, "average pool (1)", {}), (11.45, 5.05, f"local\n{count} × {size['Conv of M, each'][0]}",
                                             {}),
        (10.1, 9.75, "retrieval: Euclidean distance", {"ha": "left"}),
        (13.25, 9.05, r"$L_{id}$ (2)", {"size": 8}),
        (13.25, 7.7, r"$L_{pos}$ (5)", {"size": 8}), (13.4, 6.1, r"$L_{mat}$ (7)", {"size": 8}),
    ):
        _note(axis, x, y, text, **options)
    terms = rf"$L_t = L_{{id}} + {settings.lambda1:g}\,L_{{pos}} + {settings.lambda2:g}\,L_{{mat}}$"
    for x, y, text, face in ((3.7, 4.6, terms + " (9)\nmoves all weights (10)", "white"),
                             (7.85, 9.05, f"f ({size['f'][0]})", PALE),
                             (9.25, 9.05, "bnneck\n1 BN", FOLLOWS),
                             (10.95, 9.05, f"G: FC\n→ M = {size['FC_G'][0]:,}", "white"),
                             (9.95, 7.7, f"P: one FC, shared\n→ {size['FC_P'][0]} positions", "white"),
                             (9.75, 6.1, f"M: {count} × (6)\nconv 1×1, BN, ReLU", UPDATED),
                             (12.3, 6.1, f"{count} FC\n→ M", "white")):
        _box(axis, x, y, text, face)
    axis.plot([6.38, 6.38], [7.95, 9.05], [9.8, 9.8], [9.05, 9.75], color=INK, lw=0.9)
    _arrows(axis, (1.76, 6.95, 2.06, 6.95), (5.6, 6.95, 5.86, 6.95), (6.91, 6.95, 7.31, 6.95),
            (6.38, 9.05, 7.3, 9.05),
            (8.35, 9.05, 8.85, 9.05), (9.65, 9.05, 10.2, 9.05), (11.7, 9.05, 12.7, 9.05),
            (9.8, 9.75, 10.05, 9.75),
            (8.4, 7.3, 8.85, 7.6), (11.05, 7.7, 12.65, 7.7), (8.4, 6.6, 8.6, 6.35), (10.9, 6.1, 11.17, 6.1),
            (11.73, 6.1, 11.95, 6.1), (12.66, 6.1, 12.95, 6.1))


def _adaption_half(axis: Axes, settings: Settings, targets: Sequence[Tensor], pairs: Sequence) -> None:
    axis.add_patch(Rectangle((0.02, 0.3), 13.96, 3.3, facecolor="#f4f9fd", edgecolor=PALE))
    _note(axis, 0.15, 3.35, "Test-time adaption on an unlabelled target, Eq. (13) and (14)", 8, ha="left",
          weight="bold")
    for i, image in enumerate(targets):
        _picture(axis, image, 0.2 + 0.55 * (i % 3), 1.9 - 1.06 * (i // 3), 0.98)
    for i, (first, second, stripe) in enumerate(pairs):
        _picture(axis, first, 4.9, 1.9 - 1.06 * i, 0.98, stripe, settings.stripes)
        _picture(axis, second, 5.44, 1.9 - 1.06 * i, 0.98, stripe, settings.stripes)
    _box(axis, 3.35, 1.85, "Algorithm 1\nlocal features (4), (6)\n" r"$D$ = min over $h$ of $D^h$"
         "\nK closest pairs,\n"
         "no image twice")
    _box(axis, 8.0, 1.85, "E, P, M\nBN layers move:\n" r"$\mu, \sigma^2$ by running average" "\n"
         r"$\gamma, \beta$ by gradient", UPDATED)
    _box(axis, 10.6, 1.85, r"$L_{tta} = L_{pos} + \lambda_3 L_{mat}^{tta}$" "\n(5), (8)")
    _box(axis, 12.95, 1.85, "adapted model:\nfeatures for\nretrieval")
    _arrows(axis, (1.88, 1.85, 2.3, 1.85), (4.4, 1.85, 4.83, 1.85), (6.03, 1.85, 6.75, 1.85),
            (9.25, 1.85, 9.6, 1.85),
            (11.6, 1.85, 12.15, 1.85))
    _arrows(axis, (8.0, 2.6, 10.5, 2.35), colour=UPDATED, connectionstyle="arc3,rad=-0.35")
    _note(axis, 9.3, 3.2, rf"(14), $\eta_{{tta}}$ = {settings.tta_lr:g}", color=UPDATED)
    _note(axis, 1.02, 0.65, "N target images")
    _note(axis, 6.03, 2.6, "pair k,\nmatched\nstripe n", 5.8, ha="left")
    _note(axis, 10.6, 1.2, f"{settings.tta_batch} pairs a batch")


# ---------------------------------------------------------------- stripes, BN layers, training


def stripes_figure(images: Tensor, maps: Tensor, stripes: int) -> Figure:
    """Images (B, 3, h, w) with the H stripes, and beside each the strength of its feature maps.

    ``maps`` (B, C, h', w') are the images' own; a place's strength is the norm over channels,
    black at the image's smallest and white at its largest. Frames show the rows that a stripe averages.
    """
    (count, _, height, width), strength = images.shape, maps.float().norm(dim=1).cpu().numpy()
    rows = strength.shape[1]
    figure, (axes,) = panels(1, 2 * count, 2.6)
    for i, axis in enumerate(axes):
        picture = strength[i // 2] if i % 2 else images[i // 2].permute(1, 2, 0).numpy()
        axis.imshow(picture, cmap="Greys_r", extent=(0, width, height, 0))
        axis.set_title(f"{rows} × {strength.shape[2]} map" if i % 2 else f"{height} × {width}", fontsize=7)
        axis.set_axis_off()
        for n, (start, end) in enumerate(stripe_rows(rows, stripes)):
            top, bottom, colour = start * height / rows, end * height / rows, STRIPES[n % 6]
            # Neighbours that share a row stay apart.
            inset = 1 + 1.5 * (n % 2) * (end - start > rows / stripes)
            axis.add_patch(Rectangle((inset, top + 1), width - 2 * inset - 1, bottom - top - 2, fill=False,
                                     edgecolor=colour, linewidth=1.6))
            if i == 0:
                axis.text(-3, (top + bottom) / 2, rf"$f^{n + 1}$", ha="right", va="center", fontsize=7,
                          color=colour)
    return figure


def stripe_choices_figure(choices: Mapping[str, int], stripes: int) -> Figure:
    """Which rows each of the H stripes averages, for several map heights (name: rows)."""
    figure, (axes,) = panels(1, len(choices), 2.3)
    for axis, (name, rows) in zip(axes, choices.items()):
        bounds = stripe_rows(rows, stripes)
        axis.bar(-0.7, np.full(rows, 1 / rows), 0.9, np.arange(rows) / rows, color=PALE, edgecolor="white")
        for n, (start, end) in enumerate(bounds):
            axis.bar(n * 0.42 + 0.18, (end - start) / rows, 0.36, start / rows, color=STRIPES[n % 6],
                     edgecolor="white")
        shared = sum(end - start for start, end in bounds) - rows
        axis.set_title(f"{name}\n{rows} rows: {shared or 'none'} shared", fontsize=7)
        axis.set(ylim=(1.02, -0.02), yticks=[])
        axis.set_xticks([-0.7, 0.21 * stripes - 0.03], ["map", f"stripes 1–{stripes}"], fontsize=6.5)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def bn_figure(model: BNTANet) -> Figure:
    """All BN layers from shallow to deep: a bar a layer, its height the channels (log scale)."""
    names, channels = zip(*((name, layer.num_features) for name, layer in bn_layers(model).items()))
    low, top = 0.7 * min(channels), 1.6 * max(channels)
    figure, ((axis,),) = panels(1, 1, 2.0)
    for i, (name, count) in enumerate(zip(names, channels), 1):
        style = {"alpha": 0.55, "hatch": "////"} if "downsample" in name else {}
        axis.bar(i, count, color=FOLLOWS if name == "bnneck" else UPDATED, edgecolor="white", linewidth=0,
                 **style)
    for name in layers_of(model, "in"):  # after the last BN of its block
        last = max(i for i, n in enumerate(names, 1) if n.startswith(name.removesuffix("instance_norm")))
        axis.plot([last + 0.5] * 2, [low, top], color=NORM, lw=1.8)
    for group, first, last in stages(names):
        axis.plot([first - 0.4, last + 0.4], [top * 1.25] * 2, color=INK, lw=1, clip_on=False)
        axis.text((first + last) / 2, top * (3.0 if group == "bnneck" else 1.5), group, ha="center",
                  va="bottom", fontsize=7)
    axis.set_yscale("log", base=2)
    axis.set(xlabel=DEPTH, ylabel="channels", xlim=(0.2, len(names) + 0.8), ylim=(low, top * 1.3),
             xticks=[1, *range(10, len(names), 10), len(names)])
    legend(figure, [Patch(color=UPDATED, label="on the main path"),
                    Patch(fc=UPDATED, alpha=0.55, hatch="////", ec="white", label="on a shortcut"),
                    Patch(color=FOLLOWS, label="bnneck, outside both losses"),
                    mark("instance norm after this layer", color=NORM, lw=1.8, linestyle="-")], side="lower",
           fontsize=7)
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], identities: int) -> Figure:
    """Losses and accuracy by epoch, a line a model; ``histories`` as recorded by training.

    Terms that a model does not train are left out. Dashed: the learning rate falls; dotted: the
    loss of a uniform guess among ``identities``.
    """
    titles = {"L_id": r"$L_{id}$ (2)", "L_pos": r"$L_{pos}$ (5)", "L_mat": r"$L_{mat}$ (7)",
              "accuracy": "G's accuracy, training images"}
    figure, (axes,) = panels(1, 4, 1.9)
    axes[0].axhline(np.log(identities), color=INK, lw=0.9, ls=":")
    for axis, (column, title) in zip(axes, titles.items()):
        for name, history in histories.items():
            label = {"bnta": "BNTA", "baseline": "Baseline"}.get(name, name)
            if history[column].abs().max() > 0:
                axis.plot(history["epoch"], history[column], label=label, lw=1.5,
                          color=COLOURS.get(label, UPDATED))
            for epoch in history["epoch"][history["lr"].diff() < -0.5 * history["lr"].shift()]:
                axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--", zorder=0)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("epoch")
        axis.set_ylim(0, 1 if column == "accuracy" else None)
    lines = [*axes[0].get_legend_handles_labels()[0], mark("the learning rate falls", color=GREY, lw=0.9,
                                                           linestyle="--"),
             mark("a uniform guess", lw=0.9, linestyle=":")]
    legend(figure, lines, fontsize=7)
    return figure
