"""Sets of person crops: the embedded benchmark, the paper's own data sets, or a folder of crops.

``data`` is "embedded"; "real", for the published sets below ``$BNTA_DATA``; or a folder, of published sets or
of a user's own crops.
"""

import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.data.listing import walk
from bnta_lib.data.packed import pack
from bnta_lib.data.published import REAL_TARGETS, Found, find_sets, target_splits
from bnta_lib.data.sets import ReIDSet, Target, is_own, read_folder, read_target
from bnta_lib.rendered import benchmark
from bnta_lib.settings import SOURCES, TARGETS, Settings

_LOOK = "`python -m bnta_lib.data check` lists what is there"
_found = functools.lru_cache(maxsize=8)(lambda root, times: find_sets(root))  # times: of the folders


def data_folder(data: str | Path) -> Path | None:
    """The folder of ``data``: a path, or "real" for ``$BNTA_DATA``; None for "embedded".

    Raises ValueError for "real" without that variable, and for an empty path or an address.
    """
    if data == "embedded":
        return None
    if data == "real":
        data = os.environ.get("BNTA_DATA", "")
        if not data.strip():
            raise ValueError("BNTA_DATA is not set: set it to the folder of the published sets")
    if not str(data).strip() or "://" in str(data):
        raise ValueError(f'data is "embedded", "real" or a folder; got {str(data)!r}')
    return Path(data).expanduser().resolve()


def load_sources(settings: Settings, data: str | Path = "embedded", *, progress: bool = False) -> ReIDSet:
    """All sources mixed into one training set, with pids 1..M over all; distractors are left out.

    The name lists what was mixed. Raises FileNotFoundError or ValueError if the data cannot be used.
    """
    if data == "embedded":
        names = [name for name in SOURCES if settings.people.get(name)]
        sets = [load_source(settings, name, progress=progress) for name in names]
        return benchmark.mixed(sets, "embedded sources")
    _refuse_misaligned(settings)
    if (root := real_root(data)) is not None:
        return pack(mixture(find_real(root)), settings.size, progress=progress)
    crops = read_folder(data, settings.size)
    known = crops.pids > 0
    pids = torch.unique(crops.pids[known], return_inverse=True)[1] + 1
    return ReIDSet(crops.name, crops.images[known], pids, crops.camids[known])


def load_source(settings: Settings, name: str, part: str = "train", **options) -> ReIDSet | Target:
    """One embedded source: its training set, or (``part="heldout"``) other people as a target.

    ``options``: photometric, progress. Raises ValueError for an unknown name or part.
    """
    if part not in ("train", "heldout") or name not in settings.people:
        raise ValueError(f"no {part!r} of {name!r}: choose train or heldout, of {list(settings.people)}")
    options["misaligned"] = settings.misaligned
    if part == "heldout":
        return benchmark.heldout(name, settings.heldout, settings.size, splits=settings.splits, **options)
    return benchmark.source(name, settings.people[name], settings.images[name], settings.size, **options)


def load_source_samples(settings: Settings, data: str | Path = "embedded", *,
                        progress: bool = False) -> dict[str, ReIDSet]:
    """Some images of each source: embedded ones of people whom training never sees, or published ones.

    Raises FileNotFoundError if published sets are without a source.
    """
    if (root := real_root(data)) is None:
        return {name: load_source(settings, name, "heldout", progress=progress).data for name in SOURCES}
    mixture(find_real(root))  # that there is a source
    published = load_published(settings, root, progress=progress)
    return {name: published[name] for name in SOURCES if name in published}


def load_targets(settings: Settings, data: str | Path = "embedded", *, progress: bool = False,
                 **options) -> dict[str, Target]:
    """The targets by name: the embedded three, the published ones that are there, or a folder.

    ``options`` of the embedded: photometric (False: without cameras' colours, blur and noise).
    Warns of what would falsify a score. Raises as :func:`load_sources`.
    """
    if data == "embedded":
        options |= {"splits": settings.splits, "progress": progress, "misaligned": settings.misaligned}
        return {name: benchmark.target(name, settings.size, **options) for name in TARGETS}
    _refuse_misaligned(settings)
    if (root := real_root(data)) is None:
        target = read_target(data, settings.size, settings.splits)
        targets = {target.data.name: target}
    else:
        published = {name: copy for name, copy in find_real(root).items() if name in REAL_TARGETS}
        if not published:
            raise FileNotFoundError(f"{root} holds none of the targets {', '.join(REAL_TARGETS)}; {_LOOK}")
        targets = {name: Target(pack(copy, settings.size, progress=progress), *target_splits(copy, settings))
                   for name, copy in published.items()}
    for target in targets.values():
        for sentence in target.problems():
            warnings.warn(sentence, stacklevel=2)
    return targets


def _refuse_misaligned(settings: Settings) -> None:
    if settings.misaligned:
        raise ValueError("misaligned boxes are rendered: use the embedded sources and targets")


def load_published(settings: Settings, root: Path, *, progress: bool = False) -> dict[str, ReIDSet]:
    """The published sets below ``root`` to look at: some images of each source, all of each target."""
    return {name: pack(_some_of(copy) if name in SOURCES else copy, settings.size, progress=progress)
            for name, copy in find_real(root).items()}


def real_root(data: str | Path) -> Path | None:
    """The folder of published sets that ``data`` names; None for "embedded" and for a user's own folder.

    Raises ValueError or FileNotFoundError if it is "real" and ``$BNTA_DATA`` names no such sets.
    """
    path = data_folder(data)
    if path and path.is_dir() and (data == "real" or not is_own(path)) and find_real(path):
        return path
    if data == "real":
        raise FileNotFoundError(f"BNTA_DATA names {path}, which holds no published set; {_LOOK}")
    return None


def find_real(root: Path) -> dict[str, Found]:
    """The published sets below ``root`` by name; searched again only if a folder has changed."""
    return _found(root, tuple((folder, os.stat(folder).st_mtime_ns) for folder, *_ in walk(root)))


def mixture(published: Mapping[str, Found]) -> Found:
    """The sources among ``published`` as one set, pids 1..M. Raises FileNotFoundError if there is none."""
    sets = [published[name] for name in SOURCES if name in published]
    if not sets:
        raise FileNotFoundError(f"nothing to train on, none of the sources {', '.join(SOURCES)}; {_LOOK}")
    samples, people, cameras = [], 0, 0
    for part in sets:
        number = {pid: people + k for k, pid in enumerate(sorted({s.pid for s in part.samples}), 1)}
        samples += (replace(s, pid=number[s.pid], camid=cameras + s.camid) for s in part.samples)
        people, cameras = people + len(number), max(sample.camid for sample in samples)
    counts = ", ".join(f"{part.name} ({len(part):,} images, {part.people:,} people)" for part in sets)
    missing = ", ".join(name for name in SOURCES if name not in published)
    note = f"{len(samples):,} images of {people:,} people: {counts}{missing and f'; without {missing}'}"
    folder = os.path.commonpath([part.folder for part in sets])
    return Found("+".join(part.name for part in sets), Path(folder), tuple(samples), note)


def _some_of(copy: Found, people: int = 100, images: int = 4) -> Found:
    """At most so many people of a set, evenly spread, and of each so many images, drawn with a seed."""
    pids = pd.Series([sample.pid for sample in copy.samples])
    some = pids.drop_duplicates().sort_values().iloc[:: -(-pids.nunique() // people)]
    rows = pids[pids.isin(some)].sample(frac=1, random_state=0).groupby(pids).head(images).index
    return replace(copy, samples=tuple(copy.samples[row] for row in sorted(rows)))
