"""The engineer's way in: a folder of person crops or a video of one place, as notebook 11 reads it."""

import hashlib
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bnta_lib.data.sets import files_below, picture_keys
from bnta_lib.settings import ROOT, Settings
from bnta_lib.site.crops import IMAGES, VIDEOS, Site, read_crops
from bnta_lib.site.rendered import rendered_site
from bnta_lib.site.video import read_video, read_videos


def check_choices(images: str | Path, probes: str | Path | None, out: str | Path | None, *, N: int,
                  places: int, seed: int) -> None:
    """Check the parameters of notebook 11, and that results can be written, before anything is read.

    Raises ValueError for a parameter, OSError if ``out`` cannot be written to.
    """
    for name, value, low in (("N", N, 4), ("places", places, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise ValueError(f"{name} is a whole number of at least {low}; got {value!r}")
    for name, value in (("images", images), ("probes", probes), ("out", out)):
        path = isinstance(value, (str, Path)) and str(value).strip()
        if not path and (value is not None or name == "images"):
            raise ValueError(f"{name} is a path; got {value!r}")
    if out is not None:
        folder = Path(out).expanduser().absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            raise OSError(f"cannot write to {folder} ({error.strerror}): choose another out") from error


def load_site(images: str | Path, settings: Settings, *, tracks: str | None = None,
              progress: bool = False) -> Site:
    """Load the crops of a site, at the input size of ``settings``.

    images  "rendered"; a folder of crops with any names; a video; or a folder of videos
    tracks  of a folder of crops: "folders" if each folder is a track

    Raises FileNotFoundError if there is nothing, ValueError if it gives no crop.
    """
    if str(images) == "rendered":
        small = {"people": 24, "shots": 4} if settings.profile == "smoke" else {}
        return rendered_site(settings.size, **small, progress=progress)
    path = Path(images).expanduser()
    kinds = {} if path.is_file() else {file: file.suffix.lower() for file in files_below(path)}
    if path.is_file():
        site = read_video(path, settings.size, progress=progress)
    elif VIDEOS & {*kinds.values()} and not IMAGES & {*kinds.values()}:
        videos = [file for file, kind in kinds.items() if kind in VIDEOS]
        site = read_videos(videos, settings.size, path.resolve().name, progress=progress)
    else:
        site = read_crops(path, settings.size, tracks=tracks, progress=progress)
    return replace(site, path=str(path.resolve()))


def load_probes(probes: str | Path | None, settings: Settings, *, progress: bool = False) -> Site | None:
    """Load the crops to search for, if there are any. Raises as :func:`read_crops`."""
    return None if probes is None else read_crops(Path(probes).expanduser(), settings.size, progress=progress)


def overview(site: Site, probes: Site | None = None) -> list[str]:
    """What was read, a line each: counts, notes, files passed over, and probes that are crops themselves."""
    lines = [site.summary(), *site.notes, *site.skipped_lines()]
    if probes is not None:
        lines += [f"probes, {probes.summary()}", *probes.skipped_lines()]
        crops = set(picture_keys(site.images))
        if same := sum(key in crops for key in picture_keys(probes.images)):
            lines.append(f"{same} of {len(probes)} probes are among the crops themselves, "
                         "and will find themselves first.")
    return lines


def adaption_sample(site: Site, max_crops: int, seed: int = 0) -> torch.Tensor:
    """Rows (n,) of at most ``max_crops`` crops to adapt on, in order, drawn with ``seed``.

    Pairing compares each crop with all others: beyond a few thousand it takes minutes.
    """
    order = torch.randperm(len(site), generator=torch.Generator().manual_seed(seed))
    return order[:max_crops].sort().values


def results_dir(site: Site, out: str | Path | None = None) -> Path:
    """Where the delta and the rankings go: ``out``, or ``site/<name>/`` beside the folder of notebooks.

    A name of crops that were read ends in digits of their whole path: many folders share a name.
    """
    if out is not None:
        return Path(out).expanduser().absolute()
    name = re.sub(r"[^\w.-]+", "_", site.name).strip("._")[:60] or "site"
    digits = f"-{hashlib.sha256(os.fsencode(site.path)).hexdigest()[:6]}" if site.path else ""
    return ROOT / "site" / f"{name}{digits}"
