"""Any folder of crops in Market-1501 naming, as a source or as a target; and the way back.

``0002_c1s1_000451_03.jpg`` is person 2 seen by camera 1. Person -1 (junk) is dropped, person 0
is a distractor that matches nobody. Other files (``Thumbs.db``, text) are ignored.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from bnta_lib.data.sets import ReIDSet, Split, Target

NAMING = re.compile(r"([-\d]+)_c(\d+)")
NAMING_SAYS = (
    "expected names such as 0002_c1s1_000451_03.jpg (person 2, camera 1), as Market-1501 has "
    "them, ending in .jpg, .jpeg, .png or .bmp"
)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow's names of what is opened
# How the names of folders begin that hold no picture of their owner's: hidden ones, and copies and previews
# that systems keep.
PASSED_OVER = (".", "__MACOSX", "@eaDir")
_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp"}


def read_folder(path: str | Path, size: tuple[int, int]) -> ReIDSet:
    """All crops below ``path`` (recursive), resized to ``size`` = (H, W), sorted by path.

    Raises FileNotFoundError where there is no such folder, PermissionError where one cannot be read,
    ValueError where it holds no image in the naming, an image that cannot be decoded, or a link that
    leads nowhere.
    """
    return _read(Path(path), _find(Path(path)), size)


def read_target(
    path: str | Path, size: tuple[int, int], splits: int = 10, seed: int = 0
) -> Target:
    """A folder as a target.

    With ``query/`` and ``bounding_box_test/`` these two are its one split. Otherwise ``splits``
    seeded ones are drawn by `cross_camera_split`.
    Raises as `read_folder`, and ValueError where no person was seen by two cameras.
    """
    path = Path(path)
    query, test = path / "query", path / "bounding_box_test"
    if query.is_dir() and test.is_dir():
        probes, gallery = _find(query), _find(test)
        data = _read(path, probes + gallery, size)
        order = torch.arange(len(data))
        return Target(data, (Split(order[: len(probes)], order[len(probes) :]),))
    data = read_folder(path, size)
    rng = np.random.default_rng(seed)
    return Target(data, tuple(cross_camera_split(data, rng) for _ in range(splits)))


def cross_camera_split(data: ReIDSet, rng: np.random.Generator) -> Split:
    """One random probe of each person that two cameras or more saw.

    The gallery holds the person's images from the other cameras, and everyone who is no probe:
    the distractors and the people of a single camera.
    Raises ValueError where no person was seen by two cameras.
    """
    pids, camids = data.pids.numpy(), data.camids.numpy()
    probe, gallery = [], list(np.flatnonzero(pids == 0))
    for pid in np.unique(pids[pids > 0]):
        rows = np.flatnonzero(pids == pid)
        if len(np.unique(camids[rows])) < 2:
            gallery.extend(rows)
            continue
        chosen = int(rng.choice(rows))
        probe.append(chosen)
        gallery.extend(rows[camids[rows] != camids[chosen]])
    if not probe:
        raise ValueError(f"{data.name}: no person was seen by two cameras, so nothing to match")
    return Split(torch.tensor(probe), torch.tensor(sorted(int(i) for i in gallery)))


def is_crop(name: str) -> bool:
    """Whether a file of this name is a crop in the naming."""
    return bool(NAMING.match(name)) and Path(name).suffix.lower() in _ENDINGS


def write_folder(data: ReIDSet, path: str | Path, ending: str = "jpg") -> Path:
    """Write ``data`` as such a folder: JPEG of quality 95, or PNG without loss.

    Raises ValueError for another ``ending``.
    """
    if ending not in ("jpg", "png"):
        raise ValueError(f"cannot write {ending!r}: choose jpg or png")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(data.images):
        name = f"{int(data.pids[i]):04d}_c{int(data.camids[i])}s1_{i:06d}_00.{ending}"
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        picture.save(path / name, **({"quality": 95} if ending == "jpg" else {}))
    return path


def walk(
    root: str | Path, refuse: Callable[[str, OSError], None]
) -> Iterator[tuple[str, list[os.DirEntry], list[os.DirEntry]]]:
    """Each folder from ``root`` down, with its folders and its other entries, as `os.walk` gives them.

    Folders of names as in `PASSED_OVER` are given and not entered. Links to folders are followed once
    each, after all else: a folder is known by its own path where that lies below ``root`` too.
    ``refuse`` is called with a folder that cannot be read, and why.
    """
    visited: set[tuple[int, int]] = set()  # so that links cannot lead round in a loop
    waiting, links = [os.fspath(root)], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop()
        inner, others = [], []
        try:
            at = os.stat(folder)
            if (at.st_dev, at.st_ino) in visited:
                continue
            visited.add((at.st_dev, at.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_folder = os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()
                    (inner if is_folder else others).append(entry)
        except OSError as error:
            refuse(folder, error)
            continue
        yield folder, inner, others
        for entry in inner:
            if not entry.name.startswith(PASSED_OVER):
                (links if entry.is_symlink() else waiting).append(entry.path)
        links.sort(reverse=True)


def is_special(entry: os.DirEntry) -> bool:
    """Whether what is no folder is a pipe, a socket or a device: to open one could wait for ever."""
    return not entry.is_file(follow_symlinks=False) and os.path.exists(entry) and not os.path.isfile(entry)


def files_below(folder: str | Path) -> list[Path]:
    """All files below ``folder`` at any depth, by path, links that lead nowhere among them.

    Left out is what is hidden, with the folders of `PASSED_OVER`, and what is no file (a pipe, which
    would keep its reader waiting).
    Raises FileNotFoundError for a missing folder, PermissionError for one that cannot be read.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no such folder: {folder}; give one that holds person crops")

    def refuse(place: str, error: OSError) -> None:  # to pass it over would lose data without a word
        raise PermissionError(f"cannot read the folder {place}: {error.strerror}; give yourself the right to "
                              "read it, or move it out of the way")

    return sorted(Path(entry.path) for _, _, others in walk(folder, refuse) for entry in others
                  if not entry.name.startswith(".") and not is_special(entry))


def _find(path: Path) -> list[tuple[Path, int, int]]:
    """File, person and camera of each crop below ``path``, junk dropped."""
    found = []
    for file in files_below(path):
        if file.is_symlink() and not os.path.exists(file):  # of a crop, or of a folder of them
            raise ValueError(f"{file} is a link that leads nowhere: mend or delete it")
        match = NAMING.match(file.name)
        if match and file.suffix.lower() in _ENDINGS:
            try:
                pid = int(match[1])
            except ValueError:  # "1-2_c1.jpg" fits the pattern but is no number
                continue
            if max(pid, int(match[2])) >= 1 << 62:
                raise ValueError(f"{file}: the number of its person or camera is too large")
            if pid >= 0:
                found.append((file, pid, int(match[2])))
    if not found:
        raise ValueError(f"{path} holds no person crop: {NAMING_SAYS}")
    return found


def _read(path: Path, found: list[tuple[Path, int, int]], size: tuple[int, int]) -> ReIDSet:
    height, width = size
    images = np.empty((len(found), 3, height, width), np.uint8)
    for i, (file, _, _) in enumerate(found):
        try:
            with opened_image(file) as opened:
                picture = upright_rgb(opened).resize((width, height), Image.Resampling.BILINEAR)
        except Exception as error:  # decoders fail in many ways where bytes are not what the format says
            raise ValueError(f"{file} cannot be decoded as an image ({error}): replace or delete "
                             "it") from error
        images[i] = np.asarray(picture).transpose(2, 0, 1)
    pids = torch.tensor([pid for _, pid, _ in found])
    camids = torch.tensor([cam for _, _, cam in found])
    if not camids.min():  # some sets count their cameras from 0
        camids += 1
    return ReIDSet(path.name, torch.from_numpy(images), pids, camids, origin="own folder")


def opened_image(file: str | Path) -> Image.Image:
    """An image file, of a format that crops and frames come in. Others are UnidentifiedImageError: Pillow
    knows many, some of which start another program (EPS) or are hardly ever looked at for faults."""
    # Read whole first: a file that is decoded lazily would be held open.
    return Image.open(io.BytesIO(Path(file).read_bytes()), formats=FORMATS)


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Upright, in 8-bit RGB. 16-bit grey keeps its upper byte, which Pillow would cut to white. Transparent
    places lie on white: what is hidden behind them is arbitrary.

    Raises ValueError where its pixels are fractions, or numbers of more than 16 bits.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65_535:
            raise ValueError(f"its grey values are {grey.min()} to {grey.max()}, and 0 to 65535 are known")
        if 0 < grey.max() <= 255:  # black, if the upper byte were kept
            raise ValueError(f"its grey values are {grey.min()} to {grey.max()}, of 65535 that it has room for: save it "
                             "with 8 bits")
        picture = Image.fromarray((grey >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
