"""Measured rows, kept in the cache under a key of everything that decides them.

A row that was measured once with the same data, weights, settings and code is read back; a
stopped run goes on with the next. Tidy: one row a measured number.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from .files import atomic
from .settings import cache_dir

# Modules that decide a measured number; a change in any of them makes a new key.
_DECIDING = ("model", "losses", "pairing", "adaption", "baselines", "evaluation", "experiments",
             "shift", "headroom")


@functools.cache
def code_digest() -> str:
    """SHA-256 of the library's modules that decide measured numbers."""
    sha = hashlib.sha256()
    for name in _DECIDING:
        sha.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return sha.hexdigest()


def measured(experiment: str, key: dict, measure: Callable[[], list[dict]]) -> pd.DataFrame:
    """The rows of ``measure()``, from the cache where they were measured before.

    ``key`` names, JSON-able, all that decides the rows beside the code: digests of data and
    weights, settings, split, seed. The file carries a digest of its own rows: one that was cut
    short or edited is measured again.
    """
    text = json.dumps({"code": code_digest(), **key}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = cache_dir() / "results" / experiment / f"{digest[:24]}.json"
    if path.is_file():
        try:
            stored = json.loads(path.read_text())
            if stored["digest"] == _digest(stored["rows"]):
                return pd.DataFrame(stored["rows"])
        except (ValueError, KeyError, TypeError):
            pass  # not whole: measured again below, and replaced
    rows = measure()
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"key": json.loads(text), "digest": _digest(rows),
                                         "rows": rows}))
    # Through JSON, so that a row reads the same the first time and every later time.
    return pd.DataFrame(json.loads(json.dumps(rows)))


def _digest(rows: list[dict]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
