"""What can be known of retrieval at a site without a label: from tracks, and in rankings to look at.

A track's early crop is searched for among the late ones of all tracks. This is no rank 1 across cameras: a
track stays in one light, which is easier, and one person in two tracks counts as two, which makes the
estimate too low.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from bnta_lib.evaluation import Ranking, distances, evaluate, top_gallery
from bnta_lib.files import atomic
from bnta_lib.settings import ROOT, Settings
from bnta_lib.site.crops import Site

# Estimates and true changes on rendered sites, by data/build_site_study.py.
STUDY = ROOT / "data" / "site_study.csv"


def track_trial(site: Site) -> tuple[Tensor, Tensor]:
    """Rows (T,) of the first crop of each track and of the last; tracks of one crop are left out.

    The first crops probe the last ones, one a track: with three, nearly every track is right whatever the
    model. Raises ValueError if the site has fewer than two tracks with an early and a late crop.
    """
    if site.tracks is None:
        raise ValueError(f"{site.name} has no tracks to estimate rank 1 from. "
                         "Give a video, or a folder for each track and tracks='folders'")
    crops = pd.DataFrame({"track": site.tracks.numpy(), "time": site.times.numpy()}).reset_index(names="row")
    rows = crops.sort_values(["track", "time"], kind="stable").groupby("track")["row"].agg(["first", "last"])
    rows = rows[rows["first"] != rows["last"]]
    if len(rows) < 2:
        raise ValueError(f"{site.name} has {len(rows)} track{'s' * (len(rows) != 1)} with an early and a late"
                         " crop: an estimate of rank 1 needs at least 2, and is of use from some thirty on")
    return torch.tensor(rows["first"].tolist()), torch.tensor(rows["last"].tolist())


def track_ranking(features: Tensor, trial: tuple[Tensor, Tensor], settings: Settings, k: int = 10) -> Ranking:
    """The ``k`` nearest late crops of each early one of a :func:`track_trial`, from features (N, C)."""
    early, late = trial
    track = torch.arange(1, len(early) + 1)
    cameras = torch.ones_like(track), torch.full_like(track, 2)  # as if: a camera's own crops do not count
    return top_gallery(features[early], features[late], track, track, *cameras, min(k, len(late)),
                       settings.normalise_features)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` (T,) in -1..1: bootstrap over tracks, percentiles.

    If all values are equal, the share of others is below 3 / T (rule of three): the interval is as wide.
    """
    if (values == values[0]).all():
        lowest, reach = 0 if values.dtype == bool else -1, 3 / len(values)
        return float(max(values[0] - reach, lowest)), float(min(values[0] + reach, 1))
    bounds = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=seed)
    return tuple(map(float, bounds.confidence_interval))


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
        """A row each for before, after and the difference, which has the verdict."""
        rows = {"before": (*self.before, ""), "after": (*self.after, ""),
                "difference": (*self.difference, self.verdict)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["R1", "low", "high", "verdict"])


def estimate(before: Tensor, after: Tensor, trial: tuple[Tensor, Tensor], settings: Settings,
             seed: int = 0) -> Estimate:
    """The estimate from features (N, C) of all crops by the model before and after adaption."""
    hits = [(track_ranking(features, trial, settings, 1).rank == 1).numpy() for features in (before, after)]
    change = hits[1].astype(float) - hits[0].astype(float)
    rows = [(float(100 * x.mean()), *(100 * bound for bound in interval(x, seed))) for x in (*hits, change)]
    return Estimate(len(change), *rows, int((change > 0).sum()), int((change < 0).sum()))


def tracks_by_camera(site: Site, before: Tensor, after: Tensor, settings: Settings,
                     seed: int = 0) -> pd.DataFrame:
    """The estimate among the tracks of each camera alone, a row each: there its light cannot help.

    Tracks that begin at one camera and end at another come last. Raises ValueError as :func:`track_trial`.
    """
    early, late = track_trial(site)
    first, last = site.cameras[early], site.cameras[late]
    groups = {name: (first == camera) & (last == camera) for camera, name in site.camera_names.items()}
    groups["from one to another"] = (first != last) & (first > 0) & (last > 0)
    rows = {}
    for name, tracks in groups.items():
        if tracks.sum() > 1:
            found = estimate(before, after, (early[tracks], late[tracks]), settings, seed)
            rows[name] = found.tracks, found.before[0], found.after[0], *found.difference, found.verdict
    columns = ["tracks", "before", "after", "difference", "low", "high", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def true_rank_1(site: Site, settings: Settings, *features: Tensor) -> tuple[float, ...] | None:
    """Rank 1 across cameras, per cent, with each of ``features`` (N, C); None if nobody knows who is who.

    The early crop of every track is searched for among all crops that are not the early one of a track.
    """
    if site.pids is None:
        return None
    probe, _ = track_trial(site)
    gallery = torch.ones(len(site), dtype=torch.bool).index_fill(0, probe, False).nonzero()[:, 0]
    labels = [values[rows] for values in (site.pids, site.cameras) for rows in (probe, gallery)]
    return tuple(evaluate(f[probe], f[gallery], *labels, settings.normalise_features).row()["R1"]
                 for f in features)


def ranked_table(probes: Site, site: Site, probe: Tensor, gallery: Tensor, settings: Settings,
                 k: int) -> pd.DataFrame:
    """The ``k`` nearest crops of each probe, a row each: probe, rank, gallery, distance.

    Of a video also left, top, width, height: where in its frame the crop was cut, in pixels.
    ``probe`` (P, C) and ``gallery`` (N, C): features of the crops of ``probes`` and ``site``.
    """
    nearest = distances(probe, gallery, settings.normalise_features).sort(dim=1, stable=True)
    distance, order = (values[:, :k] for values in nearest)
    rank = np.arange(1, order.shape[1] + 1)
    table = pd.DataFrame({
        "probe": np.repeat(np.array(probes.files, object), len(rank)), "rank": np.tile(rank, len(probe)),
        "gallery": np.array(site.files, object)[order.flatten().numpy()],
        "distance": distance.flatten().numpy()})
    if site.boxes is not None:
        table[["left", "top", "width", "height"]] = site.boxes[order.flatten()].numpy()
    return table


def save_ranked(table: pd.DataFrame, path: str | Path) -> None:
    """Write :func:`ranked_table` as CSV, whole or not at all; six decimals of the distance."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", encoding="utf-8")


def neighbours(gallery: Tensor, probes: Tensor | None, settings: Settings, k: int = 10) -> Tensor:
    """Rows (P, k) of the crops that are nearest to probes, or else each to the others, by their features."""
    d = distances(gallery if probes is None else probes, gallery, settings.normalise_features)
    if probes is None:
        d.fill_diagonal_(torch.inf)
    return d.argsort(dim=1, stable=True)[:, : min(k, len(gallery) - (probes is None))]


def most_changed(before: Tensor, after: Tensor) -> Tensor:
    """The row with the most new neighbours among its k (P, k), and the middle one."""
    new = (~(after[:, :, None] == before[:, None, :]).any(2)).sum(1)
    order = torch.argsort(new, descending=True, stable=True).tolist()
    return torch.tensor(list(dict.fromkeys([order[0], order[len(order) // 2]])))


def agreement(study: pd.DataFrame) -> pd.Series:
    """How often both changes of :data:`STUDY` agree: counts of adaptions."""
    sign, resolved = np.sign(study["estimate"] * study["true"]), study["verdict"] != "not resolved"
    return pd.Series({
        "adaptions": len(study), "true rank 1 changed": int((study["true"] != 0).sum()),
        "of these, estimate of the same sign": int((sign > 0).sum()),
        "of these, estimate of the other sign": int((sign < 0).sum()),
        "estimate clear of zero": int(resolved.sum()), "sites of these": study["site"][resolved].nunique(),
        "of these, true sign": int((sign[resolved] > 0).sum())})
