"""Headroom of the embedded benchmark: rank 1 without adaption on held-out people and on targets.

Galleries differ in size, so rank 1 is also given for one common size.
"""

import pandas as pd
from scipy import stats

KINDS = ("held-out people of a source", "target", "target, neutral camera")


def rank_1_among(rank, gallery, size: int):
    """Chance that the only match stays first in a smaller gallery of ``size`` images.

    ``rank``: of the match among ``gallery`` images. None of the rank - 1 nearer ones may be among the
    size - 1 others, drawn evenly (hypergeometric).
    """
    return stats.hypergeom.pmf(0, gallery - 1, rank - 1, size - 1)


def common_size(rows: pd.DataFrame) -> int:
    """The gallery size at which all sets are compared: the smallest of theirs."""
    return int(rows["gallery"].min())


def headroom_scores(rows: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Rank 1 in per cent by set and kind, and by more columns of ``rows`` if named.

    ``rows``: of ``lab.measure("headroom")``, the rank of a probe's match each. Columns: set, kind (one of
    KINDS), ``by``, probes (over all splits), gallery, R1, std (over splits), and R1 common: the same for
    galleries of :func:`common_size` images.
    """
    rows = rows.rename(columns={"target": "set", "part": "kind"})
    chance = rank_1_among(rows["value"], rows["gallery"], common_size(rows))
    rows = rows.assign(first=100.0 * (rows["value"] == 1), common=100 * chance)
    keys = ["set", "kind", *by]
    spread = rows.groupby([*keys, "split"], sort=False)["first"].mean()
    grouped = rows.groupby(keys, sort=False)
    return pd.DataFrame({
        "probes": grouped.size(), "gallery": grouped["gallery"].first(), "R1": grouped["first"].mean(),
        "std": spread.groupby(keys, sort=False).std(), "R1 common": grouped["common"].mean(),
    }).reset_index()


def headroom_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a set: rank 1, that at a common gallery size, by camera pair, and the gap's parts.

    Worst and best pair count pairs with at least 20 probes. For targets: gap, the points of common rank 1
    below the mean of the held-out sources; photometric, the part of it that neutral cameras give back
    (points), and share, the same in per cent of the gap (empty if there is no gap).
    """
    scores = headroom_scores(rows)
    pairs = headroom_scores(rows, ("cameras",)).query("probes >= 20").groupby(["kind", "set"])["R1"]
    pairs = pairs.agg(["count", "min", "max"]).set_axis(["camera pairs", "worst pair", "best pair"], axis=1)
    table = scores.query("kind != @KINDS[2]").set_index(["kind", "set"]).join(pairs)
    common = scores.set_index(["kind", "set"])["R1 common"]
    # Published sets have neither held-out people nor neutral cameras: there is no gap to measure.
    for name in common[KINDS[1]].index if set(KINDS) <= {kind for kind, _ in common.index} else ():
        gap = common[KINDS[0]].mean() - common[KINDS[1], name]
        light = common[KINDS[2], name] - common[KINDS[1], name]
        share = 100 * light / gap if gap > 0 else float("nan")
        table.loc[(KINDS[1], name), ["gap", "photometric", "share"]] = gap, light, share
    return table.rename(columns={"R1 common": f"R1 of {common_size(rows)}"})
