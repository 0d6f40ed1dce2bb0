"""Headroom of the embedded benchmark: how a model does, without adaption, on people it never saw.

A benchmark of domain shift needs a gap: a model should do clearly better on held-out people of
its sources than on a target, and be neither at chance nor saturated there. Galleries differ in
size (60 to 900 images), so rank 1 is also given for one common size.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

KINDS = ("held-out people of a source", "target", "target, neutral camera")


def rank_1_among(rank: Tensor, gallery: Tensor, size: int) -> Tensor:
    """Chance (P,), float64, that a match stays first in a smaller gallery of ``size`` images.

    ``rank`` (P,) of the only match among ``gallery`` (P,) images. The smaller gallery holds the
    match and size - 1 of the others, drawn evenly: none of the rank - 1 nearer ones may be among
    them, which is C(gallery - rank, size - 1) / C(gallery - 1, size - 1).
    """
    rank, gallery = rank.double(), gallery.double()
    far, drawn = gallery - rank, size - 1
    if (gallery < size).any():
        raise ValueError(f"a gallery of {int(gallery.min())} images cannot be cut to {size}")

    def log_choose(n: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma((n - drawn).clamp(min=0) + 1)

    chance = (log_choose(far) - log_choose(gallery - 1)).exp()
    return torch.where(far >= drawn, chance, 0.0)


def common_size(rows: pd.DataFrame) -> int:
    """The gallery size at which all sets are compared: the smallest of theirs."""
    return int(rows["gallery"].min())


def headroom_scores(rows: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Rank 1 in per cent by set and kind, and by more columns of ``rows`` if named.

    ``rows``: a row a probe, with target (or set), part (or kind: one of KINDS), split, cameras, gallery
    and the rank of the match as value (or rank).
    Columns: set, kind, ``by``, probes (over all splits), gallery, R1, std (over splits), and
    R1 common: the same for galleries of :func:`common_size` images.
    """
    rows = rows.rename(columns={"target": "set", "part": "kind", "value": "rank"})
    size = common_size(rows)
    rank, gallery = torch.tensor(rows["rank"].to_numpy()), torch.tensor(rows["gallery"].to_numpy())
    rows = rows.assign(first=100.0 * (rows["rank"] == 1),
                       common=100 * rank_1_among(rank, gallery, size).numpy())
    keys = ["set", "kind", *by]
    spread = rows.groupby([*keys, "split"], sort=False)["first"].mean()
    grouped = rows.groupby(keys, sort=False)
    return pd.DataFrame({
        "probes": grouped.size(), "gallery": grouped["gallery"].first(),
        "R1": grouped["first"].mean(), "std": spread.groupby(keys, sort=False).std(),
        "R1 common": grouped["common"].mean(),
    }).reset_index()


def headroom_table(rows: pd.DataFrame, least: int = 20) -> pd.DataFrame:
    """A row a set: rank 1, that at a common gallery size, by camera pair, and the gap's parts.

    Worst and best pair count pairs with at least ``least`` probes. For targets: gap, the points
    of common rank 1 below the mean of the held-out sources; photometric, the part of it that
    neutral cameras give back (points), and share, the same in per cent of the gap (empty where
    there is no gap).
    """
    scores = headroom_scores(rows)
    pairs = headroom_scores(rows, ("cameras",)).query("probes >= @least")
    pairs = pairs.groupby(["set", "kind"])["R1"].agg(["count", "min", "max"])
    table = scores.query("kind != @KINDS[2]").set_index(["kind", "set"])
    for index in table.index.intersection(pairs.index.swaplevel()):
        table.loc[index, ["camera pairs", "worst pair", "best pair"]] = pairs.loc[index[::-1]].values
    common = scores.set_index(["kind", "set"])["R1 common"]
    # Published sets have neither held-out people nor neutral cameras: there is no gap to measure.
    for name in common[KINDS[1]].index if set(KINDS) <= {kind for kind, _ in common.index} else ():
        gap = common[KINDS[0]].mean() - common[KINDS[1], name]
        light = common[KINDS[2], name] - common[KINDS[1], name]
        share = 100 * light / gap if gap > 0 else float("nan")
        table.loc[(KINDS[1], name), ["gap", "photometric", "share"]] = gap, light, share
    return table.rename(columns={"R1 common": f"R1 of {common_size(rows)}"})
