"""The results store: one SQLite file of measured numbers, a row each, ``results.sqlite`` in the cache.

A unit, one spec on a split with a seed, gives one or more rows; its key is a digest of all that decides them.
Rows that are recorded with the suite are there from the start, and stay below those measured here.
"""

import errno
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from numbers import Number
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.files import atomic
from bnta_lib.settings import METHOD_VERSION, ROOT, Settings, cache_dir
from bnta_lib.suite.specs import COLUMNS as SPEC
from bnta_lib.suite.specs import LATER, SETTINGS

# `sample` is a digest of probe, gallery and any sources; `seconds` is how long the row's unit took.
KEY = ("version", "experiment", *SPEC, "data", "weights", "sample", "split", "seed")
DETAILS = ("index", "layer", "model", "gallery", "part")
COLUMNS = ("experiment", "profile", "target", "split", "seed", *SPEC, "metric", "value", "unit", *DETAILS,
           "seconds", "machine", "measured_on", "version", "data", "weights", "sample", "recorded")
WHOLE = ("split", "seed", "N", "K", "epochs", "follow_bnneck", "normalise", "index", "gallery", "version",
         "recorded")
NUMBERS = (*WHOLE, "value", "seconds",
           *(column for column, name in SETTINGS.items() if not isinstance(getattr(Settings, name), str)))
SHORT = 12  # digits of a digest in a row


def recorded_path(profile: str) -> Path:
    """The file of rows that are recorded with the suite, or came with a gathered folder."""
    own = ROOT / "data" / "results" / f"{profile}.csv.gz"
    return own if own.is_file() else cache_dir() / "recorded" / own.name


def key_of(unit: dict) -> str:
    """SHA-256 of the values of :data:`KEY` but those of LATER. A number counts by its value, not its type."""
    values = {name: unit[name] for name in KEY if not pd.isna(unit[name])}
    values |= json.loads(values.pop("options", "") or "{}")
    plain = {name: float(value) if isinstance(value, Number) else value for name, value in values.items()
             if value not in ("", LATER.get(name))}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_store(path: Path | None = None) -> Iterator["Store"]:
    """The store in a file. Raises ValueError if it is damaged, OSError on a full disk."""
    path = path or cache_dir() / "results.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=60, factory=Store)) as store:
            store.execute("PRAGMA journal_mode = WAL")
            with store:  # as one: several processes may open a new store, or one of fewer columns
                store.execute("BEGIN IMMEDIATE")
                store.execute("CREATE TABLE IF NOT EXISTS filled (profile PRIMARY KEY, file)")
                store.execute("CREATE TABLE IF NOT EXISTS numbers "
                              "(key, recorded, number, PRIMARY KEY (key, recorded, number))")
                there = {column for _, column, *_ in store.execute("PRAGMA table_info(numbers)")}
                for column in (column for column in COLUMNS if column not in there):
                    store.execute(f'ALTER TABLE numbers ADD COLUMN "{column}"')
            yield store
    except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
        # SQLite reports a full disk as one of several errors.
        if shutil.disk_usage(path.parent).free < 1 << 17:
            raise OSError(errno.ENOSPC, f"the disk is full: could not write {path}, which is unchanged; free "
                          "some space, or set BNTA_CACHE to a folder on another disk") from error
        raise ValueError(f"cannot open the results store {path} ({error}): if it is damaged, delete it; "
                         "recorded rows come back and others are measured again") from error


class Store(sqlite3.Connection):
    """An open store."""

    def fill(self, profile: str) -> None:
        """Insert the rows that are recorded with the suite; they replace those of an earlier file."""
        path = recorded_path(profile)
        if not path.is_file():
            return
        state = profile, f"{METHOD_VERSION} {zlib.crc32(path.read_bytes())}"
        if self.execute("SELECT 1 FROM filled WHERE (profile, file) = (?, ?)", state).fetchone():
            return
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
        rows = rows[rows["version"] == METHOD_VERSION].reindex(columns=[*COLUMNS]).assign(recorded=1)
        units = rows[[*KEY]].drop_duplicates()
        units["key"] = [key_of(unit) for unit in units.to_dict("records")]
        rows = rows.merge(units, on=[*KEY])
        with self:
            self.execute("DELETE FROM numbers WHERE profile = ? AND recorded = 1", (profile,))
            self._insert(rows.assign(number=rows.groupby("key").cumcount()))
            self.execute("REPLACE INTO filled VALUES (?, ?)", state)

    def add(self, key: str, rows: Iterable[dict]) -> None:
        """Insert rows of a unit measured here in one transaction; one that is there stays as it is."""
        rows = pd.DataFrame(rows).reindex(columns=[*COLUMNS])
        with self:
            self._insert(rows.assign(key=key, number=range(len(rows)), recorded=0))

    def _insert(self, rows: pd.DataFrame) -> None:
        rows = rows[["key", "number", *COLUMNS]].astype(object)
        names, places = ", ".join(f'"{name}"' for name in rows), ", ".join("?" * len(rows.columns))
        self.executemany(f"INSERT OR IGNORE INTO numbers ({names}) VALUES ({places})",
                         rows.where(rows.notna(), None).values.tolist())

    def rows(self, keys: Sequence[str] | None = None, recorded: bool = False) -> pd.DataFrame:
        """Rows of these units, or all: ``key``, ``number``, :data:`COLUMNS`. Missing text is "".

        If a unit has both recorded rows and rows measured here, ``recorded`` decides which are returned.
        """
        first, values = "max" if recorded else "min", []
        where = f"recorded = (SELECT {first}(recorded) FROM numbers WHERE key = n.key)"
        if keys is not None:
            where, values = f"key IN (SELECT value FROM json_each(?)) AND {where}", [json.dumps(list(keys))]
        table = pd.read_sql(f"SELECT * FROM numbers n WHERE {where} ORDER BY rowid", self, params=values,
                            dtype=dict.fromkeys(NUMBERS, float))
        table = table.fillna(dict.fromkeys(set(COLUMNS) - set(NUMBERS), ""))
        return table.astype({name: "int64" for name in WHOLE if table[name].notna().all()})


def machine(gpu: bool = True) -> str:
    """What measured: processor, threads, the GPU if there is one (and ``gpu``), and torch's version."""
    info = Path("/proc/cpuinfo")
    processors = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    gpus = [torch.cuda.get_device_name()] if gpu and torch.cuda.is_available() else []
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    return ", ".join([platform.machine(), *processors[:1], *gpus, threads, f"torch {torch.__version__}"])


def export(path: str | Path, profile: str) -> int:
    """Write a profile's rows of METHOD_VERSION but those of users' own folders as gzipped CSV, always with
    the same bytes. Recorded rows stay as they are. Returns how many rows there are."""
    with open_store() as store:
        store.fill(profile)
        rows = store.rows(recorded=True)
    rows = rows[(rows["version"] == METHOD_VERSION) & ~rows["target"].str.endswith(", own folder")
                & (rows["profile"] == profile)]
    rows = rows.sort_values([*COLUMNS[:13]], kind="stable").drop(columns=["key", "number", "recorded"])
    text = rows.astype({name: "Int64" for name in WHOLE if name in rows}).to_csv(index=False).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0))
    return len(rows)
