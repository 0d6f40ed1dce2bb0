"""How long the explorers' callbacks take: ``python benchmarks/sliders.py``.

Every slider of every explorer is moved as a reader moves it, over its whole range and back. An explorer's row
is of its slowest control: the 95th percentile of what a move takes in Python, and beside it what the others
take. What the browser adds is not in it.
"""

from collections.abc import Iterator
from functools import partial

import common
import ipywidgets as W
import numpy as np
from common import Row

from bnta_lib import adapt, settings
from bnta_lib.data import load_source_samples, load_targets
from bnta_lib.evaluation import top_gallery
from bnta_lib.explore import nk
from bnta_lib.explore.figures import layer_explorer, retrieval_explorer
from bnta_lib.model import embed
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.train import trained_model

MOVES = 24  # of each control, at most
SLIDERS = (W.SelectionSlider, W.Dropdown, W.ToggleButtons, W.FloatSlider, W.IntSlider)


def controls(widget: W.Widget) -> list[W.Widget]:
    """All sliders and choices below a widget."""
    if isinstance(widget, SLIDERS):
        return [widget]
    return [control for child in getattr(widget, "children", ()) for control in controls(child)]


def positions(control: W.Widget, moves: int) -> list:
    """At most so many values of a control, from end to end and back."""
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
    else:
        values = [type(control.value)(v) for v in np.linspace(control.min, control.max, moves)]
    step = -(-2 * len(values) // moves)
    return [*values[::step], *values[::-step]]


def moved(name: str, explorer, moves: int = MOVES) -> Row:
    """The row of one explorer."""
    late = {}
    for control in controls(explorer):
        took = [1000 * common.seconds(partial(setattr, control, "value", value))
                for value in positions(control, moves)]
        late[control.description or control.value] = np.percentile(took, 95)
    slowest = max(late, key=late.get)
    return Row(f"explorer of {name}, its slowest slider", float(late[slowest]), "ms", goal="< 200 ms",
               note="95th percentile of each, ms: " + ", ".join(f"{what} {ms:.0f}" for what,
                                                                ms in late.items()))


def rows(device: str, quick: bool) -> Iterator[Row]:
    current = settings("smoke" if quick else "laptop")
    model = trained_model(current, progress=False)
    targets = load_targets(current, progress=False)
    if quick:
        yield moved("N and K", nk.NKExplorer(nk.NO_CELLS, model, targets, current), 2)
        return
    cells = nk.cells_of(Lab("laptop").measure("figure_4"))
    yield moved("N and K", nk.NKExplorer(cells, model, targets, current))
    sources = list(load_source_samples(current, progress=False).values())
    yield moved("layers", layer_explorer(model, targets, sources, current))
    target = next(iter(targets.values()))
    split, data = target.splits[0], target.data
    sides = split.probe, split.gallery
    adapted = adapt(model, data.images[split.gallery], current).model
    rankings = [top_gallery(*(embed(m, data.images[side])[0] for side in sides),
                            *(kind[side] for kind in (data.pids, data.camids) for side in sides), 10,
                            current.normalise_features) for m in (model, adapted)]
    yield moved("retrieval", retrieval_explorer(target, split, *rankings))


if __name__ == "__main__":
    common.main(__doc__, rows)
