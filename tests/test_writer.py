"""Tables as files: what is written reads back, shows as text and compiles."""

import html
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from bnta_lib.suite import lab, reproduce

LOSSES = pd.DataFrame(
    {"None": ["50.9 ± 1.0", "–", "48.2"], "L_mat^tta": ["–", "21.3", "-0.4"]},
    pd.MultiIndex.from_tuples([("here, measured", *names) for names in (
        ("VIPeR", "L_id"), ("VIPeR", "L_id, L_mat"), ("GRID", "L_id"))], names=["", "target", "training"]))
ODD = pd.DataFrame({("a_b & c", "50 %"): ["[1, 2]", "$x^2$ {#}"], ("~", "\\"): [1.5, np.nan],
                    ("é", "λ ≤ σ²"): [3, 4]}, index=pd.Index(["η_tta", "×"], name="K"))
NAMES = ["<img src=x>", "*a* _b_ __c__ **d** ~~e~~ `f`", "a|b", "a\\|b", "&lt; &#42;", "[a](b) [c]",
         "two\nlines", "\\", "<!-- a", "$$a$$", "![a](x.png)"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "figures_dir", lambda run: tmp_path)
    return tmp_path


def test_saved_table_reads_back_with_its_note_and_origin(folder):
    rows = pd.DataFrame({"target": "GRID", "split": range(6), "seed": [0, 1] * 3,
                         "recorded": [1, 1, 1, 1, 0, 0],
                         "measured_on": ["2026-01-01", "2026-01-03"] * 3, "machine": "a laptop"})
    paths = lab.write_table(LOSSES, "table_3", "smoke", "A note.", rows)
    assert [path.name for path in paths] == ["table_3.csv", "table_3.md", "table_3.tex"]
    text = paths[1].read_text()
    assert "| L_mat^tta" in text and "\nA note.\n\nProfile smoke, rendered counterparts" in text
    numbers = "6 numbers: recorded 2026-01-01 to 2026-01-03 on a laptop, 2 measured here."
    assert f"Splits: 6. Seeds: 2. {numbers}" in text
    assert text.strip().endswith("±: standard deviation over splits, adaption seeds averaged first.")
    assert re.match(r"% A note\.\n% \n% Profile smoke.*\n\\begin\{tabular\}", paths[2].read_text())
    assert pd.read_csv(paths[0], index_col=[0, 1, 2]).to_numpy().tolist() == LOSSES.to_numpy().tolist()
    zero = lab.write_table(pd.DataFrame({"points": [-0.04], "of": ["a"]}).round(1), "zero", "smoke")
    assert "-0.0" not in "".join(path.read_text() for path in zero)


@pytest.mark.parametrize("run, images, origin", [
    ("smoke", None, "Profile smoke, rendered"), ("smoke_own-1", None, "images of the folder"),
    ("smoke_own-1", lab.RENDERED, "Profile smoke, rendered"), ("laptop", "", "Profile laptop."),
    ("laptop+tta_lr=0.1", None, "Profile laptop with tta_lr=0.1, rendered")])
def test_origin_names_the_tables_own_images_and_counts(run, images, origin):
    rows = pd.DataFrame({"target": ["VIPeR", "GRID", "GRID"], "split": [0, 0, 1], "seed": 0, "recorded": 0,
                         "measured_on": "2026-01-01", "machine": "a laptop"})
    text = lab.provenance(pd.DataFrame({"people": [316]}), run, rows, images)
    assert origin in text and "±" not in text
    assert text.endswith("Splits: VIPeR 1, GRID 2. Seeds: 1. 3 numbers: 3 measured here.")


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_a_folders_name_is_shown_as_text(folder, name):
    table = pd.DataFrame({(name, "R1"): ["1"], (name, "of"): [name]}, index=pd.Index([name], name="set"))
    text = lab.write_table(table, "t", "smoke", f"On {name}.")[1].read_text()
    shown = reproduce.markdown_html(text)
    assert set(re.findall(r"<(\w+)", shown)) <= {"table", "thead", "tbody", "tr", "th", "td", "p"}
    line = " ".join(name.split())
    cells = [html.unescape(cell) for cell in re.findall("<t[dh](?: [^>]*)?>(.*?)</t[dh]>", shown)]
    assert cells == ["set", f"{line} R1", f"{line} of", line, "1", line]


@pytest.mark.parametrize("table", [LOSSES, ODD])
def test_latex_rows_have_as_many_cells_as_there_are_columns(table):
    text = lab.latex(table)
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    assert len(columns) == table.index.nlevels + table.shape[1]
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(lines) == len(table) + table.columns.nlevels + 1  # and the names of the index
    for line in lines:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        cells = len(re.findall(r"(?<!\\)&", line)) + 1
        assert cells + sum(spans) - len(spans) == len(columns), line
        bare = re.sub(r"\\[{}$]", "", line)
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, line


def test_latex_has_symbols_and_prints_a_repeated_label_once():
    text = lab.latex(LOSSES)
    assert text.isascii() and r"L\_mat\textasciicircum tta" in text and r"50.9 $\pm$ 1.0" in text
    assert text.count("here, measured") == 1 and text.count("VIPeR") == text.count("GRID") == 1


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path):
    body = "\n\n".join(map(lab.latex, (LOSSES, ODD)))
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert made.returncode == 0, made.stdout[-2000:]


def test_saved_rows_are_the_same_bytes_on_another_machine(folder):
    scores = pd.DataFrame({"target": "GRID", "metric": "R1", "unit": "%", "value": [1.0, 1 / 3]})
    written = []
    for value, day in ((8.0, "Monday"), (9.0, "Tuesday")):
        timed = scores.assign(metric="pairing", unit="s", value=value)
        rows = pd.concat([scores, timed]).assign(machine=day, measured_on=day, seconds=value)
        written.append(lab.Lab("smoke").save_rows(rows, "rows").read_bytes())
    assert written[0] == written[1] and len(written[0].splitlines()) == 1 + len(scores)
