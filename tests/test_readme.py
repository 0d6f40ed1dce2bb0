"""README and docs: the example runs, numbers are the committed ones, links lead somewhere."""

import re
import runpy

import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import ROOT, settings


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert 'settings("laptop")' in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace('settings("laptop")', 'settings("smoke")'), {})
    assert "pairs" in capsys.readouterr().out
    assert (tmp_path / "site.safetensors").is_file()


def test_numbers_of_the_readme_are_in_the_committed_table():
    readme = (ROOT / "README.md").read_text()
    table = (ROOT / "figures" / "laptop" / "table_2.md").read_text()
    rows = [line for line in readme.splitlines() if "±" in line and line.startswith("|")]
    assert len(rows) == 6
    for row in rows:
        for cell in row.split("|")[2:-1]:
            assert cell.strip() in table, row


def test_readme_counts_the_verdicts_of_the_committed_check():
    verdicts = pd.read_csv(ROOT / "figures" / "laptop" / "paper_check.csv")["verdict"].value_counts()
    text = " ".join((ROOT / "README.md").read_text().split())
    holds, fails, open_ = (verdicts[v] for v in ("holds", "does not hold", "not resolved"))
    assert f"the {verdicts.sum()} comparisons" in text
    assert f"{holds} hold here, {fails} do not, {open_} are not resolved" in text


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))],
                         ids=str)
def test_links_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if "://" not in link and not page.parent.joinpath(link).exists()]


def test_data_card_counts_the_sets_and_model_card_gives_recorded_numbers():
    card = (ROOT / "docs" / "data_card.md").read_text()
    own = settings("laptop")
    for name, domain in DOMAINS.items():
        row = re.search(rf"(?m)^\| {name} \|.*\| (\d+) \| (\S+) \| (.+) \|$", card)
        counts = (f"{own.people.get(name, 0):,}", f"{own.images.get(name, 0):,}")
        counts = counts if name in own.people else ("target", "Table 1's")
        assert row.groups() == (str(domain.cameras), *counts), name
    headroom = pd.read_csv(ROOT / "figures" / "laptop" / "headroom.csv").set_index("set")["R1"].astype(float)
    sources = headroom[[*own.people]]
    numbers = [sources.min(), sources.max(), *headroom[["VIPeR", "GRID", "iLIDS"]]]
    text = (ROOT / "docs" / "model_card.md").read_text()
    stated = re.findall(r"\d\d\.\d", text.partition("## How good")[2])
    assert [f"{n:.1f}" for n in numbers] == stated[:5]


def test_numbers_on_the_better_network_are_the_recorded_ones():
    rows = pd.read_csv(ROOT / "data" / "results" / "steady.csv.gz", low_memory=False)
    rows = rows[(rows["metric"] == "R1") & (rows["training"] == "bnta") & (rows["seed"] == 0)]
    options = rows["options"].fillna("")
    kinds = {"rank 1 without adaption": ("none", ""), "BNTA": ("bnta", ""), "AdaBN": ("adabn", ""),
             "alpha-BN 0.5": ("alpha_bn", '{"alpha": 0.5}'),
             "AdaBN; other people": ("adabn", '{"images": "others"}'),
             "AdaBN by camera; other people": ("adabn", '{"images": "others", "by": "camera"}')}
    values = {name: rows[(rows["adapter"] == adapter) & (options == option)].pivot(
        index="split", columns="target", values="value") for name, (adapter, option) in kinds.items()}
    frozen = values["rank 1 without adaption"]
    text = (ROOT / "docs" / "results.md").read_text().replace("−", "-")
    for name, by_split in values.items():
        row = re.search(rf"(?m)^\| {name} \|(.*)\|$", text.partition("## On a better network")[2])
        for target, cell in zip(("VIPeR", "GRID", "iLIDS"), row[1].split("|")):
            difference = by_split[target] - (0 if by_split is frozen else frozen[target])
            mean, *ends = map(float, re.findall(r"-?[0-9.]+", cell))
            expected = scipy_stats.ttest_1samp(difference.dropna(), 0).confidence_interval()
            assert [mean, *ends] == pytest.approx([difference.mean(), *expected][:len(ends) + 1], abs=0.051)


def test_article_is_what_its_script_writes_from_the_committed_tables():
    article = runpy.run_path(str(ROOT / "docs" / "article.py"))["article"]()
    assert article == (ROOT / "docs" / "article.md").read_text(encoding="utf-8")
