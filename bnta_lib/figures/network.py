"""What adaption starts from: the network (Figure 2), its training, the sets, and the headroom."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes, make_grid

from bnta_lib.figures.base import BAND, COLOURS, GREY, INK, PALE, legend, panels
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.rendered.benchmark import STATISTICS
from bnta_lib.settings import Settings
from bnta_lib.suite.sweeps import KINDS, headroom_scores

SOURCE, TARGET = COLOURS["source"], COLOURS["adapted"]
UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]  # of layers
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@torch.no_grad()
def trace_shapes(model: BNTANet, images: Tensor) -> pd.DataFrame:
    """What comes out of each part in a forward pass of uint8 ``images`` (B, 3, h, w).

    A row a part, in the paper's order: part, shape (without B), BN and IN layers in it, weights. On torch's
    meta device nothing is computed.
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
        for head in model.fc_m[:1]:  # compact weights have none
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
    few of Algorithm 1's pairs with their matched stripe, from 0.
    """
    figure, ((axis,),) = panels(1, 1, 5.1)
    axis.set(xlim=(0, 504), ylim=(344, 0))  # points
    axis.set_axis_off()
    for top, bottom, face, title in (
        (1, 217, "#fafafa", "Training on labelled sources, Eq. (9)"),
        (222, 343, "#f4f9fd", "Test-time adaption on an unlabelled target, Eq. (13) and (14)")):
        axis.axhspan(top, bottom, facecolor=face, edgecolor=PALE, zorder=0)
        axis.text(6, top + 9, title, fontsize=8, weight="bold", va="center", color=INK)
    edges = np.linspace(0, settings.height - 1, settings.stripes + 1)
    boxes = torch.tensor([[0, top, settings.width - 1, bottom] for top, bottom in pairwise(edges.round())])
    striped = [draw_bounding_boxes(image, boxes, colors=list(np.resize(STRIPES, len(boxes))))
               for image in sources]
    outlined = [draw_bounding_boxes(image, boxes[n : n + 1], colors=BAND, width=3)
                for *couple, n in pairs for image in couple]
    nodes = {"images": _draw_photos(axis, striped, 2, 7, 117, 54),
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
                        cmap=ListedColormap(np.resize(STRIPES, stripes)))
        nodes[name] = axis.add_patch(Rectangle((x, y), width, height, fill=False, linewidth=0))
    for n in range(stripes):
        axis.text(285, 84 + 65 * (n + 0.5) / stripes, rf"$f^{n + 1}$", fontsize=6.2, ha="center", va="center",
                  color="white" if n % 6 < 4 else INK)
    return nodes


# ---------------------------------------------------------------- sets, training, headroom


def statistics_figure(statistics: pd.DataFrame, targets: Sequence[str]) -> Figure:
    """How images are spread in each set: median, quartiles and 5-95 %, a panel a statistic.

    ``statistics``: of :func:`bnta_lib.rendered.benchmark.statistics_of`. Ticks are medians of single cameras.
    """
    names = list(statistics["set"].unique())
    cameras = statistics.groupby(["set", "camera"], sort=False)[list(STATISTICS)].median().reset_index()
    palette = {name: TARGET if name in targets else SOURCE for name in names}
    figure, (axes,) = panels(1, len(STATISTICS), 0.5 + 0.26 * len(names), sharey=True)
    for axis, what in zip(axes, STATISTICS):
        sns.boxplot(statistics, x=what, y="set", hue="set", palette=palette, whis=(5, 95), showfliers=False,
                    showcaps=False, width=0.3, linecolor=INK, linewidth=0.9, ax=axis)
        axis.plot(cameras[what], cameras["set"].map(names.index) + 0.35, "|", color=INK, ms=4, mew=0.7)
        axis.set(title=what, xlabel="", ylabel="")
        axis.tick_params(axis="y", length=0)
    axes[len(axes) // 2].set_xlabel("per cent of a pixel's full range")
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
                colour = COLOURS.get(label, TARGET)
                axis.plot("epoch", column, data=history, label=label, lw=1.5, color=colour)
        for history in histories.values():
            for epoch in history["epoch"][history["lr"].diff() < -0.5 * history["lr"].shift()]:
                axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--", label="the learning rate falls")
        axis.set_title(title, fontsize=8)
        axis.set(xlabel="epoch", ylim=(0, 1 if column == "accuracy" else None))
    legend(figure, fontsize=7)
    return figure


def headroom_figure(rows: pd.DataFrame) -> Figure:
    """Rank 1 without adaption, by set: left as evaluated, right at one common gallery size.

    ``rows``: ``lab.measure("headroom")``. A hollow dot is the same target by neutral cameras: the line to it
    is what is photometric.
    """
    (home, away, neutral), scores = KINDS, headroom_scores(rows)
    names = list(scores.loc[scores["kind"] != neutral, "set"])
    scores["y"] = scores["set"].map(names.index)
    figure, ((left, right),) = panels(1, 2, 0.9 + 0.27 * len(names), sharey=True)
    for kind, colour, fill in ((home, SOURCE, SOURCE), (away, TARGET, TARGET), (neutral, TARGET, "white")):
        part = scores[scores["kind"] == kind]
        right.plot(part["R1 common"], part["y"], "o", color=colour, mfc=fill, mew=1.4, ms=5, label=kind)
        if kind != neutral:
            left.errorbar(part["R1"], part["y"], xerr=part["std"].fillna(0), fmt="o", color=colour, ms=5,
                          capsize=2)
    common = scores.pivot(index="y", columns="kind", values="R1 common").reindex(columns=list(KINDS))
    right.hlines(common.index, common[away], common[neutral], color=TARGET, lw=1, zorder=0)
    right.axvline(common[home].mean(), color=SOURCE, lw=0.9, ls="--", label="mean of the sources")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axis, title in ((left, "as evaluated"), (right, f"galleries of {rows['gallery'].min():g} images")):
        axis.set(xlim=(-3, 103), xlabel="rank 1, per cent", title=title)
        axis.tick_params(axis="y", length=0)
    legend(figure, "lower", fontsize=7)
    return figure
