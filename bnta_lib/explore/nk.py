"""N and K explorer: what is measured of N, K and momentum, the pairs themselves, a run while one waits.

A *cell* is one measured setting: target, split, N, K and momentum, with its scores (per cent) and the
seconds of features, pairing and steps. Cells come from rows that are already there and are looked up:
nothing is measured here but in :func:`run_live`.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.adaption import adapt
from bnta_lib.suite.choices import CHOICES
from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import Bench, Run, run_rows, sample_of, score
from bnta_lib.suite.grid import NONE, PARTS, grid_runs
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, check_sizes, nearest_pairs
from bnta_lib.settings import ROOT, Settings

METRICS = ("R1", "R5", "R10", "mAP")
KEYS = ["target", "split", "N", "K", "momentum"]  # N = K = 0 and momentum NaN: no adaption
COLUMNS = [*KEYS, *METRICS, "seconds", "live"]


class Cancelled(Exception):
    """A live run was stopped by its user; nothing of it is kept."""


# ---------------------------------------------------------------- what is measured


def cells_of(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Cells of rows of :func:`bnta_lib.suite.grid.grid_rows`, a row a cell: COLUMNS, all ``live`` False.

    ``rows`` may have a column ``momentum``; without one it is that of ``settings``.
    """
    own = rows[rows["seed"] == 0]
    if "momentum" not in own:
        own = own.assign(momentum=settings.tta_momentum)
    own = own.assign(momentum=own["momentum"].where(own["N"] > 0))
    table = own.pivot_table(index=KEYS, columns="metric", values="value", dropna=False, observed=True)
    table = table.dropna(how="all").reindex(columns=[*METRICS, *PARTS]).reset_index()
    table["seconds"] = table[list(PARTS)].sum(axis=1, skipna=False)
    return table.assign(live=False)[COLUMNS].rename_axis(columns=None)


def momentum_runs() -> dict[float, Run]:
    """The runs of :mod:`bnta_lib.suite.choices` that differ in momentum alone: N and K at their defaults."""
    return {value.place: value.run for value in CHOICES["momentum"].values}


def known_cells(
    model: BNTANet, targets: Mapping[str, Target], settings: Settings
) -> pd.DataFrame:
    """Cells of the grid and of the momenta that the results store has for this very model and data.

    Measures nothing: a setting that is not known on every split of a target is left out.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]
    for name, target in targets.items():
        smallest = min(len(split.gallery) for split in target.splits)
        runs = {NONE.method: (NONE, 0, 0, math.nan)}
        for run in grid_runs(smallest, settings.K):
            n, k = map(int, re.findall(r"\d+", run.method))
            own = replace(run, sample=run.sample or smallest)
            runs[run.method] = own, n, k, settings.tta_momentum
        for momentum, run in momentum_runs().items():
            if momentum != settings.tta_momentum:
                own = replace(run, sample=smallest, method=f"momentum {momentum:g}")
                runs[own.method] = own, smallest, min(settings.K, smallest // 2), momentum
        bench = Bench(tuple(run for run, *_ in runs.values()), {"bnta": model}, {name: target}, settings)
        known = [run for number, run in enumerate(bench.runs)
                 if all(bench.known((name, number, split, 0)) for split in range(len(target.splits)))]
        if known:
            rows = run_rows("figure_4", known, {"bnta": model}, {name: target}, settings, 1, False)
            about = pd.DataFrame([(m, *rest) for m, (_, *rest) in runs.items()],
                                 columns=["method", "N", "K", "momentum"])
            tables.append(cells_of(rows.merge(about, on="method"), settings))
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def exported_cells(targets: Mapping[str, Target], settings: Settings) -> pd.DataFrame:
    """Cells of the rows that are committed with the suite (``data/results/<profile>.csv.gz``).

    They speak of the committed weights and the embedded targets; :func:`belongs` says whether a
    model is theirs. Raises FileNotFoundError where the profile has none.
    """
    path = ROOT / "data" / "results" / f"{settings.profile}.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"no rows are committed for the profile {settings.profile!r}: run "
                                "10_figure_4 at it first, or press Run at a setting")
    rows = pd.read_csv(path, low_memory=False)
    rows = rows[(rows["experiment"] == "retrieval") & (rows["seed"] == 0)
                & rows["dataset"].isin(list(targets))].rename(columns={"dataset": "target"})
    words = rows["setting"].str.extract(
        r"^training bnta, adaption (?P<kind>none|bnta)(?:, N=(?P<N>\d+))?(?:, K=(?P<K>\d+))?"
        r"(?:, tta_momentum=(?P<momentum>[\d.]+))?$")
    rows = pd.concat([rows.drop(columns="momentum", errors="ignore"), words], axis=1)
    rows = rows[rows["kind"].notna()]
    whole = rows["target"].map({n: min(len(s.gallery) for s in t.splits) for n, t in targets.items()})
    rows["N"] = rows["N"].astype(float).fillna(whole)
    rows["K"] = rows["K"].astype(float).fillna((rows["N"] // 2).clip(upper=settings.K))
    rows["momentum"] = rows["momentum"].astype(float).fillna(settings.tta_momentum)
    rows.loc[rows["kind"] == "none", ["N", "K"]] = 0
    rows[["N", "K"]] = rows[["N", "K"]].astype(int)
    return cells_of(rows, settings)


def belongs(
    cells: pd.DataFrame, target: str, split: int, scores: Mapping[str, float], room: float = 0.5
) -> bool:
    """Whether cells are of this model: its scores without adaption are those of the cells.

    ``room`` (points) is for the last bits of features, which may turn a probe or two.
    """
    cell = find(cells, target, split, 0, 0, math.nan)
    return cell is not None and all(abs(cell[m] - scores[m]) <= room for m in METRICS)


def find(
    cells: pd.DataFrame, target: str, split: int, n: int, k: int, momentum: float
) -> pd.Series | None:
    """The cell of this setting, the latest live one first; None where it is not measured."""
    own = cells[(cells["target"] == target) & (cells["split"] == split) & (cells["N"] == n)
                & (cells["K"] == k)]
    if n:
        own = own[(own["momentum"] - momentum).abs() < 1e-9]
    return own.sort_values("live", kind="stable").iloc[-1] if len(own) else None


def curve(
    cells: pd.DataFrame, target: str, momentum: float, *, split: int | None = None,
    n: int | None = None, k: int | None = None,
) -> pd.DataFrame:
    """Stored cells of a target along K (``n`` given) or along N (``k`` given), in order.

    Of one split, or (``split`` None) the mean over all splits that have the setting.
    """
    if (n is None) == (k is None):
        raise ValueError("a curve goes along K at one N, or along N at one K: give one of them")
    fixed, along = ("N", "K") if n is not None else ("K", "N")
    own = cells[(cells["target"] == target) & ~cells["live"].astype(bool) & (cells["N"] > 0)
                & (cells[fixed] == (n if n is not None else k))
                & ((cells["momentum"] - momentum).abs() < 1e-9)]
    if split is not None:
        return own[own["split"] == split].sort_values(along)
    values = [*METRICS, "seconds"]
    return own.groupby(along, as_index=False)[values].mean().sort_values(along)


def sizes(cells: pd.DataFrame, target: str, gallery: int, free: bool = False) -> list[int]:
    """Values of N to choose from: those measured, or (``free``, or where none is) all from 4 on."""
    measured = cells[(cells["target"] == target) & (cells["N"] > 0) & ~cells["live"].astype(bool)]["N"]
    if free or measured.empty:
        return list(range(4, gallery + 1))
    return sorted({int(n) for n in measured if n <= gallery})


def pair_choices(cells: pd.DataFrame, target: str, n: int, free: bool = False) -> list[int]:
    """Values of K to choose from at this N, never with 2K > N: those measured, or all from 2 on."""
    measured = cells[(cells["target"] == target) & (cells["N"] == n) & ~cells["live"].astype(bool)]["K"]
    if free or measured.empty:
        return list(range(min(2, n // 2), n // 2 + 1))
    return sorted({int(k) for k in measured if 2 * k <= n})


def nearest(values: list, wanted: float):
    """The value closest to ``wanted`` (the smaller of two as close)."""
    return min(values, key=lambda value: (abs(value - wanted), value))


# ---------------------------------------------------------------- the pairs themselves


class PairBook:
    """Pairs of Algorithm 1 under the frozen model: features once a target, pairs once a sample."""

    def __init__(self, model: BNTANet, targets: Mapping[str, Target], settings: Settings):
        self.model, self.targets, self.settings = model, dict(targets), settings
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._pairs: dict[tuple, Pairs] = {}

    def features(self, target: str) -> tuple[Tensor, Tensor]:
        """Global (N, C) and local (N, H, C_l) features of a whole target; embedded at first use."""
        if target not in self._features:
            self._features[target] = embed(self.model, self.targets[target].data.images)
        return self._features[target]

    def images(self, target: str, split: int, n: int) -> Tensor:
        """The N images that are adapted on: uint8 (N, 3, h, w), as the pairs index them."""
        own = self.targets[target]
        return own.data.images[self._sample(target, split, n)]

    def pairs(self, target: str, split: int, n: int, k: int) -> Pairs:
        """The K closest pairs of the sample. Raises ValueError for 2K > N."""
        check_sizes(n, k)
        key = target, split, n
        if key not in self._pairs:
            local = self.features(target)[1][self._sample(target, split, n)]
            self._pairs[key] = nearest_pairs(local, n // 2)
        return self._pairs[key].first(k)

    def prepare(self, cells: pd.DataFrame, progress: bool = True) -> None:
        """Features of all targets, and the pairs of every sample that ``cells`` knows of."""
        for name in self.targets:
            self.features(name)
        known = cells.loc[cells["N"] > 0, ["target", "split", "N"]].drop_duplicates()
        for name, split, n in tqdm(known.itertuples(index=False), total=len(known), unit="sample",
                                   desc="pairs", disable=not progress):
            self.pairs(name, int(split), int(n), 1)

    def frozen_scores(self, target: str, split: int) -> dict[str, float]:
        """Scores without adaption, per cent."""
        own = self.targets[target]
        return score(self.model, own, own.splits[split], self.settings, self.features(target)[0]).row()

    def _sample(self, target: str, split: int, n: int) -> Tensor:
        return sample_of(self.targets[target].splits[split], n)


def shown_pairs(k: int, each: int) -> dict[str, list[int]]:
    """Which of K pairs to show: the ``each`` closest and, where there are more, the ``each`` last."""
    rows = {"closest": list(range(min(each, k)))}
    if k > each:
        rows["last of\nthe K"] = list(range(max(each, k - each), k))
    return rows


# ---------------------------------------------------------------- a run while one waits


def run_live(
    model: BNTANet,
    target: Target,
    split: int,
    settings: Settings,
    n: int,
    k: int,
    momentum: float,
    tick: Callable[[str, float], None] = lambda stage, share: None,
) -> dict:
    """Adapt on N images with K pairs and this momentum (seed 0), evaluate; a cell (see COLUMNS).

    ``tick(stage, share)`` is called after every batch that passes through the network, with what is
    done of the whole (0 to 1); what it raises (:class:`Cancelled`) stops the run there. The model
    given is left untouched. Raises what :func:`bnta_lib.adaption.adapt` raises.
    """
    check_sizes(n, k)
    own, chosen = replace(settings, tta_momentum=momentum), target.splits[split]
    images = target.data.images[sample_of(chosen, n)]
    both = len(chosen.probe) + len(chosen.gallery)
    steps = math.ceil(k / own.tta_batch) * own.tta_epochs
    # A step also goes backwards, on 2 * tta_batch images: about three batches of embed().
    weights = {"features": math.ceil(n / 64), "steps": 3 * steps, "evaluation": math.ceil(both / 64)}
    each = {"features": 1, "steps": 3, "evaluation": 1}
    stage, done, total = "features", 0.0, sum(weights.values())

    def passed(*_) -> None:
        nonlocal done
        done += each[stage]
        tick(stage, min(done / total, 1.0))

    watched = copy.deepcopy(model)
    watched.backbone.register_forward_hook(passed)  # copies of the model keep it
    start = time.perf_counter()
    local = embed(watched, images)[1]
    tick("pairing", min(done / total, 1.0))
    pairs = nearest_pairs(local, k)
    stage = "steps"
    result = adapt(watched, images, own, K=k, pairs=pairs, seed=0)
    seconds = time.perf_counter() - start
    stage = "evaluation"
    scores = score(result.model, target, chosen, own).row()
    tick("done", 1.0)
    return {"target": target.data.name, "split": split, "N": n, "K": k, "momentum": momentum, **scores,
            "seconds": seconds, "live": True}


# ---------------------------------------------------------------- in words


def sentence(
    cells: pd.DataFrame, target: str, split: int, n: int, k: int, momentum: float, metric: str = "R1"
) -> str:
    """What is known of a setting, in one line; says so where nothing is."""
    where = f"{target}, split {split}: N = {n}, K = {k}, momentum {momentum:g}"
    cell = find(cells, target, split, n, k, momentum)
    frozen = find(cells, target, split, 0, 0, math.nan)
    names = {"R1": "rank 1", "R5": "rank 5", "R10": "rank 10", "mAP": "mAP"}
    if cell is None:
        return f"{where}: not measured here. Press Run to adapt with it now."
    values = []
    for name in dict.fromkeys((metric, "R1", "mAP")):
        text = f"{names[name]} {cell[name]:.1f} %"
        if frozen is not None:
            change = round(cell[name] - frozen[name], 1) + 0.0
            text += f" ({change:+.1f} points against no adaption)"
        values.append(text)
    took = f"; adaption took {cell['seconds']:.1f} s" if not math.isnan(cell["seconds"]) else ""
    return f"{where}: {', '.join(values)}{took}; {'run just now' if cell['live'] else 'stored'}."
