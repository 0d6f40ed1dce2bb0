"""What adaption starts from: the network's shapes, its training, the sets, and the headroom."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.figures.base import COLOURS, GREY, INK, legend, panels
from bnta_lib.model import BNTANet, bn_layers, layers_of, preserve_modes
from bnta_lib.rendered.benchmark import STATISTICS
from bnta_lib.suite.sweeps import KINDS, headroom_scores

SOURCE, TARGET = COLOURS["source"], COLOURS["adapted"]
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
