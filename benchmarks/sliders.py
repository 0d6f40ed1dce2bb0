"""How long the explorers' callbacks take: ``python benchmarks/sliders.py``.

Every slider of every explorer is moved as a reader moves it, over its whole range and back. An explorer's row
is of its slowest control: the 95th percentile of what a move takes in Python, and beside it what the others
take. What the browser adds is not in it. The first visit of a target embeds it, and is named apart. Opening
is timed in a new process, from its start until K has moved.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

import common
import ipywidgets as W
import numpy as np
import pandas as pd
from common import Row

from bnta_lib import adapt, settings
from bnta_lib.data import load_source_samples, load_targets
from bnta_lib.evaluation import top_gallery
from bnta_lib.explore import nk
from bnta_lib.explore.camera import camera_explorer
from bnta_lib.explore.figures import layer_explorer, retrieval_explorer
from bnta_lib.model import embed
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.train import trained_model

MOVES = 24  # of each control, at most
OPENING = """
from bnta_lib.explore import nk
from bnta_lib.suite.lab import Lab
lab = Lab("laptop", progress=False)
explorer = nk.NKExplorer(nk.cells_of(lab.measure("figure_4")), lab.model(), lab.targets, lab.settings)
explorer.K.value = explorer.K.options[0]
"""
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


def move(control: W.Widget, value) -> float:
    """Move a control; the milliseconds that its callback takes."""
    return 1000 * common.seconds(partial(setattr, control, "value", value))


def moved(name: str, explorer, moves: int = MOVES, note: str = "") -> Row:
    """The row of one explorer. Each control goes back to where it was before the next is moved."""
    late = {}
    for control in controls(explorer):
        start = control.value
        late[control.description] = np.percentile([move(control, v) for v in positions(control, moves)], 95)
        control.value = start
    slowest = max(late, key=late.get)
    return Row(f"explorer of {name}, its slowest slider", float(late[slowest]), "ms", goal="< 100 ms",
               note=f"95th percentile of each, ms: {listed(late)}{note}")


def listed(times: dict[str, float]) -> str:
    return ", ".join(f"{what} {ms:.0f}" for what, ms in times.items())


def openings() -> Iterator[Row]:
    """The explorer of N and K in a new process, until a slider has moved: with an empty cache, and again."""
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, [sys.executable, "-c", OPENING], check=True,
                      env={**os.environ, "BNTA_CACHE": folder})
        for when, goal in (("from an empty cache", "< 8 s"), ("again", "< 5 s")):
            yield Row(f"opening the explorer of N and K, {when}", common.seconds(run), "s", goal=goal,
                      note="an empty cache has its targets rendered, and its rows read, first")


def rows(device: str, quick: bool) -> Iterator[Row]:
    current = settings("smoke" if quick else "laptop")
    model = trained_model(current, progress=False)
    targets = load_targets(current, progress=False)
    if quick:
        yield moved("N and K", nk.NKExplorer(pd.DataFrame(columns=nk.COLUMNS), model, targets, current), 2)
        return
    yield from openings()
    cells = nk.cells_of(Lab("laptop").measure("figure_4"))
    explorer = nk.NKExplorer(cells, model, targets, current)
    shown = explorer.target.value
    visits = {name: move(explorer.target, name) for name in targets if name != shown}
    explorer.target.value = shown
    yield moved("N and K", explorer, note=f"; first visit: {listed(visits)}")
    explorer, visits = camera_explorer(model, targets, current), {}
    for control in controls(explorer):
        start = control.value
        visits[control.description] = max(move(control, value) for value in positions(control, MOVES))
        control.value = start
    yield moved("cameras", explorer, note=f"; first visits, the longest: {listed(visits)}")
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
