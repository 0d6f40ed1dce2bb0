"""Write article.md from article.md.j2: ``python docs/article.py``. Its numbers are those of figures/laptop.

A sentence that calls a difference a gain or a loss names the verdict; the page is not written if that is
another.
"""

import math
from functools import cache
from pathlib import Path

import jinja2
import pandas as pd

from bnta_lib.settings import ROOT, TARGETS, settings
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, paired_test
from bnta_lib.suite.sweeps import HOME
from bnta_lib.suite.tables import mean_std, paper_values

HERE, FIGURES = Path(__file__).parent, ROOT / "figures" / "laptop"
WORDS = {"gains": HOLDS, "loses": FAILS, "unresolved": OPEN}


@cache
def rows(table: str) -> pd.DataFrame:
    """The measured rows of a table; of Table 5 those of its first reading."""
    table = pd.read_csv(FIGURES / f"{table}_rows.csv", keep_default_na=False, low_memory=False)
    return table[table["reading"] != "restore"]


def rank_1(method: str, target: str) -> str:
    """Rank 1 in Table 2, as "26.2 ± 2.8"."""
    return mean_std(rows("table_2"), ["R1"]).at[method, (target, "R1")]


def difference(method: str, against: str, target: str, table: str = "table_2", word: str = "") -> str:
    """Rank 1 of one row minus another's and the interval of that, as "4.6 [3.7, 5.5]"."""
    test = paired_test(rows(table), method, against).set_index("target").loc[target]
    if word and test["verdict"] != WORDS[word]:
        raise ValueError(f"the article says that {method} {word} on {target}; measured: {test.to_dict()}")
    interval = "" if math.isnan(test["low"]) else f" [{test['low']:.1f}, {test['high']:.1f}]"
    return f"{test['difference']:.1f}{interval}".replace("-", "−")


def paper(method: str, against: str, target: str, table: str = "2") -> str:
    """The paper's own difference of rank 1."""
    values = paper_values(table, target)
    return f"{values[method] - values[against]:.1f}"


def article() -> str:
    """The text of the page."""
    check = pd.read_csv(FIGURES / "paper_check.csv").set_index("id")
    claims = pd.crosstab(check["where"], check["verdict"], margins=True, margins_name="all")
    headroom = pd.read_csv(FIGURES / "headroom.csv")
    sources = headroom.loc[headroom["kind"] == HOME, "R1"]
    text = (HERE / "article.md.j2").read_text(encoding="utf-8")
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return template.render(
        rank_1=rank_1, difference=difference, paper=paper, targets=TARGETS, settings=settings("laptop"),
        headroom=f"{sources.min():.0f} to {sources.max():.0f}",
        verdict=lambda claim: check.at[claim, "verdict"],
        count=lambda word="all": claims.at["all", word],
        claims=lambda: claims[[HOLDS, FAILS, OPEN, "all"]].rename_axis(None).to_markdown())


if __name__ == "__main__":
    (HERE / "article.md").write_text(article(), encoding="utf-8")
