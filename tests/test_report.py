"""The report in a browser, from the file system and with no network; what it says of a run."""

import os
import re
import shutil
import signal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from apart import begun, ended
from PIL import Image

from bnta_lib.suite import pages, report, store as results, tables
from bnta_lib.settings import ROOT

LAPTOP = ROOT / "figures" / "laptop"
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()
HOSTILE = "<img src=x onerror=alert(1)> & 'people' #1"
CLAIMS = """id,where,claim,target,paper,here,low,high,unit,verdict,note
2.1,Table 2,adaption beats no adaption,GRID,8.7,4.59,3.69,5.48,points,holds,higher on 10 of 10
2.2,Table 2,adaption beats no adaption,VIPeR,4.9,-0.96,-1.56,-0.36,points,does not hold,
2.3,Table 2,beats,"<b onclick=""x"">bold</b>",1.7,1.67,-0.58,3.91,points,not resolved here,
4.1,Fig. 3,change,all,,0.0069,0.0052,0.0085,points of change rate,not resolved here,
4.1,Fig. 4,takes no longer,all,,2.13,,,s,not resolved here,one split
"""


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium under playwright's control."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)


def problems(browser, site: Path) -> list[str]:
    """What is wrong with the pages of ``site`` as a browser of 1,200 pixels shows them."""
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
    """What is wrong with a link of the page ``file``; nothing where it leads somewhere."""
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
    source = report.find_source("laptop", executed=made / "none")
    index = report.build("laptop", source, LAPTOP, made)
    moved = tmp_path_factory.mktemp("elsewhere") / "a report"
    return index.parent.rename(moved)


def test_a_page_of_the_committed_run_is_broken_or_needs_the_network(browser, laptop):
    names = {path.stem for path in laptop.glob("*.html")}
    assert names == {"index"} | {path.stem for path in report.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert problems(browser, laptop) == []


def test_a_figure_or_table_of_the_committed_run_is_left_out(laptop):
    assert {f.name for f in (laptop / "figures").iterdir()} == {f.name for f in LAPTOP.iterdir()}
    text = (laptop / "index.html").read_text()
    for file in LAPTOP.iterdir():
        assert text.count(f'href="figures/{file.name}"') >= 1, file.name
        assert file.suffix != ".png" or text.count(f'src="figures/{file.name}"') == 1, file.name
    order = [text.index(f'id="{stem}"') for stem in (*report.TABLES, *report.FIGURES)
             if (LAPTOP / f"{stem}.csv").exists() or (LAPTOP / f"{stem}.png").exists()]
    assert order == sorted(order) and len(order) >= 4
    assert ('id="verdicts"' in text) == (LAPTOP / "paper_check.csv").exists()


def test_a_page_names_the_machine(laptop):
    for page in laptop.glob("*.html"):
        text = page.read_text()
        for place in (str(ROOT), str(Path.home()) + "/", "file://", str(laptop.parent)):
            assert place not in text, (page.name, place)


def write_notebook(path: Path, text: str, code: str = "", seen: str = "") -> Path:
    """A notebook of one Markdown cell and one code cell that printed ``seen``."""
    v4 = nbformat.v4
    output = [v4.new_output("stream", text=seen)]
    cells = [v4.new_markdown_cell(text), v4.new_code_cell(code or "1", execution_count=1,
                                                          outputs=output)]
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def place(tmp_path) -> Path:
    """Two notebooks, figures whose names hold HTML, and a paper-check of three verdicts."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "figures" / f"people_{HOSTILE}.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "figures" / "figure_1.png")
    (tmp_path / "figures" / "table_2.md").write_text(
        f"|  | Method | {HOSTILE} mAP | {HOSTILE} R1 |\n|:-|:-|-:|-:|\n"
        "| paper, cited | A | 60.1 | nan |\n| here, measured | A | 57.7 ± 2.1 | -1.0 |\n"
        "| here, measured | B | 5 | 6 |\n")
    (tmp_path / "figures" / "paper_check.csv").write_text(CLAIMS)
    text = ("# A &lt; B\n\n$f^h$ and $$\\begin{aligned} L &= 1 \\end{aligned}$$ ![x](x.png) [next]"
            "(01_b.ipynb#C) [gone](09_z.ipynb) [file](../README.md) <script>alert(1)</script>")
    Image.new("RGB", (2, 2)).save(tmp_path / "notebooks" / "x.png")
    code = 'save_figure(f, f"people_{n}", run)'
    seen = "bnta_lib 0.1.0, Python 3\n57.7 ± 2.1 <b>\n"
    write_notebook(tmp_path / "notebooks" / "00_a.ipynb", text, code, seen)
    write_notebook(tmp_path / "notebooks" / "01_b.ipynb", "# C\n\n[back](00_a.ipynb)")
    return tmp_path


def build(place: Path, run: str = f"laptop_{HOSTILE}".replace("/", "")) -> Path:
    sources = sorted((place / "notebooks").glob("*.ipynb"))
    source = report.finished_in(place / "notebooks", sources)
    folder = place / "notebooks"
    return report.build(run, source, place / "figures", place / "site", folder).parent


def test_a_name_with_html_in_it_is_taken_for_html(browser, place):
    site = build(place)
    assert problems(browser, site) == []
    text = (site / "index.html").read_text() + (site / "00_a.html").read_text()
    assert "&lt;img src=x onerror" in text and "<img src=x" not in text
    assert "<b onclick" not in text and "<script" not in text


def test_verdicts_are_shown_by_word_and_symbol_and_counted(browser, place):
    site = build(place)
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    shown = page.locator("#verdicts .verdict").all_inner_texts()
    assert shown == ["✓ holds", "✗ does not hold", *["○ not resolved here"] * 3]
    counts = page.locator(".counts li").all_inner_texts()
    assert [" ".join(c.split()) for c in counts] == [
        "1 ✓ holds", "1 ✗ does not hold", "3 ○ not resolved here"]
    rows = [cells.split("\t") for cells in page.locator("#verdicts tr").all_inner_texts()]
    assert [c.strip() for c in rows[2][2:5]] == ["+8.7", "+4.6", "+3.7 to +5.5"]
    assert [c.strip() for c in rows[3][2:5]] == ["+4.9", "−1.0", "−1.6 to −0.4"]
    assert [" ".join(c.split()) for c in rows[-1][2:5]] == ["–", "2.1 s", "–"]
    rate = [" ".join(c.split()) for c in rows[-3][2:5]]
    assert rate == ["–", "+0.0069 points of change rate", "+0.0052 to +0.0085"]
    page.close()


def test_a_number_breaks_over_two_lines_or_a_heading_is_lost(place):
    text = (build(place) / "index.html").read_text()
    assert '<td class="number">57.7 ± 2.1</td>' in text and '<td class="number">–</td>' in text
    assert '<th class="section" scope="rowgroup" colspan="3">here, measured</th>' in text
    assert text.count("here, measured</th>") == 1 and '<th class="number">R1</th>' in text


def test_notebook_pages_show_formulas_and_pictures_and_keep_to_links_that_work(place):
    text = (build(place) / "00_a.html").read_text()
    assert text.count("<math") == 2 and "<msup>" in text and "<mi>&</mi>" not in text
    assert 'href="01_b.html#C"' in text and "gone" in text and "09_z" not in text
    assert "README.md" not in text and 'src="data:image/png' in text
    assert "57.7\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2.1" in text


def test_what_was_not_made_is_said(place):
    for name in ("paper_check.csv", "figure_1.png"):
        (place / "figures" / name).unlink()
    text = (build(place) / "index.html").read_text()
    assert "make paper-check PROFILE=laptop" in text and 'id="verdicts"' not in text
    assert "Not in this run: Figure 1, Figure 2, Figure 3, Figure 4." in text
    assert "Not in this run: Table 1, Table 3, Table 4, Table 5." in text
    assert "bnta_lib 0.1.0, Python 3" in text


@pytest.mark.parametrize("spoil, words", [
    ('<img src="gone.png">', "no picture"),
    ('<script src="https://example.org/x.js"></script>', "asks for https://example.org"),
    ('<img src="/etc/hostname">', "asks for file:///etc/hostname"),
    ("<script>console.error('x')</script>", "console error: x"),
    ('<a href="../elsewhere.html">x</a>', "links out of its folder"),
    ('<a href="/etc/hostname">x</a>', "links out of its folder"),
    ('<a href="gone.html">x</a>', "links to nothing"),
    ('<a href="#nowhere">x</a>', "links to no place"),
    ('<div style="width: 2000px">x</div>', "is too wide"),
])
def test_the_check_overlooks_a_broken_page(browser, tmp_path, spoil, words):
    good = '<!DOCTYPE html><title>x</title><p id="a"><a href="#a">a</a> '
    (tmp_path / "index.html").write_text(good)
    assert problems(browser, tmp_path) == []
    (tmp_path / "index.html").write_text(good + spoil)
    assert any(words in problem for problem in problems(browser, tmp_path))


def test_only_a_whole_run_of_the_notebooks_as_they_stand_is_taken(place):
    executed = place / "executed" / "smoke"
    executed.mkdir(parents=True)
    folder = place / "notebooks"
    with pytest.raises(report.NoRun, match="00_a, 01_b"):
        report.find_source("smoke", executed.parent, folder)
    assert "come with the suite" in report.find_source("laptop", executed.parent, folder).words
    for path in folder.glob("*.ipynb"):
        shutil.copy(path, executed)
    with pytest.raises(report.NoRun, match="00_a, 01_b"):  # by nobody knows which library
        report.find_source("smoke", executed.parent, folder)
    for path in executed.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        notebook.metadata["bnta"] = {"code": results.library_digest(), "run": "laptop"}
        nbformat.write(notebook, path)
    with pytest.raises(report.NoRun, match="00_a, 01_b"):  # measured at another profile, and copied
        report.find_source("smoke", executed.parent, folder)
    for path in executed.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        notebook.metadata["bnta"]["run"] = "smoke"
        nbformat.write(notebook, path)
    whole = report.find_source("smoke", executed.parent, folder)
    assert [path.parent for path in whole.notebooks] == [executed, executed]
    write_notebook(folder / "01_b.ipynb", "# C", "2")  # changed since it was run
    with pytest.raises(report.NoRun, match="is 01_b"):
        report.find_source("smoke", executed.parent, folder)
    write_notebook(folder / "01_b.ipynb", "# C", "1")
    (executed / "00_a.ipynb").write_text('{"cells": [')
    with pytest.raises(report.NoRun, match="is 00_a"):
        report.find_source("smoke", executed.parent, folder)


def test_no_run_names_the_command_that_makes_one(place, capsys):
    arguments = ["--profile", "smoke", "--executed", str(place), "--out", str(place / "site")]
    assert report.main(arguments) == 2
    assert "make reproduce PROFILE=smoke" in capsys.readouterr().err
    assert report.main([*arguments, "--data", str(place)]) == 2
    assert f"make reproduce PROFILE=smoke DATA={place}" in capsys.readouterr().err
    assert report.main(["--profile", "huge"]) == 2
    assert not (place / "site").exists()


def test_bad_input_is_one_sentence_that_says_what_to_do(place, capsys):
    (place / "a file").write_text("x")
    site, missing = str(place / "site"), str(place / "gone")
    for arguments, words in (
        (["--executed", missing], f"no folder {missing}: --executed names the folder"),
        (["--data", missing], f"no folder {missing}: --data names the images"),
        (["--out", str(place / "a file")], "a file is a file; name a folder"),
        (["--out", str(place / "a file" / "x")], "a file is a file; name a folder"),
    ):
        assert report.main(["--profile", "laptop", "--out", site, *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1
    with pytest.raises(ValueError, match="lacks the columns here, paper: .*make paper-check"):
        old = CLAIMS.replace("paper,here", "paper difference,difference")
        (place / "figures" / "paper_check.csv").write_text(old)
        build(place)
    assert not (place / "site").exists() or not list((place / "site").iterdir())


def test_a_report_replaces_an_older_one_whole_and_nothing_else(place, monkeypatch):
    (place / "site" / "smoke").mkdir(parents=True)
    (place / "site" / "smoke" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no report"):
        build(place, "smoke")
    assert (place / "site" / "smoke" / "thesis.txt").read_text() == "mine"
    site = build(place, "laptop")
    (place / "notebooks" / "01_b.ipynb").unlink()
    assert build(place, "laptop") == site and not (site / "01_b.html").exists()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    before = (site / "index.html").read_text()
    monkeypatch.setattr(report, "notebook_html", full)
    with pytest.raises(OSError, match="the disk is full: could not write"):
        build(place, "laptop")
    assert (site / "index.html").read_text() == before
    assert {path.name for path in (place / "site").iterdir()} == {"smoke", "laptop"}


MOMENTS = {  # of a build: the function that is called, where it is kept, and which of its calls
    "while it is written": (report, "notebook_html", lambda *_: True),
    "before it is put in place": (Path, "rename", lambda _, to: to.name == "laptop"),
    "before the old one is removed": (shutil, "rmtree", lambda *_: True),
}


def build_until(place, moment):
    """A build of the laptop profile that kills its own process at that moment."""
    owner, name, when = MOMENTS[moment]
    real = getattr(owner, name)

    def deadly(*arguments, **others):
        if when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **others)

    setattr(owner, name, deadly)
    build(place, "laptop")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_build_loses_the_old_report_or_leaves_folders_for_ever(place, monkeypatch, moment):
    site = build(place, "laptop")
    assert ended(begun(build_until, place, moment)) == -signal.SIGKILL
    left = {path.name for path in site.parent.iterdir()} - {"laptop"}
    assert len(left) == 1 + (moment == "before it is put in place")
    other = build(place, "smoke")  # leaves alone what another run may still need
    assert left < {path.name for path in site.parent.iterdir()}
    with monkeypatch.context() as full:
        full.setattr(report, "notebook_html", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(place, "laptop")
    assert "verdicts" in (site / "index.html").read_text() and (site / "01_b.html").is_file()
    assert set(site.parent.iterdir()) == {site, other}
    assert build(place, "laptop") == site and set(site.parent.iterdir()) == {site, other}


def test_an_old_report_is_lost_where_the_new_one_cannot_be_put_in_place(place, monkeypatch):
    site = build(place, "laptop")
    real = Path.rename

    def fails(path, to):
        if path.suffix == ".new":
            raise OSError("stale handle")
        return real(path, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="stale"):
        build(place, "laptop")
    assert (site / "index.html").is_file() and list(site.parent.iterdir()) == [site]


REMOTE = "![a](https:&sol;&sol;evil.example&sol;x.png)"


def test_markup_in_the_name_of_a_folder_is_followed(browser, place):
    """Escaped where tables are written; and pages load nothing that is in no table of ours."""
    table = pd.DataFrame({f"{REMOTE} R1": [1.0], f"{REMOTE} mAP": [2.0]}, index=pd.Index([REMOTE], name="set"))
    (place / "figures" / "table_2.md").write_text(tables.markdown(table))
    (place / "figures" / "table_3.md").write_text(f"|{REMOTE} R1|{REMOTE} mAP|\n|-|-|\n|{REMOTE}|2|\n\n{REMOTE}\n")
    site = build(place)
    assert problems(browser, site) == []
    text = (site / "index.html").read_text()
    assert not re.search(r'src="(?!figures/)', text)
    assert text.count(REMOTE.replace("&", "&amp;")) == 2  # a heading that two columns share, and a cell
    assert "a (https://evil.example/x.png)" in text


@pytest.mark.parametrize("address", [
    "https://evil.example/x.png", "https:&#47;&#x2f;evil.example/x.png", "https:&sol;&sol;evil.example/x.png",
    "//evil.example/x.png", "<https://evil.example/a b.png>", 'https://evil.example/x.png "onload=alert(1)"',
    "HTTPS://evil.example/x.png", "data:image/svg+xml,<svg/onload=alert(1)>", "data:image/png;base64,AAAA",
    "file:///etc/hostname", "../outside.png", "..&#47;outside.png", "%2e%2e/outside.png", "link.png", "loop.png",
    "folder.png", "words.txt", "gone.png", "attachment:gone.png", "attachment:page", "%00.png", "x" * 300 + ".png",
    "javascript:alert(1)", ".",
])
def test_a_picture_that_is_no_file_of_the_folder_is_shown(tmp_path, address):
    Image.new("RGB", (2, 2)).save(tmp_path / "outside.png")
    folder = tmp_path / "folder"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "words.txt").write_text("x")
    attached = {"page": {"text/html": "x"}}
    shown = pages.markdown_html(f"![the *words*]({address})", folder, attachments=attached)
    assert "the <em>words</em> (" in shown and "<img" not in shown and "onload" not in re.sub(r"\(.*\)", "", shown)


@pytest.mark.parametrize("address", ["in/x.png", "in/a%20b.png", "<in/a b.png>", "in/../in/x.png", "in&sol;x.png",
                                     "in/x.svg", "attachment:my%20own.png"])
def test_a_picture_of_the_folder_or_the_notebook_is_left_out(tmp_path, address):
    (tmp_path / "in").mkdir()
    for name in ("x.png", "a b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "x.svg").write_text("<svg/>")
    attached = {"my own.png": {"text/plain": "x", "image/png": "AAAA"}}
    shown = pages.markdown_html(f'![an "<em>"]({address} "a \\" onload=x")', tmp_path, attachments=attached)
    assert re.fullmatch(r'<p><img src="data:image/(png|svg\+xml);base64,[\w+/=]+" alt="an &quot;&lt;em&gt;&quot;" '
                        r'title="a &quot; onload=x" /></p>\n', shown)


@pytest.mark.parametrize("source", [
    r"$\text{<script>alert(1)</script>}$", r"$$\mbox{<script>alert(1)</script>}$$",
    r"\begin{align}\tag{<script>alert(1)</script>}\end{align}", r"$\operatorname{<script>alert(1)</script>}$",
    r"$\unicode{;<script>alert(1)</script>}$", r"$\color{<script>alert(1)</script>}{x}$",
    r"$\text{&lt;script>alert(1)</script>}$", "```mermaid\n<script>alert(1)</script>\n```",
])
def test_html_in_a_formula_is_taken_for_html(tmp_path, source):
    shown = pages.markdown_html(source, tmp_path)
    assert "<script" not in shown and "alert" in re.sub("</?m[a-z]+>", "", shown)


def test_a_formula_links_or_loads(tmp_path):
    source = r"$\href{javascript:alert(1)}{x} \style{background: url(https://evil.example/x.png)}{y} \class{z}{w}$"
    shown = pages.markdown_html(source, tmp_path)
    assert shown.count("<mi>") == 3 and not re.search("href|style|class|evil", shown)


def test_a_formula_is_written_otherwise_than_before(tmp_path):
    shown = pages.markdown_html(r"$a < b > c \leq \text{d \& e} \unicode{x3c}$", tmp_path)
    assert "<mo>&#x0003C;</mo>" in shown and "<mo>&#x0003E;</mo>" in shown and "<mo>&#x02264;</mo>" in shown
    assert "d&#x000A0;" in shown and "<mi>&#x3c;</mi>" in shown and "&amp;#" not in shown


def test_a_tag_is_split_over_two_headings():
    names = ['<a href="x" title="a b">c</a> R1', '<a href="x" title="a b">c</a> mAP']
    assert all(name in pages.table_html(names, [["1", "2"]]) for name in names)


def test_columns_that_begin_alike_share_a_heading():
    html = pages.table_html(["set", "my people mAP", "my people R1", "R5"], [["a", "1", "2", "x"]])
    assert '<th class="group" colspan="2" scope="colgroup">my people</th>' in html
    assert '<th class="number">mAP</th><th class="number">R1</th>' in html
    assert '<th rowspan="2">R5</th>' in html
    assert "group" not in pages.table_html(["a", "b"], [])
