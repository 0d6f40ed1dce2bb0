"""The runner: order, failures, and what it leaves behind. Notebooks here take milliseconds."""

import errno
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

from bnta_lib.suite import reproduce
from bnta_lib.settings import PROFILES, settings

PARAMETERS = "profile = None\ndata = 'embedded'"


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook with a heading, a parameters cell and code ``cells``."""
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

    The paper's claims are not checked there, only that they would be: ``place/checked``.
    """
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reproduce, "figures_dir", lambda profile: tmp_path / "figures" / profile)
    checked = tmp_path / "checked"
    monkeypatch.setattr(reproduce, "check_paper", lambda name: checked.write_text(name) * 0)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def reproduce_in(place: Path, *arguments: str) -> int:
    folders = ["--notebooks", str(place / "notebooks"), "--out", str(place / "executed")]
    folders += ["--report", str(place / "report")]
    return reproduce.main([*folders, "--profile", "smoke", *arguments])


def test_notebooks_run_in_order_and_a_report_is_made(place, capsys):
    figures = place / "figures" / "smoke"
    figures.mkdir(parents=True)
    (figures / "table_9.csv").write_text("old,1\n")
    log = place / "log.txt"
    for name in ("01_second", "00_first"):
        code = f"open({str(log)!r}, 'a').write('{name} ' + profile + '\\n')"
        picture = (
            "import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\n"
            f"f = plt.figure(figsize=(1, 1)); f.savefig({str(figures / name)!r} + '.png')\n"
            f"open({str(figures / 'table_1.md')!r}, 'w').write('|a|b|\\n|-|-|\\n|1|2|\\n')"
        )
        write_notebook(place / "notebooks" / f"{name}.ipynb", code, picture)
    sources = {p: p.read_bytes() for p in (place / "notebooks").iterdir()}

    assert reproduce_in(place) == 0

    assert log.read_text() == "00_first smoke\n01_second smoke\n"
    assert sources == {p: p.read_bytes() for p in (place / "notebooks").iterdir()}
    assert (place / "checked").read_text() == "smoke"
    site = place / "report" / "smoke"
    names = {path.name for path in site.iterdir()}
    assert names == {"index.html", "figures", "00_first.html", "01_second.html"}
    index = (site / "index.html").read_text()
    assert 'href="01_second.html"' in index and '<td class="number">1</td>' in index
    assert (site / "figures" / "00_first.png").is_file() and "Not run" not in index
    said = capsys.readouterr().out
    assert re.search(r"\[1/2\] 00_first +ok +0:\d\d +elapsed +0:\d\d +about +0:\d\d left", said)
    written = said[said.index("Figures and tables written") :]
    assert "00_first.png" in written and "table_1.md" in written and "table_9" not in written
    assert "index.html" in said and str(Path("smoke") / "01_second.ipynb") in said


def test_failing_cell_stops_the_run_and_is_named(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "x = 1", "y = x / 0  # here\nz = 1")
    write_notebook(place / "notebooks" / "01_b.ipynb", "1")
    assert reproduce_in(place) == 1
    said = capsys.readouterr()
    assert "00_a.ipynb failed in code cell 3 of 3: y = x / 0  # here" in said.err
    assert "ZeroDivisionError: division by zero" in said.err
    assert "FAILED" in said.out and not (place / "executed" / "smoke" / "01_b.ipynb").exists()


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


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--profile", "huge"], "unknown profile 'huge'"),
        (["--data", "no/such/folder"], "no folder no/such/folder"),
        (["--only", "07"], "no notebook begins with '07'"),
        (["--in-place", "--only", "00"], "--in-place runs every notebook"),
    ],
)
def test_what_does_not_exist_is_refused_before_a_kernel_starts(
    place, capsys, monkeypatch, arguments, words
):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    monkeypatch.setattr(reproduce, "run", lambda *a: pytest.fail("it ran"))
    assert reproduce_in(place, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_file_where_a_folder_should_be_is_named(place, capsys, option):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    (place / "a file").write_text("x")
    assert reproduce_in(place, option, str(place / "a file")) == 2
    said = capsys.readouterr().err
    assert f"{option} {place / 'a file'}" in said and len(said.splitlines()) == 1
    assert not (place / "executed").exists()


def test_a_cache_that_cannot_be_written_is_named_before_a_kernel_starts(place, capsys, monkeypatch):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    (place / "a file").write_text("x")
    monkeypatch.setenv("BNTA_CACHE", str(place / "a file" / "cache"))
    assert reproduce_in(place) == 2
    said = capsys.readouterr().err
    assert str(place / "a file" / "cache") in said and "$BNTA_CACHE" in said
    assert len(said.splitlines()) == 1 and not (place / "executed").exists()


def test_notebook_without_the_parameter_is_refused(place, capsys):
    path = write_notebook(place / "notebooks" / "00_a.ipynb", "1", parameters="profile = None")
    assert reproduce_in(place, "--data", str(place)) == 2
    assert "00_a.ipynb does not take data" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not take nothing"):
        reproduce.check_parameters([path], {"nothing": ""})


def test_data_folder_reaches_the_notebook_as_a_full_path(place, monkeypatch):
    (place / "my people").mkdir()
    monkeypatch.chdir(place)
    (place / "notebooks" / "expected").write_text(str(place / "my people"))
    write_notebook(place / "notebooks" / "00_a.ipynb", "assert data == open('expected').read()")
    assert reproduce_in(place, "--data", "my people") == 0
    (written,) = (place / "executed").glob("smoke_my people-*")
    page = place / "report" / written.name / "00_a.html"
    assert "my people" in page.read_text() and str(place) not in page.read_text()
    assert not (place / "checked").exists()  # the paper makes no claim on it
    other = place / "elsewhere" / "my people"
    assert reproduce.run_name("smoke", other) != written.name


def test_braces_in_paths_are_only_braces(place):
    folder = place / "note{profile}books{x}"
    (place / "notebooks").rename(folder)
    (place / "cam{1}").mkdir()
    (folder / "expected").write_text(str(place / "cam{1}"))
    write_notebook(folder / "00_{a}.ipynb", "assert data == open('expected').read()")
    out, site = place / "out{0}", place / "report{"
    assert reproduce.main(["--notebooks", str(folder), "--out", str(out), "--report", str(site),
                           "--profile", "smoke", "--data", str(place / "cam{1}")]) == 0
    (written,) = out.glob("smoke_cam{1}-*")
    assert (written / "00_{a}.ipynb").is_file() and (site / written.name / "00_{a}.html").is_file()


def test_a_source_is_never_written_over(place):
    path = write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    with pytest.raises(ValueError, match="written over itself"):
        reproduce.run_notebook(path, path, {})
    folder = (place / "notebooks").rename(place / "smoke")
    arguments = ["--notebooks", str(folder), "--out", str(place), "--profile", "smoke"]
    assert reproduce.main(arguments) == 2 and (folder / "00_a.ipynb").exists()


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
    names_home = f"print({str(Path.home())!r} + '/x')"
    second = write_notebook(place / "notebooks" / "01_b.ipynb", names_home)
    before = first.read_bytes(), second.read_bytes()
    assert reproduce_in(place, "--in-place") == 1
    assert "01_b.ipynb: an output of cell 2 names this machine's" in capsys.readouterr().err
    assert before == (first.read_bytes(), second.read_bytes())


def test_another_notebooks_time_is_given_for_one_that_never_ran(place, capsys):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    assert reproduce_in(place, "--only", "00") == 0 and "never timed here" in capsys.readouterr().out
    assert reproduce_in(place, "--only", "01") == 0 and "never timed here" in capsys.readouterr().out
    assert reproduce_in(place) == 0 and "never timed here" not in capsys.readouterr().out


def test_a_run_that_fails_loses_the_notebooks_of_the_run_before(place):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    executed = place / "executed" / "smoke"
    assert reproduce_in(place) == 0
    before = {path.name: path.read_bytes() for path in executed.glob("*.ipynb")}
    first = place / "notebooks" / "00_a.ipynb"
    whole = first.read_bytes()
    write_notebook(first, "1 / 0")
    assert reproduce_in(place) == 1
    assert [path.name for path in executed.glob("*.ipynb")] == ["00_a.ipynb"]
    assert {path.name: path.read_bytes() for path in (executed / "earlier").iterdir()} == before
    first.write_bytes(whole)
    assert reproduce_in(place) == 0
    assert {path.name for path in executed.iterdir()} == before.keys()


def test_a_name_that_no_notebook_can_hold_ends_in_a_traceback(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    folder = Path(os.fsdecode(os.fsencode(place) + b"/lat\xff"))
    folder.mkdir()
    assert reproduce_in(place, "--data", str(folder)) == 2
    assert re.search("lat.*, which is no UTF-8 text: .* rename the file or folder\n$", capsys.readouterr().err)


def test_a_file_name_moves_the_cursor(place, capsys):
    write_notebook(place / "notebooks" / "00_a.ipynb", "raise ValueError('a\\x1b]0;b\\x07.jpg is no image')")
    assert reproduce_in(place) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said and r"a\x1b]0;b\x07.jpg is no image" in said


@pytest.mark.parametrize(
    "error, code, words",
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.html"), 1, "The disk is full"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_full_disk_and_ctrl_c_say_how_to_go_on(place, capsys, monkeypatch, error, code, words):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")
    real = reproduce.run_notebook

    def second_fails(source, executed, parameters, **others):
        if executed.stem == "01_b":
            raise error
        return real(source, executed, parameters, **others)

    monkeypatch.setattr(reproduce, "run_notebook", second_fails)
    assert reproduce_in(place) == code
    said = capsys.readouterr().err
    assert words in said and "--profile smoke" in said and said.strip().endswith("--only 01")
    assert not (place / "report").exists() and not (place / "checked").exists()


def test_full_disk_under_the_report_says_how_to_make_it_alone(place, capsys, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "index.html")

    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    monkeypatch.setattr(reproduce, "build", fails)
    assert reproduce_in(place) == 1
    said = capsys.readouterr().err
    assert "The disk is full" in said and "python -m bnta_lib.suite.report --profile smoke" in said
    assert "--only" not in said


def test_a_check_that_fails_decides_the_exit_code_and_some_notebooks_are_not_checked(
    place, capsys, monkeypatch
):
    write_notebook(place / "notebooks" / "00_a.ipynb", "1")
    monkeypatch.setattr(reproduce, "check_paper", lambda profile: 130)
    assert reproduce_in(place) == 130
    assert "python -m bnta_lib.suite.report" in capsys.readouterr().err
    write_notebook(place / "notebooks" / "01_b.ipynb", "1")
    assert reproduce_in(place, "--only", "01") == 130  # all are done, in parts
    monkeypatch.setattr(reproduce, "check_paper", lambda profile: 0)
    assert reproduce_in(place, "--only", "01") == 0
    index = place / "report" / "smoke" / "index.html"
    assert "Not run" not in index.read_text()  # 00 was, before
    (place / "executed" / "smoke" / "00_a.ipynb").unlink()
    monkeypatch.setattr(reproduce, "check_paper", lambda profile: pytest.fail("some are not done"))
    assert reproduce_in(place, "--only", "01") == 0
    assert "Not run: 00_a." in index.read_text()


def test_remaining_time_comes_from_earlier_runs(place):
    durations = reproduce.Durations(place / "d.json", "smoke")
    assert durations.remaining(["00_a"]) is None and durations.remaining([]) == 0
    durations.record("00_a", 10)
    durations.record("01_b", 20)
    again = reproduce.Durations(place / "d.json", "smoke")
    assert again.remaining(["00_a"]) == 10
    assert again.remaining(["01_b", "never timed"]) == 20 + 15
    assert reproduce.Durations(place / "d.json", "paper").remaining(["00_a"]) is None


def test_every_profile_is_known_to_the_runner():
    for name in PROFILES:
        assert reproduce.parameters_of(name, None) == {"profile": settings(name).profile}


def test_a_stop_under_the_report_of_some_notebooks_asks_for_a_whole_run(place, capsys, monkeypatch):
    for name in ("00_a", "01_b"):
        write_notebook(place / "notebooks" / f"{name}.ipynb", "1")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "build", interrupted)
    assert reproduce_in(place, "--only", "01") == 130
    said = capsys.readouterr().err
    assert "bnta_lib.suite.reproduce --profile smoke" in said and said.strip().endswith("--only 01")


def test_a_relative_folder_of_figures_is_another_one_for_the_notebooks(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("BNTA_FIGURES", "mine")
    write_notebook(place / "notebooks" / "00_a.ipynb", "from bnta_lib.settings import figures_dir",
                   "figures_dir('smoke').mkdir(parents=True)")
    assert reproduce_in(place) == 0
    assert (place / "mine" / "smoke").is_dir() and not (place / "notebooks" / "mine").exists()
