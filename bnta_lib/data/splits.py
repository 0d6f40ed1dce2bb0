"""Who is a probe and who is in the gallery, on the paper's targets as they are published.

GRID has ten official splits, in its ``features_and_partitions.mat``. VIPeR, iLIDS and PRID have
none: the suite's own ten lie in ``data/splits``, as numbers of people, and :func:`write_splits`
names the files of a user's own copy after them, as torchreid keeps its splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bnta_lib.data.folders import files_below
from bnta_lib.data import matlab
from bnta_lib.data.records import Found, Sample
from bnta_lib.data.sets import Split, Target
from bnta_lib.files import a_path, atomic
from bnta_lib.settings import ROOT, Settings

SPLITS = ROOT / "data" / "splits"
SEED, COUNT = 2022, 10
# People that a set's seeded splits are drawn from, and how many of them are for training.
PEOPLE = {"VIPeR": (632, 316), "iLIDS": (119, 59), "PRID": (200, 100)}
PAPER_TARGETS = ("VIPeR", "GRID", "iLIDS")
# Probe and gallery images of a split where a set is whole (the paper's Table 1; single images).
SIZES = {"VIPeR": (316, 316), "GRID": (125, 900), "iLIDS": (60, 60), "PRID": (100, 649)}
RULE = {
    "VIPeR": "person k of the file names in order, from 1",
    "iLIDS": "person k of the file names in order, from 1; of a test person's n images in order "
             "of their names, the probe is number floor(probe * n) from 0, and of the n - 1 others "
             "the gallery image is number floor(gallery * (n - 1))",
    "PRID": "person k is person_000k of the file names; the gallery adds everybody whom only the "
            "second camera saw",
}
_DRAWN = ("random = numpy.random.default_rng([seed, {people}, split]); train = the first {train} "
          "of random.permutation({people}) + 1, test = the others")
_PICKED = "; then probe, gallery = the columns of random.random(({test}, 2)), cut to 6 digits"

TORCHREID = {"VIPeR": "viper/splits.json", "GRID": "grid/splits.json",
             "iLIDS": "ilids/splits.json", "PRID": "prid2011/splits_single_shot.json"}


# ---------------------------------------------------------------- splits of people


def draw_splits(name: str, people: int, train: int, count: int = COUNT, seed: int = SEED) -> list[dict]:
    """``count`` seeded splits of people 1..``people``, the ``train`` first of a shuffle for training.

    Each with set, split, seed, rule (in words), train and test; for iLIDS also probe and gallery:
    a number in [0, 1) for each test person, that picks among the person's images.
    """
    rule = _DRAWN.format(people=people, train=train)
    rule += _PICKED.format(test=people - train) if name == "iLIDS" else ""
    splits = []
    for number in range(count):
        random = np.random.default_rng([seed, people, number])
        order = random.permutation(people) + 1
        split = {"set": name, "split": number, "seed": seed, "rule": f"{rule}; {RULE[name]}",
                 "train": sorted(order[:train].tolist()), "test": sorted(order[train:].tolist())}
        if name == "iLIDS":
            probe, gallery = np.floor(1e6 * random.random((people - train, 2))).T / 1e6
            split |= {"probe": probe.tolist(), "gallery": gallery.tolist()}
        splits.append(split)
    return splits


def committed_splits(name: str) -> list[dict]:
    """The suite's ten splits of VIPeR, iLIDS or PRID, as ``data/splits`` has them.

    Raises FileNotFoundError or ValueError where the file is absent or was edited.
    """
    path, (people, train) = SPLITS / f"{name.lower()}.json", PEOPLE[name]
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        whole = len(splits) == COUNT and all(
            len(split["train"]) == train
            and sorted(split["train"] + split["test"]) == list(range(1, people + 1))
            for split in splits)
    except FileNotFoundError:
        raise FileNotFoundError(f"no data/splits/{path.name}: restore it from version control") from None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"data/splits/{path.name} does not part {people} people {COUNT} times: restore it "
                         "from version control")
    return splits


def official_splits(found: Found) -> list[list[int]]:
    """The 125 training ids of each of GRID's ten official splits, from its .mat.

    Raises FileNotFoundError where the .mat is not beside the images, ValueError where it does not
    hold the splits or they name people whom the images do not show.
    """
    mats = [path for path in files_below(found.folder) if path.name.lower() == "features_and_partitions.mat"]
    mat = next((path for path in mats if path.is_file()), None)
    if mat is None:
        raise FileNotFoundError("GRID's ten splits are in its features_and_partitions.mat, which is not "
                                f"below {found.folder}: take it from the owner's archive")
    try:
        splits = matlab.read("partitions", mat)
    except PermissionError as error:
        raise PermissionError(f"{mat} holds GRID's splits and may not be read by you: change its permissions "
                              "or copy it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{mat} does not hold GRID's splits, or is damaged ({error}): take it from the "
                         "owner's archive") from error
    people = {sample.pid for sample in found.samples} - {0}
    if len(splits) != 10:
        raise ValueError(f"{mat} holds {len(splits)} splits instead of ten: take it from the owner's archive")
    for number, train in enumerate(splits):
        if not train or len(set(train)) < len(train) or not set(train) < people:
            raise ValueError(f"{mat}: split {number} trains on people whom {found.folder} does not show: "
                             "take both from the owner's archive")
    return splits


# ---------------------------------------------------------------- splits of images


def target_splits(found: Found, settings: Settings) -> tuple[tuple[Split, ...], Tensor, str]:
    """Splits of a found target as indices into its samples, cameras (N,), and the protocol.

    At most ``settings.splits`` splits of people. VIPeR's direction is ``settings.viper_probe``,
    iLIDS's images are ``settings.ilids_images``. The protocol is one sentence, for under a table.
    Raises ValueError for a set that is no target or has too few people, and as the splits do.
    """
    build = {"VIPeR": _viper, "GRID": _grid, "iLIDS": _ilids, "PRID": _prid}
    if found.name not in build:
        raise ValueError(f"{found.name} is no target: the targets are {', '.join(build)}")
    camids = torch.tensor([sample.camid for sample in found.samples])
    if found.name == "iLIDS":  # its cameras are not published: no match may count as the same one's
        camids = _number_within(found.samples)
    pairs, words = build[found.name](found, settings)
    splits = tuple(Split(torch.tensor(probe), torch.tensor(gallery)) for probe, gallery in pairs)
    return splits, camids, words


def _chosen(found: Found, settings: Settings, people: Sequence[int]) -> tuple[list[dict], str]:
    """Seeded splits of ``people`` (numbered from 1 in this order), and which they are in words."""
    whole, train = PEOPLE[found.name]
    if len(people) == whole:
        splits, words = committed_splits(found.name), f"data/splits/{found.name.lower()}.json"
        kept = splits[: settings.splits]
        first = f"the first {len(kept)} of " if len(kept) < len(splits) else ""
        return kept, f"{first}this suite's ten seeded splits ({words})"
    if len(people) < 4:
        raise ValueError(f"{found.name}: {found.folder} shows {len(people)} people by two images or more, "
                         "too few to split")
    kept = draw_splits(found.name, len(people), len(people) * train // whole, min(settings.splits, COUNT))
    return kept, (f"{len(kept)} seeded splits of {len(people)} people, since the {whole} of the published "
                  "set are not all here: no published number compares")


def _sides(found: Found) -> tuple[dict[int, int], dict[int, int]]:
    """Row of each person's first image by camera 1, and by camera 2."""
    first, second = {}, {}
    for row, sample in enumerate(found.samples):
        if sample.pid:
            (first if sample.camid == 1 else second).setdefault(sample.pid, row)
    return first, second


def _viper(found: Found, settings: Settings):
    a, b = _sides(found)
    people = sorted(a.keys() & b.keys())
    chosen, which = _chosen(found, settings, people)
    pairs = []
    for split in chosen:
        test = [people[k - 1] for k in split["test"]]
        sides = [a[pid] for pid in test], [b[pid] for pid in test]
        pairs += [sides] if settings.viper_probe != "cam_b" else []
        pairs += [sides[::-1]] if settings.viper_probe != "cam_a" else []
    direction = {"cam_a": "cam_a probes cam_b", "cam_b": "cam_b probes cam_a",
                 "both": "each split twice: cam_a probes cam_b, and cam_b probes cam_a"}
    return pairs, _words(pairs, f"single images, {direction[settings.viper_probe]}", which)


def _grid(found: Found, settings: Settings):
    official = official_splits(found)[: settings.splits]
    is_probe = [sample.part == "probe" for sample in found.samples]
    pairs = []
    for train in official:
        test = [row for row, sample in enumerate(found.samples) if sample.pid not in set(train)]
        pairs.append(([row for row in test if is_probe[row] and found.samples[row].pid],
                      [row for row in test if not is_probe[row]]))
    others = sum(not sample.pid for sample in found.samples)
    first = "" if len(official) == COUNT else f"first {len(official)} of the "
    how = f"single images, {others} of the gallery of people whom nobody asks for"
    return pairs, _words(pairs, how, f"the {first}ten official splits")


def _ilids(found: Found, settings: Settings):
    rows: dict[int, list[int]] = {}
    for row in sorted(range(len(found)), key=lambda row: found.samples[row].file.name):
        rows.setdefault(found.samples[row].pid, []).append(row)
    people = sorted(pid for pid, own in rows.items() if pid and len(own) > 1)
    chosen, which = _chosen(found, settings, people)
    pairs = []
    for split in chosen:
        probe, gallery = [], []
        for k, first, second in zip(split["test"], split["probe"], split["gallery"], strict=True):
            own = list(rows[people[k - 1]])
            probe.append(own.pop(int(first * len(own))))
            gallery += own if settings.ilids_images == "multi" else [own[int(second * len(own))]]
        pairs.append((probe, gallery))
    images = ("all other images of a person in the gallery" if settings.ilids_images == "multi"
              else "one gallery image a person")
    return pairs, _words(pairs, f"one probe image and {images}, drawn at random", which)


def _prid(found: Found, settings: Settings):
    a, b = _sides(found)
    people = sorted(a.keys() & b.keys())
    alone = [row for row, sample in enumerate(found.samples)
             if sample.camid == 2 and (not sample.pid or sample.pid not in a)]
    chosen, which = _chosen(found, settings, people)
    pairs = []
    for split in chosen:
        test = [people[k - 1] for k in split["test"]]
        pairs.append(([a[pid] for pid in test], [b[pid] for pid in test] + alone))
    how = f"single images, cam_a probes cam_b, {len(alone)} of the gallery seen by cam_b alone"
    return pairs, _words(pairs, how, which)


def _words(pairs: Sequence[tuple[list[int], list[int]]], how: str, which: str) -> str:
    sizes = [sorted({len(own) for own in side}) for side in zip(*pairs)]
    probes, gallery = (" to ".join(str(size) for size in dict.fromkeys((own[0], own[-1]))) for own in sizes)
    return f"{probes} probes, {gallery} gallery images, {how}; {which}."


def _number_within(samples: Sequence[Sample]) -> Tensor:
    """For each sample, which of its person's images it is, from 1 in order of file names."""
    numbers, seen = torch.zeros(len(samples), dtype=torch.int64), {}
    for row in sorted(range(len(samples)), key=lambda row: samples[row].file.name):
        seen[samples[row].pid] = seen.get(samples[row].pid, 0) + 1
        numbers[row] = seen[samples[row].pid]
    return numbers


# ---------------------------------------------------------------- in words


def protocol_note(targets: Mapping[str, Target], sources: str = "", whole: bool = True) -> str:
    """For under a table: the protocol of each target that has one, and what was trained on.

    ``whole``: these are all the targets that are there, and the paper's others are named as missing.
    Only the latter where no target has a protocol (the embedded benchmark, a user's own folder).
    """
    words = [f"{name}: {target.protocol}" for name, target in targets.items() if target.protocol]
    if not words:
        return f"Trained on {sources}." if sources else ""
    missing = [name for name in PAPER_TARGETS if name not in targets] if whole else []
    words += [f"Of the paper's targets {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there."
              ] if missing else []
    return " ".join(["Protocol.", *words, *([f"Trained on {sources}."] if sources else [])])


def with_protocol(
    rows: pd.DataFrame, targets: Mapping[str, Target], sources: str = ""
) -> pd.DataFrame:
    """Tidy rows with columns ``protocol`` and ``sources``, where a target has a protocol."""
    if not any(target.protocol for target in targets.values()):
        return rows
    words = {name: target.protocol for name, target in targets.items()}
    return rows.assign(protocol=rows["target"].map(words), sources=sources)


# ---------------------------------------------------------------- torchreid's files


def torchreid_splits(found: Found) -> list[dict]:
    """The ten splits of a found target, shaped as torchreid's own file of that set.

    VIPeR and GRID: train, query and gallery as [path, person, camera from 0], people of train numbered
    from 0; VIPeR has 20, both directions of each. iLIDS: file names. PRID: numbers of people, train
    and test. Raises as :func:`target_splits`.
    """
    everyone = Settings(splits=COUNT, viper_probe="both", ilids_images="single")
    if found.name == "PRID":
        return committed_splits("PRID")
    splits, _, _ = target_splits(found, everyone)
    rows = range(len(found))
    result = []
    for split in splits:
        query, gallery = split.probe.tolist(), split.gallery.tolist()
        tested = {found.samples[row].pid for row in (*query, *gallery)}
        train = [row for row in rows if found.samples[row].pid not in tested]
        if found.name == "iLIDS":
            sides = [[found.samples[row].file.name for row in side]
                     for side in (train, query, gallery)]
            result.append(dict(zip(("train", "query", "gallery"), sides)))
            continue
        label = {pid: k for k, pid in enumerate(sorted({found.samples[row].pid for row in train}))}
        entry = {side: [[str(s.file), s.pid, s.camid - 1] for s in map(found.samples.__getitem__, own)]
                 for side, own in (("query", query), ("gallery", gallery))}
        known = map(found.samples.__getitem__, train)
        entry["train"] = [[str(s.file), label[s.pid], s.camid - 1] for s in known]
        result.append(entry | {"num_train_pids": len(label), "num_query_pids": len(query),
                               "num_gallery_pids": len(gallery)})
    return result


def write_splits(sets: Mapping[str, Found], out: str | Path) -> list[Path]:
    """Write :func:`torchreid_splits` of every target found, where torchreid looks below ``out``.

    Raises FileNotFoundError where no target is among ``sets``, and as :func:`target_splits`.
    """
    paths = []
    for name in (n for n in TORCHREID if n in sets):
        path = Path(out) / TORCHREID[name]
        text = json.dumps(torchreid_splits(sets[name]), indent=1, ensure_ascii=False)
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            near = text[max(error.start - 60, 0):error.end].rpartition('"')[2]
            raise ValueError(f"{name}: a file's name is no UTF-8 text, and {path.name} cannot name it (near "
                             f"{near!r}): rename it or its folder") from None
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        paths.append(path)
    if not paths:
        raise FileNotFoundError(f"none of {', '.join(TORCHREID)} was found: `python -m bnta_lib.data check` "
                                "says what is there")
    return paths


def add_parser(commands) -> None:
    """``python -m bnta_lib.data splits ROOT OUT``."""
    parser = commands.add_parser("splits", help="write the splits of the targets as torchreid keeps them")
    parser.add_argument("root", type=a_path, help="folder that holds the data sets")
    parser.add_argument("out", type=a_path, help="torchreid's folder of data sets: its viper/, grid/ ...")
    parser.set_defaults(run=main_splits)


def main_splits(options: argparse.Namespace) -> int:
    """Run from the command line; returns the exit code."""
    from bnta_lib.data.layouts import expected, find_sets

    sets = find_sets(options.root, tuple(TORCHREID))
    for path in write_splits(sets, options.out):
        print(f"wrote {path}")
    for name in (n for n in TORCHREID if n in sets):
        people = expected(name)[1]
        if sets[name].people < people:
            print(f"{name}: {sets[name].people:,} of its {people:,} people are there: these are not the splits of the "
                  "published set; `python -m bnta_lib.data check` says what is missing", file=sys.stderr)
    return 0
