"""A notebook as a step of a batch: what is refused before a kernel starts, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from bnta_lib.suite import run
from bnta_lib.suite.reproduce import NOTEBOOKS

SITE = NOTEBOOKS / "11_your_own_gallery.ipynb"


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails where a notebook is begun."""
    def begun(*_, **__):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(run, "run_notebook", begun)


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), path)
    return path


def test_values_get_the_types_of_the_notebooks_own():
    given = {"images": "7", "K": "12", "N": "900", "guarded": "False", "out": "None", "seed": "-3"}
    assert run.typed(SITE, given) == {"images": "7", "K": 12, "N": 900, "guarded": False, "out": None, "seed": -3}


@pytest.mark.parametrize("given, words", [
    ({"image": "x"}, "does not take 'image': it takes profile, data, images"),
    ({"profile": "huge"}, "profile is one of smoke, laptop, paper, rehearsal, and not 'huge'"),
    ({"tracks": "people"}, "tracks is one of folders, and not 'people'"),
    ({"N": "many"}, "N is a whole number, and not 'many'"),
    ({"N": "None"}, "N is a whole number, and not 'None'"),
    ({"K": "1.5"}, "K is a whole number, and not '1.5'"),
    ({"guarded": "yes"}, "guarded is True or False, and not 'yes'"),
    ({"guarded": "not now"}, "guarded is True or False, and not 'not now'"),
    ({"guarded": "1"}, "guarded is True or False, and not '1'"),
    ({"guarded": "__import__('os').system('true')"}, "guarded is True or False")])
def test_unknown_names_and_wrong_types_are_refused_before_a_kernel_starts(given, words, tmp_path, capsys, no_kernel):
    arguments = [word for pair in given.items() for word in ("-p", *pair)]
    (tmp_path / "r.ipynb").write_text("an earlier record")
    assert run.main([str(SITE), str(tmp_path / "r.ipynb"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "r.ipynb").read_text() == "an earlier record"


def test_all_that_is_wrong_is_named_at_once(tmp_path, capsys, no_kernel):
    run.main([str(SITE), str(tmp_path / "r.ipynb"), "-p", "N", "x", "-p", "n", "3"])
    said = capsys.readouterr().err
    assert "N is a whole number" in said and "does not take 'n'" in said


@pytest.mark.parametrize("notebook, record, more, words", [
    ("nowhere.ipynb", "r.ipynb", [], "no notebook nowhere.ipynb"),
    (__file__, "r.ipynb", [], "does not end in .ipynb"),
    (str(SITE), "r.txt", [], "name a file that ends in .ipynb"),
    (str(SITE), str(SITE), [], "written over itself"),
    (str(SITE), "r.failed.ipynb", [], "the name of a run that failed"),
    (str(SITE), "r.ipynb", ["-p", "guarded", "not " * 20_000 + "True"], "guarded is True or False"),
    (str(SITE), "r.ipynb", ["-p", "N", "2", "-p", "N", "3"], "N is given twice")])
def test_what_cannot_be_run_is_said_in_a_line(notebook, record, more, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main([notebook, record, *more]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", json.dumps({"cells": 3, "nbformat": 4})])
def test_a_file_that_is_no_notebook_is_refused(text, tmp_path, capsys):
    (tmp_path / "n.ipynb").write_text(text)
    assert run.main([str(tmp_path / "n.ipynb"), str(tmp_path / "r.ipynb")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_paths_are_those_of_the_callers_folder_and_the_end_is_told(tmp_path):
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    write(elsewhere / "n.ipynb", "name = None", "print(open(name).read())", "raise ValueError('no such\nthing')")
    (tmp_path / "mine.txt").write_text("what it read")
    command = [sys.executable, "-m", "bnta_lib.suite.run", "notebooks/n.ipynb", "r.ipynb", "-p", "name", "mine.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "failed in code cell 3 of 3" in done.stderr and "as far as it ran: r.failed.ipynb" in done.stderr
    assert not (tmp_path / "r.ipynb").exists()
    record = nbformat.read(tmp_path / "r.failed.ipynb", as_version=4)
    assert any("what it read" in o.get("text", "") for c in record.cells if c.cell_type == "code" for o in c.outputs)


def test_braces_in_paths_are_only_braces(tmp_path, monkeypatch, capsys):
    (tmp_path / "{0}").mkdir()
    monkeypatch.chdir(tmp_path / "{0}")
    write(tmp_path / "{0}" / "n{name}.ipynb", "name = None", "open('made', 'w').write(name)")
    assert run.main(["n{name}.ipynb", "r{x}.ipynb", "-p", "name", "{y}"]) == 0, capsys.readouterr().err
    assert (tmp_path / "{0}" / "made").read_text() == "{y}"
    assert {path.name for path in (tmp_path / "{0}").iterdir()} == {"n{name}.ipynb", "r{x}.ipynb", "made"}


def test_a_run_that_fails_or_finds_no_room_leaves_the_earlier_record(tmp_path, small_disk, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "n.ipynb", "wrong = False", "assert not wrong, 'two\\nlines'")
    assert run.main(["n.ipynb", "r.ipynb"]) == 0
    good = (tmp_path / "r.ipynb").read_bytes()
    assert run.main(["n.ipynb", "r.ipynb", "-p", "wrong", "True"]) == 1
    said = capsys.readouterr().err
    assert "AssertionError: two lines" in said and "as far as it ran: r.failed.ipynb" in said
    assert (tmp_path / "r.ipynb").read_bytes() == good
    assert nbformat.read(tmp_path / "r.failed.ipynb", as_version=4)
    assert run.main(["n.ipynb", "r.ipynb"]) == 0 and not (tmp_path / "r.failed.ipynb").exists()
    good = (tmp_path / "r.ipynb").read_bytes()
    (small_disk / "r.ipynb").write_bytes(good)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    assert run.main(["n.ipynb", str(small_disk / "r.ipynb")]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "Errno" not in said and "Traceback" not in said
    assert (small_disk / "r.ipynb").read_bytes() == good
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "r.ipynb"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_path_that_a_notebook_cannot_hold_is_refused(tmp_path, monkeypatch, capsys, no_kernel):
    monkeypatch.chdir(tmp_path)
    assert run.main([str(SITE), "r.ipynb", "-p", "images", os.fsdecode(b"im\xff")]) == 2
    assert "images is 'im?', which is no UTF-8 text" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_of_own_parameters_are_taken_for_those_of_the_whole_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path / "figures"))
    write(tmp_path / "n.ipynb", "profile = 'smoke'\nseed = 0",
          "from bnta_lib.settings import figures_dir\nfolder = figures_dir('smoke')\nfolder.mkdir(parents=True)")
    assert run.main(["n.ipynb", "own.ipynb", "-p", "seed", "1"]) == 0
    assert (tmp_path / "own_figures" / "smoke").is_dir() and not (tmp_path / "figures").exists()
    assert os.environ["BNTA_FIGURES"] == str(tmp_path / "figures")
    assert run.main(["n.ipynb", "r.ipynb", "-p", "profile", "smoke"]) == 0
    assert (tmp_path / "figures" / "smoke").is_dir() and not (tmp_path / "r_figures").exists()


def test_a_run_that_was_killed_leaves_its_litter_for_ever(tmp_path):
    write(tmp_path / "n.ipynb", "wait = True", "import time\nopen('began', 'w')\nwhile wait: time.sleep(0.1)")
    command = [sys.executable, "-m", "bnta_lib.suite.run", "n.ipynb", "r.ipynb"]
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(command, cwd=tmp_path)
        while not (tmp_path / "began").exists():
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait() == code
        (tmp_path / "began").unlink()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".r")]
    assert subprocess.run([*command, "-p", "wait", "False"], cwd=tmp_path).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"n.ipynb", "r.ipynb", "began"}


def test_a_failed_copy_that_is_run_again_is_deleted(tmp_path):
    write(tmp_path / "r.failed.ipynb", "seed = 0", "print(seed)")
    assert run.main([str(tmp_path / "r.failed.ipynb"), str(tmp_path / "r.ipynb")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"r.failed.ipynb", "r.ipynb"}
