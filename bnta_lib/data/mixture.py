"""The published sources that a folder holds, as one training set: people 1..M over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from bnta_lib.data.records import Found
from bnta_lib.settings import PAPER_SOURCES


@dataclass(frozen=True)
class Mixture:
    """Which of the paper's sources there are, and how much of them."""

    sets: tuple[Found, ...]  # in the paper's order, distractors left out
    images: int
    people: int  # M: a person of one set is nobody of another

    @property
    def name(self) -> str:
        """Counts, the sets with theirs, and what is missing of the paper's five."""
        words = [f"{own.name}{' labeled' * own.layout.endswith('_labeled')} ({len(own):,} images, "
                 f"{own.people:,} people)" for own in self.sets]
        missing = [name for name in PAPER_SOURCES if name not in {own.name for own in self.sets}]
        without = f"; without {', '.join(missing)}" if missing else ""
        return f"{self.images:,} images of {self.people:,} people: {', '.join(words)}{without}"


def mixture(found: Mapping[str, Found]) -> Mixture:
    """The sources among ``found``. Raises FileNotFoundError where there is none."""
    sets = []
    for name in (name for name in PAPER_SOURCES if name in found):
        known = tuple(sample for sample in found[name].samples if sample.pid > 0)
        sets += [replace(found[name], samples=known)] if known else []
    if not sets:
        raise FileNotFoundError(f"none of the sources {', '.join(PAPER_SOURCES)} is there")
    return Mixture(tuple(sets), sum(map(len, sets)), sum(own.people for own in sets))


def some_of(found: Found, people: int = 100, images: int = 4) -> Found:
    """At most so many images of so many people of a set, both evenly spread; the same every time."""
    rows: dict[int, list] = {}
    for sample in found.samples:
        if sample.pid > 0:
            rows.setdefault(sample.pid, []).append(sample)
    everyone = sorted(rows)
    chosen = [rows[everyone[i]] for i in _even(len(everyone), people)]
    return replace(found, samples=tuple(own[i] for own in chosen for i in _even(len(own), images)))


def _even(count: int, most: int) -> list[int]:
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()
