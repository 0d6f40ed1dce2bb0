"""The published sets: a table of counts and layouts, how they are found below a folder, and who probes whom.

A set is recognised by its inner folders and file names in any case, whatever its top folder is called and
however deep it lies. GRID has ten official splits. The suite's own ten of the other targets lie in
``data/splits/<set>.json``, as numbers of people: person k is the k-th, in order of the file names, of those
whom both sides show. To add a target, add one entry to :data:`SETS` and one such file.
"""

import json
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
import torch

from bnta_lib.data.listing import files_below, passed_over, shown_names, walk
from bnta_lib.data.sets import Sample, Split, Target, extra
from bnta_lib.settings import PAPER_SOURCES, ROOT, TARGETS, Settings


@dataclass(frozen=True)
class Found:
    """A published set as it lies below a folder."""

    name: str
    folder: Path  # in which its layout begins
    samples: tuple[Sample, ...]  # in an order that does not depend on the file system
    note: str = ""  # of a mixture: its counts, its sets with theirs, and what is missing

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def people(self) -> int:
        """How many people it shows, distractors not counted."""
        return len({sample.pid for sample in self.samples} - {0})


@dataclass(frozen=True)
class Published:
    """A set as its owner publishes it."""

    images: int  # that count
    people: int  # distractors not counted
    layouts: tuple[str, ...]  # patterns of folder and name, with groups pid, cam and part
    ask: str  # where its owner gives it out, and on which terms
    url: str = ""  # of the owner's archive, if that needs no agreement
    known_hash: str | None = None  # of that archive
    label: Callable[[int, int, str], tuple[int, int, str]] = lambda *labels: labels  # pid, cam, part
    mat: tuple[str, Callable] | None = None  # name and reader of a .mat that lists the images
    sides: tuple[str, str] | None = None  # of a target: parts of which one probes the other
    official: str = ""  # of a target: file that holds the owner's splits


def _by_pair(pid: int, cam: int, part: str) -> tuple[int, int, str]:
    return int(part[-1]) * 10_000 + pid, cam, f"P{part[-1]}"


def _cuhk03_mat(file: Path, folders: Mapping[str, list[str]]) -> Found:
    """CUHK03 from cuhk-03.mat (HDF5): by pair of cameras, cells of ten images a person, five by either."""
    samples = []
    with extra("h5py").File(file) as mat:
        for pair, table in enumerate(mat["detected"][()].ravel()):
            cells = mat[table][()]
            for person, column in np.ndindex(cells.shape[::-1]):
                if mat[cells[column, person]].ndim == 3:  # others are empty
                    labels = _by_pair(person + 1, 1 + (column >= 5), str(pair + 1))
                    samples.append(Sample(file, *labels, cell=(pair, column, person)))
    return Found("CUHK03", file.parent, tuple(samples))


def _sysu_boxes(file: Path, folders: Mapping[str, list[str]]) -> Found:
    """CUHK-SYSU from annotation/Person.mat: each appearance is a box in a picture of Image/SSM."""
    base = file.parent.parent
    pictures = {name.lower(): Path(folder, name) for folder, names in folders.items()
                if Path(folder).is_relative_to(base) for name in names}
    samples = []
    for person in scipy.io.loadmat(file, variable_names=["Person"])["Person"].ravel():
        pid = int(person["idname"].item().removeprefix("p"))
        for appearance in person["scene"].ravel():
            left, top, width, height = (round(float(v)) for v in appearance["idlocate"].ravel())
            if picture := pictures.get(appearance["imname"].item().lower()):
                samples.append(Sample(picture, pid, 1, box=(left, top, width, height)))
    if not samples:
        raise ValueError(f"none of the pictures that it names is below {base}")
    return Found("CUHK-SYSU", base, tuple(samples))


_CUHK = "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html (academic research; agreement with CUHK)"
_TRIPLE = "(?P<part>bounding_box_train|query|bounding_box_test)/"

SETS = {
    "CUHK02": Published(
        *PAPER_SOURCES["CUHK02"], (r"(?P<part>p[1-5])/cam(?P<cam>[12])/(?P<pid>\d{1,6})_.*",),
        _CUHK, label=lambda pid, cam, part: _by_pair(pid, 2 * int(part[1]) - 2 + cam, part)),
    "CUHK03": Published(
        *PAPER_SOURCES["CUHK03"],
        (r"[^/]*detected[^/]*(?:/(?:train|val|test))?/(?P<part>[1-5])_(?P<pid>\d{3})_(?P<cam>[12])_\d{2}",),
        _CUHK, label=_by_pair, mat=(r"cuhk[-_ ]?03\.mat", _cuhk03_mat)),
    "Market-1501": Published(  # without junk (person -1) and distractors (0000)
        *PAPER_SOURCES["Market-1501"],
        (_TRIPLE + r"(?P<pid>(?!0000)\d{4})_c(?P<cam>[1-6])s\d_\d+_\d+(\.jpg)?",),
        "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html (research)"),
    "DukeMTMC-reID": Published(
        *PAPER_SOURCES["DukeMTMC-reID"], (_TRIPLE + r"(?P<pid>\d{4})_c(?P<cam>[1-8])_f\d+",),
        "nobody: its authors withdrew it in 2019 (data/README.md); it is read if you hold it lawfully"),
    "CUHK-SYSU": Published(
        *PAPER_SOURCES["CUHK-SYSU"], (r"[^/]+/p(?P<pid>(?!0+_)\d{1,6})_s\d+_\d+",
                                      r"[^/]+/p(?P<pid>(?!0+_)\d{1,6})_n\d+_s\d+_hard\d"),
        "https://github.com/ShuangLI59/person_search (from a university's e-mail address)",
        mat=(r"person\.mat", _sysu_boxes)),
    "VIPeR": Published(  # persons are numbered from 0
        1_264, 632, (r"cam_(?P<cam>[ab])/(?P<pid>\d{3})_\d{1,3}",
                     r"[^/]+/p(?P<pid>\d{3})_c(?P<cam>[12])_d\d{3}"),
        "https://vision.soe.ucsc.edu/node/178", url="http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
        known_hash="md5:1c2d9fc1cc800332567a0da25a1ce68c",  # as open-reid noted it
        sides=("cam_a", "cam_b"), label=lambda pid, cam, part: (pid + 1, cam, f"cam_{'_ab'[cam]}")),
    "GRID": Published(
        1_275, 250, (r"(?P<part>probe|gallery)/(?P<pid>\d{4})_(?P<cam>[1-8])(_\d+)+",),
        "http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
        url="http://personal.ie.cuhk.edu.hk/~ccloy/files/datasets/underground_reid.zip",
        sides=("probe", "gallery"), official="features_and_partitions.mat"),
    "iLIDS": Published(  # it does not name its cameras: each image counts as a camera's own
        476, 119, (r"persons/(?P<pid>(?!0000)\d{4})(?P<cam>(?!000)\d{3})",),
        "http://www.eecs.qmul.ac.uk/~jason/", url="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz"),
    "PRID": Published(  # not among the paper's targets; from 201 on, either camera numbers people of its own
        1_134, 934, (r"cam_(?P<cam>[ab])/person_(?P<pid>(?!0000)\d{4})",),
        "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/ (read its terms)",
        sides=("cam_a", "cam_b"),
        label=lambda pid, cam, part: (pid + 1_000 * (pid > 200 and cam == 1), cam, f"cam_{'_ab'[cam]}")),
}
REAL_TARGETS = tuple(name for name in SETS if name not in PAPER_SOURCES)


def find_sets(root: str | Path) -> dict[str, Found]:
    """The published sets below ``root`` by name; of several copies, the one whose count is nearest.

    Warns of what only resembles a set, and of other counts than the published. Raises as
    :func:`~bnta_lib.data.listing.walk`.
    """
    folders, sets = {folder: names for folder, _, names in sorted(walk(os.path.abspath(root)))}, {}
    for name, entry in SETS.items():
        if copies := _listed(name, folders) + _named(name, folders):
            copy = min(copies, key=lambda copy: abs(entry.images - len(copy)))
            if (len(copy), copy.people) != (entry.images, entry.people):
                refused = ""
                if re.search("occluded|partial", copy.folder.name, re.IGNORECASE):
                    refused = "named as a variant, it is not read"
                elif not copy.folder.is_relative_to(os.path.abspath(root)):
                    refused = f"give that folder, not {root}"
                warnings.warn(f"{copy.folder} has {len(copy):,} images of {copy.people:,} people, and {name} "
                              f"as published {entry.images:,} of {entry.people:,}: "
                              f"{refused or 'a part or a variant'}", stacklevel=2)
                if refused:
                    continue
            sets[name] = copy
            if others := sorted({str(other.folder) for other in copies} - {str(copy.folder)}):
                warnings.warn(f"{name} is read from {copy.folder}, not {', '.join(others)}", stacklevel=2)
    return sets


def not_read(root: str | Path, sets: Mapping[str, Found]) -> str:
    """How many files below ``root`` no set uses, by their endings, in a line."""
    used, root = {sample.file for found in sets.values() for sample in found.samples}, os.path.abspath(root)
    files = {Path(folder, name) for folder, _, names in walk(root) for name in names} - used
    rest = {file: f"ending in {file.suffix or 'nothing'}" for file in sorted(files)}
    return f"not read: {passed_over(shown_names(rest, Path(root))) or 'nothing'}"


def _listed(name: str, folders: Mapping[str, list[str]]) -> list[Found]:
    """Copies that a .mat lists."""
    copies, (pattern, reader) = [], SETS[name].mat or (None, None)
    for file in (Path(folder, file) for folder, names in folders.items() for file in names
                 if pattern and re.fullmatch(pattern, file, re.IGNORECASE)):
        try:
            copies.append(reader(file, folders))
        except Exception as error:  # what readers raise for a damaged file shares no base class
            warnings.warn(f"{file} does not list {name}, or its set is not whole ({error}): unpack its "
                          "archive again", stacklevel=3)
    return copies


def _named(name: str, folders: Mapping[str, list[str]]) -> list[Found]:
    """Copies by the names of their folders and files."""
    entry, copies = SETS[name], []
    for pattern in entry.layouts:
        inner, _, file = pattern.rpartition("/")
        place = re.compile(f"(?P<base>.*)/{inner}", re.IGNORECASE | re.DOTALL)
        image = re.compile(rf"{file}\.(?:jpe?g|png|bmp)", re.IGNORECASE | re.DOTALL)
        # By the folder in which the layout begins. An image may lie in several folders, and counts once.
        copied: dict[str, dict[tuple, Sample]] = defaultdict(dict)
        for folder, names in folders.items():
            outer = place.fullmatch(Path(folder).as_posix())
            for match in filter(None, map(image.fullmatch, names if outer else ())):
                pid, camid, part = _labels(entry, outer.groupdict() | match.groupdict())
                sample = Sample(Path(folder, match.string), pid, camid, part)
                copied[outer["base"]][part, pid, camid, match.string.lower()] = sample
        for base, samples in copied.items():
            ordered = sorted(samples.values(), key=lambda sample: (sample.part, str(sample.file)))
            parts = {sample.part for sample in ordered}
            if "query" in parts and "train" not in parts:  # a user's own folder
                warnings.warn(f"{base} is named as {name} is, but no image lies in its bounding_box_train",
                              stacklevel=3)
            else:
                copies.append(Found(name, Path(f"{base}/"), tuple(ordered)))
    return copies


def _labels(entry: Published, groups: Mapping[str, str]) -> tuple[int, int, str]:
    """Person, camera and part that the groups of a layout's pattern name."""
    part, cam = (groups.get("part") or "").lower(), (groups.get("cam") or "1").lower()
    part = {"bounding_box_train": "train", "bounding_box_test": "gallery"}.get(part, part)
    return entry.label(int(groups["pid"]), {"a": 1, "b": 2}.get(cam) or int(cam), part)


def found_table(found: Mapping[str, Found]) -> pd.DataFrame:
    """A row for each published set and for the mixture of the sources: counts here beside the published."""
    rows = {}
    for name, entry in SETS.items():
        here = found.get(name) or Found(name, Path(), ())
        role = "source" if name in PAPER_SOURCES else "target"
        rows[name] = role, entry.people, here.people, entry.images, len(here)
    columns = ["role", "people, published", "people, here", "images, published", "images, here"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("set")
    table.loc["mixture"] = ["sources", *table[table["role"] == "source"].iloc[:, 1:].sum()]
    equal = (table.iloc[:, 1] == table.iloc[:, 2]) & (table.iloc[:, 3] == table.iloc[:, 4])
    return table.assign(equal=equal)


def target_splits(found: Found, settings: Settings) -> tuple[tuple[Split, ...], str]:
    """Splits of a target as indices into its samples, and the protocol in a sentence for under a table.

    Raises ValueError for too few people, and OSError or ValueError without the owner's splits of GRID.
    """
    sides = SETS[found.name].sides
    rows = {side: defaultdict(list) for side in sides or ("",)}  # of each person, in order of file names
    for row, sample in sorted(enumerate(found.samples), key=lambda numbered: numbered[1].file.name):
        rows[sample.part][sample.pid].append(row)
    first, other = rows[next(iter(rows))], dict(zip(rows, reversed(rows)))
    people = sorted(pid for pid in set(first).intersection(*rows.values())
                    if pid and (sides or len(first[pid]) > 1))
    splits, which = _splits(found, people)
    if settings.splits < len(splits):
        splits, which = splits[: settings.splits], f"the first {settings.splits} of {which}"
    if sides:
        probing = settings.viper_probe if found.name == "VIPeR" else sides[0]
        probing = [side for side in sides if probing in (side, "both")]
        pairs = [_paired(rows[side], rows[other[side]], people, split)
                 for split in splits for side in probing]
        how = f"single images, probes by {' and '.join(probing)}"
    else:
        several = settings.ilids_images == "multi"
        pairs = [_picked(first, people, split, several) for split in splits]
        gallery = "all other images" if several else "one gallery image"
        how = f"one probe and {gallery} of a person, at random, no camera named (so no row by camera)"
    sizes = [" to ".join(str(n) for n in sorted({len(rows) for rows in side})) for side in zip(*pairs)]
    words = f"{sizes[0]} probes, {sizes[1]} gallery images, {how}; {which}."
    return tuple(Split(*map(torch.tensor, pair)) for pair in pairs), words


def _splits(found: Found, people: Sequence[int]) -> tuple[list[dict], str]:
    """Splits of ``people``, numbered from 1 in this order, and which they are in words."""
    if name := SETS[found.name].official:
        mat = next((path for path in files_below(found.folder)[0] if path.name.lower() == name), None)
        if mat is None:
            raise FileNotFoundError(f"{name} is not below {found.folder}: take it from the owner's archive")
        try:
            trained = [cell[0][0][2][0].tolist() for cell in scipy.io.loadmat(mat)["trainIdxAll"][0]]
        except Exception as error:  # what SciPy raises for a damaged file shares no base class
            raise ValueError(f"{mat} does not hold {found.name}'s splits ({error}): unpack again") from error
        splits = [{"test": [k for k, pid in enumerate(people, 1) if pid not in train]} for train in trained]
        return splits, f"the {len(splits)} official splits"
    file = ROOT / "data" / "splits" / f"{found.name.lower()}.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    whole, which = len(splits[0]["train"] + splits[0]["test"]), f"this suite's {len(splits)} seeded splits"
    if len(people) < whole:
        which += f", of its {whole} people the {len(people)} that are here (no published number compares)"
    return splits, f"{which} (data/splits/{file.name})"


def _paired(probe: dict, gallery: dict, people: Sequence[int], split: dict) -> tuple[list[int], list[int]]:
    """First images of the test people by either side; the gallery adds everyone whom it alone shows."""
    test = [people[k - 1] for k in split["test"] if k <= len(people)]
    alone = [row for pid, rows in gallery.items() if not pid or pid not in probe for row in rows]
    return [probe[pid][0] for pid in test], sorted([gallery[pid][0] for pid in test] + alone)


def _picked(rows: dict, people: Sequence[int], split: dict, several: bool) -> tuple[list[int], list[int]]:
    """One image of each test person picked as probe, and one or all of the others as gallery."""
    probe, gallery = [], []
    for k, first, second in zip(split["test"], split["probe"], split["gallery"], strict=True):
        if k <= len(people):
            others = list(rows[people[k - 1]])
            probe.append(others.pop(int(first * len(others))))
            gallery += others if several else [others[int(second * len(others))]]
    return probe, gallery


def names_cameras(target: Target) -> bool:
    """Whether the files of a target name their cameras: those of the published iLIDS do not."""
    return target.data.origin != "published" or bool(SETS[target.data.name].sides)


def protocol_note(targets: Mapping[str, Target], sources: str = "") -> str:
    """For under a table: protocols of targets, which are missing, and what was trained on."""
    words = [f"{name}: {target.protocol}" for name, target in targets.items() if target.protocol]
    if words:
        missing = ", ".join(name for name in TARGETS if name not in targets)
        words = ["Protocol.", *words, *([f"Not there of the paper's targets: {missing}."] if missing else [])]
    return " ".join([*words, *([f"Trained on {sources}."] if sources else [])])
