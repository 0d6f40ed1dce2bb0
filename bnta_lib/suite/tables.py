"""Tables 1 to 5 as the paper prints them, and the paired comparisons within Tables 2 to 5.

Cited numbers, of other images, have their own heading. They are left out if none of their targets is ours.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd

from bnta_lib.data.sets import Target
from bnta_lib.settings import ROOT, TARGETS
from bnta_lib.suite.specs import TABLES
from bnta_lib.suite.stats import METRICS, averaged, by_training, paired_test, printed

CITED, OURS = "paper, cited", "here, measured"
# How tables print losses and BN's quantities.
SYMBOLS = {"none": "None", "id": "L_id", "pos": "L_pos", "mat": "L_mat", "mat^tta": "L_mat^tta",
           "mu": "μ", "var": "σ²", "gamma": "γ", "beta": "β"}


@cache
def paper_numbers() -> pd.DataFrame:
    """Every number of the paper's Tables 1-5: columns table, row, dataset, metric, value (text)."""
    # A row of Tables 4 and 5 is called None: that is a name and no missing value.
    return pd.read_csv(ROOT / "data" / "paper_tables.csv", dtype={"value": str}, keep_default_na=False)


def paper_values(table: str, target: str, metric: str = "R1") -> pd.Series:
    """The paper's numbers on a target by row of Table "2" to "5", or of "text", its times."""
    cited = paper_numbers().query("table == @table and dataset == @target and metric == @metric")
    return cited.set_index("row")["value"].astype(float).rename(target)


def row_name(method: str, join: str = "+") -> tuple[str, ...]:
    """A row in symbols: μ+σ²; in Table 3 the losses of training and of adaption, (L_id+L_mat, L_mat^tta)."""
    training, _, adaption = method.removeprefix("train ").partition("; tta ")
    sides = (training, adaption.replace("mat", "mat^tta")) if adaption else (method,)
    return tuple(join.join(SYMBOLS.get(name, name) for name in side.split("+")) for side in sides)


def reading_of(table: str) -> str:
    """The reading of "only mu" that a table of ours takes: alone or restore."""
    return "restore" if table.endswith("_restore") else "alone"


def table_1(targets: Mapping[str, Target]) -> pd.DataFrame:
    """Table 1 as cited and as counted on the first split, a distractor as a person: a row a target."""
    columns, here = ["probe people", "gallery people", "probe images", "gallery images"], {}
    for name, target in targets.items():
        sides = target.splits[0].probe, target.splits[0].gallery
        pids = [target.data.pids[side] for side in sides]
        people = [len(ids[ids > 0].unique()) + int((ids == 0).sum()) for ids in pids]
        here[name] = *people, *map(len, sides)
    here = pd.DataFrame.from_dict(here, orient="index", columns=columns)
    cited = paper_numbers().query("table == '1'").pivot(index="dataset", columns="metric", values="value")
    cited = cited.rename_axis(columns=None).astype("Int64").reindex(index=here.index, columns=columns)
    return pd.concat({"paper": cited, "here": here}, axis=1)


def mean_std(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Text "mean ± std" over splits, seeds and trainings averaged first: a row a method, columns (target,
    metric)."""
    by_split = averaged(rows, ["target", "metric", "method", "split"])
    over_splits = by_split.groupby(["target", "metric", "method"]).agg(["mean", "std"])
    spread = over_splits["std"].map(" ± {:.1f}".format, na_action="ignore").fillna("")
    text = over_splits["mean"].map("{:.1f}".format) + spread
    columns = pd.MultiIndex.from_product([rows["target"].unique(), metrics])
    return text.unstack(["target", "metric"]).reindex(index=rows["method"].unique(), columns=columns)


def table_2(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as printed, text: index (heading, method), columns (target, metric)."""
    blocks = {OURS: mean_std(rows, METRICS)}
    if set(rows["target"]) & set(TARGETS):
        cited = paper_numbers().query("table == '2'")
        columns = pd.MultiIndex.from_product([TARGETS, METRICS])
        values = cited.pivot(index="row", columns=["dataset", "metric"], values="value")
        values = values.reindex(index=cited["row"].unique(), columns=columns)
        blocks = {CITED: values.fillna("–")} | blocks
    return pd.concat(blocks, names=["", "Method"]).fillna("")


def by_camera(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``lab.measure("by_camera")`` in Table 2's form, text: index (adapted on, method)."""
    adapted_on = rows.drop_duplicates("method").set_index("method")["adapted on"].fillna("nothing")
    table = mean_std(rows, METRICS)
    methods = [method.partition(";")[0] for method in table.index]
    table.index = pd.MultiIndex.from_arrays([adapted_on[table.index], methods], names=["adapted on", ""])
    return table.loc[[*adapted_on.unique()]]


def _cited(rows: pd.DataFrame, metric: str) -> pd.Series | None:
    """The paper's rank 1 for rows of Table 3, 4 or 5, if that was measured on its target."""
    table = rows["table"].iloc[0]
    target = TABLES[table][0].target if metric == "R1" and table in TABLES else None
    return paper_values(table.split("_")[1], target) if target in set(rows["target"]) else None


def _columns(rows: pd.DataFrame, metric: str) -> dict[tuple[str, str], pd.Series]:
    """Text by method for each (heading, target) of Table 3, 4 or 5; the paper's own target before others."""
    cited, columns = _cited(rows, metric), {}
    if cited is not None:
        columns[CITED, cited.name] = cited.map("{:.1f}".format)
    for table, group in rows.groupby("table", sort=False):
        heading = OURS + f": {reading_of(table)}" * table.startswith("table_5")
        text, paper = mean_std(group, [metric]), TABLES[table][0].target
        targets = sorted(group["target"].unique(), key=lambda name: name != paper)
        columns |= {(heading, name): text[name][metric] for name in targets}
    return columns


def table_3(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 3 as printed, text: index (heading, target, losses of training), columns losses of adaption."""
    blocks = {}
    for key, text in _columns(rows, metric).items():
        training, adaption = zip(*(row_name(method, ", ") for method in text.index))
        cells = text.set_axis(pd.MultiIndex.from_arrays([training, adaption])).unstack(fill_value="–")
        blocks[key] = cells.loc[[*dict.fromkeys(training)], [*dict.fromkeys(adaption)]]
    return pd.concat(blocks, names=["", "target", "training"])


def table_4(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 4 as printed, text: a row a choice of layers to update, columns (heading, size or target)."""
    columns = _columns(rows, metric)
    if _cited(rows, metric) is not None:
        sizes = paper_numbers().query("table == '4' and metric == 'size'").set_index("row")["value"]
        columns = {(CITED, "size"): sizes.reindex(rows["method"].unique()).fillna("–")} | columns
    return pd.DataFrame(columns).rename_axis("updated")


def table_5(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Table 5 as printed, text: a row a choice of BN's quantities, columns (heading, target), for rows of
    "table_5", "table_5_restore" or both; each reading has a heading."""
    table = pd.DataFrame(_columns(rows, metric)).rename_axis("updated")
    return table.rename(index=lambda method: row_name(method, ", ")[0])


def compare(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str = "R1") -> pd.DataFrame:
    """:func:`~bnta_lib.suite.stats.paired_test` of each (method, against), which are the first two columns.

    ``rows``: of one of Tables 2 to 5. The last column, "paper", is the paper's difference in Table 3, 4 or 5,
    if its target was measured.
    """
    tests = pd.concat({pair: paired_test(rows, *pair, metric) for pair in pairs}, names=["method", "against"])
    tests = tests.droplevel(-1).reset_index()
    if (cited := _cited(rows, metric)) is not None:
        paper = (tests["method"].map(cited) - tests["against"].map(cited)).round(1)
        tests["paper"] = paper.where(tests["target"] == cited.name)
    return tests


def gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """:func:`compare` of each row of Tables 2-5 with the same training unadapted, and the column table."""
    tests = []
    for table, group in rows.groupby("table", sort=False):
        training = group.drop_duplicates("method").set_index("method")["training"]
        frozen = {training[method]: method for method in group.query("adapter == 'none'")["method"].unique()}
        pairs = [(method, frozen[training[method]]) for method in training.index.drop(frozen.values())]
        tests.append(compare(group, pairs, metric).assign(table=table))
    return pd.concat(tests, ignore_index=True)


def spread(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """How trainings of a model vary, a row a target and method, text: how many there are, mean and standard
    deviation of their means over splits, and of what adaption adds to each."""
    each = by_training(rows, metric).groupby(["target", "method"], sort=False)
    table = {"trainings": each.size()}
    for name, heading in (("value", metric), ("gain", "gain")):
        mean, std = each[name].mean().map("{:.1f}".format), each[name].std()
        table[heading] = mean + std.map(" ± {:.1f}".format, na_action="ignore").fillna("")
    table["gain"] = table["gain"].where(each["adapter"].first() != "none", "–")
    table = pd.DataFrame(table).reset_index()
    return table.assign(method=table["method"].map(row_name).str.join(" → ")).set_index(["target", "method"])


def paired_table(tests: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as :func:`~bnta_lib.suite.stats.printed`, in symbols, by method, against and target, and
    before them the reading, if there are two."""
    keys = ["method", "against", "target"]
    tests = tests.assign(**{name: tests[name].map(row_name).str.join(" → ") for name in keys[:2]})
    if "table" in tests and tests["table"].nunique() > 1:
        keys, tests = ["reading", *keys], tests.assign(reading=tests["table"].map(reading_of))
    if "paper" in tests:  # with the paper's one digit
        tests["paper"] = tests["paper"].map("{:.1f}".format, na_action="ignore").fillna("–")
    return printed(tests.drop(columns="table", errors="ignore").rename(columns={"paper": CITED}), keys)
