"""What can be said of retrieval at a site without a label: from tracks, and in rankings to look at.

The early crop of every track is a probe, the late ones of all tracks are the gallery, and that of
its own track is the right answer. This rank 1 needs nobody's labels, but it is no rank 1 across cameras:
a track stays before one camera, in one place and light, within seconds, which is easier; and one
person in two tracks counts as two, which makes the estimate too low. What it can tell is the
*direction* in which adaption moves retrieval, as far as its interval is clear of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking, distances, evaluate, top_gallery
from bnta_lib.files import atomic
from bnta_lib.settings import Settings
from bnta_lib.site.crops import Site

DRAWS = 2000  # of the bootstrap
FEWEST = 2  # tracks


@dataclass(frozen=True)
class Trial:
    """Probes and gallery of the estimate, as rows of the site's images."""

    probe: Tensor  # int64 (T,): the early crop of each track
    gallery: Tensor  # int64 (T,): the late crop of each track
    tracks: Tensor  # int64 (N,): the site's tracks

    def labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Track of probe and gallery, then a camera of each: the early and the late one."""
        return (self.tracks[self.probe], self.tracks[self.gallery],
                torch.ones_like(self.probe), torch.full_like(self.gallery, 2))


def track_trial(site: Site) -> Trial:
    """The first crop of each track against the last crop of all of them.

    One late crop a track: with three of them nearly every track is right whatever the model, and
    rank 1 has no room to move. Tracks of a single crop are left out. Raises ValueError for a site
    without tracks, or with fewer than two that have an early and a late crop.
    """
    if site.tracks is None or site.times is None:
        raise ValueError(f"{site.name} has no tracks: rank 1 cannot be estimated without labels. "
                         "Give a video, or a folder for each track and tracks='folders'")
    probe, gallery = [], []
    for track in torch.unique(site.tracks):
        rows = (site.tracks == track).nonzero()[:, 0]
        rows = rows[torch.argsort(site.times[rows], stable=True)]
        if len(rows) > 1:
            probe.append(rows[:1])
            gallery.append(rows[-1:])
    if len(probe) < FEWEST:
        raise ValueError(f"{site.name} has {len(probe)} track{'s' * (len(probe) != 1)} with an early "
                         f"and a late crop: an estimate of rank 1 needs at least {FEWEST}, and is "
                         "of use from some thirty on")
    return Trial(torch.cat(probe), torch.cat(gallery), site.tracks)


def track_ranks(features: Tensor, trial: Trial, settings: Settings) -> Tensor:
    """Rank (T,), from 1, at which each track's early crop finds its late one."""
    scores = evaluate(features[trial.probe], features[trial.gallery], *trial.labels(),
                      settings.normalise_features)
    return scores.rank


def interval(values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` (T,) in -1..1: bootstrap over tracks, percentiles.

    Where all values are equal a bootstrap knows of no other: with nothing else seen in T tracks,
    the share of others is below 3 / T (rule of three), and the interval is as wide as that.
    """
    n = len(values)
    if (values == values[0]).all():
        low, high = values[0] - 3 / n, values[0] + 3 / n
        bounds = (0, 1) if values[0] in (0.0, 1.0) and values.dtype == bool else (-1, 1)
        return float(max(low, bounds[0])), float(min(high, bounds[1]))
    random = np.random.default_rng(seed)
    means = values[random.integers(0, n, (draws, n))].mean(1)
    return tuple(float(q) for q in np.percentile(means, (2.5, 97.5)))


@dataclass(frozen=True)
class Estimate:
    """Rank 1 by tracks before and after adaption, per cent, each (value, low, high)."""

    tracks: int
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    difference: tuple[float, float, float]  # paired, points
    won: int  # tracks whose first hit is right only after
    lost: int  # and only before

    @property
    def verdict(self) -> str:
        """better, worse, or not resolved: whether the interval of the difference is clear of 0."""
        _, low, high = self.difference
        return "better" if low > 0 else "worse" if high < 0 else "not resolved"

    def table(self) -> pd.DataFrame:
        """A row each for before, after and the difference."""
        rows = {"before": self.before, "after": self.after, "difference": self.difference}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["R1", "low", "high"])

    def sentence(self) -> str:
        """The estimate in words, with its interval."""
        (b, *_), (a, *_), (d, low, high) = self.before, self.after, self.difference
        return (f"{self.tracks} tracks: rank 1 from early to late crop {b:.1f} % before and {a:.1f} % "
                f"after, {d:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}; {self.won} tracks "
                f"won, {self.lost} lost): {self.verdict}")


def estimate(
    before: Tensor, after: Tensor, trial: Trial, settings: Settings, seed: int = 0
) -> Estimate:
    """The estimate from features (N, C) of all crops by the model before and after adaption."""
    hits = [(track_ranks(f, trial, settings) == 1).numpy() for f in (before, after)]
    values = []
    for hit in hits:
        values.append((100 * hit.mean(), *(100 * np.array(interval(hit, seed)))))
    change = hits[1].astype(float) - hits[0].astype(float)
    values.append((100 * change.mean(), *(100 * np.array(interval(change, seed)))))
    numbers = [tuple(map(float, value)) for value in values]
    return Estimate(len(change), *numbers, int((change > 0).sum()), int((change < 0).sum()))


def advice(found: Estimate | None) -> str:
    """What to do with a delta, in a sentence, by the estimate from tracks; None where there is none."""
    if found is None:
        return ("Nothing here says whether this delta helps: search for a few people whom you know, with it "
                "and without, before you use it.")
    if found.verdict == "better":
        return ("By tracks the delta helps: use it, and look at a few searches across cameras, which no track "
                "can judge.")
    if found.verdict == "worse":
        return "By tracks the delta does harm: do not use it, unless searches across cameras say otherwise."
    return (f"By {found.tracks} tracks the delta neither helps nor harms for certain: search for a few people "
            "whom you know, with it and without, or give it more crops.")


def true_target(site: Site) -> Target:
    """Retrieval across cameras where persons are known: the early crop of every track as probe.

    The gallery holds all other crops; those of the probe's person by its own camera are left out
    by the protocol. Raises ValueError for a site whose persons are not known.
    """
    if site.pids is None or site.cameras is None:
        raise ValueError(f"who is who is not known at {site.name}: rank 1 across cameras needs labels")
    probe = track_trial(site).probe
    rest = torch.ones(len(site), dtype=torch.bool)
    rest[probe] = False
    data = ReIDSet(site.name, site.images, site.pids, site.cameras)
    return Target(data, (Split(probe, rest.nonzero()[:, 0]),))


def track_ranking(features: Tensor, trial: Trial, settings: Settings, k: int = 10) -> Ranking:
    """The ``k`` nearest late crops of each early one, to look at."""
    return top_gallery(features[trial.probe], features[trial.gallery], *trial.labels(),
                       min(k, len(trial.gallery)), settings.normalise_features)


def ranked(
    probe: Tensor, gallery: Tensor, settings: Settings, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rows of the gallery (P, k), nearest first, and their distances (P, k), of features (., C).

    Raises ValueError for features that are NaN or infinite.
    """
    if not (torch.isfinite(probe).all() and torch.isfinite(gallery).all()):
        raise ValueError("features hold NaN or infinite values: the model or the images are broken")
    d = distances(probe, gallery, settings.normalise_features)
    order = d.argsort(dim=1, stable=True)[:, :k]
    return order, d.gather(1, order)


def ranked_table(
    probes: Site, site: Site, probe: Tensor, gallery: Tensor, settings: Settings, k: int | None = None
) -> pd.DataFrame:
    """A row for each probe and place: probe, rank, gallery, distance; the first ``k`` places.

    Of a video also left, top, width, height: where in its frame the crop was cut, in pixels.
    ``probe`` (P, C) and ``gallery`` (N, C): features of the crops of ``probes`` and ``site``.
    """
    order, d = ranked(probe, gallery, settings, k)
    places = order.shape[1]
    table = pd.DataFrame({
        "probe": np.repeat(np.array(probes.files, object), places),
        "rank": np.tile(np.arange(1, places + 1), len(probe)),
        "gallery": np.array(site.files, object)[order.flatten().numpy()],
        "distance": d.flatten().numpy(),
    })
    if site.boxes is not None:
        table[["left", "top", "width", "height"]] = site.boxes[order.flatten()].numpy()
    return table


def neighbours(
    before: Tensor, after: Tensor, settings: Settings, k: int = 10,
    probes: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The ``k`` nearest crops before and after, each (P, k), from features (N, C) of the site.

    ``probes``: features (P, C) of the probes before and after; without them each crop is a probe
    among the others. Raises ValueError for a site of a single crop.
    """
    own = probes is None
    k = min(k, len(before) - own)
    if k < 1:
        raise ValueError("a single crop has no neighbours")
    found = []
    for side, gallery in enumerate((before, after)):
        d = distances(gallery if own else probes[side], gallery, settings.normalise_features)
        if own:
            d.fill_diagonal_(torch.inf)
        found.append(d.argsort(dim=1, stable=True)[:, :k])
    return tuple(found)


def most_changed(before: Tensor, after: Tensor, each: int = 2) -> Tensor:
    """Rows whose neighbours (P, k) changed most, and the middle ones: ``each`` of both.

    By how many of the k are new; ties in the order of rows.
    """
    new = (~(after[:, :, None] == before[:, None, :]).any(2)).sum(1)
    order = torch.argsort(new, descending=True, stable=True)
    each = max(1, min(each, len(order) // 2))
    middle = len(order) // 2
    chosen = [*order[:each].tolist(), *order[middle : middle + each].tolist()]
    return torch.tensor(list(dict.fromkeys(chosen)))


def save_ranked(table: pd.DataFrame, path) -> None:
    """Write :func:`ranked_table` as CSV, whole or not at all; six decimals of the distance."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", encoding="utf-8")
