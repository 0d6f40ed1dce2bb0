"""The explorers in JupyterLab in Chromium: sliders by keyboard, a live run started and cancelled."""

import re
import shutil
import time

import browser as harness
import nbformat
import pandas as pd
import pytest

from bnta_lib.settings import ROOT
from bnta_lib.suite import store
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.reproduce import NOTEBOOKS

pytestmark = [pytest.mark.slow, harness.needs_chromium]


def write_notebook(path, *cells: str) -> None:
    """Write a notebook of these cells."""
    kernel = nbformat.read(next(NOTEBOOKS.glob("10_*")), 4).metadata
    made = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)], metadata=kernel)
    nbformat.write(made, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks, and 14's sliders alone, as its tables take minutes to measure."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder)
    cells = nbformat.read(next(folder.glob("14_*")), 4).cells
    (sliders,) = [cell.source for cell in cells if "camera_explorer(" in cell.source]
    opened = ("from bnta_lib.suite.lab import Lab\nlab = Lab(progress=False)\n"
              "named = {'iLIDS': lab.targets['iLIDS']}")
    write_notebook(folder / "98_sliders.ipynb", opened, sliders)
    return folder


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    """A function that opens a notebook by its number, in one browser on one server."""
    state = tmp_path_factory.mktemp("jupyter")
    with (harness.jupyterlab(folder, state, BNTA_PROFILE="smoke", OMP_NUM_THREADS="1") as address,
          harness.chromium() as chromium):
        yield lambda number: harness.Notebook(chromium, address, next(folder.glob(f"{number}_*.ipynb")).name)


@pytest.fixture
def ran(lab, request):
    """A notebook run from top to bottom; no error in it at the end."""
    notebook = lab(request.param)
    try:
        notebook.run_all()
        assert notebook.errors() == []
        yield notebook
        assert notebook.errors() == []
    finally:
        notebook.page.close()


def moves(notebook, act) -> str:
    """Do ``act``; the numbers and a picture must change. Returns the numbers after it."""
    numbers, pictures = notebook.numbers(), notebook.pictures()
    act()
    notebook.until(lambda: notebook.numbers() != numbers, "no number changed")
    notebook.until(lambda: notebook.pictures() != pictures, "no picture changed")
    assert notebook.errors() == []
    return notebook.numbers()


def sizes(numbers: str) -> tuple[int, ...]:
    return tuple(map(int, re.search(r"N = (\d+), K = (\d+)", numbers).groups()))


@pytest.mark.parametrize("ran", ["10"], indirect=True)
def test_n_and_k_move_by_keyboard_and_a_run_can_be_cancelled(ran):
    n, k = sizes(ran.numbers())
    text = moves(ran, lambda: ran.press("K", "ArrowLeft"))
    assert sizes(text)[0] == n and sizes(text)[1] < k and "stored" in text
    assert sizes(moves(ran, lambda: ran.press("K", "End")))[1] == n // 2
    low, most = sizes(moves(ran, lambda: ran.press("N", "Home")))
    assert low < n and 2 * most <= low, "the K slider's range did not follow N"
    moves(ran, lambda: ran.press("split", "ArrowRight"))
    assert "not measured" in moves(ran, lambda: ran.press("momentum", "End"))
    # A run of this setting adds its result; another is cancelled and adds nothing.
    text = moves(ran, lambda: ran.click("Run"))
    assert "run just now" in text and "rank 1" in text
    ran.until(lambda: "the star" in ran.explorer().inner_text(), "the run did not end")
    moves(ran, lambda: ran.press("N", "End"))
    before = ran.pictures()
    ran.click("Run")
    ran.click("Cancel")
    ran.until(lambda: "cancelled, nothing was added" in ran.explorer().inner_text(), "not cancelled")
    assert ran.pictures() == before


def reached(notebook, slider: str, steps: int) -> list[int]:
    """The values of N or K at the slider's lower end, and after each of so many steps upwards."""
    seen = [sizes(moves(notebook, lambda: notebook.press(slider, "Home")))]
    seen += [sizes(moves(notebook, lambda: notebook.press(slider, "ArrowRight"))) for _ in range(steps)]
    return [size["NK".index(slider)] for size in seen]


def test_every_n_and_k_is_reached_after_a_partial_run(lab, folder, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    monkeypatch.setenv("BNTA_CACHE", str(cache))
    with monkeypatch.context() as patch:
        patch.setattr(store, "recorded_path", lambda profile: tmp_path / "none")
        own = Lab("laptop", progress=False).measure("table_2", targets=["iLIDS"], splits=[0], seeds=1)
    assert len(own) and not own["recorded"].any()
    write_notebook(
        folder / "99_partial_run.ipynb",
        f"import os\nos.environ['BNTA_CACHE'] = {str(cache)!r}\nfrom bnta_lib.explore import nk\n"
        "from bnta_lib.suite.lab import Lab\nlab = Lab('laptop')\nrows = lab.measure('figure_4')",
        "nk.NKExplorer(nk.cells_of(rows), lab.model(), lab.targets, lab.settings)")
    notebook, start = lab("99"), time.monotonic()
    notebook.run_all()
    first = sizes(moves(notebook, lambda: notebook.press("N", "ArrowLeft")))
    opened = time.monotonic() - start
    with capsys.disabled():
        print(f"\nthe explorer of N and K: {opened:.1f} s until a slider has moved")
    grid = pd.read_csv(ROOT / "figures" / "laptop" / "figure_4.csv").query("target == 'GRID'")
    assert first == (750, 128) and opened < 30
    assert reached(notebook, "N", grid["N"].nunique() - 1) == sorted(grid["N"].unique())
    largest = grid[grid["N"] == grid["N"].max()]
    assert reached(notebook, "K", len(largest) - 1) == sorted(largest["K"])
    with store.open_store() as opened_store:
        rows = opened_store.rows()
    assert {*own["value"]} <= {*rows.loc[rows["recorded"] == 0, "value"]}, "own rows are gone"
    assert notebook.errors() == []
    notebook.page.close()


@pytest.mark.parametrize("ran", ["04"], indirect=True)
def test_another_probe_shows_its_ranking(ran):
    assert "rank of the first match" in moves(ran, lambda: ran.press("number", "ArrowRight"))
    moves(ran, lambda: ran.choose("probes", "most worsened first"))


@pytest.mark.parametrize("ran", ["09"], indirect=True)
def test_another_layer_shows_other_outputs(ran):
    assert re.search(r"BN layer (\d+) of \1,", moves(ran, lambda: ran.press("BN layer", "End")))
    moves(ran, lambda: ran.press("BN layer", "Home"))
    assert "layer1.0.bn1, BN layer 2 of" in moves(ran, lambda: ran.press("BN layer", "ArrowRight"))
    moves(ran, lambda: ran.press("channel (0: all)", "ArrowRight"))
    moves(ran, lambda: ran.choose("target", "iLIDS"))


@pytest.mark.parametrize("ran", ["98"], indirect=True)
def test_camera_share_and_number_of_images_change_the_ranking(ran):
    assert re.match(r"iLIDS, camera \d, probe \d+: .* statistics of \d+ images", ran.numbers())
    assert moves(ran, lambda: ran.press("camera (0: all)", "ArrowRight")).startswith("iLIDS, camera 1,")
    moves(ran, lambda: ran.press("probe", "ArrowRight"))
    assert "of 32 images" in moves(ran, lambda: ran.press("images a camera", "Home"))
    assert "statistics of" not in moves(ran, lambda: ran.press("alpha", "Home"))
