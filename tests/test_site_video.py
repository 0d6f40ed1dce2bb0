"""The way of a video: people found by motion and linked, against a rendered video's true boxes."""

import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bnta_lib.settings import settings
from bnta_lib.site import load_site, read_video
from bnta_lib.site.video import cut, read_videos, region
from walkers import write_video

SIZE = (96, 48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of three people who cross one after the other; its path and true boxes."""
    path = tmp_path_factory.mktemp("vi déo") / "three.avi"
    return path, write_video(path, 0, crowd=3, seconds=9)


def written(path: Path, frames, code="MJPG", rate=12.5) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def still(n=40, size=(120, 160)):
    grid = np.random.default_rng(0).integers(60, 200, (9, 16, 3), np.uint8)
    return [cv2.resize(grid, size[::-1])] * n


def test_each_person_is_one_track(clip):
    path, truth = clip
    site = read_video(path, SIZE, max_per_track=5)
    assert len(torch.unique(site.tracks)) == 3, "three people cross, one after the other"
    starts = [min(f for f, boxes in enumerate(truth) if boxes[k]) for k in range(3)]
    order = np.argsort(starts)
    for track, person in zip((1, 2, 3), order, strict=True):
        times = site.times[site.tracks == track].tolist()
        assert 2 <= len(times) <= 5 and times == sorted(set(times))
        seen = [f for f, boxes in enumerate(truth) if boxes[person]]
        assert seen[0] - 4 <= times[0] and times[-1] <= seen[-1] + 4
    assert site.notes[0].startswith("three.avi: 112 frames") and len(site.notes) == 1


def test_a_crop_is_cut_around_a_person(clip):
    path, truth = clip
    site = read_video(path, SIZE)
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1])
    for image, time, place in zip(site.images, site.times.tolist(), site.boxes.tolist(), strict=True):
        boxes = [region(frames[time].shape, np.array(box), SIZE) for box in truth[time] if box]
        errors = [(torch.from_numpy(np.asarray(resize(cut(frames[time], box)))).permute(2, 0, 1).int()
                   - image.int()).abs().float().mean() for box in boxes]  # fmt: skip
        assert min(errors) < 40, "none of the true boxes looks like the crop"
        left, top, width, height = place
        again = Image.fromarray(frames[time][top : top + height, left : left + width, ::-1].copy())
        again = np.asarray(again.resize(SIZE[::-1], Image.Resampling.BILINEAR))
        assert np.array_equal(again.transpose(2, 0, 1), image), "it was cut elsewhere"


def resize(pixels):
    return cv2.resize(pixels, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_AREA)


def test_a_video_and_a_folder_of_videos_are_sites(clip):
    site = load_site(clip[0], settings("smoke"))
    assert site.images.shape[1:] == (3, 96, 48) and len(site) >= 12
    folder = load_site(clip[0].parent, settings("smoke"))
    assert len(folder) == len(site) and folder.cameras.unique().tolist() == [1]


def test_videos_of_a_folder_are_cameras_and_a_bad_one_is_passed_over(clip, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video" * 100)
    both = read_videos([clip[0], bad, clip[0]], SIZE, "hall")
    assert both.tracks.max() == 6 and both.cameras.unique().tolist() == [1, 2]
    assert list(both.skipped) == ["bad.mp4"] and "cannot be decoded" in both.skipped["bad.mp4"]
    with pytest.raises(ValueError, match="no video of the folder"):
        read_videos([bad], SIZE, "hall")


def test_a_file_named_like_an_address_is_not_downloaded(tmp_path, monkeypatch):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        name = f"http:127.0.0.1:{server.server_port}?x.mp4"
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.chdir(tmp_path)
        for path in (".", name):
            with pytest.raises(ValueError, match="cannot be decoded as a video"):
                load_site(path, settings("smoke"))
        server.shutdown()
    assert not asked


def test_a_video_that_gives_nobody_is_named(tmp_path):
    current = settings("smoke")
    (tmp_path / "no.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="no.mp4 cannot be decoded as a video"):
        load_site(tmp_path / "no.mp4", current)
    (tmp_path / "empty.avi").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.avi cannot be decoded as a video: it is empty"):
        load_site(tmp_path / "empty.avi", current)
    written(tmp_path / "none.avi", still(1)[:1])
    whole = (tmp_path / "none.avi").read_bytes()
    (tmp_path / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(ValueError, match="none.avi.*(nobody was found in 0 frames|cannot be decoded)"):
        load_site(tmp_path / "none.avi", current)
    with pytest.raises(ValueError, match="nobody was found in 40 frames"):
        load_site(written(tmp_path / "still.avi", still()), current)
    with pytest.raises(FileNotFoundError):
        load_site(tmp_path / "nowhere.avi", current)


def walker(n, size, height, colour, rate=10.0):
    """Frames of an upright block that walks in after a second, a height and a half in each."""
    frames = []
    for k, frame in enumerate(still(n, size)):
        frame, left = frame.copy(), int((k / rate - 1) * 1.5 * height)
        if left > 0:
            frame[size[0] // 4 : size[0] // 4 + height, left : left + height * 2 // 5] = colour
        frames.append(frame)
    return frames


def test_crops_of_a_large_frame_are_cut_at_its_full_size(tmp_path):
    frames = walker(32, (2160, 3840), 700, (20, 30, 220))
    site = load_site(written(tmp_path / "large.avi", frames, rate=10), settings("smoke"), max_per_track=6)
    assert site.tracks.unique().tolist() == [1] and len(site) >= 4
    assert site.boxes[:, 3].float().median() > 600, "cut from the small copy"
    middle = site.images[:, :, 40:56, 20:28].float().mean((0, 2, 3))
    assert middle[0] > 150 and middle[1:].max() < 80, "blue and red are mixed up, or a crop missed"
