"""Tables as the paper prints them: cited numbers and ours, never in one column without a label."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

from bnta_lib.data.sets import Target
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, count_parameters
from bnta_lib.suite.store import refuse_mixed
from bnta_lib.settings import PAPER_SOURCES, PROFILES, ROOT, Settings, caution, figures_dir
from bnta_lib.suite.shift import closer_by_target

METRICS = ("mAP", "R1", "R5", "R10")
CITED, OURS = "paper, cited", "here, measured"
# How Tables 3 and 5 print what their rows are named by.
LOSS_SYMBOLS = {"id": "L_id", "pos": "L_pos", "mat": "L_mat"}
QUANTITY_SYMBOLS = {"mu": "μ", "var": "σ²", "gamma": "γ", "beta": "β"}
# Units of the paper-check beside points of rank 1: what moved, in per cent of what was before.
RATE, SHARE = "points of change rate", "% of layers"
TIE = 1e-9  # points: values no further apart are equal but for rounding


def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's Tables 1-5: columns table, row, dataset, metric, value."""
    # A row of Tables 4 and 5 is called None: that is a name and no missing value.
    path = ROOT / "data" / "paper_tables.csv"
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False)


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
    with columns (target, metric, "mean" | "std"); the std is that of a sample (n - 1). Raises
    ValueError for rows that do not belong together (:func:`bnta_lib.suite.store.refuse_mixed`), that are there
    twice, or of methods that were measured on different splits of a target.
    """
    refuse_mixed(rows)
    _refuse_uneven(rows)
    by_split = rows.groupby(["method", "target", "metric", "split"], sort=False)["value"].mean()
    by_method = by_split.groupby(level=["method", "target", "metric"], sort=False)
    both = by_method.agg(["mean", "std"]).unstack(["target", "metric"])
    both.columns = both.columns.reorder_levels([1, 2, 0])
    targets = rows["target"].unique()
    columns = pd.MultiIndex.from_product([targets, METRICS, ["mean", "std"]])
    return both.reindex(index=rows["method"].unique(), columns=columns)


def _refuse_uneven(rows: pd.DataFrame) -> None:
    one = [name for name in ("method", "target", "metric", "split", "seed") if name in rows]
    if (twice := rows[rows.duplicated(one)]).size:
        raise ValueError(f"these rows are there twice, for one {' '.join(map(str, twice.iloc[0][one]))}")
    for target, own in rows.groupby("target", sort=False):
        splits = own.groupby("method", sort=False)["split"].unique()
        if len({frozenset(found) for found in splits}) > 1:
            said = ", ".join(f"{method} {len(found)}" for method, found in splits.items())
            raise ValueError(f"the methods were measured on different splits of {target} ({said}): means of "
                             "different splits do not compare")


def differences(
    rows: pd.DataFrame, method: str, against: str, metric: str = "R1"
) -> pd.DataFrame:
    """Method minus against on the same splits, in points: target, split, difference.

    Seeds are averaged first. Raises ValueError for a method that was not measured, and for rows
    that do not belong together (:func:`bnta_lib.suite.store.refuse_mixed`).
    """
    chosen = rows[(rows["metric"] == metric) & rows["method"].isin([method, against])]
    refuse_mixed(chosen)
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
    better by more than :data:`TIE`), splits, seed_std (points: the mean over splits of the spread
    over adaption seeds).
    Splits share people, so intervals are somewhat too narrow.
    """
    chosen = rows[(rows["metric"] == metric) & (rows["method"] == method)]
    result = []
    for target, own in differences(rows, method, against, metric).groupby("target", sort=False):
        difference = own["difference"].to_numpy()
        n = len(difference)
        mean = float(difference.mean())
        if n > 1 and np.ptp(difference) > TIE:
            half = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
            p = float(stats.ttest_1samp(difference, 0).pvalue)
        else:  # one split, or no spread: nothing to estimate an interval from
            half, p = float("nan"), float("nan")
        seeds = chosen[chosen["target"] == target].groupby("split")["value"].std()
        result.append({
            "target": target, "difference": mean, "low": mean - half, "high": mean + half,
            "p": p, "better": int((difference > TIE).sum()), "splits": n,
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


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign: +1.2, -0.3; what rounds to zero has none, 0.0."""
    value = round(value, digits) + 0.0  # -0.0 becomes 0.0
    return f"{value:{'+' if value else ''}.{digits}f}"


def in_unit(value: float, unit: str) -> str:
    """A number of the paper-check: differences with their sign, rates by their first two digits."""
    if unit == RATE and value:
        digits = max(0, 1 - math.floor(math.log10(abs(value))))
        return signed(value, digits)
    return signed(value) if unit == "points" else f"{round(value, 1) + 0.0:.1f}"  # never -0.0


def verdict(row: pd.Series) -> str:
    """One sentence on a row of :func:`paired_test`."""
    change = f"{signed(row['difference'])} points"
    if row["splits"] < 2:
        return f"{row['target']}: {change}; one split cannot say how sure."
    if np.isnan(row["low"]):
        return f"{row['target']}: {change} on every split, without any spread."
    interval = f"95 % interval {signed(row['low'])} to {signed(row['high'])}"
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
        text[target, metric] = [_mean_std(m, s) for m, s in zip(mean, std)]
    text.columns = pd.MultiIndex.from_tuples(text.columns)
    paper = paper_table_2()
    if not set(rows["target"]) & set(paper.columns.get_level_values("target")):
        return pd.concat({OURS: text}, names=["", "Method"])
    cited = paper.map(lambda v: "–" if np.isnan(v) else f"{v:.1f}")
    cited.columns = pd.MultiIndex.from_tuples(list(cited.columns))
    blocks = {CITED: cited, OURS: text}
    order = list(dict.fromkeys([*cited.columns, *text.columns]))
    return pd.concat(blocks, names=["", "Method"]).reindex(columns=order).fillna("")


def _mean_std(mean: float, std: float) -> str:
    """One split has no spread."""
    return f"{mean:.1f}" if np.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _cited(table: str) -> tuple[str, pd.Series]:
    """The one target of the paper's Table 3, 4 or 5, and its rank 1 by method, per cent."""
    cited = paper_numbers().query("table == @table and metric == 'R1'")
    (target,) = cited["dataset"].unique()
    return target, cited.set_index("row")["value"].astype(float)


def _measured(rows: pd.DataFrame, metric: str, first: str) -> pd.DataFrame:
    """Text "mean ± std": a row a method, a column a target, that named ``first`` before others."""
    summary = summarise(rows)
    names = sorted(rows["target"].unique(), key=lambda name: name != first)
    return pd.DataFrame({
        name: [_mean_std(*pair) for pair in
               zip(summary[name, metric, "mean"], summary[name, metric, "std"])]
        for name in names
    }, index=summary.index)


def _losses(names: str, last: str = "") -> str:
    """"id+mat" as "L_id, L_mat"; ``last`` is added to that of matching."""
    if names == "none":
        return "None"
    return ", ".join(LOSS_SYMBOLS[n] + last * (n == "mat") for n in names.split("+"))


def _matrix(cells: pd.Series) -> pd.DataFrame:
    """Table 3's cells, named "train …; tta …", as a matrix of training by adaption."""
    parts = [re.fullmatch("train (.+); tta (.+)", method).groups() for method in cells.index]
    trainings, adaptions = (list(dict.fromkeys(names)) for names in zip(*parts))
    text = pd.Series(cells.to_numpy(), pd.MultiIndex.from_tuples(parts)).unstack()
    text = text.reindex(trainings)[adaptions].fillna("–")
    return text.rename(index=_losses, columns=lambda names: _losses(names, "^tta"))


def table_3(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 3 as printed: losses of training (rows) by those of adaption (columns), per cent.

    ``rows``: of :func:`bnta_lib.suite.ablations.table_3_rows`. Text; index (heading, target,
    training): the paper's numbers, which are rank 1, then ours, a block a target. The paper's are
    left out where its target was not measured. "–" stands where the paper has no cell.
    """
    target, cited = _cited("3")
    ours = _measured(rows, metric, target)
    blocks = {(OURS, name): _matrix(ours[name]) for name in ours}
    if target in ours and metric == "R1":
        blocks = {(CITED, target): _matrix(cited.map("{:.1f}".format))} | blocks
    return pd.concat(blocks, names=["", "target", "training"])


TABLE_3_NOTE = (
    "Rows are trainings, columns what adaption minimises; mean ± standard deviation over splits, "
    "adaption seeds averaged first. Each training of ours has one set of weights. Without L_mat in "
    "training the part convolutions stay as they were drawn, so that pairs and L_mat^tta rest on "
    "random projections of the parts; without L_id nothing trains the identity feature but the "
    "backbone beneath it."
)


def seeds_sentence(rows: pd.DataFrame) -> str:
    """How many adaption seeds the rows of Table 3, 4 or 5 average over, target by target."""
    seeds = rows.groupby("target", sort=False)["seed"].nunique()
    if seeds.nunique() == 1:
        return f"Adaption seeds averaged: {seeds.iloc[0]}."
    most = seeds.idxmax()
    others = [name for name in seeds.index if name != most]
    return (f"Adaption seeds averaged: {seeds[most]} on {most}, the paper's target, {seeds[others[0]]} "
            f"on {' and '.join(others)}; Table 2 averages {seeds[most]} on each, so that the same row "
            "can differ there in its last digit.")


def table_3_note(cited: bool = True) -> str:
    """What to know beside Table 3; ``cited``: the paper's numbers are in it."""
    if not cited:
        return TABLE_3_NOTE
    here = _cited("3")[1]["train id+pos+mat; tta none"]
    there = paper_table_2().loc["BNTA w/o TTA", ("VIPeR", "R1")]
    return (f"{TABLE_3_NOTE} The paper's own number for all losses without adaption is {here:.1f} "
            f"in its Table 3 and {there:.1f} in its Table 2.")


def full_network() -> BNTANet:
    """The paper's network with G and M for all its 18,530 people: shapes alone, no memory."""
    with torch.device("meta"):
        return BNTANet(sum(people for _, people in PAPER_SOURCES.values()), Settings())


def layer_size(model: nn.Module, method: str) -> int:
    """Parameters of the layers that a row of Table 4 names ("BN+Conv"; of norms gamma, beta)."""
    counts = count_parameters(model)
    names = {"BN": "BN gamma+beta", "IN": "IN gamma+beta", "Conv": "Conv and linear"}
    return 0 if method == "None" else sum(counts[names[kind]] for kind in method.split("+"))


def table_4(rows: pd.DataFrame, model: BNTANet, metric: str = "R1") -> pd.DataFrame:
    """Table 4 as printed: the layers that adaption updates, their size, and per cent reached.

    ``rows``: of :func:`bnta_lib.suite.ablations.table_4_rows`; ``model``: the one measured. Text;
    columns (heading, what): the paper's, sizes counted in its full network, then ours. The
    paper's are left out where its target was not measured.
    """
    target, cited = _cited("4")
    ours = _measured(rows, metric, target)
    columns = {}
    if target in ours and metric == "R1":
        sizes = paper_numbers().query("table == '4' and metric == 'size'").set_index("row")["value"]
        columns[CITED, "size"] = sizes.reindex(ours.index).fillna("–")
        columns[CITED, f"{target} R1"] = cited.reindex(ours.index).map("{:.1f}".format)
    for heading, network in (("full network, counted", full_network()), ("here, counted", model)):
        size = pd.Series({method: layer_size(network, method) for method in ours.index})
        columns[heading, "parameters"] = size.map("{:,}".format)
        columns[heading, "bytes, float32"] = (4 * size).map("{:,}".format)
    columns |= {(OURS, f"{name} {metric}"): ours[name] for name in ours}
    return pd.DataFrame(columns).rename_axis("updated")


def table_4_note(model: BNTANet, cited: bool = True) -> str:
    """What to know beside Table 4; ``cited``: the paper's numbers are in it."""
    full = {kind: layer_size(full_network(), kind) for kind in ("Conv", "IN", "BN", "BN+IN")}
    unused = sum(p.numel() for layer in (model.fc_g, *model.fc_m) for p in layer.parameters())
    people = sum(people for _, people in PAPER_SOURCES.values())
    misprints = (
        f"That is its 93M, 3K and 60K; BN+IN is {full['BN+IN']:,}, so that its 93K must be a "
        f"misprint for 63K. Its None row says {_cited('4')[1]['None']:.1f}, its Tables 2 and 5 "
        f"{_cited('5')[1]['None']:.1f}. "
    )
    same_digits = (
        f" BN's {full['BN']:,} bytes here and the full network's {full['BN']:,} parameters are two "
        "things: a quarter of the width, at four bytes a parameter."
    )
    return (
        "Conv is every convolution and linear layer; of the norm layers gamma and beta are "
        "counted, and BN's mu and sigma^2 are as many numbers again. The paper's full network, "
        f"with classifiers of {people:,} people, has {full['Conv']:,} (Conv), {full['IN']:,} (IN) "
        f"and {full['BN']:,} (BN). {misprints if cited else ''}"
        "G's and M's classifiers take no part in Eq. (13): they are counted where the weights hold "
        f"them but do not move, so that Conv moves {layer_size(model, 'Conv') - unused:,} here; "
        "nor do gamma and beta of bnneck. With BN, batches are normalised by their own statistics "
        "while adaption runs; without it (Conv, IN, Conv+IN) by the stored ones."
        f"{same_digits if 4 * layer_size(model, 'BN') == full['BN'] else ''}"
    )


def table_5(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 5 as printed: the quantities of BN that adaption updates, and per cent reached.

    ``rows``: of :func:`bnta_lib.suite.ablations.table_5_rows`, of one reading of "only mu" or of both.
    Text; columns (heading, target): the paper's, left out where its target was not measured, then
    ours, each reading under a heading of its own.
    """
    target, cited = _cited("5")
    columns = {}
    for experiment, own in rows.groupby("experiment", sort=False):
        text = _measured(own, metric, target)
        columns |= {(f"{OURS}: {reading_of(experiment)}", name): text[name] for name in text}
    if target in set(rows["target"]) and metric == "R1":
        columns = {(CITED, target): cited.map("{:.1f}".format)} | columns
    return pd.DataFrame(columns).rename(index=quantities).rename_axis("updated")


def reading_of(experiment: str) -> str:
    """The reading of "only mu" that an experiment of Table 5 takes: alone or restore."""
    return "restore" if experiment.endswith("_restore") else "alone"


def quantities(method: str) -> str:
    """A row of Table 5 in symbols."""
    return ", ".join(QUANTITY_SYMBOLS.get(name, name) for name in method.split("+"))


TABLE_5_NOTE = (
    "The paper does not say what updating one quantity alone means. Alone: that quantity is free "
    "to move, the others are not. Restore: all move, and the others are then put back. The rows "
    "None and μ, σ², γ, β are the same in both. While adaption runs, batches are normalised by "
    "their own statistics; but in the first reading by the stored ones where neither μ nor σ² is "
    "free. In that reading μ and σ², without γ and β, move without any gradient: they follow the "
    "images of the pairs, and the losses have no part."
)


def row_name(method: str) -> str:
    """A row of Tables 2-5 in the paper's words: "mu+var" is μ+σ²; Table 3's name both losses."""
    if "; tta " in method:
        training, adaption = method.removeprefix("train ").split("; tta ")
        trained = "+".join(LOSS_SYMBOLS[name] for name in training.split("+"))
        adapted = _losses(adaption, "^tta").replace(", ", "+")
        return f"trained by {trained}, " + (
            "not adapted" if adaption == "none" else f"adapted by {adapted}")
    parts = method.split("+")
    if set(parts) <= QUANTITY_SYMBOLS.keys():
        return "+".join(QUANTITY_SYMBOLS[part] for part in parts)
    return method


def unadapted(method: str) -> str:
    """The row of Tables 3-5 that another is compared with: the same training, not adapted."""
    return re.sub("; tta .+", "; tta none", method) if "; tta " in method else "None"


def compare(
    rows: pd.DataFrame, pairs: Iterable[tuple[str, str]], metric: str = "R1"
) -> pd.DataFrame:
    """:func:`paired_test` of each (method, against) among the rows of Table 3, 4 or 5.

    Columns: method, against, those of :func:`paired_test` and, where the paper's target and rank
    1 are among them, "paper": the paper's own difference on that target, cited, in points.
    """
    (experiment,) = rows["experiment"].unique()
    tests = []
    for method, against in pairs:
        tests.append(paired_test(rows, method, against, metric))
        tests[-1].insert(0, "against", against)
        tests[-1].insert(0, "method", method)
    found = pd.concat(tests, ignore_index=True)
    target, cited = _cited(experiment.split("_")[1])
    if metric == "R1" and target in set(found["target"]):
        found["paper"] = (found["method"].map(cited) - found["against"].map(cited)).round(1)
        found.loc[found["target"] != target, "paper"] = np.nan
    return found


def gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """What adaption adds in each row of Tables 3-5: rows of :func:`compare` with ``experiment``."""
    tests = {}
    for experiment, own in rows.groupby("experiment", sort=False):
        pairs = [(m, unadapted(m)) for m in own["method"].unique() if m != unadapted(m)]
        tests[experiment] = compare(own, pairs, metric)
    return pd.concat(tests, names=["experiment"]).reset_index("experiment").reset_index(drop=True)


def compare_readings(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 5's reading "alone" against "restore", on the targets that have both: a row each.

    Columns: method (the quantities), those of :func:`paired_test`.
    """
    tests = []
    for method in rows["method"].unique():
        own = rows[rows["method"] == method]
        own = own.assign(method=own["experiment"].map(reading_of))
        both = own.groupby("target")["method"].transform("nunique") == 2
        if method not in ("None", "mu+var+gamma+beta"):  # these are the same run in both
            tests.append(paired_test(own[both], "alone", "restore", metric).assign(method=method))
    found = pd.concat(tests, ignore_index=True)
    found.insert(0, "method", found.pop("method"))
    return found


def verdicts(tests: pd.DataFrame) -> list[str]:
    """Rows of :func:`compare` in words."""
    return [f"{row_name(row['method'])} against {row_name(row['against'])}, {verdict(row)}"
            for _, row in tests.iterrows()]


PAIRED_NOTE = (
    "Difference in points with its 95 % interval (Student's t over splits), p of the two-sided "
    "paired t-test, splits that gained, spread over adaption seeds."
)


def paired_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`gains` as they are printed: rows of the table in the paper's words."""
    table = tests.assign(**{name: tests[name].map(row_name) for name in ("method", "against")})
    table["p"] = p_text(table["p"])
    if "experiment" in table and table["experiment"].nunique() > 1:
        table.insert(0, "reading", table["experiment"].map(reading_of))
    return table.drop(columns="experiment", errors="ignore").rename(columns={"paper": CITED}).round(4)


def p_text(p: pd.Series) -> pd.Series:
    """Values of p with one digit that counts, as text: a rounded 0.0000 would be a claim. NaN stays."""
    return p.map("{:.1g}".format, na_action="ignore")


def tally(tests: pd.DataFrame) -> list[str]:
    """Comparisons counted by what their intervals resolve: a sentence a target."""
    sentences = []
    for target, own in tests.groupby("target", sort=False):
        better, worse = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
        sentences.append(f"{target}: better in {better}, worse in {worse}, not resolved in "
                         f"{len(own) - better - worse} of {len(own)} comparisons.")
    return sentences


def why_table(test: pd.DataFrame, why: pd.DataFrame, shift: pd.DataFrame) -> pd.DataFrame:
    """What adaption did on each target, beside what it brought: a row a target.

    ``test``: rows of :func:`paired_test` for BNTA; ``why`` and ``shift``: rows of
    :func:`bnta_lib.suite.experiments.why_rows` and :func:`bnta_lib.suite.experiments.shift_rows`. Columns:
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

    return (f"{target}: rank 1 {signed(row['difference'])} points. mu moved {row['rate mean']:.2g} %, "
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
            f"{after['R1']:.1f} % ({signed(change)} points), mAP from {before['mAP']:.1f} to "
            f"{after['mAP']:.1f} % ({signed(after['mAP'] - before['mAP'])} points).")


DUALNORM_NOTE = (
    "DualNorm's mAP is a trapezoidal one: with one match a probe it is (mAP + R1) / 2. In the "
    "unit of the other rows its 58.0 / 45.7 / 78.5 read 62.1 / 50.0 / 82.2."
)


# What begins markup within a line of Markdown; an underscore between letters, as in L_mat, does not.
_MARKS = re.compile(r"[\\`*~$\[|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_SIGNS = re.compile(r"[!-/:-@\[-`{-~]")


def _as_text(cell: object) -> object:
    """Text on one line that Markdown shows as it reads: names of folders may hold markup."""
    if not isinstance(cell, str):
        return cell
    # After a backslash further signs have a meaning, as that of formulas in \( and \begin{...
    marks = _SIGNS if "\\" in cell else _MARKS
    return marks.sub(r"\\\g<0>", " ".join(cell.splitlines()))


def markdown(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown; levels of index and columns are joined with a space.

    Cells and headings are text: what would be markup in them is escaped.
    """
    flat = table.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = [" ".join(str(level) for level in c) for c in flat.columns]
    names = [name or "" for name in flat.index.names]
    # Text stays as it is printed: 48.0 is not 48.
    flat = flat.reset_index(names=names)
    flat = flat.apply(lambda own: own if pd.api.types.is_numeric_dtype(own) else own.map(_as_text))
    flat.columns = list(map(_as_text, flat.columns))
    return flat.to_markdown(index=False, disable_numparse=True)


# What LaTeX reads otherwise, or has no letter for.
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}",
    "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
    "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "²": "$^2$",
    "°": r"$^\circ$", "…": r"\dots{}", "✓": r"$\surd$", "η": r"$\eta$", "φ": r"$\varphi$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "σ²": r"$\sigma^2$", "σ": r"$\sigma$", "γ": r"$\gamma$",
    "β": r"$\beta$",
}
_LOSS = r"\bL_(?P<name>[a-z]+)(?:\^(?P<above>[a-z]+))?\b"
_TOKEN = re.compile("|".join([_LOSS, *map(re.escape, sorted(_TEX, key=len, reverse=True))]))


def _tex(cell: object) -> str:
    """A cell or heading in LaTeX: L_mat^tta as a symbol, all else as it reads."""
    if not isinstance(cell, str):
        cell = "–" if pd.isna(cell) else f"{cell:g}" if isinstance(cell, float) else str(cell)

    def token(found: re.Match) -> str:
        if not found["name"]:
            return _TEX[found[0]]
        above = rf"^{{\mathrm{{{found['above']}}}}}" if found["above"] else ""
        return rf"$L_{{\mathrm{{{found['name']}}}}}{above}$"

    return _TOKEN.sub(token, cell)


def latex(table: pd.DataFrame) -> str:
    r"""A table as a LaTeX ``tabular`` (needs booktabs), without a caption.

    Levels of the columns become spanning headings; a label of the index that repeats is printed
    once. Letters beyond Latin and Greek, as in a folder's name, are left as they are: they need a
    LaTeX that reads Unicode.
    """
    def levels(labels: pd.Index) -> list[tuple[str, ...]]:
        several = [label if isinstance(label, tuple) else (label,) for label in labels]
        return [tuple(map(_tex, label)) for label in several]

    text, columns, depth = table.map(_tex), levels(table.columns), table.index.nlevels
    number = re.compile(r"(\$-\$|[-+])?\d|(--)?$")
    kinds = ["r" if all(number.match(cell) for cell in text.iloc[:, i]) else "l"
             for i in range(text.shape[1])]
    lines = [rf"\begin{{tabular}}{{{'l' * depth}{''.join(kinds)}}}", r"\toprule"]
    for level in range(1, table.columns.nlevels):  # the headings above the last one
        cells, rules, start = [""] * depth, "", depth + 1
        for label, run in groupby(column[:level] for column in columns):
            n = len(list(run))
            cells.append(rf"\multicolumn{{{n}}}{{c}}{{{label[-1]}}}")
            rules += rf"\cmidrule(lr){{{start}-{start + n - 1}}}" if label[-1] else ""
            start += n
        lines += [" & ".join(cells) + r" \\", *filter(None, [rules])]
    names = [_tex(name or "") for name in table.index.names]
    lines += [" & ".join([*names, *(column[-1] for column in columns)]) + r" \\", r"\midrule"]
    previous = ()
    for label, row in zip(levels(table.index), text.to_numpy().tolist()):
        if previous and label[:-1] != previous[:-1]:
            lines.append(r"\addlinespace")
        # A level is left out where it and all above it are as in the row before.
        own = ["" if i < depth - 1 and label[: i + 1] == previous[: i + 1] else label[i]
               for i in range(depth)]
        lines.append(" & ".join([*own, *row]) + r" \\")
        previous = label
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


# The images that a table of any run may be of, and not of the run's data; see :func:`save_table`.
RENDERED = "rendered counterparts of the paper's data sets"


def counts_sentence(rows: pd.DataFrame) -> str:
    """Over how many splits rows go, and over which adaption seeds, target (or set) by target."""
    by, said = "target" if "target" in rows else "set", []
    for column, one, many in (("split", "split", "splits"), ("seed", "adaption seed", "adaption seeds")):
        found = rows.groupby(by, sort=False)[column].unique() if column in rows else []
        counts = [len(own) for own in found]
        if len(set(counts)) > 1:
            said.append(f"{many}: " + ", ".join(f"{name} {n}" for name, n in zip(found.index, counts)))
        elif counts:
            only = {int(own[0]) for own in found}
            said.append(f"{counts[0]} {many}" if counts[0] > 1 else
                        f"{one} {only.pop()}" if len(only) == 1 else f"one {one}")
    return f"Measured over {'; '.join(said)}." if said else ""


def about_run(run: str, images: str | None = None) -> str:
    """What a run (see :func:`.settings.run_name`) measures on, and what it is not. ``images``: see :func:`save_table`."""
    if images is None:
        images = "images of the folder that the run was given" if "_" in run else RENDERED
    profile = run.partition("_")[0]
    return f"Profile {profile}{', ' if images else ''}{images}. {caution(run)}".strip()


def save_table(table: pd.DataFrame, name: str, profile: str, note: str = "", rows: pd.DataFrame | None = None,
               images: str | None = None) -> list[Path]:
    """Write ``name``.csv, .md and .tex under the profile's figures; returns the paths.

    The note, plain text, stands below the table in Markdown, and above it as comments in LaTeX. With it
    :func:`about_run`, and of ``rows``, from which the table was made, :func:`counts_sentence`. ``images``:
    on what it was measured, where that is not what the run's name says (RENDERED; "" for nothing).
    A rounded -0.0 is written as 0.0.
    """
    about = [about_run(profile, images), counts_sentence(rows) if rows is not None else ""]
    if table.map(lambda cell: isinstance(cell, str) and "±" in cell).any(axis=None):
        about.append("±: the standard deviation over splits, adaption seeds averaged first.")
    note = f"{note}\n\n{' '.join(filter(None, about))}".strip()
    table = table.apply(lambda column: column + 0.0 if column.dtype.kind == "f" else column)
    below = "\n" + "".join(f"{_as_text(line)}\n" for line in note.splitlines()) if note else ""
    above = "".join(f"% {line}\n" for line in note.splitlines())
    texts = {"csv": table.to_csv(), "md": f"{markdown(table)}\n{below}",
             "tex": above + latex(table)}
    paths = [figures_dir(profile) / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values()):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def save_rows(rows: pd.DataFrame, name: str, profile: str) -> Path:
    """Write tidy rows as ``name``.csv under the profile's figures; returns the path.

    What differs from one machine to the next is left out, so that the same rows are the same
    bytes on all: seconds, the machine, the digest of the code, and rows measured in seconds.
    """
    kept = rows[rows["unit"] != "s"] if "unit" in rows else rows
    kept = kept.drop(columns=["seconds", "machine", "code"], errors="ignore")
    path = figures_dir(profile) / f"{name}.csv"
    with atomic(path) as temporary:
        kept.round(6).to_csv(temporary, index=False)
    return path
