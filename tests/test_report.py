"""The report in a browser, from the file system and with no network."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from PIL import Image

from bnta_lib.settings import METHOD_VERSION, ROOT
from bnta_lib.suite import report

LAPTOP = ROOT / "figures" / "laptop"
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()
HOSTILE = "<img src=x onerror=alert(1)> & 'people' #1"
CLAIMS = """id,where,claim,target,paper,here,low,high,unit,verdict,note
2.1,Table 2,adaption beats no adaption,GRID,8.7,4.59,3.69,5.48,points,holds,higher on 10 of 10
2.2,Table 2,adaption beats no adaption,VIPeR,4.9,-0.96,-1.56,-0.36,points,does not hold,
2.3,Table 2,beats,"<b onclick=""x"">bold</b>",1.7,1.67,-0.58,3.91,points,not resolved,
4.1,Fig. 4,takes no longer,all,,2.13,,,s,not resolved,one split
"""


@pytest.fixture(scope="module")
def browser():
    """Chromium under playwright's control."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)


def problems(browser, site: Path) -> list[str]:
    """Return what is wrong with the pages of ``site`` as a browser of 1,200 pixels shows them."""
    found, links, places = [], {}, {}
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page = context.new_page()

    def on_request(request):
        inside = request.url.startswith((site.as_uri() + "/", "data:"))
        found.extend([] if inside else [f"asks for {request.url[:200]}"])

    page.on("request", on_request)
    page.on("requestfailed", lambda request: found.append(f"did not get {request.url[:200]}"))
    page.on("pageerror", lambda error: found.append(f"error {error}"))
    page.on("console", lambda said: found.append(f"console {said.type}: {said.text}"))
    page.on("dialog", lambda dialog: (found.append("a script ran"), dialog.dismiss()))
    for file in sorted(site.glob("*.html")):
        before = len(found)
        page.goto(file.as_uri(), wait_until="load")
        found += page.evaluate("""() => [
            ...[...document.images].filter(i => !(i.complete && i.naturalWidth > 0))
                .map(i => 'no picture ' + i.src.slice(0, 200)),
            ...[...document.querySelectorAll('script[src], iframe, link[href]')]
                .map(e => 'loads ' + e.outerHTML.slice(0, 200)),
            ...(document.documentElement.scrollWidth > innerWidth ? ['is too wide'] : [])]""")
        links[file] = set(page.evaluate(
            "() => [...document.querySelectorAll('[href]')].map(e => e.getAttribute('href'))"))
        places[file] = set(page.evaluate(
            "() => [...document.querySelectorAll('[id]')].map(e => e.id)"))
        found[before:] = [f"{file.name} {what}" for what in found[before:]]
    context.close()
    return found + [f"{file.name} {wrong}" for file, addresses in links.items()
                    for address in addresses if (wrong := _wrong(address, file, site, places))]


def _wrong(address: str, file: Path, site: Path, places: dict[Path, set[str]]) -> str:
    """Return what is wrong with a link of the page ``file``; "" if it leads somewhere."""
    parts = urlsplit(address)
    if parts.scheme in ("http", "https"):
        return ""  # a reader may follow it
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if parts.scheme or parts.path.startswith("/") or not target.is_relative_to(site):
        return f"links out of its folder: {address}"
    if not target.is_file():
        return f"links to nothing: {address}"
    # Browsers look for a place by its name as written, then decoded.
    names = {parts.fragment, unquote(parts.fragment)}
    there = not parts.fragment or names & places.get(target, set())
    return "" if there else f"links to no place: {address}"


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Path:
    """The report of the committed laptop run, moved after it was made."""
    made = tmp_path_factory.mktemp("made")
    index = report.build("laptop", report.find_source("laptop", made / "none"), LAPTOP, made)
    return index.parent.rename(tmp_path_factory.mktemp("elsewhere") / "a report")


def test_pages_of_the_committed_run_are_whole_and_need_no_network(browser, laptop):
    names = {path.stem for path in laptop.glob("*.html")}
    assert names == {"index"} | {path.stem for path in report.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert problems(browser, laptop) == []


def test_every_figure_and_table_of_the_committed_run_is_linked_and_shown(laptop):
    text = (laptop / "index.html").read_text()
    for file in (f for f in LAPTOP.iterdir() if f.is_file()):
        assert (laptop / "figures" / file.name).is_file()
        assert text.count(f'href="figures/{file.name}"') >= 1, file.name
        assert file.suffix != ".png" or text.count(f'src="figures/{file.name}"') == 1, file.name
    order = [text.index(f'id="{stem}"') for stem in (*report.TABLES, *report.FIGURES) if f'id="{stem}"' in text]
    assert order == sorted(order) and len(order) >= 4 and 'id="verdicts"' in text


def test_pages_name_no_path_of_the_machine(laptop):
    for page in laptop.glob("*.html"):
        text = page.read_text()
        for place in (str(ROOT), str(Path.home()) + "/", "file://", str(laptop.parent)):
            assert place not in text, (page.name, place)


def write_notebook(path: Path, text: str, code: str = "1", seen: str = "") -> Path:
    """Write a notebook of one Markdown cell and one code cell that printed ``seen``."""
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(text),
             v4.new_code_cell(code, execution_count=1, outputs=[v4.new_output("stream", text=seen)])]
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def place(tmp_path) -> Path:
    """Two notebooks, figures whose names hold HTML, and a paper-check."""
    figures, notebooks = tmp_path / "figures", tmp_path / "notebooks"
    figures.mkdir(), notebooks.mkdir()
    Image.new("RGB", (20, 10)).save(figures / f"people_{HOSTILE}.png")
    Image.new("RGB", (20, 10)).save(figures / "figure_1.png")
    (figures / "table_2.md").write_text(f"|  | {HOSTILE} mAP |\n|:-|-:|\n| here, measured | 57.7 ± 2.1 |\n")
    (figures / "paper_check.csv").write_text(CLAIMS)
    text = ("# A &lt; B\n\n$f^h$ and $$\\begin{aligned} L &= 1 \\end{aligned}$$ [next](01_b.ipynb#C) "
            "[gone](09_z.ipynb) [file](../README.md) <script>alert(1)</script>")
    write_notebook(notebooks / "00_a.ipynb", text, seen="57.7 <b>\n")
    write_notebook(notebooks / "01_b.ipynb", "# C\n\n[back](00_a.ipynb)")
    return tmp_path


def build(place: Path, run: str = f"laptop_{HOSTILE}".replace("/", "")) -> Path:
    executed = sorted((place / "notebooks").glob("*.ipynb"))
    return report.build(run, executed, place / "figures", place / "site").parent


def test_html_in_names_is_shown_as_text(browser, place):
    site = build(place)
    assert problems(browser, site) == []
    text = (site / "index.html").read_text() + (site / "00_a.html").read_text()
    assert "&lt;img src=x onerror" in text and "<img src=x" not in text
    assert "<b onclick" not in text and "<script>alert" not in text


def test_verdicts_are_shown_by_word_and_symbol_and_counted(browser, place):
    page = browser.new_page()
    page.goto((build(place) / "index.html").as_uri())
    shown = page.locator("#verdicts .verdict").all_inner_texts()
    assert shown == ["✓ holds", "✗ does not hold", *["○ not resolved"] * 2]
    counts = page.locator(".counts li").all_inner_texts()
    assert [" ".join(c.split()) for c in counts] == ["1 ✓ holds", "1 ✗ does not hold", "2 ○ not resolved"]
    rows = [cells.split("\t") for cells in page.locator("#verdicts tr").all_inner_texts()]
    assert [c.strip() for c in rows[2][2:5]] == ["+8.7", "+4.6", "+3.7 to +5.5"]
    assert [" ".join(c.split()) for c in rows[-1][2:5]] == ["–", "2.13 s", "–"]
    page.close()


def test_notebook_pages_show_formulas_and_keep_to_links_that_work(place):
    text = (build(place) / "00_a.html").read_text()
    assert text.count("<math") == 2 and "<msup>" in text
    assert 'href="01_b.html#C"' in text and "gone" in text and "09_z" not in text and "README.md" not in text


def test_what_a_run_lacks_is_named(place):
    for name in ("paper_check.csv", "figure_1.png"):
        (place / "figures" / name).unlink()
    text = (build(place) / "index.html").read_text()
    assert "make paper-check PROFILE=laptop" in text and 'id="verdicts"' not in text
    assert "Not in this run: Table 1, Table 3, Table 4, Table 5, Figure 1, Figure 2, Figure 3, Figure 4." in text


def test_only_a_whole_run_of_the_notebooks_as_they_stand_is_taken(place):
    executed, folder = place / "executed" / "smoke", place / "notebooks"
    executed.mkdir(parents=True)

    def stamp(**made_by):
        for path in folder.glob("*.ipynb"):
            notebook = nbformat.read(path, 4)
            notebook.metadata["bnta"] = made_by
            nbformat.write(notebook, executed / path.name)

    for made_by in ({}, {"version": METHOD_VERSION - 1, "run": "smoke"}, {"version": METHOD_VERSION, "run": "laptop"}):
        stamp(**made_by)
        with pytest.raises(FileNotFoundError, match="00_a, 01_b"):
            report.find_source("smoke", executed.parent, folder)
    assert report.find_source("laptop", executed.parent, folder) == sorted(folder.glob("*.ipynb"))
    stamp(version=METHOD_VERSION, run="smoke")
    assert report.find_source("smoke", executed.parent, folder) == sorted(executed.glob("*.ipynb"))
    write_notebook(folder / "01_b.ipynb", "# C", "2")  # changed since it was run
    with pytest.raises(FileNotFoundError, match="since: 01_b$"):
        report.find_source("smoke", executed.parent, folder)
    assert report.find_source("smoke", executed.parent, folder, partial=True) == [executed / "00_a.ipynb"]


def test_a_missing_run_names_the_command_that_makes_one(place, capsys):
    arguments = ["--profile", "smoke", "--executed", str(place), "--out", str(place / "site")]
    assert report.main(arguments) == 2
    assert "make reproduce PROFILE=smoke" in capsys.readouterr().err
    assert report.main([*arguments, "--data", str(place)]) == 2
    assert f"make reproduce PROFILE=smoke DATA={place}" in capsys.readouterr().err
    for wrong in (["--profile", "huge"], ["--profile", "smoke", "--data", str(place / "gone")]):
        with pytest.raises(SystemExit) as stop:
            report.main(wrong)
        assert stop.value.code == 2
    assert not (place / "site").exists()


def test_a_report_replaces_an_older_one_whole_and_nothing_else(place, monkeypatch):
    (place / "site" / "smoke").mkdir(parents=True)
    (place / "site" / "smoke" / "index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="is no report"):
        build(place, "smoke")
    site = build(place, "laptop")
    (place / "notebooks" / "01_b.ipynb").unlink()
    assert build(place, "laptop") == site and not (site / "01_b.html").exists()
    before = (site / "index.html").read_text()
    monkeypatch.setattr(report, "notebook_html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(place, "laptop")
    assert (site / "index.html").read_text() == before
    assert {path.name for path in (place / "site").iterdir()} == {"smoke", "laptop"}


def test_the_browser_check_notices_broken_pages(browser, tmp_path):
    good = '<!DOCTYPE html><title>x</title><p id="a"><a href="#a">a</a> '
    for spoil, words in [
        ('<img src="gone.png">', "no picture"),
        ('<script src="https://example.org/x.js"></script>', "asks for https://example.org"),
        ("<script>console.error('x')</script>", "console error: x"),
        ('<a href="../elsewhere.html">x</a>', "links out of its folder"),
        ('<a href="gone.html">x</a>', "links to nothing"), ('<a href="#nowhere">x</a>', "links to no place"),
        ('<div style="width: 2000px">x</div>', "is too wide"),
    ]:
        (tmp_path / "index.html").write_text(good)
        assert problems(browser, tmp_path) == []
        (tmp_path / "index.html").write_text(good + spoil)
        assert any(words in problem for problem in problems(browser, tmp_path)), spoil
