"""The report in a browser, from the file system and with no network."""

import html
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser as harness
import nbformat
import pytest
from PIL import Image

from bnta_lib.settings import METHOD_VERSION, ROOT
from bnta_lib.suite import reproduce as report
from conftest import ends

LAPTOP = ROOT / "figures" / "laptop"
HOSTILE = "<img src=x onerror=alert(1)> & 'people' #1"
CHECK = """| id | claim | target | here | low | verdict |
|:---|:---|:---|:---|:---|:---|
| T2.1 | adaption beats no adaption | GRID | 4.59 | 3.69 | holds |
| T2.2 | adaption beats no adaption | \\<b>bold\\</b> | -0.96 | -1.56 | does not hold |
| F4.1 | takes no longer | all | 2.13 | – | not resolved |

3 claims
"""


# Content is cut off, or scrolls, and holds nothing that takes the focus.
UNREACHABLE = """() => [...document.querySelectorAll('main *')].some(e => e.scrollWidth > e.clientWidth + 1
    && e.clientWidth && getComputedStyle(e).overflowX != 'visible' && getComputedStyle(e).display != 'inline'
    && e.tabIndex < 0 && !e.querySelector('a, summary, [tabindex="0"]'))"""


@pytest.fixture(scope="module")
def browser():
    with harness.chromium() as chromium:
        yield chromium


def problems(browser, site: Path) -> list[str]:
    """What is wrong with the pages of ``site`` as browsers of these widths show them, without a network."""
    return [text for width in (380, 1400) for text in _problems(browser, site, width)]


def _problems(browser, site: Path, width: int) -> list[str]:
    found = []
    page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
    page.on("requestfailed", lambda request: found.append(f"did not get {request.url[:200]}"))
    page.on("pageerror", lambda error: found.append(f"error {error}"))
    page.on("console", lambda message: found.append(f"console {message.type}: {message.text}"))
    page.on("dialog", lambda dialog: (found.append("a script ran"), dialog.dismiss()))
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri(), wait_until="load")
        if page.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{file.name} is too wide")
        if page.evaluate(UNREACHABLE):
            found.append(f"{file.name} scrolls where no key reaches")
        if page.evaluate("() => [...document.images].some(image => !image.alt)"):
            found.append(f"{file.name} has a picture without words")
        for address in page.evaluate("() => [...document.links].map(e => e.getAttribute('href'))"):
            parts = urlsplit(address)
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if parts.scheme in ("http", "https"):
                continue  # a reader may follow it
            if not (target.is_relative_to(site) and target.is_file()):
                found.append(f"{file.name} links to nothing in its folder: {address}")
            elif parts.fragment and f'id="{parts.fragment}"' not in html.unescape(target.read_text()):
                found.append(f"{file.name} links to no place: {address}")
    page.context.close()
    return found


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Path:
    """The report of three committed notebooks and all committed figures, moved after it was made."""
    made = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "REPORT", made)
        shown = [path for path in report.find_notebooks() if path.name[:2] in ("02", "04", "10")]
        site = report.build("laptop", shown).parent
    return site.rename(tmp_path_factory.mktemp("elsewhere") / "a report")


@harness.needs_chromium
def test_pages_of_the_committed_run_are_whole_and_need_no_network(browser, laptop):
    assert len(list(laptop.glob("*.html"))) == 4 and problems(browser, laptop) == []
    assert {path.stem for path in laptop.glob("bnta_lib/*.html")} == {*report.API}
    assert "Algorithm 1, then Eq. (14)" in (laptop / "bnta_lib" / "adaption.html").read_text()


def test_every_committed_figure_and_table_is_linked_and_shown(laptop):
    text = (laptop / "index.html").read_text()
    for file in (f for f in LAPTOP.iterdir() if f.is_file()):
        assert (laptop / "figures" / file.name).is_file()
        assert text.count(f'href="figures/{file.name}"') >= 1, file.name
        assert file.suffix != ".png" or text.count(f'src="figures/{file.name}"') == 1, file.name
    order = [text.index(f'id="{stem}"') for stem in ("paper_check", *report.PAPERS)]
    assert order == sorted(order)


def test_pages_name_no_path_of_the_machine(laptop):
    for page in laptop.rglob("*.html"):
        for place in (str(ROOT), str(Path.home()) + "/", "file://", str(laptop.parent)):
            assert place not in page.read_text(), (page.name, place)


def write_notebook(path: Path, text: str, code: str = "1", seen: str = "") -> Path:
    """Write a notebook of one Markdown cell and one code cell that printed ``seen``."""
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(text),
             v4.new_code_cell(code, execution_count=1, outputs=[v4.new_output("stream", text=seen)])]
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Two notebooks, figures whose names hold HTML, and a paper-check."""
    figures, notebooks = tmp_path / "figures", tmp_path / "notebooks"
    figures.mkdir(), notebooks.mkdir()
    monkeypatch.setattr(report, "figures_dir", lambda run: figures)
    for name in ("NOTEBOOKS", "EXECUTED", "REPORT"):
        monkeypatch.setattr(report, name, tmp_path / name.lower())
    for name in (f"people_{HOSTILE}", "figure_1"):
        Image.new("RGB", (20, 10)).save(figures / f"{name}.png")
    (figures / "table_2.md").write_text(f"|  | {HOSTILE} mAP |\n|:-|-:|\n| here, measured | 57.7 ± 2.1 |\n")
    (figures / "paper_check.md").write_text(CHECK)
    text = ("# A &lt; B\n\n$f^h$ and $$\\begin{aligned} L &= 1 \\end{aligned}$$ [next](01_b.ipynb#C) "
            "[gone](09_z.ipynb) [file](../README.md) <script>alert(1)</script>\n\n"
            "<details><summary>Solution</summary>\n\n*hidden* $x$\n\n</details>\n\n<details open>\n\n")
    write_notebook(notebooks / "00_a.ipynb", text, seen="57.7 <b>\n")
    write_notebook(notebooks / "01_b.ipynb", "# C\n\n[back](00_a.ipynb)")
    return tmp_path


def build(run: str = f"laptop_{HOSTILE}".replace("/", "")) -> Path:
    return report.build(run, report.find_notebooks()).parent


@harness.needs_chromium
def test_html_in_names_is_shown_as_text(browser, place):
    site = build()
    assert problems(browser, site) == []
    text = (site / "index.html").read_text() + (site / "00_a.html").read_text()
    assert "&lt;img src=x onerror" in text and "<img src=x" not in text
    assert "<b>bold" not in text and "<script>alert" not in text


def test_verdicts_are_shown_by_word_and_symbol(place):
    text = (build("laptop") / "index.html").read_text()
    cells = re.findall(r'<span class="(\w+)">(\S+) ([^<]+)</span></td>', text)
    assert cells == [("holds", "✓", "holds"), ("fails", "✗", "does not hold"), ("open", "○", "not resolved")]
    assert "3 claims" in text


def test_notebook_pages_show_formulas_and_keep_to_links_that_work(place):
    text = (build() / "00_a.html").read_text()
    assert text.count("<math") == 3 and "<msup>" in text
    assert re.search(r"<details><summary>Solution</summary>\s*<p><em>hidden</em>", text)
    assert "&lt;details open&gt;" in text
    assert 'href="01_b.html#C"' in text and "gone" in text and "09_z" not in text and "README.md" not in text


def test_what_a_run_lacks_is_named(place):
    for name in ("figures/paper_check.md", "figures/figure_1.png"):
        (place / name).unlink()
    site = report.build("laptop", report.find_notebooks()[:1]).parent
    text = (site / "index.html").read_text()
    assert "Not run, or changed since: 01_b." in text and not (site / "01_b.html").exists()
    assert "make paper-check PROFILE=laptop" in text and 'id="paper_check"' not in text
    missing = re.search("Not in this run: (.*).</p>", text)[1]
    assert missing == ", ".join(stem for stem in report.PAPERS if stem != "table_2")


def test_only_notebooks_that_ran_to_their_end_as_they_stand_are_taken(place):
    executed, folder = place / "executed" / "smoke", place / "notebooks"
    executed.mkdir(parents=True)

    def stamp(**metadata):
        for path in folder.glob("*.ipynb"):
            notebook = nbformat.read(path, 4)
            notebook.metadata |= metadata
            nbformat.write(notebook, executed / path.name)

    for stopped_or_older in ({}, {"bnta": METHOD_VERSION - 1}):
        stamp(**stopped_or_older)
        assert report.executed_notebooks("smoke") == []
    stamp(bnta=METHOD_VERSION)
    assert report.executed_notebooks("smoke") == sorted(executed.glob("*.ipynb"))
    write_notebook(folder / "01_b.ipynb", "# C", "2")  # changed since it was run
    assert report.executed_notebooks("smoke") == [executed / "00_a.ipynb"]
    (executed / "00_a.ipynb").write_text("{")  # killed while it was written
    assert report.executed_notebooks("smoke") == []


@pytest.mark.parametrize("arguments, words", [
    ([], "make reproduce"), (["--profile", "huge"], "unknown profile"), (["--data", "no/such"], "no folder")])
def test_missing_run_profile_or_folder_is_refused(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(report, "EXECUTED", tmp_path)
    assert ends(report.main, "--report", "--profile", "smoke", *arguments) > 0
    assert words in capsys.readouterr().err


def test_report_replaces_an_older_one_when_it_is_whole(place, monkeypatch):
    site = build("laptop")
    (place / "notebooks" / "01_b.ipynb").unlink()
    assert build("laptop") == site and not (site / "01_b.html").exists()
    before = (site / "index.html").read_text()
    monkeypatch.setattr(report, "_pages", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build("laptop")
    assert (site / "index.html").read_text() == before
    assert [path.name for path in (place / "report").iterdir()] == ["laptop"]


@harness.needs_chromium
def test_browser_check_notices_broken_pages(browser, tmp_path):
    (tmp_path / "index.html").write_text(
        '<!DOCTYPE html><title>x</title><img src="gone.png"><script src="https://example.org/x.js"></script>'
        '<script>console.error("x")</script><a href="../elsewhere.html">x</a> <a href="gone.html">x</a> '
        '<a href="#nowhere">x</a> <div style="width: 2000px">x</div>'
        '<main><p style="overflow: hidden; white-space: nowrap; width: 9px">cut off</p></main>')
    text = "\n".join(problems(browser, tmp_path))
    for words in ("did not get file:", "did not get https://example.org", "console error: x", "too wide",
                  "no key reaches", "without words", "in its folder: ../elsewhere", "its folder: gone",
                  "no place: #nowhere"):
        assert words in text, words
