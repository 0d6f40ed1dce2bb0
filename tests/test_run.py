"""A notebook as a step of a batch: what is refused before a kernel starts, and how it ends."""

import nbformat
import pytest

from bnta_lib.suite import run
from bnta_lib.suite.reproduce import NOTEBOOKS

SITE = NOTEBOOKS / "11_your_own_gallery.ipynb"


@pytest.fixture
def no_kernel(monkeypatch):
    """Fail if a notebook is begun."""
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
    with pytest.raises(SystemExit) as stop:
        run.main([str(SITE), str(tmp_path / "r.ipynb"), *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "r.ipynb").read_text() == "an earlier record"


def test_all_that_is_wrong_is_named_at_once():
    with pytest.raises(ValueError) as error:
        run.typed(SITE, {"N": "many", "image": "x", "guarded": "perhaps"})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("notebook, record, words", [
    ("gone.ipynb", "r.ipynb", "no notebook gone.ipynb"), ("text.ipynb", "r.ipynb", "cannot be read as a notebook"),
    ("a.ipynb", "r.txt", "cannot be the record"), ("a.ipynb", "a.ipynb", "cannot be the record")])
def test_what_cannot_be_run_is_refused(notebook, record, words, tmp_path, monkeypatch, capsys, no_kernel):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.ipynb", "x = 1")
    (tmp_path / "text.ipynb").write_text("no notebook")
    with pytest.raises(SystemExit):
        run.main([notebook, record])
    assert words in capsys.readouterr().err


def test_paths_start_at_the_callers_folder_and_braces_are_only_braces(tmp_path, monkeypatch):
    folder = tmp_path / "a{b}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "here").write_text("found")
    write(folder / "n.ipynb", "place = ''", "assert open(place).read() == 'found'")
    assert run.main(["n.ipynb", "out/r.ipynb", "-p", "place", "here"]) == 0
    assert [path.name for path in (folder / "out").iterdir()] == ["r.ipynb"]


def test_a_run_that_fails_leaves_the_earlier_record(tmp_path, capsys):
    write(tmp_path / "n.ipynb", "x = 1", "assert x == 1")
    record = tmp_path / "r.ipynb"
    assert run.main([str(tmp_path / "n.ipynb"), str(record)]) == 0
    before = record.read_bytes()
    assert run.main([str(tmp_path / "n.ipynb"), str(record), "-p", "x", "2"]) == 1
    assert record.read_bytes() == before and (tmp_path / "r.failed.ipynb").is_file()
    assert "failed in code cell 2 of 2" in capsys.readouterr().err


def test_figures_of_other_parameters_go_beside_the_record(tmp_path):
    code = "from bnta_lib.settings import figures_dir; place = figures_dir('smoke'); place.mkdir(parents=True)"
    write(tmp_path / "n.ipynb", "metric = 'R1'", code)
    assert run.main([str(tmp_path / "n.ipynb"), str(tmp_path / "r.ipynb"), "-p", "metric", "mAP"]) == 0
    assert (tmp_path / "r_figures" / "smoke").is_dir()
