"""Person crops: a labelled set, a target with its splits, and folders in Market-1501 naming.

``0002_c1s1_000451_03.jpg`` shows person 2, seen by camera 1. Person -1 (junk) is dropped, and person 0 is a
distractor that matches nobody. What is passed over is counted in a warning, by reason.
"""

import hashlib
import importlib
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from bnta_lib.data.listing import files_below, passed_over, shown_name, shown_names, walk
from bnta_lib.files import in_threads

NAMING = re.compile(r"(-?\d{1,6})_c(\d{1,6}).*\.(jpe?g|png|bmp)", re.IGNORECASE | re.DOTALL)
# Pillow knows more formats. Some of those start other programs (EPS) or are rarely checked for faults.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
GALLERIES = ("bounding_box_test", "gallery")  # what may lie beside query/
SIDES = ("query", *GALLERIES)


@dataclass(frozen=True)
class ReIDSet:
    """N labelled person crops. Raises ValueError if the tensors do not fit each other, or a label is bad."""

    name: str
    images: torch.Tensor  # uint8 (N, 3, H, W), RGB
    pids: torch.Tensor  # int64 (N,), person; 0 is a distractor that matches nobody
    camids: torch.Tensor  # int64 (N,), camera, from 1
    known_digest: InitVar[str] = ""  # of a caller who has one that identifies the set as well
    origin: str = "embedded"  # or "published", "own folder": sets of one name are told apart by it
    digest: str = field(init=False)  # SHA-256 of shape, pixels and labels

    def __post_init__(self, known_digest: str) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"{self.name}: images must be uint8 of shape (N, 3, H, W)")
        for name, labels, lowest in (("pids", self.pids, 0), ("camids", self.camids, 1)):
            if labels.dtype != torch.int64 or labels.shape != (len(self),) or (labels < lowest).any():
                raise ValueError(f"{self.name}: {name} must be {lowest} or more, int64 of shape {len(self),}")
        if not known_digest:
            sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
            for tensor in (self.images, self.pids, self.camids):
                sha.update(tensor.cpu().contiguous().numpy())
        object.__setattr__(self, "digest", known_digest or sha.hexdigest())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def people(self) -> int:
        """How many people the set shows, distractors not counted."""
        return len(torch.unique(self.pids[self.pids > 0]))


@dataclass(frozen=True)
class Split:
    """Indices of probe and gallery of one trial. Raises ValueError if one is empty or they overlap."""

    probe: torch.Tensor  # int64 (P,)
    gallery: torch.Tensor  # int64 (G,)

    def __post_init__(self) -> None:
        if not len(self.probe) or not len(self.gallery):
            raise ValueError("a split needs at least one probe and one gallery image")
        if torch.isin(self.probe, self.gallery).any():
            raise ValueError("probe and gallery of a split must not share an image")


@dataclass(frozen=True)
class Target:
    """An unseen set with the splits that it is evaluated on. Raises ValueError for a bad index."""

    data: ReIDSet
    splits: tuple[Split, ...]
    protocol: str = ""  # how the splits of a published set were made, a sentence for under a table

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(f"{self.data.name}: a target needs at least one split")
        for split in self.splits:
            both = torch.cat((split.probe, split.gallery))
            if int(both.min()) < 0 or int(both.max()) >= len(self.data):
                raise ValueError(f"{self.data.name}: a split points outside the set")

    def stored_as(self, name: str) -> str:
        """The data set's name in measured rows: published and embedded sets share their names."""
        return name if self.data.origin == "embedded" else f"{name}, {self.data.origin}"

    def split(self, number: int) -> Split:
        """One of the splits. Raises ValueError for a number that does not exist."""
        if not 0 <= number < len(self.splits):
            raise ValueError(f"{self.data.name} has {len(self.splits)} splits, from 0: there is no {number}")
        return self.splits[number]

    def problems(self) -> list[str]:
        """What falsifies a score, a sentence each with the count of the worst split."""
        pids, camids, keys = self.data.pids, self.data.camids, picture_keys(self.data.images)
        unmatched = same = 0
        for split in self.splits:
            probe, gallery = split.probe[:, None], split.gallery[pids[split.gallery] > 0]
            matches = (pids[probe] == pids[gallery]) & (camids[probe] != camids[gallery])
            unmatched = max(unmatched, int((~matches.any(1)).sum()))
            pictures = {keys[row] for row in split.gallery}
            same = max(same, sum(keys[row] in pictures for row in split.probe))
        counts = {"probes without a match by another camera, left out of every score": unmatched,
                  "probes that lie in the gallery as the very same picture": same}
        return [f"{self.data.name}: {sentence}: {count}" for sentence, count in counts.items() if count]


def picture_keys(images: torch.Tensor) -> list[bytes]:
    """A key of each of N images, the same for the same pixels."""
    return [hashlib.sha1(image.contiguous().numpy()).digest() for image in images]


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop, and whom it shows."""

    file: Path  # the image, or the .mat that holds it
    pid: int  # person, from 1, of this set alone; 0 is a distractor that matches nobody
    camid: int  # camera, from 1
    part: str = ""  # of the publication: "train", "query", "gallery", "probe", "P1" ...
    box: tuple[int, int, int, int] | None = None  # left, top, width, height to cut, clipped to the image
    cell: tuple[int, int, int] | None = None  # of cuhk-03.mat: pair, column, person


def read_folder(path: str | Path, size: tuple[int, int]) -> ReIDSet:
    """All crops below ``path`` (recursive), resized to ``size`` = (H, W), sorted by path.

    Raises as :func:`walk`, and ValueError if no image has the naming, or one cannot be read.
    """
    return _read(Path(path), _find(Path(path)), size)


def read_target(path: str | Path, size: tuple[int, int], splits: int = 10) -> Target:
    """A folder as a target: ``query/`` against a folder of GALLERIES, or else ``splits`` seeded splits.

    Raises as :func:`read_folder`, and ValueError if no person was seen by two cameras, or if such a split
    lies further down or up.
    """
    path = Path(path)
    if gallery := _gallery(path):
        probes, others = _find(path / "query"), _find(gallery)
        rest = [file for file in files_below(path)[0]
                if not {path / "query", gallery}.intersection(file.parents)]
        if rest:
            warnings.warn(f"{path.name}: {len(rest)} files outside of query and {gallery.name} are not read, "
                          f"such as {shown_name(rest[0].relative_to(path))}", stacklevel=2)
        rows = torch.arange(len(probes) + len(others))
        split = Split(rows[: len(probes)], rows[len(probes) :])
        return Target(_read(path, probes + others, size), (split,))
    splits_near = [folder for folder, *_ in walk(path) if _gallery(Path(folder))]
    if path.name in SIDES and _gallery(path.resolve().parent):
        splits_near.append(str(path.resolve().parent))
    if splits_near:
        raise ValueError(f"{path} is no split itself, but {' and '.join(splits_near)}: give that folder")
    if sides := [part.name for part in path.iterdir() if part.is_dir()
                 and re.search("quer(y|ies)|gallery|probe|bounding_box_test", part.name, re.IGNORECASE)]:
        raise ValueError(f"{path} has {' and '.join(sides)}, and a split needs query and one of "
                         f"{' and '.join(GALLERIES)}: rename its folders")
    data, rng = read_folder(path, size), np.random.default_rng(0)
    return Target(data, tuple(_cross_camera_split(data, rng) for _ in range(splits)))


def is_own(path: Path) -> bool:
    """Whether the folder itself holds crops, or query/ and a gallery: it is a user's own."""
    return bool(_gallery(path)) or any(NAMING.fullmatch(file.name) and file.is_file()
                                       for file in path.iterdir())


def _gallery(path: Path) -> Path | None:
    """The gallery beside query/, if there are both. Raises ValueError for two galleries."""
    galleries = [path / name for name in GALLERIES if (path / name).is_dir()]
    if not (path / "query").is_dir() or not galleries:
        return None
    if len(galleries) > 1:
        raise ValueError(f"{path} has two galleries, {' and '.join(GALLERIES)}: keep one of them")
    return galleries[0]


def _cross_camera_split(data: ReIDSet, rng: np.random.Generator) -> Split:
    """One random probe of each person whom two cameras or more saw.

    The gallery holds the person's images by the other cameras, and everyone who is no probe.
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


def _find(path: Path) -> list[Sample]:
    """The crops below ``path``, junk left out. Warns of what is passed over, and of what is ambiguous."""
    crops, (files, ignored) = [], files_below(path)
    for file in files:
        if not file.exists():  # a link to a crop, or to a folder of them
            raise ValueError(f"{file} is a link that leads nowhere: mend or delete it")
        if not (match := NAMING.fullmatch(file.name)):
            known = re.fullmatch(r"\.(jpe?g|png|bmp)", file.suffix, re.IGNORECASE)
            ignored[file] = "of another name" if known else "of another ending"
        elif int(match[1]) < 0:
            ignored[file] = "junk of person -1"
        else:
            crops.append(Sample(file, int(match[1]), int(match[2])))
    reasons = shown_names(ignored, path)
    if not crops:
        raise ValueError(f"{path} holds no person crop: expected names such as 0002_c1s1_000451_03.jpg "
                         "(person 2, camera 1), as Market-1501 has them, ending in .jpg, .jpeg, .png or .bmp;"
                         f" there are {passed_over(reasons) or 'no files'}")
    if reasons:
        warnings.warn(f"{path.name}: passed over are {passed_over(reasons)}", stacklevel=2)
    return crops


def _ambiguities(path: Path, crops: list[Sample]) -> Iterator[str]:
    """What the names of crops leave open, a sentence each."""
    if nobody := [sample.file.name for sample in crops if sample.pid == 0]:
        yield (f"{len(nobody)} crops of person 0, such as {nobody[0]}, count as distractors, who match "
               "nobody: if 0 is a person, number yours from 1")
    folders: dict[tuple[int, int], set[str]] = defaultdict(set)
    cameras: dict[str, set[int]] = defaultdict(set)
    for sample in crops:  # probes and gallery of a split show the same people
        parts = sample.file.relative_to(path).parts[:-1]
        folder = "/".join(part for part in parts if part not in SIDES) or "the others"
        folders[sample.pid, sample.camid].add(folder)
        cameras[folder].add(sample.camid)
    for (pid, _), of in [*folders.items()]:  # not of folders that are a camera each
        folders[pid, -1] |= {folder for folder in of if len(cameras[folder]) > 1}
    if several := {pid: of for (pid, _), of in folders.items() if pid and len(of) > 1}:
        pid, (first, other, *_) = next((pid, sorted(of)) for pid, of in several.items())
        yield (f"{len(several)} persons, such as {pid}, are seen in several folders, such as {first} and "
               f"{other}: each counts as one person. If the folders number their people apart, renumber them")


def repeated(samples: Sequence[Sample], keys: Sequence[bytes]) -> str:
    """How many pictures repeat an earlier one of the set, in a sentence; empty if none does."""
    again = np.flatnonzero(pd.Series(keys).duplicated())
    if not len(again):
        return ""
    picture, first = samples[again[0]], samples[keys.index(keys[again[0]])]
    return f"{len(again)} pictures repeat another, such as {picture.file.name} and {first.file.name}"


def _read(path: Path, crops: list[Sample], size: tuple[int, int]) -> ReIDSet:
    images = torch.from_numpy(np.stack([*in_threads(lambda crop: resized(read_image(crop), size), crops)]))
    for sentence in filter(None, (*_ambiguities(path, crops), repeated(crops, picture_keys(images)))):
        warnings.warn(f"{path.name}: {sentence}", stacklevel=2)
    pids, camids = torch.tensor([(sample.pid, sample.camid) for sample in crops]).T.contiguous()
    camids += int(camids.min() == 0)  # some sets count their cameras from 0
    return ReIDSet(path.name, images, pids, camids, origin="own folder")


def resized(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """uint8 (3, H, W) of an RGB picture, by Pillow's bilinear filter."""
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def open_rgb(file: str | Path) -> Image.Image:
    """An image of one of :data:`FORMATS`, upright, in 8-bit RGB; transparent pixels become white.

    Of 16 bits it is the upper byte. Raises OSError, ValueError, or what a decoder raises.
    """
    picture = Image.open(file, formats=FORMATS)
    deep = re.search(r"\b(?!BGR)\w+;16", str(picture.tile))  # bits of a value; BGR;16 has them in a pixel
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # of phones
        raise ValueError(f"it holds {picture.n_frames} pictures: save each as a file")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode[0] in "FI":  # Pillow would cut off what is above 255
        raise ValueError(f"its grey values come as Pillow's mode {picture.mode}: save it with 8 bits")
    top = int(np.asarray(picture.convert("RGB")).max()) if deep else 255
    if top < 128:  # of a camera of 10 to 15 bits: the upper byte would be dark
        raise ValueError(f"its values of 16 bits end below {256 * top + 256:,} of 65,536: save it with 8")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def extra(module: str):
    """An optional module. Raises ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{module} is not installed: pip install bnta_lib[data]") from None


def read_image(sample: Sample) -> Image.Image:
    """The crop of a sample, upright, 8-bit RGB. Raises ValueError, with its file, if it cannot be decoded."""
    try:
        if sample.cell:
            pair, column, person = sample.cell
            with extra("h5py").File(sample.file) as mat:
                cells = mat[mat["detected"][()].ravel()[pair]]
                pixels = mat[cells[column, person]][()]  # (3, width, height)
                return Image.fromarray(pixels.T.copy())
        picture = open_rgb(sample.file)
        if sample.box is None:
            return picture
        left, top, width, height = sample.box
        right, bottom = min(left + width, picture.width), min(top + height, picture.height)
        return picture.crop((max(left, 0), max(top, 0), right, bottom))
    except ImportError:
        raise
    except Exception as error:  # decoders raise anything if bytes are not what the format says
        which = f"{sample.file}{sample.cell or ''}"
        raise ValueError(f"{which} cannot be decoded as an image ({error})") from error
