"""The published sources that a folder holds, as one training set: people 1..M over all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bnta_lib.data.real.records import Found, Sample
from bnta_lib.settings import PAPER_SOURCES


@dataclass(frozen=True)
class Mixture:
    """Samples of several sets with labels that are distinct over all of them."""

    name: str  # the sets and their counts, and what is missing of the paper's five
    samples: tuple[Sample, ...]
    pids: Tensor  # int64 (N,), 1..M
    camids: Tensor  # int64 (N,), from 1


def mixture(found: Mapping[str, Found]) -> Mixture:
    """The sources among ``found``, in the paper's order, distractors left out.

    Raises FileNotFoundError where there is none.
    """
    samples, pids, camids, words, people, cameras = [], [], [], [], 0, 0
    for name in (n for n in PAPER_SOURCES if n in found):
        own = [sample for sample in found[name].samples if sample.pid > 0]
        if not own:
            continue
        _, number = torch.unique(torch.tensor([s.pid for s in own]), return_inverse=True)
        camera = torch.tensor([s.camid for s in own])
        samples += own
        pids.append(number + 1 + people)
        camids.append(camera + cameras)
        words.append(f"{name} ({len(own):,} images, {int(number.max()) + 1:,} people)")
        people, cameras = int(pids[-1].max()), int(camids[-1].max())
    if not samples:
        raise FileNotFoundError(f"none of the sources {', '.join(PAPER_SOURCES)} was found")
    total = f"{len(samples):,} images of {people:,} people: {', '.join(words)}"
    missing = [name for name in PAPER_SOURCES if not any(word.startswith(f"{name} (") for word in words)]
    name = total + (f"; without {', '.join(missing)}" if missing else "")
    return Mixture(name, tuple(samples), torch.cat(pids), torch.cat(camids))


def some_of(found: Found, people: int = 100, images: int = 4) -> list[Sample]:
    """At most so many images of so many people of a set, both evenly spread; the same every time."""
    rows: dict[int, list[Sample]] = {}
    for sample in found.samples:
        rows.setdefault(sample.pid, []).append(sample)
    known = sorted(pid for pid in rows if pid > 0)
    chosen = [known[i] for i in _even(len(known), people)]
    return [rows[pid][i] for pid in chosen for i in _even(len(rows[pid]), images)]


def _even(count: int, most: int) -> list[int]:
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def samples_digest(samples, size: tuple[int, int], root: Path) -> str:
    """SHA-256 of which images these are, without their pixels: path, labels, box, cell and file size."""
    sha = hashlib.sha256(repr(size).encode())
    sizes: dict[Path, int] = {}
    for s in samples:
        if s.file not in sizes:
            sizes[s.file] = s.file.stat().st_size
        sha.update(repr((s.file.relative_to(root).as_posix(), s.pid, s.camid, s.box, s.cell, sizes[s.file])).encode())
    return sha.hexdigest()
