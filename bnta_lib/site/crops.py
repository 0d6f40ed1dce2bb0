"""A site: the unlabelled person crops of one place, as an engineer has them.

Names of files mean no persons here. Of a video, or of a folder for each track, tracks are known: a track is
the same person, before the same camera, within a short time.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.data.sets import files_below, open_rgb, resized

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv", ".ts"}


@dataclass(frozen=True)
class Site:
    """N person crops of one place."""

    name: str
    images: Tensor  # uint8 (N, 3, H, W), RGB
    files: tuple[str, ...]  # N names to show: a path below the folder, or a video and its frame
    tracks: Tensor | None = None  # int64 (N,), from 1; None if tracks are unknown
    times: Tensor | None = None  # int64 (N,), order within a track (frame number in a video)
    cameras: Tensor | None = None  # int64 (N,), from 1: one for each video
    pids: Tensor | None = None  # int64 (N,): persons, known of rendered sites alone
    skipped: dict[str, str] = field(default_factory=dict)  # files that were passed over, and why
    notes: tuple[str, ...] = ()  # what a reader should know of how the crops came about
    path: str = ""  # that they were read from; empty if they were rendered
    boxes: Tensor | None = None  # int64 (N, 4): left, top, width, height in the frame of a video, pixels

    def __len__(self) -> int:
        return len(self.images)

    def summary(self) -> str:
        """One line: how many crops, tracks and cameras, and how many files were passed over."""
        tracks, cameras = (0 if x is None else len(x.unique()) for x in (self.tracks, self.cameras))
        counts = {"crop": len(self), "track": tracks, "camera": cameras, "skipped file": len(self.skipped)}
        return f"{self.name}: " + ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items() if n)

    def skipped_lines(self, max_lines: int = 10) -> list[str]:
        """A line for each file that was passed over, the first ``max_lines`` of them."""
        lines = [f"  {name}: {why}" for name, why in self.skipped.items()]
        more = len(lines) - max_lines
        return lines[:max_lines] + ([f"  ... and {more} more"] if more > 0 else [])


def read_crops(folder: str | Path, size: tuple[int, int], *, tracks: str | None = None,
               progress: bool = False) -> Site:
    """Read every image below ``folder``, whatever its name, resized to ``size`` = (H, W).

    tracks  "folders": each folder that holds images is one track, in the order of file names

    Files that are no image (`IMAGES`) or that cannot be decoded are listed in ``skipped``. Raises as
    `files_below`, and ValueError if no image remains.
    """
    if tracks not in (None, "folders"):
        raise ValueError(f"tracks is None or 'folders', not {tracks!r}")
    folder, skipped, files, images = Path(folder), {}, [], []
    for file in tqdm(files_below(folder), desc="crops", unit="file", disable=not progress):
        name = shown_name(file.relative_to(folder))
        if (kind := file.suffix.lower()) not in IMAGES:
            skipped[name] = "a video among images: give it by itself" if kind in VIDEOS else "no image"
            continue
        try:
            images.append(resized(open_rgb(file), size))
            files.append(file)
        except Exception as error:  # decoders raise many types if bytes are not what the format says
            skipped[name] = f"cannot be decoded ({type(error).__name__})"
    if not files:
        example = f"; {len(skipped)} other files, such as {next(iter(skipped))}" if skipped else ""
        raise ValueError(f"{folder} holds no image that can be read ({', '.join(sorted(IMAGES))}){example}")
    track = time = None
    if tracks:
        folders = pd.Series([os.fspath(file.parent) for file in files])
        track = torch.from_numpy(pd.factorize(folders, sort=True)[0] + 1).long()
        time = torch.tensor(folders.groupby(folders).cumcount().tolist())
    return Site(shown_name(Path(folder.resolve().name or folder)), torch.from_numpy(np.stack(images)),
                tuple(shown_name(file.relative_to(folder)) for file in files), track, time, skipped=skipped)


def shown_name(path: Path) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 become a mark."""
    return os.fsencode(path).decode("utf-8", "replace")
