"""Tables 1 to 5 as the paper prints them.

Cited numbers and ours stand under headings of their own: they are of other images, and only the
differences within each compare.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from bnta_lib.data.sets import Target
from bnta_lib.model import BNTANet, count_parameters
from bnta_lib.settings import PAPER_SOURCES, ROOT, Settings
from bnta_lib.suite.shift import closer_by_target
from bnta_lib.suite.stats import METRICS, compare, p_text, paired_test, summarise

CITED, OURS = "paper, cited", "here, measured"
# How tables print losses, and BN's quantities by the paper's names and by those of adapt().
SYMBOLS = {"id": "L_id", "pos": "L_pos", "mat": "L_mat",
           "mu": "μ", "mean": "μ", "var": "σ²", "gamma": "γ", "beta": "β"}


# ---- the paper's numbers


def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's Tables 1-5: columns table, row, dataset, metric, value."""
    # A row of Tables 4 and 5 is called None: that is a name and no missing value.
    path = ROOT / "data" / "paper_tables.csv"
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False)


def paper_table_2() -> pd.DataFrame:
    """The paper's Table 2: a row a method, columns (target, metric), in per cent."""
    cited = paper_numbers().query("table == '2'")
    table = cited.pivot(index="row", columns=["dataset", "metric"], values="value").astype(float)
    columns = pd.MultiIndex.from_product([["VIPeR", "GRID", "iLIDS"], METRICS])
    table = table.reindex(index=cited["row"].drop_duplicates(), columns=columns)
    return table.rename_axis(index="Method", columns=["target", "metric"])


def paper_rank_1(table: str) -> tuple[str, pd.Series]:
    """The one target of the paper's Table 3, 4 or 5, and its rank 1 by method, in per cent."""
    cited = paper_numbers().query("table == @table and metric == 'R1'")
    (target,) = cited["dataset"].unique()
    return target, cited.set_index("row")["value"].astype(float)


# ---- names of rows


def cell(method: str) -> list[str]:
    """Losses of training and of adaption of a row of Table 3, "train id+pos; tta pos"."""
    return method.removeprefix("train ").split("; tta ")


def symbols(names: str, join: str, above: str = "") -> str:
    """Losses or quantities, "id+mat", in symbols; ``above`` is added to that of matching."""
    if names == "none":
        return "None"
    return join.join(SYMBOLS.get(n, n) + above * (n == "mat") for n in names.split("+"))


def row_name(method: str) -> str:
    """A row of Tables 2-5 in the paper's words: "mu+var" is μ+σ²; Table 3's name both losses."""
    if "; tta " not in method:
        return symbols(method, "+")
    training, adaption = cell(method)
    adapted = "not adapted" if adaption == "none" else f"adapted by {symbols(adaption, '+', '^tta')}"
    return f"trained by {symbols(training, '+')}, {adapted}"


def unadapted(method: str) -> str:
    """The row of Tables 3-5 that another is compared with: the same training, not adapted."""
    return f"train {cell(method)[0]}; tta none" if "; tta " in method else "None"


def reading_of(table: str) -> str:
    """The reading of "only mu" that a table of ours takes: alone or restore."""
    return "restore" if table.endswith("_restore") else "alone"


# ---- Tables 1-5


def table_1(targets: Mapping[str, Target]) -> pd.DataFrame:
    """Table 1 as cited and as counted in every split: a row a target.

    Columns: ("paper" | "here", probe people | gallery people | probe images | gallery images).
    A distractor counts as a person. Raises ValueError if splits differ in their counts.
    """
    columns = {"probe_ids": "probe people", "gallery_ids": "gallery people",
               "probe_images": "probe images", "gallery_images": "gallery images"}
    here = {}
    for name, target in targets.items():
        counts = {tuple(_people(target.data.pids[rows]) for rows in (split.probe, split.gallery))
                  + (len(split.probe), len(split.gallery)) for split in target.splits}
        if len(counts) > 1:
            raise ValueError(f"{name}: the splits differ in their counts")
        here[name] = counts.pop()
    here = pd.DataFrame.from_dict(here, orient="index", columns=list(columns.values()))
    cited = paper_numbers().query("table == '1'").pivot(index="dataset", columns="metric", values="value")
    cited = cited[list(columns)].rename(columns=columns).astype("Int64").reindex(here.index)
    return pd.concat({"paper": cited.rename_axis(columns=None), "here": here}, axis=1)


def _people(pids: torch.Tensor) -> int:
    return len(pids[pids > 0].unique()) + int((pids == 0).sum())


def _mean_std(summary: pd.DataFrame, target: str, metric: str) -> pd.Series:
    """Text "mean ± std" of each method; one split has no spread."""
    pairs = zip(summary[target, metric, "mean"], summary[target, metric, "std"])
    return pd.Series([f"{m:.1f}" if np.isnan(s) else f"{m:.1f} ± {s:.1f}" for m, s in pairs],
                     summary.index)


def table_2(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as printed: the paper's rows as cited, ours below under their own heading.

    Columns: (target, metric), text; index: (heading, method). The cited rows are left out if none
    of our targets has a name of theirs.
    """
    summary = summarise(rows)
    ours = pd.DataFrame({(t, m): _mean_std(summary, t, m)
                         for t, m in summary.columns.droplevel(2).unique()})
    paper = paper_table_2()
    if not set(rows["target"]) & set(paper.columns.get_level_values("target")):
        return pd.concat({OURS: ours}, names=["", "Method"])
    cited = paper.map(lambda v: "–" if np.isnan(v) else f"{v:.1f}")
    order = list(dict.fromkeys([*cited.columns, *ours.columns]))
    cited.columns = pd.MultiIndex.from_tuples(list(cited.columns))
    return pd.concat({CITED: cited, OURS: ours}, names=["", "Method"])[order].fillna("")


def _measured(rows: pd.DataFrame, metric: str, first: str) -> pd.DataFrame:
    """Text "mean ± std": a row a method, a column a target, that named ``first`` before others."""
    summary = summarise(rows)
    targets = sorted(rows["target"].unique(), key=lambda name: name != first)
    return pd.DataFrame({name: _mean_std(summary, name, metric) for name in targets})


def table_3(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 3 as printed: losses of training (rows) by those of adaption (columns), per cent.

    Text; index (heading, target, training): the paper's numbers, which are rank 1, then ours, a
    block a target. The paper's are left out if its target was not measured. "–": no such cell.
    """
    target, cited = paper_rank_1("3")
    ours = _measured(rows, metric, target)
    blocks = {(OURS, name): _matrix(ours[name]) for name in ours}
    if target in ours and metric == "R1":
        blocks = {(CITED, target): _matrix(cited.map("{:.1f}".format))} | blocks
    return pd.concat(blocks, names=["", "target", "training"])


def _matrix(values: pd.Series) -> pd.DataFrame:
    """Table 3's values by method as a matrix of training by adaption."""
    cells = [cell(method) for method in values.index]
    trainings, adaptions = (list(dict.fromkeys(names)) for names in zip(*cells))
    table = pd.Series(values.to_numpy(), pd.MultiIndex.from_tuples(cells)).unstack()
    table = table.reindex(trainings)[adaptions].fillna("–")
    return table.rename(index=lambda names: symbols(names, ", "),
                        columns=lambda names: symbols(names, ", ", "^tta"))


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

    ``model``: the one measured. Text; columns (heading, what): the paper's, sizes counted in its
    full network, then ours. The paper's are left out if its target was not measured.
    """
    target, cited = paper_rank_1("4")
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


def table_5(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 5 as printed: the quantities of BN that adaption updates, and per cent reached.

    ``rows``: of the tables "table_5", "table_5_restore" or both. Text; columns (heading, target):
    the paper's, left out if its target was not measured, then ours, a heading for each reading.
    """
    target, cited = paper_rank_1("5")
    columns = {}
    for table, group in rows.groupby("table", sort=False):
        text = _measured(group, metric, target)
        columns |= {(f"{OURS}: {reading_of(table)}", name): text[name] for name in text}
    if target in set(rows["target"]) and metric == "R1":
        columns = {(CITED, target): cited.map("{:.1f}".format)} | columns
    return pd.DataFrame(columns).rename(index=lambda m: symbols(m, ", ")).rename_axis("updated")


# ---- comparisons within Tables 3-5


def compare_cited(
    rows: pd.DataFrame, pairs: list[tuple[str, str]], metric: str = "R1"
) -> pd.DataFrame:
    """:func:`~bnta_lib.suite.stats.compare` within Table 3, 4 or 5, beside the paper's differences.

    The last column, "paper" (points, on the paper's target), is left out if that target, or rank
    1, is not among the rows.
    """
    (table,) = rows["table"].unique()
    tests = compare(rows, pairs, metric)
    target, cited = paper_rank_1(table.split("_")[1])
    if metric == "R1" and target in set(tests["target"]):
        paper = (tests["method"].map(cited) - tests["against"].map(cited)).round(1)
        tests["paper"] = paper.where(tests["target"] == target)
    return tests


def gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """What adaption adds in each row of Tables 3-5: :func:`compare_cited`, and the column table."""
    tests = {}
    for table, group in rows.groupby("table", sort=False):
        pairs = [(m, unadapted(m)) for m in group["method"].unique() if m != unadapted(m)]
        tests[table] = compare_cited(group, pairs, metric)
    return pd.concat(tests, names=["table"]).reset_index("table").reset_index(drop=True)


def compare_readings(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 5's reading "alone" against "restore", on the targets that have both: a row each.

    Columns: method (the quantities), those of :func:`~bnta_lib.suite.stats.paired_test`. None and
    all four quantities are the same runs in both readings, and left out.
    """
    tests = {}
    for method, group in rows.groupby("method", sort=False):
        if method not in ("None", "mu+var+gamma+beta"):
            both = group[group.groupby("target")["table"].transform("nunique") == 2]
            both = both.assign(method=both["table"].map(reading_of))
            tests[method] = paired_test(both, "alone", "restore", metric)
    return pd.concat(tests, names=["method"]).reset_index("method").reset_index(drop=True)


def paired_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as they are printed: rows in the paper's words, p with one digit that counts."""
    table = tests.assign(p=p_text(tests["p"]))
    for name in {"method", "against"} & set(table):
        table[name] = table[name].map(row_name)
    if "table" in table and table["table"].nunique() > 1:
        table.insert(0, "reading", table["table"].map(reading_of))
    return table.drop(columns="table", errors="ignore").rename(columns={"paper": CITED}).round(4)


def why_table(test: pd.DataFrame, why: pd.DataFrame, shift: pd.DataFrame) -> pd.DataFrame:
    """What adaption did on each target, beside what it brought: a row a target.

    ``test``: rows of :func:`~bnta_lib.suite.stats.paired_test` for BNTA. ``why``: target, split,
    what, value. ``shift``: target, model, index, layer, distance. Columns: difference (points), the
    rates and losses of ``why`` as means over splits, "distance frozen" and "distance adapted" as
    means over BN layers, "layers closer" (share, per cent).
    """
    table = why.groupby(["target", "what"], sort=False)["value"].mean().unstack("what", sort=False)
    table.insert(0, "difference", test.set_index("target")["difference"])
    names = {"frozen": "distance frozen", "adapted": "distance adapted", "closer": "layers closer"}
    return table.join(closer_by_target(shift).rename(columns=names)).loc[test["target"]]
