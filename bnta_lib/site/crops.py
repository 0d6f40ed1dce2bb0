"""A site: the unlabelled person crops of one place, from a folder, from videos, or rendered.

Names of files mean no persons here. Of a video, or of a folder for each track, tracks are known: one person,
as a rule before one camera, within a short time. A rendered site is a domain of its own, drawn from its
number. Its people are known, so that an estimate without labels can be compared with the truth.
"""

import functools
import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.adapters import ADAPTERS
from bnta_lib.by_camera import sample_by_camera
from bnta_lib.data import listing
from bnta_lib.data.sets import open_rgb, picture_keys, resized
from bnta_lib.files import in_threads
from bnta_lib.rendered.benchmark import cached_images
from bnta_lib.rendered.domains import DOMAINS, Domain
from bnta_lib.rendered.people import VERSION
from bnta_lib.rendered.places import KINDS
from bnta_lib.settings import ROOT, Settings
from bnta_lib.site.video import find_people

# What names the camera of a crop in the name of its file: the topmost folder, or a video outside folders;
# c3 in 0002_c3s1_000451_03.jpg; each video.
CAMERAS = {"folders": r"^([^/]+?)(?:/|\.\w+, track )", "names": r"(?i)_(c\d+)(?:s\d+)?(?![^\W_])[^/]*$",
           "videos": r"(?s)^(.+?)(?:\.\w+)?, track \d+, frame \d+$"}
SKIPPED = 10  # files that were passed over and are named
FIRST_CODE = 32  # domains of sites begin here: those of the benchmark have lower codes


@dataclass(frozen=True)
class Site:
    """N person crops of one place."""

    name: str
    images: Tensor  # uint8 (N, 3, H, W), RGB
    files: tuple[str, ...]  # N names to show: a path below the folder, or a video and its frame
    tracks: Tensor | None = None  # int64 (N,), from 1; None if tracks are unknown
    times: Tensor | None = None  # int64 (N,), order within a track (frame number in a video)
    cameras: Tensor | None = None  # int64 (N,), from 1; 0 for a crop whose camera is not known
    camera_names: Mapping[int, str] = field(default_factory=dict)
    pids: Tensor | None = None  # int64 (N,): persons, known of rendered sites alone
    skipped: dict[str, str] = field(default_factory=dict)  # files that were passed over, and why
    notes: tuple[str, ...] = ()  # what a reader should know of how the crops came about
    path: str = ""  # that they were read from; empty if they were rendered
    boxes: Tensor | None = None  # int64 (N, 4): left, top, width, height in the frame of a video, pixels

    def __len__(self) -> int:
        return len(self.images)

    def lines(self) -> list[str]:
        """Counts, notes, and the first files that were passed over, a line each."""
        tracks, cameras = (0 if x is None else len(x[x > 0].unique()) for x in (self.tracks, self.cameras))
        counts = {"crop": len(self), "track": tracks, "camera": cameras, "skipped file": len(self.skipped)}
        words = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items() if n)
        if cameras and (self.cameras == 0).any():
            words += f"; the camera of {(self.cameras == 0).sum()} is not known"
        skipped = [f"  {name}: {why}" for name, why in self.skipped.items()]
        more = [f"  ... in all {listing.passed_over(self.skipped)}"] if len(skipped) > SKIPPED else []
        return [f"{self.name}: {words}", *self.notes, *skipped[:SKIPPED], *more]


def load_site(images: str | Path, settings: Settings, *, tracks: str | None = None,
              cameras: str | None = None) -> Site:
    """Load the crops of a site, at the input size of ``settings``.

    images   "rendered"; a folder of crops with any names; a video; or a folder of videos
    tracks   of a folder of crops: "folders" if each folder is a track
    cameras  what names them, of :data:`CAMERAS`; of videos each is a camera if nothing is given

    Raises FileNotFoundError if there is nothing, ValueError if it gives no crop, or none names its camera.
    """
    if str(images) == "rendered":
        small = {"people": 24, "shots": 4} if settings.profile == "smoke" else {}
        return rendered_site(settings.size, **small)
    path = Path(images).expanduser()
    if path.is_file() and path.suffix.lower() in listing.IMAGES:
        raise ValueError(f"{path} is one picture: give a folder of crops")
    files, ignored = ([path], {}) if path.is_file() else listing.files_below(path)
    videos = [file for file in files if file.suffix.lower() in listing.VIDEOS or path.is_file()]
    pictures = [file for file in files if file.suffix.lower() in listing.IMAGES]
    if videos and len(pictures) < 4 * len(videos) and all(
            any(picture.parent == video.parent and picture.name.startswith(video.stem) for video in videos)
            for picture in pictures):
        for file in sorted({*files}.difference(videos)):
            ignored[file] = "snapshot, named as a video" if file in pictures else "no video by the ending"
        site = read_videos(videos, settings.size, path, listing.shown_names(ignored, path))
        cameras = cameras or "videos"
    else:
        site = read_crops(path, settings.size, tracks=tracks)
    site = with_cameras(site, cameras) if cameras else site
    if cameras and not site.camera_names:
        raise ValueError(f"cameras={cameras!r} names no camera, for example of {site.files[0]}")
    return replace(site, path=str(path.resolve()))


def with_cameras(site: Site, cameras: str | None, known: Mapping[int, str] | None = None) -> Site:
    """The site with the camera that each crop's file names by ``cameras``, of :data:`CAMERAS`.

    Give the ``camera_names`` of the site that these crops are searched in as ``known``.
    """
    if cameras not in (None, *CAMERAS):
        raise ValueError(f"cameras is None or one of {', '.join(CAMERAS)}, not {cameras!r}")
    found = [re.search(CAMERAS[cameras], file) if cameras else None for file in site.files]
    names = [unicodedata.normalize("NFC", match[1]) if match else "" for match in found]  # of any system
    if known is None:
        known = dict(enumerate(map(str, sorted(map(Path, {*names} - {""}), key=listing.natural_key)), 1))
    numbers = {unicodedata.normalize("NFC", name): camera for camera, name in known.items()}
    return replace(site, cameras=torch.tensor([numbers.get(name, 0) for name in names]), camera_names=known)


def read_crops(folder: str | Path, size: tuple[int, int], *, tracks: str | None = None) -> Site:
    """Read every image below ``folder``, whatever its name, resized to ``size`` = (H, W).

    tracks  "folders": each folder that holds images is one track, in the order of file names

    Files that are no image (`IMAGES`) or that cannot be decoded are listed in ``skipped``. Raises as
    `files_below`, and ValueError if no image remains.
    """
    if tracks not in (None, "folders"):
        raise ValueError(f"tracks is None or 'folders', not {tracks!r}")
    folder = Path(folder).expanduser()
    files, ignored = listing.files_below(folder)
    files.sort(key=lambda file: listing.natural_key(file.with_suffix("")))
    pictures = in_threads(lambda file: _read(file, size), files)
    read = dict(zip(files, tqdm(pictures, "crops", len(files), unit="file", delay=5)))
    ignored |= {file: why for file, why in read.items() if isinstance(why, str)}
    skipped = listing.shown_names(ignored, folder)
    files = [file for file in files if file not in ignored]
    if not files:
        others = "; ".join([listing.passed_over(skipped) or "no files", *list(skipped.values())[:1]])
        raise ValueError(f"{folder} holds no image that can be read "
                         f"({', '.join(sorted(listing.IMAGES))}); there are {others}")
    images, wide, low = zip(*(read[file] for file in files))
    notes = [f"{sum(flags)} of {len(files)} pictures are {what}." for flags, what in (
        (wide, "wider than high, and crops of upright people are not"),
        (low, f"less than half as high as the network's {size[0]} pixels, and are enlarged"))
        if 2 * sum(flags) > len(files)]
    track = time = None
    if tracks:
        for first, second in pairwise(files):
            if first.parent == second.parent and listing.decimals_differ(first, second):
                raise ValueError(f"{first} comes before {second.name} by whole numbers, and after it by "
                                 "decimals: give both as many digits after the point")
        names = [file.name for file in files if file.parent == files[0].parent]
        notes.append("In a track, crops follow the numbers in their names, for example from "
                     f"{listing.shown_name(Path(names[0]))} to {listing.shown_name(Path(names[-1]))}.")
        folders = pd.Series([os.fspath(file.parent) for file in files])
        track = torch.from_numpy(pd.factorize(folders, sort=True)[0] + 1).long()
        time = torch.tensor(folders.groupby(folders).cumcount().tolist())
    return Site(listing.shown_name(Path(folder.resolve().name or folder)), torch.from_numpy(np.stack(images)),
                tuple(listing.shown_names(dict.fromkeys(files), folder)), track, time, skipped=skipped,
                notes=tuple(notes))


def _read(file: Path, size: tuple[int, int]) -> tuple[np.ndarray, bool, bool] | str:
    """The pixels of a file, and whether it is wider than high and low for ``size``; or why it has none."""
    if (kind := file.suffix.lower()) not in listing.IMAGES:
        return "video: give it by itself" if kind in listing.VIDEOS else "no image by the ending"
    try:
        picture = open_rgb(file)
        return resized(picture, size), picture.width > picture.height, 2 * picture.height < size[0]
    except Exception as error:  # decoders raise many types if bytes are not what the format says
        return f"cannot be decoded ({error or type(error).__name__})"


def read_videos(paths: Sequence[Path], size: tuple[int, int], root: Path, skipped: dict[str, str]) -> Site:
    """Crops of the people who move through videos below ``root``; tracks are numbered through.

    A video that gives nobody is added to ``skipped``. Raises ValueError if all do.
    """
    rows, notes, before = [], [], 0
    for path in paths:
        shown = listing.shown_name(Path(path.name) if path == root else path.relative_to(root))
        try:
            tracks, seen = find_people(path, size)
        except (OSError, ValueError) as error:
            skipped[shown] = str(error)
            continue
        notes += [f"{shown}: {note}" for note in seen]
        rows += [(image, f"{shown}, track {k}, frame {frame}", before + k, frame, box)
                 for k, track in enumerate(tracks, 1) for frame, image, box in track]
        before += len(tracks)
    if not rows:
        folder = root.parent if root.is_file() else root
        raise ValueError("; ".join(f"{folder / name}: {why}" for name, why in skipped.items()))
    images, files, *numbers = zip(*rows)
    tracks, times, boxes = map(torch.tensor, numbers)
    return Site(root.resolve().name, torch.from_numpy(np.stack(images)), files, tracks, times,
                skipped=skipped, notes=tuple(notes), boxes=boxes)


@functools.cache
def site_domain(number: int = 0) -> Domain:
    """The look of site ``number``: places, light, lens and people, drawn once from the number."""
    rng = np.random.Generator(np.random.Philox(key=((FIRST_CODE + number) << 64) | VERSION))

    def span(low: float, high: float, width: float) -> tuple[float, float]:
        start = rng.uniform(low, high)
        return start, start + width

    people = DOMAINS[str(rng.choice(list(DOMAINS)))]  # what is worn: a season of the benchmark's
    warm = rng.uniform(-0.14, 0.14)
    return replace(
        people, name=f"site {number}", stands_for="A place that no training has seen.",
        code=FIRST_CODE + number, cameras=4, paired=False, sites=2,
        places=tuple(rng.choice(list(KINDS), 2, replace=False).tolist()),
        gain=(1 + warm, 1.0, 1 - warm), cast=0.05, exposure=span(0.55, 1.2, 0.35),
        gamma=span(0.85, 1.1, 0.15), contrast=span(0.7, 1.05, 0.15), haze=span(0.0, 0.1, 0.06),
        haze_colour=tuple(rng.integers(110, 210, 3).tolist()), saturation=span(0.5, 1.0, 0.2),
        resolution=span(0.45, 0.75, 0.2), blur=span(0.05, 0.14, 0.08), noise=span(0.006, 0.018, 0.01),
        quality=span(40, 70, 20), sun=span(0.0, 0.4, 0.2), same_walk=False, wander=30.0,
        azimuths=(0, float(rng.uniform(60, 120)), float(rng.uniform(150, 210)), -30.0),
        camera_height=(2.4, 3.6), steep=float(rng.uniform(0.1, 0.6)),
        occlusion=float(rng.uniform(0.03, 0.2)), passers_by=float(rng.uniform(0.05, 0.3)))


def rendered_site(size: tuple[int, int], number: int = 0, people: int = 100, shots: int = 6) -> Site:
    """Site ``number``: people seen by two or three of four cameras, in tracks of ``shots`` crops of ``size``.

    In a track place and direction stay; pose, box and what stands in front differ. Kept in the cache.
    """
    domain = site_domain(number)
    rng = np.random.Generator(np.random.Philox(key=(domain.code << 64) | (people << 8) | shots))
    seen_by = [np.sort(rng.permutation(domain.cameras)[: rng.integers(2, 4)]) for _ in range(people)]
    pids = np.repeat(np.arange(1, people + 1), [len(cameras) for cameras in seen_by])
    each_track = pids, np.concatenate(seen_by), np.arange(1, len(pids) + 1)
    pid, camera, track = (np.repeat(values, shots) for values in each_track)
    shot = np.tile(np.arange(shots), len(pids))
    images = cached_images(domain, (pid, camera, shot), size)
    files = tuple(f"camera {c + 1}, track {t}, crop {k + 1}" for c, t, k in zip(camera, track, shot))
    tracks, times, cameras, pids = (torch.from_numpy(x).long() for x in (track, shot, camera + 1, pid))
    note = ("Rendered: the crops of a track share place and direction, and follow each other in no "
            "particular time.")
    names = {number: f"camera {number}" for number in cameras.unique().tolist()}
    return Site(domain.name, images, files, tracks, times, cameras, names, pids, notes=(note,))


def check_choices(images: str | Path, probes: str | Path | None, out: str | Path | None, *, N: int,
                  places: int, seed: int, cameras: str | None = None, by_camera: str | None = None) -> None:
    """Check the parameters of notebook 11, and make the folder ``out``, before anything is read.

    Raises ValueError for a parameter, OSError if ``out`` cannot be made.
    """
    for name, value, low in (("N", N, 4), ("places", places, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise ValueError(f"{name} is a whole number of at least {low}; got {value!r}")
    for name, value, known in (("cameras", cameras, {"folders", "names"}),
                               ("by_camera", by_camera, ADAPTERS.keys() - {"none"})):
        if value is not None and value not in known:
            raise ValueError(f"{name} is None or one of {', '.join(sorted(known))}; got {value!r}")
    for name, value in (("images", images), ("probes", probes), ("out", out)):
        path = isinstance(value, (str, Path)) and str(value).strip()
        if not path and (value is not None or name == "images"):
            raise ValueError(f"{name} is a path; got {value!r}")
        if path and name != "out" and value != "rendered" and not Path(value).expanduser().exists():
            raise ValueError(f"{name} is a folder or a video that is there; there is no {value}")
    if probes is not None and not Path(probes).expanduser().is_dir():
        raise ValueError(f"probes is a folder of crops, and {probes} is a file")
    if out is not None:
        Path(out).expanduser().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=Path(out).expanduser()).close()  # or it is read-only


def overview(site: Site, probes: Site | None = None) -> list[str]:
    """What was read, a line each, and how many probes are crops themselves."""
    lines, crops = site.lines(), {*picture_keys(site.images)}
    if len(crops) < len(site):
        lines.append(f"{len(site) - len(crops)} of {len(site)} crops repeat another, pixel by pixel.")
    if probes is not None:
        lines += [f"probes, {probes.lines()[0]}", *probes.lines()[1:]]
        if same := sum(key in crops for key in picture_keys(probes.images)):
            lines.append(f"{same} of {len(probes)} probes are among the crops themselves, "
                         "and as a rule find themselves first.")
    return lines


def adaption_sample(site: Site, max_crops: int, seed: int = 0) -> Tensor:
    """Rows (n,) of at most ``max_crops`` crops, drawn with ``seed``, in order: pairing compares them all."""
    order = torch.randperm(len(site), generator=torch.Generator().manual_seed(seed))
    return order[:max_crops].sort().values


def camera_sample(site: Site, each: int, seed: int = 0) -> Tensor:
    """Rows of at most ``each`` crops of every camera, drawn with ``seed``."""
    return sample_by_camera(torch.arange(len(site)), site.cameras, each, seed)


def results_dir(site: Site, out: str | Path | None = None) -> Path:
    """Where results go: ``out``, or ``site/<name>-<digits of the path>/`` beside the folder of notebooks."""
    if out is not None:
        return Path(out).expanduser().absolute()
    name = re.sub(r"[^\w.-]+", "_", site.name).strip("._")[:60] or "site"
    digits = f"-{hashlib.sha256(os.fsencode(site.path)).hexdigest()[:6]}" if site.path else ""
    return ROOT / "site" / f"{name}{digits}"
