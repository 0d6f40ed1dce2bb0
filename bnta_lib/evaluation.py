"""mAP and CMC of re-id retrieval by counting ranks: no order of the whole gallery is ever made.

Rank of a match: 1 + the number of gallery images that are nearer to the probe. Images of the
probe's own person by the probe's own camera are left out (the standard protocol). Ties go to the
image that comes first in the gallery.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Scores:
    """Retrieval quality over P probes; fractions in [0, 1]."""

    ap: Tensor  # float64 (P,): average precision of each probe
    ap_trapezoid: Tensor  # float64 (P,): by the trapezoidal rule of DualNorm's evaluation
    rank: Tensor  # int64 (P,): rank of the first match, from 1
    unmatched: int = 0  # probes without a match in the gallery: left out of the above

    @property
    def mAP(self) -> float:
        """Mean average precision; with a single match AP = 1 / rank."""
        return float(self.ap.mean())

    @property
    def mAP_trapezoid(self) -> float:
        """Mean trapezoidal AP: (mAP + rank-1) / 2 where every probe has one match."""
        return float(self.ap_trapezoid.mean())

    def cmc(self, k: int) -> float:
        """Rank-k: the fraction of probes whose first match is among the k nearest."""
        return float((self.rank <= k).double().mean())

    def row(self) -> dict[str, float]:
        """The four numbers of Table 2, in per cent."""
        cmc = {f"R{k}": 100 * self.cmc(k) for k in (1, 5, 10)}
        return {"mAP": 100 * self.mAP, **cmc}


def distances(probe: Tensor, gallery: Tensor, normalise: bool = True) -> Tensor:
    """Euclidean distances (P, G) of features (P, C) and (G, C), in float64.

    With ``normalise`` features are scaled to unit length first [O]. By direct difference: the
    expanded product loses small distances, and rounds equal ones apart, which would break ties.
    """
    probe, gallery = probe.double(), gallery.double()
    if normalise:
        probe, gallery = F.normalize(probe), F.normalize(gallery)
    return _direct(probe, gallery)


def _direct(probe: Tensor, gallery: Tensor) -> Tensor:
    return torch.cdist(probe, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def evaluate(
    probe: Tensor,
    gallery: Tensor,
    probe_pids: Tensor,
    gallery_pids: Tensor,
    probe_camids: Tensor,
    gallery_camids: Tensor,
    normalise: bool = True,
    block: int = 128,
) -> Scores:
    """Scores of probe features (P, C) against gallery features (G, C) and their labels.

    Ranks are those of :func:`distances`; memory beside the features is O(block * G). A gallery
    pid of 0 or less is a distractor: it matches nobody. Raises ValueError for an empty side,
    labels that do not fit the features, features that are not finite, or no match at all.
    """
    _check(probe, gallery, probe_pids, gallery_pids, probe_camids, gallery_camids)
    people = _People(probe_pids, gallery_pids, probe_camids, gallery_camids)
    scan = _Ranks(probe, gallery, normalise)
    ap, trapezoid, rank, unmatched = [], [], [], 0
    for rows in torch.arange(len(probe)).split(block):
        matches, junk = zip(*(people(i) for i in rows.tolist()))
        counts = torch.tensor([len(own) for own in matches])
        unmatched += int((counts == 0).sum())
        row = torch.arange(len(rows)).repeat_interleave(counts)
        ranks = torch.from_numpy(scan(rows, matches, junk))
        # Matches in the order of probe, then rank; `place` is a match's number in its probe.
        order = torch.argsort(row * (len(gallery) + 1) + ranks)
        row, ranks = row[order], ranks[order]
        place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        precision = (place + 1) / ranks.double()
        before = torch.where(ranks > 1, place / (ranks - 1).clamp(min=1).double(), 1.0)
        found = counts > 0

        def mean_by_probe(value: Tensor) -> Tensor:
            total = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, row, value)
            return (total / counts)[found]

        ap.append(mean_by_probe(precision))
        trapezoid.append(mean_by_probe((precision + before) / 2))
        rank.append(ranks[place == 0])
    if unmatched == len(probe):
        raise ValueError("no probe has a match in the gallery: check persons and cameras")
    return Scores(torch.cat(ap), torch.cat(trapezoid), torch.cat(rank), unmatched)


def _check(probe, gallery, probe_pids, gallery_pids, probe_camids, gallery_camids) -> None:
    if len(probe) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to evaluate: {len(probe)} probes, {len(gallery)} gallery images")
    for side, features, *labels in (("probe", probe, probe_pids, probe_camids),
                                    ("gallery", gallery, gallery_pids, gallery_camids)):
        if any(label.shape != (len(features),) for label in labels):
            raise ValueError(f"{side}: {len(features)} features need as many persons and cameras, "
                             f"got {len(labels[0])} and {len(labels[1])}")
    if not (torch.isfinite(probe).all() and torch.isfinite(gallery).all()):
        raise ValueError("features hold NaN or infinite values: the model or the images are broken")


class _People:
    """Whom a probe can be matched with: ``people(i)`` gives the gallery rows that show its
    person by other cameras (matches) and by its own (junk)."""

    def __init__(self, probe_pids: Tensor, gallery_pids: Tensor, probe_camids: Tensor,
                 gallery_camids: Tensor):
        self.camids, self.probe_camids = gallery_camids.cpu().numpy(), probe_camids.cpu().numpy()
        pids, wanted = gallery_pids.cpu().numpy(), probe_pids.cpu().numpy()
        self.order = np.argsort(pids, kind="stable")
        ordered = pids[self.order]
        self.first = np.searchsorted(ordered, wanted, "left")
        self.last = np.where(wanted > 0, np.searchsorted(ordered, wanted, "right"), self.first)

    def __call__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        same = self.order[self.first[i] : self.last[i]]
        own = self.camids[same] == self.probe_camids[i]
        return same[~own], same[own]


class _Ranks:
    """Ranks of matches by float64 distances of direct difference, mostly without computing them.

    A float32 product tells nearly all gallery images apart from a match: the exact squared
    distance of the match is compared with the fast ones less and plus a bound on their rounding.
    What falls between is computed exactly, and ties go to the image that comes first.
    """

    def __init__(self, probe: Tensor, gallery: Tensor, normalise: bool):
        self.probe, self.gallery = _Float64(probe, normalise), _Float64(gallery, normalise)
        # A power of two changes no digit, and keeps squares within the range of float32.
        size = 2.0 ** -math.frexp(max(self.probe.largest(), self.gallery.largest()))[1]
        self.probe.size = self.gallery.size = size
        # Rounding grows with the distance from the origin.
        self.centre = sum(rows.sum(0) for rows in self.gallery.blocks()) / len(gallery)
        self.small = torch.cat([(rows - self.centre).float() for rows in self.gallery.blocks()])
        norms = torch.cat([rows.double().square().sum(1) for rows in self.small.split(BLOCK)])
        self.squares, self.largest = norms.float(), norms.max().sqrt()

    def __call__(self, rows: Tensor, matches: Sequence[np.ndarray], junk: Sequence[np.ndarray]) -> np.ndarray:
        """Rank of each match of each probe, from 1, one after the other; int64."""
        probes = self.probe(rows)
        own = (probes - self.centre).float()
        squares = own.double().square().sum(1, keepdim=True)
        fast = torch.addmm(self.squares, own, self.small.T, alpha=-2)
        fast += squares.float()
        # 2 p.g in float32 is off by C/2 eps |2 p| |g| at most, in any order of summation, and
        # 4 |p| |g| is no more than `scale`; the rest is rounding of features, norms and sums.
        scale = (squares.sqrt() + self.largest).square() + torch.finfo(torch.float32).tiny
        errors = (own.shape[1] / 4 + 8) * torch.finfo(torch.float32).eps * scale
        exact = self._exact(probes, matches)
        counted = [_Counted(row, error, d, mine, out) for row, error, d, mine, out
                   in zip(fast.numpy(), errors[:, 0].tolist(), exact, matches, junk)]
        for one, found in zip(counted, self._exact(probes, [one.columns for one in counted])):
            one.settle(found)
        return np.concatenate([1 + one.nearer for one in counted])

    def _exact(self, probes: Tensor, columns: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Distances of each of ``probes`` (P, C) to its own gallery images."""
        counts = [len(own) for own in columns]
        probe = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        image = torch.from_numpy(np.concatenate(columns))
        found = [_direct(probes[p, None], self.gallery(g)[:, None])[:, 0, 0]
                 for p, g in zip(probe.split(BLOCK), image.split(BLOCK))]
        return np.split(torch.cat(found).numpy(), np.cumsum(counts)[:-1])


class _Counted:
    """How many gallery images are nearer to a probe than each of its matches, as far as fast distances tell.

    ``row``: their squares (G,), off by ``error`` at most; ``exact``: the distances of ``matches``. What
    is left open are the ``columns``, whose exact distances :meth:`settle` takes.
    """

    def __init__(self, row: np.ndarray, error: float, exact: np.ndarray, matches: np.ndarray, junk: np.ndarray):
        self.nearer = np.zeros(len(matches), np.int64)
        self.columns = self.open = np.zeros(0, np.int64)  # rows of the gallery; places among the matches
        if not len(matches):
            return
        row[junk] = np.inf
        low, high = ((exact**2 + bound).astype(np.float32) for bound in (-error, error))
        columns = np.flatnonzero(row <= high.max())  # farther ones than the last match do not count
        row = row[columns]
        ordered = np.sort(row)  # cheaper than to count anew for each of a dozen matches
        self.nearer = ordered.searchsorted(low, "left")
        within = ordered.searchsorted(high, "right") - self.nearer
        self.open = np.flatnonzero(within > 1)  # more than the match itself lies within its bounds
        if len(self.open):
            low, high = low[self.open], high[self.open]
            among = np.logical_or.reduce([(row >= a) & (row <= b) for a, b in zip(low, high)])
            self.columns, self.exact, self.match = columns[among], exact[self.open, None], matches[self.open, None]
            self.counted = (row[among] < low[:, None]).sum(1)

    def settle(self, found: np.ndarray) -> None:
        """Count what was left open by its exact distances; ties go to the image that comes first."""
        if len(self.open):
            ahead = (found < self.exact) | ((found == self.exact) & (self.columns < self.match))
            self.nearer[self.open] += ahead.sum(1) - self.counted


BLOCK = 512  # rows of features that are float64 at a time


class _Float64:
    """Features as :func:`distances` has them, some rows at a time: in all they would take twice or
    four times the memory of the features themselves."""

    def __init__(self, features: Tensor, normalise: bool):
        self.features, self.norm, self.size = features.detach().cpu(), None, 1.0
        if normalise:
            norms = [rows.double().norm(dim=1, keepdim=True) for rows in self.features.split(BLOCK)]
            self.norm = torch.cat(norms).clamp_min(1e-12)  # as torch's normalize

    def __call__(self, index: Tensor) -> Tensor:
        """Rows, float64, times ``size``."""
        rows = self.features[index].double()  # a copy in any case, by the index
        return (rows if self.norm is None else rows.div_(self.norm[index])).mul_(self.size)

    def blocks(self) -> Iterator[Tensor]:
        """All rows, block by block."""
        return map(self, torch.arange(len(self.features)).split(BLOCK))

    def largest(self) -> float:
        return max(float(rows.abs().max()) for rows in self.blocks())


@dataclass(frozen=True)
class Ranking:
    """The nearest gallery images of P probes, for pictures and for looking at single probes."""

    index: Tensor  # int64 (P, k): rows of the gallery, nearest first
    right: Tensor  # bool (P, k): shows the probe's person
    rank: Tensor  # int64 (P,): rank of the first match, from 1; 0 where the gallery has none


def top_gallery(
    probe: Tensor,
    gallery: Tensor,
    probe_pids: Tensor,
    gallery_pids: Tensor,
    probe_camids: Tensor,
    gallery_camids: Tensor,
    k: int = 10,
    normalise: bool = True,
    block: int = 128,
) -> Ranking:
    """The ``k`` nearest gallery images of each probe, by the rules of :func:`evaluate`.

    Rows of each block are sorted in full: meant for the few hundred probes of a split. Raises
    ValueError where the gallery has fewer than ``k`` images.
    """
    if len(gallery) < k:
        raise ValueError(f"a gallery of {len(gallery)} images has no {k} nearest")
    index, right, rank = [], [], []
    for rows in torch.arange(len(probe)).split(block):
        same = (probe_pids[rows, None] == gallery_pids[None, :]) & (gallery_pids > 0)[None, :]
        junk = same & (probe_camids[rows, None] == gallery_camids[None, :])
        d = distances(probe[rows], gallery, normalise).masked_fill_(junk, torch.inf)
        order = d.argsort(dim=1, stable=True)
        match = (same & ~junk).gather(1, order)
        index.append(order[:, :k])
        right.append(match[:, :k])
        rank.append(torch.where(match.any(1), match.int().argmax(1) + 1, 0))
    return Ranking(torch.cat(index), torch.cat(right), torch.cat(rank))


def select_example_probes(before: Tensor, after: Tensor, each: int = 2) -> dict[str, Tensor]:
    """Probes to look at, by a rule: ``improved`` most, ``median`` and ``worsened`` most.

    ``before`` and ``after``: ranks (P,) of the first match, 0 where there is none (left out). A
    change is the ratio of the ranks, since 12 to 1 matters more to a user than 250 to 120; equal
    changes are in the order of the rank before, then of the probe. Gives ``each`` probes from
    both ends and the ``each`` in the middle of that order, as indices; fewer where there are few.
    """
    usable = ((before > 0) & (after > 0)).nonzero()[:, 0]
    ratio = (after[usable].double() / before[usable].double()).tolist()
    keys = zip(ratio, before[usable].tolist(), usable.tolist())
    order = torch.tensor([probe for _, _, probe in sorted(keys)], dtype=torch.int64)
    each = min(each, len(order) // 3)
    middle = (len(order) - each) // 2
    return {
        "improved": order[:each],
        "median": order[middle : middle + each],
        "worsened": order[len(order) - each :].flip(0),
    }
