"""Person crops out of the video of a fixed camera, without a trained detector.

What moves against the learnt background, is as tall and as narrow as somebody upright and keeps
moving for a while is taken for a person. Boxes of one frame are linked with those of the next by
the Hungarian assignment; a track ends where its person meets another or stands still for long,
since two pure tracks are worth more than a mixed one. Frames pass one at a time and are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said below, once

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.optimize import linear_sum_assignment  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from bnta_lib.site.crops import Site, resized, shown_name  # noqa: E402

Box = np.ndarray  # float64 (4,): left, top, width, height, in pixels of the frame as it is searched
Place = tuple[int, int, int, int]  # the same of a crop, in pixels of the frame itself


@dataclass(frozen=True)
class Search:
    """What is taken for a person, and what for a track. Lengths are shares of the frame's height."""

    longest: int = 960  # pixels of the longer side at which motion is looked for
    rate: float = 12.5  # frames a second that are looked at, at most
    learning: float = 1.0  # seconds at the start in which the background is learnt
    shortest: float = 0.06  # height of a person
    tallest: float = 0.9
    narrow: float = 1.3  # height over width, at least
    wide: float = 4.5  # and at most
    filled: float = 0.35  # share of the box that moves, at least
    gap: float = 0.6  # seconds for which a person may go unseen
    ends: float = 0.3  # seconds at both ends of a track without crops: there people part and meet
    lasting: float = 1.2  # seconds that a track lasts, at least
    moved: float = 0.5  # way of a track in heights of its person, at least
    apart: float = 0.03  # share of a crop that another box may cover, for it to be kept


@dataclass
class _Track:
    box: Box
    frame: int
    first: Box
    heights: list[float] = field(default_factory=list)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a frame, of the centre
    way: float = 0.0  # furthest from the first box, pixels
    crops: list[tuple[int, np.ndarray, Place]] = field(default_factory=list)
    every: int = 1  # only each so-many-th clean sighting is kept
    seen: int = 0
    born: int = 0

    def at(self, frame: int) -> Box:
        """Where the box should be by now."""
        box = self.box.copy()
        box[:2] += self.speed * (frame - self.frame)
        return box

    def add(self, box: Box, frame: int) -> None:
        steps = frame - self.frame
        step = (_centre(box) - _centre(self.box)) / max(steps, 1)
        self.speed = step if len(self.heights) < 2 else 0.7 * self.speed + 0.3 * step
        self.box, self.frame = box, frame
        self.heights.append(box[3])
        self.way = max(self.way, float(np.abs(_centre(box) - _centre(self.first)).max()))

    def keep(self, frame: int, crop: np.ndarray, place: Place, most: int) -> None:
        """Keep a crop: evenly spread in time and never more than 2 ``most``, however long it lasts."""
        if self.seen % self.every == 0:
            self.crops.append((frame, crop, place))
            if len(self.crops) > 2 * most:
                self.crops, self.every = self.crops[::2], 2 * self.every
        self.seen += 1


def read_video(
    path: str | Path, size: tuple[int, int], *, most: int = 8, search: Search | None = None,
    progress: bool = False,
) -> Site:  # fmt: skip
    """Crops of the people who move through a video, at most ``most`` a track, spread in time.

    size    (H, W) that crops are resized to; they are cut from the frame at its full size
    Raises FileNotFoundError for a missing file, ValueError where it cannot be decoded, holds no
    frame, or where nobody is found in it.
    """
    path, search = Path(path), search or Search()
    name = shown_name(Path(path.name))
    tracks: list[_Track] = []
    frames = _Frames(path)
    finder, taken, looked = None, 0, 0
    bar = tqdm(total=frames.total, desc=name, unit="frame", disable=not progress)
    with frames, bar:
        for number, frame in frames:
            bar.update()
            taken = number + 1
            if finder is None:
                finder = _Finder(frame.shape[:2], frames.rate, search, size, most)
            if number % finder.step:
                continue
            looked += 1
            tracks += finder.look(frame, number)
    if finder is None:
        raise ValueError(f"{path} holds no frame that can be decoded: convert it, for one with "
                         "ffmpeg -i IN -c:v libx264 OUT.mp4")
    tracks = [t for t in tracks + finder.end() if finder.good(t)]
    if not tracks:
        raise ValueError(
            f"{path}: nobody was found in {taken} frames. People are found by their motion: the "
            f"camera has to stand still, they have to be upright, at least "
            f"{100 * search.shortest:g} % of the picture's height and to move for "
            f"{search.lasting:g} seconds; or cut the crops otherwise and give their folder")
    tracks.sort(key=lambda track: track.crops[0][0])
    rows = [(k, *crop) for k, track in enumerate(tracks, 1) for crop in _spread(track.crops, most)]
    notes = [f"{name}: {taken} frames, {looked} looked at, {len(tracks)} tracks."]
    if frames.total and taken < 0.98 * frames.total:
        notes.append(f"{name}: decoding stopped after {taken} of {frames.total} frames; the file "
                     "is cut short or damaged.")
    return Site(
        name, torch.from_numpy(np.stack([crop for _, _, crop, _ in rows])),
        tuple(f"{name}, track {k}, frame {frame}" for k, frame, _, _ in rows),
        torch.tensor([k for k, *_ in rows]), torch.tensor([frame for _, frame, _, _ in rows]),
        torch.ones(len(rows), dtype=torch.int64), notes=tuple(notes),
        boxes=torch.tensor([place for *_, place in rows]),
    )  # fmt: skip


def read_videos(
    paths: Sequence[Path], size: tuple[int, int], name: str, *, most: int = 8,
    search: Search | None = None, progress: bool = False,
) -> Site:  # fmt: skip
    """Several videos as one site, each a camera of its own; tracks are numbered through.

    A video that cannot be decoded, or in which nobody is found, is passed over and named. Raises
    ValueError where all are.
    """
    found, skipped = [], {}
    for path in paths:
        try:
            found.append(read_video(path, size, most=most, search=search, progress=progress))
        except ValueError as error:
            skipped[shown_name(Path(path.name))] = str(error)
    if not found:
        raise ValueError("no video of the folder gives a person: " + "; ".join(skipped.values()))
    shift = np.cumsum([0] + [int(site.tracks.max()) for site in found])
    return Site(
        name, torch.cat([site.images for site in found]),
        tuple(file for site in found for file in site.files),
        torch.cat([site.tracks + int(k) for site, k in zip(found, shift)]),
        torch.cat([site.times for site in found]),
        torch.cat([site.cameras * k for k, site in enumerate(found, 1)]),
        skipped=skipped, notes=tuple(note for site in found for note in site.notes),
        boxes=torch.cat([site.boxes for site in found]),
    )


class _Frames:
    """Frames (number, uint8 (h, w, 3) BGR) of a video file, one at a time."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"no video {path}")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty: not one frame is in it")
        # A file may be named like an address, which FFmpeg would follow.
        self.capture = cv2.VideoCapture(os.path.abspath(path))
        if not self.capture.isOpened():
            raise ValueError(f"{path} cannot be decoded as a video: it is damaged, cut short, or "
                             "in a format that this OpenCV does not know; convert it, for one "
                             "with ffmpeg -i IN -c:v libx264 OUT.mp4")
        rate, total = (self.capture.get(k) for k in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if 0 < rate < 1000 else 25.0  # some containers do not say
        self.total = int(total) if 0 < total < 1e9 else None

    def __enter__(self) -> _Frames:
        return self

    def __exit__(self, *exc) -> None:
        self.capture.release()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        number = 0
        while True:
            good, frame = self.capture.read()
            if not good or frame is None or not frame.size:
                return
            if frame.ndim == 2 or frame.shape[2] == 1:
                frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
            yield number, frame
            number += 1


class _Finder:
    """People in the frames of one camera, frame by frame, and their tracks."""

    def __init__(self, shape: tuple[int, int], rate: float, search: Search, size: tuple[int, int],
                 most: int):  # fmt: skip
        self.search, self.size, self.most, self.shape = search, size, most, shape
        self.scale = min(1.0, search.longest / max(shape))
        self.rows, self.cols = (max(1, round(side * self.scale)) for side in shape)
        self.step = max(1, int(rate / search.rate + 1e-6))  # frames between those looked at
        self.rate = rate
        self.background = cv2.createBackgroundSubtractorMOG2(
            history=int(30 * rate / self.step), varThreshold=25, detectShadows=True)
        unit = max(1, round(self.rows / 288))
        self.opening = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * unit + 1, 2 * unit + 1))
        self.closing = cv2.getStructuringElement(cv2.MORPH_RECT, (3 * unit, 9 * unit))
        self.active: list[_Track] = []

    def look(self, frame: np.ndarray, number: int) -> list[_Track]:
        """Find people in a frame and carry the tracks on; returns those that ended."""
        small = frame
        if self.scale < 1:
            small = cv2.resize(frame, (self.cols, self.rows), interpolation=cv2.INTER_AREA)
        moving = self.background.apply(small)
        if number < self.search.learning * self.rate:
            return []
        # 127 marks shadows.
        moving = ((moving > 200) * 255).astype(np.uint8)
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, self.opening)
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, self.closing)
        boxes, others = self._boxes(moving)
        pairs, ended = self._link(boxes, number)
        for track, box in pairs:
            track.add(box, number)
            settled = number - track.born >= self.search.ends * self.rate
            if settled and self._clean(box, [*boxes, *others]):
                place = region(frame.shape, box / self.scale, self.size)
                track.keep(number, resized(cut(frame, place), self.size), place, self.most)
        return ended

    def _boxes(self, moving: np.ndarray) -> tuple[list[Box], list[Box]]:
        """Boxes of what may be a person, and of whatever else moves."""
        count, _, stats, _ = cv2.connectedComponentsWithStats(moving)
        people, others = [], []
        for left, top, width, height, area in stats[1:count].tolist():
            box = np.array([left, top, width, height], float)
            if height < 0.3 * self.search.shortest * self.rows:
                continue
            inside = left > 1 and left + width < self.cols - 1
            inside &= top > 1 and top + height < self.rows - 1
            tall = self.search.shortest <= height / self.rows <= self.search.tallest
            upright = self.search.narrow <= height / width <= self.search.wide
            full = area >= self.search.filled * width * height
            (people if inside and tall and upright and full else others).append(box)
        return people, others

    def _link(self, boxes: list[Box], number: int) -> tuple[list[tuple[_Track, Box]], list[_Track]]:
        """Tracks with their boxes in this frame, new ones among them; and those that ended."""
        limit = self.search.gap * self.rate
        ended = [t for t in self.active if number - t.frame > limit]
        self.active = [t for t in self.active if number - t.frame <= limit]
        expected = [t.at(number) for t in self.active]
        # Two people in one box: both tracks end here.
        met = {k for box in boxes for own in [[k for k, e in enumerate(expected)
               if _covered(e, box) > 0.5]] if len(own) > 1 for k in own}
        boxes = [box for box in boxes if sum(_covered(e, box) > 0.5 for e in expected) < 2]
        ended += [self.active[k] for k in met]
        expected = [e for k, e in enumerate(expected) if k not in met]
        self.active = [t for k, t in enumerate(self.active) if k not in met]
        cost = np.array([[_cost(e, box) for box in boxes] for e in expected])
        cost = cost.reshape(len(expected), len(boxes))
        pairs, free = [], set(range(len(boxes)))
        for k, j in zip(*linear_sum_assignment(cost), strict=True):
            if cost[k, j] < _REFUSED:
                pairs.append((self.active[k], boxes[j]))
                free.discard(int(j))
        for j in sorted(free):
            track = _Track(boxes[j], number, boxes[j], born=number)
            self.active.append(track)
            pairs.append((track, boxes[j]))
        return pairs, ended

    def _clean(self, box: Box, boxes: list[Box]) -> bool:
        """Whether nobody else is in the crop."""
        crop = around(box, self.size)
        return all(other is box or _covered(crop, other) <= self.search.apart for other in boxes)

    def good(self, track: _Track) -> bool:
        """Whether a track that ended is a person's: it lasts, it moves, it has clean crops."""
        last = track.frame - self.search.ends * self.rate
        track.crops = [crop for crop in track.crops if crop[0] <= last]
        lasts = track.frame - track.born >= self.search.lasting * self.rate
        return bool(lasts and len(track.crops) >= 2 and len(track.heights) >= 5
                    and track.way >= self.search.moved * np.median(track.heights))

    def end(self) -> list[_Track]:
        """The tracks that the video's end cut off."""
        ended, self.active = self.active, []
        return ended


_REFUSED = 10.0


def _cost(expected: Box, box: Box) -> float:
    """How ill a box fits where a track should be: 1 - IoU and the way between, in heights."""
    taller = max(expected[3], box[3]) / min(expected[3], box[3])
    way = float(np.linalg.norm(_centre(expected) - _centre(box))) / expected[3]
    if taller > 1.5 or way > 0.6:
        return _REFUSED
    return 1 - _iou(expected, box) + way


def _centre(box: Box) -> np.ndarray:
    return box[:2] + box[2:] / 2


def _shared(a: Box, b: Box) -> float:
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _iou(a: Box, b: Box) -> float:
    shared = _shared(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _covered(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``."""
    return _shared(box, other) / (box[2] * box[3])


def around(box: Box, size: tuple[int, int], margin: float = 0.05) -> Box:
    """The crop of a box: a little wider all round, and no narrower than the shape of ``size``.

    So that nobody is stretched when the crop is resized.
    """
    height = box[3] * (1 + 2 * margin)
    width = max(box[2] * (1 + 2 * margin), height * size[1] / size[0])
    return np.array([*(_centre(box) - (width / 2, height / 2)), width, height])


def region(frame: tuple[int, ...], box: Box, size: tuple[int, int]) -> Place:
    """The crop :func:`around` a box, in whole pixels; it ends at the edges of a ``frame`` (h, w, ...)."""
    left, top, width, height = around(box, size)
    bottom, right = min(max(round(top + height), 1), frame[0]), min(max(round(left + width), 1), frame[1])
    left, top = max(round(left), 0), max(round(top), 0)
    return left, top, right - left, bottom - top


def cut(frame: np.ndarray, place: Place) -> np.ndarray:
    """A crop of a BGR frame, as RGB (h, w, 3)."""
    left, top, width, height = place
    return np.ascontiguousarray(frame[top : top + height, left : left + width, ::-1])


def _spread(crops: list, most: int) -> list:
    """At most ``most`` of them, evenly spread, the first and the last among them."""
    if len(crops) <= most:
        return crops
    return [crops[k] for k in np.linspace(0, len(crops) - 1, most).round().astype(int)]
