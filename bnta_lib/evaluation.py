"""mAP and CMC of re-id retrieval by counting ranks: no gallery is ever sorted.

Rank of a match: 1 + the number of gallery images that are nearer to the probe. Images of the
probe's own person by the probe's own camera are left out (the standard protocol). Ties go to the
image that comes first in the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    Memory is O(block * G). A gallery pid of 0 or less is a distractor: it matches nobody.
    Raises ValueError for an empty side, labels that do not fit the features, features that are
    not finite, or no match at all.
    """
    if len(probe) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to evaluate: {len(probe)} probes, {len(gallery)} gallery images")
    for side, features, *labels in (("probe", probe, probe_pids, probe_camids),
                                    ("gallery", gallery, gallery_pids, gallery_camids)):
        if any(label.shape != (len(features),) for label in labels):
            raise ValueError(f"{side}: {len(features)} features need as many persons and cameras, "
                             f"got {len(labels[0])} and {len(labels[1])}")
    if not (torch.isfinite(probe).all() and torch.isfinite(gallery).all()):
        raise ValueError("features hold NaN or infinite values: the model or the images are broken")
    ap, trapezoid, rank, unmatched = [], [], [], 0
    for rows in torch.arange(len(probe)).split(block):
        d = distances(probe[rows], gallery, normalise)
        same = (probe_pids[rows, None] == gallery_pids[None, :]) & (gallery_pids > 0)[None, :]
        junk = same & (probe_camids[rows, None] == gallery_camids[None, :])
        d.masked_fill_(junk, torch.inf)
        row, column = (same & ~junk).nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(rows))
        unmatched += int((counts == 0).sum())
        ranks = _ranks(d, row, column)
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


def _ranks(d: Tensor, row: Tensor, column: Tensor, chunk: int = 512) -> Tensor:
    """Rank of each match (row, column) within its row of the distances (b, G), from 1."""
    index = torch.arange(d.shape[1])
    ranks = []
    for r, c in zip(row.split(chunk), column.split(chunk)):
        own = d[r, c][:, None]
        nearer = (d[r] < own) | ((d[r] == own) & (index[None, :] < c[:, None]))
        ranks.append(nearer.sum(1) + 1)
    return torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.int64)


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


def telling_probes(before: Tensor, after: Tensor, each: int = 2) -> dict[str, Tensor]:
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
