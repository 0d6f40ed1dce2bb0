"""The engineer's way in: a folder of person crops or a video of one place, and no labels.

:func:`load_site` reads it; :func:`bnta_lib.adapt` adapts to its images; :mod:`.judge` says what
can be known without labels of whether that helped.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bnta_lib.data.folders import files_below
from bnta_lib.site.guards import Guards
from bnta_lib.settings import ROOT, Settings
from bnta_lib.site.crops import IMAGES, LEAST, VIDEOS, Site, check_enough, read_crops
from bnta_lib.site.judge import (
    advice, estimate, most_changed, neighbours, ranked_table, save_ranked, track_ranking, track_trial,
    true_target,
)
from bnta_lib.site.rendered import rendered_site
from bnta_lib.site.video import Search, read_video, read_videos

__all__ = [
    "Search", "Site", "adaption_sample", "advice", "check_choices", "estimate", "load_probes", "load_site",
    "most_changed", "neighbours", "ranked_table", "read_crops", "read_video", "rendered_site", "results_dir",
    "save_ranked", "track_ranking", "track_trial", "true_target",
]
SMALL = {"people": 24, "shots": 4}  # of the rendered site at the smoke profile


def check_choices(
    images: object, probes: object, out: object, *, N: object, places: object, seed: object, guarded: object
) -> None:
    """Whether the parameters of notebook 11 are of their kind and its results can be kept.

    Before anything is read: a long run must not end in a folder that takes no file. Raises ValueError, or
    OSError where ``out`` cannot be written.
    """
    for name, value in (("images", images), ("probes", probes), ("out", out)):
        if not isinstance(value, (str, Path)) and (value is not None or name == "images"):
            raise ValueError(f"{name} is a path; got {value!r} (papermill reads -p {name} 3 as a number: "
                             f"-r {name} 3 gives it as it is)")
    for name, value, least in (("N", N, LEAST), ("places", places, 1), ("seed", seed, None)):
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            wanted = "a whole number" + ("" if least is None else f" of at least {least}")
            raise ValueError(f"{name} is {wanted}; got {value!r}")
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed is a whole number from 0 to 2^63 - 1; got {seed}")
    for name, value in (("images", images), ("probes", probes), ("out", out)):
        if value is not None and not str(value).strip():
            raise ValueError(f"{name} is empty: is a variable not set?")
        try:
            Path(str(value)).expanduser()
        except RuntimeError:  # of a user whom this machine does not know
            raise ValueError(f"{name} names a home folder that is not there: {value}") from None
        if re.match("[a-z]{2,6}://", str(value)):
            raise ValueError(f"{name} is a folder or a video of this machine, and nothing is downloaded: got {value}")
    if not isinstance(guarded, bool):
        raise ValueError(f"guarded is True or False; got {guarded!r}")
    if out is None:
        return
    place = _folder(out)
    for name in ("delta.safetensors", "ranked.csv"):
        if (place / name).is_dir():
            raise OSError(f"cannot write {place / name}: a folder stands in its place")
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise OSError(f"cannot write to {_folder(out)}: a file stands where a folder should be")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {_folder(out)} ({error.strerror}): choose another folder for "
                      "out") from error


def load_site(
    images: str | Path, settings: Settings, *, number: int = 0, tracks: str | None = None,
    most: int = 8, progress: bool = False,
) -> Site:  # fmt: skip
    """The crops of a site, at the input size of ``settings``.

    images  "rendered"; a folder of crops with any names; a video; or a folder of videos
    number  of the rendered site
    tracks  of a folder of crops: "folders", where each folder is a track
    most    crops a track of a video

    Raises FileNotFoundError where there is nothing, ValueError where what is there gives too few
    crops; each says what to do.
    """
    size = (settings.height, settings.width)
    if str(images) == "rendered":
        more = SMALL if settings.profile == "smoke" else {}
        return rendered_site(size, number, **more, progress=progress)
    if not str(images).strip():
        raise ValueError('images is empty: give a folder of person crops, a video, or "rendered"')
    path = Path(images).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: images takes a folder of person crops, a "
                                'video, or "rendered"')
    return replace(_read_site(path, size, tracks, most, progress), place=str(path.resolve()))


def _read_site(path: Path, size: tuple[int, int], tracks: str | None, most: int, progress: bool) -> Site:
    if path.is_file():
        if path.suffix.lower() in IMAGES:
            raise ValueError(f"{path} is a single image: adaption needs a folder of crops, at least "
                             f"{Guards.min_images} of them")
        return check_enough(read_video(path, size, most=most, progress=progress))
    found = files_below(path)
    videos = [file for file in found if file.suffix.lower() in VIDEOS]
    if videos and not any(file.suffix.lower() in IMAGES for file in found):
        name = path.resolve().name
        return check_enough(read_videos(videos, size, name, most=most, progress=progress))
    return check_enough(read_crops(path, size, tracks=tracks, progress=progress))


def load_probes(probes: str | Path | None, settings: Settings, *, progress: bool = False) -> Site | None:
    """The crops to search for, None where none are asked for.

    Raises as :func:`bnta_lib.site.crops.read_crops`, with the word probes.
    """
    if probes is None:
        return None
    path = Path(probes).expanduser()
    if not path.is_dir():
        found = "is no folder" if path.exists() else "is not there"
        raise FileNotFoundError(f"{path} {found}: probes takes a folder of crops to search for, or None")
    try:
        return read_crops(path, (settings.height, settings.width), progress=progress)
    except ValueError as error:
        raise ValueError(f"probes: {error}") from error


def adaption_sample(site: Site, most: int, seed: int = 0) -> torch.Tensor:
    """Rows (n,) of at most ``most`` crops to adapt on, in order, drawn with ``seed``.

    Pairing compares each crop with all others: beyond a few thousand it takes minutes. Raises
    ValueError where ``most`` is below 4.
    """
    if most < LEAST:
        raise ValueError(f"N is at least {LEAST} crops, not {most}")
    if len(site) <= most:
        return torch.arange(len(site))
    order = torch.randperm(len(site), generator=torch.Generator().manual_seed(seed))
    return order[:most].sort().values


def _folder(out: str | Path) -> Path:
    return Path(out).expanduser().absolute()


def results_dir(site: Site, out: str | Path | None = None) -> Path:
    """Where the delta and the rankings go: ``out``, or site/<name>/ beside the notebooks' folder, with a few
    digits of the whole path where the crops come from a folder or a video: there are many of one name."""
    if out is not None:
        return _folder(out)
    name = re.sub(r"[^\w.-]+", "_", site.name).strip("._")[:60] or "site"
    digits = f"-{hashlib.sha256(os.fsencode(site.place)).hexdigest()[:6]}" if site.place else ""
    return ROOT / "site" / f"{name}{digits}"
