"""Published sets found below any folder, by what is in it.

A set is recognised by its inner folders and file names, whatever its top folder is called, however
deep it lies and whether its owner's upper and lower case was kept. Nothing is written, and links to
folders are followed once each. Other files (``Thumbs.db``, text) are ignored.

A layout is one row of :data:`LAYOUTS`: the folders that it is told by, a pattern for file names, and
what they say of person and camera. Two sets are listed by MATLAB files instead: :func:`_cuhk03_mats`
and :func:`_sysu_scenes`.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from bnta_lib.data.folders import is_special, walk
from bnta_lib.data import matlab
from bnta_lib.data.catalogue import CATALOGUE, DISTRACTORS, JUNK
from bnta_lib.data.records import Found, Sample, visible

_PAIR = 10_000  # people of a pair of cameras: pair * 10,000 + number in the pair
_IMAGE = r"\.(?:jpe?g|png|bmp)"
_ANY = re.compile(rf".*{_IMAGE}", re.IGNORECASE | re.DOTALL)

Label = tuple[int, int] | str  # person and camera, or why an image is left out


@dataclass(frozen=True)
class Layout:
    """Images in folders, a published naming."""

    name: str  # of the catalogue
    layout: str
    # A pattern of the end of a folder's path, and how many of its levels lie inside the set.
    folders: tuple[tuple[str, int], ...]
    naming: str  # of a whole file name, without its ending
    label: Callable[[re.Match, str], Label]  # from the naming's match and the part
    needs: tuple[str, ...] = ()  # parts without which it is not this set
    parts: dict[str, str] = field(default_factory=dict)  # where a folder is called otherwise
    # Of the match, the folder's part and the camera, where the part is not the folder's.
    part: Callable[[re.Match, str, int], str] | None = None
    once: bool = False  # an image may lie in several folders, and counts once


def _within(pid: int, camera: int, people: int, cameras: int) -> Label:
    if pid > people:
        return f"person above {people:,}"
    return (pid, camera) if 1 <= camera <= cameras else f"camera outside 1-{cameras}"


def _market(match: re.Match, part: str) -> Label:
    pid = int(match[1])
    if pid < 1:
        return JUNK if pid else DISTRACTORS
    return _within(pid, int(match[2]), 1_501, 6)


def _duke(match: re.Match, part: str) -> Label:
    return _within(int(match[1]), int(match[2]), 9_999, 8) if int(match[1]) else "person 0000"


def _cuhk02(match: re.Match, part: str) -> Label:
    pair, camera = int(part[1]), int(part[-1])
    people = CATALOGUE["CUHK02"].parts[f"P{pair}"][1]
    found = _within(int(match[1]), 2 * (pair - 1) + camera, people, 10)
    return found if isinstance(found, str) else (pair * _PAIR + found[0], found[1])


def _cuhk03(match: re.Match, part: str) -> Label:
    pair, row, view = (int(match[i]) for i in (1, 2, 3))
    people = CATALOGUE["CUHK03"].parts.get(f"P{pair}", (None, 0))[1]
    if not people:
        return "pair of cameras outside 1-5"
    found = _within(row, view, people, 2)
    return found if isinstance(found, str) else (pair * _PAIR + row, view)


def _viper(match: re.Match, part: str) -> Label:
    # Numbers start from 0 and have gaps; a person 0 would be a distractor.
    return int(match[1]) + 1, {"cam_a": 1, "cam_b": 2}.get(part) or int(match["camera"])


def _ilids(match: re.Match, part: str) -> Label:
    pid, number = int(match[1]), int(match[2])
    return (pid, number) if pid and number else "person or number 0"


def _prid(match: re.Match, part: str) -> Label:
    number, camera = int(match[1]), 1 if part == "cam_a" else 2
    people = CATALOGUE["PRID"].parts[part][1]
    if not 1 <= number <= people:
        return f"person outside 1-{people}"
    # From 201 on the cameras number different people alike; camera a's are 1,201 and above here.
    return number + (1_000 if number > 200 and camera == 1 else 0), camera


_TRIPLE = (("bounding_box_train", 1), ("query", 1), ("bounding_box_test", 1))
_TRIPLE_PARTS = {"bounding_box_train": "train", "bounding_box_test": "gallery"}
_HERE = (".*", 0)  # any folder

# The first of a set's layouts is preferred where several copies lie below a folder.
LAYOUTS = (
    Layout("CUHK02", "pairs", (("p[1-5]/cam[12]", 2),), r"(\d{1,6})_[^/]*", _cuhk02,
           part=lambda m, folder, camera: f"P{folder[1]}"),
    *(Layout("CUHK03", layout, ((folder, up),), r"(\d)_(\d{3})_([12])_(\d{2})", _cuhk03,
             part=lambda m, folder, camera: f"P{m[1]}")
      for layout, folder, up in (("images_detected", ".*detected.*", 1), ("images_labeled", ".*label.*", 1),
                                 ("images", "(?!.*detected|.*label).*", 0))),
    Layout("Market-1501", "folders", _TRIPLE, r"(-1|\d{4})_c(\d)s\d_\d+_\d+(?:\.jpg)?", _market,
           needs=("train",), parts=_TRIPLE_PARTS),
    Layout("DukeMTMC-reID", "folders", _TRIPLE, r"(\d{4})_c(\d)_f\d+", _duke,
           needs=("train",), parts=_TRIPLE_PARTS),
    Layout("CUHK-SYSU", "cropped_jpg", (_HERE,), r"p(\d{1,6})_s\d+_\d+", lambda m, part: _sysu(m)),
    Layout("CUHK-SYSU", "cropped_png", (_HERE,), r"p(\d{1,6})_n\d+_s\d+_hard\d", lambda m, part: _sysu(m)),
    Layout("VIPeR", "bmp", (("cam_[ab]", 1),), r"(\d{3})_(\d{1,3})", _viper),
    Layout("VIPeR", "png", (("cam_[ab]|train|query|gallery", 1), _HERE),
           r"p(\d{3})_c(?P<camera>[12])_d\d{3}", _viper,
           part=lambda m, folder, camera: f"cam_{'_ab'[camera]}", once=True),
    Layout("GRID", "folders", (("probe|gallery", 1),), r"(\d{4})_(\d)(?:_\d+)+",
           lambda m, part: _within(int(m[1]), int(m[2]), 250, 8)),
    # The set does not name its cameras: each image counts as a camera's own.
    Layout("iLIDS", "persons", (("persons", 1), _HERE), r"(\d{4})(\d{3})", _ilids,
           part=lambda m, folder, camera: ""),
    Layout("PRID", "single_shot", (("cam_[ab]", 1),), r"person_(\d{4})", _prid),
)  # fmt: skip


def _sysu(match: re.Match) -> Label:
    pid = int(match[1])
    return (pid, 1) if pid else "person 0"  # the pictures are of many places, and name no camera


@dataclass(frozen=True)
class Survey:
    """What lies below a folder."""

    found: dict[str, Found]
    problems: tuple[str, ...]  # what could not be read, a sentence each
    likenesses: tuple[str, ...]  # what is named as a set is, and is none, a sentence each


def find_sets(
    root: str | Path, wanted: Iterable[str] | None = None, *, labeled: bool = False
) -> dict[str, Found]:
    """The published sets below ``root`` (all, or those named in ``wanted``), by name.

    Of several copies of a set the one nearest to the published counts is taken, of equals the one
    that its owner gives out; its notes name the others. ``labeled`` takes CUHK03's boxes drawn by
    hand, not the detected ones.
    What could not be read is said in a warning. Raises FileNotFoundError where there is no such
    folder, ValueError for a name that is not in the catalogue.
    """
    seen = survey(root, wanted, labeled=labeled)
    for problem in seen.problems:
        warnings.warn(visible(problem), stacklevel=2)
    return seen.found


def survey(root: str | Path, wanted: Iterable[str] | None = None, *, labeled: bool = False) -> Survey:
    """As :func:`find_sets`, with what could not be read."""
    names = tuple(CATALOGUE) if wanted is None else tuple(wanted)
    for name in names:
        if name not in CATALOGUE:
            raise ValueError(f"unknown set {name!r}: choose of {', '.join(CATALOGUE)}")
    folders, problems = _walk(root)
    likenesses: list[str] = []
    copies: dict[str, list[Found]] = {name: [] for name in names}
    for layout in LAYOUTS:
        if layout.name in copies:
            copies[layout.name] += _read(layout, folders, likenesses)
    for name, reader in (("CUHK03", _cuhk03_mats), ("CUHK-SYSU", _sysu_scenes)):
        if name in copies:
            copies[name] += reader(folders, problems)
    found = {name: _chosen(name, copies[name], labeled) for name in CATALOGUE if copies.get(name)}
    return Survey(found, tuple(problems), tuple(likenesses))


def expected(name: str, labeled: bool = False) -> tuple[int, int]:
    """Images and people of a whole copy of a set."""
    described = CATALOGUE[name]
    return labeled and described.labeled or described.images, described.people


def _chosen(name: str, copies: list[Found], labeled: bool) -> Found:
    """The one of several copies that is taken; its notes name the others."""
    order = ["mat_detected", "mat_labeled", "scenes", *(row.layout for row in LAYOUTS if row.name == name)]
    images, people = expected(name, labeled)

    def rank(copy: Found) -> tuple:
        other = copy.layout.endswith("_detected" if labeled else "_labeled")
        lacking = abs(images - len(copy)) + abs(people - copy.people)
        return other, lacking, order.index(copy.layout), str(copy.folder)

    first, *rest = sorted(copies, key=rank)
    others = [f"another copy ({copy.layout}, {len(copy):,} images) is not used: {copy.folder}"
              for copy in rest[:3]]
    if len(rest) > 3:
        others.append(f"{len(rest) - 3} more copies are not used")
    return replace(first, notes=(*first.notes, *others))


# ---- folders and their files


def _walk(root: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """File names by folder, both sorted; and a sentence for each folder that could not be read.

    Hidden folders, what systems pack along, and half-unpacked folders (``.part``) are passed over.
    """
    root = os.path.abspath(os.path.expanduser(root))
    if os.path.isfile(root):
        raise FileNotFoundError(f"{root} is a file: name the folder that holds the sets (prepare unpacks "
                                "an archive)")
    if not os.path.isdir(root):
        raise FileNotFoundError(f"no such folder: {root}")
    folders: dict[str, list[str]] = {}
    problems: list[str] = []

    def refuse(folder: str, error: OSError) -> None:
        if folder == root:
            raise PermissionError(f"{root} cannot be read ({error.strerror}): name a folder that you may "
                                  "read") from error
        problems.append(f"{folder} cannot be read ({error.strerror}): what it holds is not counted")

    for folder, inner, others in walk(root, refuse):
        problems += (f"{entry.path} is half-unpacked and not counted: prepare its archive again"
                     for entry in inner if entry.name.endswith(".part"))
        inner[:] = [entry for entry in inner if not entry.name.endswith(".part")]
        special = {entry.name for entry in others if is_special(entry)}
        problems += (f"{folder}{os.sep}{name} is a pipe, a socket or a device: not counted" for name in special)
        folders[folder] = sorted(entry.name for entry in others if entry.name not in special)
        problems += (f"{folder}{os.sep}{name} is a download that was not finished"
                     for name in folders[folder] if name.endswith(".part"))
    return dict(sorted(folders.items())), sorted(problems)


def _read(layout: Layout, folders: dict[str, list[str]], likenesses: list[str]) -> list[Found]:
    """Every copy of a set in this layout."""
    naming = re.compile(layout.naming + _IMAGE, re.IGNORECASE)
    patterns = [(re.compile(text, re.IGNORECASE | re.DOTALL), up, text.count("/") + 1)
                for text, up in layout.folders]
    copies: dict[tuple[str, bool], list[tuple[str, str, list[re.Match]]]] = {}
    for folder, names in folders.items():
        tail = folder.split(os.sep)
        for pattern, up, levels in patterns:
            end = "/".join(tail[-levels:])
            if pattern.fullmatch(end):
                if matches := [match for name in names if (match := naming.fullmatch(name))]:
                    base = os.sep.join(tail[: len(tail) - up]) or os.sep
                    part = layout.parts.get(end.lower(), end.lower()) if up else ""
                    copies.setdefault((base, up > 0), []).append((part, folder, matches))
                break
    made = []
    for (base, named), held in copies.items():
        lacking = [part for part in layout.needs if part not in {part for part, _, _ in held}]
        if lacking:
            folder = {part: name for name, part in layout.parts.items()}[lacking[0]]
            likenesses.append(f"{base} is named as {layout.name} is, but has no folder {folder}: not "
                              "taken for it")
            continue
        copy, others = _copy(layout, base, held, folders)
        if copy.samples and (named or len(others) <= len(copy) and _plausible(copy)):
            made.append(copy)
    return made


def _copy(
    layout: Layout,
    base: str,
    held: list[tuple[str, str, list[re.Match]]],
    folders: dict[str, list[str]],
) -> tuple[Found, list[str]]:
    """A copy of a set, and the names of the other images that lie in its folders."""
    samples, others, seen = [], [], set()
    left_out: Counter[str] = Counter()
    for part, folder, matches in sorted(held, key=lambda one: one[:2]):
        directory = Path(folder)
        for match in matches:
            name = match.string.lower()
            label = "the same image again" if name in seen else layout.label(match, part)
            if isinstance(label, str):
                left_out[label] += 1
                continue
            if layout.once:
                seen.add(name)
            of = layout.part(match, part, label[1]) if layout.part else part
            samples.append(Sample(directory / match.string, *label, of))
        taken = {match.string for match in matches}
        others += [name for name in folders[folder] if name not in taken and _ANY.fullmatch(name)
                   and not name.startswith("._")]  # macOS writes these beside files of other systems
    notes = [f"{len(others):,} images named otherwise are not counted, for one {one}" for one in others[:1]]
    return Found(layout.name, layout.layout, Path(base), tuple(samples), dict(left_out), tuple(notes)), others


def _plausible(copy: Found) -> bool:
    """Whether a folder of any name is the set that its file names fit."""
    if copy.name == "iLIDS":  # seven digits fit much else; a person has eight images at most, in JPEG
        return all(sample.camid <= 8 and sample.file.suffix.lower() in (".jpg", ".jpeg")
                   for sample in copy.samples)
    return True


# ---- sets listed by MATLAB files


def _cuhk03_mats(folders: dict[str, list[str]], problems: list[str]) -> list[Found]:
    """CUHK03 from ``cuhk-03.mat``: cells of images, of five pairs of cameras, people x ten.

    The first five of a row are of one camera, the others of the other; a person has fewer where
    cells are empty.
    """
    copies = []
    for folder, names in folders.items():
        for name in names:
            if not re.fullmatch(r"cuhk[-_ ]?03\.mat", name, re.IGNORECASE):
                continue
            file = Path(folder, name)
            try:
                with h5py.File(file, "r") as mat:
                    copies += [_cuhk03_cells(mat, file, kind) for kind in ("detected", "labeled")]
            except Exception as error:  # what HDF5's layers raise for a damaged file shares no base class
                problems.append(_unusable(file, "the cuhk-03.mat of CUHK03", error))
    return copies


def _cuhk03_cells(mat: h5py.File, file: Path, kind: str) -> Found:
    # What lies in another file could be any file of the machine, and no copy of this one would have it.
    if not isinstance(mat.get(kind, getlink=True), h5py.HardLink) or mat[kind].external or mat[kind].is_virtual:
        raise ValueError(f"{kind} is not in the file itself but a link")
    # Sizes first: a small file can name any number of cells, compressed, and all of them one image.
    if mat[kind].size != 5:
        raise ValueError(f"{kind} has {mat[kind].size} pairs of cameras instead of five")
    _reference_table(mat[kind], kind)
    pairs = mat[kind][()].ravel()
    if not isinstance(mat.get("#refs#", getlink=True), h5py.HardLink | None):
        raise ValueError("#refs# is not in the file itself but a link")
    names = {}  # of objects, by their place in the file: to ask HDF5 for each is slow
    if refs := mat.get("#refs#"):
        refs.id.links.iterate(
            # Of other links ``u`` is no place but a length.
            lambda name, info: info.type == h5py.h5l.TYPE_HARD and names.__setitem__(info.u, "/#refs#/" + name.decode()),
            info=True)
    samples, left_out = [], Counter()
    for pair, table in enumerate(pairs, 1):
        if mat[table].external or mat[table].is_virtual:
            raise ValueError(f"pair {pair} of {kind} is not in the file itself")
        shape, people = mat[table].shape, CATALOGUE["CUHK03"].parts[f"P{pair}"][1]
        if len(shape) != 2 or shape[0] != 10 or shape[1] > people:
            raise ValueError(f"pair {pair} of {kind} has not ten images each of {people} people at most")
        _reference_table(mat[table], f"pair {pair} of {kind}")
        cells = mat[table][()]
        for row, column in np.ndindex(cells.shape[::-1]):
            image = h5py.h5r.dereference(cells[column, row], mat.id)
            shape = image.shape if isinstance(image, h5py.h5d.DatasetID) else ()
            if len(shape) != 3:
                continue  # an empty cell
            if shape[0] != 3 or image.dtype != np.uint8:
                left_out["no image of 8 bits and three colours"] += 1
                continue
            made = image.get_create_plist()
            if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
                left_out["kept in another file"] += 1
                continue
            # HDF5 unpacks a chunk as a whole, however little of it the image is.
            chunk = made.get_chunk() if made.get_layout() == h5py.h5d.CHUNKED else shape
            if max(shape[1] * shape[2], math.prod(chunk) / 3) > Image.MAX_IMAGE_PIXELS:  # Pillow's limit for files
                left_out["larger than an image may be"] += 1
                continue
            place = names.get(h5py.h5o.get_info(image).addr)
            place = place or h5py.h5r.get_name(cells[column, row], mat.id).decode()
            view = 1 if column < 5 else 2
            samples.append(Sample(file, pair * _PAIR + row + 1, view, f"P{pair}", cell=place))
    if not samples:
        raise ValueError(f"{kind} holds no image")
    return Found("CUHK03", f"mat_{kind}", file.parent, tuple(samples), dict(left_out))


def _reference_table(table: h5py.Dataset, name: str) -> None:
    """Raise ValueError where reading it would take memory that no table of a few thousand cells takes."""
    if h5py.check_ref_dtype(table.dtype) is not h5py.Reference or math.prod(table.chunks or ()) > 1_000_000:
        raise ValueError(f"{name} is no table of references to images")


def _sysu_scenes(folders: dict[str, list[str]], problems: list[str]) -> list[Found]:
    """CUHK-SYSU from ``annotation/Person.mat``: every appearance is a box in a picture of ``Image/SSM``."""
    copies = []
    for folder, names in folders.items():
        for name in names:
            if name.lower() == "person.mat":
                try:
                    copies.append(_sysu_boxes(Path(folder, name), folders))
                except (OSError, ValueError) as error:
                    problems.append(_unusable(Path(folder, name), "the Person.mat of CUHK-SYSU", error))
    return copies


_ODD_NAME = "appearance of a person whose name is not p and a number of nine digits at most"


def _sysu_boxes(file: Path, folders: dict[str, list[str]]) -> Found:
    people = matlab.read("people", file)
    base = str(file.parent.parent if file.parent.name.lower() == "annotation" else file.parent)
    scene = re.compile(rf"s\d+{_IMAGE}", re.IGNORECASE)
    below = {folder: sum(bool(scene.fullmatch(name)) for name in names) for folder, names in folders.items()
             if folder == base or folder.startswith(base.rstrip(os.sep) + os.sep)}
    pictures_in = max(below, key=below.get)
    pictures = {name.lower(): Path(pictures_in, name) for name in folders[pictures_in]}
    samples, left_out = [], Counter()
    for name, seen in people:
        # People are p1, p2, ...; one that is named otherwise must not cost the set the others.
        pid = int(name[1:]) if re.fullmatch(r"p[0-9]{1,9}", name) else -1
        for shown, box in seen:
            picture = pictures.get(shown.lower())
            left, top, width, height = box
            if picture is None:
                left_out["appearance whose picture is missing"] += 1
            elif min(width, height) < 1:
                left_out["box without area"] += 1
            elif pid < 1:
                left_out["person 0" if pid == 0 else _ODD_NAME] += 1
            else:
                samples.append(Sample(picture, pid, 1, box=(left, top, width, height)))
    if not samples:
        raise ValueError(f"none of the pictures that it names is below {base}")
    return Found("CUHK-SYSU", "scenes", Path(base), tuple(samples), dict(left_out))


def _unusable(file: Path, what: str, error: Exception) -> str:
    why = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return f"{file} is not {what}, or its set is not whole ({why}): unpack it from its archive again"
