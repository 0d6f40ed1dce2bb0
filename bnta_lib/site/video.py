"""Person crops out of the video of a fixed camera, without a trained detector.

What moves against the learnt background, is as tall and as narrow as somebody upright and keeps
moving for a while is taken for a person. Boxes of one frame are linked with those of the next by
the Hungarian assignment. A track ends if its person meets another or stands still for long, since two
pure tracks are worth more than a mixed one. Frames pass one at a time and are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is reported below, once

try:
    import cv2
except ImportError:  # an extra: crops need none
    cv2 = None
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from bnta_lib.data.folders import resized  # noqa: E402
from bnta_lib.site.crops import Site, shown_name  # noqa: E402

Box = np.ndarray  # float64 (4,): left, top, width, height, in pixels of the frame as it is searched
Region = tuple[int, int, int, int]  # the same of a crop, in pixels of the frame itself
REFUSED = 10.0  # cost of a box that cannot continue a track

# What is taken for a person, and what for a track. Lengths are shares of the frame's height.
LONGEST = 960  # pixels of the longer side at which motion is looked for
RATE = 12.5  # frames a second that are looked at, at most
LEARNING = 1.0  # seconds at the start in which the background is learnt
HEIGHTS = 0.06, 0.9  # of a person, at least and at most
SHAPES = 1.3, 4.5  # height over width, at least and at most
FILLED = 0.35  # share of the box that moves, at least
GAP = 0.6  # seconds for which a person may go unseen
ENDS = 0.3  # seconds at both ends of a track without crops: there people part and meet
LASTING = 1.2  # seconds that a track lasts, at least
MOVED = 0.5  # way of a track in heights of its person, at least
APART = 0.03  # share of a crop that another box may cover, for it to be kept


@dataclass(eq=False)
class _Track:
    first: Box
    start: int  # frame
    box: Box
    frame: int
    heights: list[float] = field(default_factory=list)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a frame, of the centre
    way: float = 0.0  # furthest from the first box, pixels
    crops: list[tuple[int, np.ndarray, Region]] = field(default_factory=list)

    def expected(self, frame: int) -> Box:
        """Where the box should be by now."""
        return self.box + np.array([*(self.speed * (frame - self.frame)), 0, 0])

    def add(self, box: Box, frame: int) -> None:
        step = (_centre(box) - _centre(self.box)) / max(frame - self.frame, 1)
        self.speed = step if len(self.heights) < 2 else 0.7 * self.speed + 0.3 * step
        self.box, self.frame = box, frame
        self.heights.append(box[3])
        self.way = max(self.way, float(np.abs(_centre(box) - _centre(self.first)).max()))


def read_video(path: str | Path, size: tuple[int, int], *, max_per_track: int = 8,
               progress: bool = False) -> Site:
    """Crops of the people who move through a video, at most ``max_per_track`` a track, spread in time.

    size    (H, W) that crops are resized to; they are cut from the frame at its full size

    Raises FileNotFoundError for a missing file, ValueError if it cannot be decoded or nobody is in it.
    """
    path, tracks, frames = Path(path), [], 0
    name = shown_name(Path(path.name))
    capture = _opened(path)
    rate, total = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate, total = rate if 0 < rate < 1000 else 25.0, int(total) if 0 < total < 1e9 else 0  # some have none
    finder = _Finder(rate, size, max_per_track)
    with tqdm(desc=name, total=total or None, unit="frame", disable=not progress) as bar:
        while (read := capture.read())[0]:
            if frames % finder.step == 0:
                tracks += finder.look(read[1], frames)
            frames += 1
            bar.update()
    tracks += finder.people(finder.active)
    if not tracks:
        raise ValueError(
            f"{path}: nobody was found in {frames} frames. People are found by their motion: the camera has "
            f"to stand still, they have to be upright, at least {HEIGHTS[0]:.0%} of the picture's height, "
            f"and to move for {LASTING:g} seconds; or cut the crops otherwise and give their folder")
    tracks.sort(key=lambda track: track.crops[0][0])
    rows = ((k, *crop) for k, track in enumerate(tracks, 1) for crop in track.crops)
    number, times, crops, boxes = zip(*rows)
    notes = [f"{name}: {frames} frames, {len(tracks)} tracks."]
    if frames < 0.98 * total:
        notes.append(f"{name}: decoding stopped after {frames} of {total} frames; the file is damaged.")
    files = tuple(f"{name}, track {k}, frame {frame}" for k, frame in zip(number, times))
    return Site(name, torch.from_numpy(np.stack(crops)), files, torch.tensor(number), torch.tensor(times),
                torch.ones(len(files), dtype=torch.int64), notes=tuple(notes), boxes=torch.tensor(boxes))


def read_videos(paths: Sequence[Path], size: tuple[int, int], name: str, **options) -> Site:
    """Several videos as one site, each a camera; tracks are numbered through. Options as `read_video`.

    A video that gives nobody is listed in ``skipped``. Raises ValueError if all do.
    """
    sites, skipped, last = [], {}, 0
    for path in paths:
        try:
            site = read_video(path, size, **options)
        except ValueError as error:
            skipped[shown_name(Path(path.name))] = str(error)
            continue
        sites.append(replace(site, tracks=site.tracks + last, cameras=site.cameras + len(sites)))
        last = int(sites[-1].tracks.max())
    if not sites:
        raise ValueError("no video of the folder gives a person: " + "; ".join(skipped.values()))
    tensors = {key: torch.cat([getattr(site, key) for site in sites])
               for key in ("images", "tracks", "times", "cameras", "boxes")}
    return Site(name, files=sum((site.files for site in sites), ()), skipped=skipped,
                notes=sum((site.notes for site in sites), ()), **tensors)


def _opened(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise FileNotFoundError(f"no video {path}")
    if cv2 is None:
        raise ImportError("videos are read by OpenCV, which is not installed: pip install bnta_lib[video]")
    capture = cv2.VideoCapture(os.path.abspath(path))  # FFmpeg would follow a relative name like an address
    if not capture.isOpened():
        raise ValueError(f"{path} cannot be decoded as a video: it is empty, damaged or of an unknown format")
    return capture


class _Finder:
    """People in the frames of one camera, frame by frame, and their tracks."""

    def __init__(self, rate: float, size: tuple[int, int], max_per_track: int):
        self.rate, self.size, self.max_per_track = rate, size, max_per_track
        self.step = max(1, int(rate / RATE + 1e-6))  # frames between those looked at
        self.background = cv2.createBackgroundSubtractorMOG2(
            history=int(30 * rate / self.step), varThreshold=25, detectShadows=True)
        self.active: list[_Track] = []

    def look(self, frame: np.ndarray, number: int) -> list[_Track]:
        """Find people in a frame and continue their tracks; returns those that ended."""
        scale, small = min(1.0, LONGEST / max(frame.shape)), frame
        if scale < 1:
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        moving = self.background.apply(small)
        if number < LEARNING * self.rate:
            return []
        boxes, others = self._boxes(moving)
        pairs, ended = self._link(boxes, number)
        for track, box in pairs:
            track.add(box, number)
            settled = number - track.start >= ENDS * self.rate
            crop = around(box, self.size)
            if settled and all(o is box or _covered(crop, o) <= APART for o in [*boxes, *others]):
                where = region(frame.shape, box / scale, self.size)
                picture = Image.fromarray(cut(frame, where))
                track.crops.append((number, resized(picture, self.size), where))
        return self.people(ended)

    def _boxes(self, moving: np.ndarray) -> tuple[list[Box], list[Box]]:
        """Boxes of what may be a person, and of whatever else moves."""
        rows, cols = moving.shape
        unit = max(1, round(rows / 288))
        moving = ((moving > 200) * 255).astype(np.uint8)  # 127 marks shadows
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * unit + 1, 2 * unit + 1))
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, ellipse)
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((9 * unit, 3 * unit), np.uint8))
        people, others = [], []
        for left, top, width, height, area in cv2.connectedComponentsWithStats(moving)[2][1:].tolist():
            if height < 0.3 * HEIGHTS[0] * rows:
                continue
            inside = left > 1 and top > 1 and left + width < cols - 1 and top + height < rows - 1
            upright = SHAPES[0] <= height / width <= SHAPES[1]
            tall = HEIGHTS[0] <= height / rows <= HEIGHTS[1]
            person = inside and upright and tall and area >= FILLED * width * height
            (people if person else others).append(np.array([left, top, width, height], float))
        return people, others

    def _link(self, boxes: list[Box], number: int) -> tuple[list[tuple[_Track, Box]], list[_Track]]:
        """Tracks with their boxes in this frame, new ones among them; and those that ended."""
        lost = [t for t in self.active if number - t.frame > GAP * self.rate]
        active = [t for t in self.active if t not in lost]
        inside = np.array([[_covered(t.expected(number), box) > 0.5 for box in boxes] for t in active])
        inside = inside.reshape(len(active), len(boxes))
        shared = inside.sum(0) > 1  # boxes of two people: both tracks end here
        met = inside[:, shared].any(1)
        lost += [t for t, ends in zip(active, met) if ends]
        active = [t for t, ends in zip(active, met) if not ends]
        boxes = [box for box, ends in zip(boxes, shared) if not ends]
        cost = np.array([[_cost(t.expected(number), box) for box in boxes] for t in active])
        cost = cost.reshape(len(active), len(boxes))
        linked = {j: active[k] for k, j in zip(*linear_sum_assignment(cost)) if cost[k, j] < REFUSED}
        pairs = [(linked.get(j) or _Track(box, number, box, number), box) for j, box in enumerate(boxes)]
        self.active = active + [track for j, (track, _) in enumerate(pairs) if j not in linked]
        return pairs, lost

    def people(self, ended: list[_Track]) -> list[_Track]:
        """The tracks that last, move and have clean crops, which are spread evenly in time."""
        people = []
        for track in ended:
            last = track.frame - ENDS * self.rate
            crops = [crop for crop in track.crops if crop[0] <= last]
            lasts = track.frame - track.start >= LASTING * self.rate and len(track.heights) >= 5
            if lasts and len(crops) >= 2 and track.way >= MOVED * np.median(track.heights):
                even = np.linspace(0, len(crops) - 1, min(len(crops), self.max_per_track)).round().astype(int)
                track.crops = [crops[k] for k in even]
                people.append(track)
        return people


def _cost(expected: Box, box: Box) -> float:
    """How badly a box fits where a track should be: 1 - IoU and the way between, in heights."""
    taller = max(expected[3], box[3]) / min(expected[3], box[3])
    way = float(np.linalg.norm(_centre(expected) - _centre(box))) / expected[3]
    if taller > 1.5 or way > 0.6:
        return REFUSED
    shared = _shared(expected, box)
    return 1 - shared / (expected[2] * expected[3] + box[2] * box[3] - shared) + way


def _centre(box: Box) -> np.ndarray:
    return box[:2] + box[2:] / 2


def _shared(a: Box, b: Box) -> float:
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _covered(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``."""
    return _shared(box, other) / (box[2] * box[3])


def around(box: Box, size: tuple[int, int], margin: float = 0.05) -> Box:
    """The crop of a box: a little wider all round, and no narrower than ``size``: nobody is stretched."""
    height = box[3] * (1 + 2 * margin)
    width = max(box[2] * (1 + 2 * margin), height * size[1] / size[0])
    return np.array([*(_centre(box) - (width / 2, height / 2)), width, height])


def region(frame: tuple[int, ...], box: Box, size: tuple[int, int]) -> Region:
    """The crop :func:`around` a box, in whole pixels; it ends at the edges of a ``frame`` (h, w, ...)."""
    left, top, width, height = around(box, size)
    bottom, right = min(max(round(top + height), 1), frame[0]), min(max(round(left + width), 1), frame[1])
    left, top = max(round(left), 0), max(round(top), 0)
    return left, top, right - left, bottom - top


def cut(frame: np.ndarray, box: Region) -> np.ndarray:
    """A crop of a BGR frame, as RGB (h, w, 3)."""
    left, top, width, height = box
    return np.ascontiguousarray(frame[top : top + height, left : left + width, ::-1])
