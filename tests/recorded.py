"""The recorded rows of the laptop profile, as the tables of the suite name them."""

from functools import cache

import pandas as pd

from bnta_lib.settings import ROOT, settings
from bnta_lib.suite.specs import COLUMNS, TABLES

LAPTOP = settings("laptop")
GALLERIES = {"VIPeR": 316, "GRID": 900, "iLIDS": 60}


@cache
def recorded() -> pd.DataFrame:
    rows = pd.read_csv(ROOT / "data" / "results" / "laptop.csv.gz", keep_default_na=False, na_values=[""], low_memory=False)
    text = rows.select_dtypes("str").columns
    return rows.assign(**{name: rows[name].fillna("") for name in text})


def _key(target: str, columns: dict) -> tuple:
    values = (columns[name] for name in COLUMNS)
    return target, *(None if pd.isna(v) or v == "" else v if isinstance(v, str) else float(v) for v in values)


@cache
def _by_spec() -> dict:
    rows = recorded().query("experiment == 'retrieval'")
    keys = [_key(row["target"], row) for row in rows.to_dict("records")]
    return dict(list(rows.groupby(pd.Series(keys, rows.index))))


def table(name: str) -> pd.DataFrame:
    """The rows of a table as the lab would give them."""
    groups, parts = _by_spec(), []
    for part in TABLES[name]:
        for target, spec, seeds in part.plan(GALLERIES, LAPTOP):
            rows = groups[_key(target, spec.columns(LAPTOP, GALLERIES[target]))]
            parts.append(rows[rows["seed"] < seeds].assign(table=name, method=spec.method, **spec.labels))
    return pd.concat(parts, ignore_index=True)
