"""Folders in Market-1501 naming: there, back, and what is said where they do not serve."""

import numpy as np
import pytest
import torch
from bnta_lib.data import load_sources, load_targets
from bnta_lib.data.folder import read_folder, read_target, write_folder
from bnta_lib.data.sets import ReIDSet
from bnta_lib.settings import settings
from PIL import Image

SIZE = (32, 16)


def made(pids, camids, size=SIZE) -> ReIDSet:
    smooth = np.random.default_rng(0).integers(0, 256, (len(pids), 3, 1, 1), np.uint8)
    images = torch.from_numpy(np.broadcast_to(smooth, (len(pids), 3, *size)).copy())
    return ReIDSet("made", images, torch.tensor(pids), torch.tensor(camids))


def test_png_comes_back_exactly(tmp_path):
    data = made([3, 3, 8, 0], [1, 2, 1, 6])
    back = read_folder(write_folder(data, tmp_path / "out", "png"), SIZE)
    order = torch.tensor([3, 0, 1, 2])  # read in order of names
    assert torch.equal(back.images, data.images[order])
    assert torch.equal(back.pids, data.pids[order]) and torch.equal(back.camids, data.camids[order])


def test_jpeg_comes_back_nearly(tmp_path):
    data = made([1, 2], [1, 2])
    back = read_folder(write_folder(data, tmp_path), SIZE)
    assert (back.images.int() - data.images.int()).abs().max() <= 6


def test_junk_and_other_files_are_ignored_and_subfolders_read(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    picture = Image.new("RGB", (20, 40), (10, 20, 30))
    for name in ("0002_c1s1_000451_03.jpg", "-1_c1s1_000001_00.jpg", "0005_c3.PNG", "0006_c2.bmp",
                 "0007_c2s1.JPEG"):
        picture.save(deep / name)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "0009_c1.txt").write_text("x")
    data = read_folder(tmp_path, SIZE)
    assert data.pids.tolist() == [2, 5, 6, 7] and data.camids.tolist() == [1, 3, 2, 2]
    assert data.images.shape == (4, 3, *SIZE)


def test_grey_pictures_become_rgb_and_cameras_count_from_one(tmp_path):
    Image.new("L", (16, 32), 99).save(tmp_path / "0001_c0.png")
    Image.new("L", (16, 32), 99).save(tmp_path / "0001_c1.png")
    data = read_folder(tmp_path, SIZE)
    assert (data.images == 99).all() and data.camids.tolist() == [1, 2]


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_folder(tmp_path / "none", SIZE)
    with pytest.raises(ValueError, match="0002_c1s1_000451_03.jpg"):
        read_folder(tmp_path, SIZE)
    (tmp_path / "0001_c1s1_000001_00.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="0001_c1s1_000001_00.jpg"):
        read_folder(tmp_path, SIZE)
    with pytest.raises(ValueError, match="choose jpg or png"):
        write_folder(made([1], [1]), tmp_path, "gif")


def test_query_and_gallery_folders_are_the_one_split(tmp_path):
    write_folder(made([1, 2], [1, 1]), tmp_path / "query", "png")
    write_folder(made([1, 2, 0], [2, 2, 3]), tmp_path / "bounding_box_test", "png")
    target = read_target(tmp_path, SIZE)
    (split,) = target.splits
    assert target.data.pids[split.probe].tolist() == [1, 2]
    assert target.data.pids[split.gallery].tolist() == [0, 1, 2]


def test_other_folders_are_split_across_cameras(tmp_path):
    write_folder(made([1, 1, 1, 2, 2, 3, 0], [1, 1, 2, 1, 3, 1, 2]), tmp_path, "png")
    target = read_target(tmp_path, SIZE, splits=4, seed=1)
    assert len(target.splits) == 4
    for split in target.splits:
        pids, cams = target.data.pids, target.data.camids
        assert pids[split.probe].tolist() == [1, 2]
        assert {0, 3} <= set(pids[split.gallery].tolist()), "distractors stay in the gallery"
        for probe in split.probe:
            same = split.gallery[pids[split.gallery] == pids[probe]]
            assert len(same) and (cams[same] != cams[probe]).all()


def test_a_folder_of_one_camera_is_refused_as_target(tmp_path):
    write_folder(made([1, 1, 2], [1, 1, 1]), tmp_path, "png")
    with pytest.raises(ValueError, match="two cameras"):
        read_target(tmp_path, SIZE)


def test_a_folder_serves_as_source_and_as_target(tmp_path):
    write_folder(made([5, 5, 9, 9, 0], [1, 2, 1, 2, 2]), tmp_path / "mine", "png")
    chosen = settings("smoke", height=32, width=16)
    source = load_sources(chosen, tmp_path / "mine")
    assert source.pids.tolist() == [1, 1, 2, 2]
    targets = load_targets(chosen, tmp_path / "mine")
    assert list(targets) == ["mine"] and len(targets["mine"].splits) == chosen.splits


def test_a_deep_or_turned_photograph_is_misread(tmp_path):
    ramp = np.linspace(0, 65535, 48).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (96, 1))).save(tmp_path / "0001_c1_0.png")  # 16-bit grey
    upright = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8)[:, None], (1, 48)))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    upright.rotate(90, expand=True).save(tmp_path / "0001_c2_0.jpg", exif=turned, quality=95)
    deep, photo = read_folder(tmp_path, (96, 48)).images.int()
    np.testing.assert_allclose(deep[0, 0], ramp // 256, atol=1)
    np.testing.assert_allclose(photo[0, :, 20], np.arange(96), atol=3)
