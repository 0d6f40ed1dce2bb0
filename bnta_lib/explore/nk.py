"""N and K explorer: what is measured of N, K and momentum, the pairs themselves, a run while one waits.

A *cell* is one measured setting: target, split, N, K and momentum, with its scores (per cent) and the
seconds of features, pairing and steps. Cells are handed in; nothing is measured here but by the button.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import ipywidgets as W
import pandas as pd
import torch
from torch import Tensor

from bnta_lib.adaption import adapt
from bnta_lib.data.sets import Target
from bnta_lib.explore.widgets import RELEASED, WIDE, with_still
from bnta_lib.figures.adaption import example_pairs, pairs_figure
from bnta_lib.figures.base import METRICS, picture
from bnta_lib.figures.grid import PAPERS, nk_figure
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import ROOT, Settings
from bnta_lib.suite.choices import CHOICES
from bnta_lib.suite.experiments import sample_of, score
from bnta_lib.suite.grid import PARTS

KEYS = ["target", "split", "N", "K", "momentum"]  # N = K = 0 and momentum NaN: no adaption
COLUMNS = [*KEYS, *METRICS, "seconds", "live"]
MOMENTA = [value.place for value in CHOICES["momentum"].values]


class Cancelled(Exception):
    """A live run was stopped by its user; nothing of it is kept."""


def cells_of(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A cell (COLUMNS) a row, of tidy rows with N and K; without a column momentum it is that of ``settings``."""
    rows = rows[rows["seed"] == 0]
    momentum = rows["momentum"] if "momentum" in rows else settings.tta_momentum
    rows = rows.assign(momentum=pd.Series(momentum, rows.index).where(rows["N"] > 0))
    table = rows.pivot_table(index=KEYS, columns="metric", values="value", dropna=False, observed=True)
    table = table.dropna(how="all").reindex(columns=[*METRICS, *PARTS]).reset_index()
    table["seconds"] = table[list(PARTS)].sum(axis=1, skipna=False)
    return table.assign(live=False)[COLUMNS].rename_axis(columns=None)


def recorded_cells(model: BNTANet, targets: Mapping[str, Target], settings: Settings) -> pd.DataFrame:
    """Cells of the rows recorded with the suite, if they are of this model and these targets; else none.

    They are if its scores without adaption are those recorded, but for a probe or two.
    """
    path = ROOT / "data" / "results" / f"{settings.profile}.csv.gz"
    rows = pd.read_csv(path, low_memory=False) if path.is_file() else pd.DataFrame(columns=["dataset", "seed"])
    rows = rows[rows["dataset"].isin(list(targets)) & (rows["seed"] == 0)].rename(columns={"dataset": "target"})
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS).astype({"live": bool})
    whole = rows["target"].map({name: min(len(s.gallery) for s in t.splits) for name, t in targets.items()})
    words = rows["setting"].str.extract(
        r"^training bnta, adaption (?P<kind>none|bnta)(?:, N=(?P<N>\d+))?(?:, K=(?P<K>\d+))?"
        r"(?:, tta_momentum=(?P<momentum>[\d.]+))?$")
    numbers = words[["N", "K", "momentum"]].astype(float)
    n = numbers["N"].fillna(whole).where(words["kind"] == "bnta", 0)
    k = numbers["K"].fillna((n // 2).clip(upper=settings.K)).where(words["kind"] == "bnta", 0)
    rows = rows.assign(N=n.astype(int), K=k.astype(int), momentum=numbers["momentum"].fillna(settings.tta_momentum))
    cells = cells_of(rows[words["kind"].notna() & (rows["experiment"] == "retrieval")], settings)
    for name, target in targets.items():
        frozen, now = find(cells, name, 0, 0, 0), score(model, target, target.splits[0], settings).row()
        if frozen is None or any(abs(frozen[metric] - now[metric]) > 0.5 for metric in METRICS):
            cells = cells[cells["target"] != name]
    return cells.reset_index(drop=True)


def overlaid(*tables: pd.DataFrame) -> pd.DataFrame:
    """Cells of all tables, a setting's from the first that has it."""
    return pd.concat([t for t in tables if len(t)] or tables[:1]).drop_duplicates(KEYS, ignore_index=True)


def find(
    cells: pd.DataFrame, target: str, split: int, n: int, k: int, momentum: float = math.nan
) -> pd.Series | None:
    """The cell of this setting, the latest live one first; None if it is not measured."""
    rows = cells[(cells["target"] == target) & (cells["split"] == split) & (cells["N"] == n) & (cells["K"] == k)]
    if n:
        rows = rows[(rows["momentum"] - momentum).abs() < 1e-9]
    return rows.sort_values("live", kind="stable").iloc[-1] if len(rows) else None


def curves(cells: pd.DataFrame, target: str, split: int, momentum: float, fixed: str, value: int) -> dict:
    """Cells at one N, along K, or (``fixed`` "K") at one K, along N: those of the split, the mean of all
    splits that have the setting, and those that were run by hand on the split."""
    along = "K" if fixed == "N" else "N"
    rows = cells[(cells["target"] == target) & (cells[fixed] == value) & (cells["N"] > 0)
                 & ((cells["momentum"] - momentum).abs() < 1e-9)].sort_values(along)
    live = rows["live"].astype(bool)
    stored, of_split = rows[~live], rows["split"] == split
    return {"this split": rows[~live & of_split], "run by hand": rows[live & of_split],
            "mean of splits": stored.groupby(along, as_index=False)[[*METRICS, "seconds"]].mean()}


def sizes(cells: pd.DataFrame, target: str, gallery: int, n: int | None = None, free: bool = False) -> list[int]:
    """Values of N to choose from, or with ``n`` those of K, never with 2K > N.

    Those measured; all if ``free``, or if none is.
    """
    rows = cells[(cells["target"] == target) & (cells["N"] > 0) & ~cells["live"].astype(bool)]
    measured, low, high = (rows["N"], 4, gallery) if n is None else (rows.loc[rows["N"] == n, "K"], 2, n // 2)
    every = range(low, high + 1)
    return list(every) if free or measured.empty else sorted({int(v) for v in measured if v <= high})


class PairBook:
    """Pairs of Algorithm 1 under the frozen model: features once a target, pairs once a sample."""

    def __init__(self, model: BNTANet, targets: Mapping[str, Target]):
        self.targets, self._pairs = dict(targets), {}
        self._local = {name: embed(model, target.data.images)[1] for name, target in targets.items()}

    def sample(self, target: str, split: int, n: int) -> Tensor:
        """Rows of the target's images that are adapted on, as the pairs index them."""
        return sample_of(self.targets[target].splits[split], n)

    def pairs(self, target: str, split: int, n: int, k: int) -> Pairs:
        """The K closest pairs of the sample."""
        if (target, split, n) not in self._pairs:
            local = self._local[target][self.sample(target, split, n)]
            self._pairs[target, split, n] = nearest_pairs(local, n // 2)
        return self._pairs[target, split, n].first(k)


def run_live(
    model: BNTANet, target: Target, split: int, settings: Settings, n: int, k: int, momentum: float,
    tick: Callable[[str, float], None] = lambda stage, share: None,
) -> dict:
    """Adapt on N images with K pairs and this momentum (seed 0), evaluate; a cell (see COLUMNS).

    ``tick(stage, share)`` is called at every batch with what is done of the whole (0 to 1); what
    it raises (:class:`Cancelled`) stops the run there. The model given is left untouched.
    """
    settings, parts = replace(settings, tta_momentum=momentum), target.splits[split]
    images, both = (target.data.images[rows] for rows in (sample_of(parts, n), torch.cat([parts.probe, parts.gallery])))
    steps = math.ceil(k / settings.tta_batch) * settings.tta_epochs
    done, total = 0, math.ceil(n / 64) + steps + math.ceil(len(both) / 64)

    def before(stage: str) -> None:
        nonlocal done
        tick(stage, done / total)
        done += 1

    def embedded(net: BNTANet, images: Tensor, stage: str) -> tuple[Tensor, ...]:
        chunks = []
        for chunk in images.split(64):
            before(stage)
            chunks.append(embed(net, chunk))
        return tuple(torch.cat(parts) for parts in zip(*chunks))

    start = time.perf_counter()
    pairs = nearest_pairs(embedded(model, images, "features")[1], k)
    adapted = adapt(model, images, settings, K=k, pairs=pairs, seed=0, on_step=lambda *_: before("steps")).model
    seconds = time.perf_counter() - start
    features = torch.empty(len(target.data), adapted.bnneck.num_features)
    features[torch.cat([parts.probe, parts.gallery])] = embedded(adapted, both, "evaluation")[0]
    scores = score(adapted, target, parts, settings, features).row()
    tick("done", 1.0)
    return {"target": target.data.name, "split": split, "N": n, "K": k, "momentum": momentum, **scores,
            "seconds": seconds, "live": True}


def numbers(cells: pd.DataFrame, target: str, split: int, n: int, k: int, momentum: float) -> str:
    """What is known of a setting, in one line."""
    place = f"{target}, split {split}: N = {n}, K = {k}, momentum {momentum:g}"
    cell, frozen = find(cells, target, split, n, k, momentum), find(cells, target, split, 0, 0)
    if cell is None:
        return f"{place}: not measured; Run adapts with it now"
    scores = [f"{METRICS[metric]} {cell[metric]:.1f} %"
              + (f" ({cell[metric] - frozen[metric]:+.1f} points)" if frozen is not None else "")
              for metric in ("R1", "mAP")]
    return f"{place}: {', '.join(scores)}, {cell['seconds']:.1f} s; {'run just now' if cell['live'] else 'stored'}"


class NKExplorer(W.VBox):
    """See :func:`nk_explorer`. ``cells`` is what is measured, with what was run by hand."""

    def __init__(self, cells: pd.DataFrame, model: BNTANet, targets: Mapping[str, Target], settings: Settings):
        self.cells, self.model, self.settings, self.book = cells, model, settings, PairBook(model, targets)
        self.thread: threading.Thread | None = None
        self._cancelled, self._shown = threading.Event(), None
        first = PAPERS if PAPERS in targets else next(iter(targets))
        self.target = W.Dropdown(description="target", options=list(targets), value=first, **WIDE)
        self.split, self.N, self.K = (W.SelectionSlider(description=name, options=[0], **RELEASED)
                                      for name in ("split", "N", "K"))
        self.momentum = W.SelectionSlider(
            description="momentum", options=[(f"{m:g}", m) for m in sorted({*MOMENTA, settings.tta_momentum})],
            value=settings.tta_momentum, **RELEASED)
        self.metric = W.Dropdown(description="metric", options=[(METRICS[m], m) for m in ("R1", "mAP")], **WIDE)
        self.free = W.Checkbox(description="any N and K, not only those measured", indent=False)
        self.run = W.Button(description="Run", button_style="primary", icon="play")
        self.cancel = W.Button(description="Cancel", icon="stop", disabled=True)
        self.progress = W.FloatProgress(min=0, max=1, description="live run", **WIDE)
        self.status, self.numbers, self.errors = W.HTML(), W.HTML(), W.Output()
        self.curves, self.couples = W.Image(format="png"), W.Image(format="jpeg")
        left = W.VBox([self.target, self.split, self.N, self.K, self.momentum])
        right = W.VBox([self.metric, self.free, W.HBox([self.run, self.cancel]), self.progress, self.status])
        super().__init__([W.HBox([left, right]), self.numbers, self.errors, self.curves, self.couples])
        self.add_class("bnta-explorer")
        capture = self.errors.capture(clear_output=True)
        for control, callback in ((self.target, self.on_target), (self.free, self.on_target), (self.N, self.on_n)):
            control.observe(capture(callback), "value")
        for control in (self.split, self.K, self.momentum, self.metric):
            control.observe(capture(lambda change: self.draw()), "value")
        self.run.on_click(capture(self.on_run))
        self.cancel.on_click(lambda button: self._cancelled.set())
        self.on_target()

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return with_still(super()._repr_mimebundle_(**kwargs), self._still)

    def setting(self) -> tuple[str, int, int, int, float]:
        """Target, split, N, K and momentum that the controls stand at."""
        return self.target.value, self.split.value, self.N.value, self.K.value, self.momentum.value

    def on_target(self, change=None) -> None:
        """Other splits and sizes; at a new target N and K go to the whole gallery and the paper's K."""
        splits, fresh = self.book.targets[self.target.value].splits, change is None or change["owner"] is self.target
        gallery = min(len(split.gallery) for split in splits)
        n, k = (gallery, self.settings.K) if fresh else (self.N.value, self.K.value)
        self._shown = ()  # nothing is drawn in between
        self.split.options = range(len(splits))
        _offer(self.N, sizes(self.cells, self.target.value, gallery, free=self.free.value), n)
        self._shown = None
        self.on_n(k=k)

    def on_n(self, change=None, k: int | None = None) -> None:
        """The K slider's range follows N: never 2K > N."""
        if self._shown == ():
            return
        k, self._shown = self.K.value if k is None else k, ()
        _offer(self.K, sizes(self.cells, self.target.value, 0, self.N.value, self.free.value), k)
        self._shown = None
        self.draw()

    def draw(self) -> None:
        """The curves and the pairs of the setting, unless they are shown already."""
        shown = *self.setting(), self.metric.value, len(self.cells)
        if self._shown in ((), shown):
            return
        (target, split, n, k, momentum), metric = self.setting(), self.metric.value
        at_n, at_k = (curves(self.cells, target, split, momentum, fixed, value) for fixed, value in (("N", n), ("K", k)))
        frozen, pairs = find(self.cells, target, split, 0, 0), self.book.pairs(target, split, n, k)
        figure = nk_figure(at_n, at_k, n, k, find(self.cells, *self.setting()),
                           None if frozen is None else frozen[metric], metric)
        images = self.book.targets[target].data.images[self.book.sample(target, split, n)]
        self.numbers.value = f'<div class="bnta-numbers">{numbers(self.cells, *self.setting())}</div>'
        self._still = picture(figure, f"{METRICS[metric]} and seconds along K and along N, on {target}", trim=False)
        self.curves.value = self._still.data
        self.couples.value = picture(pairs_figure(images, pairs, self.settings, example_pairs(k, 6, 6)), trim=False).data
        self._shown = shown

    def on_run(self, button=None) -> None:
        """Adapt with the setting on a thread; sliders go on answering meanwhile."""
        self._cancelled.clear()
        self.run.disabled, self.cancel.disabled, self.progress.value = True, False, 0
        self.thread = threading.Thread(target=self._work, args=self.setting(), daemon=True)
        self.thread.start()

    def _work(self, target: str, split: int, n: int, k: int, momentum: float) -> None:
        def tick(stage: str, share: float) -> None:
            if self._cancelled.is_set():
                raise Cancelled
            self.progress.value, self.status.value = share, f"{stage} ..."

        try:
            cell = run_live(self.model, self.book.targets[target], split, self.settings, n, k, momentum, tick)
            self.cells = pd.concat([self.cells, pd.DataFrame([cell | {"target": target}])], ignore_index=True)
            self.status.value = f"done: the star at N = {n}, K = {k}"
            self.draw()
        except Cancelled:
            self.status.value = "cancelled, nothing was added"
        except Exception as error:
            self.status.value = f'<b class="bnta-error">failed: {type(error).__name__}</b>'
            self.errors.append_stderr(f"{error}\n")
        finally:
            self.run.disabled, self.cancel.disabled = False, True


def _offer(slider: W.SelectionSlider, options: list[int], wanted: int) -> None:
    """Give a slider other options; it goes to the one nearest to ``wanted``."""
    slider.options = options
    slider.value = min(options, key=lambda option: (abs(option - wanted), option))


def nk_explorer(
    cells: pd.DataFrame, model: BNTANet, targets: Mapping[str, Target], settings: Settings
) -> NKExplorer:
    """Sliders for N, K, target, split and momentum over measured ``cells``, and a button to measure others.

    Embeds all targets once. Cells come from :func:`cells_of` and :func:`recorded_cells`.
    """
    return NKExplorer(cells, model, targets, settings)
