"""The results store: every measured number once, under a key of everything that decides it.

A measurement is a file ``results/<profile>/<experiment>/<key>.json`` in the cache, written whole
or not at all. It holds tidy rows, one a measured number, with :data:`COLUMNS`, and the digest of
its own content. What was measured before with the same data, weights, settings and code is read
back; a stopped run goes on with the first measurement it lacks; a file that was edited or cut
short is named in a warning and measured again.

``python -m bnta_lib.suite.store`` says what the store holds; ``--export FILE`` writes its rows.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bnta_lib.files import atomic
from bnta_lib.settings import PROFILES, cache_dir, device_of

# A row's columns. `setting` says what was done, `seconds` how long the measurement took that the
# row belongs to, `code` is a digest of the modules that decide the number, `data` and `weights`
# those of the images and of the model it was measured with, `sample` of the probes, gallery and
# switches of torch, which have no words of their own. Rows may have details in further
# columns (a layer, a quantity).
COLUMNS = ("experiment", "profile", "dataset", "split", "seed", "setting", "metric", "value",
           "unit", "seconds", "machine", "code", "data", "weights", "sample")
SHORT = 12  # digits of a digest in a row; the key in the store's file holds all of them

# The library's files as they were when this process loaded it: what it runs, whatever is edited since.
_HERE = Path(__file__).parents[1]
_LOADED = {path.relative_to(_HERE).with_suffix("").as_posix(): path.read_bytes() for path in _HERE.rglob("*.py")}

# Modules that decide every measured number; the module that measures is added to them. A change
# in any of them makes a new key.
_DECIDING = ("model", "losses", "pairing", "adaption", "weights", "adapters", "evaluation",
             "suite/experiments", "suite/shift")


def code_digest(module: str = "") -> str:
    """SHA-256 of the modules that decide the numbers measured by ``module`` of this library, as this
    process loaded them; as they are now where IPython's autoreload follows them."""
    package, _, own = module.rpartition(".")
    return digest_of({*_DECIDING, *([f"suite/{own}"] if package == __package__ else [])})


def digest_of(modules: Iterable[str]) -> str:
    """SHA-256 of modules of this library, as in :func:`code_digest`."""
    sha, followed = hashlib.sha256(), "IPython.extensions.autoreload" in sys.modules
    for name in sorted(modules):
        sha.update((_HERE / f"{name}.py").read_bytes() if followed else _LOADED[name])
    return sha.hexdigest()


def library_digest() -> str:
    """SHA-256 of all modules of this library, as in :func:`code_digest`."""
    return digest_of(_LOADED)


@functools.cache
def machine(gpu: bool = True) -> str:
    """What measured: processor, threads, the GPU if there is one (and ``gpu``), and torch's version."""
    names = [platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names += [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")][:1]
    except OSError:
        pass  # another system: the architecture has to do
    if gpu and torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    names.append(f"{torch.get_num_threads()} threads of {os.cpu_count()}")
    return ", ".join([*names, f"torch {torch.__version__}"])


def measured(
    experiment: str,
    key: dict,
    measure: Callable[[], list[dict]],
    *,
    module: str = "",
    profile: str = "",
    dataset: str = "",
    split: int = -1,
    seed: int = 0,
    setting: str = "",
) -> pd.DataFrame:
    """The rows of ``measure()``, from the store where they were measured before.

    ``key`` names, JSON-able, all that decides the rows beside the code: digests of data and
    weights, settings, split, seed; ``module`` is the one of this library that measures (that of
    ``measure``, if not said); the other keyword arguments only say so in words (``split`` -1: all
    of them). ``measure`` gives rows with metric, value, perhaps unit and seconds, and details;
    the result has :data:`COLUMNS` and the details. Raises what ``measure`` raises: nothing is
    stored then.
    """
    code = code_digest(module or measure.__module__)
    path, key = _place(experiment, key, code, profile)
    rows = _read(path, key)
    if rows is not None:
        return pd.DataFrame(rows)
    _warn_of(path, experiment)
    start = time.perf_counter()
    found = measure()
    seconds = round(time.perf_counter() - start, 3)
    about = {"experiment": experiment, "profile": profile, "dataset": dataset, "split": split,
             "seed": seed, "setting": setting, "metric": "", "value": math.nan, "unit": "",
             "seconds": seconds, "machine": machine(device_of(profile).type == "cuda"), "code": code[:SHORT],
             **_origins(key)}
    rows = [{**about, **row} for row in found]
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "rows": rows, "digest": _digest(key, rows)}))
    # Through JSON, so that a row reads the same the first time and every later time.
    return pd.DataFrame(json.loads(json.dumps(rows)))


def known(experiment: str, key: dict, module: str, *, profile: str = "") -> bool:
    """Whether the store has what ``module`` would measure by :func:`measured` with this key."""
    path, key = _place(experiment, key, code_digest(module), profile)
    if _read(path, key) is not None:
        return True
    _warn_of(path, experiment)
    return False


def held(experiment: str, key: dict, module: str, *, profile: str = "") -> str:
    """What the store's file of a measurement holds, to carry to another machine's store."""
    return _place(experiment, key, code_digest(module), profile)[0].read_text()


def keep(experiment: str, key: dict, module: str, text: str, *, profile: str = "") -> None:
    """Write what :func:`held` gave on another machine, unless the store has the measurement.

    Raises ValueError where it is another measurement than the one asked for, for one by another
    version of the library, or was damaged on its way.
    """
    path, key = _place(experiment, key, code_digest(module), profile)
    if _read(path, key) is not None:
        return
    try:
        measured = json.loads(text)
        good = measured["digest"] == _digest(measured["key"], measured["rows"])
        other = {name for name in key.keys() | measured["key"].keys()
                 if key.get(name) != measured["key"].get(name)}
    except (ValueError, KeyError, TypeError, AttributeError):
        good, other = False, set()
    if not good:
        raise ValueError(f"a measurement of {experiment} came damaged from the machine that made it")
    if other:
        raise ValueError(f"the machine that measured {experiment} did so with other {', '.join(sorted(other))} "
                         "(code: another version of this library is installed there)")
    with atomic(path) as temporary:
        temporary.write_text(text)


def _place(experiment: str, key: dict, code: str, profile: str) -> tuple[Path, dict]:
    """Where a measurement is stored, and its key as JSON keeps it."""
    text = json.dumps({"code": code, **key, **_numerics()}, sort_keys=True)
    return _path(experiment, text, profile), json.loads(text)


def _path(experiment: str, key: str, profile: str) -> Path:
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    return cache_dir() / "results" / (profile or "any") / experiment / name


def _numerics() -> dict:
    """Switches of torch that decide how a processor or a GPU rounds, where they are not as they come."""
    own = {"oneDNN": torch.backends.mkldnn.enabled, "matmul": torch.get_float32_matmul_precision(),
           "dtype": str(torch.get_default_dtype()), "tf32": torch.backends.cudnn.allow_tf32,
           "deterministic": torch.are_deterministic_algorithms_enabled()}
    usual = {"oneDNN": True, "matmul": "highest", "dtype": "torch.float32", "tf32": True,
             "deterministic": False}
    changed = {name: value for name, value in own.items() if value != usual[name]}
    return {"numerics": changed} if changed else {}


def _origins(key: dict) -> dict[str, str]:
    """What a row says of its key beside words: digests, short ones."""
    sample = [key.get(name) for name in ("probe", "gallery", "numerics")]
    digest = hashlib.sha256(json.dumps(sample).encode()).hexdigest() if any(sample) else ""
    return {"data": key.get("data", "")[:SHORT], "weights": key.get("model", "")[:SHORT], "sample": digest[:SHORT]}


def _warn_of(path: Path, experiment: str) -> None:
    if path.is_file():
        warnings.warn(f"{path.name}, a measurement of {experiment}, was edited or cut short, or is of another "
                      "measurement: it is measured again", stacklevel=3)


def stored(profile: str | None = None) -> pd.DataFrame:
    """All rows of the store (of a profile), those of earlier code too: :data:`COLUMNS`, details.

    ``current`` (bool) tells rows that the code of today would read back. Damaged files are named
    in a warning and left out.
    """
    codes = {code_digest(f"{__package__}.{path.stem}")[:SHORT]
             for path in Path(__file__).parent.glob("*.py")}
    tables, damaged = [pd.DataFrame(columns=[*COLUMNS])], []
    for path in sorted((cache_dir() / "results").glob(f"{profile or '*'}/*/*.json")):
        rows = _read(path)
        tables += [pd.DataFrame(rows)] if rows is not None else []
        damaged += [path.name] if rows is None else []
    if damaged:
        warnings.warn(f"{len(damaged)} files of the store were edited, cut short or moved, for one "
                      f"{damaged[0]}: they will be measured again when they are needed", stacklevel=2)
    table = pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)
    return table.assign(current=table["code"].isin(codes))


def of_the_suite(rows: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`stored`, what today's code measured on rendered or published sets: a user's own folders
    have names that are nobody else's."""
    own = rows["dataset"].astype(str).str.endswith(", own folder")
    return rows[rows["current"] & ~own].drop(columns="current")


def refuse_mixed(rows: pd.DataFrame) -> None:
    """Raise ValueError, saying which, where rows of several origins stand under one name.

    In one table all rows are of one profile, all of an experiment by one code, all of a target
    (column ``target``, else ``dataset``) on the same data, all of a training with the same
    weights, all of a method with the same settings, all of a metric in one unit, and all of an experiment and
    split of a target on the same probes and gallery, with the same switches of torch. What has no such
    column, or nothing in it, is not from the store: nothing is said of it. No value is NaN or infinite.
    """
    target = "target" if "target" in rows else "dataset"
    training = rows.get("setting", pd.Series("", rows.index)).str.extract(r"^training ([^,]+)")[0]
    rows = rows.assign(training=training)
    if "method" in rows and "setting" in rows:
        rows["row"] = rows["method"].str.cat(rows["experiment"], " of ") if "experiment" in rows else rows["method"]
    if "experiment" in rows and "split" in rows and target in rows:
        rows["split of a target"] = [f"{split} of {name} in {experiment}" for split, name, experiment in
                                     zip(rows["split"], rows[target], rows["experiment"])]
    for origin, name in (("profile", None), ("code", "experiment"), ("data", target), ("weights", "training"),
                         ("setting", "row"), ("unit", "metric"), ("sample", "split of a target")):
        if origin not in rows or name is not None and name not in rows:
            continue
        known = rows[rows[origin].notna() & (rows[origin] != "")]
        groups = [("", known)] if name is None else known.groupby(name, sort=False)
        for value, own in groups:
            several = own[origin].unique()
            if len(several) > 1:
                of = f" of the {name} {value}" if name else ""
                raise ValueError(f"one table cannot hold these rows together: those{of} are of {len(several)} "
                                 f"different {origin} ({', '.join(map(str, several))}); take those of one")
    broken = rows[~np.isfinite(rows["value"].astype(float))] if "value" in rows else rows[:0]
    if len(broken):
        of = ", ".join(f"{name} {broken[name].iloc[0]}" for name in ("method", target, "split", "metric") if name in rows)
        raise ValueError(f"{len(broken)} of these rows hold no number, for one that of {of}: measure it again")


def write_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """Write rows as CSV, gzipped where the name ends in .gz: the same rows are the same bytes."""
    data = rows.to_csv(index=False).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)


def _read(path: Path, key: dict | None = None) -> list[dict] | None:
    """The rows of a file of the store; None where it is not as it was written, nor where, or of another ``key``."""
    try:
        held = json.loads(path.read_text())
        if held["digest"] != _digest(held["key"], held["rows"]) or key not in (None, held["key"]):
            return None
        first = held["rows"][0] if held["rows"] else {"experiment": path.parent.name, "profile": path.parts[-3]}
        if path != _path(first["experiment"], json.dumps(held["key"], sort_keys=True), first["profile"]):
            return None
        # Files of earlier code say so in their key alone.
        return [{**row, **_origins(held["key"])} for row in held["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(key: dict, rows: list[dict]) -> str:
    return hashlib.sha256(json.dumps([key, rows], sort_keys=True).encode()).hexdigest()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.store",
                                     description="What the results store holds.")
    parser.add_argument("--profile", help="default: all")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the rows as CSV (.csv, .csv.gz)")
    chosen = parser.parse_args(arguments)
    if chosen.profile not in (None, *PROFILES):
        raise SystemExit(f"unknown profile {chosen.profile!r}: choose one of {', '.join(PROFILES)}")
    if chosen.export and not chosen.export.name.lower().endswith((".csv", ".csv.gz")):
        raise SystemExit(f"--export writes CSV: end the name in .csv or .csv.gz, and not as "
                         f"{chosen.export.name}")
    rows = stored(chosen.profile)
    if rows.empty:
        of = f" of the profile {chosen.profile}" if chosen.profile else ""
        raise SystemExit(f"the store {cache_dir() / 'results'} is empty{of}: make reproduce measures")
    if chosen.export:
        try:
            kept = of_the_suite(rows)
            write_rows(kept.sort_values([*COLUMNS[:7]], kind="stable"), chosen.export)
        except OSError as error:
            raise SystemExit(f"cannot write the rows: {error}") from None
        other = int(rows["current"].sum()) - len(kept)
        print(f"wrote {len(kept)} rows to {chosen.export}" + (f"; not {other} of own folders" if other else ""))
        return
    units = rows.drop_duplicates(["experiment", "profile", "dataset", "split", "seed", "setting", "code"])
    keys = ["profile", "experiment", "current"]
    table = rows.groupby(keys).size().rename("numbers").to_frame()
    table["minutes"] = units.groupby(keys)["seconds"].sum().div(60).round(1)
    table = table.reset_index().sort_values(["profile", "current", "experiment"],
                                            ascending=[True, False, True])
    table["code"] = table.pop("current").map({True: "of today", False: "earlier"})
    print(f"{cache_dir() / 'results'}: {len(rows)} numbers, {int(rows['current'].sum())} of today's code\n\n"
          f"{table.to_string(index=False)}\n\nRows of earlier code are kept, and not read back.")


if __name__ == "__main__":
    main()
