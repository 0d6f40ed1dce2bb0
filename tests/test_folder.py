"""Folders in Market-1501 naming: there, back, and what is named where they do not serve."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from bnta_lib.data import load_sources, load_targets
from bnta_lib.data.packed import pack
from bnta_lib.data.published import Found
from bnta_lib.data.sets import ReIDSet, Sample, open_rgb, read_folder, read_target, write_folder
from bnta_lib.settings import settings
from bnta_lib.site.crops import read_crops

SIZE = (32, 16)
SMALL = settings("smoke", height=32, width=16)


def made(pids, camids, size=SIZE) -> ReIDSet:
    smooth = np.random.default_rng(0).integers(0, 256, (len(pids), 3, 1, 1), np.uint8)
    images = torch.from_numpy(np.broadcast_to(smooth, (len(pids), 3, *size)).copy())
    return ReIDSet("made", images, torch.tensor(pids), torch.tensor(camids))


def crops(*folders):
    for folder in folders:
        write_folder(made([1, 1], [1, 2]), folder, "png")


# ---- there and back


def test_png_comes_back_exactly_and_jpeg_nearly(tmp_path):
    data, order = made([3, 3, 8, 0], [1, 2, 1, 6]), torch.tensor([3, 0, 1, 2])  # read in order of names
    back = read_folder(write_folder(data, tmp_path / "png", "png"), SIZE)
    assert torch.equal(back.images, data.images[order])
    assert torch.equal(back.pids, data.pids[order]) and torch.equal(back.camids, data.camids[order])
    back = read_folder(write_folder(data, tmp_path / "jpg"), SIZE)
    assert (back.images.int() - data.images[order].int()).abs().max() <= 6


def test_subfolders_are_read_and_cameras_counted_from_1(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for name in ("0002_c0s1_000451_03.jpg", "0005_c3.PNG", "0006_c2.bmp", "0007_c2s1.JPEG"):
        Image.new("L", (20, 40), 99).save(deep / name)
    data = read_folder(tmp_path, SIZE)
    assert data.pids.tolist() == [2, 5, 6, 7] and data.camids.tolist() == [1, 4, 3, 3], "from 1 on"
    assert data.images.shape == (4, 3, *SIZE) and (data.images == 99).all(), "grey becomes RGB"


def test_hidden_folders_are_passed_over(tmp_path):
    crops(tmp_path / "own" / "cam1")
    before = read_folder(tmp_path / "own", SIZE), read_crops(tmp_path / "own", SIZE).files
    crops(*(tmp_path / "own" / name / "files" for name in (".Trash-1000", "__MACOSX", "@eaDir")))
    assert read_folder(tmp_path / "own", SIZE).digest == before[0].digest
    assert read_crops(tmp_path / "own", SIZE).files == before[1]
    crops(tmp_path / ".mine")  # named by its owner
    assert len(read_folder(tmp_path / ".mine", SIZE)) == len(read_crops(tmp_path / ".mine", SIZE)) == 2


def test_linked_folders_are_read_once(tmp_path):
    crops(tmp_path / "disk" / "cam1", tmp_path / "own" / "z")
    for name, goal in (("cam1", "disk/cam1"), ("again", "disk/cam1"), ("loop", "own"), ("a", "own/z")):
        (tmp_path / "own" / name).symlink_to(tmp_path / goal)
    assert len(read_folder(tmp_path / "own", SIZE)) == len(read_crops(tmp_path / "own", SIZE).files) == 4
    assert len(load_targets(SMALL, tmp_path / "own")["own"].data) == 4


# ---- what is passed over, and what names leave open


def test_what_is_passed_over_is_counted_by_reason(tmp_path):
    crops(tmp_path, tmp_path / ".thumbs")
    for name in ("Thumbs.db", "0001_c1.txt", "20261130101530_c1.jpg", "-1_c1s1_000001_00.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning) as warned:
        assert len(read_folder(tmp_path, SIZE)) == 2
    (sentence,) = (str(one.message) for one in warned if "passed over" in str(one.message))
    assert {"2 of another ending", "1 of another name", "1 junk of person -1", "1 hidden"} == {
        part.partition(" (")[0] for part in sentence.partition("passed over are ")[2].split("; ")}
    for file in tmp_path.glob("*_c*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"1 of another name \(such as 20261130101530_c1.jpg\)"):
        read_folder(tmp_path, SIZE)


def test_person_0_is_stated(tmp_path):
    write_folder(made([0, 0, 1, 1], [1, 2, 1, 2]), tmp_path / "mine", "png")
    for load in (load_sources, load_targets):
        with pytest.warns(UserWarning, match="2 crops of person 0, .*count as distractors"):
            load(SMALL, tmp_path / "mine")


def test_misaligned_boxes_of_a_folder_are_refused(tmp_path):
    folder = write_folder(made([1, 1], [1, 2]), tmp_path / "mine", "png")
    for load in (load_sources, load_targets):
        with pytest.raises(ValueError, match="misaligned boxes are rendered"):
            load(settings("smoke", misaligned=0.15), folder)


def test_people_of_one_number_in_several_folders_are_stated(tmp_path):
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        write_folder(made([1, 2, 3], [1, 14, 14]), tmp_path / "MSMT17" / part, "png")
    with pytest.warns(UserWarning, match="3 persons, .*such as bounding_box_train and the others"):
        load_sources(SMALL, tmp_path / "MSMT17")
    for site, cameras in (("a", (1, 2)), ("b", (3, 4))):
        write_folder(made([1, 1], cameras), tmp_path / "sites" / site, "png")
    with pytest.warns(UserWarning, match="1 persons, such as 1, are seen in .*such as a and b"):
        load_targets(SMALL, tmp_path / "sites")
    for camera in (1, 2):
        write_folder(made([1, 2], [camera] * 2), tmp_path / "by camera" / str(camera), "png")
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", ".*(repeat another|very same picture)")
        assert len(load_targets(SMALL, tmp_path / "by camera")["by camera"].data) == 4


def test_pictures_that_repeat_another_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    write_folder(made([1, 1, 2, 2], [1, 2, 1, 2]), tmp_path / "own", "png")
    first, second, *_ = files = sorted((tmp_path / "own").iterdir())
    second.write_bytes(first.read_bytes())
    named = f"1 pictures repeat another, such as {second.name} and {first.name}"
    with pytest.warns(UserWarning, match=named):
        read_folder(tmp_path / "own", SIZE)
    with pytest.warns(UserWarning, match=named):
        pack(Found("own", tmp_path, tuple(Sample(file, 1, 1) for file in files)), SIZE, progress=False)


# ---- as a target and as a source


@pytest.mark.parametrize("gallery", ["bounding_box_test", "gallery"])
def test_query_and_gallery_folders_are_the_one_split(tmp_path, gallery):
    write_folder(made([1, 2], [1, 1]), tmp_path / "query", "png")
    write_folder(made([1, 2, 0], [2, 2, 3]), tmp_path / gallery, "png")
    write_folder(made([8, 9], [1, 2]), tmp_path / "train", "png")
    with pytest.warns(UserWarning, match=f"2 files outside of query and {gallery} are not read"):
        target = read_target(tmp_path, SIZE)
    (split,) = target.splits
    assert target.data.pids[split.probe].tolist() == [1, 2]
    assert target.data.pids[split.gallery].tolist() == [0, 1, 2]


def test_split_that_lies_elsewhere_or_lacks_a_side_is_refused(tmp_path):
    for folder in ("sites/A/query", "sites/A/gallery", "sites/B/query", "sites/B/bounding_box_test",
                   "odd/query", "odd/test", "big/Query", "big/Gallery", "car/image_query", "car/image_test",
                   "raw/probe", "raw/test",
                   "two/query", "two/gallery", "two/bounding_box_test"):
        crops(tmp_path / folder)
    for name, sentence in (("sites", "no split itself, but .*A and .*B: give that folder"),
                           ("sites/A/query", "no split itself, but .*sites/A: give"),
                           ("odd", "odd has query, and a split needs query and one of bounding_box_test and"),
                           ("car", "car has image_query, and a split"), ("raw", "raw has probe, and"),
                           ("big", "big has (Gallery and Query|Query and Gallery), and a split needs query"),
                           ("two", "has two galleries, bounding_box_test and gallery")):
        with pytest.raises(ValueError, match=sentence):
            load_targets(SMALL, tmp_path / name)


def test_other_folders_are_split_across_cameras(tmp_path):
    write_folder(made([1, 1, 1, 2, 2, 3, 0], [1, 1, 2, 1, 3, 1, 2]), tmp_path, "png")
    target = read_target(tmp_path, SIZE, splits=4)
    assert len(target.splits) == 4
    for split in target.splits:
        pids, cams = target.data.pids, target.data.camids
        assert pids[split.probe].tolist() == [1, 2]
        assert {0, 3} <= set(pids[split.gallery].tolist()), "distractors stay in the gallery"
        for probe in split.probe:
            same = split.gallery[pids[split.gallery] == pids[probe]]
            assert len(same) and (cams[same] != cams[probe]).all()


def test_folder_serves_as_source_and_as_target(tmp_path):
    write_folder(made([5, 5, 9, 9, 0], [1, 2, 1, 2, 2]), tmp_path / "mine", "png")
    assert load_sources(SMALL, tmp_path / "mine").pids.tolist() == [1, 1, 2, 2]
    targets = load_targets(SMALL, tmp_path / "mine")
    assert list(targets) == ["mine"] and len(targets["mine"].splits) == SMALL.splits


# ---- what is wrong is named


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory: .*none"):
        read_folder(tmp_path / "none", SIZE)
    with pytest.raises(ValueError, match="0002_c1s1_000451_03.jpg"):  # as files must be named
        read_folder(tmp_path, SIZE)
    write_folder(made([1, 1, 2], [1, 1, 1]), tmp_path, "png")
    with pytest.raises(ValueError, match="two cameras"):
        read_target(tmp_path, SIZE)
    (tmp_path / "0001_c1s1_000001_00.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="0001_c1s1_000001_00.jpg"):
        read_folder(tmp_path, SIZE)


@pytest.mark.parametrize("name", ["0002_c1_0.png", "cam2", "0000_c0_itself.png"])
def test_link_that_leads_nowhere_is_named(tmp_path, name):
    crops(tmp_path)
    (tmp_path / name).symlink_to(name if "itself" in name else tmp_path / "gone" / name)
    with pytest.raises(ValueError, match=f"{name} is a link that leads nowhere: mend or delete it"):
        load_targets(SMALL, tmp_path)
    assert list(read_crops(tmp_path, SIZE).skipped) == [name]


# ---- pixels


def test_turned_photographs_are_read_upright(tmp_path):
    upright = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8)[:, None], (1, 48)))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    upright.rotate(90, expand=True).save(tmp_path / "0001_c2_0.jpg", exif=turned, quality=95)
    image = read_folder(tmp_path, (96, 48)).images.int()[0]
    np.testing.assert_allclose(image[0, :, 20], np.arange(96), atol=3)


def test_deep_grey_keeps_its_upper_byte_and_other_depths_are_refused(tmp_path):
    grey = np.tile(np.linspace(0, 65_535, 16), (32, 1))
    for kind in (np.uint16, np.int32, np.float32):
        Image.fromarray(grey.astype(kind)).save(tmp_path / "0001_c1_0.png", "TIFF")
        if kind == np.uint16:
            assert np.array_equal(read_folder(tmp_path, SIZE).images[0, 0], grey.astype(kind) >> 8)
            continue
        with pytest.raises(ValueError, match="0001_c1_0.png cannot .*as Pillow's mode [IF]: save it with 8"):
            read_folder(tmp_path, SIZE)


@pytest.mark.parametrize("form", ["grey.png", "grey.tif", "colour.png", "colour.tif"])
def test_pictures_of_fewer_bits_than_their_files_are_refused(tmp_path, form):
    cv2 = pytest.importorskip("cv2")
    values = np.tile(np.linspace(0, 1, 16), (32, 1))
    values = values if form.startswith("grey") else np.stack([values] * 3, 2)
    file = tmp_path / f"0001_c1_{form}"
    for bits in (10, 12, 14, 15, 16):
        assert cv2.imwrite(str(file), (values * (2**bits - 1)).astype(np.uint16))
        if bits < 16:
            with pytest.raises(ValueError, match=f"16 bits end below {2**bits:,} of 65,536: save it with 8"):
                open_rgb(file)
    assert open_rgb(file).getextrema()[0] == (0, 255)


@pytest.mark.parametrize("name", ["alpha", "colour", "palette"])
def test_transparent_pixels_are_white_for_every_reader(tmp_path, monkeypatch, name):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "own" / "0001_c1_0.png"
    file.parent.mkdir()
    picture = Image.new("RGB", (16, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 16, 16, 32))
    if name == "alpha":
        picture.putalpha(Image.fromarray(np.repeat([[0], [255]], 16, 0).astype(np.uint8).repeat(16, 1)))
        picture.save(file)
    elif name == "colour":
        picture.save(file, transparency=(255, 0, 0))
    else:
        picture = picture.quantize(2)
        picture.save(file, transparency=picture.getpixel((0, 0)))
    image = read_folder(file.parent, SIZE).images[0]
    assert (image[:, :16] == 255).all() and (image[:2, 16:] == 0).all() and (image[2, 16:] == 255).all()
    assert torch.equal(image, read_crops(file.parent, SIZE).images[0])
    found = Found("one", tmp_path, (Sample(file, 1, 1),))
    assert torch.equal(image, pack(found, SIZE, progress=False).images[0])
