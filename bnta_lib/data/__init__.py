"""Sets of person crops: the embedded benchmark, the paper's own data sets, or a folder of crops.

``data`` is "embedded"; "real", for the published sets below ``$BNTA_DATA``; or a folder. A folder that holds
published sets is read as those, and one that holds crops in Market-1501 naming as a user's own.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from bnta_lib.data import folders
from bnta_lib.data.check import found_table as found_table
from bnta_lib.data.integrity import problems, shared
from bnta_lib.data.packed import pack, pack_folder
from bnta_lib.data.published import REAL_TARGETS, Found, find_sets
from bnta_lib.data.sets import ReIDSet, Split as Split, Target
from bnta_lib.data.splits import protocol_note as protocol_note, target_splits, with_protocol as with_protocol
from bnta_lib.rendered import benchmark
from bnta_lib.settings import SOURCES, TARGETS, Settings, data_folder


def load_sources(settings: Settings, data: str | Path = "embedded", *, device: str = "cpu",
                 progress: bool = False) -> ReIDSet:
    """All sources mixed into one training set, with pids 1..M over all; distractors are left out.

    ``settings.people_share`` below 1 keeps a share of the people. The name says what was mixed.
    Raises FileNotFoundError or ValueError if a folder does not serve, or a pack is damaged.
    """
    if data == "embedded":
        names = [name for name in SOURCES if settings.people.get(name)]
        sets = [load_source(settings, name, device=device, progress=progress) for name in names]
        sources = benchmark.mixed(sets, "embedded sources")
    elif (root := real_root(data)) is not None:
        mixed = real_mixture(root)
        made = pack(mixed.sets, settings.size, progress=progress).verified()
        sources = made.as_set(mixed.name, mixed=True)
    else:
        own = folders.read_folder(data, settings.size)
        known = own.pids > 0
        people = ReIDSet(own.name, own.images[known], own.pids[known], own.camids[known])
        sources = benchmark.mixed([people], own.name)
    return thinned(sources, settings.people_share)


def thinned(sources: ReIDSet, share: float) -> ReIDSet:
    """A training set of a share of its people, evenly spaced, and of two at least; pids are 1..M again."""
    if share == 1:
        return sources
    people = int(sources.pids.max())
    count = min(people, max(2, round(share * people)))
    kept = torch.arange(count) * people // count + 1
    rows = torch.isin(sources.pids, kept)
    pids = torch.searchsorted(kept, sources.pids[rows]) + 1
    name = f"{sources.name}, {count:,} of {people:,} people"
    return ReIDSet(name, sources.images[rows], pids, sources.camids[rows], origin=sources.origin)


def load_source(settings: Settings, name: str, part: str = "train", **options) -> ReIDSet | Target:
    """One embedded source: its training set, or (``part="heldout"``) other people as a target.

    ``options``: device, photometric, progress. Raises ValueError for an unknown name or part.
    """
    if part not in ("train", "heldout") or name not in settings.people:
        raise ValueError(f"no {part!r} of {name!r}: choose train or heldout, of {list(settings.people)}")
    if part == "heldout":
        return benchmark.heldout(name, settings.heldout, settings.size, splits=settings.splits, **options)
    return benchmark.source(name, settings.people[name], settings.images[name], settings.size, **options)


def load_source_samples(settings: Settings, data: str | Path = "embedded", *,
                        progress: bool = False) -> dict[str, ReIDSet]:
    """Some images of each source, to look at and to compare a target's with.

    Embedded ones (also for a user's own folder) show people whom training never sees. Published ones are
    up to four images of 100 people of those trained on. Raises FileNotFoundError if ``data`` has no source.
    """
    if (root := real_root(data)) is None:
        return {name: load_source(settings, name, "heldout", progress=progress).data for name in SOURCES}
    packs = {found.name: pack(_some_of(found), settings.size, progress=progress)
             for found in real_mixture(root).sets}
    return {name: made.verified().as_set(name) for name, made in packs.items()}


def load_targets(settings: Settings, data: str | Path = "embedded", **options) -> dict[str, Target]:
    """The targets by name: the embedded three, those of the published ones that are there, or a folder.

    ``options``: device, progress, and photometric (False renders embedded people without cameras' colours,
    blur and noise). Warns of what would falsify a score. Raises as :func:`load_sources`.
    """
    if data == "embedded":
        return {name: benchmark.target(name, settings.size, splits=settings.splits, **options)
                for name in TARGETS}
    if (root := real_root(data)) is None:
        own = folders.read_target(data, settings.size, settings.splits)
        targets = {own.data.name: own}
    else:
        found = {name: own for name, own in find_real(root).items() if name in REAL_TARGETS}
        if not found:
            raise FileNotFoundError(f"{root} holds none of the targets {', '.join(REAL_TARGETS)}; {_LOOK}")
        targets = {}
        for name, own in found.items():
            splits, protocol = target_splits(own, settings)
            made = pack(own, settings.size, progress=options.get("progress", False)).verified()
            targets[name] = Target(made.as_set(name), splits, protocol)
    for target in targets.values():
        for sentence in problems(target):
            warnings.warn(sentence, stacklevel=2)
    return targets


# ---------------------------------------------------------------- published sets

_LOOK = "`python -m bnta_lib.data check` lists what is there"
_FOUND: dict[Path, tuple[tuple, dict[str, Found]]] = {}  # by root: times of its folders, and their sets


def real_root(data: str | Path) -> Path | None:
    """The folder of published sets that ``data`` names; None for "embedded" and for a user's own folder.

    Raises ValueError or FileNotFoundError if ``data`` is "real" and ``$BNTA_DATA`` does not serve.
    """
    path = data_folder(data)
    if path is None:
        return None
    if data == "real" and not (path.is_dir() and find_real(path)):
        raise FileNotFoundError(f"BNTA_DATA names {path}, which holds no published set; {_LOOK}")
    return path if data == "real" or path.is_dir() and not folders.is_own(path) and find_real(path) else None


def find_real(root: Path) -> dict[str, Found]:
    """The published sets below ``root`` by name; searched again only if a folder has changed."""
    every = folders.walk(root, lambda error: None)
    stamp = tuple((folder, os.stat(folder).st_mtime_ns) for folder, _ in every)
    if _FOUND.get(root, ("",))[0] != stamp:
        _FOUND[root] = stamp, find_sets(root)
    return _FOUND[root][1]


class Mixture(NamedTuple):
    """The sources that are there, as one training set."""

    sets: tuple[Found, ...]  # in the paper's order, distractors left out
    images: int
    people: int  # M: a person of one set is nobody of another
    name: str  # counts, the sets with theirs, and what is missing of the paper's five


def mixture(found: Mapping[str, Found]) -> Mixture:
    """The sources among ``found``. Raises FileNotFoundError if there is none."""
    sets = tuple(replace(found[name], samples=tuple(s for s in found[name].samples if s.pid > 0))
                 for name in SOURCES if name in found)
    if not sets:
        raise FileNotFoundError(f"nothing to train on, none of the sources {', '.join(SOURCES)}; {_LOOK}")
    images, people = sum(map(len, sets)), sum(part.people for part in sets)
    words = ", ".join(f"{part.name}{' labeled' * part.layout.endswith('_labeled')} ({len(part):,} images, "
                      f"{part.people:,} people)" for part in sets)
    missing = [name for name in SOURCES if name not in found]
    without = f"; without {', '.join(missing)}" if missing else ""
    return Mixture(sets, images, people, f"{images:,} images of {people:,} people: {words}{without}")


def real_mixture(root: Path) -> Mixture:
    """The sources below ``root`` mixed. Raises FileNotFoundError if there is none."""
    return mixture(find_real(root))


def load_published(settings: Settings, root: Path, *, progress: bool = False) -> dict[str, ReIDSet]:
    """The published sets below ``root`` to look at: some images of each source, all of each target."""
    parts = {name: _some_of(found) if name in SOURCES else found for name, found in find_real(root).items()}
    return {name: pack(part, settings.size, progress=progress).as_set(name) for name, part in parts.items()}


def pictures_seen(settings: Settings, root: Path) -> dict[str, int]:
    """How many pictures of each target below ``root`` are among its sources, pixel by pixel, if any.

    Empty if the sources are not packed yet.
    """
    found = find_real(root)
    if not set(found) & set(SOURCES) or not pack_folder(real_mixture(root).sets, settings.size).is_dir():
        return {}
    sources = pack(real_mixture(root).sets, settings.size).images
    counts = {name: shared(sources, pack(found[name], settings.size, progress=False).images)
              for name in REAL_TARGETS if name in found}
    return {name: count for name, count in counts.items() if count}


def _some_of(found: Found, people: int = 100, images: int = 4) -> Found:
    """At most so many images of so many people of a set, both evenly spread."""
    of_person = defaultdict(list)
    for sample in found.samples:
        of_person[sample.pid].append(sample)
    pids = _evenly(sorted(set(of_person) - {0}), people)
    return replace(found, samples=tuple(sample for pid in pids for sample in _evenly(of_person[pid], images)))


def _evenly(items: list, limit: int) -> list:
    return [items[i] for i in torch.linspace(0, len(items) - 1, min(len(items), limit)).round().long()]
