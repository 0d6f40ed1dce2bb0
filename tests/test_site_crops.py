"""Folders of crops as engineers have them: any names and kinds of file, each read or named."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bnta_lib.settings import settings
from bnta_lib.site import crops
from bnta_lib.site.crops import Site, adaption_sample, check_choices, load_site, read_crops, results_dir
from bnta_lib.site.judge import track_trial
from conftest import crop

SIZE = (96, 48)
SMOKE = settings("smoke")
IMAGES = torch.zeros(50, 3, 4, 2, dtype=torch.uint8)


def test_files_that_are_no_image_are_named_and_passed_over(tmp_path, monkeypatch):
    folder = tmp_path / "Caméra 1"
    for name in ("one.png", "two.JPG", "<script>alert(1)</a b/web.webp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop(0)).save(folder / name)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut short.png").write_bytes((folder / "one.png").read_bytes()[:200])
    (folder / "clip.mp4").write_bytes(b"video")
    (folder / ".hidden.png").write_bytes(b"of the file system")
    os.mkfifo(folder / "pipe.jpg")  # keeps no reader waiting
    site = read_crops(folder, SIZE)
    assert site.files == ("<script>alert(1)</a b/web.webp", "one.png", "two.JPG") and site.tracks is None
    broken = {"broken.jpg", "empty.png", "cut short.png"}
    assert set(site.skipped) == {"notes.txt", "clip.mp4", ".hidden.png", "pipe.jpg"} | broken
    assert "video" in site.skipped["clip.mp4"] and "decoded" in site.skipped["broken.jpg"]
    monkeypatch.setattr(crops, "SKIPPED", 3)
    first, *files, last = site.lines()
    assert (first, len(files)) == ("Caméra 1: 3 crops, 7 skipped files", 3)
    for counted in ("3 cannot be decoded (", "1 hidden (such as .hidden.png)", "1 video (such",
                    "1 no image by the ending (such as notes.txt)"):
        assert counted in last


def test_frames_of_a_track_follow_each_other_by_their_numbers(tmp_path):
    for name in ("cam 2/7/frame_104.png", "cam 2/7/frame_95.png", "cam 2/7/frame_100.png",
                 "cam 10/1/2026-1-10 9.5.png", "cam 10/1/2026-1-9 10.0.png", "cam 10/1/2026-1-10 10.0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop(0)).save(tmp_path / name)
    site = read_crops(tmp_path, SIZE, tracks="folders")
    probe, late = track_trial(site)
    assert {(site.files[a], site.files[b]) for a, b in zip(probe.tolist(), late.tolist())} == {
        ("cam 2/7/frame_95.png", "cam 2/7/frame_104.png"),
        ("cam 10/1/2026-1-9 10.0.png", "cam 10/1/2026-1-10 10.0.png")}


def test_order_of_a_track_is_stated_and_refused_if_decimals_give_another(tmp_path):
    for name in ("Frame_10.jpg", "frame_9.jpg", "frame_10 (2).jpg"):
        (tmp_path / "1").mkdir(exist_ok=True)
        Image.fromarray(crop(0)).save(tmp_path / "1" / name)
    site = read_crops(tmp_path, SIZE, tracks="folders")
    assert site.files == ("1/frame_9.jpg", "1/Frame_10.jpg", "1/frame_10 (2).jpg")
    assert "for example from frame_9.jpg to frame_10 (2).jpg" in site.notes[0]
    for names, refused in ((("9.05.12", "9.5.13"), False), (("0.5", "1.25"), False), (("1.25", "1.5"), True)):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            Image.fromarray(crop(0)).save(folder / f"0 {name}.png")
        if refused:
            assert len(read_crops(folder, SIZE)) == 2, "order means nothing without tracks"
            with pytest.raises(ValueError, match="0 1.5.png comes before 0 1.25.png by whole numbers, and"):
                read_crops(folder, SIZE, tracks="folders")
        else:
            read = read_crops(folder, SIZE, tracks="folders").files
            assert read == tuple(f"0 {name}.png" for name in names)


def test_crops_that_repeat_or_are_enlarged_are_counted(tmp_path):
    for k, (size, picture) in enumerate((((48, 96), 0), ((20, 40), 1), ((20, 40), 1), ((20, 40), 2))):
        Image.fromarray(crop(picture)).resize(size).save(tmp_path / f"{k}.png")
    _, low, same = crops.overview(read_crops(tmp_path, SIZE))
    assert low == "3 of 4 pictures are less than half as high as the network's 96 pixels, and are enlarged."
    assert same == "1 of 4 crops repeat another, pixel by pixel."


def test_whole_frames_among_crops_are_counted(tmp_path):
    for k, size in enumerate(((160, 120), (160, 120), (48, 96))):
        Image.new("RGB", size).save(tmp_path / f"{k}.png")
    assert read_crops(tmp_path, SIZE).notes == (
        "2 of 3 pictures are wider than high, and crops of upright people are not.",)


def test_a_wrong_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory: .*nowhere"):
        load_site(tmp_path / "nowhere", SMOKE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no image.* 1 no image by the ending \(such as notes.txt\)"):
        load_site(tmp_path, SMOKE)
    (tmp_path / "notes.txt").unlink()
    Image.fromarray(np.full((32, 16), 900, np.uint16)).save(tmp_path / "infrared.png")
    with pytest.raises(ValueError, match="1 cannot be decoded .*its values of 16 bits end below 1,024 of"):
        load_site(tmp_path, SMOKE)
    with pytest.raises(ValueError, match="'folders'"):
        load_site(tmp_path, SMOKE, tracks="persons")
    with pytest.raises(ValueError, match="infrared.png is one picture: give a folder of crops"):
        load_site(tmp_path / "infrared.png", SMOKE)


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_file_of_several_pictures_is_passed_over_by_name(tmp_path, ending):
    pictures = [Image.fromarray(crop(k)) for k in range(3)]
    pictures[0].save(tmp_path / "one.png")
    pictures[0].save(tmp_path / f"all.{ending}", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=pictures[1:])
    site = load_site(tmp_path, SMOKE)
    assert site.files == ("one.png", "phone.jpg") and "holds 3 pictures" in site.skipped[f"all.{ending}"]


def test_cameras_are_numbered_in_natural_order_and_a_word_within_a_hash_is_none(tmp_path):
    names = ("1_c10s1.png", "1_C2.png", "a_c9-2.png", "0a9f_c0e4d2.png", "0a9f_c12ab.png")
    for name in names:
        Image.fromarray(crop(0)).save(tmp_path / name)
    site = load_site(tmp_path, SMOKE, cameras="names")
    assert dict(zip(site.files, site.cameras.tolist())) == dict(zip(names, (3, 1, 2, 0, 0)))
    assert site.camera_names == {1: "C2", 2: "c9", 3: "c10"}


@pytest.mark.parametrize("cameras, names, numbers, probes", [  # probes know the cameras of the site alone
    ("folders", {1: "hall", 2: "é yard"}, [0, 1, 1, 1, 2], [0, 9, 9, 9, 0]),
    ("names", {1: "c1", 2: "c3"}, [1, 1, 1, 0, 2], [0, 0, 0, 0, 7])])
def test_folders_can_be_tracks_and_folders_or_files_name_cameras(tmp_path, cameras, names, numbers, probes):
    for name in ("hall/2_c1s1.png", "hall/3_c1.png", "hall/a/1.png", "free_c1.png", "é yard/_c2/7_c3_c9.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop(0)).save(tmp_path / name)
    site = load_site(tmp_path, SMOKE, tracks="folders", cameras=cameras)
    assert site.tracks.tolist() == [1, 2, 2, 3, 4] and site.times.tolist() == [0, 0, 1, 0, 0]
    assert site.camera_names == names and site.cameras.tolist() == numbers
    assert site.lines()[0].endswith("5 crops, 4 tracks, 2 cameras; the camera of 1 is not known")
    assert load_site(tmp_path, SMOKE).cameras is None
    with pytest.raises(ValueError, match="folders, names, videos, not 'persons'"):
        load_site(tmp_path, SMOKE, cameras="persons")
    with pytest.raises(ValueError, match="cameras='names' names no camera, for example of 1.png"):
        load_site(tmp_path / "hall" / "a", SMOKE, cameras="names")
    assert crops.with_cameras(site, cameras, {7: "c3", 9: "hall"}).cameras.tolist() == probes
    assert not crops.with_cameras(site, None, names).cameras.any()


def test_camera_is_the_same_in_either_form_of_its_letters(tmp_path):
    for folder in ("T\u00fcr", "Tu\u0308r"):  # as Linux and macOS write them
        (tmp_path / folder).mkdir()
        Image.fromarray(crop(0)).save(tmp_path / folder / "1.png")
    site = load_site(tmp_path, SMOKE, cameras="folders")
    assert site.cameras.tolist() == [1, 1] and site.camera_names == {1: "T\u00fcr"}
    assert crops.with_cameras(site, "folders", {4: "Tu\u0308r"}).cameras.tolist() == [4, 4]


def test_a_sample_draws_crops_once_and_by_its_seed():
    site = Site("s", IMAGES, ("x",) * 50)
    rows = adaption_sample(site, 20, seed=1)
    assert len(set(rows.tolist())) == 20 and torch.equal(rows, rows.sort().values)
    assert torch.equal(rows, adaption_sample(site, 20, seed=1))
    assert not torch.equal(rows, adaption_sample(site, 20, seed=2))
    assert torch.equal(adaption_sample(site, 50), torch.arange(50))


def test_results_of_a_site_stay_in_a_folder_of_its_own(tmp_path):
    for name in ("../../etc", "<b>", "..", "/"):
        folder = results_dir(Site(name, IMAGES, ("x",)))
        assert folder.parent.name == "site" and folder.name not in ("", ".", "..")
    assert results_dir(Site("a", IMAGES, ("x",)), tmp_path / "out") == tmp_path / "out"
    one, other = (results_dir(Site("L" * 200, IMAGES, ("x",), path=path)) for path in ("/a/same", "/b/same"))
    assert one != other and all(path.name.startswith("LL") and len(path.name) < 80 for path in (one, other))


@pytest.mark.parametrize("change, message", [
    ({"images": None}, "images is a path"), ({"out": True}, "out is a path; got True"),
    ({"out": " "}, "out is a path"), ({"N": "abc"}, "N is a whole number of at least 4; got 'abc'"),
    ({"places": -3}, "places is a whole number of at least 1"),
    ({"images": "/nowhere"}, "images is a folder or a video that is there; there is no /nowhere"),
    ({"probes": "/nowhere"}, "probes is a folder or a video")])
def test_a_wrong_parameter_is_named_before_anything_is_read(change, message):
    good = {"images": "rendered", "probes": None, "out": None, "N": 2000, "places": 20, "seed": 0}
    with pytest.raises(ValueError, match=message):
        check_choices(**good | change)


def test_probes_that_are_a_file_are_refused(tmp_path):
    (tmp_path / "probe.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="probes is a folder of crops, and .*probe.mp4 is a file"):
        check_choices("rendered", tmp_path / "probe.mp4", None, N=2000, places=20, seed=0)


def test_a_folder_of_results_that_cannot_be_made_is_noticed_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="File exists: .*file"):
        check_choices("rendered", None, tmp_path / "file", N=2000, places=20, seed=0)
    assert (tmp_path / "file").read_text() == "mine"
