"""What adaption gains over N and K (Figure 4), open choices and cameras, and the headroom that it has."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from bnta_lib.data.published import names_cameras
from bnta_lib.data.sets import Target
from bnta_lib.suite.samples import images_of
from bnta_lib.suite.specs import CHOICES, DIVERGED, IMAGES
from bnta_lib.suite.stats import FAILS, HOLDS, VERDICTS, describe_by, split_gains

STAGES = ("features", "pairing", "steps")  # of an adaption, each with its seconds
# Level of peak_in_k's interval. The K of a split is chosen on the others, so differences are correlated: at
# 0.95 noise alone clears zero about twice as often as it should, at this level about as often.
PEAK_LEVEL = 0.975
VALUE = ["choice", "value_label"]
KINDS = HOME, TARGET, NEUTRAL = ("held-out people of a source", "target", "target, neutral camera")


def grid_cells(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """A row a cell: target, N, K, value, std, difference, low, high, verdict, and seconds.

    ``rows``: of ``lab.measure("figure_4")``. value and std (per cent) over splits. difference, low, high
    (points) against no adaption. Seconds of each stage and of all: medians, which a busy machine moves least.
    """
    scores, keys = split_gains(rows, ["N", "K"], metric=metric), ["target", "N", "K"]
    cells = scores.groupby(keys, sort=False)["value"].agg(value="mean", std="std").reset_index()
    seconds = rows[rows["metric"].isin(STAGES)].pivot_table(
        index=[*keys, "split"], columns="metric", values="value")[list(STAGES)]
    seconds = seconds.assign(seconds=seconds.sum(axis=1)).groupby(level=keys).median().reset_index()
    return cells.merge(describe_by(scores, keys).drop(columns="reason")).merge(seconds)


def peak_in_k(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Whether rank 1 rises from the smallest K to a K inside, and declines from it to the largest.

    The best of noisy values always looks like a peak: so a split's K inside is chosen on the *other* splits.
    Two rows (``part``: "rise", "decline") for each target and N with three values of K or more. Columns:
    target, N, part, best (K of the highest mean), difference (points), low, high (see PEAK_LEVEL), verdict.
    ``pooled``: averaged over N on every split. No row for one split.
    """
    tables = []
    for target, n, table in _tables(rows, "N", "K", metric, least=3):
        inner = table.iloc[:, 1:-1].to_numpy()
        others = inner.sum(0) - inner  # of each K inside, summed over the other splits
        selected = inner[np.arange(len(inner)), others.argmax(1)]
        for part, end in (("rise", table.columns[0]), ("decline", table.columns[-1])):
            tables.append(pd.DataFrame({"target": target, "N": n, "part": part, "best": table.mean().idxmax(),
                                        "difference": selected - table[end]}))
    return _tests(tables, ["target", "part"] if pooled else ["target", "N", "part", "best"], PEAK_LEVEL)


def trend_in_n(rows: pd.DataFrame, pooled: bool = False, metric: str = "R1") -> pd.DataFrame:
    """Points of rank 1 that a doubling of N brings at the same K: the slope over log2 N. A row for each
    target and K with two values of N or more; ``pooled``: averaged over K on every split."""
    tables = []
    for target, k, table in _tables(rows, "K", "N", metric, least=2):
        slopes = np.polyfit(np.log2(table.columns.to_numpy(float)), table.to_numpy().T, 1)[0]
        tables.append(pd.DataFrame({"target": target, "K": k, "difference": slopes}, table.index))
    return _tests(tables, ["target"] if pooled else ["target", "K"])


def _tables(rows: pd.DataFrame, each: str, along: str, metric: str, least: int) -> Iterator[tuple]:
    """(target, value of ``each``, splits x values of ``along``), of adapted rows alone."""
    adapted = rows[(rows["metric"] == metric) & (rows["N"] > 0)]
    for (target, value), group in adapted.groupby(["target", each], sort=False):
        table = group.pivot_table(index="split", columns=along, values="value")
        if table.shape[1] >= least and len(table) > 1:
            yield target, value, table


def _tests(tables: list[pd.DataFrame], keys: list[str], level: float = 0.95) -> pd.DataFrame:
    """Test over splits of the differences' means on each, a row a group of ``keys``."""
    if not tables:
        return pd.DataFrame()
    values = pd.concat(tables).groupby([*keys, "split"], sort=False)["difference"].mean().reset_index()
    return describe_by(values, keys, level=level).drop(columns="reason")


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """The gain (points) of every value on each target, from rows of ``lab.measure("open_choices")``: choice,
    value_label, default (bool), target, and the columns of :func:`~bnta_lib.suite.stats.describe`."""
    gains = split_gains(rows, [*VALUE, "default"], VALUE, metric)
    return describe_by(gains, [*VALUE, "default", "target"])


def diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """Values with which adaption diverged: choice, value_label, target."""
    return rows.loc[rows["metric"] == DIVERGED, [*VALUE, "target"]].drop_duplicates()


def survival(gains: pd.DataFrame) -> pd.DataFrame:
    """Whether "adaption raises rank 1" survives the other values of all CHOICES, a row a target.

    ``gains``: of :func:`gain_rows`. A value turns the sign if it resolves the opposite of the defaults.
    """
    table = {}
    for target, tests in gains[gains["choice"].isin(list(CHOICES))].groupby("target", sort=False):
        default, others = tests[tests["default"]].iloc[0], tests[~tests["default"]]
        opposite = {HOLDS: FAILS, FAILS: HOLDS}.get(default["verdict"])
        turning = (others["choice"] + ": " + others["value_label"])[others["verdict"] == opposite]
        table[target] = {
            "under the defaults": default["verdict"], "gain": default["difference"],
            "other values": len(others),
            **{f"{word}: values": (others["verdict"] == word).sum() for word in VERDICTS},
            "sign turned by": ("; ".join(turning) or "none") if opposite else "no sign to turn"}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("target")


def images_by_camera(targets: Mapping[str, Target]) -> pd.DataFrame:
    """How many images each camera has to adapt on, in the first split: a row a target and protocol.

    Raises ValueError if no target names its cameras.
    """
    rows, named = {}, {name: target for name, target in targets.items() if names_cameras(target)}
    if not named:
        raise ValueError(f"no camera is named in {', '.join(targets)}: adaption by camera needs them")
    for name, target in named.items():
        for kind, words in IMAGES.items():
            seen = images_of(target, target.splits[0], kind)
            counts = target.data.camids[seen].bincount(minlength=int(target.data.camids.max()) + 1)
            counts = counts[target.data.camids.unique()]  # some sets leave out numbers
            rows[name, words] = pd.Series(counts.tolist()).agg(["size", "min", "median", "max"])
    table = pd.DataFrame(rows).T.rename_axis(["target", "adapted on"])
    return table.rename(columns={"size": "cameras", "min": "fewest", "max": "most"}).round().astype(int)


def gains_along(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """What adaption by camera adds at each ``x`` of a sweep: a row a target, line and x.

    ``rows``: of "few_images", "exchanged_cameras" or "steps_by_camera". Columns: line ("" if one), x,
    target, and those of :func:`~bnta_lib.suite.stats.describe`.
    """
    rows = rows.assign(line=rows.get("line", "")).sort_values("x", kind="stable")
    return describe_by(split_gains(rows, ["line", "x"], metric=metric), ["line", "x", "target"])


def headroom_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank 1 without adaption (per cent) from rows of ``lab.measure("headroom")``, a probe each: by set and
    kind the probes of all splits, gallery, R1, std over splits, R1 common for the smallest set's gallery."""
    rows = rows.rename(columns={"target": "set", "part": "kind"})
    # The match is first among a draw of images if none of the nearer ones is among the others drawn.
    chance = stats.hypergeom.pmf(0, rows["gallery"] - 1, rows["value"] - 1, rows["gallery"].min() - 1)
    rows = rows.assign(first=100.0 * (rows["value"] == 1), common=100 * chance)
    grouped, keys = rows.groupby(["set", "kind"], sort=False), ["set", "kind"]
    spread = rows.groupby([*keys, "split"], sort=False)["first"].mean().groupby(keys, sort=False).std()
    return pd.DataFrame({
        "probes": grouped.size(), "gallery": grouped["gallery"].first(), "R1": grouped["first"].mean(),
        "std": spread, "R1 common": grouped["common"].mean(),
    }).reset_index()


def headroom_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a set: rank 1, that at a common gallery size, and for targets the gap's parts.

    gap: points of common rank 1 below the mean of the held-out sources; photometric: the part of it that
    neutral cameras give back (points); share: the same in per cent of the gap (empty if there is no gap).
    """
    scores = headroom_scores(rows)
    common = scores.pivot(index="set", columns="kind", values="R1 common").reindex(columns=list(KINDS))
    gap, photometric = common[HOME].mean() - common[TARGET], common[NEUTRAL] - common[TARGET]
    share = 100 * photometric / gap.where(gap > 0)
    parts = pd.DataFrame({"gap": gap, "photometric": photometric, "share": share}).dropna(axis=1, how="all")
    table = scores[scores["kind"] != NEUTRAL].join(parts, on="set").set_index(["kind", "set"])
    return table.rename(columns={"R1 common": f"R1 of {rows['gallery'].min():g}"})
