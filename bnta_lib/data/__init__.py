"""Sets of person crops: the embedded benchmark, or any folder in Market-1501 naming."""

from __future__ import annotations

from pathlib import Path

from bnta_lib.data import benchmark, folder
from bnta_lib.data.benchmark import SOURCES, TARGETS
from bnta_lib.data.sets import ReIDSet, Split, Target

__all__ = [
    "ReIDSet", "SOURCES", "Split", "TARGETS", "Target", "load_source", "load_sources",
    "load_targets",
]  # fmt: skip


def load_sources(
    settings, data: str | Path = "embedded", *, device: str = "cpu", progress: bool = False
) -> ReIDSet:
    """All sources mixed into one training set; pids are 1..M over all of them.

    ``data`` is "embedded" or a folder in Market-1501 naming (distractors are left out).
    Raises FileNotFoundError or ValueError for a folder that does not serve.
    """
    if data == "embedded":
        names = [name for name in SOURCES if settings.people.get(name)]
        sets = (load_source(settings, n, device=device, progress=progress) for n in names)
        return benchmark.mixed(sets, sum(settings.images[n] for n in names), "embedded sources")
    found = folder.read_folder(data, (settings.height, settings.width))
    known = found.pids > 0
    people = ReIDSet(found.name, found.images[known], found.pids[known], found.camids[known])
    return benchmark.mixed([people], len(people), found.name)


def load_source(
    settings, name: str, part: str = "train", *, device: str = "cpu", photometric: bool = True,
    progress: bool = False,
) -> ReIDSet | Target:  # fmt: skip
    """One embedded source: its training set, or (``part="heldout"``) other people as a target.

    Raises ValueError for an unknown name or part.
    """
    more = {"device": device, "photometric": photometric, "progress": progress}
    size = (settings.height, settings.width)
    if part == "heldout":
        return benchmark.heldout(name, settings.heldout, size, splits=settings.splits, **more)
    if part != "train":
        raise ValueError(f"unknown part {part!r}: choose train or heldout")
    if name not in settings.people or name not in settings.images:
        raise ValueError(f"no counts for source {name!r}: they are set for {list(settings.people)}")
    return benchmark.source(name, settings.people[name], settings.images[name], size, **more)


def load_targets(
    settings, data: str | Path = "embedded", *, device: str = "cpu", photometric: bool = True,
    progress: bool = False,
) -> dict[str, Target]:  # fmt: skip
    """The three embedded targets by name, or a folder as the one target.

    ``photometric=False`` renders the same people and shots by cameras of true colours, without
    blur and noise: what is then left of the gap to the sources is not photometric.
    Raises FileNotFoundError or ValueError for a folder that does not serve.
    """
    size = (settings.height, settings.width)
    if data == "embedded":
        more = {"device": device, "photometric": photometric, "progress": progress}
        return {n: benchmark.target(n, size, splits=settings.splits, **more) for n in TARGETS}
    found = folder.read_target(data, size, settings.splits)
    return {found.data.name: found}
