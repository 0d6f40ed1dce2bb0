"""The embedded benchmark: five rendered sources and three targets with Table 1's counts; how sets differ.

A set is determined by its name, its counts and `people.VERSION`: the same pixels each time, whatever the seed
of an experiment. Two held-out sets (CUHK03, DukeMTMC-reID) differ between an Intel and an AMD processor. Sets
are kept in `settings.cache_dir`. People never recur: a number belongs to one domain, and the held-out people
of a source have numbers of their own.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count, delayed
from tqdm.auto import tqdm

from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.files import atomic, in_processes
from bnta_lib.rendered.bank import read_bank
from bnta_lib.rendered.domains import DOMAINS, Domain
from bnta_lib.rendered.people import VERSION, generator
from bnta_lib.rendered.render import render
from bnta_lib.settings import cache_dir

HELD_OUT = 1 << 20  # numbers of held-out people start here
DISTRACTORS = 1 << 21  # and those of distractors here
PAIRS_OF_VIPER, PAIRS_OF_GRID, DISTRACTORS_OF_GRID = 632, 250, 775
PEOPLE_OF_ILIDS, IMAGES_OF_ILIDS = 119, 476
PROBES = {"VIPeR": 316, "GRID": 125, "iLIDS": 60}  # of a split
MANY = 1000  # images that processes must take off this one to save more than it takes to start them
BLOCK = 256  # images of one job
MAX_WORKERS = 16  # each holds all bodies, 0.9 GB
# How images differ, in per cent of the full range of a pixel.
STATISTICS = ("brightness", "contrast", "saturation", "warmth", "sharpness")

Plan = tuple[np.ndarray, np.ndarray, np.ndarray]  # person number, camera from 0, shot; (N,) each


def source(name: str, people: int, images: int, size: tuple[int, int], **options) -> ReIDSet:
    """A labelled source of so many people and images; pids are 1..people.

    Options: of `cached_images`, and the setting `misaligned`. Raises ValueError for fewer images than people.
    """
    if not 1 <= people <= images:
        raise ValueError(f"{name}: cannot show {people} people in {images} images")
    plan = _source_plan(DOMAINS[name], 1, people, images)
    return _rendered(name, plan, plan[0], size, options)


def heldout(name: str, people: int, size: tuple[int, int], *, splits: int = 10, **options) -> Target:
    """People of a source that training never sees, four images each, as a target.

    The probe is one image of a camera, the gallery one image of another, for every person.
    """
    plan = _source_plan(DOMAINS[name], HELD_OUT, people, 4 * people)
    data = _rendered(f"{name} held out", plan, plan[0] - HELD_OUT + 1, size, options)
    return Target(data, _splits(data, "heldout", splits, people))


def target(name: str, size: tuple[int, int], *, splits: int = 10, **options) -> Target:
    """An unseen target with its pool of images and ``splits`` seeded splits of Table 1's counts."""
    plan = {"VIPeR": _viper_plan, "GRID": _grid_plan, "iLIDS": _ilids_plan}[name]()
    data = _rendered(name, plan, np.where(plan[0] >= DISTRACTORS, 0, plan[0]), size, options)
    return Target(data, _splits(data, name, splits, PROBES[name]))


def _source_plan(domain: Domain, first: int, people: int, images: int) -> Plan:
    """Images of people, two or more each if the count allows, by cameras that show two or more of them each.

    Cameras that are paired (`domain.paired`) see their own people.
    """
    ids = np.arange(first, first + people)
    rng = generator(domain, first)
    least = 2 if images >= 2 * people else 1
    # As in CUHK02: four images of everyone.
    share = np.ones(people) if images == 4 * people else rng.uniform(0.5, 1.5, people)
    wanted = least + share / np.cumsum(share)[-1] * (images - least * people)
    count = np.floor(wanted).astype(int)
    rest = np.argsort(count - wanted, kind="stable")[: images - int(count.sum())]
    count[rest] += 1
    numbers = np.concatenate([np.arange(k) for k in count])
    cams = []
    for k in count.tolist():
        if domain.paired:
            seen = 2 * int(rng.integers(domain.cameras // 2)) + np.arange(2)
        else:
            seen = rng.permutation(domain.cameras)[: max(2, k // 2)]
        cams.append(seen[np.arange(k) % len(seen)])
    return np.repeat(ids, count), np.concatenate(cams), numbers


def _viper_plan() -> Plan:
    """632 people, one image by each of two cameras."""
    ids = np.repeat(np.arange(1, PAIRS_OF_VIPER + 1), 2)
    return ids, np.tile([0, 1], PAIRS_OF_VIPER), np.zeros(len(ids), int)


def _grid_plan() -> Plan:
    """250 people, a probe by cameras 1-4 and a gallery image by 5-8; 775 distractors by 5-8."""
    rng = generator(DOMAINS["GRID"])
    ids = np.arange(1, PAIRS_OF_GRID + 1)
    extra = np.arange(DISTRACTORS, DISTRACTORS + DISTRACTORS_OF_GRID)
    near, far = (0, 4), (4, 8)  # the probes' cameras and the gallery's
    cams = [rng.integers(*span, len(who)) for span, who in ((near, ids), (far, ids), (far, extra))]
    plan = np.concatenate((ids, ids, extra)), np.concatenate(cams)
    return *plan, np.zeros(len(plan[0]), int)


def _ilids_plan() -> Plan:
    """476 images of 119 people, 2-8 each, over two or three of the cameras."""
    rng = generator(DOMAINS["iLIDS"])
    count = rng.choice((2, 3, 4, 5, 6, 8), PEOPLE_OF_ILIDS, p=(0.2, 0.16, 0.36, 0.12, 0.1, 0.06))
    while (surplus := int(count.sum()) - IMAGES_OF_ILIDS) != 0:
        k = int(rng.integers(PEOPLE_OF_ILIDS))
        count[k] = np.clip(count[k] - np.sign(surplus), 2, 8)
    ids = np.repeat(np.arange(1, PEOPLE_OF_ILIDS + 1), count)
    cams = [rng.permutation(DOMAINS["iLIDS"].cameras)[: 2 + (k > 4)][np.arange(k) % (2 + (k > 4))]
            for k in count.tolist()]
    return ids, np.concatenate(cams), np.concatenate([np.arange(k) for k in count])


def _splits(data: ReIDSet, name: str, splits: int, people: int) -> tuple[Split, ...]:
    """Seeded splits of ``people`` probes, each with a random image of another camera, and all distractors.

    VIPeR probes camera 1, GRID the plan's probe cameras, the others a random image.
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


def _rendered(name: str, plan: Plan, pids: np.ndarray, size: tuple[int, int], options: dict) -> ReIDSet:
    domain = DOMAINS[name.removesuffix(" held out")]
    if misaligned := options.pop("misaligned", 0.0):
        domain = replace(domain, shift=misaligned, zoom=misaligned)
    images = cached_images(domain, plan, size, **options)
    labels = torch.from_numpy(pids.copy()).long(), torch.from_numpy(plan[1] + 1).long()
    path = _path(domain, plan, size, options.get("photometric", True))
    return _with_digest(f"{path.name} {path.stat().st_mtime_ns} {name}", name, images, *labels)


def _with_digest(key: str, *arguments) -> ReIDSet:
    """ReIDSet of ``arguments``, whose digest is computed once and kept in the cache for ``key``."""
    path = cache_dir() / "sets" / f"{hashlib.sha256(key.encode()).hexdigest()}.digest"
    known = path.read_text() if path.is_file() else ""
    data = ReIDSet(*arguments, known_digest=known)
    if not known:
        with atomic(path) as temporary:
            temporary.write_text(data.digest)
    return data


def cached_images(domain: Domain, plan: Plan, size: tuple[int, int], photometric: bool = True,
                  progress: bool = False) -> torch.Tensor:
    """Images uint8 (N, 3, H, W) of a plan, mapped from the cache; rendered into it if they are not there.

    Many images are rendered by several processes; this process alone writes. Raises OSError, with what to do,
    if the file cannot be written.
    """
    path = _path(domain, plan, size, photometric)
    if (images := _read(path)) is not None:
        return images
    shape = len(plan[0]), 3, *size
    parts = [slice(k, k + BLOCK) for k in range(0, shape[0], BLOCK)]
    jobs = (delayed(render)(domain, *(column[part] for column in plan), size, photometric) for part in parts)
    workers = min(MAX_WORKERS, cpu_count(), len(parts))
    # A process that was started for other work has its share of the cores already.
    few, started = shape[0] * (1 - 1 / workers) < MANY, multiprocessing.parent_process() is not None
    workers = 1 if few or started else workers
    with atomic(path) as temporary, open(temporary, "wb") as file, in_processes(jobs, workers) as blocks:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in tqdm(blocks, domain.name, len(parts), disable=few or not progress):
            file.write(block.numpy())
    return _read(path)


def _path(domain: Domain, plan: Plan, size: tuple[int, int], photometric: bool) -> Path:
    """File of a set, named by all that its pixels depend on, hashed; `VERSION` stands for the code."""
    sha = hashlib.sha256(json.dumps([VERSION, repr(domain), *size, photometric]).encode())
    sha.update(read_bank()[0]["sha256"].encode())
    for column in plan:
        sha.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
    name = f"{domain.name}-{len(plan[0])}-{size[0]}x{size[1]}-{sha.hexdigest()[:16]}"
    return cache_dir() / "sets" / f"{name}.npy"


def _read(path: Path) -> torch.Tensor | None:
    """Images of a kept set; None if there is none."""
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c"))  # writable, as torch requires
    except (OSError, ValueError):  # none, or cut short
        return None


def mixed(sets: Sequence[ReIDSet], name: str) -> ReIDSet:
    """Sets as one: pids 1..M distinct over all, cameras too. Raises ValueError for no image at all."""
    if not sum(map(len, sets)):
        raise ValueError("there is no source to mix: give people and images for at least one")
    pids, camids, person, camera = [], [], 0, 0
    for data in sets:
        pids.append(torch.unique(data.pids, return_inverse=True)[1] + 1 + person)
        camids.append(data.camids + camera)
        person, camera = int(pids[-1].max()), int(camids[-1].max())
    images, key = torch.cat([data.images for data in sets]), " ".join(data.digest for data in sets)
    return _with_digest(key, name, images, torch.cat(pids), torch.cat(camids))


def statistics_of(sets: dict[str, ReIDSet], limit: int = 1000) -> pd.DataFrame:
    """A row an image of several sets, at most ``limit`` of each, evenly spread: set, camera and STATISTICS.

    brightness: mean of luma; contrast: its standard deviation; saturation: mean of largest minus smallest
    channel; warmth: mean red minus mean blue; sharpness: mean absolute difference of luma between neighbours.
    """
    tables = []
    for name, data in sets.items():
        selected = torch.linspace(0, len(data) - 1, min(limit, len(data))).round().long()
        for rows in selected.split(256):
            x = data.images[rows].double() / 2.55
            luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
            across, down = (luma.diff(dim=axis).abs().mean((1, 2)) for axis in (2, 1))
            saturation, warmth = (x.amax(1) - x.amin(1)).mean((1, 2)), (x[:, 0] - x[:, 2]).mean((1, 2))
            columns = luma.mean((1, 2)), luma.std((1, 2)), saturation, warmth, (across + down) / 2
            table = pd.DataFrame(torch.stack(columns, dim=1).numpy(), columns=list(STATISTICS))
            tables.append(table.assign(set=name, camera=data.camids[rows].numpy()))
    return pd.concat(tables, ignore_index=True)
