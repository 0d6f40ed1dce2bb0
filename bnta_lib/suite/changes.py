"""Change rates of the BN layers, from layer to layer and from target to target (Figure 3).

``rows`` are those of ``lab.measure("changes")``. A change rate is the sum over channels of
|after - before| divided by the sum of |before|: it is large where much moved, and also where there
was little before.
"""

from __future__ import annotations

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


def why_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates averaged over layers, and the losses: columns target, split, what, value."""
    rows = rows.rename(columns={"metric": "what"})
    return rows.groupby(["target", "split", "what"], sort=False, as_index=False)["value"].mean()


def change_rates_by_split(rows: pd.DataFrame) -> pd.DataFrame:
    """The change rates among the rows: target, split, quantity, index, layer, rate (per cent).

    NaN if the quantity was 0 in every channel, as beta of `bnneck` is: it has no rate.
    """
    rates = rows[rows["metric"].str.startswith("rate ")]
    rates = rates.assign(quantity=rates["metric"].str.removeprefix("rate "), index=rates["index"].astype(int))
    return rates.rename(columns={"value": "rate"})[
        ["target", "split", "quantity", "index", "layer", "rate"]].reset_index(drop=True)


def mean_rates(rates: pd.DataFrame) -> pd.DataFrame:
    """Over splits: target, quantity, index, layer, rate, std (per cent), splits."""
    by_layer = rates.groupby(["target", "quantity", "index", "layer"], sort=False)["rate"]
    return by_layer.agg(rate="mean", std="std", splits="count").reset_index()


def top_layers(rates: pd.DataFrame, quantity: str, top: int = TOP) -> list[int]:
    """Indices of the layers whose rate is largest on average over the targets, in their order.

    ``rates``: of :func:`mean_rates` or :func:`change_rates_by_split`.
    """
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

    Columns: quantity, paper (indices), ours (indices), both (those in common), shared (how many),
    expected (by chance: top / layers of the named), p (of so many or more by chance).
    """
    rows, layers = [], rates["index"].nunique()
    for quantity, paper in PAPER_LAYERS.items():
        ours = top_layers(rates, quantity, top)
        both = [index for index in paper if index in ours]
        chance = stats.hypergeom(layers, len(ours), len(paper))
        rows.append({"quantity": quantity, "paper": list(paper), "ours": ours, "both": both,
                     "shared": len(both), "expected": float(chance.mean()),
                     "p": float(chance.sf(len(both) - 1))})
    return pd.DataFrame(rows)


def between_targets(rates: pd.DataFrame) -> pd.DataFrame:
    """Whether rates differ between targets more than between splits of one, a row a quantity.

    Columns: quantity, layers (that moved at all), share (per cent of them whose standard deviation
    between the targets' means exceeds that between splits of a target), ratio (median over layers of
    the first to the second). Raises ValueError for a single target or split.
    """
    means = mean_rates(rates.dropna(subset="rate"))
    if means["target"].nunique() < 2 or (means["splits"] < 2).any():
        raise ValueError("a comparison of targets needs two of them, with two splits each")
    by_layer = means.groupby(["quantity", "index"])
    between, within = by_layer["rate"].std(), by_layer["std"].apply(lambda std: np.sqrt((std**2).mean()))
    table = pd.DataFrame({"wider": 100.0 * (between > within), "ratio": between / within})
    table = table[by_layer["rate"].max() > 0].groupby("quantity").agg(
        layers=("wider", "size"), share=("wider", "mean"), ratio=("ratio", "median"))
    return _ordered(table.reset_index())


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the paper's order of the quantities, whatever that of the store."""
    order = list(QUANTITIES).index
    return table.sort_values("quantity", key=lambda names: names.map(order)).reset_index(drop=True)


def steps_at(targets: Mapping[str, Target], settings: Settings) -> dict[str, int]:
    """Steps of Eq. (14) on each target's first split: the statistics move once in each."""
    pairs = {name: min(settings.K, len(t.splits[0].gallery) // 2) for name, t in targets.items()}
    return {name: settings.tta_epochs * -(-k // settings.tta_batch) for name, k in pairs.items()}


def layer_sizes(model: BNTANet) -> pd.DataFrame:
    """What the rates divide by: quantity, index, layer, size (mean over channels of |before|)."""
    return pd.DataFrame([
        {"quantity": quantity, "index": index, "layer": name,
         "size": float(getattr(layer, kind).detach().abs().mean())}
        for index, (name, layer) in enumerate(bn_layers(model).items(), start=1)
        for quantity, kind in QUANTITIES.items()
    ])


def moved_and_size(rates: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Rates taken apart, means over targets: quantity, index, layer, rate, size, moved.

    moved is the mean over channels of |after - before|, in the quantity's own unit, so that
    rate = 100 moved / size.
    """
    keys = ["quantity", "index", "layer"]
    table = mean_rates(rates).groupby(keys, sort=False, as_index=False)["rate"].mean().merge(sizes, on=keys)
    return table.assign(moved=table["rate"] * table["size"] / 100)


def small_before(parts: pd.DataFrame, top: int = TOP) -> pd.DataFrame:
    """How much of the rates' spread over layers comes from what they divide by, a row a quantity.

    ``parts``: of :func:`moved_and_size`. Columns: quantity, share (per cent of the variance of log rate
    over the layers that moved: the covariance with -log size; the rest goes with log moved; beyond 0 to
    100 if the two pull against each other), largest (index of the largest rate), rank (of that layer from
    the smallest size) among layers (how many moved), agree (how many of the top layers by rate are top
    ones by what moved).
    """
    rows = []
    for quantity, moved in parts[parts["rate"] > 0].groupby("quantity"):
        covariance = np.cov(np.log(moved["rate"]), -np.log(moved["size"]))
        first = moved.loc[moved["rate"].idxmax()]
        agree = set(moved.nlargest(top, "rate")["index"]) & set(moved.nlargest(top, "moved")["index"])
        rows.append({"quantity": quantity, "share": 100 * covariance[0, 1] / covariance[0, 0],
                     "largest": int(first["index"]), "rank": int((moved["size"] <= first["size"]).sum()),
                     "layers": len(moved), "agree": len(agree)})
    return _ordered(pd.DataFrame(rows))
