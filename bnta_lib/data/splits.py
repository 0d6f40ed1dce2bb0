"""Who is probe and who is in the gallery, on the published targets.

GRID has ten official splits. The suite's own ten of the others lie in ``data/splits/<set>.json``, as numbers
of people: person k is the k-th, in order of the file names, of those whom both sides show.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from bnta_lib.data.folders import files_below
from bnta_lib.data.published import SETS, Found
from bnta_lib.data.sets import Split, Target
from bnta_lib.settings import ROOT, TARGETS, Settings

SEED, COUNT = 2022, 10


def draw_splits(people: int, train: int, picked: bool = False) -> list[dict]:
    """Ten seeded splits of people 1..``people``, the first ``train`` of a shuffle for training.

    ``picked`` adds probe and gallery: for each test person a number in [0, 1) that picks an image.
    """
    splits = []
    for number in range(COUNT):
        random = np.random.default_rng([SEED, people, number])
        order = (random.permutation(people) + 1).tolist()
        splits.append({"train": sorted(order[:train]), "test": sorted(order[train:])})
        if picked:
            draws = np.floor(1e6 * random.random((people - train, 2))).T / 1e6
            splits[-1] |= zip(("probe", "gallery"), draws.tolist())
    return splits


def committed_splits(name: str) -> list[dict]:
    """The suite's ten splits of a target, from ``data/splits``."""
    return json.loads((ROOT / "data" / "splits" / f"{name.lower()}.json").read_text(encoding="utf-8"))


def official_splits(found: Found) -> list[list[int]]:
    """The people trained on in each of the ten official splits of a target, from its owner's .mat.

    Raises FileNotFoundError if the .mat is not there, ValueError if it does not hold ten such splits.
    """
    import scipy.io

    name, people = SETS[found.name].official, {sample.pid for sample in found.samples} - {0}
    mat = next((path for path in files_below(found.folder) if path.name.lower() == name), None)
    if mat is None:
        raise FileNotFoundError(f"{name} is not below {found.folder}: take it from the owner's archive")
    try:
        splits = [cell[0][0][2][0].tolist() for cell in scipy.io.loadmat(mat)["trainIdxAll"][0]]
        if len(splits) != COUNT or not all(train and set(train) < people for train in splits):
            raise ValueError(f"{len(splits)} splits, or people whom {found.folder} does not show")
    except Exception as error:  # what SciPy raises for a damaged file shares no base class
        raise ValueError(f"{mat} does not hold {found.name}'s splits ({error}): unpack it again") from error
    return splits


def target_splits(found: Found, settings: Settings) -> tuple[tuple[Split, ...], str]:
    """Splits of a target as indices into its samples, and the protocol in a sentence, for under a table.

    Raises ValueError if there are too few people, and as :func:`official_splits`.
    """
    sides = SETS[found.name].sides
    rows = {side: defaultdict(list) for side in sides or ("",)}  # of each person, in order of file names
    for row, sample in sorted(enumerate(found.samples), key=lambda numbered: numbered[1].file.name):
        rows[sample.part][sample.pid].append(row)
    first = next(iter(rows.values()))
    people = sorted(pid for pid in set(first).intersection(*rows.values())
                    if pid and (sides or len(first[pid]) > 1))
    splits, which = _splits(found, people)
    if settings.splits < len(splits):
        splits, which = splits[: settings.splits], f"the first {settings.splits} of {which}"
    if sides:
        probing = settings.viper_probe if found.name == "VIPeR" else sides[0]
        other = dict(zip(sides, sides[::-1]))
        probing = [side for side in sides if probing in (side, "both")]
        pairs = [_paired(rows[a], rows[other[a]], people, split) for split in splits for a in probing]
        how = f"single images, probes by {' and '.join(probing)}"
    else:
        several = settings.ilids_images == "multi"
        pairs = [_picked(first, people, split, several) for split in splits]
        how = f"one probe and {'all other images' if several else 'one gallery image'} of a person, at random"
    sizes = [" to ".join(str(n) for n in sorted({len(rows) for rows in side})) for side in zip(*pairs)]
    words = f"{sizes[0]} probes, {sizes[1]} gallery images, {how}; {which}."
    return tuple(Split(*map(torch.tensor, pair)) for pair in pairs), words


def _splits(found: Found, people: Sequence[int]) -> tuple[list[dict], str]:
    """Splits of ``people``, numbered from 1 in this order, and which they are in words."""
    if SETS[found.name].official:
        trains = [set(train) for train in official_splits(found)]
        return ([{"test": [k for k, pid in enumerate(people, 1) if pid not in train]} for train in trains],
                "the ten official splits")
    splits = committed_splits(found.name)
    train, whole = len(splits[0]["train"]), len(splits[0]["train"]) + len(splits[0]["test"])
    if len(people) == whole:
        return splits, f"this suite's ten seeded splits (data/splits/{found.name.lower()}.json)"
    if len(people) < 4:
        raise ValueError(f"{found.name}: {found.folder} shows {len(people)} people, too few to split")
    return (draw_splits(len(people), len(people) * train // whole, "probe" in splits[0]),
            f"ten seeded splits of {len(people)} people, since the {whole} of the published set are not all "
            "here (no published number compares)")


def _paired(probe: dict, gallery: dict, people: Sequence[int], split: dict) -> tuple[list[int], list[int]]:
    """First images of the test people by either side; the gallery adds everyone whom it alone shows."""
    test = [people[k - 1] for k in split["test"]]
    alone = [row for pid, rows in gallery.items() if not pid or pid not in probe for row in rows]
    return [probe[pid][0] for pid in test], sorted([gallery[pid][0] for pid in test] + alone)


def _picked(rows: dict, people: Sequence[int], split: dict, several: bool) -> tuple[list[int], list[int]]:
    """One image of each test person picked as probe, and one or all of the others as gallery."""
    probe, gallery = [], []
    for k, first, second in zip(split["test"], split["probe"], split["gallery"], strict=True):
        others = list(rows[people[k - 1]])
        probe.append(others.pop(int(first * len(others))))
        gallery += others if several else [others[int(second * len(others))]]
    return probe, gallery


def protocol_note(targets: Mapping[str, Target], sources: str = "", whole: bool = True) -> str:
    """For under a table: the protocol of each target that has one, and what was trained on.

    ``whole``: these are all the targets that are there, and the paper's others are named as missing.
    """
    words = [f"{name}: {target.protocol}" for name, target in targets.items() if target.protocol]
    if words:
        missing = [name for name in TARGETS if name not in targets] if whole else []
        words = ["Protocol.", *words]
        words += [f"Not there of the paper's targets: {', '.join(missing)}."] if missing else []
    return " ".join([*words, *([f"Trained on {sources}."] if sources else [])])


def with_protocol(rows: pd.DataFrame, targets: Mapping[str, Target], sources: str = "") -> pd.DataFrame:
    """Rows with columns ``protocol`` and ``sources``, if a target has a protocol."""
    words = {name: target.protocol for name, target in targets.items() if target.protocol}
    return rows.assign(protocol=rows["target"].map(words), sources=sources) if words else rows
