"""The explorer of N and K: measured cells, the pairs themselves, and runs by hand with any momentum.

A *cell* is one measured setting with its scores (per cent) and the seconds of the adaption. The caller gives
the cells. Only the button measures others.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import ipywidgets as W
import pandas as pd
import torch

from bnta_lib.adaption import adapt
from bnta_lib.data.sets import Target
from bnta_lib.explore.figures import RELEASED, WIDE, Explorer, Shown, reporting
from bnta_lib.figures.base import METRICS, element
from bnta_lib.figures.photos import pairs_figure, photo_page
from bnta_lib.figures.results import PAPERS, NKFigure
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import Settings
from bnta_lib.suite.runner import score
from bnta_lib.suite.samples import sample_of
from bnta_lib.suite.sweeps import STAGES

KEYS = ["target", "split", "N", "K", "momentum"]  # N = K = 0 and momentum NaN: no adaption
COLUMNS = [*KEYS, *METRICS, "seconds", "live"]
NO_PAIRS = Pairs(torch.empty(0, 2).long(), torch.empty(0).long(), torch.empty(0).double())
MOMENTA = (0, 0.01, 0.05, 0.1, 0.3, 1)


class Cancelled(Exception):
    """A live run was stopped by its user; nothing of it is kept."""


def cells_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Cells (COLUMNS) of rows of ``lab.measure("figure_4")``, or of others of adaption seed 0."""
    table = rows.groupby([*KEYS, "metric"], dropna=False)["value"].last().unstack("metric")
    table = table.reindex(columns=[*METRICS, *STAGES]).reset_index()
    table["seconds"] = table[list(STAGES)].sum(axis=1, skipna=False)
    return table.assign(live=False)[COLUMNS].rename_axis(columns=None)


def find(cells: pd.DataFrame, target: str, split: int, n: int, k: int,
         momentum: float = math.nan) -> pd.Series | None:
    """The cell of this setting, the latest live one first; None if it is not measured."""
    rows = cells[(cells[KEYS[:4]] == [target, split, n, k]).all(axis=1)]
    rows = rows[(rows["momentum"] - momentum).abs() < 1e-9] if n else rows
    return rows.sort_values("live", kind="stable").iloc[-1] if len(rows) else None


def curves(cells: pd.DataFrame, target: str, split: int, momentum: float, fixed: str, value: int) -> dict:
    """Cells at one N, along K, or (``fixed`` "K") at one K, along N: of the split, the mean of all splits
    that have the setting, and those that were run by hand on the split."""
    along = "K" if fixed == "N" else "N"
    rows = cells[(cells["target"] == target) & (cells[fixed] == value) & (cells["N"] > 0)
                 & ((cells["momentum"] - momentum).abs() < 1e-9)].sort_values(along)
    live, of_split = rows["live"].astype(bool), rows["split"] == split
    return {"this split": rows[~live & of_split], "run by hand": rows[live & of_split],
            "mean of splits": rows[~live].groupby(along, as_index=False)["R1"].mean()}


def sizes(cells: pd.DataFrame, target: str, gallery: int, n: int | None = None,
          free: bool = False) -> list[int]:
    """Values of N to choose from, or with ``n`` those of K, never with 2K > N: those measured; all if
    ``free``, or if none is."""
    rows = cells[(cells["target"] == target) & (cells["N"] > 0) & ~cells["live"].astype(bool)]
    measured, low, high = (rows["N"], 4, gallery) if n is None else (rows.loc[rows["N"] == n, "K"], 2, n // 2)
    measured = sorted({int(v) for v in measured if v <= high})
    return list(range(low, high + 1)) if free or not measured else measured


def run_live(model: BNTANet, target: Target, split: int, settings: Settings, n: int, k: int, momentum: float,
             tick: Callable[[str, float], None] = lambda stage, share: None) -> dict:
    """Adapt on N images with K pairs and this momentum (seed 0), evaluate; a cell (see COLUMNS).

    ``tick`` gets each stage and the share that is done; what it raises (:class:`Cancelled`) stops the run.
    """
    settings, parts = replace(settings, tta_momentum=momentum), target.splits[split]
    steps = math.ceil(k / settings.tta_batch) * settings.tta_epochs
    tick("pairs", 0.0)
    start = time.perf_counter()
    adapted = adapt(model, target.data.images[sample_of(parts, n)], settings, K=k, seed=0,
                    on_step=lambda step, *_: tick("steps", 0.1 + 0.7 * step / steps)).model
    seconds = time.perf_counter() - start
    tick("evaluation", 0.8)
    scores = score(adapted, target, parts, settings).row()
    tick("done", 1.0)
    return {"target": target.data.name, "split": split, "N": n, "K": k, "momentum": momentum, **scores,
            "seconds": seconds, "live": True}


def numbers(cell: pd.Series | None, frozen: pd.Series | None, target: str, split: int, n: int, k: int,
            momentum: float) -> str:
    """What is known of a setting, in one line; ``cell`` and ``frozen``: as :func:`find` returns them."""
    place = f"{target}, split {split}: N = {n}, K = {k}, momentum {momentum:g}"
    if cell is None:
        return f"{place}: not measured; Run adapts with it now"
    gains = {m: "" if frozen is None else f" ({cell[m] - frozen[m]:+.1f} points)" for m in ("R1", "mAP")}
    scores = ", ".join(f"{METRICS[m]} {cell[m]:.1f} %{gain}" for m, gain in gains.items())
    return f"{place}: {scores}, {cell['seconds']:.1f} s; {'run just now' if cell['live'] else 'stored'}"


class NKExplorer(Explorer):
    """Sliders for N, K, target, split and momentum over measured cells, and a button to measure others.

    ``cells``: of :func:`cells_of`; a run by hand is added. A target is embedded when it is first shown.
    """

    def __init__(self, cells: pd.DataFrame, model: BNTANet, targets: Mapping[str, Target],
                 settings: Settings):
        self.cells, self.model, self.targets, self.settings = cells, model, dict(targets), settings
        self.local = lru_cache(lambda target: embed(model, targets[target].data.images)[1])
        self.figure, self.known = lru_cache(NKFigure), {}
        self.cancelled, self.offering, self.thread = threading.Event(), False, None
        self.drawing = threading.Lock()  # a run may end while a slider moves
        self.target = W.Dropdown(description="target", options=list(targets), **WIDE)
        self.target.value = PAPERS if PAPERS in targets else self.target.value
        self.split, self.N, self.K = (W.SelectionSlider(description=name, options=[0], **RELEASED)
                                      for name in ("split", "N", "K"))
        momenta = [(f"{m:g}", m) for m in sorted({*MOMENTA, settings.tta_momentum})]
        self.momentum = W.SelectionSlider(description="momentum", options=momenta,
                                          value=settings.tta_momentum, **RELEASED)
        self.free = W.Checkbox(description="any N and K, not only those measured", indent=False)
        self.run = W.Button(description="Run", button_style="primary", icon="play")
        self.cancel = W.Button(description="Cancel", icon="stop", disabled=True)
        self.status = W.HTML()
        super().__init__(self.show, target=self.target, split=self.split, n=self.N, k=self.K,
                         momentum=self.momentum)
        sliders, buttons = self.controls.values(), [self.free, W.HBox([self.run, self.cancel]), self.status]
        self.children = [W.HBox([W.VBox([*sliders]), W.VBox(buttons)]), self.errors, self.shown]
        self.free.observe(reporting(self.errors, self.draw), "value")
        self.run.on_click(reporting(self.errors, self.on_run))
        self.cancel.on_click(lambda button: self.cancelled.set())

    def draw(self, change=None) -> None:
        """Splits, N and K follow the target (to the whole gallery and the paper's K), K follows N."""
        if self.offering:
            return
        self.offering = True
        name, splits = self.target.value, self.targets[self.target.value].splits
        gallery = min(len(split.gallery) for split in splits)
        new = change is None or change["owner"] is self.target
        try:
            _offer(self.split, list(range(len(splits))), 0 if new else self.split.value)
            _offer(self.N, sizes(self.cells, name, gallery, free=self.free.value),
                   gallery if new else self.N.value)
            _offer(self.K, sizes(self.cells, name, gallery, self.N.value, self.free.value),
                   self.settings.K if new else self.K.value)
        finally:
            self.offering = False
        super().draw()

    def pairs(self, target: str, split: int, n: int, k: int) -> Pairs:
        """The setting's pairs, as rows of the target's images. Algorithm 1 is greedy: more pairs than are
        known are found among the images that the known ones leave."""
        sample = sample_of(self.targets[target].splits[split], n)
        known = self.known.get((target, split, n), NO_PAIRS)
        if k > len(known.index):
            kept = [column[:-1] for column in vars(known).values()]  # so that no less than 4 images are left
            rest = sample[~torch.isin(sample, kept[0])]
            more = nearest_pairs(self.local(target)[rest], k - len(kept[0]))
            added = rest[more.index], more.part, more.distance
            known = self.known[target, split, n] = Pairs(*map(torch.cat, zip(kept, added)))
        return known.first(k)

    def show(self, target: str, split: int, n: int, k: int, momentum: float) -> Shown:
        """The numbers, curves and pairs of the setting."""
        lines = (curves(self.cells, target, split, momentum, *fixed) for fixed in (("N", n), ("K", k)))
        cells = find(self.cells, target, split, n, k, momentum), find(self.cells, target, split, 0, 0)
        words = numbers(*cells, target, split, n, k, momentum)
        pairs = self.pairs(target, split, n, k)
        sheet = pairs_figure(self.targets[target].data.images, pairs, self.settings, 6, photo_page)
        with self.drawing:
            figure = self.figure(len(self.targets[target].splits[split].gallery))
            still = figure.picture(*lines, n, k, *cells, f"Curves along K and N; {words}")
        return words, element(still) + sheet, lambda: still

    def on_run(self, button=None) -> None:
        """Adapt with the setting on a thread; sliders go on answering meanwhile."""
        self.cancelled.clear()
        self.run.disabled, self.cancel.disabled = True, False
        work = reporting(self.status, self._work)
        setting = [control.value for control in self.controls.values()]
        self.thread = threading.Thread(target=work, args=setting, daemon=True)
        self.thread.start()

    def _work(self, target: str, split: int, n: int, k: int, momentum: float) -> None:
        def tick(stage: str, share: float) -> None:
            if self.cancelled.is_set():
                raise Cancelled
            self.status.value = f"{stage}: {share:.0%} done"

        try:
            cell = run_live(self.model, self.targets[target], split, self.settings, n, k, momentum, tick)
            self.cells = pd.concat([self.cells, pd.DataFrame([cell | {"target": target}])], ignore_index=True)
            super().draw()
            self.status.value = f"done: the star at N = {n}, K = {k}"
        except Cancelled:
            self.status.value = "cancelled, nothing was added"
        finally:
            self.run.disabled, self.cancel.disabled = False, True


def _offer(slider: W.SelectionSlider, options: list[int], wanted: int) -> None:
    """Give a slider other options; it goes to the one nearest to ``wanted``."""
    if list(slider.options) != options:
        slider.options = options
    slider.value = min(options, key=lambda option: (abs(option - wanted), option))
