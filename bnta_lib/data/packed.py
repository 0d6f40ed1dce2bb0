"""A packed cache: the images of published sets, decoded once into one memory-mapped file.

A pack is a folder ``<cache>/packed/<set>-<N>-<H>x<W>-<key>/``, which gets its name when it is whole. The key
is a digest of labels, paths below the set's folder, and the files' sizes and times.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from joblib import cpu_count, delayed
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from bnta_lib.data.published import Found
from bnta_lib.data.sets import ReIDSet, Sample, read_image, repeated, resized
from bnta_lib.files import atomic_folder, in_processes
from bnta_lib.settings import cache_dir

VERSION = 5  # of the layout and of how pixels are made
BLOCK = 256  # images that a process decodes at a time


def pack(found: Found, size: tuple[int, int], *, progress: bool = True) -> ReIDSet:
    """The samples of a set, decoded and resized to ``size`` = (H, W).

    A pack that exists is compared with its SHA-256; otherwise it is made, by one process a core. Raises
    ValueError if images cannot be decoded (all are named) or a pack is damaged, OSError if it is not written.
    """
    folder = pack_folder(found, size)
    if not (exists := folder.is_dir()):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # each packing uses all cores anyway
            if not folder.is_dir():
                _make(folder, found, size, progress)
    return open_pack(folder, found.note or found.name, check=exists)


def open_pack(folder: Path, name: str, check: bool) -> ReIDSet:
    """A finished pack; without ``check`` its pixels are not read. Raises ValueError if it is damaged."""
    try:
        if check and file_hash(folder / "images.npy") != (folder / "sha256").read_text():
            raise ValueError("its pixels have changed")
        images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))  # (N, 3, H, W)
        labels = np.load(folder / "labels.npy")  # int64 (2, N): persons, cameras
        digest = hashlib.sha256((folder / "sha256").read_bytes() + labels.tobytes()).hexdigest()
        return ReIDSet(name, images, *torch.from_numpy(labels), digest, "published")
    except Exception as error:  # NumPy parses a header as Python, and what that raises shares no base class
        raise ValueError(f"{folder} is damaged ({error}): delete it, and it is packed again") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_folder(found: Found, size: tuple[int, int]) -> Path:
    """Folder of the pack of a set, which need not exist."""
    sha = hashlib.sha256(repr((VERSION, size)).encode())
    for sample in found.samples:
        at = os.stat(sample.file) if sample.file.exists() else None  # decoding it will say why
        stamp = (at.st_size, at.st_mtime_ns, at.st_ctime_ns) if at else ()
        path = os.path.relpath(sample.file, found.folder)
        sha.update(repr((path, sample.cell, sample.box, sample.pid, sample.camid, stamp)).encode())
    key = f"{len(found)}-{size[0]}x{size[1]}-{sha.hexdigest()[:16]}"
    return cache_dir() / "packed" / f"{found.name}-{key}"


def _make(folder: Path, found: Found, size: tuple[int, int], progress: bool) -> None:
    samples, starts = found.samples, range(0, len(found), BLOCK)
    with atomic_folder(folder) as new:
        file = new / "images.npy"
        open_memmap(file, "w+", np.uint8, (len(samples), 3, *size))
        if hasattr(os, "posix_fallocate"):  # a full disk would end the process later, without a word
            with open(file, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        jobs = (delayed(_decode)(file, start, samples[start : start + BLOCK], size) for start in starts)
        with in_processes(jobs, min(cpu_count(), len(starts))) as blocks:
            blocks = [*tqdm(blocks, folder.name, len(starts), disable=not progress)]
        bad = [sentence for block in blocks for sentence in block[0]]
        if bad:
            raise ValueError("\n".join([f"{len(bad)} images cannot be decoded: mend or delete them", *bad]))
        if sentence := repeated(samples, [key for block in blocks for key in block[1]]):
            warnings.warn(f"{found.name}: {sentence}", stacklevel=4)
        np.save(new / "labels.npy", np.array([(sample.pid, sample.camid) for sample in samples], np.int64).T)
        (new / "sha256").write_text(file_hash(file))


def _decode(file: Path, start: int, samples: Sequence[Sample],
            size: tuple[int, int]) -> tuple[list[str], list[bytes]]:
    """Decode a block into its place in the file; a sentence for each bad image, and the keys of all."""
    images, bad = open_memmap(file, "r+"), []
    for row, sample in enumerate(samples, start):
        try:
            images[row] = resized(read_image(sample), size)
        except ValueError as error:
            bad.append(str(error))
    return bad, [hashlib.sha1(images[row].tobytes()).digest() for row in range(start, start + len(samples))]
