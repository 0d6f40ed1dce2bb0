"""mAP, CMC and mINP of re-id retrieval. `evaluate` counts ranks and never sorts the whole gallery.

The rank of a match is 1 + the number of gallery images that are nearer to the probe. Images of the
probe's person by the probe's camera are left out (the standard protocol). So is junk, whose pid is below 0.
Distractors, whose pid is 0, match nobody. Ties go to the image that comes first in the gallery.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.adaption import require_finite
from bnta_lib.model import plain_mode
from bnta_lib.reranking import reranked

Labels = Tensor | np.ndarray | Sequence[int]  # whole numbers (N,)
BLOCK = 512  # rows of features that are float64 at a time


@dataclass(frozen=True)
class Scores:
    """Retrieval quality over P probes; fractions in [0, 1]."""

    ap: Tensor  # float64 (P,): average precision of each probe
    rank: Tensor  # int64 (P,): rank of the first match, from 1
    inp: Tensor  # float64 (P,): matches divided by the rank of the last (Ye et al., 2021)
    unmatched: int = 0  # probes without a match in the gallery: left out of the others
    reranked: bool = False  # whether by k-reciprocal re-ranking, which needs all probes at once

    @property
    def mAP(self) -> float:
        """Mean average precision; with a single match AP = 1 / rank."""
        return float(self.ap.mean())

    def cmc(self, k: int) -> float:
        """Rank-k: the fraction of probes whose first match is among the k nearest."""
        return float((self.rank <= k).double().mean())

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty: how soon the hardest match is found; 1 if no other is before it."""
        return float(self.inp.mean())

    def row(self) -> dict[str, float]:
        """The four numbers of Table 2, in per cent; their names say if they are re-ranked."""
        row = {"mAP": 100 * self.mAP} | {f"R{k}": 100 * self.cmc(k) for k in (1, 5, 10)}
        return {f"{name}, re-ranked": value for name, value in row.items()} if self.reranked else row

    def __str__(self) -> str:
        row = {"mAP": 100 * self.mAP, "mINP": 100 * self.mINP} | {
            name: value for name, value in self.row().items() if name[0] == "R"}
        words = ", ".join(f"{name.partition(',')[0]} {value:.1f}" for name, value in row.items())
        unmatched = f", {self.unmatched} without a match left out" if self.unmatched else ""
        return f"{words} ({len(self.ap)} probes{unmatched}{', re-ranked' if self.reranked else ''})"


def distances(probe: Tensor, gallery: Tensor, normalise: bool = True) -> Tensor:
    """Euclidean float64 distances (P, G) of features (P, C) and (G, C), scaled to unit length or not [O]."""
    return _direct(_float64(probe, normalise), _float64(gallery, normalise))


@plain_mode()
def evaluate(
    probe: Tensor, gallery: Tensor, probe_pids: Labels, gallery_pids: Labels,
    probe_camids: Labels, gallery_camids: Labels, normalise: bool = True, block: int = 128,
    rerank: bool = False,
) -> Scores:
    """Scores of probe features (P, C) against gallery features (G, C) and their labels.

    Ranks are those of :func:`distances`; memory beside the features is O(block * G). With ``rerank`` they
    are those of :func:`~bnta_lib.reranking.reranked`, and memory is O((P + G)^2). Raises ValueError for an
    empty side, labels that do not fit, or no match at all, FloatingPointError for broken features.
    """
    probe, probe_pids, probe_camids = _side("probe", probe, probe_pids, probe_camids)
    gallery, gallery_pids, gallery_camids = _side("gallery", gallery, gallery_pids, gallery_camids)
    if probe.shape[1] != gallery.shape[1]:
        raise ValueError(f"features of {probe.shape[1]} and {gallery.shape[1]} channels do not compare")
    if nobody := int((probe_pids < 1).sum()):
        warnings.warn(f"{nobody} probes of person 0 or less match nobody and are left out of the scores: if "
                      "0 is a person, number yours from 1", stacklevel=3)
    if (junk := gallery_pids < 0).any():
        gallery, gallery_pids, gallery_camids = gallery[~junk], gallery_pids[~junk], gallery_camids[~junk]
    if len(probe) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to evaluate: {len(probe)} probes, {len(gallery)} gallery images"
                         f"{f', {junk.sum()} of junk' if len(junk) > len(gallery) else ''}")
    candidates = _candidates(probe_pids, gallery_pids, probe_camids, gallery_camids)
    ranker, rows = (_Reranker if rerank else _Ranker)(probe, gallery, normalise), []
    for chunk in torch.arange(len(probe)).split(block):
        for ranks in ranker(chunk, *zip(*(candidates[i] for i in chunk.tolist()), strict=True)):
            if len(ranks):
                ranks, hits = np.sort(ranks), np.arange(1, len(ranks) + 1)
                rows.append(((hits / ranks).mean(), ranks[0], len(ranks) / ranks[-1]))
    if not rows:
        raise ValueError("no probe has a match in the gallery: check persons and cameras")
    ap, rank, inp = (torch.tensor(np.array(column)) for column in zip(*rows, strict=True))
    return Scores(ap, rank, inp, len(probe) - len(rows), rerank)


def whole_numbers(values: Labels, n: int, what: str, lowest: float = -math.inf) -> Tensor:
    """Labels as int64 (n,) on the CPU. Raises ValueError for others, or one below ``lowest``."""
    try:
        labels = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
        with np.errstate(invalid="ignore"):  # of NaN
            whole = labels.shape == (n,) and labels.dtype.kind in "biuf" and labels == labels.astype(np.int64)
    except (TypeError, ValueError, RuntimeError):  # words, or lists in lists
        whole = False
    if not n or not np.all(whole) or labels.min() < lowest:
        start = "" if lowest == -math.inf else f" from {lowest}"
        raise ValueError(f"{what} are whole numbers{start}, one for each of {n} images (at least one)")
    if labels.dtype.kind == "u" and labels.max() == np.iinfo(labels.dtype).max:
        raise ValueError(f"{what} reach {labels.max()}, which may be -1 in {labels.dtype}: give int64")
    return torch.from_numpy(labels.astype(np.int64))


def _side(side: str, features: Tensor, pids: Labels, camids: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Features, persons and cameras of one side, checked."""
    features = features if isinstance(features, Tensor) else torch.as_tensor(np.asarray(features))
    features = features.detach().cpu()
    if features.ndim != 2:
        raise ValueError(f"{side}: features are of shape (images, channels), got {tuple(features.shape)}")
    n = len(features)
    if not len(pids) == len(camids) == n:
        raise ValueError(f"{side}: {n} features need as many persons and cameras, got {len(pids)} and "
                         f"{len(camids)}")
    require_finite([features], f"{side}: a feature", "the model or the images are broken")
    if not n:
        return features, *torch.zeros(2, 0, dtype=torch.int64)
    pids = whole_numbers(pids, n, f"{side}: persons")
    return features, pids, whole_numbers(camids, n, f"{side}: cameras", 0)


def _candidates(probe_pids: Tensor, gallery_pids: Tensor, probe_camids: Tensor,
                gallery_camids: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each probe the gallery rows of its person by other cameras (matches) and by its own (junk)."""
    pids, camids = gallery_pids.cpu().numpy(), gallery_camids.cpu().numpy()
    candidates = []
    for pid, camid in zip(probe_pids.tolist(), probe_camids.tolist(), strict=True):
        same = np.flatnonzero(pids == pid) if pid > 0 else np.arange(0)
        candidates.append((same[camids[same] != camid], same[camids[same] == camid]))
    return candidates


class _Ranker:
    """Ranks of matches by float64 distances, computed only if a float32 product leaves them open."""

    def __init__(self, probe: Tensor, gallery: Tensor, normalise: bool):
        self.probe, self.gallery, self.normalise = probe, gallery, normalise
        self.centre = _float64(gallery[:BLOCK], normalise).mean(0)  # rounding grows far from the origin
        self.fast = torch.cat([(_float64(rows, normalise) - self.centre).float()
                               for rows in gallery.split(BLOCK)])
        squares = torch.cat([rows.double().square().sum(1) for rows in self.fast.split(BLOCK)])
        self.squares, self.largest = squares.float(), squares.max().sqrt()

    def __call__(self, rows: Tensor, matches: Sequence[np.ndarray],
                 junk: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Ranks, from 1, of the matches of each of the probes ``rows``."""
        probes = _float64(self.probe[rows], self.normalise)
        fast = (probes - self.centre).float()
        squares = fast.double().square().sum(1, keepdim=True)
        # 2 p.g in float32 is off by C/2 eps |2 p| |g| at most, in any order of summation, and 4 |p| |g| is no
        # more than (|p| + |g|)^2. 8 more for the rounding of features, norms and sums.
        float32, scale = torch.finfo(torch.float32), (squares.sqrt() + self.largest).square()
        error = ((fast.shape[1] / 4 + 8) * float32.eps * scale + float32.tiny)[:, 0].tolist()
        near = torch.addmm(self.squares, fast, self.fast.T, alpha=-2).add_(squares.float())
        measured, states, bands = self._exact(probes, matches), [], []
        for row, bound, exact, match, other in zip(near.numpy(), error, measured, matches, junk, strict=True):
            row[other] = np.inf
            low, high = ((exact**2 + offset).astype(np.float32) for offset in (-bound, bound))
            columns = np.flatnonzero(row <= high.max(initial=-np.inf))  # no other can be ahead of a match
            row = row[columns]
            ordered = np.sort(row)
            nearer = ordered.searchsorted(low)  # surely
            within = ordered.searchsorted(high, "right") - nearer
            tied = np.flatnonzero(within > 1)  # more than the match itself is within the bound
            band = np.zeros(len(row), bool)
            for k in tied:
                band |= (row >= low[k]) & (row <= high[k])
            states.append((nearer, tied, *(of[tied, None] for of in (low, exact, match)), row[band]))
            bands.append(columns[band])
        for (nearer, tied, low, exact, match, row), columns, distance in zip(
                states, bands, self._exact(probes, bands), strict=True):
            ahead = (distance < exact) | ((distance == exact) & (columns < match))
            nearer[tied] += (ahead & (row >= low)).sum(1)
        return [1 + nearer for nearer, *_ in states]

    def _exact(self, probes: Tensor, columns: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Distances of each of ``probes`` (P, C) to its ``columns`` of the gallery."""
        counts = [len(some) for some in columns]
        probe = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        image = torch.from_numpy(np.concatenate(columns))
        blocks = [_direct(probes[p, None], _float64(self.gallery[g], self.normalise)[:, None])[:, 0, 0]
                  for p, g in zip(probe.split(BLOCK), image.split(BLOCK), strict=True)]
        return np.split(torch.cat(blocks).numpy(), np.cumsum(counts)[:-1])


class _Reranker:
    """Ranks of matches by re-ranked distances."""

    def __init__(self, probe: Tensor, gallery: Tensor, normalise: bool):
        self.near = reranked(_float64(probe, normalise), _float64(gallery, normalise)).numpy()

    def __call__(self, rows: Tensor, matches: Sequence[np.ndarray],
                 junk: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Ranks, from 1, of the matches of each of the probes ``rows``."""
        ranks = []
        for row, match, other in zip(self.near[rows], matches, junk, strict=True):
            row[other] = np.inf
            ranks.append(1 + row.argsort(kind="stable").argsort()[match])
        return ranks


def _float64(features: Tensor, normalise: bool) -> Tensor:
    return F.normalize(features.double()) if normalise else features.double()


def _direct(probe: Tensor, gallery: Tensor) -> Tensor:
    # The expanded product loses small distances, and rounds equal ones apart, which would break ties.
    return torch.cdist(probe, gallery, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class Ranking:
    """The nearest gallery images of P probes."""

    index: Tensor  # int64 (P, k): rows of the gallery, nearest first
    right: Tensor  # bool (P, k): shows the probe's person
    rank: Tensor  # int64 (P,): rank of the first match, from 1; 0 if the gallery has none


def top_gallery(
    probe: Tensor, gallery: Tensor, probe_pids: Labels, gallery_pids: Labels,
    probe_camids: Labels, gallery_camids: Labels, k: int = 10, normalise: bool = True,
) -> Ranking:
    """The ``k`` nearest gallery images of each of a few hundred probes, by the rules of :func:`evaluate`."""
    if len(gallery) < k:
        raise ValueError(f"a gallery of {len(gallery)} images has no {k} nearest")
    probe, probe_pids, probe_camids = _side("probe", probe, probe_pids, probe_camids)
    gallery, gallery_pids, gallery_camids = _side("gallery", gallery, gallery_pids, gallery_camids)
    same = (probe_pids[:, None] == gallery_pids) & (gallery_pids > 0)
    junk = same & (probe_camids[:, None] == gallery_camids) | (gallery_pids < 0)
    order = distances(probe, gallery, normalise).masked_fill_(junk, torch.inf).argsort(dim=1, stable=True)
    right = (same & ~junk).gather(1, order)
    rank = torch.where(right.any(1), right.int().argmax(1) + 1, 0)
    return Ranking(order[:, :k], right[:, :k], rank)
