"""A packed cache: the images of published sets, decoded once into one memory-mapped uint8 file.

A pack is a folder ``<cache>/packed/<sets>-<N>-<H>x<W>-<key>/`` with

* ``images.npy``  uint8 (N, 3, H, W), as `numpy.load` maps it; 12 GB for the paper's mixture;
* ``labels.npy``  int64 (N, 3): person, camera, CRC-32 of the image's pixels;
* ``pack.json``   what it holds, and the digest that tells whether all of it is as it was written;
* ``journal``     which blocks were finished, by which an interrupted or damaged pack goes on.

The key is a digest of `VERSION`, the size, and of each sample its set, path (below the set's
folder), cell, box, part, person and camera, and its file's bytes and time of change. So a file that
is replaced or touched, a label, an order or a rule that changes makes another pack; a set that is
moved as a whole, with its times, does not. Old packs are left: delete their folders.

A pack is made in ``<...>.part/`` and renamed when it is whole. Blocks of `BLOCK` images are written,
flushed to the disk, and only then entered in the journal, so that a process that is killed loses
seconds: the same call goes on. A block is taken from the journal where its files are as they were
and its pixels have the checksums that it names.
"""

from __future__ import annotations

import argparse
import errno
import functools
import hashlib
import io
import json
import mmap
import os
import shlex
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap, write_array_header_1_0
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from bnta_lib.data.integrity import shared
from bnta_lib.data.records import Found, Sample, read_image, visible
from bnta_lib.data.sets import ReIDSet
from bnta_lib.files import a_path, atomic
from bnta_lib.settings import PAPER_SOURCES, PROFILES, cache_dir, settings as load_settings, worker_count
from bnta_lib.workers import side_by_side

VERSION = 2  # of the layout and of how pixels are made
BLOCK = 256  # images that are journalled together
SMALL = 2_000  # images below which starting processes takes longer than it saves
FLUSH_SECONDS = 1.0  # between two flushes: what a killed process loses at most
# A private mapping may be written to without touching the file, but must not count as memory
# in use: a pack may be larger than the memory. Python names the flag from 3.13 on.
_PRIVATE = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
# Formats that keep an orientation nowhere but under these names, as `ImageOps.exif_transpose` looks.
_FORMATS = ("JPEG", "PNG", "BMP")
_ORIENTED = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}

Job = tuple[str, str, "tuple[int, int, int, int] | None", int, int]  # file, cell, box, bytes, mtime_ns


@dataclass(frozen=True)
class Packed:
    """An open pack of N images. Writing into ``images`` changes memory, never the file."""

    folder: Path
    images: Tensor  # uint8 (N, 3, H, W), RGB, memory-mapped
    pids: Tensor  # int64 (N,), as in the samples: without meaning across sets
    camids: Tensor  # int64 (N,)
    checks: Tensor  # int64 (N,), CRC-32 of each image
    spans: dict[str, range]  # the rows of each set
    unreadable: tuple[str, ...] = ()  # images that were left out, a sentence each

    def __len__(self) -> int:
        return len(self.images)

    def as_set(self, name: str = "") -> ReIDSet:
        """One of its sets (may be left out where it holds one), sharing the mapped images."""
        if not name and len(self.spans) > 1:
            raise ValueError(f"name one of the sets in this pack: {', '.join(self.spans)}")
        if name and name not in self.spans:
            raise ValueError(f"this pack has no {name!r}: it has {', '.join(self.spans)}")
        name = name or next(iter(self.spans))
        rows = slice(self.spans[name].start, self.spans[name].stop)
        return self._set(name, rows, self.pids[rows], self.camids[rows])

    def mixed(self, name: str) -> ReIDSet:
        """All its sets as one for training: pids 1..M distinct over all, cameras too; no copy.

        Raises ValueError where a set has distractors (person 0), who have no identity to learn.
        """
        pids, camids = torch.empty_like(self.pids), torch.empty_like(self.camids)
        person = camera = 0
        for own, rows in self.spans.items():
            rows = slice(rows.start, rows.stop)
            if not len(self.pids[rows]):
                continue
            if int(self.pids[rows].min()) < 1:
                raise ValueError(f"{own} has distractors (person 0): leave them out to train")
            pids[rows] = torch.unique(self.pids[rows], return_inverse=True)[1] + 1 + person
            camids[rows] = self.camids[rows] + camera
            person, camera = int(pids[rows].max()), int(camids[rows].max())
        return self._set(name, slice(None), pids, camids)

    def _set(self, name: str, rows: slice, pids: Tensor, camids: Tensor) -> ReIDSet:
        """Its digest is that of shape, labels and the images' checksums: nothing is read."""
        images = self.images[rows]
        sha = hashlib.sha256(repr(("packed", VERSION, tuple(images.shape))).encode())
        for tensor in (self.checks[rows], pids, camids):
            sha.update(tensor.contiguous().numpy())
        return ReIDSet(name, images, pids, camids, sha.hexdigest(), "published")

    def damaged(self, progress: bool = False) -> list[int]:
        """Rows whose pixels are not those that were written; reads the whole pack."""
        rows = tqdm(self.images.numpy(), disable=not progress, unit="image", desc="verifying")
        return [row for row, image in enumerate(rows) if zlib.crc32(image) != int(self.checks[row])]


def packed(
    found: Found | Sequence[Found] | Sequence[Sample],
    size: tuple[int, int],
    *,
    workers: int | None = None,
    progress: bool = True,
    skip_unreadable: bool | None = False,
) -> Packed:
    """The samples of one set, or of several in one file, decoded and resized to ``size`` = (H, W).

    Pixels are those of `records.read_image`, resized by Pillow's bilinear filter. A pack that is
    there is opened; else it is made by ``workers`` processes (default: ``$BNTA_WORKERS``, or one a
    core). Images that cannot be decoded are all named in one ValueError when the others are
    packed; ``skip_unreadable`` leaves them out instead, and names them in the result; None takes a
    pack that was made so, and makes none.

    Raises ValueError for no sample or a file that changed meanwhile, and OSError where the pack
    cannot be kept or the system cannot read a file (no permission, a failing disk): that is no
    unreadable image, and none is left out for it.
    """
    sets = _sets(found)
    folder, part, rows, blocks = _identity(sets, size)
    there = _opened(folder)
    if there is None:
        with _locked(folder.parent, progress):
            there = _opened(folder)  # another process may have made it meanwhile
            if there is None:
                damaged = folder.is_dir()
                if damaged:  # go on from what is whole of it
                    shutil.rmtree(part, ignore_errors=True)
                    os.replace(folder, part)
                _make(folder, part, sets, rows, blocks, size, workers, progress, skip_unreadable)
                there = open_pack(folder)
    if there.unreadable and skip_unreadable is False:
        raise ValueError(_unreadable(there.unreadable))
    return there


def pack_at_hand(found: Found | Sequence[Found], size: tuple[int, int]) -> Packed | None:
    """The pack that :func:`packed` would open, or None where it would have to make one."""
    return _opened(_identity(_sets(found), size)[0])


def open_pack(folder: str | Path) -> Packed:
    """A finished pack, in milliseconds: its sizes and digests of labels are checked, no pixel.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    folder = Path(folder)
    if not (folder / "pack.json").is_file():
        raise FileNotFoundError(f"no finished pack at {folder}")
    try:
        text = (folder / "pack.json").read_text(encoding="utf-8")
        held = json.loads(text)
        labels = np.array(open_memmap(folder / "labels.npy", "r"))
        images = open_memmap(folder / "images.npy", "r")
        whole = (held["version"] == VERSION and held["digest"] == _digest(held, labels)
                 and images.dtype == np.uint8 and list(images.shape) == held["shape"]
                 and labels.shape == (len(images), 3))
    except Exception as error:  # NumPy parses a header as Python, and what that raises shares no base class
        raise ValueError(f"the pack {folder} is damaged ({error})") from error
    if not whole:
        raise ValueError(f"the pack {folder} is damaged: its parts do not fit each other")
    with open(folder / "images.npy", "rb") as file:
        view = mmap.mmap(file.fileno(), 0, flags=_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    pixels = torch.frombuffer(view, dtype=torch.uint8, count=images.size, offset=images.offset)
    pids, camids, checks = torch.from_numpy(labels).T.contiguous()
    spans = {name: range(start, stop) for name, start, stop in held["sets"]}
    return Packed(folder, pixels.view(images.shape), pids, camids, checks, spans,
                  tuple(held["unreadable"]))


def _opened(folder: Path) -> Packed | None:
    """The pack, or None where it has to be made; a damaged one is named in a warning."""
    try:
        return open_pack(folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{error}: what is damaged of it is packed again", stacklevel=3)
        return None


# ---------------------------------------------------------------- what a pack is of


def _sets(found: Found | Sequence[Found] | Sequence[Sample]) -> list[tuple[str, Path, Sequence[Sample]]]:
    """Name, folder and samples of each set."""
    found = [found] if isinstance(found, Found) else list(found)
    if found and isinstance(found[0], Sample):
        folder = os.path.commonpath([sample.file.parent for sample in found])
        return [("images", Path(folder), found)]
    names = [own.name for own in found]
    if len(set(names)) < len(names):
        raise ValueError(f"a set is there twice: {', '.join(names)}")
    return [(own.name, own.folder, own.samples) for own in found]


def _identity(sets, size: tuple[int, int]) -> tuple[Path, Path, list[Job], list[str]]:
    """Folder of the finished pack and of the unfinished one, a job a row, and a key a block.

    The unfinished one is named after the places of the images alone: where a file was replaced,
    the blocks of the others remain.
    """
    jobs, places, files, labels = [], [], [], []
    known: dict[str, tuple[int, int, int]] = {}  # a .mat file or photograph holds many images
    for name, folder, samples in sets:
        above = f"{folder}{os.sep}"
        for sample in samples:
            path = str(sample.file)
            if path not in known:
                known[path] = _stamp(path)
            jobs.append((path, sample.cell, sample.box, *known[path]))
            places.append(repr((name, path.removeprefix(above), sample.cell, sample.box)))
            files.append(repr(known[path]))
            labels.append(repr((sample.part, sample.pid, sample.camid)))
    if not jobs:
        raise ValueError("there is no image to pack")
    about = repr((VERSION, *size))
    blocks = [_sha([about, *places[k : k + BLOCK], *files[k : k + BLOCK]])
              for k in range(0, len(jobs), BLOCK)]
    stem = f"{'+'.join(name for name, _, _ in sets)}-{len(jobs)}-{size[0]}x{size[1]}"
    home = cache_dir() / "packed"
    return (home / f"{stem}-{_sha([about, *places, *files, *labels])}",
            home / f"{stem}-{_sha([about, *places])}.part", jobs, blocks)


def _stamp(path: str) -> tuple[int, int, int]:
    """Bytes of a file, time of its last change, and of that of its name: files that trade names may have
    all but the last in common. (-1, -1, -1) where it cannot be reached."""
    try:
        about = os.stat(path)
    except OSError:  # decoding it will say why
        return -1, -1, -1
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _sha(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _digest(held: dict, labels: np.ndarray) -> str:
    about = json.dumps({k: v for k, v in held.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(about.encode() + labels.tobytes()).hexdigest()


# ---------------------------------------------------------------- making one


def _make(folder, part, sets, rows, blocks, size, workers, progress, skip_unreadable) -> None:
    shape = (len(rows), 3, *size)
    images = part / "images.npy"
    with _friendly_os_errors(part):
        checks = _resumed(part, shape, blocks)
        todo = [k for k, own in enumerate(checks) if own is None]
        bad, changed = [], []
        bar = tqdm(total=len(rows), disable=not progress, unit="image", desc=folder.name.rsplit("-", 1)[0],
                   initial=len(rows) - sum(len(rows[k * BLOCK : (k + 1) * BLOCK]) for k in todo))
        with bar, open(images, "rb") as data, open(part / "journal", "a", encoding="ascii") as journal:

            def enter(finished: list[int]) -> None:
                os.fsync(data.fileno())  # first the pixels, then the word that they are there
                journal.writelines(_line(blocks[k], checks[k]) for k in finished)
                journal.flush()
                os.fsync(journal.fileno())

            waiting, flushed, flush = [], time.monotonic(), None
            with ThreadPoolExecutor(1, "flush") as thread:  # the disk works while the cores do
                try:
                    for k, own, own_bad, own_changed in _decoded(images, rows, todo, size, workers):
                        checks[k] = own
                        bad += own_bad
                        changed += own_changed
                        if not own_bad and not own_changed:
                            waiting.append(k)
                        bar.update(len(own))
                        if time.monotonic() - flushed >= FLUSH_SECONDS and (flush is None or flush.done()):
                            if flush is not None:
                                flush.result()  # raises what went wrong with the disk
                            flush, waiting, flushed = thread.submit(enter, waiting), [], time.monotonic()
                finally:
                    thread.submit(enter, waiting).result()
        if changed:
            raise ValueError(f"{len(changed)} files changed while they were packed, for one {changed[0]}: "
                             "run again when nothing writes to them; the others are kept")
        bad.sort()
        if bad and not skip_unreadable:
            raise ValueError(_unreadable([why for _, why in bad]))
        _finish(folder, part, sets, np.concatenate(checks), bad, shape)


def _unreadable(why: Sequence[str]) -> str:
    return "\n".join([f"{len(why)} of the images cannot be read; the others are packed and kept. Replace "
                      "them and run again, or leave them out (--skip-unreadable):", *why])


def _resumed(part: Path, shape: tuple[int, ...], blocks: list[str]) -> list[np.ndarray | None]:
    """Makes the unfinished pack's files, or takes up what is there: checksums of finished blocks."""
    images, journal = part / "images.npy", part / "journal"
    part.mkdir(parents=True, exist_ok=True)
    for name in ("pack.json", "labels.npy"):
        (part / name).unlink(missing_ok=True)
    checks: list[np.ndarray | None] = [None] * len(blocks)
    there = None
    with suppress(Exception):  # of a damaged header, see open_pack
        there = open_memmap(images, "r")
    usable = there is not None and there.shape == shape and there.dtype == np.uint8
    if not usable:
        journal.unlink(missing_ok=True)
        images.unlink(missing_ok=True)
    _check_space(part, images, int(np.prod(shape)))
    if not usable:
        there = open_memmap(images, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # so that the space stays ours, and writing takes fewer steps
        with open(images, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    kept = []
    for line in journal.read_bytes().split(b"\n") if journal.is_file() else []:
        key, own = _parsed(line)
        if key not in blocks:
            continue
        k = blocks.index(key)
        block = there[k * BLOCK : (k + 1) * BLOCK]
        if len(own) == len(block) and all(zlib.crc32(a) == b for a, b in zip(block, own)):
            if checks[k] is None:
                kept.append(_line(key, own))
            checks[k] = own
    with atomic(journal) as temporary:  # without a line that was cut short: others will follow it
        temporary.write_text("".join(kept), encoding="ascii")
    return checks


def _line(key: str, checks: np.ndarray) -> str:
    """A finished block in the journal: its key, the CRC-32 of its images, and a check of the line."""
    text = f"{key} {np.asarray(checks, '>u4').tobytes().hex()}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n"


def _parsed(line: bytes) -> tuple[str, np.ndarray]:
    """Key and checksums of a line; no key where it was cut short or edited."""
    text, _, check = line.rpartition(b" ")
    with suppress(ValueError):
        if int(check, 16) == zlib.crc32(text):
            key, _, checks = text.decode("ascii").partition(" ")
            return key, np.frombuffer(bytes.fromhex(checks), ">u4").astype(np.int64)
    return "", np.empty(0, np.int64)


def _check_space(part: Path, images: Path, needed: int) -> None:
    there = images.stat().st_blocks * 512 if images.is_file() else 0
    free = shutil.disk_usage(part).free
    if needed - there > free:
        raise OSError(errno.ENOSPC, f"the pack needs {needed / 1e9:.2f} GB, of which {there / 1e9:.2f} GB "
                      f"are there, and {part.parent} has {free / 1e9:.2f} GB left: free some space or set "
                      "BNTA_CACHE to a folder on another disk, then run again")


def _finish(folder: Path, part: Path, sets, checks: np.ndarray, bad, shape) -> None:
    """Labels and header beside the images, unreadable ones left out; then the folder gets its name."""
    labels = np.array([(s.pid, s.camid) for _, _, samples in sets for s in samples], np.int64)
    labels = np.column_stack([labels, checks])
    keep = np.ones(len(labels), bool)
    keep[[row for row, _ in bad]] = False
    if not keep.any():
        raise ValueError(_unreadable([why for _, why in bad]))
    if bad:
        _close_up(part, keep, shape)
    ends = np.cumsum([0, *(len(samples) for _, _, samples in sets)])
    before = np.concatenate([[0], np.cumsum(keep)])[ends].tolist()
    held = {"version": VERSION, "shape": [int(keep.sum()), *shape[1:]],
            "sets": [[name, a, b] for (name, _, _), a, b in zip(sets, before, before[1:])],
            "unreadable": [why for _, why in bad]}
    labels = labels[keep]
    with atomic(part / "labels.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, labels)
    with atomic(part / "pack.json") as temporary:
        whole = json.dumps({**held, "digest": _digest(held, labels)}, indent=1)
        temporary.write_text(whole, encoding="utf-8")
    os.replace(part, folder)


def _close_up(part: Path, keep: np.ndarray, shape: tuple[int, ...]) -> None:
    """Moves the rows to keep together, in place. The journal does not describe them any more."""
    (part / "journal").unlink()
    images = open_memmap(part / "images.npy", "r+")
    rows, offset = np.flatnonzero(keep), images.offset
    for k in range(0, len(rows), BLOCK):
        images[k : k + len(rows[k : k + BLOCK])] = images[rows[k : k + BLOCK]]
    images.flush()
    del images
    with open(part / "images.npy", "r+b") as file:
        write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape[1:])})
        if file.tell() != offset:
            raise ValueError(f"{part / 'images.npy'} has a header of another length: delete {part}")
        file.truncate(offset + len(rows) * int(np.prod(shape[1:])))
        os.fsync(file.fileno())


@contextmanager
def _locked(home: Path, progress: bool) -> Iterator[None]:
    """One process at a time makes packs in this cache: each uses all cores anyway."""
    with _friendly_os_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / ".lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            if progress:
                tqdm.write("another process is packing into the same cache: waiting for it", file=sys.stderr)
            held = lock.acquire()
    with held:
        yield


@contextmanager
def _friendly_os_errors(folder: Path) -> Iterator[None]:
    """Says of the system's errors what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and "BNTA_CACHE" not in str(error):
            raise OSError(error.errno, f"the disk is full: could not go on with {folder}; free some space "
                          "and run again, which goes on where it stopped, or set BNTA_CACHE to a folder on "
                          "another disk") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and "BNTA_CACHE" not in str(error):
            raise OSError(error.errno, f"no permission to write below {folder}: set BNTA_CACHE to a folder "
                          "that you may write to") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) and "BNTA_CACHE" not in str(error):
            raise OSError(error.errno, f"the folder {folder} cannot be made ({error.strerror}): set BNTA_CACHE "
                          "to a folder that you may write to") from error
        raise


# ---------------------------------------------------------------- decoding


def _decoded(images: Path, rows: list[Job], todo: list[int], size, workers: int | None) -> Iterator[tuple]:
    """Decodes the blocks ``todo`` into the file: number, checksums, unreadable, changed of each."""
    workers = worker_count() if workers is None else workers
    jobs = ((images, k, k * BLOCK, rows[k * BLOCK : (k + 1) * BLOCK], size) for k in todo)
    if workers < 2 or len(todo) * BLOCK < SMALL:
        for job in jobs:
            yield _decode_block(*job)
        return
    yield from side_by_side(_decode_block, jobs, min(workers, len(todo)), in_order=False)


def _decode_block(images: Path, block: int, first: int, rows: list[Job], size: tuple[int, int]) -> tuple:
    """Writes a block in its place; see :func:`_decoded`. Unreadable rows are left as they are."""
    height, width = size
    checks, bad, changed = [0] * len(rows), [], []
    start = open_memmap(images, "r").offset + first * 3 * height * width
    with ExitStack() as opened, open(images, "r+b", buffering=0) as file:
        matlab: dict[str, h5py.File] = {}
        for i, (path, cell, box, *stamp) in enumerate(rows):
            if cell and path not in matlab:
                with suppress(OSError):  # reading the image will say why
                    matlab[path] = opened.enter_context(h5py.File(path, "r"))
            try:
                picture = _plain(path) if not cell and box is None else None
                if picture is None:
                    picture = read_image(Sample(Path(path), 1, 1, box=box, cell=cell), matlab.get(path))
            except ValueError as error:
                bad.append((first + i, str(error)))
                continue
            planes = _planes(picture, size)
            for plane in planes:
                checks[i] = zlib.crc32(plane, checks[i])
            _write(file, planes, start + i * 3 * height * width)
            if list(_stamp(path)) != stamp:
                changed.append(path)
    return block, np.array(checks, np.int64), bad, changed


def _planes(picture: Image.Image, size: tuple[int, int]) -> list[bytes | np.ndarray]:
    """Buffers that together hold uint8 (3, H, W): an RGB picture after Pillow's bilinear filter.

    Where both sides grow to a power of two, every weight of the filter is a fraction that integers
    hold exactly. Then torch gives the same pixels, in a third of the time.
    """
    height, width = size
    grows = picture.height <= height and picture.width <= width
    if grows and not height & (height - 1) and not width & (width - 1) and _torch_agrees():
        return [_by_torch(picture, size)]
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    # Pillow takes a plane out faster than an array is transposed.
    return [picture.tobytes("raw", band) for band in "RGB"]


def _by_torch(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    # The batch axis comes first: torch knows channels-last, its faster way, by the strides.
    pixels = torch.from_numpy(np.array(picture)[None]).permute(0, 3, 1, 2)
    return np.ascontiguousarray(interpolate(pixels, size, mode="bilinear", antialias=True)[0].numpy())


@functools.cache
def _torch_agrees() -> bool:
    """Whether this build of torch on this processor does give Pillow's pixels; asked once."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (101, 37, 3), np.uint8))
    by_pillow = np.asarray(noise.resize((64, 128), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return np.array_equal(_by_torch(noise, (128, 64)), by_pillow)


def _write(file: io.FileIO, planes: list, place: int) -> None:
    """Writes buffers one after the other at a place of the file."""
    written = os.pwritev(file.fileno(), planes, place)
    rest = b"".join(planes)[written:] if written < sum(memoryview(plane).nbytes for plane in planes) else b""
    while rest:  # the system may take less than it is given
        taken = os.pwrite(file.fileno(), rest, place + written)
        written, rest = written + taken, rest[taken:]


def _plain(path: str) -> Image.Image | None:
    """What `read_image` gives of an ordinary file, in half of the steps; None for all other files."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        picture.load()
    except Exception:
        return None  # read_image says what is wrong
    plain = picture.mode == "RGB" and not picture.has_transparency_data and not _ORIENTED & picture.info.keys()
    return picture if plain else None


# ---------------------------------------------------------------- the command


def add_parser(sub) -> None:
    """Adds ``pack`` to the commands of ``python -m bnta_lib.data``."""
    parser = sub.add_parser("pack", help="decode the sets below a folder once, for fast training",
                            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=a_path, metavar="ROOT", help="the folder below which the sets lie")
    parser.add_argument("--profile", choices=list(PROFILES),
                        help="whose image size (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--set", nargs="+", metavar="NAME", dest="wanted", help="these sets alone")
    parser.add_argument("--workers", type=int, help="processes (default: $BNTA_WORKERS, or one a core)")
    parser.add_argument("--skip-unreadable", action="store_true",
                        help="leave out images that cannot be decoded")
    parser.add_argument("--verify", action="store_true",
                        help="read the packs again and repair what is damaged")
    parser.set_defaults(run=main_pack)


def main_pack(args: argparse.Namespace) -> int:
    """Packs the sources that are found as one mixture, and every other set by itself."""
    from bnta_lib.data.layouts import find_sets
    from bnta_lib.data.mixture import mixture
    from bnta_lib.data.splits import official_splits

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is a number of processes, at least 1; got {args.workers}")
    size = load_settings(args.profile).size
    found = find_sets(args.root, args.wanted)
    if not found:
        raise ValueError(f"{args.root} holds none of the sets: see `python -m bnta_lib.data check "
                         f"{shlex.quote(str(args.root))}`")
    alone = [[own] for name, own in found.items() if name not in PAPER_SOURCES]
    mixed = [mixture(found).sets] if len(alone) < len(found) else []
    trained: Packed | None = None
    for own in [*mixed, *alone]:
        options = {"workers": args.workers, "skip_unreadable": args.skip_unreadable}
        pack = packed(own, size, **options)
        if args.verify and (rows := pack.damaged(progress=True)):
            print(f"{len(rows)} images of {pack.folder} are not as they were written, for one "
                  f"number {rows[0]}: packed again")
            (pack.folder / "pack.json").unlink()  # what its journal still vouches for is kept
            pack = packed(own, size, **options)
        print(f"{', '.join(f'{name} {len(rows)}' for name, rows in pack.spans.items())}: "
              f"{len(pack)} images in {pack.folder}")
        for why in pack.unreadable:
            print(f"  left out: {visible(why)}")
        if mixed and own is mixed[0]:
            trained = pack
        elif trained is not None and (same := shared(trained.images, pack.images, trained.checks)):
            print(f"  WARNING: {same} of its images are also among those trained on: its scores would not be "
                  "those of an unseen place")
    if "GRID" in found:
        try:
            official_splits(found["GRID"])
        except (OSError, ValueError) as error:  # the images are packed all the same
            print(f"GRID cannot be a target yet: {error}")
    return 0
