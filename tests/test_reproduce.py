"""The runner: order, failures, and what it leaves behind. Notebooks here take milliseconds."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from bnta_lib.suite import claims, reproduce

PARAMETERS = "profile = None\ndata = 'embedded'"


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook with a heading, a parameters cell and code ``cells``."""
    v4 = nbformat.v4
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell(f"# The {path.stem}"), first, *map(v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "P", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for notebooks; all that is written lies beside it and not in the repository.

    The paper's claims are not checked there; the arguments of the check go to ``place/checked``.
    """
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reproduce, "figures_dir", lambda profile: tmp_path / "figures" / profile)
    checked = tmp_path / "checked"
    monkeypatch.setattr(claims, "main", lambda arguments: checked.write_text(arguments[-1]) * 0)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figures" / "smoke").mkdir(parents=True)
    return tmp_path


def reproduce_in(place: Path, *arguments: str) -> int:
    folders = ["--notebooks", str(place / "notebooks"), "--out", str(place / "executed")]
    folders += ["--report", str(place / "report")]
    return reproduce.main([*folders, "--profile", "smoke", *arguments])


def test_notebooks_run_in_order_and_a_report_is_made(place, capsys):
    log, figures = place / "log.txt", place / "figures" / "smoke"
    for name in ("01_second", "00_first"):
        code = f"open({str(log)!r}, 'a').write('{name} ' + profile + '\\n')"
        table = f"open({str(figures / 'table_1.md')!r}, 'w').write('|a|b|\\n|-|-|\\n|1|2|\\n')"
        write_notebook(place / "notebooks" / f"{name}.ipynb", code, table)
    sources = {p: p.read_bytes() for p in (place / "notebooks").iterdir()}

    assert reproduce_in(place) == 0

    assert log.read_text() == "00_first smoke\n01_second smoke\n"
    assert sources == {p: p.read_bytes() for p in (place / "notebooks").iterdir()}
    assert (place / "checked").read_text() == "smoke"
    site = place / "report" / "smoke"
    assert {path.name for path in site.iterdir()} == {"index.html", "figures", "00_first.html", "01_second.html"}
    assert 'href="01_second.html"' in (site / "index.html").read_text()
    printed = capsys.readouterr().out
    assert re.search(r"\[1/2\] 00_first +ok +0:\d\d +elapsed +0:\d\d +about +0:\d\d left", printed)
    assert "index.html" in printed


def test_failing_cell_stops_the_run_and_is_named(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "x = 1", "y = x / 0  # here\nz = 1")
    write_notebook(place / "notebooks" / "01_b.ipynb", "1")
    assert reproduce_in(place) == 1
    printed = capsys.readouterr()
    assert "00_a.ipynb failed in code cell 3 of 3: y = x / 0  # here" in printed.err
    assert "ZeroDivisionError: division by zero" in printed.err
    assert not (place / "executed" / "smoke" / "01_b.ipynb").exists()


def test_dead_kernel_is_a_failure(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "x = 1", "import os; os._exit(0)", "x")
    assert reproduce_in(place) == 1
    said = capsys.readouterr().err
    assert "code cell 3 of 4: import os; os._exit(0)" in said and "DeadKernelError" in said


def test_notebook_that_exits_early_is_a_failure(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "import sys; sys.exit(0)", "x = 1")
    assert reproduce_in(place) == 1
    assert "ended before its last cell" in capsys.readouterr().err


def test_kernel_is_this_interpreter_whatever_kernels_are_installed(place, monkeypatch):
    spec = place / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    wrong = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(wrong))
    monkeypatch.setenv("JUPYTER_PATH", str(place / "share"))
    check = f"import sys; assert sys.executable == {sys.executable!r}, sys.executable"
    folder = f"import os; assert os.getcwd() == {str(place / 'notebooks')!r}, os.getcwd()"
    profile = "assert os.environ['BNTA_PROFILE'] == profile == 'smoke'"
    write_notebook(place / "notebooks" / "00_a.ipynb", check, folder, profile)
    assert reproduce_in(place) == 0


@pytest.mark.parametrize("arguments, words", [
    (["--profile", "huge"], "unknown profile 'huge'"),
    (["--data", "no/such/folder"], "no folder"),
    (["--only", "07"], "no notebook begins with '07'"),
    (["--in-place", "--only", "00"], "--in-place runs every notebook"),
])
def test_what_does_not_exist_is_refused_before_a_kernel_starts(place, capsys, monkeypatch, arguments, words):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    monkeypatch.setattr(reproduce, "run_all", lambda *a: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as stop:
        reproduce_in(place, *arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named_before_a_kernel_starts(place, capsys, monkeypatch):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    (place / "a file").write_text("x")
    monkeypatch.setenv("BNTA_CACHE", str(place / "a file" / "cache"))
    with pytest.raises(SystemExit):
        reproduce_in(place)
    assert str(place / "a file" / "cache") in capsys.readouterr().err and not (place / "executed").exists()


def test_a_notebook_without_the_parameter_is_refused(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1", parameters="profile = None")
    with pytest.raises(SystemExit):
        reproduce_in(place, "--data", str(place))
    assert "00_a.ipynb does not take data" in capsys.readouterr().err


def test_data_folder_reaches_the_notebook_as_a_full_path(place, monkeypatch):
    monkeypatch.setattr(reproduce, "figures_dir", lambda profile: place / "figures" / "smoke")
    (place / "my people").mkdir()
    monkeypatch.chdir(place)
    (place / "notebooks" / "expected").write_text(str(place / "my people"))
    write_notebook(place / "notebooks" / "00_a.ipynb", "assert data == open('expected').read()")
    assert reproduce_in(place, "--data", "my people") == 0
    (written,) = (place / "executed").glob("smoke_my people-*")
    page = place / "report" / written.name / "00_a.html"
    assert str(place) not in page.read_text()
    assert not (place / "checked").exists()  # the paper makes no claim on it


def test_braces_in_paths_are_only_braces(place, monkeypatch):
    monkeypatch.setattr(reproduce, "figures_dir", lambda profile: place / "figures" / "smoke")
    folder = (place / "notebooks").rename(place / "note{profile}books{x}")
    (place / "cam{1}").mkdir()
    (folder / "expected").write_text(str(place / "cam{1}"))
    write_notebook(folder / "00_{a}.ipynb", "assert data == open('expected').read()")
    out = place / "out{0}"
    assert reproduce.main(["--notebooks", str(folder), "--out", str(out), "--report", str(place / "report{"),
                           "--profile", "smoke", "--data", str(place / "cam{1}")]) == 0
    (written,) = out.glob("smoke_cam{1}-*")
    assert (written / "00_{a}.ipynb").is_file()


def test_a_source_is_never_written_over(place):
    path = write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    with pytest.raises(ValueError, match="written over itself"):
        reproduce.run_notebook(path, path, {})


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


def test_in_place_changes_nothing_if_an_output_names_this_machine(place, capsys):
    first = write_notebook(place / "notebooks" / "00_a.ipynb", "print(1)")
    second = write_notebook(place / "notebooks" / "01_b.ipynb", f"print({str(Path.home())!r} + '/x')")
    before = first.read_bytes(), second.read_bytes()
    assert reproduce_in(place, "--in-place") == 1
    assert "01_b.ipynb: an output names this machine's" in capsys.readouterr().err
    assert before == (first.read_bytes(), second.read_bytes())


def test_an_interrupt_names_the_command_that_goes_on(place, capsys, monkeypatch):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    real = reproduce.run_notebook

    def interrupted(source, executed, parameters, **options):
        if executed.stem == "01_b":
            raise KeyboardInterrupt
        return real(source, executed, parameters, **options)

    monkeypatch.setattr(reproduce, "run_notebook", interrupted)
    assert reproduce_in(place) == 130
    printed = capsys.readouterr().err
    assert "--profile smoke" in printed and printed.strip().endswith("--only 01")
    assert not (place / "report").exists() and not (place / "checked").exists()


def test_claims_are_checked_once_all_notebooks_are_done_and_decide_the_exit_code(place, monkeypatch):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    assert reproduce_in(place, "--only", "00") == 0 and not (place / "checked").exists()
    assert reproduce_in(place, "--only", "01") == 0 and (place / "checked").exists()  # all are done, in parts
    monkeypatch.setattr(claims, "main", lambda arguments: 1)
    assert reproduce_in(place, "--only", "01") == 1


def test_remaining_time_comes_from_earlier_runs(place):
    durations = reproduce.Durations(place / "d.json", "smoke")
    assert durations.remaining(["00_a"]) is None
    durations.record("00_a", 10)
    durations.record("01_b", 20)
    again = reproduce.Durations(place / "d.json", "smoke")
    assert again.remaining(["00_a"]) == 10 and again.remaining(["01_b", "never timed"]) == 20 + 15
    assert reproduce.Durations(place / "d.json", "paper").remaining(["00_a"]) is None
