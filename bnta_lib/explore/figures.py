"""Figure functions under sliders: retrieval and BN layers.

On a page without a kernel a widget is a still picture.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape

import ipywidgets as W
import torch
from IPython.display import Image
from torch import Tensor

from bnta_lib.adaption import QUANTITIES, adapt
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking
from bnta_lib.figures.adaption import layer_figure
from bnta_lib.figures.base import drawn, element, picture
from bnta_lib.figures.photos import photo_page, retrieval_figure
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import Settings
from bnta_lib.suite.layers import bn_outputs, shift_by_layer, source_sample

ORDERS = ("most improved first", "most worsened first", "in the target's order")
WIDE = {"layout": W.Layout(width="420px"), "style": {"description_width": "112px"}}
RELEASED = {"continuous_update": False, **WIDE}  # a slider calls back on release
gc.freeze()  # modules are never garbage: to look through theirs takes 0.2 s of a slider's answer now and then
Shown = tuple[str, str, Callable[[], Image]]
NO_KERNEL = "Sliders: they move in JupyterLab, when this notebook is run there (make lab)."


class Explorer(W.VBox):
    """Controls, and below them what ``draw`` returns for their values: a line of numbers, and HTML; and a
    function that draws the picture for a page without a kernel."""

    def __init__(self, draw: Callable[..., Shown], **controls: W.Widget):
        self.function, self.controls, self.errors, self.shown = draw, controls, W.HTML(), W.HTML()
        super().__init__([*controls.values(), self.errors, self.shown])
        self.add_class("bnta-explorer")
        for control in controls.values():
            control.observe(reporting(self.errors, self.draw), "value")
        self.draw()

    def draw(self, change=None) -> None:
        """What the controls' values show."""
        values = {name: control.value for name, control in self.controls.items()}
        self.numbers, shown, self.still = self.function(**values)
        self.shown.value = f'<div class="bnta-numbers">{escape(self.numbers)}</div>{shown}'

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """What a notebook keeps: the widget for a kernel, a picture for a page without one."""
        picture, metadata = self.still()._repr_mimebundle_()
        return super()._repr_mimebundle_(**kwargs) | picture | {"text/plain": NO_KERNEL}, metadata


def reporting(line: W.HTML, callback: Callable) -> Callable:
    """A callback whose errors are shown in ``line``. An Output widget would do too, but papermill replies to
    it and may then miss the end of the cell: https://github.com/jupyter/nbclient/issues/312."""
    def call(*arguments) -> None:
        line.value = ""
        try:
            callback(*arguments)
        except Exception as error:
            line.value = f'<b class="bnta-error">failed: {type(error).__name__}: {escape(str(error))}</b>'

    return call


def probe_order(before: Ranking, after: Ranking, order: str) -> Tensor:
    """Probes (P,) in one of ORDERS by the ratio of the ranks of their first match; last if they have none."""
    if order == ORDERS[2]:
        return torch.arange(len(before.rank))
    ratio = after.rank.double() / before.rank.clamp(min=1) * (1 if order == ORDERS[0] else -1)
    return torch.argsort(ratio.masked_fill((before.rank == 0) | (after.rank == 0), torch.inf), stable=True)


def probe_shown(target: Target, split: Split, before: Ranking, after: Ranking, probe: int) -> Shown:
    """A probe's nearest gallery images before and after adaption, and the ranks of its first match."""
    images = (target.data.images[side] for side in (split.probe, split.gallery))
    sheet = partial(retrieval_figure, *images, before, after, {f"probe {probe}": [probe]})
    alt = f"Probe {probe} and its nearest gallery images before and after"
    return (f"probe {probe}: rank of the first match {before.rank[probe]} to {after.rank[probe]}",
            sheet(layout=photo_page), lambda: picture(sheet(), alt))


def retrieval_explorer(target: Target, split: Split, before: Ranking, after: Ranking) -> Explorer:
    """Any probe of a split: its gallery ranking before and after adaption, right ones marked.

    ``before`` and ``after``: of :func:`bnta_lib.evaluation.top_gallery` on the split's images.
    """
    def draw(order: str, number: int) -> Shown:
        return probe_shown(target, split, before, after, int(probe_order(before, after, order)[number - 1]))

    return Explorer(draw, order=W.Dropdown(description="probes", options=ORDERS, **WIDE),
                    number=W.IntSlider(description="number", min=1, value=1, max=len(split.probe),
                                       **RELEASED))


def layer_explorer(model: BNTANet, targets: Mapping[str, Target], sources: Sequence[ReIDSet],
                   settings: Settings, images: int = 200) -> Explorer:
    """Any BN layer: its outputs on source and target, and the change of μ, σ², γ and β.

    Adapts to split 0 of each target with seed 0, and passes at most ``images`` images a side through the
    models; the sliders need no network.
    """
    names, outputs, adapted, figure = list(bn_layers(model)), {}, {}, None
    of_source = bn_outputs(model, source_sample(sources, max(1, images // len(sources))), names, 400)
    for name, target in targets.items():
        parts = target.split(0)
        adapted[name] = adapt(model, target.data.images[parts.gallery], settings, seed=0).model
        both = torch.cat([parts.probe, parts.gallery])
        some = target.data.images[both[:: -(-len(both) // images)]]
        outputs[name] = {"source": of_source, "frozen": bn_outputs(model, some, names, 400),
                         "adapted": bn_outputs(adapted[name], some, names, 400)}

    def draw(target: str, index: int, channel: int) -> Shown:
        nonlocal figure
        name = names[index - 1]
        number = min(channel, len(of_source[name])) or None
        channels = slice(number - 1, number) if number else slice(None)
        shown = {kind: y[name][channels] for kind, y in outputs[target].items()}
        label = f"output of {name.removeprefix('backbone.')}" + (f", channel {number}" if number else "")
        moments = {kind: {name: (y.mean(1), y.std(1))} for kind, y in shown.items()}
        d = {kind: shift_by_layer(moments["source"], moments[kind])["distance"].item()
             for kind in ("frozen", "adapted")}
        old, new = bn_layers(model)[name], bn_layers(adapted[target])[name]
        changes = {quantity: (getattr(new, kind) - getattr(old, kind)).detach().cpu()
                   for quantity, kind in QUANTITIES.items()}
        figure = layer_figure(shown, d, changes, label, number, figure)
        figure.canvas.draw()
        still = drawn(figure, f"Outputs of {name} on source and {target}, and the change of its quantities")
        return (f"{target}: {name}, BN layer {index} of {len(names)}, d = {d['frozen']:.3f} frozen, "
                f"{d['adapted']:.3f} adapted", element(still), lambda: still)

    return Explorer(draw, target=W.Dropdown(description="target", options=list(outputs), **WIDE),
                    index=W.IntSlider(description="BN layer", min=1, max=len(names), value=1, **RELEASED),
                    channel=W.IntSlider(description="channel (0: all)", min=0, value=0,
                                        max=max(map(len, of_source.values())), **RELEASED))
