"""The measurements behind tables and figures: tidy rows, one a measured number, from the store.

Every table is a list of :class:`Run`, a row of it each, and :func:`run_rows` measures them on all
splits and seeds. What a run gives depends on the run alone and not on the table that asks, so that
a row which two tables share is measured once.
"""

from __future__ import annotations

import copy
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.adaption import LOSSES, adapt, pair_losses
from bnta_lib.adapters import adabn, tent
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.weights import QUANTITIES, Delta, load_bn_tensors
from bnta_lib.evaluation import Scores, evaluate
from bnta_lib.model import BNTANet, bn_layers, embed, embed_global
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.suite.store import held, keep, known, measured
from bnta_lib.settings import PROFILES, Settings
from bnta_lib.suite.shift import bn_moments, shift_by_layer, source_sample
from bnta_lib.suite.parallel import measure_all

ADAPTERS = ("none", "bnta", "adabn", "tent")


@dataclass(frozen=True)
class Run:
    """A row of a table: a training, and what is done with it at the target.

    Raises ValueError for an adapter that does not exist, or options that it does not take.
    """

    method: str  # the row's name in its table
    model: str = "bnta"  # the training: a key of the models given
    adapter: str = "bnta"  # one of ADAPTERS
    options: Mapping = field(default_factory=dict)  # keyword arguments of adapt()
    overrides: Mapping = field(default_factory=dict)  # settings that differ
    sample: int | None = None  # N: adapt on so many images of the gallery; None: all of it

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise ValueError(f"unknown adapter {self.adapter!r}: one of {', '.join(ADAPTERS)}")
        if self.adapter != "bnta" and (self.options or self.sample is not None):
            raise ValueError(f"{self.method}: options and sample belong to the adapter bnta")

    @property
    def setting(self) -> str:
        """What the run does, in one line and apart from any table."""
        more = {"N": self.sample} if self.sample is not None else {}
        chosen = {**more, **self.options, **self.overrides}
        return ", ".join([f"training {self.model}", f"adaption {self.adapter}", *_said(chosen)])

    def setting_with(self, settings: Settings) -> str:
        """:attr:`setting` with all else in which ``settings`` differ from their profile's."""
        usual = tta_settings(PROFILES[settings.profile])
        other = {name: value for name, value in tta_settings(settings).items() if value != usual[name]
                 and name not in {**self.options, **self.overrides}
                 and (self.adapter != "none" or name == "normalise_features")}
        return ", ".join([self.setting, *_said(other)])


def _said(chosen: Mapping) -> list[str]:
    # "follow_fn" is what recorded rows call follow_bnneck.
    return [f"{k.replace('bnneck', 'fn')}={'+'.join(v) if isinstance(v, tuple) else v}" for k, v in chosen.items()]


# Rows of Table 2 that run here, in the paper's order; the adapters come last.
TABLE_2 = (
    Run("Baseline", "baseline", "none"),
    Run("BNTA w/o TTA", adapter="none"),
    Run("BNTA"),
    Run("AdaBN", adapter="adabn"),
    Run("Tent", adapter="tent"),
)
METHODS = tuple(run.method for run in TABLE_2)


def score(
    model: BNTANet,
    target: Target,
    split: Split,
    settings: Settings,
    features: Tensor | None = None,
) -> Scores:
    """Scores of a model on one split; ``features`` (N, C) of the whole set, if at hand."""
    data = target.data
    if features is None:
        both = embed_global(model, data.images[torch.cat([split.probe, split.gallery])])
        probe, gallery = both[: len(split.probe)], both[len(split.probe) :]
    else:
        probe, gallery = features[split.probe], features[split.gallery]
    return evaluate(
        probe, gallery, data.pids[split.probe], data.pids[split.gallery],
        data.camids[split.probe], data.camids[split.gallery], settings.normalise_features,
    )


def run_rows(
    experiment: str,
    runs: Sequence[Run],
    models: Mapping[str, BNTANet],
    targets: Mapping[str, Target],
    settings: Settings,
    seeds: int | Mapping[str, int] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Every number of the runs, on every split, with every adaption seed.

    ``seeds``: how many, for all targets or each by name (default: settings.tta_seeds); a run
    without randomness has the one seed 0. Columns: those of the store, with the name of the run
    as ``method`` and the data set as ``target``. Metrics are mAP, R1, R5, R10 (per cent), the number of
    probes left out as unmatched, if any, and, for the adapter bnta, the seconds of its three parts:
    features, pairing, steps. Features are extracted once for each target and training and their
    seconds are an image's share times N; pairs for all K come from one ranking of the N images; runs
    of the reading "restore" that differ in their quantities alone share an adaption, and have its
    seconds.
    """
    seeds = settings.tta_seeds if seeds is None else seeds
    wanted = {name: seeds[name] if isinstance(seeds, Mapping) else seeds for name in targets}
    units = [(name, number, split, seed) for name, target in targets.items()
             for number, run in enumerate(runs) for split in range(len(target.splits))
             for seed in range(1 if run.adapter == "none" else wanted[name])]
    bench = Bench(tuple(runs), {run.model: models[run.model] for run in runs}, dict(targets), settings)
    bench.measure_missing(units, experiment, progress)
    # The store knows data and runs by their digests: the names and words are those of who asks.
    tables = [
        bench.rows((name, number, split, seed)).assign(
            dataset=name, split=split, experiment=experiment, table=experiment, method=runs[number].method,
            training=runs[number].model, adapter=runs[number].adapter,
            setting=runs[number].setting_with(settings))
        for name, number, split, seed in units
    ]
    return pd.concat(tables, ignore_index=True).rename(columns={"dataset": "target"})


class Stored(ABC):
    """What :func:`bnta_lib.suite.parallel.measure_all` needs, over a store's rows by unit: of one kind of measurement."""

    experiment: str  # its name in the store
    settings: Settings
    models: dict[str, BNTANet]

    @abstractmethod
    def _key(self, unit: tuple) -> dict:
        """All that decides the unit's rows beside the code."""

    @abstractmethod
    def _about(self, unit: tuple) -> dict:
        """The same in a row's words: data set, split, seed and setting, see :func:`bnta_lib.suite.store.measured`."""

    @abstractmethod
    def _measure(self, unit: tuple) -> list[dict]: ...

    def rows(self, unit: tuple) -> pd.DataFrame:
        """From the store, or else measured."""
        return measured(self.experiment, self._key(unit), lambda: self._measure(unit),
                        module=type(self).__module__, profile=self.settings.profile, **self._about(unit))

    def known(self, unit: tuple) -> bool:
        """Whether the store has it."""
        return known(self.experiment, self._key(unit), type(self).__module__, profile=self.settings.profile)

    def measure(self, unit: tuple) -> str:
        """Measure it into this machine's store; what stands there then, to carry to another's."""
        self.rows(unit)
        return held(self.experiment, self._key(unit), type(self).__module__, profile=self.settings.profile)

    def keep(self, unit: tuple, text: str) -> None:
        """Keep in this machine's store what :meth:`measure` gave on another."""
        keep(self.experiment, self._key(unit), type(self).__module__, text, profile=self.settings.profile)

    def to(self, device: torch.device) -> None:
        """Measure on ``device`` from now on."""
        for model in self.models.values():
            model.to(device)

    def measure_missing(self, units: Sequence[tuple], title: str, progress: bool, unit: str = "run") -> None:
        """Measure those of ``units`` that the store lacks, side by side."""
        missing = [one for one in units if not self.known(one)]
        # The smoke profile's work takes less than starting a process; a model on a GPU stays there.
        here = self.settings.profile == "smoke" or (
            next(iter(self.models.values())).scale.is_cuda and torch.cuda.device_count() == 1)
        with tqdm(total=len(units), initial=len(units) - len(missing), disable=not progress, unit=unit,
                  desc=title) as bar:
            for _ in measure_all(self, missing, 1 if here else None):
                bar.update()


class Bench(Stored):
    """What measuring the units (target, run, split, seed) of one table takes."""

    experiment = "retrieval"

    def __init__(self, runs, models, targets, settings):
        self.runs, self.models, self.targets, self.settings = runs, models, targets, settings
        self.told = {name: identity(model) for name, model in models.items()}
        most = [_chosen_k(run, settings) for run in runs if run.adapter == "bnta"]
        self._most = max(most, default=1)
        self._shared: dict[str, _Shared] = {}  # by target

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_shared": {}}  # each process has its own

    def _key(self, unit: tuple[str, int, int, int]) -> dict:
        name, number, index, seed = unit
        run, target = self.runs[number], self.targets[name]
        own = replace(self.settings, **run.overrides)
        return _key(run, self.told[run.model], target, target.splits[index], own, seed)

    def _about(self, unit: tuple[str, int, int, int]) -> dict:
        name, number, index, seed = unit
        return {"dataset": self.targets[name].stored_as(name), "split": index, "seed": seed,
                "setting": self.runs[number].setting_with(self.settings)}

    def _measure(self, unit: tuple[str, int, int, int]) -> list[dict]:
        name, number, index, seed = unit
        run, target = self.runs[number], self.targets[name]
        own, split = replace(self.settings, **run.overrides), target.splits[index]
        shared = self._shared.setdefault(name, _Shared(target, self._most))
        return _measure(run, self.models[run.model], shared, split, own, seed)


def table_2_rows(models, targets, settings: Settings, progress: bool = True) -> pd.DataFrame:
    """:func:`run_rows` of Table 2; ``models`` holds "baseline" and "bnta"."""
    return run_rows("table_2", TABLE_2, models, targets, settings, progress=progress)


def _chosen_k(run: Run, settings: Settings) -> int:
    K = run.options.get("K")
    return replace(settings, **run.overrides).K if K is None else K


def _key(run: Run, model: dict, target: Target, split: Split, settings: Settings, seed: int) -> dict:
    """All that decides what a run gives. N and K count as they are, said or left to the default."""
    key = {**model, "data": target.data.digest, "adapter": run.adapter,
           "probe": split.probe.tolist(), "gallery": split.gallery.tolist(),
           "normalise": settings.normalise_features}
    if run.adapter == "none":
        return key
    options = {"reading": "alone", "follow_bnneck": True, **run.options}
    n = len(split.gallery) if run.sample is None else run.sample
    if options.get("K") is None:
        options["K"] = min(settings.K, n // 2)
    return key | {"seed": seed, "options": options, "N": n, "settings": tta_settings(settings) | {"K": 0}}


class _Shared:
    """What the runs on one target share: frozen features of each training, rankings of pairs, adaptions
    of which each run keeps other quantities."""

    def __init__(self, target: Target, k: int):
        self.target, self.k = target, k  # k: the most pairs that a run asks for
        self._features: dict[int, tuple[Tensor, Tensor, float]] = {}
        self._pairs: dict[tuple, tuple[Pairs, float]] = {}
        self._adapted: dict[tuple, tuple[Delta, float]] = {}

    def features(self, model: BNTANet) -> tuple[Tensor, Tensor, float]:
        """Global and local features of the whole set, and the seconds of one image."""
        if id(model) not in self._features:
            if model.scale.is_cuda:  # a GPU's first call pays for what no later one does
                embed(model, self.target.data.images[:64])
            start = time.perf_counter()
            features, local = embed(model, self.target.data.images)
            each = (time.perf_counter() - start) / len(features)
            self._features[id(model)] = features, local, each
        return self._features[id(model)]

    def pairs(self, model: BNTANet, chosen: Tensor) -> tuple[Pairs, float]:
        """The closest pairs of the images ``chosen``, as many as any run asks for; seconds."""
        key = (id(model), tuple(chosen.tolist()))
        if key not in self._pairs:
            local = self.features(model)[1][chosen]
            start = time.perf_counter()
            pairs = nearest_pairs(local, min(self.k, len(chosen) // 2))
            self._pairs[key] = pairs, time.perf_counter() - start
        return self._pairs[key]

    def restored(
        self, model: BNTANet, chosen: Tensor, pairs: Pairs, settings: Settings, seed: int,
        quantities: Sequence[str],
    ) -> tuple[BNTANet, float]:
        """The model of :func:`adapt` in the reading "restore", and the seconds of its steps.

        All quantities are adapted, whichever are kept: runs that differ in these share it.
        """
        key = (id(model), tuple(chosen.tolist()), seed, repr(settings))
        if key not in self._adapted:
            result = adapt(model, self.target.data.images[chosen], settings, pairs=pairs, seed=seed)
            self._adapted[key] = result.delta, result.seconds
        delta, seconds = self._adapted[key]
        twin = copy.deepcopy(model)
        load_bn_tensors(bn_layers(twin), delta.tensors, [QUANTITIES[q] for q in quantities])
        return twin, seconds


def sample_of(split: Split, size: int | None) -> Tensor:
    """N images of a split's gallery to adapt on: the first of a fixed shuffle, so that a smaller
    N is a part of a larger one. None: the whole gallery, in its order."""
    if size is None or size == len(split.gallery):
        return split.gallery
    if size > len(split.gallery):
        raise ValueError(f"a gallery of {len(split.gallery)} images has no {size} to adapt on")
    order = torch.randperm(len(split.gallery), generator=torch.Generator().manual_seed(0))
    return split.gallery[order[:size]]


def _measure(run, model, shared, split, settings, seed) -> list[dict]:
    target, seconds, features = shared.target, {}, None
    if run.adapter == "none":
        features = shared.features(model)[0]
    elif run.adapter == "bnta":
        chosen = sample_of(split, run.sample)
        each = shared.features(model)[2]
        pairs, pairing = shared.pairs(model, chosen)
        wanted = run.options.get("quantities")
        known = isinstance(wanted, tuple) and set(wanted) <= set(QUANTITIES)
        if known and run.options == {"quantities": wanted, "reading": "restore"}:
            model, steps = shared.restored(model, chosen, pairs, settings, seed, wanted)
        else:
            # The images go in by K pairs: what adapt() is given must fit it.
            result = adapt(model, target.data.images[chosen], settings, pairs=pairs, seed=seed,
                           **run.options)
            model, steps = result.model, result.seconds
        seconds = {"features": each * len(chosen), "pairing": pairing, "steps": steps}
    elif run.adapter == "adabn":
        model = adabn(model, target.data.images[split.gallery], settings, seed=seed)
    else:
        model = tent(model, target.data.images[split.gallery], settings, seed=seed)
    scores = score(model, target, split, settings, features)
    left_out = {"unmatched": scores.unmatched} if scores.unmatched else {}
    seconds = {part: round(value, 4) for part, value in seconds.items()}
    return [{"metric": metric, "value": value, "unit": unit}
            for found, unit in ((scores.row(), "%"), (left_out, "probes"), (seconds, "s"))
            for metric, value in found.items()]


def tta_settings(settings: Settings) -> dict:
    """The settings that decide an adaption and its evaluation."""
    names = ("K", "margin", "lambda3", "matching_reduction", "normalise_features")
    return {k: v for k, v in asdict(settings).items()
            if (k.startswith("tta_") and k != "tta_seeds") or k in names}


def identity(model: BNTANet) -> dict[str, str]:
    """What tells one model from another in a key: its tensors, and the layers that hold them, whose strides
    and eps no tensor shows."""
    return {"model": model_digest(model), "network": hashlib.sha256(repr(model).encode()).hexdigest()}


def model_digest(model: BNTANet) -> str:
    """What tells one trained model from another: SHA-256 of all its tensors and their names."""
    sha = hashlib.sha256()
    tensors = {name.replace("bnneck.", "fn."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in sorted(tensors.items()):  # by the names that recorded digests were taken of
        if not name.endswith("num_batches_tracked"):
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().numpy())
    return sha.hexdigest()


def change_rows(
    model: BNTANet, targets: Mapping[str, Target], settings: Settings, progress: bool = True
) -> pd.DataFrame:
    """What adaption with seed 0 moved on every split (Figure 3), and what its losses did.

    Columns: those of the store, ``target``, index and layer of the BN layer (0 and "" for what
    belongs to none). Metrics: "rate mean", "rate var", "rate gamma", "rate beta" (change rate of
    a layer, see :func:`bnta_lib.adaption.change_rates`, per cent), and "pos frozen", "pos
    statistics", "pos adapted", and so for "mat": the terms of Eq. (13) on the same pairs, mean
    over batches: before, with the statistics alone moved, and after.
    """
    units = [(name, number) for name, target in targets.items() for number in range(len(target.splits))]
    bench = _Changes(model, dict(targets), settings)
    bench.measure_missing(units, "changes", progress, "split")
    tables = [bench.rows(unit).assign(dataset=unit[0], split=unit[1]) for unit in units]
    return pd.concat(tables, ignore_index=True).rename(columns={"dataset": "target"})


class _Changes(Stored):
    """What measuring the units (target, split) of :func:`change_rows` takes."""

    experiment = "changes"

    def __init__(self, model, targets, settings):
        self.models, self.targets, self.settings = {"bnta": model}, targets, settings
        self.told = identity(model)

    def _key(self, unit: tuple[str, int]) -> dict:
        target = self.targets[unit[0]]
        return {**self.told, "data": target.data.digest,
                "gallery": target.splits[unit[1]].gallery.tolist(), "settings": tta_settings(self.settings)}

    def _about(self, unit: tuple[str, int]) -> dict:
        name, number = unit
        return {"dataset": self.targets[name].stored_as(name), "split": number,
                "setting": Run("BNTA").setting_with(self.settings)}

    def _measure(self, unit: tuple[str, int]) -> list[dict]:
        target = self.targets[unit[0]]
        gallery = target.data.images[target.splits[unit[1]].gallery]
        return _measure_changes(self.models["bnta"], gallery, self.settings)


def _measure_changes(model: BNTANet, gallery: Tensor, settings: Settings) -> list[dict]:
    result = adapt(model, gallery, settings)
    rows = [{"metric": f"rate {row.quantity}", "value": 100 * row.rate, "unit": "%",
             "index": row.index, "layer": row.layer} for row in result.changes.itertuples(index=False)]
    statistics = adapt(model, gallery, settings, losses=(), pairs=result.pairs).model
    for kind, chosen in (("frozen", model), ("statistics", statistics), ("adapted", result.model)):
        means = pair_losses(chosen, gallery, result.pairs, settings).mean()
        rows += [{"metric": f"{term} {kind}", "value": float(means[term]), "index": 0, "layer": ""}
                 for term in LOSSES]
    return rows


def why_rows(changes: pd.DataFrame) -> pd.DataFrame:
    """:func:`change_rows` with rates averaged over layers: columns target, split, what, value."""
    rows = changes.rename(columns={"metric": "what"})
    return rows.groupby(["target", "split", "what"], sort=False, as_index=False)["value"].mean()


def shift_rows(
    model: BNTANet,
    targets: Mapping[str, Target],
    sources: Sequence[ReIDSet],
    settings: Settings,
    split: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Distance of the BN outputs on each target from those on the source, by layer.

    Columns: target, model ("frozen" or "adapted" to the split's gallery), index, layer,
    distance (see :mod:`bnta_lib.suite.shift`). The target's outputs are those on the split's probes and
    gallery; the source's are the frozen model's on :func:`source_sample` of the given sets.
    """
    bench = _Shifts(model, dict(targets), sources, settings, split, seed)
    units = [(name,) for name in targets]
    bench.measure_missing(units, "shift", progress, "target")
    columns = {"dataset": "target", "value": "distance"}
    rows = pd.concat([bench.rows(unit).assign(dataset=unit[0]) for unit in units], ignore_index=True)
    return rows.rename(columns=columns)[["target", "model", "index", "layer", "distance"]]


class _Shifts(Stored):
    """What measuring the units (target,) of :func:`shift_rows` takes."""

    experiment = "shift"

    def __init__(self, model, targets, sources, settings, split, seed):
        self.models, self.targets, self.settings = {"bnta": model}, targets, settings
        self.split, self.seed, self.told = split, seed, identity(model)
        self.sources, self.sample = [source.digest for source in sources], source_sample(sources)
        self._moments: dict | None = None  # of the sources' outputs

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_moments": None}  # each process has its own

    def _key(self, unit: tuple[str]) -> dict:
        target = self.targets[unit[0]]
        chosen = target.split(self.split)
        return {**self.told, "data": target.data.digest, "seed": self.seed,
                "probe": chosen.probe.tolist(), "gallery": chosen.gallery.tolist(),
                "sources": self.sources, "settings": tta_settings(self.settings)}

    def _about(self, unit: tuple[str]) -> dict:
        target = self.targets[unit[0]]
        return {"dataset": target.stored_as(unit[0]), "split": self.split, "seed": self.seed,
                "setting": Run("BNTA").setting_with(self.settings)}

    def _measure(self, unit: tuple[str]) -> list[dict]:
        model, target = self.models["bnta"], self.targets[unit[0]]
        chosen, images = target.split(self.split), target.data.images
        self._moments = self._moments or bn_moments(model, self.sample)
        both = images[torch.cat([chosen.probe, chosen.gallery])]
        adapted = adapt(model, images[chosen.gallery], self.settings, seed=self.seed).model
        found = [shift_by_layer(self._moments, bn_moments(m, both)).assign(model=kind)
                 for kind, m in (("frozen", model), ("adapted", adapted))]
        rows = pd.concat(found).rename(columns={"distance": "value"})
        return rows.assign(metric="distance", unit="source std").to_dict("records")
