"""Notebooks and Markdown as HTML that needs no network.

Pictures are embedded, formulas become MathML, and nothing is loaded from elsewhere. Widgets cannot
live in such a page; a sentence stands in their place. What names of people's own files and folders
hold is shown as text, never taken for HTML, and so is a picture that would have to be loaded.
"""

from __future__ import annotations

import base64
import html
import json
import mimetypes
import os
import re
from collections.abc import Collection, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import latex2mathml.converter
import nbformat
from jinja2 import Environment, FileSystemLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
    trim_blocks=True, lstrip_blocks=True,
)
_NUMBER = re.compile(r"[-+−–]?\d[\d.,:]*(e[-+]\d+)?( ± [\d.]+)?[KM]?( ?%)?|nan|–|", re.ASCII)


def template_source(name: str) -> str:
    """The text of ``bnta_lib/suite/templates/name``."""
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]


def _mathml(formula: str, display: str) -> str:
    """``formula`` (LaTeX) as a MathML element; one it cannot read is shown as its source."""
    # The converter knows the starred environment but not its inner form.
    formula = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", formula)
    try:
        element = latex2mathml.converter.convert_to_element(formula, display=display)
        for part in element.iter():
            for name in ("href", "style", "class"):  # links, and what loads a picture
                part.attrib.pop(name, None)
        # The converter's own writer leaves < and & of the formula as they are. What is HTML of its own
        # making is characters by their numbers alone.
        written = ElementTree.tostring(element, encoding="unicode")
        return re.sub(r"&amp;(?=#x[0-9A-Fa-f]+;)", "&", written)
    except Exception:  # its errors share no base class; the source is what a reader can use
        return f"<code>{html.escape(formula)}</code>"


def _cell(tag: str, text: str, number: bool, **attributes: object) -> str:
    given = attributes | ({"class": "number"} if number else {})
    words = "".join(f' {key}="{value}"' for key, value in given.items())
    return f"<{tag}{words}>{text}</{tag}>"


def _head(names: Sequence[str], numbers: Sequence[bool]) -> str:
    """The head of a table; neighbours that begin with the same words share a cell above them."""
    above, below = [], []
    # Words within a tag belong together.
    words = [[name] if "<" in name else name.split() for name in names]
    start = 0
    # A group shares all the words that its first two columns do, and each adds some of its own.
    while start < len(words):
        shared = os.path.commonprefix(words[start:start + 2])[:len(words[start]) - 1]
        end = start + 1
        while shared and end < len(words) and words[end][:len(shared)] == shared < words[end]:
            end += 1
        if end - start > 1:
            label = " ".join(shared)
            above.append(f'<th class="group" colspan="{end - start}" scope="colgroup">{label}</th>')
            below += [_cell("th", " ".join(words[i][len(shared):]), numbers[i])
                      for i in range(start, end)]
        else:
            above.append(_cell("th", names[start], numbers[start], rowspan=2))
        start = end
    if not below:
        above = [_cell("th", name, number) for name, number in zip(names, numbers)]
    return "".join(f"<tr>{''.join(row)}</tr>\n" for row in (above, below) if row)


def table_html(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already.

    Numbers stand right and are never broken over two lines. A first column without a name whose
    cells repeat becomes headings between the rows.
    """
    sections = bool(rows) and not names[0] and len({row[0] for row in rows}) < len(rows)
    shown = slice(1 if sections else 0, None)
    body = []
    for section, group in groupby(rows, key=lambda row: row[0] if sections else ""):
        if section:
            body.append('<tr class="first"><th class="section" scope="rowgroup" '
                        f'colspan="{len(names) - 1}">{section}</th></tr>')
        for row in group:
            cells = [_cell("td", "–" if cell == "nan" else cell, bool(_NUMBER.fullmatch(cell)))
                     for cell in row[shown]]
            body.append(f"<tr>{''.join(cells)}</tr>")
    numbers = [all(map(_NUMBER.fullmatch, column)) for column in zip(*rows)] or [False] * len(names)
    head = _head(names[shown], numbers[shown])
    lines = "\n".join(body)
    return f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{lines}\n</tbody>\n</table>\n"


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, tables as :func:`table_html`, and links that work."""

    def __init__(self, pages: Collection[str], **options: object):
        super().__init__(escape=True, **options)  # not embed_images: see image
        self.pages = pages  # names of the notebooks that have a page

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre><code>{html.escape(code)}</code></pre>\n"  # its script is not on the page

    def image(self, text: str, url: str, title: str | None = None) -> str:
        embedded = self._embedded(unquote(url))
        return super().image(text, embedded, title) if embedded else f"{text} ({html.escape(url)})"

    def _embedded(self, place: str) -> str | None:
        """A picture among the attachments or in the folder as an address that holds it; None for others."""
        if place.startswith("attachment:"):
            attached = self.attachments.get(place.removeprefix("attachment:"), {})
            kinds = [kind for kind in attached if kind.startswith("image/")]
            return f"data:{kinds[0]};base64,{attached[kinds[0]]}" if kinds else None
        try:
            folder = os.path.realpath(self.path)
            file = Path(os.path.realpath(os.path.join(folder, place)))
            kind = mimetypes.guess_type(file.name)[0] or ""
            if not (kind.startswith("image/") and file.is_relative_to(folder) and file.is_file()):
                return None
            return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        except (OSError, ValueError):  # no name that a file can have, or one that may not be read
            return None

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file, hash_sign, place = url.partition("#")
        if file.endswith(".ipynb") and file.removesuffix(".ipynb") in self.pages:
            url = file.removesuffix(".ipynb") + ".html" + hash_sign + place
        elif file and not re.match(r"https?://", file):
            return text  # what the folder of pages does not hold
        return super().link(text, url, title)

    def render_token(self, token: dict, state: object) -> str:
        if token["type"] != "table":
            return super().render_token(token, state)
        head, body = token["children"]
        rows = [[self.render_tokens(cell["children"], state) for cell in row["children"]]
                for row in (head, *body["children"])]
        return table_html(rows[0], rows[1:])


def markdown_html(
    source: str, folder: Path, pages: Collection[str] = (), attachments: dict | None = None
) -> str:
    """``source`` (Markdown) as HTML, its pictures embedded; their paths start at ``folder``.

    Links to the notebooks ``pages`` lead to their pages, ``name.html``. Of other links those to
    the web remain. HTML in ``source`` is shown as text, and other pictures by their words and address.
    """
    renderer = _Renderer(pages, path=str(folder), attachments=attachments or {})
    return MarkdownWithMath(renderer=renderer).render(source)


class _Exporter(HTMLExporter):
    """nbconvert's page without remote scripts."""

    @pass_context
    def markdown2html(self, context, source):
        about = context["resources"]["metadata"]
        attachments = context.get("cell", {}).get("attachments")
        return markdown_html(source, about["path"], about["pages"], attachments)


def _without_paths(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """``notebook`` whose cell of given parameters names a folder of images, but not its place."""
    quoted = partial(json.dumps, ensure_ascii=False)  # as papermill writes it
    data = notebook.metadata.get("papermill", {}).get("parameters", {}).get("data", "")
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []) and data:
            cell.source = cell.source.replace(quoted(data), quoted(Path(data).name))
    return notebook


def notebook_html(notebook: Path, folder: Path, pages: Collection[str] = (), nav: str = "") -> str:
    """``notebook`` with its outputs as a page; ``nav`` (HTML) stands above and below it.

    ``folder`` is where the notebook's source lies: its relative picture paths start there. Links
    to the notebooks ``pages`` lead to their pages.
    """
    exporter = _Exporter(raw_template=template_source("notebook.html.j2"))
    content = _without_paths(nbformat.read(notebook, as_version=4))
    content.metadata["title"] = title_of(notebook)
    about = {"name": notebook.stem, "path": str(folder), "pages": pages}
    resources = {"metadata": about, "nav": nav, "style": template_source("style.css")}
    body, _ = exporter.from_notebook_node(content, resources=resources)
    return re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", body)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of the source: all that hold code but the one papermill put in."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and cell.source.strip()
        and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def title_of(notebook: Path) -> str:
    """The first Markdown heading of a notebook, or else its name."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        heading = re.search(r"^#+\s+(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    return notebook.stem
