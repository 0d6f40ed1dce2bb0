"""Measuring: the units of a list of specs, what each gives, and their rows from the store."""

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.adapters import ADAPTERS
from bnta_lib.adaption import LOSSES, adapt, pair_losses
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Scores, evaluate
from bnta_lib.model import BNTANet, embed, embed_global
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import METHOD_VERSION, Settings, device_of
from bnta_lib.suite.layers import bn_moments, shift_by_layer, source_sample
from bnta_lib.suite.parallel import measure_all
from bnta_lib.suite.specs import DIVERGED, Spec
from bnta_lib.suite.store import DETAILS, SHORT, Store, key_of, machine
from bnta_lib.weights import model_digest


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    experiment: str  # a key of EXPERIMENTS
    target: str
    spec: Spec
    split: int
    seed: int


def score(
    model: BNTANet, target: Target, split: Split, settings: Settings, features: Tensor | None = None
) -> Scores:
    """Scores of a model on one split; ``features`` (N, C): of the whole set, if they are known."""
    data, sides = target.data, (split.probe, split.gallery)
    if features is None:
        both = embed_global(model, data.images[torch.cat(sides)])
        probe, gallery = both.split([len(side) for side in sides])
    else:
        probe, gallery = features[split.probe], features[split.gallery]
    labels = (kind[side] for kind in (data.pids, data.camids) for side in sides)
    return evaluate(probe, gallery, *labels, settings.normalise_features)


def sample_of(split: Split, size: int | None) -> Tensor:
    """``size`` images of a split's gallery to adapt on; None: the whole gallery, in its order.

    They are the first of a fixed shuffle, so that a smaller sample is a part of a larger one.
    Raises ValueError for more images than there are.
    """
    if size is None or size == len(split.gallery):
        return split.gallery
    if size > len(split.gallery):
        raise ValueError(f"a gallery of {len(split.gallery)} images has no {size} to adapt on")
    order = torch.randperm(len(split.gallery), generator=torch.Generator().manual_seed(0))
    return split.gallery[order[:size]]


class Measurer:
    """What measuring units takes, and what they share within a process: frozen features, rankings of pairs.

    ``models``: by training. ``targets``: by training and name, since images may have a size of its own.
    """

    def __init__(self, settings: Settings, models: Mapping[str, BNTANet],
                 targets: Mapping[str, Mapping[str, Target]], sources: Sequence[ReIDSet] = ()):
        self.settings, self.models, self.targets = settings, dict(models), targets
        self.largest_k = 0  # of the units that share a ranking of pairs
        self.sources = [source.digest[:SHORT] for source in sources] or None
        self.source_images = source_sample(sources) if sources else None
        self.weights = {name: model_digest(model)[:SHORT] for name, model in models.items()}
        self.shared: dict = {}

    def __getstate__(self) -> dict:
        models = {name: copy.deepcopy(model).cpu() for name, model in self.models.items()}
        return self.__dict__ | {"shared": {}, "models": models}

    def to(self, device: torch.device) -> None:
        """Measure on ``device`` from now on."""
        for model in self.models.values():
            model.to(device)

    def inputs(self, unit: Unit) -> tuple[BNTANet, Target, Split]:
        """A unit's model, target and split."""
        target = self.targets[unit.spec.training][unit.target]
        return self.models[unit.spec.training], target, target.split(unit.split)

    def columns(self, unit: Unit) -> dict:
        """A unit's columns: what its key is made of, and what says whose rows they are."""
        _, target, split = self.inputs(unit)
        return {
            "experiment": unit.experiment, "profile": self.settings.profile,
            "target": target.stored_as(unit.target), "split": unit.split, "seed": unit.seed,
            **unit.spec.columns(self.settings, len(split.gallery)),
            "version": METHOD_VERSION, "data": target.data.digest[:SHORT],
            "weights": self.weights[unit.spec.training],
            "sample": sample_digest(split, self.sources if unit.experiment == "shift" else None),
        }

    def features(self, unit: Unit) -> tuple[Tensor, Tensor, float]:
        """Global and local features of the whole set without adaption, and the seconds of one image."""
        key, (model, target, _) = ("features", unit.spec.training, unit.target), self.inputs(unit)
        if key not in self.shared:
            if model.scale.is_cuda:  # a GPU's first call pays for what no later one does
                embed(model, target.data.images[:64])
            start = time.perf_counter()
            features, local = embed(model, target.data.images)
            self.shared[key] = features, local, (time.perf_counter() - start) / len(features)
        return self.shared[key]

    def pairs(self, unit: Unit, sample: Tensor) -> tuple[Pairs, float]:
        """The closest pairs of the images ``sample``, as many as any unit needs; seconds."""
        k = min(max(self.largest_k, self.columns(unit)["K"]), len(sample) // 2)
        key = "pairs", unit.spec.training, unit.target, tuple(sample.tolist()), k
        if key not in self.shared:
            local, start = self.features(unit)[1][sample], time.perf_counter()
            self.shared[key] = nearest_pairs(local, k), time.perf_counter() - start
        return self.shared[key]

    def measure(self, unit: Unit) -> list[dict]:
        """A unit's rows. Raises what measuring raises.

        If a rate above the settings' own makes adaption diverge, the only row has the metric DIVERGED.
        """
        start = time.perf_counter()
        try:
            rows = EXPERIMENTS[unit.experiment](self, unit)
        except FloatingPointError:
            if unit.spec.settings(self.settings).tta_lr <= self.settings.tta_lr:
                raise
            rows = [{"metric": DIVERGED, "value": 1.0}]
        origin = {"seconds": round(time.perf_counter() - start, 3), "measured_on": date.today().isoformat(),
                  "machine": machine(device_of(self.settings.profile).type == "cuda")}
        return [{"unit": ""} | self.columns(unit) | row | origin for row in rows]


def sample_digest(split: Split, sources: Sequence[str] | None = None) -> str:
    """Of probe, gallery, and the sources that they are compared with."""
    text = json.dumps([split.probe.tolist(), split.gallery.tolist(), sources])
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]


# ---------------------------------------------------------------- what a unit gives


def _retrieval(measurer: Measurer, unit: Unit) -> list[dict]:
    """mAP, R1, R5, R10 (per cent); for bnta the seconds of its parts."""
    spec, settings, seconds, features = unit.spec, unit.spec.settings(measurer.settings), {}, None
    model, target, split = measurer.inputs(unit)
    if spec.adapter == "none":
        features = measurer.features(unit)[0]
    elif spec.adapter == "bnta":
        sample = sample_of(split, spec.N)
        pairs, pairing = measurer.pairs(unit, sample)
        images = target.data.images[sample]
        result = adapt(model, images, settings, pairs=pairs, seed=unit.seed, **spec.options)
        model = result.model
        seconds = {"features": measurer.features(unit)[2] * len(sample), "pairing": pairing,
                   "steps": result.seconds}
    else:
        adapter = ADAPTERS[spec.adapter]
        model = adapter(model, target.data.images[split.gallery], settings, seed=unit.seed, **spec.options)
    scores = score(model, target, split, settings, features).row()
    rows = [{"metric": metric, "value": value, "unit": "%"} for metric, value in scores.items()]
    return rows + [{"metric": part, "value": round(s, 4), "unit": "s"} for part, s in seconds.items()]


def _changes(measurer: Measurer, unit: Unit) -> list[dict]:
    """Change rates of each BN layer ("rate mean", ..., per cent), and the terms of Eq. (13).

    The terms are means over batches of the same pairs: "pos frozen" before, "pos statistics" with the
    statistics alone moved, "pos adapted" after, and so for "mat".
    """
    model, target, split = measurer.inputs(unit)
    settings, gallery = unit.spec.settings(measurer.settings), target.data.images[split.gallery]
    result = adapt(model, gallery, settings, seed=unit.seed, **unit.spec.options)
    rows = [{"metric": f"rate {row.quantity}", "value": 100 * row.rate, "unit": "%", "index": row.index,
             "layer": row.layer} for row in result.changes.itertuples(index=False)]
    statistics = adapt(model, gallery, settings, losses=(), pairs=result.pairs, seed=unit.seed).model
    for kind, network in (("frozen", model), ("statistics", statistics), ("adapted", result.model)):
        means = pair_losses(network, gallery, result.pairs, settings).mean()
        rows += [{"metric": f"{term} {kind}", "value": float(means[term]), "index": 0} for term in LOSSES]
    return rows


def _shift(measurer: Measurer, unit: Unit) -> list[dict]:
    """Distance of each BN layer's outputs on probes and gallery from the frozen model's on the sources."""
    model, target, split = measurer.inputs(unit)
    images, settings = target.data.images, unit.spec.settings(measurer.settings)
    key = "moments", unit.spec.training
    if key not in measurer.shared:
        measurer.shared[key] = bn_moments(model, measurer.source_images)
    source = measurer.shared[key]
    adapted = adapt(model, images[split.gallery], settings, seed=unit.seed, **unit.spec.options).model
    both = images[torch.cat([split.probe, split.gallery])]
    return [{"metric": "distance", "value": row.distance, "unit": "source std", "index": row.index,
             "layer": row.layer, "model": kind}
            for kind, network in (("frozen", model), ("adapted", adapted))
            for row in shift_by_layer(source, bn_moments(network, both)).itertuples(index=False)]


def _headroom(measurer: Measurer, unit: Unit) -> list[dict]:
    """Rank of each probe's only match without adaption, with the cameras of both as "1-5"."""
    model, target, split = measurer.inputs(unit)
    data = target.data
    same = data.pids[split.probe, None] == data.pids[split.gallery][None, :]
    match = data.camids[split.gallery[same.int().argmax(1)]]
    ranks = score(model, target, split, measurer.settings, measurer.features(unit)[0]).rank
    cameras = zip(data.camids[split.probe].tolist(), match.tolist(), strict=True)
    return [{"metric": "rank", "value": rank, "cameras": f"{min(a, b)}-{max(a, b)}",
             "gallery": len(split.gallery), "part": unit.spec.labels["part"]}
            for (a, b), rank in zip(cameras, ranks.tolist(), strict=True)]


EXPERIMENTS = {"retrieval": _retrieval, "changes": _changes, "shift": _shift, "headroom": _headroom}


# ---------------------------------------------------------------- rows


def measure(measurer: Measurer, units: Sequence[Unit], progress: bool, title: str) -> pd.DataFrame:
    """Rows of the units in their order, from the store, where those that it lacks are measured first.

    Columns: the caller's name of the target, ``method``, the spec's labels, and those of the store; details
    that no row has are left out. If a spec diverged on any split of a target, its only rows there have the
    metric DIVERGED.
    """
    columns = [measurer.columns(unit) for unit in units]
    measurer.largest_k = max(unit_columns["K"] for unit_columns in columns)
    keys = [key_of(unit_columns) for unit_columns in columns]
    with Store() as store:
        store.fill(measurer.settings.profile)
        known = store.known(keys)
        missing = {key: unit for key, unit in zip(keys, units) if key not in known}
        count = len({*keys})
        with tqdm(total=count, initial=count - len(missing), disable=not progress, desc=title) as bar:
            for key, rows in measure_all(measurer, missing):
                store.add(key, rows)
                bar.update()
        stored = store.rows(keys)
    names = pd.DataFrame([{"key": key, "target": unit.target, "method": unit.spec.method, **unit.spec.labels}
                          for key, unit in zip(keys, units)])
    rows = names.merge(stored.drop(columns=names.columns.drop("key"), errors="ignore"), on="key")
    diverged = rows["metric"] == DIVERGED
    rows = rows[diverged | ~diverged.groupby([rows["target"], rows["method"]]).transform("any")]
    unused = [name for name in DETAILS if rows[name].replace("", None).isna().all()]
    return rows.drop(columns=["key", *unused]).reset_index(drop=True)
