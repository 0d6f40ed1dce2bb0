"""Sets of person crops: the embedded benchmark, the paper's own data sets, or a folder of crops.

``data`` says which, everywhere: "embedded"; "real", the published sets below ``$BNTA_DATA``; or a
folder. A folder that holds published sets is read as those; one that holds crops in Market-1501
naming, by themselves or in query/ and bounding_box_test/, is a user's own.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from bnta_lib.rendered import benchmark
from bnta_lib.data import folders as folder
from bnta_lib.rendered.benchmark import SOURCES, TARGETS
from bnta_lib.data.integrity import problems, shared
from bnta_lib.data.catalogue import CATALOGUE
from bnta_lib.data.layouts import find_sets
from bnta_lib.data.mixture import Mixture, mixture, some_of
from bnta_lib.data.packed import Packed, pack_at_hand, packed
from bnta_lib.data.splits import target_splits
from bnta_lib.data.records import Found
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.settings import data_folder

__all__ = [
    "ReIDSet", "SOURCES", "Split", "TARGETS", "Target", "find_real", "found_table",
    "load_published", "load_source", "load_source_samples", "load_sources", "load_targets",
    "pictures_in_both", "real_mixture", "real_root", "thinned", "training_sources",
]  # fmt: skip

REAL_TARGETS = (*TARGETS, "PRID")


def load_sources(
    settings, data: str | Path = "embedded", *, device: str = "cpu", progress: bool = False
) -> ReIDSet:
    """All sources mixed into one training set; pids are 1..M over all of them.

    With ``settings.people_share`` below 1 a share of the people, evenly spaced. Of a folder in Market-1501
    naming distractors are left out. The name of published sets says which of the paper's five there are,
    with their counts, and how many unreadable images were left out when they were packed.
    A pack of published sets is read once in full, to hold it against its checksums.
    Raises FileNotFoundError or ValueError for a folder that does not serve, ValueError for a damaged pack.
    """
    return thinned(_all_sources(settings, data, device, progress), settings.people_share)


def thinned(sources: ReIDSet, share: float) -> ReIDSet:
    """A training set of a share of its people, evenly spaced over them, two at least where it has as many; pids
    are 1..M again."""
    if share == 1:
        return sources
    people = int(sources.pids.max())
    count = min(people, max(2, round(share * people)))
    kept = torch.arange(count) * people // count + 1
    rows = torch.isin(sources.pids, kept)
    number = torch.searchsorted(kept, sources.pids[rows]) + 1
    name = f"{sources.name}, {len(kept):,} of {people:,} people"
    return ReIDSet(name, sources.images[rows], number, sources.camids[rows], origin=sources.origin)


def _all_sources(settings, data: str | Path, device: str, progress: bool) -> ReIDSet:
    if data == "embedded":
        names = [name for name in SOURCES if settings.people.get(name)]
        sets = (load_source(settings, n, device=device, progress=progress) for n in names)
        return benchmark.mixed(sets, sum(settings.images[n] for n in names), "embedded sources")
    if (root := real_root(data)) is not None:
        mixed = real_mixture(root)
        pack = _sound(packed(mixed.sets, settings.size, progress=progress, skip_unreadable=None), progress)
        lost = f", {len(pack.unreadable)} unreadable images left out" if pack.unreadable else ""
        return pack.mixed(f"{mixed.name}{lost}")
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


def training_sources(settings, data: str | Path = "embedded") -> list[str]:
    """Names of the sources that a model for ``data`` is trained on; of a user's own folder, the embedded.

    Raises as :func:`real_root`.
    """
    if (root := real_root(data)) is not None:
        found = find_real(root)
        return [name for name in SOURCES if name in found]
    return [name for name in SOURCES if settings.people.get(name)]


def load_source_samples(
    settings, data: str | Path = "embedded", *, progress: bool = False
) -> dict[str, ReIDSet]:
    """Some images of each source, to look at and to compare a target's with.

    Of the embedded ones (and for a user's own folder) people whom training never sees; published
    sources have none: there it is up to four images of 100 people, of those trained on.
    Raises FileNotFoundError where no published source is there, and as :func:`real_root`.
    """
    root = real_root(data)
    if root is None:
        return {name: load_source(settings, name, "heldout", progress=progress).data for name in SOURCES}
    found = find_real(root)
    names = training_sources(settings, data)
    if not names:
        raise FileNotFoundError(f"{root} holds none of the sources {', '.join(SOURCES)}")
    return {name: _sound(packed(some_of(found[name]), settings.size, progress=progress)).as_set()
            for name in names}


def load_targets(
    settings, data: str | Path = "embedded", *, device: str = "cpu", photometric: bool = True,
    progress: bool = False,
) -> dict[str, Target]:  # fmt: skip
    """The targets by name: the embedded three, those of the published ones that are there, or a folder.

    ``photometric=False`` renders the same people and shots by cameras of true colours, without
    blur and noise: what is then left of the gap to the sources is not photometric. Warns of probes
    without a match, and of pictures that are probe and gallery or two people at once.
    Raises FileNotFoundError or ValueError for a folder that does not serve.
    """
    size = (settings.height, settings.width)
    if data == "embedded":
        more = {"device": device, "photometric": photometric, "progress": progress}
        return {n: benchmark.target(n, size, splits=settings.splits, **more) for n in TARGETS}
    if (root := real_root(data)) is not None:
        found = find_real(root)
        names = [name for name in REAL_TARGETS if name in found]
        if not names:
            raise FileNotFoundError(f"{root} holds none of the targets {', '.join(REAL_TARGETS)}; "
                                    f"{_look(root)}")
        return _looked_at({name: _real_target(found[name], settings, progress) for name in names})
    own = folder.read_target(data, size, settings.splits)
    return _looked_at({own.data.name: own})


def _looked_at(targets: dict[str, Target]) -> dict[str, Target]:
    """``targets``, after a warning for what would make their scores say something else than they seem to."""
    for target in targets.values():
        for sentence in problems(target):
            warnings.warn(sentence, stacklevel=3)
    return targets


# ---------------------------------------------------------------- published sets


def real_root(data: str | Path) -> Path | None:
    """The folder of published sets that ``data`` names; None for "embedded" and for a user's own folder.

    Raises ValueError or FileNotFoundError where ``data`` is "real" and ``$BNTA_DATA`` is not set,
    is no folder, or holds no published set.
    """
    path = data_folder(data)
    if data == "real":
        if not path.is_dir():
            raise FileNotFoundError(f"BNTA_DATA names {path}, and there is no such folder")
        if not find_real(path):
            raise FileNotFoundError(f"BNTA_DATA names {path}, which holds no published set; {_look(path)}")
        return path
    if path is None or not path.is_dir() or _is_own(path) or not find_real(path):
        return None
    return path


def find_real(root: Path) -> dict[str, Found]:
    """The published sets below ``root`` by name; looked for again only where a folder has changed."""
    stamp = _stamp(root)
    if _FOUND.get(root, (None,))[0] != stamp:
        _FOUND[root] = stamp, find_sets(root)
    return _FOUND[root][1]


_FOUND: dict[Path, tuple[int, dict[str, Found]]] = {}


def real_mixture(root: Path) -> Mixture:
    """The sources below ``root`` mixed. Raises FileNotFoundError where there is none."""
    try:
        return mixture(find_real(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"nothing to train on below {root}: {error}; {_look(root)}") from None


def pictures_in_both(settings, root: Path, sources: ReIDSet | Packed) -> dict[str, int]:
    """How many pictures of the targets below ``root`` are among ``sources``, pixel by pixel; those with any."""
    found = find_real(root)
    packs = {name: packed(found[name], settings.size, progress=False, skip_unreadable=True)
             for name in REAL_TARGETS if name in found}
    both = {name: shared(sources.images, pack.images, getattr(sources, "checks", None)) for name, pack in packs.items()}
    return {name: count for name, count in both.items() if count}


def pictures_seen(settings, root: Path) -> dict[str, int] | None:
    """:func:`pictures_in_both` of all that ``root`` has to train on, in a moment, by its pack; None where there is
    none: it is not made for this."""
    found = find_real(root)
    if not any(name in SOURCES for name in found):
        return None
    trained = pack_at_hand(mixture(found).sets, settings.size)
    return None if trained is None else pictures_in_both(settings, root, trained)


def load_published(settings, root: Path, *, progress: bool = False) -> dict[str, ReIDSet]:
    """The published sets below ``root`` to look at: some images of each source, all of each target."""
    found = find_real(root)
    return {name: packed(some_of(own) if name in SOURCES else own, settings.size, progress=progress).as_set()
            for name, own in found.items()}


def found_table(found: Mapping[str, Found]) -> pd.DataFrame:
    """The published sets and which of them were found: a row a set, counts beside the published.

    Columns: role, layout ("" where it is not there), people and images (published | here), equal.
    """
    rows = {}
    for name, about in CATALOGUE.items():
        own = found.get(name)
        people, images = (own.people, len(own)) if own else (0, 0)
        rows[name] = {"role": about.role, "layout": own.layout if own else "",
                      "people, published": about.people, "people, here": people,
                      "images, published": about.images, "images, here": images,
                      "equal": (about.people, about.images) == (people, images)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set")


def _look(root: Path) -> str:
    return f"`python -m bnta_lib.data check {shlex.quote(str(root))}` says what is there"


def _is_own(path: Path) -> bool:
    """Whether ``path`` itself holds crops in Market-1501 naming, or query/ and bounding_box_test/."""
    if (path / "query").is_dir() and (path / "bounding_box_test").is_dir():
        return True
    with os.scandir(path) as entries:
        return any(folder.is_crop(entry.name) and os.path.isfile(entry) for entry in entries)


def _stamp(root: Path) -> int:
    """What changes when a file comes or goes below ``root``, or a .mat is replaced."""
    parts, seen = [], set()
    for place, inner, names in os.walk(root, followlinks=True):
        at = os.stat(place)
        if (at.st_dev, at.st_ino) in seen:  # links that lead in a circle
            inner.clear()
            continue
        seen.add((at.st_dev, at.st_ino))
        parts.append((place, at.st_mtime_ns, len(names)))
        parts += [(name, os.lstat(os.path.join(place, name)).st_mtime_ns) for name in names
                  if name.lower().endswith(".mat")]
    return hash(tuple(sorted(parts)))


def _real_target(found: Found, settings, progress: bool) -> Target:
    splits, camids, words = target_splits(found, settings)
    pack = _sound(packed(found, settings.size, progress=progress))
    return Target(ReIDSet(found.name, pack.images, pack.pids, camids, origin="published"), splits, words)


def _sound(pack: Packed, progress: bool = False) -> Packed:
    """``pack``. Raises ValueError where it is damaged: its digest says what was written, and weights and
    scores would be of what is there."""
    if rows := pack.damaged(progress):
        raise ValueError(f"{len(rows)} pictures in {pack.folder} are not as they were written: delete that folder, "
                         "and they are packed again")
    return pack
