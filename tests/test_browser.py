"""The explorers in JupyterLab in Chromium: sliders by keyboard, a live run started and cancelled."""

import re
import shutil

import browser as harness
import pytest

from bnta_lib.suite.reproduce import NOTEBOOKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A function that opens a notebook by its number, in one browser on one server."""
    if why := harness.missing():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    folder, state = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder)
    with (harness.jupyterlab(folder, state, BNTA_PROFILE="smoke", OMP_NUM_THREADS="1") as (address, token),
          sync_playwright() as playwright):
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=harness.FLAGS)

        def opened(number: str) -> harness.Notebook:
            (path,) = folder.glob(f"{number}_*.ipynb")
            return harness.Notebook(chromium, address, token, path.name)

        yield opened
        chromium.close()


@pytest.fixture
def ran(lab, request):
    """A notebook run from top to bottom without an error; a picture of it is kept on failure."""
    notebook = lab(request.param)
    try:
        notebook.run_all()
        assert notebook.errors() == []
        yield notebook
        assert notebook.errors() == []
    finally:
        # The page as it is left; after a failure it shows what went wrong.
        notebook.screenshot(f"{request.param}_{request.node.originalname}")
        notebook.page.close()


def moves(notebook, act, pictures=True) -> tuple[str, str]:
    """Do ``act``; the numbers (and a picture) must change. Returns the numbers before and after."""
    numbers, seen = notebook.numbers(), notebook.pictures()
    act()
    notebook.until(lambda: notebook.numbers() != numbers, "no number changed")
    if pictures:
        notebook.until(lambda: notebook.pictures() != seen, "no picture changed")
    assert notebook.errors() == []
    return numbers, notebook.numbers()


def sizes(numbers: str) -> tuple[int, int]:
    n, k = re.search(r"N = (\d+), K = (\d+)", numbers).groups()
    return int(n), int(k)


@pytest.mark.parametrize("ran", ["10"], indirect=True)
def test_n_and_k_sliders_show_no_other_setting_or_a_run_cannot_be_stopped(ran):
    n, k = sizes(ran.numbers())
    _, text = moves(ran, lambda: ran.press("K", "ArrowLeft"))
    assert sizes(text)[0] == n and sizes(text)[1] < k and "stored" in text
    moves(ran, lambda: ran.press("K", "End"))
    assert sizes(ran.numbers())[1] == n // 2
    _, text = moves(ran, lambda: ran.press("N", "Home"))
    low, most = sizes(text)
    assert low < n and 2 * most <= low, "the K slider's range did not follow N"
    moves(ran, lambda: ran.press("split", "ArrowRight"))
    _, text = moves(ran, lambda: ran.press("momentum", "End"))
    assert "not measured" in text
    # A run of this setting adds its result; another is cancelled and adds nothing.
    _, text = moves(ran, lambda: ran.click("Run"))
    assert "run just now" in text and "rank 1" in text
    ran.until(lambda: "It is the star" in ran.explorer().inner_text(), "the run did not end")
    moves(ran, lambda: ran.press("N", "End"))
    before = ran.pictures()
    ran.click("Run")
    ran.click("Cancel")
    ran.until(lambda: "cancelled, nothing was added" in ran.explorer().inner_text(), "not cancelled")
    assert ran.pictures() == before


@pytest.mark.parametrize("ran", ["04"], indirect=True)
def test_another_probe_shows_the_same_ranking(ran):
    _, text = moves(ran, lambda: ran.press("number", "ArrowRight"))
    moves(ran, lambda: ran.press("number", "End"))
    _, first = moves(ran, lambda: ran.choose("probes", "as they come"))
    moves(ran, lambda: ran.press("number", "Home"))
    assert re.search(r"^probe 0:.*rank \d+ to \d+", ran.numbers())


@pytest.mark.parametrize("ran", ["08", "09"], indirect=True)
def test_another_layer_shows_the_same_outputs(ran):
    _, text = moves(ran, lambda: ran.press("BN layer", "End"))
    assert "BN layer 60 of 60" in text
    moves(ran, lambda: ran.press("BN layer", "Home"))
    _, text = moves(ran, lambda: ran.press("BN layer", "ArrowRight"))
    assert "layer1.0.bn1, BN layer 2 of 60" in text
    seen = ran.pictures()
    ran.press("channel", "ArrowRight")
    ran.until(lambda: ran.pictures() != seen, "one channel looks like all of them")
    moves(ran, lambda: ran.choose("target", "iLIDS"))


@pytest.mark.parametrize("ran", ["01"], indirect=True)
def test_exposure_haze_resolution_or_noise_changes_no_picture(ran):
    for slider in ("exposure", "haze", "resolution", "noise"):
        _, away = moves(ran, lambda: ran.press(slider, "PageUp"))
    _, back = moves(ran, lambda: ran.click("As in the set"))
    distances = [re.findall(r"(\d+\.\d+) stored|set is, (\d+\.\d+)", text) for text in (away, back)]
    assert distances[1][0][0] == distances[1][1][1], "the set's own cameras are not where they were"
    moves(ran, lambda: ran.choose("place", "GRID"))
