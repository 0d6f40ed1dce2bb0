"""Notebooks on published sets, in little: they run, and what they print names protocol and sources."""

import shutil

import nbformat
import pytest
import real_trees

from bnta_lib.data import load_targets, mixture
from bnta_lib.data.published import find_sets
from bnta_lib.settings import settings
from bnta_lib.suite.reproduce import NOTEBOOKS, run_notebook
from bnta_lib.suite.runs import figures_dir, run_name


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three sources and two targets; the run's figures, which lie in the repository, are removed."""
    root = tmp_path_factory.mktemp("real") / "some of the sets"
    for name in ("CUHK02", "Market-1501", "CUHK-SYSU", "VIPeR", "GRID"):
        real_trees.tree(name, real_trees.LAYOUTS[name][0], root, people=12)
    yield root
    shutil.rmtree(figures_dir(run_name("smoke", root)), ignore_errors=True)


def printed(path) -> str:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("number", ["03", "05"])
def test_notebook_runs_on_published_sets_and_prints_their_protocol(
    sets, number, tmp_path_factory, monkeypatch
):
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the networks are too small to share
    monkeypatch.setenv("BNTA_CACHE", str(folder / "cache"))  # what the first trains, the next reads
    (source,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    executed = folder / "real notebooks" / source.name
    run_notebook(source, executed, {"profile": "smoke", "data": str(sets)})
    said, mixed = printed(executed), mixture(find_sets(sets))
    targets = load_targets(settings("smoke"), sets)
    assert mixed.note in said and "without CUHK03, DukeMTMC-reID" in said
    assert all(target.protocol in said for target in targets.values())
    figures = figures_dir(run_name("smoke", sets))
    if number == "03":
        assert "published sources" in str(nbformat.read(executed, 4)) and (figures / "headroom.csv").is_file()
        return
    for table in ("table_2.md", "table_2.tex", "table_2_paired.md"):
        assert mixed.note in (figures / table).read_text()
    text = (figures / "table_2.md").read_text()
    assert "paper, cited" in text and "here, measured" in text, "the paper's numbers, beside ours"
