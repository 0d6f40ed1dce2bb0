"""A packed cache: the images of published sets, decoded once into one memory-mapped file.

A pack is a folder ``<cache>/packed/<sets>-<N>-<H>x<W>-<key>/`` with ``images.npy`` (uint8 (N, 3, H, W)),
``labels.npy`` (int64 (2, N): persons, cameras) and ``pack.json``. The key is a digest of labels, paths below
the set's folder, and the files' sizes and times. A pack gets its name when it is whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from joblib import Parallel, delayed, parallel_config
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.data.folders import resized
from bnta_lib.data.published import Found, Sample, read_image
from bnta_lib.data.sets import ReIDSet
from bnta_lib.files import atomic_folder
from bnta_lib.settings import cache_dir, worker_count

VERSION = 4  # of the layout and of how pixels are made
BLOCK = 256  # images that a process decodes at a time


@dataclass(frozen=True)
class Packed:
    """An open pack of N images. Writing into ``images`` changes memory, never the file."""

    folder: Path
    images: Tensor  # uint8 (N, 3, H, W), RGB, memory-mapped
    pids: Tensor  # int64 (N,), as in the samples: without meaning across sets
    camids: Tensor  # int64 (N,)
    counts: dict[str, int]  # images of each set
    digest: str  # SHA-256 of images.npy as it was written

    def as_set(self, name: str, mixed: bool = False) -> ReIDSet:
        """Its images as one set. ``mixed``: pids 1..M and cameras are distinct over all sets, to train on."""
        pids, camids, counts = self.pids, self.camids, [*self.counts.values()]
        if mixed:
            number = torch.repeat_interleave(torch.tensor(counts))  # of each image's set
            pids = torch.unique(torch.stack((number, pids)), dim=1, return_inverse=True)[1] + 1
            last = [int(part.max()) if len(part) else 0 for part in camids.split(counts)]
            camids = camids + torch.tensor([0, *last]).cumsum(0)[number]
        labels = torch.stack((pids, camids)).numpy().tobytes()
        digest = hashlib.sha256(self.digest.encode() + labels).hexdigest()
        return ReIDSet(name, self.images, pids, camids, digest, "published")

    def verified(self) -> Packed:
        """The pack, after all of it was read. Raises ValueError if it is not as it was written."""
        if _sha256(self.folder / "images.npy") != self.digest:
            raise ValueError(f"{self.folder} is not as it was written: delete it, and it is packed again")
        return self


def pack(found: Found | Sequence[Found], size: tuple[int, int], *, progress: bool = True) -> Packed:
    """The samples of one set, or of several in one file, decoded and resized to ``size`` = (H, W).

    A pack that exists is opened, or else made by ``$BNTA_WORKERS`` processes. Raises ValueError if there is
    no sample, images cannot be decoded (all are named) or it is damaged, OSError if it cannot be written.
    """
    sets = [found] if isinstance(found, Found) else list(found)
    folder = pack_folder(sets, size)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # each packing uses all cores anyway
            if not folder.is_dir():
                _make(folder, sets, size, progress)
    return open_pack(folder)


def open_pack(folder: Path) -> Packed:
    """A finished pack, opened without reading its pixels. Raises ValueError if it is damaged."""
    try:
        record = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))
        pids, camids = torch.from_numpy(np.load(folder / "labels.npy"))
        return Packed(folder, images, pids, camids, **record)
    except Exception as error:  # NumPy parses a header as Python, and what that raises shares no base class
        raise ValueError(f"{folder} is damaged ({error}): delete it, and it is packed again") from error


def pack_folder(sets: Sequence[Found], size: tuple[int, int]) -> Path:
    """Folder of the pack of these sets, which need not exist. Raises ValueError if they have no image."""
    if not (count := sum(map(len, sets))):
        raise ValueError("there is no image to pack")

    @functools.cache  # a .mat file or a photograph holds many
    def stamp(file: Path) -> tuple[int, ...]:
        try:
            at = os.stat(file)
        except OSError:  # decoding it will say why
            return ()
        return at.st_size, at.st_mtime_ns, at.st_ctime_ns

    sha = hashlib.sha256(repr((VERSION, size)).encode())
    for part in sets:
        for sample in part.samples:
            path = os.path.relpath(sample.file, part.folder)
            sha.update(repr((part.name, path, sample.cell, sample.box, sample.pid, sample.camid,
                             stamp(sample.file))).encode())
    names = "+".join(part.name for part in sets)
    return cache_dir() / "packed" / f"{names}-{count}-{size[0]}x{size[1]}-{sha.hexdigest()[:16]}"


def _make(folder: Path, sets: Sequence[Found], size: tuple[int, int], progress: bool) -> None:
    samples = [sample for part in sets for sample in part.samples]
    labels = np.array([[sample.pid for sample in samples], [sample.camid for sample in samples]], np.int64)
    starts = range(0, len(samples), BLOCK)
    with atomic_folder(folder) as new:
        file = new / "images.npy"
        open_memmap(file, "w+", np.uint8, (len(samples), 3, *size))
        if hasattr(os, "posix_fallocate"):  # a full disk would end the process later, without a word
            with open(file, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        jobs = (delayed(_decode)(file, start, samples[start : start + BLOCK], size) for start in starts)
        with parallel_config("loky", inner_max_num_threads=1):
            blocks = Parallel(min(worker_count(), len(starts)), return_as="generator")(jobs)
            bad = sum(tqdm(blocks, folder.name, len(starts), disable=not progress), [])
        if bad:
            words = f"{len(bad)} images cannot be decoded: replace or delete them"
            raise ValueError("\n".join([words, *bad]))
        np.save(new / "labels.npy", labels)
        record = {"counts": {part.name: len(part) for part in sets}, "digest": _sha256(file)}
        (new / "pack.json").write_text(json.dumps(record), encoding="utf-8")


def _decode(file: Path, start: int, samples: Sequence[Sample], size: tuple[int, int]) -> list[str]:
    """Decode a block into its place in the file; a sentence for each image that cannot be decoded."""
    images, bad = open_memmap(file, "r+"), []
    for row, sample in enumerate(samples, start):
        try:
            images[row] = resized(read_image(sample), size)
        except ValueError as error:
            bad.append(str(error))
    return bad


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
