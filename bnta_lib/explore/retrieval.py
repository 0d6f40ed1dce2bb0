"""Retrieval explorer: one probe and its nearest gallery images, by two models."""

from __future__ import annotations

import ipywidgets as W
import torch
from IPython.display import Image
from torch import Tensor

from bnta_lib.data.sets import Split, Target
from bnta_lib.evaluation import Ranking
from bnta_lib.explore.widgets import RELEASED, WIDE, Explorer
from bnta_lib.figures.adaption import retrieval_figure
from bnta_lib.figures.base import picture

ORDERS = ("most improved first", "most worsened first", "as they come")


def probe_order(before: Ranking, after: Ranking, order: str) -> Tensor:
    """Probes (P,) sorted by how the rank of their first match changed, as one of ORDERS names it.

    A change is the ratio of the ranks, as in :func:`bnta_lib.evaluation.select_example_probes`; probes
    without a match come last.
    """
    if order == ORDERS[2]:
        return torch.arange(len(before.rank))
    ratio = after.rank.double() / before.rank.clamp(min=1).double()
    ratio = ratio if order == ORDERS[0] else -ratio
    return torch.argsort(ratio.masked_fill((before.rank == 0) | (after.rank == 0), torch.inf), stable=True)


def retrieval_explorer(target: Target, split: Split, before: Ranking, after: Ranking) -> Explorer:
    """Any probe of a split: its gallery ranking before and after adaption, right ones marked.

    ``before`` and ``after``: of :func:`bnta_lib.evaluation.top_gallery` on the split's images.
    """
    probes, gallery = target.data.images[split.probe], target.data.images[split.gallery]

    def draw(order: str, number: int) -> Image:
        probe = int(probe_order(before, after, order)[number - 1])
        print(f"probe {probe}: rank of the first match {int(before.rank[probe])} to {int(after.rank[probe])}")
        return picture(retrieval_figure(probes, gallery, before, after, {f"probe {probe}": [probe]}),
                       f"Probe {probe} and its nearest gallery images before and after adaption", False)

    return Explorer(draw, order=W.Dropdown(description="probes", options=ORDERS, **WIDE),
                    number=W.IntSlider(description="number", min=1, max=len(probes), value=1, **RELEASED))
