"""Figure 2 and what belongs to it: the network with its real shapes, stripes, BN layers, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from torch import Tensor

from bnta_lib.figures.base import COLOURS, DEPTH, GREY, INK, PALE, layer_axis, legend, mark, panels
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.settings import Settings

UPDATED, FOLLOWS, NORM = COLOURS["adapted"], "#9ecae1", COLOURS["source"]
# Six stripes from head to feet: dark to light, told apart in grey as well.
STRIPES = ["#0d0887", "#5b02a3", "#9a179b", "#cb4678", "#eb7852", "#fbb32f"]
# What a forward pass is watched at, in the order of the paper; "<" is what enters a module.
PARTS = {
    "input": "<backbone.conv1", "stem": "backbone.conv1", "stem, pooled": "<backbone.layer1",
    **{f"layer{k}": f"backbone.layer{k}" for k in range(1, 5)}, "f": "<bnneck", "bnneck": "bnneck",
    "FC_G": "fc_g", "stripes f^h": "<fc_p", "FC_P": "fc_p", "Conv of M, each": "parts.0",
    "FC_M, each": "fc_m.0",
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
        def watch(module, inputs, output, part=part, name=name):
            shapes[part] = tuple((inputs[0] if name.startswith("<") else output).shape[1:])
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


def network_figure(shapes: pd.DataFrame, settings: Settings, sources: Sequence[Tensor],
                   targets: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor, int]]) -> Figure:
    """Figure 2: training above, test-time adaption below.

    ``shapes`` comes from :func:`trace_shapes`; ``sources`` and ``targets`` are a few uint8 images
    (3, h, w); ``pairs`` a few of Algorithm 1's pairs with their matched stripe.
    """
    figure, ((axis,),) = panels(1, 1, 5.4)
    for y, height, face, title in (
        (3.75, 6.55, "#fafafa", "Training on labelled sources, Eq. (9)"),
        (0.3, 3.3, "#f4f9fd", "Test-time adaption on an unlabelled target, Eq. (13) and (14)")):
        _rectangle(axis, 0.02, y, 13.96, height, face, PALE)
        axis.text(0.15, y + height - 0.25, title, fontsize=8, weight="bold", va="center", color=INK)
    _training_half(axis, shapes.set_index("part"), settings, sources[:3])
    _adaption_half(axis, settings, targets[:6], pairs[:2])
    axis.set(xlim=(0, 14), ylim=(0.25, 10.35), aspect="equal")
    axis.set_axis_off()
    legend(figure, [Patch(facecolor=colour, edgecolor=INK, lw=0.5, label=text) for colour, text in (
        (UPDATED, "BN moved by adaption"), (FOLLOWS, "BN outside both losses: its statistics follow"),
        (NORM, "instance norm, fixed"), ("white", "fixed at test time"))], side="lower", fontsize=7,
        handlelength=1.2)
    return figure


def _text(axis: Axes, x: float, y: float, text: str, face: str = "", size: float = 6.2, **options) -> Patch:
    """A text about (x, y), in a round box if ``face`` is given; the box, for arrows."""
    box = {"boxstyle": f"round,pad={0.45 if face else 0.2}", "facecolor": face or "none",
           "edgecolor": INK if face else "none", "linewidth": 0.8}
    options = {"ha": "center", "va": "center", "color": "white" if face == UPDATED else INK} | options
    return axis.text(x, y, text, fontsize=size, bbox=box, **options).get_bbox_patch()


def _rectangle(axis: Axes, x: float, y: float, width: float, height: float, face: str = "none",
               edge: str = "none", **options) -> Patch:
    """A rectangle with its lower left corner at (x, y)."""
    return axis.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, **options))


def _arrow(axis: Axes, start: tuple, end: tuple, connection: str = "arc3", colour: str = INK) -> None:
    """An arrow between two of (x, y, patch), from edge to edge."""
    axis.annotate("", end[:2], start[:2], arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 0.9, "mutation_scale": 7, "patchA": start[2],
        "patchB": end[2], "shrinkA": 2, "shrinkB": 2, "connectionstyle": connection})


def _picture(axis: Axes, image: Tensor, x: float, y: float, h: float, stripe: int | None = None,
             stripes: int = 6) -> Patch:
    """An image of height ``h``, its lower left corner at (x, y), one ``stripe`` outlined."""
    w = h * image.shape[2] / image.shape[1]
    axis.imshow(image.permute(1, 2, 0).numpy(), extent=(x, x + w, y, y + h), zorder=2,
                interpolation="bilinear")
    if stripe is not None:
        _rectangle(axis, x, y + h * (1 - (stripe + 1) / stripes), w, h / stripes, edge=STRIPES[stripe % 6],
                   lw=2, zorder=4)
    return _rectangle(axis, x, y, w, h, edge=INK, linewidth=0.8, zorder=3)


def _bars(axis: Axes, x: float, y: float, width: float, height: float, count: int, fill: float) -> Patch:
    """A bar a stripe, the first on top, each filling ``fill`` of its share; their outline, for arrows."""
    for n in range(count):
        _rectangle(axis, x, y + height * (count - n - (1 + fill) / 2) / count, width, fill * height / count,
                   STRIPES[n % 6])
    return _rectangle(axis, x, y, width, height)


def _training_half(axis: Axes, parts: pd.DataFrame, settings: Settings, sources: Sequence[Tensor]) -> None:
    size, count = parts["shape"], settings.stripes
    channels, rows, columns = size["layer4"]
    for i, image in enumerate(sources):
        front = _picture(axis, image, 0.2 + 0.3 * i, 6.2 - 0.2 * i, 1.8)
    x, before = 2.1, 1.9
    for part, height in {"stem": 1.65, "layer1": 1.4, "layer2": 1.15, "layer3": 0.9, "layer4": 0.9}.items():
        w = 0.5 if part == "stem" else 0.72
        axis.add_patch(Polygon([(x, 6.95 - before / 2), (x, 6.95 + before / 2), (x + w, 6.95 + height / 2),
                                (x + w, 6.95 - height / 2)], facecolor=UPDATED, edgecolor="white", lw=0.8))
        if parts.loc[part, "IN layers"]:
            _rectangle(axis, x + w - 0.09, 6.95 - height / 2, 0.07, height, NORM)
        _text(axis, x + w / 2, 6.95, f"{part}\n{parts.loc[part, 'BN layers']} BN", size=5.8, color="white")
        shape = "{}\n{}×{}".format(*size["stem, pooled" if part == "stem" else part])
        _text(axis, x + w / 2, 6.85 - before / 2, shape, size=5.2, va="top", color=GREY)
        x, before = x + w + 0.03, height
    nodes = {"images": (1.2, 6.95, front), "E": (3.9, 6.95, _rectangle(axis, 2.1, 6, x - 2.13, 1.9)),
             "maps": (6.38, 6.95, _bars(axis, 5.9, 6.0, 0.95, 1.9, count, 1.0)),
             "stripes": (7.85, 6.95, _bars(axis, 7.35, 6.0, 1.0, 1.9, count, 0.8)),
             "local": (11.45, 6.1, _bars(axis, 11.2, 5.35, 0.5, 1.5, count, 0.85))}
    axis.hlines(6 + 1.9 * np.arange(1, rows) / rows, 5.9, 6.85, color="white", lw=0.7)
    axis.vlines(5.9 + 0.95 * np.arange(1, columns) / columns, 6, 7.9, color="white", lw=0.7)
    for n in range(count):
        _text(axis, 7.85, 7.9 - 1.9 * (n + 0.5) / count, rf"$f^{n + 1}$", color="white" if n < 4 else INK)
    for x, y, text in ((0.9, 5.4, "images\n{1}×{2}".format(*size["input"])),
                       (6.38, 5.5, f"maps\n{channels}×{rows}×{columns}"),
                       (7.85, 5.5, f"stripes (4)\n{count} × {size['stripes f^h'][-1]}"),
                       (11.45, 5.0, f"local\n{count} × {size['Conv of M, each'][0]}"),
                       (7.0, 9.35, "average pool (1)")):
        _text(axis, x, y, text)
    _text(axis, 3.9, 8.23, "E: DualNorm-ResNet-50", weight="bold")
    terms = rf"$L_t = L_{{id}} + {settings.lambda1:g}\,L_{{pos}} + {settings.lambda2:g}\,L_{{mat}}$"
    _text(axis, 3.7, 4.6, f"{terms} (9)\nmoves all weights (10)", "white")
    for name, x, y, text, face in (
        ("f", 7.85, 9.05, f"f ({size['f'][0]})", PALE), ("bnneck", 9.25, 9.05, "bnneck\n1 BN", FOLLOWS),
        ("retrieval", 11.5, 9.85, "retrieval: Euclidean distance", ""),
        ("G", 10.95, 9.05, f"G: FC\n→ M = {size['FC_G'][0]:,}", "white"),
        ("P", 9.95, 7.7, f"P: one FC, shared\n→ {size['FC_P'][0]} positions", "white"),
        ("M", 9.75, 6.1, f"M: {count} × (6)\nconv 1×1, BN, ReLU", UPDATED),
        ("FC", 12.3, 6.1, f"{count} FC\n→ M", "white"), ("L_id", 13.2, 9.05, r"$L_{id}$ (2)", ""),
        ("L_pos", 13.2, 7.7, r"$L_{pos}$ (5)", ""), ("L_mat", 13.3, 6.1, r"$L_{mat}$ (7)", ""),
    ):
        nodes[name] = x, y, _text(axis, x, y, text, face, 8 if name.startswith("L_") else 6.2)
    for chain in ("images E maps stripes P L_pos", "f bnneck G L_id", "stripes M local FC L_mat"):
        for start, end in pairwise(chain.split()):
            _arrow(axis, nodes[start], nodes[end])
    for start, end in (("maps", "f"), ("bnneck", "retrieval")):
        _arrow(axis, nodes[start], nodes[end], "angle,angleA=90,angleB=0,rad=0")


def _adaption_half(axis: Axes, settings: Settings, targets: Sequence[Tensor], pairs: Sequence) -> None:
    for i, image in enumerate(targets):
        _picture(axis, image, 0.2 + 0.55 * (i % 3), 1.9 - 1.06 * (i // 3), 0.98)
    for i, (*couple, stripe) in enumerate(pairs):
        for k, image in enumerate(couple):
            _picture(axis, image, 4.9 + 0.54 * k, 1.9 - 1.06 * i, 0.98, stripe, settings.stripes)
    nodes = [(x, 1.85, _rectangle(axis, x - w / 2, 0.84, w, 2.0)) for x, w in ((1.0, 1.6), (5.43, 1.05))]
    for x, text, face in (
        (3.35, "Algorithm 1\nlocal features (4), (6)\n$D$ = min over $h$ of $D^h$\nK closest pairs,\n"
               "no image twice", "white"),
        (8.0, "E, P, M\nBN layers move:\n" r"$\mu, \sigma^2$ by running average" "\n"
              r"$\gamma, \beta$ by gradient", UPDATED),
        (10.6, r"$L_{tta} = L_{pos} + \lambda_3 L_{mat}^{tta}$" "\n(5), (8)", "white"),
        (12.95, "adapted model:\nfeatures for\nretrieval", "white"),
    ):
        nodes.append((x, 1.85, _text(axis, x, 1.85, text, face)))
    nodes.sort(key=lambda node: node[0])
    for start, end in pairwise(nodes):
        _arrow(axis, start, end)
    _arrow(axis, nodes[4], nodes[3], "arc3,rad=0.5", UPDATED)
    _text(axis, 9.4, 2.95, rf"(14), $\eta_{{tta}}$ = {settings.tta_lr:g}", color=UPDATED)
    _text(axis, 6.03, 2.6, "pair k,\nmatched\nstripe n", ha="left")
    _text(axis, 1.02, 0.62, "N target images")
    _text(axis, 10.6, 1.2, f"{settings.tta_batch} pairs a batch")


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
            _rectangle(axis, inset, top + 1, width - 2 * inset - 1, bottom - top - 2, edge=colour, lw=1.6)
            if i == 0:
                axis.text(-3, (top + bottom) / 2, rf"$f^{n + 1}$", ha="right", va="center", fontsize=7,
                          color=colour)
    return figure


def stripe_choices_figure(choices: Mapping[str, int], stripes: int) -> Figure:
    """Which rows each of the H stripes averages, for several map heights (name: rows)."""
    figure, (axes,) = panels(1, len(choices), 2.3)
    for axis, (name, rows) in zip(axes, choices.items()):
        start, end = np.array(stripe_rows(rows, stripes)).T / rows
        axis.bar(-0.7, np.full(rows, 1 / rows), 0.9, np.arange(rows) / rows, color=PALE, edgecolor="white")
        axis.bar(0.18 + 0.42 * np.arange(stripes), end - start, 0.36, start, color=STRIPES, edgecolor="white")
        shared = round(rows * (end - start).sum()) - rows
        axis.set_title(f"{name}\n{rows} rows: {shared or 'none'} shared", fontsize=7)
        axis.set(ylim=(1.02, -0.02), yticks=[])
        axis.set_xticks([-0.7, 0.21 * stripes - 0.03], ["map", f"stripes 1–{stripes}"], fontsize=6.5)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def bn_figure(model: BNTANet) -> Figure:
    """All BN layers from shallow to deep: a bar a layer, its height the channels (log scale)."""
    styles = {"on the main path": (UPDATED, ""), "on a shortcut": ("#73b1d7", "////"),
              "bnneck, outside both losses": (FOLLOWS, "")}
    names, channels = zip(*((name, layer.num_features) for name, layer in bn_layers(model).items()))
    main, shortcut, last = styles.values()
    colours, hatches = zip(*(last if name == "bnneck" else shortcut if "downsample" in name else main
                             for name in names))
    figure, ((axis,),) = panels(1, 1, 2.0)
    axis.bar(range(1, len(names) + 1), channels, color=colours, hatch=hatches, edgecolor="white", linewidth=0)
    for name in layers_of(model, "in"):  # after the last BN of its block
        last = max(i for i, n in enumerate(names, 1) if n.startswith(name.removesuffix("instance_norm")))
        axis.axvline(last + 0.5, color=NORM, lw=1.8)
    layer_axis(axis, names, shade=False)
    axis.set_yscale("log", base=2)
    axis.set(xlabel=DEPTH, ylabel="channels", ylim=(0.7 * min(channels), 2 * max(channels)))
    marks = [Patch(fc=colour, hatch=hatch, ec="white", label=label)
             for label, (colour, hatch) in styles.items()]
    marks.append(mark("instance norm after this layer", color=NORM, lw=1.8, linestyle="-"))
    legend(figure, marks, side="lower", fontsize=7)
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
            if history[column].any():
                colour = COLOURS.get(label, UPDATED)
                axis.plot("epoch", column, data=history, label=label, lw=1.5, color=colour)
            for epoch in history["epoch"][history["lr"].diff() < -0.5 * history["lr"].shift()]:
                axis.axvline(epoch - 0.5, color=GREY, lw=0.9, ls="--", zorder=0)
        axis.set_title(title, fontsize=8)
        axis.set(xlabel="epoch", ylim=(0, 1 if column == "accuracy" else None))
    legend(figure, [*axes[0].get_legend_handles_labels()[0],
                    mark("the learning rate falls", color=GREY, lw=0.9, linestyle="--"),
                    mark("a uniform guess", lw=0.9, linestyle=":")], fontsize=7)
    return figure
