"""A packed cache: the images of published sets, decoded once into one memory-mapped file.

A pack is a folder ``<cache>/packed/<sets>-<N>-<H>x<W>-<key>/`` with ``images.npy`` (uint8 (N, 3, H, W)),
``labels.npy`` (int64 (2, N): persons, cameras) and ``pack.json``. The key is a digest of labels, paths below
the set's folder, and the files' sizes and times. A pack gets its name when it is whole.
"""

from __future__ import annotations

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

VERSION = 3  # of the layout and of how pixels are made
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
    unreadable: list[str]  # images that were left out, a sentence each

    def as_set(self, name: str, mixed: bool = False) -> ReIDSet:
        """Its images as one set. ``mixed``: pids 1..M and cameras are distinct over all sets, for training.

        Raises ValueError if a set to mix has distractors (person 0), who have no identity to learn.
        """
        pids, camids = self.pids, self.camids
        if mixed:
            if (pids < 1).any():
                raise ValueError(f"{name} has distractors (person 0): leave them out to train")
            number = torch.repeat_interleave(torch.tensor([*self.counts.values()]))  # of each image's set
            pids = torch.unique(torch.stack((number, pids)), dim=1, return_inverse=True)[1] + 1
            last = [int(own.max()) if len(own) else 0 for own in camids.split([*self.counts.values()])]
            camids = camids + torch.tensor([0, *last]).cumsum(0)[number]
        labels = torch.stack((pids, camids)).numpy().tobytes()
        digest = hashlib.sha256(self.digest.encode() + labels).hexdigest()
        return ReIDSet(name, self.images, pids, camids, digest, "published")

    def verified(self) -> Packed:
        """The pack, after all of it was read. Raises ValueError if it is not as it was written."""
        if _sha256(self.folder / "images.npy") != self.digest:
            raise ValueError(f"{self.folder} is not as it was written: delete it, and it is packed again")
        return self


def pack(found: Found | Sequence[Found], size: tuple[int, int], *, progress: bool = True,
           skip_unreadable: bool = False) -> Packed:
    """The samples of one set, or of several in one file, decoded and resized to ``size`` = (H, W).

    A pack that exists is opened, or else made by ``$BNTA_WORKERS`` processes. ``skip_unreadable`` leaves out
    images that cannot be decoded, and names them in the result.

    Raises:
        ValueError: there is no sample, or images cannot be decoded (all are named), or the pack is damaged.
        OSError: the pack cannot be written, or the system cannot read a file.
    """
    sets = [found] if isinstance(found, Found) else list(found)
    folder = pack_folder(sets, size)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # each packing uses all cores anyway
            if not folder.is_dir():
                _make(folder, sets, size, progress, skip_unreadable)
    return open_pack(folder)


def open_pack(folder: Path) -> Packed:
    """A finished pack, opened without reading its pixels. Raises ValueError if it is damaged."""
    try:
        about = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))
        pids, camids = torch.from_numpy(np.load(folder / "labels.npy"))
        return Packed(folder, images, pids, camids, about["counts"], about["digest"], about["unreadable"])
    except Exception as error:  # NumPy parses a header as Python, and what that raises shares no base class
        raise ValueError(f"{folder} is damaged ({error}): delete it, and it is packed again") from error


def pack_folder(sets: Sequence[Found], size: tuple[int, int]) -> Path:
    """Folder of the pack of these sets, which need not exist. Raises ValueError if they have no image."""
    if not (count := sum(map(len, sets))):
        raise ValueError("there is no image to pack")
    sha, stamps = hashlib.sha256(repr((VERSION, size)).encode()), {}
    for own in sets:
        for sample in own.samples:
            if sample.file not in stamps:  # a .mat file or a photograph holds many
                stamps[sample.file] = _stamp(sample.file)
            path = os.path.relpath(sample.file, own.folder)
            about = (own.name, path, sample.cell, sample.box, sample.pid, sample.camid, stamps[sample.file])
            sha.update(repr(about).encode())
    names = "+".join(own.name for own in sets)
    return cache_dir() / "packed" / f"{names}-{count}-{size[0]}x{size[1]}-{sha.hexdigest()[:16]}"


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        at = os.stat(file)
    except OSError:  # decoding it will say why
        return ()
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns


def _make(folder: Path, sets: Sequence[Found], size: tuple[int, int], progress: bool, skip: bool) -> None:
    samples = [sample for own in sets for sample in own.samples]
    labels = np.array([(sample.pid, sample.camid) for sample in samples], np.int64)
    starts = range(0, len(samples), BLOCK)
    with atomic_folder(folder) as part:
        file = part / "images.npy"
        images = open_memmap(file, "w+", np.uint8, (len(samples), 3, *size))
        if hasattr(os, "posix_fallocate"):  # a full disk would end the process later, without a word
            with open(file, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        jobs = (delayed(_decode)(file, start, samples[start : start + BLOCK], size) for start in starts)
        with parallel_config("loky", inner_max_num_threads=1):
            blocks = Parallel(min(worker_count(), len(starts)), return_as="generator")(jobs)
            blocks = tqdm(blocks, folder.name, len(starts), disable=not progress)
            bad = dict(row for block in blocks for row in block)
        if len(bad) > (len(samples) - 1) * skip:
            words = f"{len(bad)} images cannot be decoded: replace them or pack with --skip-unreadable"
            raise ValueError("\n".join([words, *bad.values()]))
        keep = np.setdiff1d(np.arange(len(samples)), list(bad))
        if bad:
            kept = open_memmap(part / "kept.npy", "w+", np.uint8, (len(keep), 3, *size))
            for start in range(0, len(keep), BLOCK):
                kept[start : start + BLOCK] = images[keep[start : start + BLOCK]]
            os.replace(part / "kept.npy", file)
        np.save(part / "labels.npy", np.ascontiguousarray(labels[keep].T))
        ends = np.searchsorted(keep, np.cumsum([0, *map(len, sets)])).tolist()
        counts = {own.name: b - a for own, a, b in zip(sets, ends, ends[1:])}
        about = {"counts": counts, "digest": _sha256(file), "unreadable": list(bad.values())}
        (part / "pack.json").write_text(json.dumps(about), encoding="utf-8")


def _decode(file: Path, start: int, samples: Sequence[Sample], size: tuple[int, int]) -> list:
    """Decode a block into its place in the file; (row, sentence) of each image that cannot be decoded."""
    images, bad = open_memmap(file, "r+"), []
    for row, sample in enumerate(samples, start):
        try:
            images[row] = resized(read_image(sample), size)
        except ValueError as error:
            bad.append((row, str(error)))
    return bad


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
