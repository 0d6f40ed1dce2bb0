"""Retrieval explorer: one probe and its nearest gallery images, by two models."""

from __future__ import annotations

import torch
from torch import Tensor

from bnta_lib.data.sets import Split, Target
from bnta_lib.evaluation import Ranking, top_gallery
from bnta_lib.model import BNTANet, embed_global
from bnta_lib.settings import Settings

ORDERS = ("most improved first", "most worsened first", "as they come")


def ranking_of(
    model: BNTANet, target: Target, split: Split, settings: Settings, nearest: int = 10
) -> Ranking:
    """The ``nearest`` gallery images of every probe of a split (fewer in a small gallery)."""
    data, sides = target.data, (split.probe, split.gallery)
    features = [embed_global(model, data.images[side]) for side in sides]
    labels = [kind[side] for kind in (data.pids, data.camids) for side in sides]
    return top_gallery(*features, *labels, min(nearest, len(split.gallery)),
                       settings.normalise_features)


def probe_order(before: Ranking, after: Ranking, order: str) -> Tensor:
    """Probes (P,) sorted by how the rank of their first match changed, as one of ORDERS says.

    A change is the ratio of the ranks, as in :func:`bnta_lib.evaluation.select_example_probes`; probes
    without a match come last. Raises ValueError for an unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: one of {', '.join(ORDERS)}")
    if order == ORDERS[2]:
        return torch.arange(len(before.rank))
    ratio = after.rank.double() / before.rank.clamp(min=1).double()
    ratio = ratio if order == ORDERS[0] else -ratio
    ratio = ratio.masked_fill((before.rank == 0) | (after.rank == 0), torch.inf)
    return torch.argsort(ratio, stable=True)


def rank_sentence(probe: int, before: Ranking, after: Ranking) -> str:
    """What adaption did to one probe, in one line."""
    a, b = int(before.rank[probe]), int(after.rank[probe])
    if not a or not b:
        return f"probe {probe}: the gallery holds no image of this person."
    word = "moved up" if b < a else "moved down" if b > a else "stayed"
    hits = [int(ranking.right[probe].sum()) for ranking in (before, after)]
    return (f"probe {probe}: its first match {word}, rank {a} to {b}; right ones among the nearest "
            f"{before.right.shape[1]}: {hits[0]} before, {hits[1]} after.")
