"""Does what adaption brings grow with the strength of the features?

A network is made weaker by training it on a share of the people (for all epochs) or for a share of the
epochs (on all people); at its strongest it is the "bnta" of all tables. Each is measured with and without
adaption on every split. Every training has one set of weights: how much they vary is in no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import Run, run_rows
from bnta_lib.model import BNTANet
from bnta_lib.settings import ROOT, Settings
from bnta_lib.suite.tables import TIE, paired_test
from bnta_lib.training import trained_model
from bnta_lib.weights import WEAKER

LADDERS = ("people", "epochs")
STRONGEST = "bnta"


def rungs(ladder: str) -> dict[str, float]:
    """The trainings of a ladder, weakest first, and their share of the people or of the epochs."""
    place = LADDERS.index(ladder)
    return {name: shares[place] for name, shares in WEAKER.items() if shares[place] < 1} | {STRONGEST: 1.0}


def strength_models(
    settings: Settings, data: str | Path = "embedded", progress: bool = True
) -> tuple[dict[str, BNTANet], list[str]]:
    """The trainings of both ladders that are there, and the names of those whose weights are not.

    The smoke profile trains them. Raises as :func:`~bnta_lib.training.trained_model` for STRONGEST.
    """
    models, missing = {}, []
    for name in WEAKER:
        try:
            models[name] = trained_model(settings, name, progress, data=data)
        except FileNotFoundError:
            missing.append(name)
    return models | {STRONGEST: trained_model(settings, STRONGEST, progress, data=data)}, missing


def strength_rows(
    models: Mapping[str, BNTANet], targets: Mapping[str, Target], settings: Settings, progress: bool = True
) -> pd.DataFrame:
    """:func:`~bnta_lib.suite.experiments.run_rows` of every model, frozen and adapted, adaption seed 0.

    A column ``model`` besides, and ``people``: how many it was trained on.
    """
    runs = [Run(f"{name}; {adapter}", name, adapter) for name in models for adapter in ("none", "bnta")]
    rows = run_rows("strength", runs, models, targets, settings, seeds=1, progress=progress)
    names = rows["method"].str.split("; ").str[0]
    return rows.assign(model=names, people=names.map({n: model.identities for n, model in models.items()}))


def strength_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """A row a ladder, target and rung: what the features are worth, and what adaption adds.

    Columns: ladder, target, model, share, people, frozen (mean over splits, per cent), difference (points,
    adapted minus frozen on the same splits), low, high (95 % interval), better, splits.
    """
    found, there = [], set(rows["model"])
    for ladder in LADDERS:
        for name, share in rungs(ladder).items():
            if name not in there:
                continue
            own = rows[(rows["model"] == name) & (rows["metric"] == metric)]
            test = paired_test(own, f"{name}; bnta", f"{name}; none", metric)
            frozen = own[own["method"] == f"{name}; none"].groupby("target")["value"].mean()
            found.append(test.assign(ladder=ladder, model=name, share=share, people=own["people"].iloc[0],
                                     frozen=test["target"].map(frozen)))
    table = pd.concat(found, ignore_index=True)
    columns = ["ladder", "target", "model", "share", "people", "frozen", "difference", "low", "high", "better",
               "splits"]
    return table[columns]


def strength_trend(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Points of gain that a doubling of the people, or of the epochs, brings: a row a ladder and target.

    A straight line over log2 of the share, fitted to the gains of each split. Columns: ladder, target,
    rungs, difference (points a doubling), low, high (95 % interval of Student's t over splits), splits.
    No row where there are fewer than three rungs or two splits.
    """
    values = rows[rows["metric"] == metric].pivot_table(
        index=["target", "split"], columns=["model", "method"], values="value", sort=False)
    found = []
    for ladder in LADDERS:
        there = {name: share for name, share in rungs(ladder).items() if name in set(rows["model"])}
        if len(there) < 3:
            continue
        gains = pd.DataFrame({name: values[name, f"{name}; bnta"] - values[name, f"{name}; none"]
                              for name in there})
        for target, own in gains.groupby(level="target", sort=False):
            if len(own) < 2:
                continue
            slopes = np.polyfit(np.log2(list(there.values())), own.to_numpy().T, 1)[0]
            found.append({"ladder": ladder, "target": target, "rungs": len(there),
                          "difference": float(slopes.mean()), **_interval(slopes), "splits": len(slopes)})
    return pd.DataFrame(found)


def trend_sentences(trend: pd.DataFrame) -> list[str]:
    """A line a row of :func:`strength_trend`."""
    lines = []
    for row in trend.itertuples():
        word = "not resolved"
        if row.low > 0 or row.high < 0:
            word = "the gain grows" if row.low > 0 else "the gain shrinks"
        lines.append(f"{row.target}, {row.ladder} doubled: {row.difference:+.2f} points of gain (95 % interval "
                     f"{row.low:+.2f} to {row.high:+.2f}): {word}.")
    return lines


def other_profiles(profile: str, figures: Path = ROOT / "figures") -> dict[str, pd.DataFrame]:
    """The gains that other profiles left as ``strength.csv``, to stand beside this one's."""
    files = {name: figures / name / "strength.csv" for name in ("laptop", "paper") if name != profile}
    return {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}


def _interval(values: Sequence[float]) -> dict[str, float]:
    if np.ptp(values) <= TIE:
        return {"low": float("nan"), "high": float("nan")}
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"low": float(np.mean(values) - half), "high": float(np.mean(values) + half)}
