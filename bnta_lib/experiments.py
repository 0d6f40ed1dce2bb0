"""The measurements behind the tables: tidy rows, one a measured number, from the results cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .adaption import LOSSES, adapt, bn_digest, pair_losses
from .baselines import adabn, tent
from .data.sets import ReIDSet, Split, Target
from .evaluation import Scores, evaluate
from .model import BNTANet, embed
from .results import measured
from .settings import Settings
from .shift import bn_moments, shift_by_layer, source_sample

# Rows of Table 2 that run here, in the paper's order; the adapters come last.
METHODS = ("Baseline", "BNTA w/o TTA", "BNTA", "AdaBN", "Tent")


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
        probe, _ = embed(model, data.images[split.probe])
        gallery, _ = embed(model, data.images[split.gallery])
    else:
        probe, gallery = features[split.probe], features[split.gallery]
    return evaluate(
        probe, gallery, data.pids[split.probe], data.pids[split.gallery],
        data.camids[split.probe], data.camids[split.gallery], settings.normalise_features,
    )


def table_2_rows(
    models: dict[str, BNTANet],
    targets: dict[str, Target],
    settings: Settings,
    progress: bool = True,
) -> pd.DataFrame:
    """Every number of our part of Table 2, on every split, with every adaption seed.

    ``models`` holds "baseline" and "bnta". Columns: target, method, split, seed, metric
    (mAP, R1, R5, R10), value (per cent), seconds (adaption and features). A method without
    randomness has the one seed 0.
    """
    tables = []
    work = [(name, method) for name in targets for method in METHODS]
    total = sum(len(targets[name].splits) * _seeds(method, settings) for name, method in work)
    with tqdm(total=total, disable=not progress, unit="run", desc="Table 2") as bar:
        for name, method in work:
            target = targets[name]
            model = models["baseline" if method == "Baseline" else "bnta"]
            for number, split in enumerate(target.splits):
                for seed in range(_seeds(method, settings)):
                    key = {"model": model_digest(model), "data": target.data.digest,
                           "probe": split.probe.tolist(), "gallery": split.gallery.tolist(),
                           "method": method, "seed": seed, "settings": tta_settings(settings)}
                    rows = measured(
                        "table_2", key,
                        lambda: _measure(model, target, split, method, seed, settings),
                    )
                    tables.append(rows.assign(target=name, method=method, split=number, seed=seed))
                    bar.update()
    columns = ["target", "method", "split", "seed", "metric", "value", "seconds"]
    return pd.concat(tables, ignore_index=True)[columns]


def _seeds(method: str, settings: Settings) -> int:
    return 1 if method in ("Baseline", "BNTA w/o TTA") else settings.tta_seeds


def _measure(model, target, split, method, seed, settings) -> list[dict]:
    gallery = target.data.images[split.gallery]
    start = time.perf_counter()
    if method == "BNTA":
        model = adapt(model, gallery, settings, seed=seed).model
    elif method == "AdaBN":
        model = adabn(model, gallery, 2 * settings.tta_batch, seed)
    elif method == "Tent":
        model = tent(model, gallery, settings, 2 * settings.tta_batch, seed)
    scores = score(model, target, split, settings)
    seconds = round(time.perf_counter() - start, 3)
    return [{"metric": metric, "value": value, "seconds": seconds}
            for metric, value in scores.row().items()]


def tta_settings(settings: Settings) -> dict:
    """The settings that decide an adaption and its evaluation."""
    names = ("K", "margin", "lambda3", "matching_reduction", "normalise_features")
    return {k: v for k, v in asdict(settings).items()
            if (k.startswith("tta_") and k != "tta_seeds") or k in names}


def model_digest(model: BNTANet) -> str:
    """What tells one trained model from another: the digest of its BN tensors."""
    return bn_digest(model)


def why_rows(
    model: BNTANet, targets: dict[str, Target], settings: Settings, progress: bool = True
) -> pd.DataFrame:
    """What adaption with seed 0 did on every split: columns target, split, what, value.

    ``what``: "rate mean", "rate var", "rate gamma", "rate beta" (mean change rate over layers,
    per cent), and "pos frozen", "pos statistics", "pos adapted", and so for "mat" (the terms of
    Eq. (13) on the same pairs, mean over batches: before, with the statistics alone moved, and
    after).
    """
    tables = []
    total = sum(len(target.splits) for target in targets.values())
    with tqdm(total=total, disable=not progress, unit="split", desc="why") as bar:
        for name, target in targets.items():
            for number, split in enumerate(target.splits):
                key = {"model": model_digest(model), "data": target.data.digest,
                       "gallery": split.gallery.tolist(), "settings": tta_settings(settings)}
                gallery = target.data.images[split.gallery]
                rows = measured("why", key, lambda: _measure_why(model, gallery, settings))
                tables.append(rows.assign(target=name, split=number))
                bar.update()
    return pd.concat(tables, ignore_index=True)[["target", "split", "what", "value"]]


def _measure_why(model: BNTANet, gallery: Tensor, settings: Settings) -> list[dict]:
    result = adapt(model, gallery, settings)
    rates = 100 * result.changes.groupby("quantity", sort=False)["rate"].mean()
    values = {f"rate {quantity}": rate for quantity, rate in rates.items()}
    statistics = adapt(model, gallery, settings, losses=()).model
    for kind, chosen in (("frozen", model), ("statistics", statistics), ("adapted", result.model)):
        means = pair_losses(chosen, gallery, result.pairs, settings).mean()
        values |= {f"{term} {kind}": means[term] for term in LOSSES}
    return [{"what": what, "value": float(value)} for what, value in values.items()]


def shift_rows(
    model: BNTANet,
    targets: dict[str, Target],
    sources: Sequence[ReIDSet],
    settings: Settings,
    split: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Distance of the BN outputs on each target from those on the source, by layer.

    Columns: target, model ("frozen" or "adapted" to the split's gallery), index, layer,
    distance (see :mod:`.shift`). The target's outputs are those on the split's probes and
    gallery; the source's are the frozen model's on :func:`source_sample` of the given sets.
    """
    tables, moments = [], None
    for name, target in targets.items():
        chosen = target.splits[split]
        both = target.data.images[torch.cat([chosen.probe, chosen.gallery])]

        def measure() -> list[dict]:
            nonlocal moments
            moments = moments or bn_moments(model, source_sample(sources))
            gallery = target.data.images[chosen.gallery]
            models = {"frozen": model, "adapted": adapt(model, gallery, settings, seed=seed).model}
            found = [shift_by_layer(moments, bn_moments(m, both)).assign(model=kind)
                     for kind, m in models.items()]
            return pd.concat(found).to_dict("records")

        key = {"model": model_digest(model), "data": target.data.digest, "seed": seed,
               "probe": chosen.probe.tolist(), "gallery": chosen.gallery.tolist(),
               "sources": [source.digest for source in sources], "settings": tta_settings(settings)}
        tables.append(measured("shift", key, measure).assign(target=name))
    columns = ["target", "model", "index", "layer", "distance"]
    return pd.concat(tables, ignore_index=True)[columns]
