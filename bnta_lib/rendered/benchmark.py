"""The embedded benchmark: five rendered sources and three targets with Table 1's counts.

A set is determined by its name, its counts and `scene.VERSION`: the same pixels on every machine.
It does not depend on the seed of an experiment. Rendered sets are kept in `settings.cache_dir`.

People never recur: a number of a person belongs to one domain, and within a source the held-out
people have numbers of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from bnta_lib.rendered import bank, render, scene
from bnta_lib.rendered.domains import DOMAINS, Domain
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.files import atomic
from bnta_lib.settings import ROOT, cache_dir, worker_count
from bnta_lib.workers import side_by_side

VERSION = scene.VERSION
HELD_OUT = 1 << 20  # numbers of held-out people start here
DISTRACTORS = 1 << 21  # and those of distractors here
SOURCES = ("CUHK02", "CUHK03", "Market-1501", "DukeMTMC-reID", "CUHK-SYSU")
TARGETS = ("VIPeR", "GRID", "iLIDS")
PAIRS_OF_VIPER, PAIRS_OF_GRID, DISTRACTORS_OF_GRID = 632, 250, 775
PEOPLE_OF_ILIDS, IMAGES_OF_ILIDS = 119, 476
SLOW = 1500  # images from which a progress bar is worth showing
MANY = 2000  # and from which processes save more than it takes to start them
BLOCK = 256  # images that a process is asked for at once
MOST = 16  # processes where nobody asks for more: each holds all bodies, 0.9 GB

Plan = tuple[np.ndarray, np.ndarray, np.ndarray]  # person number, camera from 0, shot; (N,) each


# ---------------------------------------------------------------- sources


def source(name: str, people: int, images: int, size: tuple[int, int], *, device: str = "cpu",
           photometric: bool = True, progress: bool = False) -> ReIDSet:  # fmt: skip
    """A labelled source of so many people and images; pids are 1..people.

    Raises ValueError for an unknown name or fewer images than people.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: the sources are {', '.join(SOURCES)}")
    if not 1 <= people <= images:
        raise ValueError(f"{name}: cannot show {people} people in {images} images")
    plan = _source_plan(DOMAINS[name], 1, people, images)
    return _rendered(name, plan, plan[0], size, device, photometric, progress)


def heldout(name: str, people: int, size: tuple[int, int], *, splits: int = 10, device: str = "cpu",
            photometric: bool = True, progress: bool = False) -> Target:  # fmt: skip
    """People of a source that training never sees, four images each, as a target.

    The probe is one image of a camera, the gallery one image of another, for every person.
    Raises ValueError for an unknown name.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: the sources are {', '.join(SOURCES)}")
    plan = _source_plan(DOMAINS[name], HELD_OUT, people, 4 * people)
    data = _rendered(f"{name} held out", plan, plan[0] - HELD_OUT + 1, size, device, photometric,
                     progress)
    return Target(data, _splits(data, "heldout", splits, people))


def _source_plan(domain: Domain, first: int, people: int, images: int) -> Plan:
    """Spread images over people and cameras: at least two each where the count allows.

    A person is seen by as many of the domain's cameras as its images allow, two images or more a
    camera; cameras that are paired (`domain.paired`) see their own people.
    """
    ids = np.arange(first, first + people)
    rng = np.random.Generator(np.random.Philox(key=(VERSION << 72) | (domain.code << 64) | first))
    least = 2 if images >= 2 * people else 1
    even = images == 4 * people  # as in CUHK02: four images of everyone
    share = np.ones(people) if even else rng.uniform(0.5, 1.5, people)
    wanted = least + share / np.cumsum(share)[-1] * (images - least * people)
    count = np.floor(wanted).astype(int)
    rest = np.argsort(count - wanted, kind="stable")[: images - int(count.sum())]
    count[rest] += 1
    numbers = np.concatenate([np.arange(k) for k in count])
    cams = []
    for k in count.tolist():
        if domain.paired:
            pair = int(rng.integers(domain.cameras // 2))
            seen = np.array([2 * pair, 2 * pair + 1])
        else:
            seen = rng.permutation(domain.cameras)[: max(2, k // 2)]
        cams.append(seen[np.arange(k) % len(seen)])
    return np.repeat(ids, count), np.concatenate(cams), numbers


# ---------------------------------------------------------------- targets


def target(name: str, size: tuple[int, int], *, splits: int = 10, device: str = "cpu",
           photometric: bool = True, progress: bool = False) -> Target:  # fmt: skip
    """An unseen target with its pool of images and ``splits`` seeded splits of Table 1's counts.

    Raises ValueError for an unknown name.
    """
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}: the targets are {', '.join(TARGETS)}")
    plan = {"VIPeR": _viper_plan, "GRID": _grid_plan, "iLIDS": _ilids_plan}[name]()
    pids = np.where(plan[0] >= DISTRACTORS, 0, plan[0])
    data = _rendered(name, plan, pids, size, device, photometric, progress)
    return Target(data, _splits(data, name, splits, {"VIPeR": 316, "GRID": 125, "iLIDS": 60}[name]))


def _viper_plan() -> Plan:
    """632 people, one image by each of two cameras."""
    ids = np.repeat(np.arange(1, PAIRS_OF_VIPER + 1), 2)
    return ids, np.tile([0, 1], PAIRS_OF_VIPER), np.zeros(len(ids), int)


def _grid_plan() -> Plan:
    """250 people, a probe by cameras 1-4 and a gallery image by 5-8; 775 distractors by 5-8."""
    rng = np.random.Generator(np.random.Philox(key=(VERSION << 72) | (DOMAINS["GRID"].code << 64)))
    ids = np.arange(1, PAIRS_OF_GRID + 1)
    extra = np.arange(DISTRACTORS, DISTRACTORS + DISTRACTORS_OF_GRID)
    near, far = (0, 4), (4, 8)  # the probes' cameras and the gallery's
    cams = [rng.integers(*span, len(who)) for span, who in ((near, ids), (far, ids), (far, extra))]
    plan = np.concatenate((ids, ids, extra)), np.concatenate(cams)
    return *plan, np.zeros(len(plan[0]), int)


def _ilids_plan() -> Plan:
    """476 images of 119 people, 2-8 each, over two or three of the cameras."""
    rng = np.random.Generator(np.random.Philox(key=(VERSION << 72) | (DOMAINS["iLIDS"].code << 64)))
    count = rng.choice((2, 3, 4, 5, 6, 8), PEOPLE_OF_ILIDS, p=(0.2, 0.16, 0.36, 0.12, 0.1, 0.06))
    while (surplus := int(count.sum()) - IMAGES_OF_ILIDS) != 0:
        k = int(rng.integers(PEOPLE_OF_ILIDS))
        count[k] = np.clip(count[k] - np.sign(surplus), 2, 8)
    ids = np.repeat(np.arange(1, PEOPLE_OF_ILIDS + 1), count)
    cams = [rng.permutation(DOMAINS["iLIDS"].cameras)[: 2 + (k > 4)][np.arange(k) % (2 + (k > 4))]
            for k in count.tolist()]  # fmt: skip
    return ids, np.concatenate(cams), np.concatenate([np.arange(k) for k in count])


def _splits(data: ReIDSet, name: str, splits: int, people: int) -> tuple[Split, ...]:
    """Seeded splits of ``people`` probes, each with a gallery image of another camera.

    VIPeR probes camera 1, GRID the plan's probe cameras (and adds all distractors); the others
    take a random image as probe and a random one of another camera for the gallery.
    """
    pids, camids = data.pids.numpy(), data.camids.numpy()
    everyone, distractors = np.unique(pids[pids > 0]), np.flatnonzero(pids == 0)
    fixed = {"VIPeR": (1,), "GRID": (1, 2, 3, 4)}.get(name)
    out = []
    for k in range(splits):
        rng = np.random.default_rng([VERSION, *name.encode(), k])
        probe, gallery = [], []
        for pid in np.sort(rng.permutation(everyone)[:people]):
            rows = np.flatnonzero(pids == pid)
            first = rng.choice(rows[np.isin(camids[rows], fixed)] if fixed else rows)
            second = rng.choice(rows[camids[rows] != camids[first]])
            probe.append(int(first))
            gallery.append(int(second))
        gallery.extend(distractors.tolist())
        out.append(Split(torch.tensor(probe), torch.tensor(gallery)))
    return tuple(out)


# ---------------------------------------------------------------- rendering, once


def _rendered(name: str, plan: Plan, pids: np.ndarray, size: tuple[int, int], device: str,
              photometric: bool, progress: bool) -> ReIDSet:  # fmt: skip
    """The set of a plan, out of the cache or rendered into it.

    Raises OSError, saying where and how much is needed, where it cannot be kept.
    """
    domain = DOMAINS[name.removesuffix(" held out")]
    path = cache_dir() / "sets" / f"{_key(domain, plan, size, photometric)}.safetensors"
    pid_tensor, camids = torch.from_numpy(pids.copy()).long(), torch.from_numpy(plan[1] + 1).long()
    kept = _read(path)
    if kept is not None:
        return ReIDSet(name, kept, pid_tensor, camids)
    # A process that was started for other work has its cores' share already.
    alone = len(pids) < MANY or str(device) != "cpu" or multiprocessing.parent_process() is not None
    if not alone and (workers := worker_count(min(MOST, os.cpu_count() or 1))) > 1:
        return ReIDSet(name, _side_by_side(path, domain, plan, size, photometric, workers, progress),
                       pid_tensor, camids)
    images = render.render(domain, *plan, size, device, photometric,
                           progress=progress and len(pids) > SLOW)
    _write(path, images)
    return ReIDSet(name, images, pid_tensor, camids)


def _side_by_side(path: Path, domain: Domain, plan: Plan, size: tuple[int, int], photometric: bool,
                  workers: int, progress: bool) -> torch.Tensor:  # fmt: skip
    """A set's images, rendered by processes into the file that :func:`_write` would have written.

    They are mapped from it: no more of them is in any memory than is being made.
    """
    shape = len(plan[0]), 3, *size
    parts = [slice(k, k + BLOCK) for k in range(0, shape[0], BLOCK)]
    with atomic(path) as temporary:
        start = _room(temporary, shape)
        images, sha = np.memmap(temporary, np.uint8, "r", start, shape), hashlib.sha256()
        jobs = ((temporary, start + part.start * math.prod(shape[1:]), domain.name,
                 [column[part] for column in plan], size, photometric) for part in parts)
        with (tqdm(total=shape[0], desc=domain.name, unit="image", disable=not progress) as bar,
              closing(side_by_side(_render_part, jobs, min(workers, len(parts)))) as done):
            for part, _ in zip(parts, done, strict=True):
                sha.update(images[part])
                bar.update(len(images[part]))
        with open(temporary, "r+b") as file:
            file.seek(start + math.prod(shape))
            file.write(sha.digest())
    return load_file(path)["images"]


def _room(path: Path, shape: tuple[int, ...]) -> int:
    """A file of :func:`_write` with all but its content; returns the place of the first pixel."""
    end = math.prod(shape)
    about = {"images": {"dtype": "U8", "shape": shape, "data_offsets": [0, end]},
             "sha256": {"dtype": "U8", "shape": [32], "data_offsets": [end, end + 32]}}
    header = json.dumps(about, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        file.truncate(start + end + 32)
        if hasattr(os, "posix_fallocate"):  # a disk that is too small is found before the work
            os.posix_fallocate(file.fileno(), 0, start + end + 32)
    return start


def _render_part(path: Path, place: int, name: str, plan: Plan, size: tuple[int, int],
                 photometric: bool) -> None:  # fmt: skip
    """Render some of a set's images into their place of its file."""
    # By its name: a domain that is handed over is another one to the tables that were made for it.
    images = render.render(DOMAINS[name], *plan, size, photometric=photometric)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(images.numpy())


def _key(domain: Domain, plan: Plan, size: tuple[int, int], photometric: bool) -> str:
    """File name of a set: all that its pixels depend on, hashed; `VERSION` stands for the code."""
    sha = hashlib.sha256(json.dumps([VERSION, repr(domain), *size, photometric]).encode())
    try:
        sha.update((ROOT / "data" / bank.FILE_NAME).read_bytes())
    except OSError as error:
        raise type(error)(f"cannot read data/{bank.FILE_NAME}, the bodies that people are rendered "
                          f"from ({error.strerror}): restore it from version control") from error
    for column in plan:
        sha.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
    return f"{domain.name}-{len(plan[0])}-{size[0]}x{size[1]}-{sha.hexdigest()[:16]}"


def _read(path: Path) -> torch.Tensor | None:
    """Images of a kept set, or None where there is none or it is damaged (it is made again)."""
    if not path.is_file():
        return None
    try:
        kept = load_file(path)
        images = kept["images"]
        whole = bytes(kept["sha256"].numpy()) == hashlib.sha256(images.numpy()).digest()
    except (SafetensorError, KeyError, OSError):
        return None
    return images if whole and images.dtype == torch.uint8 else None


def _write(path: Path, images: torch.Tensor) -> None:
    """Keep images, whole or not at all: written beside the place, then moved there."""
    sha = torch.tensor(list(hashlib.sha256(images.numpy()).digest()), dtype=torch.uint8)
    with atomic(path) as temporary:
        save_file({"images": images, "sha256": sha}, temporary)


def mixed(sets: Iterable[ReIDSet], images: int, name: str) -> ReIDSet:
    """Sets of ``images`` images in all as one: pids 1..M distinct over all, cameras too.

    Takes one set after the other, so that no more than one is in memory beside the result.
    Raises ValueError for no image at all.
    """
    if not images:
        raise ValueError("there is no source to mix: ask for people and images of at least one")
    pixels, pids, camids, person, camera, row = None, [], [], 0, 0, 0
    for data in sets:
        if pixels is None:
            pixels = torch.empty((images, *data.images.shape[1:]), dtype=torch.uint8)
        pixels[row : row + len(data)] = data.images
        row += len(data)
        _, number = torch.unique(data.pids, return_inverse=True)
        pids.append(number + 1 + person)
        camids.append(data.camids + camera)
        person, camera = int(pids[-1].max()), int(camids[-1].max())
    return ReIDSet(name, pixels, torch.cat(pids), torch.cat(camids))
