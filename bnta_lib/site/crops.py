"""A site: the unlabelled person crops of one place, as an engineer has them.

Unlike a data set (`bnta_lib.data`) a site has no persons: names of files mean nothing here. Where
the crops were cut from a video, or lie in a folder for each track, it is known which of them
belong to one track: the same person, before the same camera, within a short time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.data.folders import files_below, opened_image, upright_rgb
from bnta_lib.site.guards import Guards

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv", ".ts"}
LEAST = 4  # crops: with fewer, Algorithm 1 has no second pair to tell the first one from


@dataclass(frozen=True)
class Site:
    """N person crops of one place. Raises ValueError where the columns do not fit each other."""

    name: str
    images: Tensor  # uint8 (N, 3, H, W), RGB
    files: tuple[str, ...]  # N names to show: a path below the folder, or a video and its frame
    tracks: Tensor | None = None  # int64 (N,), from 1; None where nothing is known of tracks
    times: Tensor | None = None  # int64 (N,), order within a track (frame number in a video)
    cameras: Tensor | None = None  # int64 (N,), from 1: one for each video
    pids: Tensor | None = None  # int64 (N,): persons, known of rendered sites alone
    skipped: dict[str, str] = field(default_factory=dict)  # files that were passed over, and why
    notes: tuple[str, ...] = ()  # what a reader should know of how the crops came about
    place: str = ""  # the path that they were read from; empty for what was rendered
    boxes: Tensor | None = None  # int64 (N, 4): left, top, width, height in the frame of a video, pixels

    def __post_init__(self) -> None:
        columns = {"files": self.files, "tracks": self.tracks, "times": self.times,
                   "cameras": self.cameras, "pids": self.pids, "boxes": self.boxes}
        for what, values in columns.items():
            if values is not None and len(values) != len(self.images):
                raise ValueError(f"site {self.name}: {len(values)} {what} do not fit "
                                 f"{len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def summary(self) -> str:
        """One line: how many crops, tracks and cameras, and what was passed over."""
        counts = {"crop": len(self)}
        if self.tracks is not None:
            counts["track"] = len(torch.unique(self.tracks))
        if self.cameras is not None:
            counts["camera"] = len(torch.unique(self.cameras))
        words = [f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items()]
        left = len(self.skipped)
        return f"{self.name}: {', '.join(words)}" + (
            f"; {left} file{'s' * (left != 1)} passed over" if left else "")

    def skipped_lines(self, most: int = 10) -> list[str]:
        """A line for each file that was passed over, the first ``most`` of them."""
        lines = [f"  {name}: {why}" for name, why in list(self.skipped.items())[:most]]
        more = len(self.skipped) - most
        return lines + ([f"  ... and {more} more"] if more > 0 else [])


def check_enough(site: Site) -> Site:
    """``site``, where adaption can work on it.

    Raises ValueError for fewer than `LEAST` crops, or for copies of fewer pictures than that.
    """
    found = f"{len(site)} person crop{'s' * (len(site) != 1)}"
    if len(site) < LEAST:
        raise ValueError(f"{site.name} gives {found}: adaption needs at least {LEAST}, {Guards.min_images} "
                         "where it is guarded, and learns something from a hundred or more")
    different: set[bytes] = set()
    for image in site.images:
        different.add(image.numpy().tobytes())
        if len(different) == LEAST:
            return site
    raise ValueError(f"{site.name} gives {found}, but all are copies of {len(different)} "
                     f"picture{'s' * (len(different) != 1)}: adaption needs at least {LEAST} "
                     f"different ones, {Guards.min_images} where it is guarded")


def read_crops(
    folder: str | Path, size: tuple[int, int], *, tracks: str | None = None, progress: bool = False
) -> Site:
    """Every image below ``folder`` as a crop, whatever its name, resized to ``size`` = (H, W).

    tracks  "folders": each folder that holds images is one track, in the order of file names

    Files that are no image (`IMAGES`) or that cannot be decoded are passed over, and named in
    ``skipped``. Raises as `files_below`, and ValueError where no image is left.
    """
    if tracks not in (None, "folders"):
        raise ValueError(f"tracks is None or 'folders', not {tracks!r}")
    folder = Path(folder)
    skipped: dict[str, str] = {}
    kept: list[Path] = []
    pixels: list[np.ndarray] = []
    for file in tqdm(files_below(folder), desc="crops", unit="file", disable=not progress):
        name = shown_name(file.relative_to(folder))
        if file.suffix.lower() not in IMAGES:
            video = file.suffix.lower() in VIDEOS
            skipped[name] = ("a video among images: give it by itself" if video else
                             f"no image ending ({', '.join(sorted(IMAGES))})")
            continue
        try:
            picture = _decoded(file)
        except Exception as error:  # decoders fail in many ways where bytes are not what the format says
            reason = getattr(error, "strerror", None) or (
                "it has more pixels than Pillow takes for sound" if isinstance(error, Image.DecompressionBombError)
                else "its content is no image, or damaged")
            skipped[name] = f"cannot be decoded: {reason}"
            continue
        kept.append(file)
        pixels.append(resized(np.asarray(picture), size))
    if not kept:
        named = f"; what is there is none, for one {next(iter(skipped))}" if skipped else ""
        raise ValueError(f"{folder} holds no image that can be read ({', '.join(sorted(IMAGES))})"
                         f"{named}")
    track, time = _folders(kept) if tracks else (None, None)
    return Site(
        shown_name(Path(folder.resolve().name or folder)), torch.from_numpy(np.stack(pixels)),
        tuple(shown_name(file.relative_to(folder)) for file in kept), track, time,
        skipped=skipped,
    )


def _decoded(file: Path) -> Image.Image:
    with opened_image(file) as opened:
        return upright_rgb(opened)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) to (3, H, W): bilinear, averaging where it shrinks."""
    height, width = size
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def _folders(files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Track (N,), from 1, and place in it (N,): the images of one folder are a track."""
    folders = pd.Series([os.fspath(file.parent) for file in files])
    track, _ = pd.factorize(folders, sort=True)
    return (torch.from_numpy(track + 1).long(),
            torch.tensor(folders.groupby(folders).cumcount().tolist()))


def shown_name(path: Path) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 become a mark."""
    return os.fsencode(path).decode("utf-8", "replace")
