"""Measuring: the units of a list of specs, what each gives, and their rows from the store."""

import copy
import hashlib
import json
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date

import pandas as pd
import torch
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor, process_executor
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.adapters import ADAPTERS
from bnta_lib.adaption import LOSSES, adapt, pair_losses
from bnta_lib.by_camera import adapt_by_camera, embed_by_camera, normalise_by_camera, sample_by_camera
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Scores, evaluate
from bnta_lib.files import end_with
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import METHOD_VERSION, Settings
from bnta_lib.suite.layers import bn_moments, shift_by_camera, shift_by_layer, source_sample
from bnta_lib.suite.runs import device_of
from bnta_lib.suite.samples import exchanged, images_of, sample_of
from bnta_lib.suite.specs import DIVERGED, Spec
from bnta_lib.suite.store import DETAILS, SHORT, key_of, machine, open_store
from bnta_lib.weights import model_digest

FEWEST = 8  # images of a camera, for statistics of its own in measured rows: fewer than users should take


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    experiment: str  # a key of EXPERIMENTS
    target: str
    spec: Spec
    split: int
    seed: int


def score(model: BNTANet, target: Target, split: Split, settings: Settings,
          features: Tensor | None = None) -> Scores:
    """Scores of a model on one split; ``features`` (N, C): of the whole set, if they are known."""
    data, sides = target.data, (split.probe, split.gallery)
    if features is None:
        both = embed(model, data.images[torch.cat(sides)])[0]
        probe, gallery = both.split([len(side) for side in sides])
    else:
        probe, gallery = features[split.probe], features[split.gallery]
    labels = (kind[side] for kind in (data.pids, data.camids) for side in sides)
    return evaluate(probe, gallery, *labels, settings.normalise_features)


class Measurer:
    """What measuring units takes, and what they share within a process: frozen features, rankings of pairs.

    ``models``: by training. ``targets``: by training and name, since images may have a size of its own.
    """

    def __init__(self, settings: Settings, models: Mapping[str, BNTANet],
                 targets: Mapping[str, Mapping[str, Target]], sources: Sequence[ReIDSet] = ()):
        self.settings, self.models, self.targets, self.sources = settings, dict(models), targets, sources
        self.largest_k = 0  # of the units that share a ranking of pairs
        self.weights = {name: model_digest(model)[:SHORT] for name, model in models.items()}
        self.shared: dict = {}

    def __getstate__(self) -> dict:
        models = {name: copy.deepcopy(model).cpu() for name, model in self.models.items()}
        return self.__dict__ | {"shared": {}, "models": models}

    def inputs(self, unit: Unit) -> tuple[BNTANet, Target, Split, Settings]:
        """A unit's model, target, split and settings."""
        target = self.targets[unit.spec.training][unit.target]
        settings = replace(self.settings, **unit.spec.overrides)
        return self.models[unit.spec.training], target, target.split(unit.split), settings

    def columns(self, unit: Unit) -> dict:
        """A unit's columns: those of its key, and the names of profile and target."""
        _, target, split, _ = self.inputs(unit)
        # The images that are compared, with one another and with sources.
        shift = unit.experiment in ("shift", "camera_shift")
        sources = [source.digest[:SHORT] for source in self.sources] if shift else None
        sample = json.dumps([split.probe.tolist(), split.gallery.tolist(), sources])
        return {
            "experiment": unit.experiment, "profile": self.settings.profile,
            "target": target.stored_as(unit.target), "split": unit.split, "seed": unit.seed,
            **unit.spec.columns(self.settings, len(split.gallery)),
            "version": METHOD_VERSION, "data": target.data.digest[:SHORT],
            "weights": self.weights[unit.spec.training],
            "sample": hashlib.sha256(sample.encode()).hexdigest()[:SHORT],
        }

    def once(self, key: tuple, make: Callable) -> tuple:
        """What ``make`` returns, and the seconds that it took; it is called once a process and key."""
        if key not in self.shared:
            start = time.perf_counter()
            self.shared[key] = make(), time.perf_counter() - start
        return self.shared[key]

    def features(self, unit: Unit) -> tuple[Tensor, Tensor, float]:
        """Global and local features of the whole set without adaption, and the seconds of one image."""
        model, target, *_ = self.inputs(unit)
        if model.scale.is_cuda:  # a GPU's first call pays for what no later one does
            self.once(("warm",), lambda: embed(model, target.data.images[:64]))
        features, seconds = self.once(("features", unit.spec.training, unit.target),
                                      lambda: embed(model, target.data.images))
        return *features, seconds / len(features[0])

    def source_moments(self, unit: Unit) -> dict[str, tuple[Tensor, Tensor]]:
        """:func:`bn_moments` of the sources without adaption."""
        model = self.models[unit.spec.training]
        return self.once(("moments", unit.spec.training),
                         lambda: bn_moments(model, source_sample(self.sources)))[0]

    def pairs(self, unit: Unit, sample: Tensor) -> tuple[Pairs, float]:
        """The closest pairs of the images ``sample``, as many as any unit needs; seconds."""
        k = min(max(self.largest_k, self.columns(unit)["K"], self.settings.K), len(sample) // 2)
        local = self.features(unit)[1]
        return self.once(("pairs", unit.spec.training, unit.target, *sample.tolist(), k),
                         lambda: nearest_pairs(local[sample], k))

    def measure(self, unit: Unit) -> list[dict]:
        """A unit's rows: DIVERGED alone if a rate above the settings' own makes adaption diverge."""
        start = time.perf_counter()
        try:
            rows = EXPERIMENTS[unit.experiment](self, unit)
        except FloatingPointError:
            if unit.spec.overrides.get("tta_lr", 0) <= self.settings.tta_lr:
                raise
            rows = [{"metric": DIVERGED, "value": 1.0}]
        origin = {"seconds": round(time.perf_counter() - start, 3), "measured_on": date.today().isoformat(),
                  "machine": machine(device_of(self.settings.profile).type == "cuda")}
        return [{"unit": ""} | self.columns(unit) | row | origin for row in rows]


def _retrieval(measurer: Measurer, unit: Unit) -> list[dict]:
    """mAP, R1, R5, R10 (per cent); for bnta the seconds of its parts."""
    spec, seconds, features = unit.spec, {}, None
    model, target, split, settings = measurer.inputs(unit)
    if spec.by != "place":
        features = _features_by_camera(measurer, unit)
    elif spec.adapter == "none":
        features = measurer.features(unit)[0]
    elif spec.adapter == "bnta":
        gallery = spec.images == "gallery"
        sample = sample_of(split, spec.N) if gallery else images_of(target, split, spec.images)
        pairs, pairing = measurer.pairs(unit, sample)
        images = target.data.images[sample]
        result = adapt(model, images, settings, pairs=pairs, seed=unit.seed, **spec.options)
        model = result.model
        seconds = {"features": measurer.features(unit)[2] * len(sample), "pairing": pairing,
                   "steps": result.seconds}
    else:
        adapter = ADAPTERS[spec.adapter]
        images = target.data.images[images_of(target, split, spec.images)]
        model = adapter(model, images, settings, seed=unit.seed, **spec.options)
    scores = score(model, target, split, settings, features).row()
    rows = [{"metric": metric, "value": value, "unit": "%"} for metric, value in scores.items()]
    return rows + [{"metric": part, "value": round(s, 4), "unit": "s"} for part, s in seconds.items()]


def _features_by_camera(measurer: Measurer, unit: Unit) -> Tensor:
    """Features of a whole set after adaption by camera; those outside the split's test are without it."""
    model, target, split, settings = measurer.inputs(unit)
    spec, images = unit.spec, target.data.images
    camids = exchanged(target.data.camids, spec.exchanged, unit.seed)
    seen, test = (images_of(target, split, kind) for kind in (spec.images, "test"))
    seen = sample_by_camera(seen, camids, spec.N, unit.seed)
    features = measurer.features(unit)[0].clone()
    if spec.by == "features":
        known = features[seen], camids[seen]
        features[test] = normalise_by_camera(features[test], camids[test], *known, FEWEST)
    else:
        known = [camera for camera in camids.unique() if (camids[seen] == camera).sum() >= FEWEST]
        place = not torch.isin(camids[test], torch.tensor(known)).all()
        with warnings.catch_warnings(action="ignore"):  # gallery alone: some cameras have probes alone
            deltas = adapt_by_camera(model, images[seen], camids[seen], settings, spec.adapter, least=FEWEST,
                                     place=place, seed=unit.seed, **spec.options)
            features[test] = embed_by_camera(model, images[test], camids[test], deltas)[0]
    return features


def _changes(measurer: Measurer, unit: Unit) -> list[dict]:
    """Change rates of each BN layer ("rate mean", ..., per cent), and the terms of Eq. (13).

    The terms are means over batches of the same pairs: "pos frozen" before, "pos statistics" with the
    statistics alone moved, "pos adapted" after, and so for "mat".
    """
    model, target, split, settings = measurer.inputs(unit)
    gallery = target.data.images[split.gallery]
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
    model, target, split, settings = measurer.inputs(unit)
    images = target.data.images
    source = measurer.source_moments(unit)
    adapted = adapt(model, images[split.gallery], settings, seed=unit.seed, **unit.spec.options).model
    both = images[torch.cat([split.probe, split.gallery])]
    return [{"metric": "distance", "value": row.distance, "unit": "source std", "index": row.index,
             "layer": row.layer, "model": kind}
            for kind, network in (("frozen", model), ("adapted", adapted))
            for row in shift_by_layer(source, bn_moments(network, both)).itertuples(index=False)]


def _camera_shift(measurer: Measurer, unit: Unit) -> list[dict]:
    """What separates a place's cameras, all images of each, from the sources in each BN layer."""
    model, target, *_ = measurer.inputs(unit)
    source = measurer.source_moments(unit)
    images, camids = target.data.images, target.data.camids
    cameras = [bn_moments(model, images[camids == camera]) for camera in camids.unique()]
    parts = shift_by_camera(source, cameras)
    return [{"metric": part, "value": row[part], "unit": "source variance", "index": row["index"],
             "layer": row["layer"]} for row in parts.to_dict("records") for part in ("place", "cameras")]


def _headroom(measurer: Measurer, unit: Unit) -> list[dict]:
    """Rank of each probe's only match without adaption."""
    model, target, split, settings = measurer.inputs(unit)
    ranks = score(model, target, split, settings, measurer.features(unit)[0]).rank
    return [{"metric": "rank", "value": rank, "gallery": len(split.gallery), "part": unit.spec.labels["part"]}
            for rank in ranks.tolist()]


EXPERIMENTS = {"retrieval": _retrieval, "changes": _changes, "shift": _shift, "camera_shift": _camera_shift,
               "headroom": _headroom}

PATIENCE = 20  # seconds that a scheduler has to answer
# A network allocates the same large blocks again and again. glibc would return each to the system and get it
# anew, page by page. Kept, in one arena and in large pages, they make the laptop's network 16 % faster.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
                "MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "OMP_NUM_THREADS": "1"}
_measurer = None  # of this process, if it is one of joblib's


def measure_all(measurer: Measurer, units: Mapping[str, Unit]) -> Iterator[tuple[str, list[dict]]]:
    """Yield (key, rows) of each of ``units`` when it is measured: in this process, by joblib's on this
    machine, or by the Dask cluster of ``$DASK_SCHEDULER_ADDRESS``.

    Raises what measuring raises, OSError if no scheduler answers, and BrokenExecutor if one of this machine's
    processes is killed.
    """
    address, profile = os.environ.get("DASK_SCHEDULER_ADDRESS", "").strip(), measurer.settings.profile
    # A few units of the smoke profile take less than starting processes, and a GPU serves one.
    alone = device_of(profile).type != "cpu" or (profile == "smoke" and len(units) < 400)
    if not address and (alone or min(cpu_count(), len(units)) < 2):
        yield from ((key, _measure(measurer, unit)) for key, unit in units.items())
        return
    with ExitStack() as stack:
        if address:
            from distributed import Client

            try:
                client = stack.enter_context(Client(address, set_as_default=False, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise ConnectionError(f"no Dask scheduler answers at {address} ({error}): start one, or "
                                      "unset DASK_SCHEDULER_ADDRESS to measure here") from error
            # A task of its own: it is made again if its worker dies.
            shared = client.submit(pickle.loads, pickle.dumps(measurer), pure=False)
            executor = client.get_executor(pure=False)
            stack.callback(executor.shutdown, wait=False)
        else:
            shared, executor = None, get_reusable_executor(
                cpu_count(), env=_ENVIRONMENT, initializer=_start,
                initargs=(pickle.dumps(measurer), os.getpid()))
            stack.callback(executor.shutdown, kill_workers=True)
        running = {executor.submit(_measure_there, shared, unit): key for key, unit in units.items()}
        for done in as_completed(running):
            yield running[done], done.result()


def _start(pickled: bytes, parent: int) -> None:
    global _measurer
    end_with(parent)
    # loky ends a process that has grown by 300 MB, as these do, and with it the features that units share.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    _measurer = pickle.loads(pickled)


def _measure_there(measurer: Measurer | None, unit: Unit) -> list[dict]:
    """Measure in another process, which gets its models on the CPU."""
    measurer = measurer or _measurer
    measurer.models[unit.spec.training].to(device_of(measurer.settings.profile))
    return _measure(measurer, unit)


def _measure(measurer: Measurer, unit: Unit) -> list[dict]:
    """Measure with one thread, on whose number the rounding of gradients depends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measurer.measure(unit)
    finally:
        torch.set_num_threads(threads)


def measure(measurer: Measurer, units: Sequence[Unit], progress: bool, title: str,
            anew: bool = False) -> pd.DataFrame:
    """Rows of the units in their order, from the store. Units that it lacks are measured first, and with
    ``anew`` those that are only recorded.

    Columns: the caller's name of the target, ``method``, the spec's labels, and those of the store without
    details that no row has. A spec that diverged on a split of a target has only the metric DIVERGED there.
    """
    columns = [measurer.columns(unit) for unit in units]
    measurer.largest_k = max(unit_columns["K"] for unit_columns in columns)
    keys = [key_of(unit_columns) for unit_columns in columns]
    with open_store() as store:
        store.fill(measurer.settings.profile)
        known = {*store.rows(keys).query("recorded == 0" if anew else "recorded >= 0")["key"]}
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
    return rows.drop(columns=["key", "number", *unused]).reset_index(drop=True)
