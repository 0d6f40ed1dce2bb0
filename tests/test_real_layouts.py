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
import torch
from bnta_lib.data.check import differing
from bnta_lib.data.folders import write_folder
from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets, read_image, survey
from bnta_lib.data.sets import ReIDSet
from bnta_lib.settings import PAPER_SOURCES, ROOT
from PIL import Image
from real_trees import LAYOUTS, TOP, crop, pixel, plan, tree, write_cuhk03_mat, write_person_mat

EVERY = [(name, layout) for name, of_name in LAYOUTS.items() for layout in of_name]
JUNK, DISTRACTORS = "junk (person -1)", "distractors (person 0000)"


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
    found = sets[name]
    entries = plan(name, layout)
    kept = [entry for entry in entries if entry.kept]
    assert found.layout == layout and len(found) == len(kept)
    assert len(set(found.samples)) == len(found)
    if layout in ("mat_detected", "scenes"):  # in order of rows and cells, of people and appearances
        pairs = list(zip(found.samples, kept, strict=True))
    else:
        top = trees / f"{name} {layout}" / TOP[name]
        by_path = {sample.file.relative_to(top).as_posix(): sample for sample in found.samples}
        pairs = [(by_path[entry.path], entry) for entry in kept]
    whom = defaultdict(set)
    for sample, entry in pairs:
        assert sample.camid == entry.camera and sample.part == entry.part, entry
        whom[entry.who].add(sample.pid)
    assert all(len(pids) == 1 for pids in whom.values())  # one number a person
    numbers = {who: pids.pop() for who, pids in whom.items()}
    assert len(set(numbers.values())) == len(whom)  # one person a number
    assert (0 in numbers.values()) == (name == "GRID")
    assert found.people == len(whom) - (name == "GRID")
    if name == "GRID":
        assert numbers["0"] == 0
    assert sum(found.left_out.values()) == len(entries) - len(kept)


@pytest.mark.parametrize("name, layout", EVERY)
def test_samples_can_be_read_and_show_whom_they_name(trees, name, layout):
    found = find_sets(trees / f"{name} {layout}")[name]
    entries = plan(name, layout)
    colours = defaultdict(list)
    for sample in found.samples:
        picture = np.asarray(read_image(sample), float)
        assert 16 <= picture.shape[0] < 24 and 8 <= picture.shape[1] < 12
        colours[sample.pid].append(picture[:5].mean((0, 1)))
    expected = {entry.who: np.asarray(crop(entry.who, 0), float)[:5].mean((0, 1)) for entry in entries}
    for of_person in colours.values():
        # JPEG of a few pixels and noise: two people's random colours differ by far more.
        assert np.ptp(of_person, axis=0).max() < 40
        assert min(np.abs(colour - of_person[0]).max() for colour in expected.values()) < 40


def test_a_mat_gives_the_pixels_that_were_put_in(trees):
    found = find_sets(trees / "CUHK03 mat_detected")["CUHK03"]
    for sample, entry in zip(found.samples, plan("CUHK03", "mat_detected"), strict=True):
        number = int(Path(entry.path).stem.replace("_", ""))
        assert np.array_equal(np.asarray(read_image(sample)), np.asarray(crop(entry.who, number)))


def test_detected_boxes_are_preferred_to_labeled_ones(trees):
    sets, _, (note,) = survey(trees / "CUHK03 mat_detected")
    assert sets["CUHK03"].layout == "mat_detected" and "mat_labeled" in note
    assert find_sets(trees)["CUHK03"].layout == "mat_detected"
    labeled = find_sets(trees / "CUHK03 images_labeled")["CUHK03"]
    assert "these are the boxes drawn by hand; the paper's are the detected ones" in differing(labeled)


def test_the_original_is_preferred_to_crops_and_the_others_are_named(trees):
    sets, _, notes = survey(trees)
    assert sets["CUHK-SYSU"].layout == "scenes" and sum("cropped" in note for note in notes) == 2
    assert list(sets) == list(SETS) == [*PAPER_SOURCES, *REAL_TARGETS]


def test_table_adds_up_to_the_paper():
    for name, entry in SETS.items():
        assert PAPER_SOURCES.get(name, (entry.images, entry.people)) == (entry.images, entry.people)
        images = [images for images, _ in entry.parts.values() if images is not None]
        assert not images or sum(images) == entry.images
        assert set(entry.layouts) >= set(LAYOUTS[name]) and entry.ask
        assert not entry.url or name in ("VIPeR", "GRID", "iLIDS")
    assert sum(images for images, _ in PAPER_SOURCES.values()) == 121_765
    assert sum(people for _, people in PAPER_SOURCES.values()) == 18_530
    for name in REAL_TARGETS:
        assert SETS[name].official or (ROOT / "data" / "splits" / f"{name.lower()}.json").is_file()


@pytest.mark.parametrize("name, layout", [one for one in EVERY if one[1] not in ("mat_detected",)])
def test_upper_and_lower_case_do_not_matter(trees, tmp_path, name, layout):
    top = copied(trees, name, tmp_path, layout)
    before = find_sets(trees / f"{name} {layout}")[name]
    for path in sorted(top.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.upper() if path.is_dir() else path.stem + path.suffix.upper()))
    found = find_sets(tmp_path)[name]
    assert (len(found), found.people, found.left_out) == (len(before), before.people, before.left_out)


@pytest.mark.parametrize("name, layout", EVERY)
def test_a_root_may_be_moved_and_have_any_name(trees, tmp_path, name, layout):
    top = copied(trees, name, tmp_path, layout)
    deep = tmp_path / "Bücher und Bilder" / "人 再识别" / "a"
    deep.mkdir(parents=True)
    here = deep / ("Persons" if name == "iLIDS" else "DukeMTMC-reID" if name == "Market-1501" else "x")
    top.rename(here)
    before = find_sets(trees / f"{name} {layout}")[name]
    for root in (tmp_path, here):  # from far above, and the set's own folder
        found = find_sets(root)[name]
        assert [(s.pid, s.camid, s.part) for s in found.samples] == [
            (s.pid, s.camid, s.part) for s in before.samples]
        assert read_image(found.samples[-1]).size == read_image(before.samples[-1]).size


@pytest.mark.parametrize("name, layout", EVERY)
def test_stray_files_change_nothing(trees, tmp_path, name, layout):
    top = copied(trees, name, tmp_path, layout)
    before = find_sets(tmp_path)[name]
    for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        names = [path.name for path in folder.iterdir() if path.is_file()]
        for stray in ("Thumbs.db", ".DS_Store", "readme.txt", "desktop.ini", *(f"._{n}" for n in names[:2])):
            (folder / stray).write_bytes(b"stray")
    shutil.copytree(top, tmp_path / "__MACOSX" / top.name)
    shutil.copytree(top, tmp_path / ".Trash-1000" / top.name)
    assert find_sets(tmp_path) == {name: before}


def test_links_are_followed_once_and_never_in_a_loop(trees, tmp_path):
    (tmp_path / "viper").symlink_to(trees / "VIPeR bmp")
    (tmp_path / "again").symlink_to(trees / "VIPeR bmp")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    sets, _, notes = survey(tmp_path)
    assert len(sets["VIPeR"]) == len(plan("VIPeR", "bmp")) and not notes


def test_what_cannot_be_read_is_said_in_a_warning(trees, monkeypatch):
    real = os.scandir

    def refuse(folder):
        if str(folder).endswith("P3"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match="P3 cannot be read"):
        found = find_sets(trees / "CUHK02 pairs")["CUHK02"]
    assert len(found) == len(plan("CUHK02", "pairs")) - 4


# ---- what is another set, or none


def test_market_and_duke_are_told_by_their_file_names(trees, tmp_path):
    for name, other in (("Market-1501", "DukeMTMC-reID"), ("DukeMTMC-reID", "Market-1501")):
        shutil.copytree(trees / f"{name} folders" / TOP[name], tmp_path / TOP[other])
    sets = find_sets(tmp_path)
    assert sets["Market-1501"].folder.name == TOP["DukeMTMC-reID"]
    assert sets["DukeMTMC-reID"].folder.name == TOP["Market-1501"]
    assert sets["Market-1501"].left_out == {JUNK: 3, DISTRACTORS: 2}


def test_users_own_crops_are_no_published_set(tmp_path):
    own = ReIDSet("own", torch.zeros(4, 3, 16, 8, dtype=torch.uint8), torch.tensor([1, 1, 2, 2]),
                  torch.tensor([1, 2, 1, 2]))
    write_folder(own, tmp_path / "flat")
    for part in ("query", "bounding_box_test"):
        write_folder(own, tmp_path / "target" / part)
    for part in ("query", "bounding_box_test", "bounding_box_train"):
        (tmp_path / "three" / part).mkdir(parents=True)
        for name in ("0001_c1.png", "0001_c2_7.jpg", "p1.jpg"):
            Image.new("RGB", (8, 16)).save(tmp_path / "three" / part / name)
    sets, (problem,), _ = survey(tmp_path)
    assert not sets and "target is named as Market-1501 is, but has no bounding_box_train" in problem


def test_names_that_fit_by_chance_are_no_ilids(tmp_path):
    """CUHK01 has seven digits in PNG, videos have seven digits and many images."""
    for folder, names in (("campus", [f"{p:04d}{n:03d}.png" for p in range(1, 9) for n in range(1, 5)]),
                          ("video", [f"{n:07d}.jpg" for n in range(1, 60)])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(pixel(name[-3:]))
    assert find_sets(tmp_path) == {}


def test_other_folders_of_a_publication_are_not_counted(trees, tmp_path):
    market = copied(trees, "Market-1501", tmp_path)
    shutil.copytree(market / "bounding_box_train", market / "gt_bbox")
    prid = copied(trees, "PRID", tmp_path)
    sequence = prid / "multi_shot" / "cam_a" / "person_0001"
    sequence.mkdir(parents=True)
    (sequence / "0001.png").write_bytes(pixel("png"))
    sets = find_sets(tmp_path)
    assert len(sets["Market-1501"]) == sum(entry.kept for entry in plan("Market-1501", "folders"))
    assert len(sets["PRID"]) == len(plan("PRID", "single_shot"))


def test_viper_split_into_folders_counts_each_image_once(tmp_path):
    for split in ("split_1a", "split_1b"):
        for person in range(6):
            for camera, angle, part in ((1, 45, "query"), (2, 90, "gallery")):
                part = "train" if person % 2 else part
                for folder in {part, "all"}:
                    path = tmp_path / "viper" / split / folder / f"p{person:03d}_c{camera}_d{angle:03d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(pixel("png"))
    found = find_sets(tmp_path)["VIPeR"]
    assert (len(found), found.people) == (12, 6)
    assert {sample.part: sample.camid for sample in found.samples} == {"cam_a": 1, "cam_b": 2}


# ---- MATLAB files


def _text(path):
    path.write_text("not a MATLAB file")


def _numbers(path):
    with h5py.File(path, "w") as mat:
        mat["detected"] = mat["labeled"] = np.zeros((1, 5))


def _cut_short(path):
    write_cuhk03_mat(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("make", [_text, _numbers, _cut_short, Path.touch])
def test_wrong_cuhk03_mat_is_named(tmp_path, make):
    make(tmp_path / "cuhk-03.mat")
    with pytest.warns(UserWarning, match=r"cuhk-03\.mat does not list CUHK03.*archive again"):
        assert find_sets(tmp_path) == {}


def test_cells_that_are_no_8_bit_image_are_counted_and_left_out(tmp_path):
    write_cuhk03_mat(tmp_path / "cuhk-03.mat")
    before = find_sets(tmp_path)["CUHK03"]
    with h5py.File(tmp_path / "cuhk-03.mat", "r+") as mat:
        made = mat.create_dataset("made", data=np.zeros((3, 8, 16)))
        mat[mat["detected"][0, 0]][0, 0] = made.ref
    found = find_sets(tmp_path)["CUHK03"]
    assert found.samples == before.samples[1:]
    assert found.left_out == {"no image of 8 bits and three colours": 1}


def test_missing_hdf5_reader_is_named_with_its_remedy(trees, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.warns(UserWarning, match=r"h5py is not installed: pip install bnta_lib\[data\]"):
        assert find_sets(trees / "CUHK03 mat_detected") == {}


def _no_person(path):
    scipy.io.savemat(path, {"Image": np.zeros(3)})


def _short_box(path):
    write_person_mat(path, {"p1": [("s1.jpg", (1, 2, 3))]})


def test_person_of_an_odd_name_costs_the_set_no_other(tmp_path):
    folder = tmp_path / "Image" / "SSM"
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 60)).save(folder / "s1.jpg")
    people = ("p7", "someone", "p0", f"p{1 << 63}")
    write_person_mat(tmp_path / "annotation" / "Person.mat", dict.fromkeys(people, [("s1.jpg", (1, 2, 30, 40))]))
    found = find_sets(tmp_path)["CUHK-SYSU"]
    assert [sample.pid for sample in found.samples] == [7] and sum(found.left_out.values()) == 3


def _no_pictures(path):
    write_person_mat(path, {"p1": [("s1.jpg", (1, 2, 3, 4))]})


def _half(path):
    write_person_mat(path, {f"p{i}": [("s1.jpg", (1, 2, 3, 4))] for i in range(1, 50)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("make", [_text, _no_person, _short_box, _no_pictures, _half, Path.touch])
def test_wrong_person_mat_is_named(tmp_path, make):
    (tmp_path / "annotation").mkdir()
    make(tmp_path / "annotation" / "Person.mat")
    with pytest.warns(UserWarning, match=r"Person\.mat does not list CUHK-SYSU.*archive again"):
        assert find_sets(tmp_path) == {}


def test_boxes_are_clipped_and_those_without_area_or_picture_left_out(tmp_path):
    pictures = tmp_path / "Image" / "SSM"
    pictures.mkdir(parents=True)
    across = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (50, 1, 3))
    Image.fromarray(across).save(pictures / "s1.bmp")
    (pictures / "s1.bmp").rename(pictures / "s1.jpg")
    boxes = [(10, 5, 20, 30), (90, 40, 30, 30), (-5, -5, 10, 10), (10, 10, 0, 5), (200, 10, 5, 5)]
    write_person_mat(tmp_path / "annotation" / "Person.mat",
                     {"p7": [("s1.jpg", box) for box in boxes] + [("s2.jpg", boxes[0])]})
    found = find_sets(tmp_path)["CUHK-SYSU"]
    assert sum(found.left_out.values()) == 2
    first, over, before, outside = found.samples
    assert np.array_equal(np.asarray(read_image(first)), across[5:35, 10:30])
    assert read_image(over).size == (10, 10) and read_image(before).size == (5, 5)
    with pytest.raises(ValueError, match="lies outside its 100 x 50 pixels"):
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
