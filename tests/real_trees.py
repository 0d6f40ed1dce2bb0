"""The published sets in little: generated trees in each layout that their owners and users publish.

``tree`` writes one, and ``plan`` lists what a reader must find in it. Names, folders and MATLAB structures
are the real ones. The images are a few pixels, in two colours for each person. ``full_names`` lists the names
that the paper's full counts take.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

PIXEL = b"P6 1 1 255 rgb"  # an image of one pixel, to be found and not decoded
JUNK, DISTRACTORS = 3, 2  # of a small Market-1501, in its gallery
SCENE = (64, 80)  # height and width of the pictures of a small CUHK-SYSU


@dataclass(frozen=True)
class Entry:
    """One image of a tree: its path below the set's folder, and whom it shows."""

    path: str
    who: str  # names the person in the set
    camera: int  # counted in the part
    part: str
    kept: bool = True  # False for what the set's rule drops


def plan(name: str, layout: str, people: int = 6) -> list[Entry]:
    """The images of ``tree``; of a .mat and of scenes, one entry a crop, with a path to tell it by."""
    return list(SETS[name][2](layout, people))


def tree(name: str, layout: str, folder: str | Path, people: int = 6) -> Path:
    """Write a small copy of a set below ``folder``, under its published top folder; that folder."""
    top = Path(folder) / TOP[name]
    entries = plan(name, layout, people)
    if (name, layout) == ("CUHK03", "mat"):
        write_cuhk03_mat(top / "cuhk-03.mat", people)
    elif (name, layout) == ("CUHK-SYSU", "scenes"):
        _write_scenes(top, entries)
    else:
        for i, entry in enumerate(entries):
            _write(top / entry.path, crop(entry.who, i))
    if name == "GRID":
        write_partitions(top / "features_and_partitions.mat", people)
    return top


def crop(who: str, number: int) -> Image.Image:
    """A crop of a few pixels: the person's two colours, with noise and a size of its own."""
    upper, lower = np.random.default_rng([0, *who.encode()]).integers(0, 256, (2, 3))
    rng = np.random.default_rng([0, number, *who.encode()])
    height, width = int(rng.integers(16, 24)), int(rng.integers(8, 12))
    pixels = np.empty((height, width, 3))
    pixels[: height // 2], pixels[height // 2 :] = upper, lower
    noisy = pixels + rng.normal(0, 8, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _write(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


# ---- what each set holds: people are numbered from 1 unless the set counts otherwise


def _cuhk02(layout: str, people: int) -> Iterator[Entry]:
    for pair in range(1, 6):
        for person in range(1, max(people // 5, 1) + 1):
            for camera, shot in ((1, 1), (1, 2), (2, 1), (2, 2)):
                path = f"P{pair}/cam{camera}/{person:03d}_{shot + 2 * camera:03d}.png"
                yield Entry(path, f"P{pair} {person}", 2 * (pair - 1) + camera, f"P{pair}")


def _cuhk03(layout: str, people: int) -> Iterator[Entry]:
    """Five pairs of cameras, up to five images of a person in a view; some cells are empty."""
    for pair in range(1, 6):
        for person in range(1, max(people // 5, 1) + 1):
            for cell in range(1, 11):
                if (cell + person + pair) % 4 == 0 and cell not in (1, 6):
                    continue
                view = 1 if cell <= 5 else 2
                path = f"images_detected/{pair}_{person:03d}_{view}_{cell:02d}.png"
                yield Entry(path, f"P{pair} {person}", view, f"P{pair}")


def _market(layout: str, people: int) -> Iterator[Entry]:
    yield from _train_and_test("{:04d}_c{}s1_{:06d}_01.jpg", 6, people)
    for number in range(JUNK + DISTRACTORS):
        who = "-1" if number < JUNK else "0000"
        path = f"bounding_box_test/{who}_c{1 + number}s1_{number:06d}_01.jpg"
        yield Entry(path, who, 1 + number, "gallery", kept=False)


def _duke(layout: str, people: int) -> Iterator[Entry]:
    yield from _train_and_test("{:04d}_c{}_f{:07d}.jpg", 8, people)


def _train_and_test(form: str, cameras: int, people: int) -> Iterator[Entry]:
    """Odd people to train on, even ones to test, by two cameras each."""
    folders, frame = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}, 0
    for person in range(1, people + 1):
        for camera in (1 + person % cameras, 1 + (person + 2) % cameras):
            for part in ("train", "train") if person % 2 else ("query", "gallery", "gallery"):
                frame += 25
                name = form.format(person, camera, frame)
                yield Entry(f"{folders[part]}/{name}", str(person), camera, part)


def _sysu(layout: str, people: int) -> Iterator[Entry]:
    for person in range(1, people + 1):
        for number in range(1, 2 + 1 + person % 2):
            scene = 7 * person + number
            path = {
                "scenes": f"Image/SSM/s{scene}.jpg",
                "cropped_jpg": f"cropped_images/p{person}_s{scene}_{number}.jpg",
                "cropped_png": f"cropped_image/p{person:05d}_n{number:02d}_s{scene:05d}_hard{number % 2}.png",
            }[layout]
            yield Entry(path, str(person), 1, "")


def _viper(layout: str, people: int) -> Iterator[Entry]:
    for person in range(0, 2 * people, 2):  # numbers from 0, with gaps
        for camera, angle in ((1, 45 * (person % 3)), (2, 90)):
            cam = "ab"[camera - 1]
            name = f"p{person:03d}_c{camera}_d{angle:03d}.png"
            if layout == "bmp":
                name = f"{person:03d}_{angle}.bmp"
            yield Entry(f"cam_{cam}/{name}", str(person), camera, f"cam_{cam}")


def _grid(layout: str, people: int) -> Iterator[Entry]:
    for person in range(1, people + 1):
        for part, camera in (("probe", 1 + person % 4), ("gallery", 5 + person % 4)):
            name = f"{person:04d}_{camera}_{25_000 + person}_107_32_106_221.jpeg"
            yield Entry(f"{part}/{name}", str(person), camera, part)
    for number in range(31 * people // 10):  # 775 beside 250 people
        camera = 1 + number % 8
        name = f"0000_{camera}_{26_000 + number}_90_30_100_200.jpeg"
        yield Entry(f"gallery/{name}", "0", camera, "gallery")


def _ilids(layout: str, people: int) -> Iterator[Entry]:
    for person in range(1, people + 1):
        for number in range(1, 3 + person % 4):
            yield Entry(f"Persons/{person:04d}{number:03d}.jpg", str(person), number, "")


def _prid(layout: str, people: int) -> Iterator[Entry]:
    """The first are seen by both cameras; from 201 on each camera counts people of its own."""
    for camera, alone in ((1, people * 185 // 200), (2, people * 549 // 200)):
        for person in (*range(1, people + 1), *range(201, 201 + alone)):
            who = str(person) if person <= 200 else f"{person} of camera {camera}"
            cam = "ab"[camera - 1]
            yield Entry(f"single_shot/cam_{cam}/person_{person:04d}.png", who, camera, f"cam_{cam}")


SETS = {  # top folder as published, layouts, and what they hold
    "CUHK02": ("Dataset", ("pairs",), _cuhk02),
    "CUHK03": ("cuhk03_release", ("mat", "images_detected"), _cuhk03),
    "Market-1501": ("Market-1501-v15.09.15", ("folders",), _market),
    "DukeMTMC-reID": ("DukeMTMC-reID", ("folders",), _duke),
    "CUHK-SYSU": ("CUHK-SYSU", ("scenes", "cropped_jpg", "cropped_png"), _sysu),
    "VIPeR": ("VIPeR", ("bmp", "png"), _viper),
    "GRID": ("underground_reid", ("folders",), _grid),
    "iLIDS": ("i-LIDS_Pedestrian", ("persons",), _ilids),
    "PRID": ("prid_2011", ("single_shot",), _prid),
}
TOP = {name: top for name, (top, _, _) in SETS.items()}
LAYOUTS = {name: layouts for name, (_, layouts, _) in SETS.items()}


# ---- MATLAB files


def write_cuhk03_mat(path: str | Path, people: int = 6) -> None:
    """``cuhk-03.mat``: MATLAB 7.3, which is HDF5 after 512 bytes. Cells are references, axes are reversed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {Path(entry.path).stem: entry for entry in _cuhk03("", people)}
    with h5py.File(path, "w", userblock_size=512) as mat:
        refs = mat.create_group("#refs#")
        pairs = mat.create_dataset("detected", (1, 5), h5py.ref_dtype)
        for pair in range(1, 6):
            rows = max(people // 5, 1)
            table = refs.create_dataset(f"r{len(refs)}", (10, rows), h5py.ref_dtype)
            for row, column in np.ndindex(rows, 10):
                name = f"{pair}_{row + 1:03d}_{1 if column < 5 else 2}_{column + 1:02d}"
                value = np.zeros(2, np.uint64)  # as MATLAB keeps an empty cell
                if name in entries:
                    value = np.asarray(crop(entries[name].who, int(name.replace("_", "")))).T
                cell = refs.create_dataset(f"r{len(refs)}", data=np.ascontiguousarray(value))
                table[column, row] = cell.ref
            pairs[0, pair - 1] = table.ref
    with open(path, "r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Apr 21 2014 HDF5 schema 1.00 ."
                     .ljust(116) + bytes(8) + b"\x00\x02IM")


def write_person_mat(path: str | Path, people: dict[str, list[tuple[str, tuple]]]) -> None:
    """``Person.mat`` of CUHK-SYSU: of each person ("p12") the pictures and boxes x, y, w, h."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros((1, len(people)), [("idname", "O"), ("nAppear", "O"), ("scene", "O")])
    for i, (who, seen) in enumerate(people.items()):
        scene = np.zeros((1, len(seen)), [("imname", "O"), ("idlocate", "O"), ("ishard", "O")])
        for j, (picture, box) in enumerate(seen):
            scene[0, j] = picture, np.array([box]), np.uint8(j % 2)
        table[0, i] = who, np.uint8(len(seen)), scene
    scipy.io.savemat(path, {"Person": table}, do_compression=True)  # as MATLAB does


def _write_scenes(top: Path, entries: list[Entry]) -> None:
    """Street pictures with a crop each pasted in, and where it is."""
    people: dict[str, list[tuple[str, tuple]]] = {}
    for i, entry in enumerate(entries):
        rng = np.random.default_rng([0, i])
        picture = Image.fromarray(rng.integers(90, 110, (*SCENE, 3), np.uint8))
        person = crop(entry.who, i)
        left = int(rng.integers(0, SCENE[1] - person.width))
        above = int(rng.integers(0, SCENE[0] - person.height))
        picture.paste(person, (left, above))
        _write(top / entry.path, picture)
        seen = people.setdefault(f"p{entry.who}", [])
        seen.append((Path(entry.path).name, (left, above, *person.size)))
    write_person_mat(top / "annotation" / "Person.mat", people)


def write_partitions(path: str | Path, people: int) -> None:
    """GRID's ``features_and_partitions.mat``, without its features: people of train by split."""
    rng, cells = np.random.default_rng(0), np.empty((1, 10), object)
    for i in range(10):
        test, train = np.array_split(rng.permutation(people) + 1, 2)
        cells[0, i] = {"labels": np.zeros((1, 1)), "testIdx": test[None], "trainIdx": train[None]}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"trainIdxAll": cells}, do_compression=True)


# ---- the full counts


def full_names() -> Iterator[tuple[str, list[str]]]:
    """Folder by folder, the file names of the five sources, with Market-1501's distractors and junk."""
    for pair, people in enumerate((971, 306, 107, 193, 239), 1):
        for camera in (1, 2):
            yield (f"CUHK02/Dataset/P{pair}/cam{camera}",
                   [f"{p:03d}_{shot:03d}.png" for p in range(1, people + 1) for shot in (1, 2)])
    cells = [f"{pair}_{person:03d}_{1 if cell <= 5 else 2}_{cell:02d}.png"
             for cell in range(1, 11) for pair, people in enumerate((843, 440, 77, 58, 49), 1)
             for person in range(1, people + 1)]
    yield "cuhk03/images_detected", cells[:14_097]
    market, form = "Market-1501-v15.09.15", "{:04d}_c{}s1_{:06d}_00.jpg"
    odd, even = range(1, 1502, 2), range(2, 1501, 2)  # 751 people of train, 750 of test
    yield f"{market}/bounding_box_train", _spread(form, odd, 12_936, 6)
    yield f"{market}/query", _spread(form, even, 3_368, 6)
    junk = _spread("{}_c{}s1_{:06d}_00.jpg", [-1], 3_819, 6)
    yield f"{market}/bounding_box_test", [
        *_spread(form, even, 13_115, 6), *_spread(form, [0], 2_798, 6), *junk]
    form = "{:04d}_c{}_f{:07d}.jpg"
    train, query, alone = range(1, 703), range(1_001, 1_703), range(2_001, 2_409)
    yield "DukeMTMC-reID/bounding_box_train", _spread(form, train, 16_522, 8)
    yield "DukeMTMC-reID/query", _spread(form, query, 2_228, 8)
    yield "DukeMTMC-reID/bounding_box_test", _spread(form, [*query, *alone], 17_661, 8)
    yield "cuhksysu/cropped_images", [
        f"p{1 + i % 11_934}_s{1 + i % 18_184}_{1 + i // 11_934}.jpg" for i in range(34_574)]


def _spread(form: str, people, images: int, cameras: int) -> list[str]:
    return [form.format(people[i % len(people)], 1 + i % cameras, i) for i in range(images)]
