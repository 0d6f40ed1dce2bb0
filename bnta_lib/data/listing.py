"""Files below a folder, in order, and what is passed over of them and why."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

IMAGES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv", ".ts", ".mts", ".m2ts",
          ".3gp", ".flv", ".asf", ".vob", ".ogv", ".dav", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg"}
PASSED_OVER = (".", "__MACOSX", "@eaDir")  # beginnings of names of hidden folders and of systems' own


def walk(root: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder from ``root`` down once, linked ones too, with its hidden folders and its file names.

    Hidden folders are left out. Raises OSError, with its name, for a folder that is missing or unreadable.
    """
    visited = set()

    def refuse(error: OSError) -> None:  # to pass it over would lose data in silence
        raise error

    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            inner.clear()
            continue
        visited.add(real)
        hidden = [name for name in inner if name.startswith(PASSED_OVER)]
        inner[:] = sorted({*inner}.difference(hidden))
        yield folder, hidden, sorted(names)


def files_below(folder: str | Path) -> tuple[list[Path], dict[Path, str]]:
    """All files below ``folder``, by path, broken links too; and what is passed over, with the reason.

    Raises as :func:`walk`.
    """
    files, ignored = [], {}
    for place, hidden, names in walk(folder):
        ignored |= {Path(place, name): "hidden" for name in hidden}
        for path in (Path(place, name) for name in names):
            if path.name[0] == ".":
                ignored[path] = "hidden"
            elif path.is_file() or not path.exists():
                files.append(path)
            else:
                ignored[path] = "no file, but a pipe or a device"  # which would block
    return sorted(files), ignored


def natural_key(path: Path) -> list[list[str | int]]:
    """A key that orders paths by the numbers in their names: frame_95 comes before Frame_104."""
    return [[int(word) if k % 2 else word for k, word in enumerate(re.split(r"(\d+)", part.casefold()))]
            for part in path.parts]


def decimals_differ(first: Path, second: Path) -> bool:
    """Whether ``first`` is before ``second`` by whole numbers and after it by decimals: 1.5 and 1.25."""
    whole, decimal = ([[*map(float, re.findall(pattern, path.stem))] for path in (first, second)]
                      for pattern in (r"\d+", r"(?<![\d.])\d+\.\d+(?!\.?\d)|\d+"))  # 9.05.12 is a time
    return whole[0] < whole[1] and decimal[0] > decimal[1]


def shown_name(path: Path) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 become "\\xe9"."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def shown_names(files: Mapping[Path, str | None], folder: Path) -> dict[str, str]:
    """What belongs to ``files`` by their shown names below ``folder``."""
    return {shown_name(file.relative_to(folder)): text for file, text in files.items()}


def passed_over(reasons: Mapping[str, str]) -> str:
    """How many of some files were passed over for each reason, with an example each, in one line."""
    files: dict[str, list[str]] = defaultdict(list)
    for file, reason in reasons.items():
        files[re.split("[:(]", reason)[0].strip()].append(file)
    return "; ".join(f"{len(of)} {reason} (such as {of[0]})" for reason, of in files.items())
