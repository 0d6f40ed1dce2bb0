"""Folders of crops in Market-1501 naming, read as a source or a target and written; how images are decoded.

``0002_c1s1_000451_03.jpg`` shows person 2, seen by camera 1. Person -1 (junk) is dropped, and person 0 is a
distractor that matches nobody. Files of other names are ignored.
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

NAMING = re.compile(r"(-?\d+)_c(\d+).*\.(jpe?g|png|bmp)", re.IGNORECASE | re.DOTALL)
# Pillow knows more formats. Some of those start other programs (EPS) or are rarely checked for faults.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
PASSED_OVER = (".", "__MACOSX", "@eaDir")  # beginnings of names of hidden folders and of systems' own


def read_folder(path: str | Path, size: tuple[int, int]) -> ReIDSet:
    """All crops below ``path`` (recursive), resized to ``size`` = (H, W), sorted by path.

    Raises as :func:`files_below`, and ValueError if no image has the naming, one cannot be decoded, or a link
    leads nowhere.
    """
    return _read(Path(path), _find(Path(path)), size)


def read_target(path: str | Path, size: tuple[int, int], splits: int = 10, seed: int = 0) -> Target:
    """A folder as a target: ``query/`` against ``bounding_box_test/``, or else ``splits`` seeded splits.

    Raises as :func:`read_folder`, and ValueError if no person was seen by two cameras.
    """
    path = Path(path)
    if _is_split(path):
        probes, gallery = _find(path / "query"), _find(path / "bounding_box_test")
        data, rows = _read(path, probes + gallery, size), torch.arange(len(probes) + len(gallery))
        return Target(data, (Split(rows[: len(probes)], rows[len(probes) :]),))
    data, rng = read_folder(path, size), np.random.default_rng(seed)
    return Target(data, tuple(_cross_camera_split(data, rng) for _ in range(splits)))


def is_own(path: Path) -> bool:
    """Whether the folder itself holds crops, or query/ and bounding_box_test/: it is a user's own."""
    return _is_split(path) or any(NAMING.fullmatch(file.name) and file.is_file() for file in path.iterdir())


def _is_split(path: Path) -> bool:
    return (path / "query").is_dir() and (path / "bounding_box_test").is_dir()


def _cross_camera_split(data: ReIDSet, rng: np.random.Generator) -> Split:
    """One random probe of each person whom two cameras or more saw.

    The gallery holds the person's images by the other cameras, and everyone who is no probe: distractors and
    the people of a single camera. Raises ValueError if no person was seen by two cameras.
    """
    pids, camids = data.pids.numpy(), data.camids.numpy()
    probe, in_gallery = [], np.ones(len(pids), bool)
    for pid in np.unique(pids[pids > 0]):
        rows = np.flatnonzero(pids == pid)
        if len(np.unique(camids[rows])) > 1:
            probe.append(int(rng.choice(rows)))
            in_gallery[rows] = camids[rows] != camids[probe[-1]]
    if not probe:
        raise ValueError(f"{data.name}: no person was seen by two cameras, so nothing to match")
    return Split(torch.tensor(probe), torch.from_numpy(np.flatnonzero(in_gallery)))


def write_folder(data: ReIDSet, path: str | Path, ending: str = "jpg") -> Path:
    """Write ``data`` as such a folder, as JPEG ("jpg") or PNG ("png")."""
    Path(path).mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(data.images):
        name = f"{int(data.pids[i]):04d}_c{int(data.camids[i])}s1_{i:06d}_00.{ending}"
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(Path(path, name), quality=95)
    return Path(path)


def walk(root: str | Path, refuse: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Each folder from ``root`` down once, with its file names; linked ones, by that path, come last.

    ``refuse`` gets the error of a folder that cannot be read.
    """
    waiting, visited = [os.fspath(root)], set()
    while waiting:
        links: list[str] = []
        for folder, inner, names in os.walk(waiting.pop(0), onerror=refuse):
            at = os.stat(folder)
            if (at.st_dev, at.st_ino) in visited:
                inner.clear()
                continue
            visited.add((at.st_dev, at.st_ino))
            inner[:] = sorted(name for name in inner if not name.startswith(PASSED_OVER))
            links += (path for name in inner if os.path.islink(path := os.path.join(folder, name)))
            yield folder, sorted(names)
        waiting = sorted([*waiting, *links])


def files_below(folder: str | Path) -> list[Path]:
    """All files below ``folder`` at any depth, by path, without hidden ones; broken links are among them.

    Raises FileNotFoundError for a missing folder, PermissionError for one that cannot be read.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no such folder: {folder}; give one that holds person crops")

    def refuse(error: OSError) -> None:  # to pass it over would lose data in silence
        raise PermissionError(f"cannot read the folder {error.filename}: {error.strerror}; give yourself the "
                              "right to read it, or move it out of the way")

    paths = (Path(place, name) for place, names in walk(folder, refuse) for name in names if name[0] != ".")
    return sorted(path for path in paths if path.is_file() or not path.exists())  # no pipe: it would block


def _find(path: Path) -> list[tuple[Path, int, int]]:
    """File, person and camera of each crop below ``path``, junk dropped."""
    crops = []
    for file in files_below(path):
        if not file.exists():  # a link to a crop, or to a folder of them
            raise ValueError(f"{file} is a link that leads nowhere: mend or delete it")
        match = NAMING.fullmatch(file.name)
        if match and int(match[1]) >= 0:
            crops.append((file, int(match[1]), int(match[2])))
    if not crops:
        raise ValueError(f"{path} holds no person crop: expected names such as 0002_c1s1_000451_03.jpg "
                         "(person 2, camera 1), as Market-1501 has them, ending in .jpg, .jpeg, .png or .bmp")
    return crops


def _read(path: Path, crops: list[tuple[Path, int, int]], size: tuple[int, int]) -> ReIDSet:
    images = np.empty((len(crops), 3, *size), np.uint8)
    for i, (file, _, _) in enumerate(crops):
        try:
            images[i] = resized(upright_rgb(opened_image(file)), size)
        except Exception as error:  # decoders raise anything if bytes are not what the format says
            raise ValueError(f"{file} cannot be decoded as an image ({error}): replace or "
                             "delete it") from error
    pids, camids = torch.tensor([labels for _, *labels in crops]).T.contiguous()
    if not camids.min():  # some sets count their cameras from 0
        camids += 1
    return ReIDSet(path.name, torch.from_numpy(images), pids, camids, origin="own folder")


def opened_image(file: str | Path) -> Image.Image:
    """An image file of one of :data:`FORMATS`, read whole. Raises UnidentifiedImageError for others."""
    return Image.open(io.BytesIO(Path(file).read_bytes()), formats=FORMATS)


def resized(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """uint8 (3, H, W) of an RGB picture, by Pillow's bilinear filter."""
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def upright_rgb(picture: Image.Image) -> Image.Image:
    """The picture upright, in 8-bit RGB. 16-bit grey keeps its upper byte. Transparent pixels become white.

    Raises ValueError if pixels are fractions, have more than 16 bits, or fill 8 bits of 16 alone.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "FI":  # more than 8 bits a pixel
        grey = np.asarray(picture)
        low, high = grey.min(), grey.max()
        if picture.mode == "F" or low < 0 or high > 65_535 or 0 < high <= 255:  # the last would turn black
            raise ValueError(f"its grey values are {low} to {high} and not of 16 bits: save it with 8 bits")
        picture = Image.fromarray((grey >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def visible(sentence: str) -> str:
    """A sentence whose unprintable characters, which may come from a file's name, are written as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)
