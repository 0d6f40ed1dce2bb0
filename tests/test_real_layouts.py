"""Published sets are found by what is in them, and read exactly; what is no such set is left alone."""

import os
import shutil
import struct
import sys
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from real_trees import LAYOUTS, PIXEL, TOP, crop, plan, tree, write_cuhk03_mat, write_person_mat

from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets
from bnta_lib.data.sets import read_image
from bnta_lib.settings import PAPER_SOURCES, ROOT

EVERY = [(name, layout) for name, of_name in LAYOUTS.items() for layout in of_name]


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> Path:
    """Every layout, each below a folder of its own."""
    root = tmp_path_factory.mktemp("trees")
    for name, layout in EVERY:
        tree(name, layout, root / f"{name} {layout}")
    return root


def copied(trees: Path, name: str, to: Path, layout: str = "") -> Path:
    layout = layout or LAYOUTS[name][0]
    return shutil.copytree(trees / f"{name} {layout}", to / "copy", dirs_exist_ok=True) / TOP[name]


@pytest.mark.parametrize("name, layout", EVERY)
def test_every_layout_is_read_as_its_names_say(trees, name, layout):
    sets = find_sets(trees / f"{name} {layout}")
    assert list(sets) == [name]
    found, kept = sets[name], [entry for entry in plan(name, layout) if entry.kept]
    assert len(set(found.samples)) == len(found) == len(kept)
    if layout in ("mat", "scenes"):  # in order of rows and cells, of people and appearances
        pairs = list(zip(found.samples, kept, strict=True))
    else:
        top = trees / f"{name} {layout}" / TOP[name]
        by_path = {sample.file.relative_to(top).as_posix(): sample for sample in found.samples}
        pairs = [(by_path[entry.path], entry) for entry in kept]
    people, colours = defaultdict(set), defaultdict(list)
    for sample, entry in pairs:
        assert sample.camid == entry.camera and sample.part == entry.part, entry
        people[entry.who].add(sample.pid)
        picture = np.asarray(read_image(sample), float)
        assert 16 <= picture.shape[0] < 24 and 8 <= picture.shape[1] < 12
        colours[entry.who].append(picture[:5].mean((0, 1)))
    assert all(len(pids) == 1 for pids in people.values()), "one number a person"
    assert len(set.union(*people.values())) == len(people), "one person a number"
    assert found.people == len(people) - (name == "GRID") and (name != "GRID" or people["0"] == {0})
    for who, own in colours.items():  # JPEG and noise: random colours of two people differ by far more
        assert np.abs(np.array(own) - np.asarray(crop(who, 0), float)[:5].mean((0, 1))).max() < 40


def test_all_sets_below_one_folder_are_found_in_the_papers_order(trees):
    assert list(find_sets(trees)) == [*PAPER_SOURCES, *(name for name in REAL_TARGETS if name in LAYOUTS)]


def test_every_set_names_its_owner_and_every_target_its_splits():
    for name, entry in SETS.items():
        assert entry.ask and (not entry.url or name in ("VIPeR", "GRID", "iLIDS"))
    for name in REAL_TARGETS:
        assert SETS[name].official or (ROOT / "data" / "splits" / f"{name.lower()}.json").is_file()


@pytest.mark.parametrize("name, layout", EVERY)
def test_case_place_and_stray_files_change_nothing(trees, tmp_path, name, layout):
    top = copied(trees, name, tmp_path, layout)
    before = find_sets(tmp_path)[name]
    for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        names = [path.name for path in folder.iterdir() if path.is_file()]
        for stray in ("Thumbs.db", ".DS_Store", "readme.txt", *(f"._{name}" for name in names[:2])):
            (folder / stray).write_bytes(b"stray")
    assert find_sets(tmp_path) == {name: before}
    deep = tmp_path / "Bücher und Bilder" / "人 再识别"
    deep.mkdir(parents=True)
    here = top.rename(deep / ("DukeMTMC-reID" if name == "Market-1501" else "x"))
    if layout != "mat":
        for path in sorted(here.rglob("*"), key=lambda path: -len(path.parts)):
            upper = path.name.upper() if path.is_dir() else path.stem + path.suffix.upper()
            path.rename(path.with_name(upper))
    for root in (tmp_path, here):  # from far above, and the set's own folder
        found = find_sets(root)[name]
        assert sorted((s.pid, s.camid, s.part) for s in found.samples) == sorted(
            (s.pid, s.camid, s.part) for s in before.samples)
        assert read_image(found.samples[-1]).size[0] > 0


def test_folder_that_cannot_be_read_is_named(trees, monkeypatch):
    real = os.scandir

    def refuse(folder):
        if str(folder).endswith("P3"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root, who runs the tests, may read everything
    with pytest.raises(PermissionError, match="Permission denied: .*P3"):
        find_sets(trees / "CUHK02 pairs")


# ---- what is another set, or none


def test_detected_boxes_of_cuhk03_are_read_in_parts_too(tmp_path):
    for kind, shots in (("detected", (1, 2)), ("labeled", (1, 2, 3))):
        for pid, view, shot in np.ndindex(12, 2, len(shots)):
            folder = tmp_path / "CUHK03" / kind / ("train" if pid < 8 else "val")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"1_{pid + 1:03d}_{view + 1}_{shot + 1:02d}.png").write_bytes(PIXEL)
    with pytest.warns(UserWarning, match="48 images of 12 people, and CUHK03 as published 14,097 of 1,467"):
        found = find_sets(tmp_path)["CUHK03"]
    assert len(found) == 48 and all("detected" in str(sample.file) for sample in found.samples)


def test_copy_that_is_not_read_is_named(trees, tmp_path):
    for name in ("a", "b"):
        copied(trees, "VIPeR", tmp_path / name)
    with pytest.warns(UserWarning, match="VIPeR is read from .*/a/.*, not .*/b/"):
        find_sets(tmp_path)


def test_market_and_duke_are_told_apart_by_their_file_names(trees, tmp_path):
    for name, other in (("Market-1501", "DukeMTMC-reID"), ("DukeMTMC-reID", "Market-1501")):
        shutil.copytree(trees / f"{name} folders" / TOP[name], tmp_path / TOP[other])
    sets = find_sets(tmp_path)
    assert sets["Market-1501"].folder.name == TOP["DukeMTMC-reID"]
    assert sets["DukeMTMC-reID"].folder.name == TOP["Market-1501"]


def test_other_names_and_a_set_without_a_part_are_no_published_set(trees, tmp_path):
    for part in ("query", "bounding_box_test", "bounding_box_train"):
        (tmp_path / part).mkdir()
        for name in ("0001_c1.png", "0001_c2_7.jpg", "p1.jpg"):
            (tmp_path / part / name).write_bytes(PIXEL)
    assert find_sets(tmp_path) == {}
    shutil.rmtree(copied(trees, "Market-1501", tmp_path) / "bounding_box_train")
    with pytest.warns(UserWarning, match="named as Market-1501 is, but no image lies in its bounding"):
        assert find_sets(tmp_path) == {}


def test_other_folders_of_a_publication_are_not_counted(trees, tmp_path):
    market, prid = (copied(trees, name, tmp_path) for name in ("Market-1501", "PRID"))
    shutil.copytree(market / "bounding_box_train", market / "gt_bbox")
    sequence = prid / "multi_shot" / "cam_a" / "person_0001"
    sequence.mkdir(parents=True)
    (sequence / "0001.png").write_bytes(PIXEL)
    sets = find_sets(tmp_path)
    assert len(sets["Market-1501"]) == sum(entry.kept for entry in plan("Market-1501", "folders"))
    assert len(sets["PRID"]) == len(plan("PRID", "single_shot"))


def test_viper_split_into_folders_counts_each_image_once(tmp_path):
    for split in ("split_1a", "split_1b"):
        for person in range(6):
            for camera, angle, part in ((1, 45, "query"), (2, 90, "gallery")):
                for folder in ("train" if person % 2 else part, "all"):
                    path = tmp_path / "viper" / split / folder / f"p{person:03d}_c{camera}_d{angle:03d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(PIXEL)
    found = find_sets(tmp_path)["VIPeR"]
    assert (len(found), found.people) == (12, 6)
    assert {sample.part: sample.camid for sample in found.samples} == {"cam_a": 1, "cam_b": 2}


# ---- MATLAB files


def _numbers(path):
    with h5py.File(path, "w") as mat:
        mat["detected"] = np.zeros((1, 5))


def _cut_short(path):
    if path.name == "Person.mat":
        write_person_mat(path, {f"p{i}": [("s1.jpg", (1, 2, 3, 4))] for i in range(1, 50)})
    else:
        write_cuhk03_mat(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name, file, make", [
    *((name, file, make) for name, file in (("CUHK03", "cuhk-03.mat"), ("CUHK-SYSU", "annotation/Person.mat"))
      for make in (lambda path: path.write_text("not a MATLAB file"), _cut_short, Path.touch)),
    ("CUHK03", "cuhk-03.mat", _numbers),
    ("CUHK-SYSU", "annotation/Person.mat", lambda path: scipy.io.savemat(path, {"Image": np.zeros(3)})),
    ("CUHK-SYSU", "annotation/Person.mat",  # no pictures
     lambda path: write_person_mat(path, {"p1": [("s1.jpg", (1, 2, 3, 4))]})),
])
def test_wrong_mat_is_named(tmp_path, name, file, make):
    (tmp_path / "annotation").mkdir()
    make(tmp_path / file)
    with pytest.warns(UserWarning, match=rf"{file} does not list {name}.*archive again"):
        assert find_sets(tmp_path) == {}


def test_missing_hdf5_reader_is_named_with_its_remedy(trees, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.warns(UserWarning, match=r"h5py is not installed: pip install bnta_lib\[data\]"):
        assert find_sets(trees / "CUHK03 mat") == {}


def test_boxes_are_clipped_and_those_without_a_picture_left_out(tmp_path):
    pictures = tmp_path / "Image" / "SSM"
    pictures.mkdir(parents=True)
    across = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (50, 1, 3))
    Image.fromarray(across).save(pictures / "s1.jpg", "BMP")
    boxes = [(10, 5, 20, 30), (90, 40, 30, 30), (-5, -5, 10, 10), (200, 10, 5, 5)]
    write_person_mat(tmp_path / "annotation" / "Person.mat",
                     {"p7": [("s1.jpg", box) for box in boxes] + [("s2.jpg", boxes[0])]})
    first, over, before, outside = find_sets(tmp_path)["CUHK-SYSU"].samples
    assert np.array_equal(np.asarray(read_image(first)), across[5:35, 10:30])
    assert read_image(over).size == (10, 10) and read_image(before).size == (5, 5)
    with pytest.raises(ValueError, match="s1.jpg cannot be decoded as an image"):
        read_image(outside)


# ---- images that cannot be read


def test_formats_that_start_other_programs_are_refused(tmp_path):
    """EPS runs Ghostscript; a DDS of unknown flags raises what is neither OSError nor ValueError."""
    tree("VIPeR", "bmp", tmp_path, people=4)
    first, second, third, *_ = find_sets(tmp_path)["VIPeR"].samples
    first.file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    second.file.write_bytes(b"DDS " + struct.pack("<31I", 124, *[0] * 30))
    third.file.unlink()
    for sample in (first, second, third):
        with pytest.raises(ValueError, match=f"{sample.file}.* cannot be decoded as an image"):
            read_image(sample)
