"""Rules that every committed notebook keeps. (pytest runs their cells too, through nbval.)"""

import ast
import re
import tempfile
from pathlib import Path

import nbformat
import papermill
import pytest

from bnta_lib.settings import ROOT
from bnta_lib.suite.reproduce import find_notebooks

NOTEBOOKS = find_notebooks()
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    notebook = nbformat.read(path, as_version=4)
    return [c for c in notebook.cells if c.cell_type == kind and c.source.strip()]


@each
def test_takes_profile_and_data(path):
    parameters = papermill.inspect_notebook(path)
    assert {"profile", "data"} <= parameters.keys()
    assert parameters["profile"]["default"] == "None", "the environment variable would be ignored"
    (cell,) = [c for c in cells(path, "code") if "parameters" in c.metadata.get("tags", [])]
    # Values derived in this cell would keep the defaults' values when parameters are put in.
    assert re.fullmatch(r"(\w+ = ('[^']*'|\"[^\"]*\"|[\w.]+)\s*(#.*)?\n?|#.*\n?|\n)*", cell.source)


@each
def test_was_run_from_top_to_bottom_without_error(path):
    code, metadata = cells(path, "code"), nbformat.read(path, as_version=4).metadata
    assert metadata.kernelspec.name == "python3" and not {"widgets", "papermill"} & metadata.keys()
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    assert any(c.outputs for c in code)
    outputs = str([c.outputs for c in code])
    for machine in (str(ROOT), f"{Path.home()}/", f"{tempfile.gettempdir()}/"):
        assert machine not in outputs


@each
def test_cells_are_short(path):
    for cell in cells(path, "code"):
        longest = 40 if "subject" in cell.metadata.get("tags", []) else 25  # the method, typed out
        assert len(cell.source.splitlines()) <= longest, cell.source.splitlines()[0]


@each
def test_a_styled_table_takes_names_for_html(path):
    """A pandas Styler escapes nothing by itself, and names of folders may hold markup."""
    for cell in cells(path, "code"):
        for statement in ast.parse(cell.source).body if ".style." in cell.source else ():
            text = ast.unparse(statement)
            if ".style." in text:
                assert ".format(" in text and "escape='html'" in text
                assert ".format_index(escape='html'" in text


@each
def test_links_to_neighbours_and_files_resolve(path):
    text = "\n".join(c.source for c in cells(path, "markdown"))
    found = re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", text)
    for link in found:
        assert (path.parent / link).exists(), link
    position = NOTEBOOKS.index(path)
    for neighbour in NOTEBOOKS[max(position - 1, 0) : position + 2]:
        assert neighbour == path or neighbour.name in found, f"no link to {neighbour.name}"


def test_readme_lists_every_notebook_and_no_other():
    listed = re.findall(r"\(notebooks/([^)]+\.ipynb)\)", (ROOT / "README.md").read_text())
    assert sorted(set(listed)) == [path.name for path in NOTEBOOKS]
