"""The README's example runs as it stands, at the smoke profile."""

import re

import pandas as pd

from bnta_lib.settings import ROOT


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert 'settings("laptop")' in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace('settings("laptop")', 'settings("smoke")'), {})
    assert "pairs" in capsys.readouterr().out
    assert (tmp_path / "site.safetensors").is_file()


def test_a_number_of_the_readme_is_not_in_the_committed_table():
    readme = (ROOT / "README.md").read_text()
    table = (ROOT / "figures" / "laptop" / "table_2.md").read_text()
    rows = [line for line in readme.splitlines() if "±" in line and line.startswith("|")]
    assert len(rows) == 5
    for row in rows:
        for cell in row.split("|")[2:-1]:
            assert cell.strip() in table, row


def test_the_verdicts_that_the_readme_counts_are_those_of_the_committed_check():
    verdicts = pd.read_csv(ROOT / "figures" / "laptop" / "paper_check.csv")["verdict"].value_counts()
    text = " ".join((ROOT / "README.md").read_text().split())
    holds, fails, open_ = (verdicts[v] for v in ("holds", "does not hold", "not resolved here"))
    assert f"the {verdicts.sum()} comparisons" in text
    assert f"{holds} hold here, {fails} do not, {open_} are not resolved" in text


def test_a_link_of_the_readme_leads_nowhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not missing
