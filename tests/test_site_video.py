"""The way of a video: people found by motion and linked, against a rendered video's true boxes."""

import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from walkers import write_video

from bnta_lib.settings import settings
from bnta_lib.site.crops import load_site, with_cameras
from bnta_lib.site.video import region

SIZE = (96, 48)
SMOKE = settings("smoke", height=SIZE[0], width=SIZE[1])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of three people who cross one after the other: path, frames, true boxes, what is read of it."""
    path, frames = tmp_path_factory.mktemp("vi déo") / "three.avi", []
    truth = write_video(path, 0, crowd=3, seconds=9)
    capture = cv2.VideoCapture(str(path))
    while (got := capture.read())[0]:
        frames.append(got[1])
    return path, frames, truth, load_site(path, SMOKE)


def written(path: Path, frames, rate=12.5) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def still(n=40, size=(120, 160)):
    grid = np.random.default_rng(0).integers(60, 200, (9, 16, 3), np.uint8)
    return [cv2.resize(grid, size[::-1])] * n


def test_each_person_is_one_track(clip):
    *_, truth, site = clip
    assert len(torch.unique(site.tracks)) == 3, "three people cross, one after the other"
    starts = [min(f for f, boxes in enumerate(truth) if boxes[k]) for k in range(3)]
    for track, person in zip((1, 2, 3), np.argsort(starts), strict=True):
        times = site.times[site.tracks == track].tolist()
        assert 2 <= len(times) <= 8 and times == sorted(set(times))
        seen = [f for f, boxes in enumerate(truth) if boxes[person]]
        assert seen[0] - 4 <= times[0] and times[-1] <= seen[-1] + 4
    assert site.notes[0].startswith("three.avi: 112 frames") and len(site.notes) == 1


def test_a_crop_is_cut_around_a_person(clip):
    _, frames, truth, site = clip
    assert site.images.shape[1:] == (3, *SIZE) and len(site) >= 12

    def cut(frame, box):
        left, top, width, height = box
        crop = Image.fromarray(frame[top : top + height, left : left + width, ::-1].copy())
        return np.asarray(crop.resize(SIZE[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    for image, time, place in zip(site.images.numpy(), site.times.tolist(), site.boxes.tolist(), strict=True):
        boxes = [region(frames[time].shape, np.array(box), SIZE) for box in truth[time] if box]
        errors = [np.abs(cut(frames[time], box).astype(int) - image).mean() for box in boxes]
        assert min(errors) < 40, "none of the true boxes looks like the crop"
        assert np.array_equal(cut(frames[time], place), image), "it was cut elsewhere"


def test_videos_of_a_folder_are_cameras_and_a_bad_one_is_passed_over(clip, tmp_path):
    folder = load_site(clip[0].parent, SMOKE)
    assert len(folder) == len(clip[-1]) and folder.cameras.unique().tolist() == [1]
    (tmp_path / "hall").mkdir()
    (tmp_path / "hall" / "bad.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="bad.mp4: cannot be decoded"):
        load_site(tmp_path, SMOKE)
    for name in ("hall/one.avi", "two.avi"):
        shutil.copy(clip[0], tmp_path / name)
    both = load_site(tmp_path, SMOKE)
    assert both.tracks.max() == 6 and both.cameras.tolist() == [1] * len(clip[-1]) + [2] * len(clip[-1])
    assert both.camera_names == {1: "hall/one", 2: "two"}
    assert with_cameras(both, "folders").camera_names == {1: "hall", 2: "two"}
    (tmp_path / "there.mp4").symlink_to(tmp_path / "gone.mp4")
    assert "No such file" in load_site(tmp_path, SMOKE).skipped["there.mp4"]
    assert list(both.skipped) == ["hall/bad.mp4"] and "cannot be decoded" in both.skipped["hall/bad.mp4"]


def test_recorders_endings_are_videos_and_their_snapshots_and_other_files_are_named(clip, tmp_path):
    for ending in ("mp4", "dav", "mts", "h264", "3gp", "flv", "asf"):
        shutil.copy(clip[0], tmp_path / f"cam.{ending}")
    for name in ("cam.jpg", "cam_thumb.png"):
        Image.fromarray(still(1)[0]).save(tmp_path / name)
    (tmp_path / "index.bin").write_bytes(b"x")
    site = load_site(tmp_path, SMOKE)
    assert len(site.notes) == 7 and site.tracks.max() == 21
    assert set(site.skipped) == {"cam.jpg", "cam_thumb.png", "index.bin"}
    (tmp_path / "logo.png").write_bytes((tmp_path / "cam_thumb.png").read_bytes())
    assert "give it by itself" in load_site(tmp_path, SMOKE).skipped["cam.dav"]  # pictures of another origin
    (tmp_path / "logo.png").unlink()
    for k in range(26):  # a detector's crops
        Image.fromarray(still(1)[0]).save(tmp_path / f"cam_{k}.png")
    assert len(load_site(tmp_path, SMOKE)) == 28


def test_time_stamps_count_if_a_header_names_another_rate(clip, tmp_path):
    held = written(tmp_path / "true.mkv", clip[1]).read_bytes()
    at = held.index(b"\x23\xe3\x83") + 4  # Matroska's default duration: nanoseconds a frame
    size = held[at - 1] & 0x7F
    times = []
    for rate in (60, 12):
        odd = tmp_path / "odd.mkv"
        odd.write_bytes(held[:at] + int(1e9 / rate).to_bytes(size, "big") + held[at + size :])
        site = load_site(odd, SMOKE)
        times.append(site.times[site.tracks <= 3].tolist())
        assert site.notes[0] == "odd.mkv: 112 frames, 3 tracks."
        stamps = "odd.mkv: 12.5 frames a second by its time stamps; its header names 60."
        assert site.notes[1:] == ((stamps,) if rate == 60 else ())
    assert times[0] == times[1]


def test_a_file_named_like_an_address_is_not_downloaded(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        name = f"http:127.0.0.1:{server.getsockname()[1]}?x.mp4"
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.chdir(tmp_path)
        for path in (".", name):
            with pytest.raises(ValueError, match="cannot be decoded as a video"):
                load_site(path, SMOKE)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()


def test_a_video_that_gives_nobody_is_named(tmp_path):
    for name, content in (("no.mp4", b"not a video" * 100), ("empty.avi", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: cannot .*: it is a file of {len(content):,} bytes"):
            load_site(tmp_path / name, SMOKE)
    whole = written(tmp_path / "none.avi", still(1)).read_bytes()
    (tmp_path / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(ValueError, match="none.avi.*(nobody was found in 0 frames|cannot be decoded)"):
        load_site(tmp_path / "none.avi", SMOKE)
    with pytest.raises(ValueError, match="nobody was found in 40 frames"):
        load_site(written(tmp_path / "still.avi", still()), SMOKE)
    with pytest.raises(FileNotFoundError, match="nowhere.avi"):
        load_site(tmp_path / "nowhere.avi", SMOKE)


def test_crops_of_a_large_frame_are_cut_at_its_full_size(tmp_path):
    """An upright block walks in after a second, a height and a half in each."""
    frames = [frame.copy() for frame in still(32, (1080, 1920))]
    for k, frame in enumerate(frames):
        if (left := int((k / 10 - 1) * 1.5 * 350)) > 0:
            frame[270:620, left : left + 140] = (20, 30, 220)
    site = load_site(written(tmp_path / "large.avi", frames, rate=10), SMOKE)
    assert site.tracks.unique().tolist() == [1] and len(site) >= 4
    assert site.boxes[:, 3].float().median() > 300, "cut from the small copy"
    middle = site.images[:, :, 40:56, 20:28].float().mean((0, 2, 3))
    assert middle[0] > 150 and middle[1:].max() < 80, "blue and red are mixed up, or a crop missed"
