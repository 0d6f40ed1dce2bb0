"""Person crops from the video of a fixed camera, without a trained detector.

What moves before the learnt background and has an upright shape counts as a person. A track ends if its
person meets another or stands still for long: two pure tracks are worth more than a mixed one.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

from bnta_lib.data.sets import resized
from bnta_lib.files import content

try:
    import cv2
except ImportError:  # an extra: crops need none
    cv2 = None

Boxes = np.ndarray  # float64 (n, 4): left, top, width, height, in pixels of the frame as it is searched
Region = tuple[int, int, int, int]  # the same of a crop, in pixels of the frame itself
Crop = tuple[int, np.ndarray, Region]  # its frame, its pixels uint8 (3, H, W), and where it was cut
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
PER_TRACK = 8  # crops of a track, at most


@dataclass(eq=False)
class _Track:
    first: np.ndarray  # box (4,)
    start: int  # frame
    box: np.ndarray
    frame: int
    heights: list[float] = field(default_factory=list)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a frame, of the centre
    way: float = 0.0  # furthest from the first box, pixels
    crops: list[Crop] = field(default_factory=list)

    def expected(self, frame: int) -> np.ndarray:
        """Where the box should be by now."""
        return self.box + np.array([*(self.speed * (frame - self.frame)), 0, 0])

    def add(self, box: np.ndarray, frame: int) -> None:
        step = (_centre(box) - _centre(self.box)) / max(frame - self.frame, 1)
        self.speed = step if len(self.heights) < 2 else 0.7 * self.speed + 0.3 * step
        self.box, self.frame = box, frame
        self.heights.append(box[3])
        self.way = max(self.way, float(np.abs(_centre(box) - _centre(self.first)).max()))


def find_people(path: Path, size: tuple[int, int]) -> tuple[list[list[Crop]], list[str]]:
    """Tracks of the people who move through a video, and notes on what was decoded, a sentence each.

    Crops are cut from the frame at its full size and resized to ``size`` = (H, W), at most PER_TRACK a track,
    spread in time. Raises ValueError if the video cannot be decoded or nobody is in it.
    """
    if cv2 is None:
        raise ImportError("videos are read by OpenCV, which is not installed: pip install bnta_lib[video]")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is reported below, once
    capture = cv2.VideoCapture(os.path.abspath(path))  # FFmpeg would follow a relative name like an address
    if not capture.isOpened():
        raise ValueError(f"cannot be decoded as a video: {content(path)}")
    named, total = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = frame_rate(path, named if 0 < named < 1000 else 25.0)
    total = total * rate / named if named > 0 and 0 < total < 1e9 else 0  # some have none
    finder, tracks, frames = _Finder(rate, size), [], 0
    with tqdm(total=int(total) or None, desc="video", unit="frame", delay=5) as bar:
        while (read := capture.read())[0]:
            if frames % finder.step == 0:
                tracks += finder.look(read[1], frames)
            frames += 1
            bar.update()
    tracks += finder.people(finder.active)
    notes = [f"{frames} frames, {len(tracks)} tracks."]
    if rate != named:
        notes.append(f"{rate:.4g} frames a second by its time stamps; its header names {named:.4g}.")
    if frames < 0.98 * int(total):
        notes.append(f"decoding ended after {frames} of about {total:.0f} frames.")
    if not tracks:
        raise ValueError(
            f"nobody was found in {frames} frames, at {rate:.4g} a second. {' '.join(notes[1:])} People are "
            "found by their motion: the camera has to stand still, they have to be upright, at least "
            f"{HEIGHTS[0]:.0%} of the picture's height, and to move for {LASTING:g} seconds; or cut the "
            "crops otherwise and give their folder")
    return sorted(tracks, key=lambda crops: crops[0][0]), notes


def frame_rate(path: Path, named: float) -> float:
    """Frames a second by the time stamps of the first hundred, if they differ from ``named`` by a tenth."""
    capture = cv2.VideoCapture(os.path.abspath(path))
    times = [capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(100) if capture.grab()]
    seconds = (times[-1] - times[0]) / 1000 if len(times) > 9 else 0
    rate = (len(times) - 1) / seconds if seconds > 0 else named
    return rate if abs(rate - named) > 0.1 * named else named


class _Finder:
    """People in the frames of one camera, frame by frame, and their tracks."""

    def __init__(self, rate: float, size: tuple[int, int]):
        self.rate, self.size = rate, size
        self.step = max(1, int(rate / RATE + 1e-6))  # frames between those looked at
        self.background = cv2.createBackgroundSubtractorMOG2(
            history=int(30 * rate / self.step), varThreshold=25, detectShadows=True)
        self.active: list[_Track] = []

    def look(self, frame: np.ndarray, number: int) -> list[list[Crop]]:
        """Find people in a frame and continue their tracks; returns the crops of those that ended."""
        scale, small = min(1.0, LONGEST / max(frame.shape)), frame
        if scale < 1:
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        moving = self.background.apply(small)
        if number < LEARNING * self.rate:
            return []
        boxes, others = self._boxes(moving)
        every = np.concatenate([boxes, others])
        tracks, boxes, ended = self._link(boxes, number)
        for track, box in zip(tracks, boxes):
            track.add(box, number)
            settled = number - track.start >= ENDS * self.rate
            rest = every[(every != box).any(1)]
            if settled and (_covered(around(box, self.size)[None], rest) <= APART).all():
                left, top, width, height = where = region(frame.shape, box / scale, self.size)
                picture = Image.fromarray(frame[top : top + height, left : left + width, ::-1].copy())
                track.crops.append((number, resized(picture, self.size), where))
        return self.people(ended)

    def _boxes(self, moving: np.ndarray) -> tuple[Boxes, Boxes]:
        """Boxes of what may be a person, and of whatever else moves."""
        rows, cols = moving.shape
        unit = max(1, round(rows / 288))
        moving = ((moving > 200) * 255).astype(np.uint8)  # 127 marks shadows
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * unit + 1, 2 * unit + 1))
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, ellipse)
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((9 * unit, 3 * unit), np.uint8))
        found = cv2.connectedComponentsWithStats(moving)[2][1:].astype(float)
        left, top, width, height, area = found[found[:, 3] >= 0.3 * HEIGHTS[0] * rows].T
        inside = (left > 1) & (top > 1) & (left + width < cols - 1) & (top + height < rows - 1)
        upright = (SHAPES[0] <= height / width) & (height / width <= SHAPES[1])
        tall = (HEIGHTS[0] <= height / rows) & (height / rows <= HEIGHTS[1])
        person = inside & upright & tall & (area >= FILLED * width * height)
        boxes = np.stack([left, top, width, height], 1)
        return boxes[person], boxes[~person]

    def _link(self, boxes: Boxes, number: int) -> tuple[list[_Track], Boxes, list[_Track]]:
        """Tracks in this frame, new ones among them, with their boxes; and those that ended."""
        lost = [track for track in self.active if number - track.frame > GAP * self.rate]
        active = [track for track in self.active if track not in lost]
        expected = np.array([track.expected(number) for track in active]).reshape(-1, 4)
        inside = _covered(expected, boxes) > 0.5
        of_two = inside.sum(0) > 1  # boxes of two people: both tracks end here
        met = inside[:, of_two].any(1)
        lost += [track for track, ends in zip(active, met) if ends]
        active, boxes = [track for track, ends in zip(active, met) if not ends], boxes[~of_two]
        cost = _costs(expected[~met], boxes)
        linked = {j: active[k] for k, j in zip(*linear_sum_assignment(cost)) if cost[k, j] < REFUSED}
        tracks = [linked.get(j) or _Track(box, number, box, number) for j, box in enumerate(boxes)]
        self.active = active + [track for j, track in enumerate(tracks) if j not in linked]
        return tracks, boxes, lost

    def people(self, ended: list[_Track]) -> list[list[Crop]]:
        """Crops of the tracks that last, move and have clean ones, spread evenly in time."""
        people = []
        for track in ended:
            last = track.frame - ENDS * self.rate
            crops = [crop for crop in track.crops if crop[0] <= last]
            lasts = track.frame - track.start >= LASTING * self.rate and len(track.heights) >= 5
            if lasts and len(crops) >= 2 and track.way >= MOVED * np.median(track.heights):
                even = np.linspace(0, len(crops) - 1, min(len(crops), PER_TRACK)).round().astype(int)
                people.append([crops[k] for k in even])
        return people


def _centre(boxes: Boxes) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2


def _covered(boxes: Boxes, others: Boxes) -> np.ndarray:
    """Share (n, m) of each of ``boxes`` that lies in each of ``others``."""
    boxes = boxes[:, None]
    ends = np.minimum(boxes[..., :2] + boxes[..., 2:], others[:, :2] + others[:, 2:])
    return (ends - np.maximum(boxes[..., :2], others[:, :2])).clip(0).prod(2) / boxes[..., 2:].prod(2)


def _costs(expected: Boxes, boxes: Boxes) -> np.ndarray:
    """Way (n, m) from where tracks should be to boxes, in heights; REFUSED if far, or of another size."""
    height, tall = expected[:, None, 3], boxes[:, 3]
    way = np.linalg.norm(_centre(expected)[:, None] - _centre(boxes), axis=2) / height
    return np.where((np.maximum(height, tall) / np.minimum(height, tall) > 1.5) | (way > 0.6), REFUSED, way)


def around(box: np.ndarray, size: tuple[int, int], margin: float = 0.05) -> np.ndarray:
    """The crop of a box (4,): a little wider all round, and no narrower than ``size``."""
    height = box[3] * (1 + 2 * margin)
    width = max(box[2] * (1 + 2 * margin), height * size[1] / size[0])
    return np.array([*(_centre(box) - (width / 2, height / 2)), width, height])


def region(frame: tuple[int, ...], box: np.ndarray, size: tuple[int, int]) -> Region:
    """The crop :func:`around` a box, in whole pixels; it ends at the edges of a ``frame`` (h, w, ...)."""
    left, top, width, height = around(box, size)
    bottom, right = min(max(round(top + height), 1), frame[0]), min(max(round(left + width), 1), frame[1])
    left, top = max(round(left), 0), max(round(top), 0)
    return left, top, right - left, bottom - top
