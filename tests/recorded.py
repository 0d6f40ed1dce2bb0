"""The recorded rows of the laptop profile, as the tables of the suite name them."""

from functools import cache

import pandas as pd

from bnta_lib.settings import ROOT, settings
from bnta_lib.suite import choices
from bnta_lib.suite.ablations import TABLE_3, TABLE_4, TABLE_5, seeds_of
from bnta_lib.suite.experiments import TABLE_2, Run
from bnta_lib.suite.grid import NONE, grid_runs
from bnta_lib.weights import WEAKER

LAPTOP = settings("laptop")
GALLERIES = {"VIPeR": 316, "GRID": 900, "iLIDS": 60}
COLUMNS = {"tta_momentum": "momentum", "tta_lr": "lr", "tta_optimizer": "optimizer", "tta_epochs": "epochs",
           "matching_reduction": "reduction", "normalise_features": "normalise"}


@cache
def recorded() -> pd.DataFrame:
    path = ROOT / "data" / "results" / "laptop_rows.csv.gz"
    return pd.read_csv(path, keep_default_na=False, na_values={name: "" for name in ("value",
        "momentum", "epochs", "lr", "margin", "lambda3", "follow_bnneck",
        "index", "gallery")}, low_memory=False)


def columns_of(run: Run, gallery: int) -> dict:
    """The columns of the rows that a run gives on a gallery of this size."""
    columns = {"training": run.model, "adapter": run.adapter, "normalise": 1}
    given = {COLUMNS.get(key, key): "+".join(value) if isinstance(value, tuple) else value
             for key, value in {**run.overrides, **run.options}.items()}
    if run.adapter == "bnta":
        n = run.sample or gallery
        columns |= {"N": n, "K": min(128, n // 2), "momentum": 0.1, "lr": 5e-4, "optimizer": "adam", "epochs": 1,
                    "margin": 0.3, "lambda3": 1, "reduction": "sum", "layers": "bn", "losses": "pos+mat",
                    "quantities": "mean+var+gamma+beta", "reading": "alone", "follow_bnneck": 1}
    return columns | given


@cache
def _by_spec() -> tuple[list[str], dict]:
    rows = recorded().query("experiment == 'retrieval'")
    keys = ["target", "training", "adapter", "normalise", *[key for key in columns_of(Run("BNTA"), 0)
                                                            if key not in ("training", "adapter", "normalise")]]
    return keys, dict(list(rows.fillna(-1).groupby(keys)))


def table(name: str, runs, targets=tuple(GALLERIES), seeds=3) -> pd.DataFrame:
    """The rows of a table: those of each run on each target, with ``table`` and ``method``."""
    keys, groups = _by_spec()
    parts = []
    for target in targets:
        wanted = seeds[target] if isinstance(seeds, dict) else seeds
        for run in runs:
            columns = columns_of(run, GALLERIES[target]) | {"target": target}
            if run.adapter == "bnta":
                part = groups[tuple(columns[key] for key in keys)]
            else:
                part = next(part for key, part in groups.items() if all(
                    dict(zip(keys, key))[name] == value for name, value in columns.items()))
            parts.append(part[part["seed"] < wanted].assign(table=name, method=run.method))
    return pd.concat(parts, ignore_index=True)


def ablation(name: str) -> pd.DataFrame:
    if name == "table_5_restore":
        return table(name, TABLE_5["restore"], ["GRID"])
    runs = {"table_3": TABLE_3, "table_4": TABLE_4, "table_5": TABLE_5["alone"]}[name]
    return table(name, runs, seeds=seeds_of(GALLERIES, name, LAPTOP))


def table_2() -> pd.DataFrame:
    return table("table_2", TABLE_2)


def figure_4() -> pd.DataFrame:
    return pd.concat([table("figure_4", [NONE, *grid_runs(size)], [target], seeds=1)
                      for target, size in GALLERIES.items()], ignore_index=True)


def strength() -> pd.DataFrame:
    runs = [Run(f"{name}; {adapter}", name, adapter) for name in (*WEAKER, "bnta") for adapter in ("none", "bnta")]
    return table("strength", runs, seeds=1)


def open_choices() -> pd.DataFrame:
    parts = []
    for row in choices.planned().itertuples():
        targets = ["GRID"] if row.where == "own" else list(GALLERIES)
        parts.append(table("open_choices", [row.run], targets, 1).assign(
            choice=row.choice, value_label=row.value_label, updated=row.updated))
    for name, reading in (("table_5", "alone"), ("table_5_restore", "restore")):
        rows = ablation(name).query("target == 'GRID'")
        updated = rows["method"].replace({"None": choices.NONE, "mu+var+gamma+beta": choices.ALL})
        parts.append(rows.assign(choice="readings", value_label=reading, updated=updated))
    return pd.concat(parts, ignore_index=True)
