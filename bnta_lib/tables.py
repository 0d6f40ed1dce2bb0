"""Tables as the paper prints them: cited numbers and ours, never in one column without a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .data.sets import Target
from .files import atomic
from .settings import ROOT, figures_dir
from .shift import closer_by_target

METRICS = ("mAP", "R1", "R5", "R10")


def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's Tables 1-5: columns table, row, dataset, metric, value."""
    return pd.read_csv(ROOT / "data" / "paper_tables.csv", dtype={"value": str})


def paper_table_2() -> pd.DataFrame:
    """The paper's Table 2: a row a method, columns (target, metric), cited, in per cent."""
    cited = paper_numbers().query("table == '2'")
    table = cited.pivot(index="row", columns=["dataset", "metric"], values="value").astype(float)
    columns = pd.MultiIndex.from_product([["VIPeR", "GRID", "iLIDS"], METRICS])
    table = table.reindex(index=cited["row"].drop_duplicates(), columns=columns)
    return table.rename_axis(index="Method", columns=["target", "metric"])


def table_1(targets: dict[str, Target]) -> pd.DataFrame:
    """Table 1 as cited and as counted in every split: a row a target.

    Columns: ("paper" | "here", probe people | gallery people | probe images | gallery images).
    A distractor counts as a person. Raises ValueError where splits differ in their counts.
    """
    counted = {}
    for name, target in targets.items():
        counts = []
        for split in target.splits:
            people = [len(own[own > 0].unique()) + int((own == 0).sum())
                      for own in (target.data.pids[split.probe], target.data.pids[split.gallery])]
            counts.append((*people, len(split.probe), len(split.gallery)))
        if len(set(counts)) > 1:
            raise ValueError(f"{name}: the splits differ in their counts")
        counted[name] = counts[0]
    columns = ["probe people", "gallery people", "probe images", "gallery images"]
    here = pd.DataFrame.from_dict(counted, orient="index", columns=columns)
    cited = paper_numbers().query("table == '1'").pivot(
        index="dataset", columns="metric", values="value"
    )[["probe_ids", "gallery_ids", "probe_images", "gallery_images"]].astype("Int64")
    cited.columns = columns
    return pd.concat({"paper": cited.reindex(here.index), "here": here}, axis=1)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over splits, seeds averaged first, per cent.

    ``rows``: tidy rows with target, method, split, seed, metric, value. Returns a row a method
    with columns (target, metric, "mean" | "std"); the std is that of a sample (n - 1).
    """
    by_split = rows.groupby(["method", "target", "metric", "split"], sort=False)["value"].mean()
    by_method = by_split.groupby(level=["method", "target", "metric"], sort=False)
    both = by_method.agg(["mean", "std"]).unstack(["target", "metric"])
    both.columns = both.columns.reorder_levels([1, 2, 0])
    targets = rows["target"].unique()
    columns = pd.MultiIndex.from_product([targets, METRICS, ["mean", "std"]])
    return both.reindex(index=rows["method"].unique(), columns=columns)


def differences(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Method minus against on the same splits, in points: target, split, difference.

    Seeds are averaged first. Raises ValueError for a method that was not measured.
    """
    chosen = rows[rows["metric"] == metric]
    for name in (method, against):
        if name not in set(chosen["method"]):
            raise ValueError(f"no {metric} of {name!r} among the rows")
    value = chosen.groupby(["target", "split", "method"], sort=False)["value"].mean()
    value = value.unstack("method")
    return (value[method] - value[against]).rename("difference").reset_index()


def paired_test(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Difference of two methods on the same splits: a row a target.

    Columns: target, difference (points, method minus against), low and high (95 % interval of
    Student's t over splits), p (two-sided paired t-test), better (splits on which the method is
    better), splits, seed_std (points: the mean over splits of the spread over adaption seeds).
    Splits share people, so intervals are somewhat too narrow.
    """
    chosen = rows[(rows["metric"] == metric) & (rows["method"] == method)]
    result = []
    for target, own in differences(rows, method, against, metric).groupby("target", sort=False):
        difference = own["difference"].to_numpy()
        n = len(difference)
        mean = float(difference.mean())
        if n > 1 and np.ptp(difference) > 0:
            half = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
            p = float(stats.ttest_1samp(difference, 0).pvalue)
        else:  # one split, or no spread: nothing to estimate an interval from
            half, p = float("nan"), float("nan")
        seeds = chosen[chosen["target"] == target].groupby("split")["value"].std()
        result.append({
            "target": target, "difference": mean, "low": mean - half, "high": mean + half,
            "p": p, "better": int((difference > 0).sum()), "splits": n,
            "seed_std": float(seeds.mean()),
        })
    return pd.DataFrame(result)


def paired_tests(
    rows: pd.DataFrame, against: str = "BNTA w/o TTA", metric: str = "R1"
) -> pd.DataFrame:
    """:func:`paired_test` of every other method among the rows; first columns method, against."""
    methods = [m for m in rows["method"].unique() if m != against]
    tests = [paired_test(rows, method, against, metric) for method in methods]
    result = pd.concat([t.assign(method=m) for t, m in zip(tests, methods)], ignore_index=True)
    result.insert(0, "against", against)
    result.insert(0, "method", result.pop("method"))
    return result


def verdict(row: pd.Series) -> str:
    """One sentence on a row of :func:`paired_test`."""
    change = f"{row['difference']:+.1f} points"
    if row["splits"] < 2:
        return f"{row['target']}: {change}; one split cannot say how sure."
    if np.isnan(row["low"]):
        return f"{row['target']}: {change} on every split, without any spread."
    interval = f"95 % interval {row['low']:+.1f} to {row['high']:+.1f}"
    if row["low"] > 0:
        return f"{row['target']}: better by {change} ({interval})."
    if row["high"] < 0:
        return f"{row['target']}: worse, {change} ({interval})."
    return f"{row['target']}: no difference resolved, {change} ({interval})."


def table_2(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as printed: the paper's rows as cited, ours below under their own heading.

    The cited rows are left out where none of our targets has a name of theirs.

    Columns: (target, metric), text; index: (heading, method). The two blocks are different
    benchmarks: their numbers do not compare line by line.
    """
    ours = summarise(rows)
    text = pd.DataFrame(index=ours.index)
    for target, metric in dict.fromkeys((t, m) for t, m, _ in ours.columns):
        mean, std = ours[target, metric, "mean"], ours[target, metric, "std"]
        text[target, metric] = [
            f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, std)
        ]
    text.columns = pd.MultiIndex.from_tuples(text.columns)
    paper = paper_table_2()
    if not set(rows["target"]) & set(paper.columns.get_level_values("target")):
        return pd.concat({"here, measured": text}, names=["", "Method"])
    cited = paper.map(lambda v: "–" if np.isnan(v) else f"{v:.1f}")
    cited.columns = pd.MultiIndex.from_tuples(list(cited.columns))
    blocks = {"paper, cited": cited, "here, measured": text}
    order = list(dict.fromkeys([*cited.columns, *text.columns]))
    return pd.concat(blocks, names=["", "Method"]).reindex(columns=order).fillna("")


def why_table(test: pd.DataFrame, why: pd.DataFrame, shift: pd.DataFrame) -> pd.DataFrame:
    """What adaption did on each target, beside what it brought: a row a target.

    ``test``: rows of :func:`paired_test` for BNTA; ``why`` and ``shift``: rows of
    :func:`bnta_lib.experiments.why_rows` and :func:`bnta_lib.experiments.shift_rows`. Columns:
    difference (points), the rates and losses of ``why`` as means over splits, "distance frozen"
    and "distance adapted" as means over BN layers, "layers closer" (share, per cent).
    """
    table = why.groupby(["target", "what"], sort=False)["value"].mean().unstack("what", sort=False)
    table.insert(0, "difference", test.set_index("target")["difference"])
    names = {"frozen": "distance frozen", "adapted": "distance adapted", "closer": "layers closer"}
    return table.join(closer_by_target(shift).rename(columns=names)).loc[test["target"]]


def why_sentence(target: str, row: pd.Series) -> str:
    """A row of :func:`why_table` in words."""
    def went(kind: str) -> str:
        before, after = row[f"{kind} frozen"], row[f"{kind} adapted"]
        word = "fell" if after < before else "rose" if after > before else "stayed"
        return f"{word} from {before:.3g} to {after:.3g}"

    return (f"{target}: rank 1 {row['difference']:+.1f} points. mu moved {row['rate mean']:.2g} %, "
            f"sigma^2 {row['rate var']:.2g} %, gamma {row['rate gamma']:.2g} %, "
            f"beta {row['rate beta']:.2g} %; L_pos {went('pos')} ({row['pos statistics']:.3g} by "
            f"the statistics alone), L_mat {went('mat')} ({row['mat statistics']:.3g}); the "
            f"distance from the source {went('distance')}, with {row['layers closer']:.0f} % of "
            "the BN layers closer.")


def change_sentence(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    """What adaption did to one split, from two rows of :meth:`bnta_lib.evaluation.Scores.row`."""
    change = after["R1"] - before["R1"]
    word = "helped" if change > 0 else "did not help" if change == 0 else "did harm"
    return (f"On {name} adaption {word}: rank 1 went from {before['R1']:.1f} to "
            f"{after['R1']:.1f} % ({change:+.1f} points), mAP from {before['mAP']:.1f} to "
            f"{after['mAP']:.1f} % ({after['mAP'] - before['mAP']:+.1f} points).")


DUALNORM_NOTE = (
    "DualNorm's mAP is a trapezoidal one: with one match a probe it is (mAP + R1) / 2. In the "
    "unit of the other rows its 58.0 / 45.7 / 78.5 read 62.1 / 50.0 / 82.2."
)


def markdown(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown; levels of index and columns are joined with a space."""
    flat = table.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = [" ".join(str(level) for level in c) for c in flat.columns]
    return flat.reset_index(names=[name or "" for name in flat.index.names]).to_markdown(index=False)


def save_table(table: pd.DataFrame, name: str, profile: str, note: str = "") -> list[Path]:
    """Write ``name``.csv and .md under the profile's figures; returns the paths."""
    folder = figures_dir(profile)
    paths = [folder / f"{name}.csv", folder / f"{name}.md"]
    with atomic(paths[0]) as temporary:
        table.to_csv(temporary)
    with atomic(paths[1]) as temporary:
        temporary.write_text(markdown(table) + "\n" + (f"\n{note}\n" if note else ""))
    return paths


def save_rows(rows: pd.DataFrame, name: str, profile: str) -> Path:
    """Write tidy rows as ``name``.csv under the profile's figures; returns the path.

    Seconds are left out, so that the same rows are the same bytes on every machine.
    """
    path = figures_dir(profile) / f"{name}.csv"
    with atomic(path) as temporary:
        rows.drop(columns="seconds", errors="ignore").round(6).to_csv(temporary, index=False)
    return path
