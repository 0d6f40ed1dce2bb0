"""Sets of person crops: the embedded benchmark, the paper's own data sets, or a folder of crops.

``data`` is "embedded"; "real", for the published sets below ``$BNTA_DATA``; or a folder. A folder that holds
published sets is read as those, and one that holds crops in Market-1501 naming as a user's own.
"""

from __future__ import annotations

import os
import warnings
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
        names = training_sources(settings)
        sets = (load_source(settings, name, device=device, progress=progress) for name in names)
        sources = benchmark.mixed(sets, sum(settings.images[name] for name in names), "embedded sources")
    elif (root := real_root(data)) is not None:
        mixed = real_mixture(root)
        made = pack(mixed.sets, settings.size, progress=progress).verified()
        lost = f", {len(made.unreadable)} unreadable images left out" if made.unreadable else ""
        sources = made.as_set(f"{mixed.name}{lost}", mixed=True)
    else:
        own = folders.read_folder(data, settings.size)
        known = own.pids > 0
        people = ReIDSet(own.name, own.images[known], own.pids[known], own.camids[known])
        sources = benchmark.mixed([people], len(people), own.name)
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
    if part == "heldout":
        return benchmark.heldout(name, settings.heldout, settings.size, splits=settings.splits, **options)
    if part != "train":
        raise ValueError(f"unknown part {part!r}: choose train or heldout")
    if name not in settings.people or name not in settings.images:
        raise ValueError(f"no counts for source {name!r}: they are set for {list(settings.people)}")
    return benchmark.source(name, settings.people[name], settings.images[name], settings.size, **options)


def training_sources(settings: Settings, data: str | Path = "embedded") -> list[str]:
    """Names of the sources that a model for ``data`` is trained on; for a user's own folder, the embedded."""
    root = real_root(data)
    there = settings.people if root is None else find_real(root)
    return [name for name in SOURCES if there.get(name)]


def load_source_samples(settings: Settings, data: str | Path = "embedded", *,
                        progress: bool = False) -> dict[str, ReIDSet]:
    """Some images of each source, to look at and to compare a target's with.

    Embedded ones (also for a user's own folder) show people whom training never sees. Published ones are
    up to four images of 100 people of those trained on. Raises FileNotFoundError if ``data`` has no source.
    """
    if (root := real_root(data)) is None:
        return {name: load_source(settings, name, "heldout", progress=progress).data for name in SOURCES}
    real_mixture(root)  # raises if there is none
    packs = {name: pack(_some_of(find_real(root)[name]), settings.size, progress=progress)
             for name in training_sources(settings, data)}
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
        targets = {name: _real_target(found, settings, options.get("progress", False))
                   for name, found in find_real(root).items() if name in REAL_TARGETS}
        if not targets:
            names = ", ".join(REAL_TARGETS)
            raise FileNotFoundError(f"{root} holds none of the targets {names}; {_look(root)}")
    for target in targets.values():
        for sentence in problems(target):
            warnings.warn(sentence, stacklevel=2)
    return targets


def _real_target(found: Found, settings: Settings, progress: bool) -> Target:
    splits, protocol = target_splits(found, settings)
    made = pack(found, settings.size, progress=progress).verified()
    if made.unreadable:
        words = f"the splits of {found.name} need every image; replace these:"
        raise ValueError("\n".join([words, *made.unreadable]))
    return Target(made.as_set(found.name), splits, protocol)


# ---------------------------------------------------------------- published sets


def real_root(data: str | Path) -> Path | None:
    """The folder of published sets that ``data`` names; None for "embedded" and for a user's own folder.

    Raises ValueError or FileNotFoundError if ``data`` is "real" and ``$BNTA_DATA`` does not serve.
    """
    path = data_folder(data)
    if path is None:
        return None
    if data == "real" and not path.is_dir():
        raise FileNotFoundError(f"BNTA_DATA names {path}, and there is no such folder")
    if data == "real" and not find_real(path):
        raise FileNotFoundError(f"BNTA_DATA names {path}, which holds no published set; {_look(path)}")
    return path if data == "real" or path.is_dir() and not folders.is_own(path) and find_real(path) else None


def find_real(root: Path) -> dict[str, Found]:
    """The published sets below ``root`` by name; searched again only if a folder has changed."""
    every = folders.walk(root, lambda error: None)
    stamp = tuple((folder, os.stat(folder).st_mtime_ns) for folder, _ in every)
    if _FOUND.get(root, ("",))[0] != stamp:
        _FOUND[root] = stamp, find_sets(root)
    return _FOUND[root][1]


_FOUND: dict[Path, tuple[tuple, dict[str, Found]]] = {}


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
        raise FileNotFoundError(f"none of the sources {', '.join(SOURCES)} is there")
    images, people = sum(map(len, sets)), sum(own.people for own in sets)
    words = ", ".join(f"{own.name}{' labeled' * own.layout.endswith('_labeled')} ({len(own):,} images, "
                      f"{own.people:,} people)" for own in sets)
    missing = [name for name in SOURCES if name not in found]
    without = f"; without {', '.join(missing)}" if missing else ""
    return Mixture(sets, images, people, f"{images:,} images of {people:,} people: {words}{without}")


def real_mixture(root: Path) -> Mixture:
    """The sources below ``root`` mixed. Raises FileNotFoundError if there is none."""
    try:
        return mixture(find_real(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"nothing to train on below {root}: {error}; {_look(root)}") from None


def load_published(settings: Settings, root: Path, *, progress: bool = False) -> dict[str, ReIDSet]:
    """The published sets below ``root`` to look at: some images of each source, all of each target."""
    parts = {name: _some_of(own) if name in SOURCES else own for name, own in find_real(root).items()}
    return {name: pack(own, settings.size, progress=progress).as_set(name) for name, own in parts.items()}


def pictures_in_both(settings: Settings, root: Path, sources: ReIDSet) -> dict[str, int]:
    """How many pictures of each target below ``root`` are among ``sources``, pixel by pixel, if any."""
    packs = {name: pack(own, settings.size, progress=False, skip_unreadable=True)
             for name, own in find_real(root).items() if name in REAL_TARGETS}
    counts = {name: shared(sources.images, own.images) for name, own in packs.items()}
    return {name: count for name, count in counts.items() if count}


def pictures_seen(settings: Settings, root: Path) -> dict[str, int] | None:
    """:func:`pictures_in_both` of all that ``root`` has to train on; None if that has no pack yet."""
    if not any(name in SOURCES for name in find_real(root)):
        return None
    sets = real_mixture(root).sets
    if not pack_folder(sets, settings.size).is_dir():
        return None
    return pictures_in_both(settings, root, pack(sets, settings.size).as_set("sources", mixed=True))


def _some_of(found: Found, people: int = 100, images: int = 4) -> Found:
    """At most so many images of so many people of a set, both evenly spread."""
    rows: dict[int, list] = {}
    for sample in found.samples:
        rows.setdefault(sample.pid, []).append(sample)
    persons = [rows[pid] for pid in sorted(rows) if pid]
    return replace(found, samples=tuple(own[i] for own in (persons[i] for i in _even(len(persons), people))
                                        for i in _even(len(own), images)))


def _even(count: int, limit: int) -> list[int]:
    return torch.linspace(0, count - 1, min(count, limit)).round().long().tolist()


def _look(root: Path) -> str:
    return f"`python -m bnta_lib.data check {root}` lists what is there"
