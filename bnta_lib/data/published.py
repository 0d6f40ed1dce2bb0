"""The published sets: one table of counts and layouts, and how they are found below a folder.

A set is recognised by its inner folders and file names in any case, whatever its top folder is called and
however deep it lies. To add a target, add one entry to :data:`SETS` and one file to ``data/splits``.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bnta_lib.data.folders import opened_image, upright_rgb, visible, walk
from bnta_lib.settings import PAPER_SOURCES

_IMAGE = r"\.(?:jpe?g|png|bmp)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop of a published set."""

    file: Path  # the image, or the .mat file that holds it
    pid: int  # person, from 1, without meaning across sets; 0 is a distractor that matches nobody
    camid: int  # camera, from 1
    part: str = ""  # of the publication: "train", "query", "gallery", "probe", "P1" ...
    box: tuple[int, int, int, int] | None = None  # left, top, width, height to cut, clipped to the image
    cell: tuple[str, int, int, int] | None = None  # of cuhk-03.mat: kind, pair, column, person


@dataclass(frozen=True)
class Found:
    """A published set as it lies below a folder."""

    name: str
    layout: str
    folder: Path  # in which the layout begins
    samples: tuple[Sample, ...]  # in an order that does not depend on the file system
    left_out: Mapping[str, int] = field(default_factory=dict)  # images that the set's rule drops, by reason

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def people(self) -> int:
        """How many people it shows, distractors not counted."""
        return len({sample.pid for sample in self.samples} - {0})


@dataclass(frozen=True)
class Published:
    """A set as its owner publishes it.

    A pattern of ``layouts`` is the end of an image's path without its ending, with groups pid, cam (a number,
    or a and b), part and pair. A pattern without a folder must fit most files of a folder.
    """

    images: int  # that count
    people: int  # distractors not counted
    layouts: Mapping[str, tuple[str, ...]]  # the preferred first
    ask: str  # where its owner gives it out, and on which terms
    url: str = ""  # of the owner's archive, if that needs no agreement
    known_hash: str | None = None  # of that archive
    parts: Mapping[str, tuple[int | None, int]] = field(default_factory=dict)  # images and people
    label: Callable[[int, int, str], tuple[int, int, str]] = lambda pid, cam, part: (pid, cam, part)
    market: bool = False  # persons -1 and 0 are dropped, and query and gallery alone are a user's own folder
    mat: tuple[str, Callable] | None = None  # name and reader of a .mat that lists the images
    sides: tuple[str, str] | None = None  # of a target: parts of which one probes the other
    official: str = ""  # of a target: file that holds the owner's splits


def _by_pair(pid: int, cam: int, part: str) -> tuple[int, int, str]:
    return int(part[1]) * 10_000 + pid, cam, part


def _cuhk03_mat(file: Path, folders: Mapping[str, list[str]]) -> list[Found]:
    """CUHK03 from cuhk-03.mat (HDF5): by pair of cameras, cells of ten images a person, five by either."""
    copies = []
    with extra("h5py").File(file) as mat:
        for kind in ("detected", "labeled"):
            samples, left_out = [], Counter()
            for pair, table in enumerate(mat[kind][()].ravel(), 1):
                cells = mat[table][()]
                for person, column in np.ndindex(cells.shape[::-1]):
                    image = mat[cells[column, person]]
                    if image.ndim == 3 and (image.dtype != np.uint8 or len(image) != 3):
                        left_out["no image of 8 bits and three colours"] += 1
                    elif image.ndim == 3:  # others are empty cells
                        labels = _by_pair(person + 1, 1 + (column >= 5), f"P{pair}")
                        samples.append(Sample(file, *labels, cell=(kind, pair - 1, column, person)))
            copies.append(Found("CUHK03", f"mat_{kind}", file.parent, tuple(samples), left_out))
    return copies


def _sysu_boxes(file: Path, folders: Mapping[str, list[str]]) -> list[Found]:
    """CUHK-SYSU from annotation/Person.mat: each appearance is a box in a picture of Image/SSM."""
    import scipy.io

    base = file.parent.parent if file.parent.name.lower() == "annotation" else file.parent
    pictures = {name.lower(): Path(folder, name) for folder, names in folders.items()
                if Path(folder).is_relative_to(base) for name in names}
    samples, left_out = [], Counter()
    for person in scipy.io.loadmat(file, variable_names=["Person"])["Person"].ravel():
        number = re.fullmatch(r"p0*([1-9]\d{0,8})", str(person["idname"].item()))
        for appearance in person["scene"].ravel():
            picture = pictures.get(str(appearance["imname"].item()).lower())
            left, top, width, height = (round(float(v)) for v in appearance["idlocate"].ravel())
            if number and picture and min(width, height) > 0:
                samples.append(Sample(picture, int(number[1]), 1, box=(left, top, width, height)))
            else:
                left_out["appearance without picture or area, or of a person not named p and a number"] += 1
    if not samples:
        raise ValueError(f"none of the pictures that it names is below {base}")
    return [Found("CUHK-SYSU", "scenes", base, tuple(samples), left_out)]


_CUHK = "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html (academic research; agreement with CUHK)"
_TRIPLE = "(?P<part>bounding_box_train|query|bounding_box_test)/"
_CUHK03 = r"(?P<pair>[1-5])_(?P<pid>\d{3})_(?P<cam>[12])_\d{2}"
_VIPER = r"p(?P<pid>\d{3})_c(?P<cam>[12])_d\d{3}"

SETS = {
    "CUHK02": Published(
        *PAPER_SOURCES["CUHK02"], {"pairs": (r"p(?P<pair>[1-5])/cam(?P<cam>[12])/(?P<pid>\d{1,6})_.*",)},
        _CUHK, parts={f"P{k}": (4 * n, n) for k, n in enumerate((971, 306, 107, 193, 239), 1)},
        label=lambda pid, cam, part: _by_pair(pid, 2 * int(part[1]) - 2 + cam, part)),
    "CUHK03": Published(
        *PAPER_SOURCES["CUHK03"],
        {"mat_detected": (), "mat_labeled": (), "images_detected": (f".*detected.*/{_CUHK03}",),
         "images_labeled": (f".*label.*/{_CUHK03}",), "images": (_CUHK03,)}, _CUHK,
        parts={f"P{k}": (None, n) for k, n in enumerate((843, 440, 77, 58, 49), 1)}, label=_by_pair,
        mat=(r"cuhk[-_ ]?03\.mat", _cuhk03_mat)),
    "Market-1501": Published(
        *PAPER_SOURCES["Market-1501"],
        {"folders": (_TRIPLE + r"(?P<pid>-1|\d{4})_c(?P<cam>[1-6])s\d_\d+_\d+(\.jpg)?",)},
        "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html (research)", market=True,
        parts={"train": (12_936, 751), "query": (3_368, 750), "gallery": (13_115, 750)}),
    "DukeMTMC-reID": Published(
        *PAPER_SOURCES["DukeMTMC-reID"], {"folders": (_TRIPLE + r"(?P<pid>\d{4})_c(?P<cam>[1-8])_f\d+",)},
        "nowhere: its authors withdrew it in April 2019, since people were recorded outdoors and put on an "
        "open site against what their review board had approved; it is never fetched, and read if you hold "
        "it lawfully",
        market=True, parts={"train": (16_522, 702), "query": (2_228, 702), "gallery": (17_661, 1_110)}),
    "CUHK-SYSU": Published(
        *PAPER_SOURCES["CUHK-SYSU"], {"scenes": (), "cropped_jpg": (r"p(?P<pid>(?!0+_)\d{1,6})_s\d+_\d+",),
                                      "cropped_png": (r"p(?P<pid>(?!0+_)\d{1,6})_n\d+_s\d+_hard\d",)},
        "https://github.com/ShuangLI59/person_search (from a university's e-mail address)",
        mat=(r"person\.mat", _sysu_boxes)),
    "VIPeR": Published(  # persons are numbered from 0
        1_264, 632, {"bmp": (r"cam_(?P<cam>[ab])/(?P<pid>\d{3})_\d{1,3}",),
                     "png": (f"(?:cam_[ab]|train|query|gallery)/{_VIPER}", _VIPER)},
        "https://vision.soe.ucsc.edu/node/178", url="http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
        known_hash="md5:1c2d9fc1cc800332567a0da25a1ce68c",  # as open-reid noted it
        parts={"cam_a": (632, 632), "cam_b": (632, 632)}, sides=("cam_a", "cam_b"),
        label=lambda pid, cam, part: (pid + 1, cam, f"cam_{'_ab'[cam]}")),
    "GRID": Published(
        1_275, 250, {"folders": (r"(?P<part>probe|gallery)/(?P<pid>\d{4})_(?P<cam>[1-8])(_\d+)+",)},
        "http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
        url="http://personal.ie.cuhk.edu.hk/~ccloy/files/datasets/underground_reid.zip",
        parts={"probe": (250, 250), "gallery": (1_025, 250)}, sides=("probe", "gallery"),
        official="features_and_partitions.mat"),
    "iLIDS": Published(  # it does not name its cameras: each image counts as a camera's own
        476, 119, {"persons": (r"persons/(?P<pid>(?!0000)\d{4})(?P<cam>(?!000)\d{3})",
                               r"(?P<pid>(?!0000)\d{4})(?P<cam>00[1-8])(?=\.j)")},
        "http://www.eecs.qmul.ac.uk/~jason/",
        url="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz"),
    "PRID": Published(  # not among the paper's targets; from 201 on, either camera numbers people of its own
        1_134, 934, {"single_shot": (r"cam_(?P<cam>[ab])/person_(?P<pid>(?!0000)\d{4})",)},
        "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/ (read its terms)",
        parts={"cam_a": (385, 385), "cam_b": (749, 749)}, sides=("cam_a", "cam_b"),
        label=lambda pid, cam, part: (pid + 1_000 * (pid > 200 and cam == 1), cam, f"cam_{'_ab'[cam]}")),
}  # fmt: skip
REAL_TARGETS = tuple(name for name in SETS if name not in PAPER_SOURCES)


def find_sets(root: str | Path) -> dict[str, Found]:
    """The sets of :func:`survey`; warns of the problems."""
    sets, problems, _ = survey(root)
    for problem in problems:
        warnings.warn(visible(problem), stacklevel=2)
    return sets


def survey(root: str | Path) -> tuple[dict[str, Found], list[str], list[str]]:
    """The published sets below ``root`` by name, problems, and other copies of the sets, a sentence each.

    Problems are what could not be read or only resembles a set. Of several copies, the one whose counts are
    nearest to the published is returned, and CUHK03's detected boxes before labeled ones.
    Raises FileNotFoundError if there is no such folder.
    """
    root = os.path.abspath(os.path.expanduser(root))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"no such folder: {root}; give the one that holds the sets")
    problems, notes, sets = [], [], {}

    def refuse(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read ({error.strerror}): what it holds is not counted")

    folders = dict(sorted(walk(root, refuse)))
    for name, entry in SETS.items():
        if copies := _listed(name, folders, problems) + _named(name, folders, problems):
            sets[name], *others = sorted(copies, key=lambda copy: (
                copy.layout.endswith("_labeled"),
                abs(entry.images - len(copy)) + abs(entry.people - copy.people),
                list(entry.layouts).index(copy.layout), str(copy.folder)))
            notes += (f"{name}: another copy ({copy.layout}, {len(copy):,} images) is not used: {copy.folder}"
                      for copy in others)
    return sets, problems, notes


def _listed(name: str, folders: Mapping[str, list[str]], problems: list[str]) -> list[Found]:
    """Copies that a .mat lists."""
    copies, (pattern, reader) = [], SETS[name].mat or ("", None)
    for file in (Path(folder, file) for folder, files in folders.items() for file in files):
        if re.fullmatch(pattern, file.name, re.IGNORECASE):
            try:
                copies += reader(file, folders)
            except Exception as error:  # what readers raise for a damaged file shares no base class
                problems.append(f"{file} does not list {name}, or its set is not whole ({error}): unpack its "
                                "archive again")
    return copies


def _named(name: str, folders: Mapping[str, list[str]], problems: list[str]) -> list[Found]:
    """Copies by the names of their files. A folder counts for the first layout that fits it."""
    copies, claimed = [], set()
    for layout, patterns in SETS[name].layouts.items():
        matched: dict[str, list[re.Match]] = defaultdict(list)  # by the folder in which the layout begins
        for pattern in patterns:
            regex, levels = re.compile(pattern + _IMAGE, re.IGNORECASE | re.DOTALL), pattern.count("/")
            inner = re.compile(pattern[: pattern.rfind("/") + 1], re.IGNORECASE | re.DOTALL)
            for folder, names in folders.items():
                base, *tail = folder.rsplit(os.sep, levels)
                prefix = "".join(f"{part}/" for part in tail)
                if folder not in claimed and inner.fullmatch(prefix):
                    matches = [match for file in names if (match := regex.fullmatch(prefix + file))]
                    if len(matches) > (0 if levels else len(names) / 2):
                        claimed.add(folder)
                        matched[base or os.sep] += matches
        for base, matches in matched.items():
            copy = _copy(name, layout, base, matches)
            if SETS[name].market and not any(sample.part == "train" for sample in copy.samples):
                problems.append(f"{base} is named as {name} is, but has no bounding_box_train")
            elif copy.samples:
                copies.append(copy)
    return copies


def _copy(name: str, layout: str, base: str, matches: list[re.Match]) -> Found:
    entry, samples, left_out = SETS[name], {}, Counter()
    for match in matches:
        groups, file = match.groupdict(), Path(base, match.string)
        part = f"P{groups['pair']}" if "pair" in groups else (groups.get("part") or "").lower()
        part = {"bounding_box_train": "train", "bounding_box_test": "gallery"}.get(part, part)
        cam = (groups.get("cam") or "1").lower()
        pid, camid, part = entry.label(int(groups["pid"]), {"a": 1, "b": 2}.get(cam) or int(cam), part)
        if entry.market and pid < 1:
            left_out["junk (person -1)" if pid else "distractors (person 0000)"] += 1
        else:  # an image may lie in several folders, and counts once
            samples[part, pid, camid, file.name.lower()] = Sample(file, pid, camid, part)
    ordered = sorted(samples.values(), key=lambda sample: (sample.part, str(sample.file)))
    return Found(name, layout, Path(base), tuple(ordered), left_out)


def extra(module: str):
    """An optional module. Raises ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{module} is not installed: pip install bnta_lib[data]") from None


def read_image(sample: Sample) -> Image.Image:
    """The crop of a sample, upright, 8-bit RGB.

    Raises ValueError if the file is missing or cannot be read or decoded, or its box lies outside.
    """
    try:
        if sample.cell:
            kind, pair, column, person = sample.cell
            with extra("h5py").File(sample.file) as mat:  # MATLAB keeps (3, width, height)
                return Image.fromarray(mat[mat[mat[kind][()].ravel()[pair]][column, person]][()].T.copy())
        picture = upright_rgb(opened_image(sample.file))
        if sample.box is None:
            return picture
        left, top, width, height = sample.box
        right, bottom = min(left + width, picture.width), min(top + height, picture.height)
        left, top = max(left, 0), max(top, 0)
        if left >= right or top >= bottom:
            raise ValueError(f"the box {sample.box} lies outside its {picture.width} x {picture.height} "
                             "pixels")
        return picture.crop((left, top, right, bottom))
    except ImportError:
        raise
    except Exception as error:  # decoders raise anything if bytes are not what the format says
        why = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{sample.file}{sample.cell or ''} cannot be decoded as an image ({why})") from error
