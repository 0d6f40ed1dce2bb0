"""Figure 2 and what belongs to it: the network with its real shapes, stripes, BN layers, training curves."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from bnta_lib.figures.base import (
    COLOURS,
    DEPTH,
    GREY,
    INK,
    PALE,
    Photo,
    draw_photo,
    layer_axis,
    legend,
    panels,
)
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.settings import Settings

UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
LAYERS = ("layer1", "layer2", "layer3", "layer4")
# What a forward pass is watched at, in the order of the paper; "<" is what enters a module.
PARTS = {
    "input": "<backbone.conv1", "stem": "backbone.conv1", "stem, pooled": "<backbone.layer1",
    **{name: f"backbone.{name}" for name in LAYERS}, "f": "<bnneck", "bnneck": "bnneck",
    "FC_G": "fc_g", "stripes f^h": "<fc_p", "FC_P": "fc_p", "Conv of M, each": "parts.0",
    "FC_M, each": "fc_m.0",
}


@torch.no_grad()
def trace_shapes(model: BNTANet, images: Tensor) -> pd.DataFrame:
    """What comes out of each part in a forward pass of uint8 ``images`` (B, 3, h, w).

    A row a part, in the paper's order: part, shape (of one image, without B), BN and IN layers
    in it, weights. On torch's meta device nothing is computed. Compact weights hold no FC_M.
    """
    modules, shapes, rows = dict(model.named_modules()), {}, []

    def watch(name, module, inputs, output):
        if isinstance(output, Tensor):
            shapes.update({"<" + name: tuple(inputs[0].shape[1:]), name: tuple(output.shape[1:])})

    handles = [module.register_forward_hook(partial(watch, name)) for name, module in modules.items()]
    with preserve_modes(model):
        model.eval()(images)
    for handle in handles:
        handle.remove()
    for part, name in PARTS.items():
        # The stem's BN stands beside its convolution.
        inside = [modules[name]] if name in modules else []
        inside += [model.backbone.bn1] * (part == "stem")
        rows.append({"part": part, "shape": shapes.get(name),
                     "BN layers": sum(len(bn_layers(m)) for m in inside),
                     "IN layers": sum(len(layers_of(m, "in")) for m in inside),
                     "weights": sum(p.numel() for m in inside for p in m.parameters())})
    return pd.DataFrame(rows).dropna()


def stripe_rows(map_height: int, stripes: int) -> list[tuple[int, int]]:
    """Rows [start, end) of a feature map that each stripe averages, as Eq. (4) is pooled here.

    If ``stripes`` does not divide ``map_height``, neighbours share a row.
    """
    return [(h * map_height // stripes, -(-(h + 1) * map_height // stripes)) for h in range(stripes)]


# ---------------------------------------------------------------- Figure 2

# Chains of nodes; where on its nodes an arrow begins and ends, and how it bends.
CORNER, ACROSS = "angle,angleA=90,angleB=0,rad=0", ((1, 0.5), (0, 0.5), "arc3")
ARROWS = {"images E maps stripes P L_pos": ACROSS, "stripes M local FC L_mat": ACROSS,
          "maps f": ((0.5, 1), (0, 0.5), CORNER), "f bnneck G L_id": ACROSS,
          "bnneck retrieval": ((0.5, 1), (0, 0.5), CORNER),
          "target pairing couples BN loss adapted": ACROSS, "loss BN": ((0.5, 1), (0.9, 1), "arc3,rad=0.4")}


def network_figure(shapes: pd.DataFrame, settings: Settings, sources: Sequence[Tensor],
                   targets: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor, int]]) -> Figure:
    """Figure 2: training above, test-time adaption below.

    ``shapes``: of :func:`trace_shapes`; ``sources``, ``targets``: a few uint8 images (3, h, w); ``pairs``: a
    few of Algorithm 1's pairs with their matched stripe.
    """
    figure, ((axis,),) = panels(1, 1, 5.1)
    axis.set(xlim=(0, 504), ylim=(344, 0), aspect="equal")  # points
    axis.set_axis_off()
    for y, height, face, title in (
        (1, 216, "#fafafa", "Training on labelled sources, Eq. (9)"),
        (222, 121, "#f4f9fd", "Test-time adaption on an unlabelled target, Eq. (13) and (14)")):
        _rectangle(axis, 1, y, 502, height, face, edgecolor=PALE, zorder=0)
        axis.text(6, y + 10, title, fontsize=8, weight="bold", va="center", color=INK)
    parts = shapes.set_index("part")
    nodes = _draw_images(axis, settings, sources, targets, pairs) | _draw_maps(axis, parts, settings.stripes)
    for name, x, y, text, face in _texts(parts["shape"], settings):
        box = {"boxstyle": "round,pad=0.45", "facecolor": face, "edgecolor": INK, "linewidth": 0.8}
        nodes[name] = axis.text(x, y, text, fontsize=6.2, ha="center", va="center",
                                bbox=box if face else None, color="white" if face == UPDATED else INK)
    for chain, (begin, end, bend) in ARROWS.items():
        for first, second in pairwise(chain.split()):
            axis.annotate("", end, begin, nodes[second], nodes[first], arrowprops={
                "arrowstyle": "-|>", "color": INK, "lw": 0.9, "mutation_scale": 7, "shrinkA": 4, "shrinkB": 4,
                "connectionstyle": bend})
    for colour, label in ((UPDATED, "BN moved by adaption"), (NORM, "instance norm, fixed"),
                          (FOLLOWS, "BN outside both losses: its statistics follow"),
                          ("white", "fixed at test time")):
        _rectangle(axis, 0, 0, 0, 0, colour, edgecolor=INK, linewidth=0.5, label=label)
    legend(figure, side="lower", fontsize=7, handlelength=1.2)
    return figure


def _texts(size: Mapping[str, tuple], settings: Settings) -> list[tuple]:
    """All texts of Figure 2: name of the node, its centre, text, colour of its box ("": none)."""
    count, terms = settings.stripes, f"{settings.lambda1:g} L_{{pos}} + {settings.lambda2:g} L_{{mat}}"
    return [
        ("", 36, 162, "images\n{1}×{2}".format(*size["input"]), ""),
        ("", 137, 72, r"$\bf{E:}$ DualNorm-ResNet-50", ""),
        ("", 137, 192, f"$L_t = L_{{id}} + {terms}$ (9)\nmoves all weights (10)", "white"),
        ("", 233, 162, "maps\n{}×{}×{}".format(*size["layer4"]), ""),
        ("", 252, 33, "average pool (1)", ""),
        ("f", 286, 44, f"f ({size['f'][0]})", PALE),
        ("bnneck", 334, 44, "bnneck\n1 BN", FOLLOWS),
        ("retrieval", 414, 16, "retrieval: Euclidean distance", ""),
        ("G", 396, 44, f"G: FC\n→ M = {size['FC_G'][0]:,}", "white"),
        ("L_id", 476, 44, r"$L_{id}$ (2)", ""),
        ("", 285, 162, f"stripes (4)\n{count} × {size['stripes f^h'][-1]}", ""),
        ("P", 362, 92, f"P: one FC, shared\n→ {size['FC_P'][0]} positions", "white"),
        ("L_pos", 476, 92, r"$L_{pos}$ (5)", ""),
        ("M", 356, 144, f"M: {count} × (6)\nconv 1×1, BN, ReLU", UPDATED),
        ("", 415, 184, f"local\n{count} × {size['Conv of M, each'][0]}", ""),
        ("FC", 446, 144, f"{count} FC\n→ M", "white"),
        ("L_mat", 484, 144, r"$L_{mat}$ (7)", ""),
        ("", 36, 334, "N target images", ""),
        ("pairing", 121, 285, "Algorithm 1\nlocal features (4), (6)\n$D$ = min over $h$ of $D^h$\n"
         "K closest pairs,\nno image twice", "white"),
        ("", 196, 334, "pairs, matched stripe", ""),
        ("BN", 288, 285, "E, P, M\nBN layers move:\n" r"$\mu, \sigma^2$ by running average" "\n"
         r"$\gamma, \beta$ by gradient", UPDATED),
        ("", 346, 247, rf"(14), $\eta_{{tta}}$ = {settings.tta_lr:g}", ""),
        ("loss", 382, 285, r"$L_{tta} = L_{pos} + \lambda_3 L_{mat}^{tta}$" "\n(5), (8)", "white"),
        ("", 382, 308, f"{settings.tta_batch} pairs a batch", ""),
        ("adapted", 466, 285, "adapted model:\nfeatures for\nretrieval", "white"),
    ]


def _draw_images(axis: Axes, settings: Settings, sources: Sequence[Tensor], targets: Sequence[Tensor],
                 pairs: Sequence[tuple[Tensor, Tensor, int]]) -> dict[str, Patch]:
    """Images of sources, of the target, and pairs with their stripe; the outline of each group."""
    ratio = settings.width / settings.height
    shown = [(7 + 11 * i, 75 + 7 * i, 65, image, None) for i, image in enumerate(sources[:3])]
    shown += [(7 + 20 * (i % 3), 248 + 39 * (i // 3), 36, image, None) for i, image in enumerate(targets[:6])]
    for i, (*couple, stripe) in enumerate(pairs[:2]):
        band = 36 * stripe / settings.stripes, 36 * (stripe + 1) / settings.stripes
        shown += [(177 + 20 * k, 248 + 39 * i, 36, image, band) for k, image in enumerate(couple)]
    for x, y, height, image, band in shown:
        draw_photo(axis, Photo(image, INK, 0.8, band=band), x, y, height, height * ratio)
    return {"images": _rectangle(axis, 7, 75, 54, 79), "target": _rectangle(axis, 7, 248, 58, 75),
            "couples": _rectangle(axis, 177, 248, 38, 75)}


def _draw_maps(axis: Axes, parts: pd.DataFrame, stripes: int) -> dict[str, Patch]:
    """The stages of E with what they put out, its maps, and both kinds of stripes; their outlines."""
    for i, (part, height) in enumerate(zip(("stem", *LAYERS), (65, 57, 49, 41, 33))):
        x, (channels, *size) = 73 + 26 * i, parts.loc[part if i else "stem, pooled", "shape"]
        _rectangle(axis, x, 117 - height / 2, 25, height, UPDATED)
        if parts.loc[part, "IN layers"]:
            _rectangle(axis, x + 22, 117 - height / 2, 3, height, NORM)
        axis.text(x + 11.5, 117, f"{part}\n{parts.loc[part, 'BN layers']} BN", fontsize=5.8, color="white",
                  ha="center", va="center")
        axis.text(x + 12.5, 119 + height / 2, "{}\n{}×{}".format(channels, *size), fontsize=5.2, color=GREY,
                  ha="center", va="top")
    nodes, colours = {"E": _rectangle(axis, 73, 84, 129, 65)}, [STRIPES[n % 6] for n in range(stripes)]
    for name, x, y, width, height, columns, line in (
        ("maps", 217, 84, 33, 65, parts.loc["layer4", "shape"][2], 0.7), ("stripes", 267, 84, 36, 65, 1, 1.5),
        ("local", 406, 119, 18, 51, 1, 1.5)):
        axis.pcolormesh(np.linspace(x, x + width, columns + 1), np.linspace(y, y + height, stripes + 1),
                        np.tile(np.arange(stripes)[:, None], columns), cmap=ListedColormap(colours),
                        edgecolors="#fafafa", linewidth=line)
        nodes[name] = _rectangle(axis, x, y, width, height)
    for n in range(stripes):
        axis.text(285, 84 + 65 * (n + 0.5) / stripes, rf"$f^{n + 1}$", fontsize=6.2, ha="center", va="center",
                  color="white" if n % 6 < 4 else INK)
    return nodes


def _rectangle(axis: Axes, x: float, y: float, width: float, height: float, face: str = "none",
               **options) -> Patch:
    options = {"facecolor": face, "edgecolor": "none"} | options
    return axis.add_patch(Rectangle((x, y), width, height, **options))


# ---------------------------------------------------------------- stripes, BN layers, training


def stripes_figure(images: Tensor, maps: Tensor, stripes: int) -> Figure:
    """Images (B, 3, h, w) with the rows that each of the H stripes averages, beside their maps' strength.

    ``maps`` (B, C, h', w'): the images' own; the norm over channels, from black to white by image.
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
            top, bottom = start * height / rows, end * height / rows
            # Neighbours that share a row stay apart.
            inset = 1 + 1.5 * (n % 2) * (end - start > rows / stripes)
            _rectangle(axis, inset, top + 1, width - 2 * inset - 1, bottom - top - 2,
                       edgecolor=STRIPES[n % 6], linewidth=1.6)
            if i == 0:
                axis.text(-3, (top + bottom) / 2, rf"$f^{n + 1}$", ha="right", va="center", fontsize=7,
                          color=STRIPES[n % 6])
    return figure


def bn_figure(model: BNTANet) -> Figure:
    """All BN layers from shallow to deep: a bar a layer, its height the channels (log scale)."""
    layers = pd.Series({name: layer.num_features for name, layer in bn_layers(model).items()})
    index, neck = np.arange(len(layers)), layers.index == "bnneck"
    shortcut = layers.index.str.contains("downsample")
    figure, ((axis,),) = panels(1, 1, 2.0)
    for label, rows, colour, hatch in (("on the main path", ~(neck | shortcut), UPDATED, ""),
                                       ("on a shortcut", shortcut, "#73b1d7", "////"),
                                       ("bnneck, outside both losses", neck, FOLLOWS, "")):
        axis.bar(1 + index[rows], layers[rows], color=colour, hatch=hatch, ec="white", lw=0, label=label)
    for name in layers_of(model, "in"):
        block = layers.index.str.startswith(name.removesuffix("instance_norm"))
        axis.axvline(1.5 + index[block].max(), color=NORM, lw=1.8, label="instance norm after this layer")
    layer_axis(axis, list(layers.index), shade=False)
    axis.set_yscale("log", base=2)
    axis.set(xlabel=DEPTH, ylabel="channels", ylim=(0.7 * layers.min(), 2 * layers.max()))
    legend(figure, side="lower", fontsize=7)
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], identities: int) -> Figure:
    """Losses and accuracy by epoch, a line a model; ``histories`` as recorded by training.

    Terms that a model does not train are left out. A uniform guess is among ``identities``.
    """
    titles = {"L_id": r"$L_{id}$ (2)", "L_pos": r"$L_{pos}$ (5)", "L_mat": r"$L_{mat}$ (7)",
              "accuracy": "G's accuracy, training images"}
    figure, (axes,) = panels(1, 4, 1.9)
    axes[0].axhline(np.log(identities), color=INK, lw=0.9, ls=":", label="a uniform guess")
    for axis, (column, title) in zip(axes, titles.items()):
        for name, history in histories.items():
            label = {"bnta": "BNTA", "baseline": "Baseline"}.get(name, name)
            if history[column].any():
                colour = COLOURS.get(label, UPDATED)
                axis.plot("epoch", column, data=history, label=label, lw=1.5, color=colour)
        for history in histories.values():
            for epoch in history["epoch"][history["lr"].diff() < -0.5 * history["lr"].shift()]:
                axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--", label="the learning rate falls")
        axis.set_title(title, fontsize=8)
        axis.set(xlabel="epoch", ylim=(0, 1 if column == "accuracy" else None))
    legend(figure, fontsize=7)
    return figure
