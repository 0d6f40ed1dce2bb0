"""The runner: order, failures, and what it leaves behind. Notebooks here take milliseconds."""

import gzip
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from bnta_lib.settings import METHOD_VERSION
from bnta_lib.suite import anew, claims, reproduce
from conftest import ends

PARAMETERS = "profile = None\ndata = 'embedded'"


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook with a heading, a parameters cell and code ``cells``."""
    v4 = nbformat.v4
    first = v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell(f"# The {path.stem}"), first, *map(v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "P", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for notebooks; all that is written lies beside it and not in the repository.

    Notebooks run one by one. Nothing is measured first, and the paper's claims are not checked: what
    measuring and the check are given goes to ``place/measured`` and ``place/checked``.
    """
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    for name in ("BNTA_PROFILE", "BNTA_FIGURES"):  # which a run sets for its kernels
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(reproduce, "figures_dir", lambda run: tmp_path / "figures" / "smoke")
    for name in ("NOTEBOOKS", "EXECUTED", "REPORT"):
        monkeypatch.setattr(reproduce, name, tmp_path / name.lower())
    monkeypatch.setattr(reproduce, "recorded_path", lambda profile: tmp_path / f"{profile}.csv.gz")
    monkeypatch.setattr(reproduce, "SECONDS", Path(shutil.copy(reproduce.SECONDS, tmp_path)))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    checked, measured = tmp_path / "checked", tmp_path / "measured"
    monkeypatch.setattr(anew, "measure_first",
                        lambda *how: (measured.write_text(repr(how)) and "9 numbers", True))
    monkeypatch.setattr(claims, "main", lambda arguments: checked.write_text(arguments[-1]) * 0)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figures" / "smoke").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    """In place of a run, a copy of the notebook as if it had run."""
    def run(source, executed, parameters):
        notebook = nbformat.read(source, 4)
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.execution_count = number
        notebook.metadata["bnta"] = METHOD_VERSION
        executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, executed)

    monkeypatch.setattr(reproduce, "run_notebook", run)


def reproduce_in(place: Path, *arguments: str) -> int:
    return reproduce.main(["--profile", "smoke", *arguments])


def test_notebooks_run_in_order_in_this_interpreter_and_a_report_is_made(place, capsys):
    log, figures = place / "log.txt", place / "figures" / "smoke"
    check = (f"import os, sys; assert sys.executable == {sys.executable!r}, sys.executable\n"
             f"assert os.getcwd() == {str(place / 'notebooks')!r}, os.getcwd()\n"
             "assert profile is None")
    for name in ("01_second", "00_first"):
        code = f"open({str(log)!r}, 'a').write('{name} ' + os.environ['BNTA_PROFILE'] + '\\n')"
        table = f"open({str(figures / 'table_1.md')!r}, 'w').write('|a|b|\\n|-|-|\\n|1|2|\\n')"
        write_notebook(place / "notebooks" / f"{name}.ipynb", check, code, table, "")
    sources = {p: p.read_bytes() for p in (place / "notebooks").iterdir()}

    assert reproduce_in(place) == 0

    assert log.read_text() == "00_first smoke\n01_second smoke\n"
    assert sources == {p: p.read_bytes() for p in (place / "notebooks").iterdir()}
    assert (place / "checked").read_text() == "smoke"
    assert (place / "measured").read_text() == "('smoke', 'sample', None)"
    site = place / "report" / "smoke"
    pages = {"00_first.html", "01_second.html"}
    assert {path.name for path in site.iterdir()} == {"index.html", "figures", "bnta_lib", *pages}
    assert 'href="01_second.html"' in (site / "index.html").read_text()
    printed = capsys.readouterr()
    assert "index.html" in printed.out and printed.out.endswith("9 numbers\n") and "2/2" in printed.err


@pytest.mark.parametrize("cells, words", [
    (("x = 1", "y = x / 0  # here\nz = 1"), "y = x / 0  # here"),
    (("import os; os._exit(0)", "x"), "Kernel died"),
    (("import sys; sys.exit(0)", "x = 1"), "ended before its last cell")])
def test_notebook_that_does_not_end_stops_the_run_and_is_named(place, capsys, cells, words):
    write_notebook(place / "notebooks" / "00_a.ipynb", *cells)
    write_notebook(place / "notebooks" / "01_b.ipynb", "1")
    assert reproduce_in(place) == 1
    message = capsys.readouterr().err
    assert "00_a.ipynb" in message and words in message
    assert not (place / "executed" / "smoke" / "01_b.ipynb").exists() and not (place / "report").exists()


@pytest.mark.parametrize("cache, arguments, words", [
    ("cache", ["--profile", "huge"], "unknown profile 'huge'"),
    ("cache", ["--data", "no/such/folder"], "no folder"),
    ("cache", ["--only", "07"], "invalid choice: '07'"),
    ("cache", ["--in-place", "--only", "00"], "are for all notebooks"),
    ("cache", ["--measure", "all", "--only", "00"], "are for all notebooks"),
    ("notebooks/00_a.ipynb", [], "File exists"),
    ("~no-such-user/x", [], "home directory"),
])
def test_what_does_not_exist_is_refused_before_a_kernel_starts(
        place, capsys, monkeypatch, cache, arguments, words):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    monkeypatch.chdir(place)
    monkeypatch.setenv("BNTA_CACHE", cache)
    monkeypatch.setattr(reproduce, "run_notebook", lambda *a: pytest.fail("it ran"))
    assert ends(reproduce.main, "--profile", "smoke", *arguments) > 0
    assert words in capsys.readouterr().err


def test_data_folder_reaches_the_notebook_as_a_full_path_and_braces_are_only_braces(place, monkeypatch):
    folder = place / "cam{1}"
    folder.mkdir()
    monkeypatch.chdir(place)
    (place / "notebooks" / "expected").write_text(str(folder))
    write_notebook(place / "notebooks" / "00_{a}.ipynb", "assert data == open('expected').read()")
    assert reproduce_in(place, "--data", "cam{1}") == 0
    (executed,) = (place / "executed").glob("smoke_cam{1}-*")
    assert (executed / "00_{a}.ipynb").is_file()
    assert str(place) not in (place / "report" / executed.name / "00_{a}.html").read_text()
    # The paper makes no claim on it, and nothing is recorded.
    assert not (place / "checked").exists() and not (place / "measured").exists()


def test_in_place_copies_outputs_without_run_noise(place):
    path = write_notebook(place / "notebooks" / "00_a.ipynb", "print('seen')", "1 + 1")
    assert reproduce_in(place, "--in-place") == 0
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [PARAMETERS, "print('seen')", "1 + 1"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert code[1].outputs[0].text == "seen\n"
    assert code[0].metadata == {"tags": ["parameters"]} and code[1].metadata == {}
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert list(path.parent.iterdir()) == [path]
    assert reproduce.SECONDS.read_text().startswith("notebook,seconds\n00_a,")
    assert "'none'" in (place / "measured").read_text(), "recorded rows are to be committed as they are"
    rows = gzip.decompress((place / "smoke.csv.gz").read_bytes())
    assert rows.startswith(b"experiment,profile,target")


def test_interrupt_keeps_what_is_done(place, capsys, monkeypatch, no_kernel):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    real = reproduce.run_notebook

    def interrupted(source, executed, parameters):
        if executed.stem == "01_b":
            raise KeyboardInterrupt
        return real(source, executed, parameters)

    monkeypatch.setattr(reproduce, "run_notebook", interrupted)
    assert reproduce_in(place) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert [path.name for path in (place / "executed" / "smoke").iterdir()] == ["00_a.ipynb"]
    assert not (place / "report").exists() and not (place / "checked").exists()


def test_claims_are_checked_when_all_is_done_and_decide_the_exit_code(place, monkeypatch, no_kernel):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    assert reproduce_in(place, "--only", "00") == 0 and not (place / "checked").exists()
    assert reproduce_in(place, "--only", "01") == 0 and (place / "checked").exists()  # all are done, in parts
    monkeypatch.setattr(claims, "main", lambda arguments: 1)
    assert reproduce_in(place, "--only", "01") == 1


def test_recorded_numbers_that_do_not_repeat_decide_the_exit_code(place, monkeypatch, no_kernel):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    monkeypatch.setattr(anew, "measure_first", lambda *how: ("", False))
    assert reproduce_in(place, "--measure", "all", "--seed", "3") == 1
    assert (place / "report" / "smoke" / "index.html").is_file()


def test_two_notebooks_run_at_once(place, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    meet = ("import pathlib, time\nhere, other = (pathlib.Path({!r}, name) for name in ({!r}, {!r}))\n"
            "here.write_text('')\nwhile not other.exists(): time.sleep(0.01)")
    for names in (("00_a", "01_b"), ("01_b", "00_a")):
        write_notebook(place / "notebooks" / f"{names[0]}.ipynb", meet.format(str(place), *names))
    assert reproduce_in(place) == 0
