"""Web pages of a run: each executed notebook as HTML, and an index with figures and tables.

The pages need no network: pictures are embedded, formulas become MathML, and nothing is loaded
from elsewhere. Widgets cannot live in such a page; a sentence stands in their place.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from urllib.parse import quote

import latex2mathml.converter
import nbformat
import pandas as pd
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from .files import atomic

_TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block data_widget_view %}{% if '%|' not in output.data.get('text/plain', '') %}
<p><em>A slider or button: open the notebook in JupyterLab.</em></p>{% endif %}
{% endblock %}
{% block html_head_css %}{{ super() }}
<style>.highlight pre { font-family: monospace; }</style>
{% endblock %}
"""

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BNTA, profile {profile}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
        padding: 0 1rem; color: #222; }}
figure {{ margin: 1rem 0 2rem; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.25rem 0.7rem; border-bottom: 1px solid #ccc; text-align: left; }}
</style>
</head>
<body>
<h1>BNTA, profile {profile}</h1>
<h2>Notebooks</h2>
<ul>
{notebooks}
</ul>
<h2>Figures</h2>
{figures}
<h2>Tables</h2>
{tables}
</body>
</html>
"""


def _mathml(formula: str, display: str) -> str:
    """``formula`` (LaTeX) as a MathML element; one it cannot read is shown as its source."""
    # The converter knows the starred environment but not its inner form.
    formula = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", formula)
    try:
        return latex2mathml.converter.convert(formula, display=display)
    except Exception:  # its errors share no base class; the source is what a reader can use
        return f"<code>{html.escape(formula)}</code>"


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, which browsers draw by themselves."""

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def _markdown(source: str, folder: Path, attachments: dict | None = None) -> str:
    """``source`` (Markdown) as HTML, its pictures embedded; their paths start at ``folder``."""
    renderer = _Renderer(
        escape=False, embed_images=True, path=str(folder), attachments=attachments or {}
    )
    return MarkdownWithMath(renderer=renderer).render(source)


class _Exporter(HTMLExporter):
    """nbconvert's page without remote scripts."""

    @pass_context
    def markdown2html(self, context, source):
        folder = context["resources"]["metadata"]["path"]
        return _markdown(source, folder, context.get("cell", {}).get("attachments"))


def write_page(executed: Path, folder: Path) -> Path:
    """Write ``executed`` (an executed notebook) as an HTML page beside it; returns the page.

    ``folder`` is where the notebook's source lies: its relative picture paths start there.
    Links to other notebooks lead to their pages.
    """
    exporter = _Exporter(raw_template=_TEMPLATE)
    notebook = nbformat.read(executed, as_version=4)
    resources = {"metadata": {"name": executed.stem, "path": str(folder)}}
    body, _ = exporter.from_notebook_node(notebook, resources=resources)
    page = executed.with_suffix(".html")
    body = re.sub(r'href="([\w.-]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    with atomic(page) as partial:
        partial.write_text(body, encoding="utf-8")
    return page


def _title(executed: Path) -> str:
    """The first Markdown heading of a notebook, or else its name."""
    for cell in nbformat.read(executed, as_version=4).cells:
        heading = re.search(r"^#+\s+(.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    return executed.stem


def _link(target: Path, folder: Path, text: str) -> str:
    address = quote(Path(os.path.relpath(target, folder)).as_posix())
    return f'<a href="{address}">{html.escape(text)}</a>'


def write_index(out: Path, profile: str, figures: Path) -> Path:
    """Write ``out/index.html``: the notebooks' pages in ``out``, all figures and tables.

    Figures are ``figures/*.png``, each with a link to the file of the same name in PDF. Tables
    are ``figures/*.md``, and those ``figures/*.csv`` that have no Markdown beside them.
    """
    pages = sorted(out.glob("[0-9][0-9]_*.html"))
    notebooks = []
    for page in pages:
        executed = page.with_suffix(".ipynb")
        title = _link(page, out, _title(executed))
        notebooks.append(f"<li>{title} ({_link(executed, out, 'notebook')})</li>")
    pictures = []
    for png in sorted(figures.glob("*.png")):
        address = quote(Path(os.path.relpath(png, out)).as_posix())
        files = [f for f in (png, png.with_suffix(".pdf")) if f.exists()]
        links = ", ".join(_link(f, out, f.suffix[1:].upper()) for f in files)
        name = html.escape(png.stem)
        pictures.append(
            f'<figure id="{name}"><img src="{address}" alt="{name}">'
            f"<figcaption>{name} ({links})</figcaption></figure>"
        )
    tables = []
    stems = sorted({f.stem for f in figures.glob("*") if f.suffix in {".md", ".csv"}})
    for stem in stems:
        md, csv = figures / f"{stem}.md", figures / f"{stem}.csv"
        links = ", ".join(_link(f, out, f.name) for f in (md, csv) if f.exists())
        if md.exists():
            body = _markdown(md.read_text(encoding="utf-8"), figures)
        else:
            body = pd.read_csv(csv).to_html(index=False, border=0, float_format="{:.4g}".format)
        name = html.escape(stem)
        tables.append(f'<h3 id="{name}">{name}</h3>\n{body}\n<p>{links}</p>')
    nothing = "<p>None yet.</p>"
    index = out / "index.html"
    text = _INDEX.format(
        profile=html.escape(profile),
        notebooks="\n".join(notebooks),
        figures="\n".join(pictures) or nothing,
        tables="\n".join(tables) or nothing,
    )
    with atomic(index) as partial:
        partial.write_text(text, encoding="utf-8")
    return index
