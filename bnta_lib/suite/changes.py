"""Change rates of the BN layers, from layer to layer and from target to target (Figure 3).

``rows`` are those of ``lab.measure("changes")``. A change rate is the sum over channels of
|after - before| divided by the sum of |before|: it is large if much moved, and also if there
was little before.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.adaption import QUANTITIES
from bnta_lib.data.sets import Target
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import Settings

# The layers that the paper names in Section 4.3, by its index "from shallow to deep".
PAPER_LAYERS = {"mean": (1, 52, 57, 58, 60), "var": (1, 52, 57, 58, 60),
                "gamma": (2, 6, 9, 42, 51), "beta": (2, 6, 9, 42, 51)}
TOP = 10
LAYER_LEVEL = 0.05  # of the analysis of variance of a layer; the share that differs by chance


def change_rates_by_split(rows: pd.DataFrame) -> pd.DataFrame:
    """The change rates among the rows: target, split, quantity, index, layer, rate (per cent).

    NaN if the quantity was 0 in every channel, as beta of `bnneck` is: it has no rate.
    """
    rates = rows[rows["metric"].str.startswith("rate ")].rename(columns={"value": "rate"})
    rates = rates.assign(quantity=rates["metric"].str.removeprefix("rate "), index=rates["index"].astype(int))
    return rates[["target", "split", "quantity", "index", "layer", "rate"]].reset_index(drop=True)


def mean_rates(rates: pd.DataFrame) -> pd.DataFrame:
    """Over splits: target, quantity, index, layer, rate, std (per cent), splits."""
    by_layer = rates.groupby(["target", "quantity", "index", "layer"], sort=False)["rate"]
    return by_layer.agg(rate="mean", std="std", splits="count").reset_index()


def top_layers(rates: pd.DataFrame, quantity: str, top: int = TOP) -> list[int]:
    """Indices of the layers whose rate is largest on average over the targets, in their order."""
    means = rates[rates["quantity"] == quantity].groupby(["target", "index"])["rate"].mean()
    return sorted(means.groupby("index").mean().nlargest(top).index.tolist())


def figure_3_table(rates: pd.DataFrame, top: int = TOP) -> pd.DataFrame:
    """The top layers of each quantity: quantity, index, layer, "S→target" as text, per cent."""
    means = mean_rates(rates)
    means["text"] = [f"{r:.3g}" if np.isnan(s) else f"{r:.3g} ± {s:.2g}"
                     for r, s in zip(means["rate"], means["std"])]
    shown = [means[(means["quantity"] == q) & means["index"].isin(top_layers(means, q, top))]
             for q in QUANTITIES]
    table = pd.concat(shown).pivot(index=["quantity", "index", "layer"], columns="target", values="text")
    table = table.reindex(list(QUANTITIES), level="quantity")[list(rates["target"].unique())]
    return table.rename(columns="S→{}".format).rename_axis(columns=None).reset_index()


def paper_overlap(rates: pd.DataFrame, top: int = TOP) -> pd.DataFrame:
    """How many of the layers that the paper names are among our top ones, a row a quantity.

    Columns: quantity, paper, ours, both (indices), shared (how many), expected (by chance), p (of so many
    or more by chance).
    """
    rows = []
    for quantity, paper in PAPER_LAYERS.items():
        ours = top_layers(rates, quantity, top)
        both = [index for index in paper if index in ours]
        chance = stats.hypergeom(rates["index"].nunique(), len(ours), len(paper))
        rows.append({"quantity": quantity, "paper": list(paper), "ours": ours, "both": both,
                     "shared": len(both), "expected": chance.mean(), "p": chance.sf(len(both) - 1)})
    return pd.DataFrame(rows)


def between_targets(rates: pd.DataFrame) -> pd.DataFrame:
    """How many layers' rates differ between targets, a row a quantity; none for a single target or split.

    Columns: quantity, layers (that moved at all; bnneck, which no gradient reaches, may not), share (per cent
    of them at which an analysis of variance over splits has p < LAYER_LEVEL).
    """
    rows = []
    for quantity, group in rates.dropna(subset="rate").groupby("quantity", sort=False):
        table = group.pivot(index=["target", "split"], columns="index", values="rate")
        table = table.loc[:, table.max() > 0]
        targets = [target for _, target in table.groupby("target")]
        if len(targets) > 1 and min(map(len, targets)) > 1:
            differing = stats.f_oneway(*targets).pvalue < LAYER_LEVEL
            rows.append({"quantity": quantity, "layers": len(differing), "share": 100 * differing.mean()})
    return pd.DataFrame(rows, columns=["quantity", "layers", "share"])


def steps_at(targets: Mapping[str, Target], settings: Settings) -> dict[str, int]:
    """Steps of Eq. (14) on each target's first split: the statistics move once in each."""
    pairs = {name: min(settings.K, len(t.splits[0].gallery) // 2) for name, t in targets.items()}
    return {name: settings.tta_epochs * -(-k // settings.tta_batch) for name, k in pairs.items()}


def moved_and_size(rates: pd.DataFrame, model: BNTANet) -> pd.DataFrame:
    """Rates taken apart, means over targets: quantity, index, layer, rate, size, moved.

    size is the mean over channels of |before|, as in ``model``, and moved that of |after - before|.
    """
    before = {(quantity, name): float(getattr(layer, kind).detach().abs().mean())
              for name, layer in bn_layers(model).items() for quantity, kind in QUANTITIES.items()}
    keys = ["quantity", "index", "layer"]
    table = mean_rates(rates).groupby(keys, sort=False, as_index=False)["rate"].mean()
    table["size"] = [before[key] for key in zip(table["quantity"], table["layer"])]
    return table.assign(moved=table["rate"] * table["size"] / 100)
