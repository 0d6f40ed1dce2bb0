"""What a published set is once it is read: a list of samples, each an image with its labels."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, UnidentifiedImageError

from bnta_lib.data.folders import opened_image, upright_rgb


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop of a published set: where its pixels are, and whom they show."""

    file: Path  # the image, or the .mat file that holds it
    pid: int  # person, from 1, without meaning across sets; 0 is a distractor that matches nobody
    camid: int  # camera, from 1
    part: str = ""  # of the publication: "train", "query", "gallery", "probe", "P1" ...
    box: tuple[int, int, int, int] | None = None  # left, top, width, height to cut; clipped to the image
    cell: str = ""  # of a .mat file: the HDF5 path of the image


@dataclass(frozen=True)
class Found:
    """A published set as it lies below a folder, after its rule (see the catalogue)."""

    name: str  # of the catalogue
    layout: str  # which of the set's published layouts it is
    folder: Path  # where that layout begins
    samples: tuple[Sample, ...]  # in an order that does not depend on the file system
    left_out: dict[str, int] = field(default_factory=dict)  # images that the rule drops, by reason
    notes: tuple[str, ...] = ()  # what differs from the publication, a sentence each

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def people(self) -> int:
        """How many people it shows, distractors not counted."""
        return len({sample.pid for sample in self.samples} - {0})


def read_image(sample: Sample, matlab: h5py.File | None = None) -> Image.Image:
    """The crop of a sample, upright, 8-bit RGB. ``matlab``: its .mat file, where it is open.

    Raises ValueError, naming the file, where it is not there, cannot be decoded or the box lies outside, and
    OSError where the system cannot read it, which says nothing of the image.
    """
    try:
        if sample.cell:
            with h5py.File(sample.file, "r") if matlab is None else nullcontext(matlab) as opened:
                # MATLAB keeps arrays column by column: (3, width, height) here.
                return Image.fromarray(np.ascontiguousarray(np.asarray(opened[sample.cell]).T, np.uint8))
        with opened_image(sample.file) as opened:
            picture = upright_rgb(opened)
        if sample.box is None:
            return picture
        left, top, width, height = sample.box
        right, bottom = min(left + width, picture.width), min(top + height, picture.height)
        left, top = max(left, 0), max(top, 0)
        if left >= right or top >= bottom:
            raise ValueError(f"the box {sample.box} lies outside its {picture.width} x {picture.height} pixels")
        return picture.crop((left, top, right, bottom))
    except Exception as error:  # decoders fail in many ways where bytes are not what the format says
        where = f"{sample.file}{' ' + sample.cell if sample.cell else ''}"
        # What decoders raise of content bears no number of the system's.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ELOOP):
            raise OSError(f"{where} cannot be read ({os.strerror(error.errno)}), whatever it holds: mend that, "
                          "then run again") from error
        # Pillow's own sentence names an object of this process.
        why = "of no format that is known" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{where} cannot be decoded as an image ({why}): replace it") from error


def visible(sentence: str) -> str:
    """A sentence with a file's name in it, which may move the cursor or look like a line of ours."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)
