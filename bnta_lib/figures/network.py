"""Figure 2 and what belongs to it: the network with the shapes that pass, and its stripes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes, make_grid

from bnta_lib.figures.base import BAND, COLOURS, GREY, INK, PALE, legend, panels
from bnta_lib.figures.photos import Photo, photo_sheet
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes, stripe_rows
from bnta_lib.settings import Settings

UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@torch.no_grad()
def trace_shapes(model: BNTANet, images: Tensor) -> pd.DataFrame:
    """What comes out of each part in a forward pass of uint8 ``images`` (B, 3, h, w).

    A row a part, in the paper's order: part, shape (of one image, without B), BN and IN layers
    in it, weights. On torch's meta device nothing is computed. Compact weights hold no FC_M.
    """
    backbone, conv = model.backbone, model.parts[0]
    with preserve_modes(model):
        model.eval()
        x = model.normalised(images)
        stem = backbone.conv1(x)
        maps = F.max_pool2d(stem, 3, 2, 1)
        # What comes out, and the modules that it came through.
        passed = {"input": (x,), "stem": (stem, backbone.conv1, backbone.bn1), "stem, pooled": (maps,)}
        for name in LAYERS:
            layer = backbone.get_submodule(name)
            maps = layer(maps)
            passed[name] = maps, layer
        f, stripes = model.global_pool(maps), model.stripe_pool(maps)
        local = conv(stripes[:, 0, :, None, None])
        passed |= {"f": (f,), "bnneck": (model.bnneck(f), model.bnneck), "FC_G": (model.fc_g(f), model.fc_g),
                   "stripes f^h": (stripes,), "FC_P": (model.fc_p(stripes), model.fc_p),
                   "Conv of M, each": (local, conv)}
        for head in model.fc_m[:1]:
            passed["FC_M, each"] = head(local.flatten(1)), head
    return pd.DataFrame([{"part": part, "shape": tuple(out.shape[1:]),
                          "BN layers": sum(len(bn_layers(module)) for module in modules),
                          "IN layers": sum(len(layers_of(module, "in")) for module in modules),
                          "weights": sum(p.numel() for module in modules for p in module.parameters())}
                         for part, (out, *modules) in passed.items()])


# ---------------------------------------------------------------- Figure 2

# Chains of nodes; where on its nodes an arrow begins and ends, and how it bends.
CORNER, ACROSS = "angle,angleA=90,angleB=0,rad=0", ((1, 0.5), (0, 0.5), "arc3")
ARROWS = {"images stem": ACROSS, "layer4 maps stripes P L_pos": ACROSS, "stripes M local FC L_mat": ACROSS,
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
    axis.set(xlim=(0, 504), ylim=(344, 0))  # points
    axis.set_axis_off()
    for top, bottom, face, title in (
        (1, 217, "#fafafa", "Training on labelled sources, Eq. (9)"),
        (222, 343, "#f4f9fd", "Test-time adaption on an unlabelled target, Eq. (13) and (14)")):
        axis.axhspan(top, bottom, facecolor=face, edgecolor=PALE, zorder=0)
        axis.text(6, top + 9, title, fontsize=8, weight="bold", va="center", color=INK)
    edges = np.linspace(0, settings.height - 1, settings.stripes + 1).round()
    outlined = [draw_bounding_boxes(image, torch.tensor([[0, edges[n], settings.width - 1, edges[n + 1]]]),
                                    colors=BAND, width=3) for *couple, n in pairs for image in couple]
    nodes = {"images": _draw_photos(axis, sources, 2, 7, 117, 54),
             "target": _draw_photos(axis, targets, 3, 7, 285, 58),
             "couples": _draw_photos(axis, outlined, 2, 177, 285, 38)}
    nodes |= _draw_maps(axis, shapes.set_index("part"), settings.stripes)
    for name, x, y, text, face in _texts(shapes.set_index("part")["shape"], settings):
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
        axis.bar(0, 0, 0, color=colour, edgecolor=INK, linewidth=0.5, label=label)
    legend(figure, side="lower", fontsize=7, handlelength=1.2)
    return figure


def _texts(size: Mapping[str, tuple], settings: Settings) -> list[tuple]:
    """All texts of Figure 2: name of the node, its centre, text, colour of its box ("": none)."""
    count, terms = settings.stripes, f"{settings.lambda1:g} L_{{pos}} + {settings.lambda2:g} L_{{mat}}"
    return [
        ("", 34, 184, "images\n{1}×{2}".format(*size["input"]), ""),
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


def _draw_photos(axis: Axes, images: Sequence[Tensor], columns: int, x: float, y: float,
                 width: float) -> Artist:
    """Images in columns, ``width`` points wide in all, around the height ``y``."""
    grid = make_grid(torch.stack(list(images)), columns, padding=3, pad_value=255).permute(1, 2, 0)
    half = width * grid.shape[0] / grid.shape[1] / 2
    return axis.imshow(grid.numpy(), extent=(x, x + width, y + half, y - half), interpolation="bilinear")


def _draw_maps(axis: Axes, parts: pd.DataFrame, stripes: int) -> dict[str, Artist]:
    """The stages of E with what they put out, its maps, and both kinds of stripes."""
    nodes, names = {}, ("stem", *LAYERS)
    for x, name, height in zip(range(73, 200, 26), names, (65, 57, 49, 41, 33)):
        (nodes[name],) = axis.bar(x, height, 25, 117 - height / 2, align="edge", color=UPDATED)
        if parts.loc[name, "IN layers"]:
            axis.bar(x + 22, height, 3, 117 - height / 2, align="edge", color=NORM)
        channels, *size = parts.loc["stem, pooled" if name == "stem" else name, "shape"]
        for y, text, style in (
            (117, f"{name}\n{parts.loc[name, 'BN layers']} BN", {"fontsize": 5.8, "color": "white"}),
            (127 + height / 2, "{}\n{}×{}".format(channels, *size), {"fontsize": 5.2, "color": GREY})):
            axis.text(x + 11, y, text, ha="center", va="center", **style)
    for name, x, y, width, height, columns, line in (
        ("maps", 217, 84, 33, 65, parts.loc["layer4", "shape"][2], 0.7), ("stripes", 267, 84, 36, 65, 1, 1.5),
        ("local", 406, 119, 18, 51, 1, 1.5)):
        axis.pcolormesh(np.linspace(x, x + width, columns + 1), np.linspace(y, y + height, stripes + 1),
                        np.tile(np.arange(stripes)[:, None], columns), edgecolors="#fafafa", linewidth=line,
                        cmap=ListedColormap(_colours(stripes)))
        nodes[name] = axis.add_patch(Rectangle((x, y), width, height, fill=False, linewidth=0))
    for n in range(stripes):
        axis.text(285, 84 + 65 * (n + 0.5) / stripes, rf"$f^{n + 1}$", fontsize=6.2, ha="center", va="center",
                  color="white" if n % 6 < 4 else INK)
    return nodes


def stripes_figure(images: Tensor, maps: Tensor, stripes: int) -> Figure:
    """Images (B, 3, h, w) with the rows that each of the H stripes averages, beside their maps' strength.

    ``maps`` (B, C, h', w'): the images' own; the norm over channels, from black to white by image.
    """
    (height, width), (rows, columns) = images.shape[2:], maps.shape[2:]
    strength = maps.float().norm(dim=1, keepdim=True).cpu()
    low, high = strength.amin((2, 3), keepdim=True), strength.amax((2, 3), keepdim=True)
    strength = (255 * (strength - low) / (high - low)).byte().expand(-1, 3, -1, -1)
    boxes = torch.tensor([[0, start * height // rows, width - 1, end * height // rows - 1]
                          for start, end in stripe_rows(rows, stripes)])
    cells = []
    for image, response in zip(images, strength):
        for shown, title in ((image, f"{height} × {width}"), (response, f"{rows} × {columns} map")):
            large = F.interpolate(shown[None], (4 * height, 4 * width))[0]
            cells.append(Photo(draw_bounding_boxes(
                large, 4 * boxes, [f"f{n + 1}" for n in range(stripes)], _colours(stripes), width=4,
                font=findfont("DejaVu Sans"), font_size=28, label_colors="white"), heading=title))
    return photo_sheet([cells])


def _colours(stripes: int) -> list[str]:
    return [STRIPES[n % 6] for n in range(stripes)]
