"""The recorded rows of the laptop profile, as ``lab.measure`` gives them for a table."""

from functools import cache

import pandas as pd

from bnta_lib.settings import ROOT, settings
from bnta_lib.suite.specs import COLUMNS, TABLES

LAPTOP = settings("laptop")
GALLERIES = {"VIPeR": 316, "GRID": 900, "iLIDS": 60}  # images of each target's galleries


@cache
def whole() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "results" / "laptop.csv.gz", low_memory=False)


def recorded(experiment: str) -> pd.DataFrame:
    return whole()[whole()["experiment"] == experiment]


def key(values) -> tuple:
    return tuple("" if pd.isna(value) else value for value in values)


@cache
def by_spec() -> dict[tuple, pd.DataFrame]:
    groups = recorded("retrieval").groupby(["target", *COLUMNS], dropna=False)
    return {key(values): rows for values, rows in groups}


@cache
def table(name: str) -> pd.DataFrame:
    """The rows of a table: those of each spec on each target, with the columns table, method and labels."""
    parts = []
    for part in TABLES[name]:
        for target, spec, seeds in part.plan(GALLERIES, LAPTOP):
            columns = spec.columns(LAPTOP, GALLERIES[target])
            rows = by_spec()[key([target, *(columns[column] for column in COLUMNS)])]
            parts.append(rows[rows["seed"] < seeds].assign(table=name, method=spec.method, **spec.labels))
    return pd.concat(parts, ignore_index=True)
