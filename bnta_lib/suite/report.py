"""The report of a run as web pages: ``python -m bnta_lib.suite.report [--profile P] [--data D]``.

``report/<run>/index.html`` shows the paper's claims with their verdicts, its tables and figures, and what
else the run drew, and links a page for each notebook. The folder needs no network: it can be moved or zipped.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import latex2mathml.converter
import nbformat
from jinja2 import Template, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import TagRemovePreprocessor
from PIL import Image

from bnta_lib.files import atomic_folder
from bnta_lib.settings import METHOD_VERSION, ROOT, caution, figures_dir, run_name
from bnta_lib.suite.commands import exit_code, parse_run, usage_errors

NOTEBOOKS, EXECUTED, REPORT = ROOT / "notebooks", ROOT / "executed", ROOT / "report"
PAPERS = [*(f"table_{n}" for n in range(1, 6)), "figure_1", "figure_2_network", "figure_3", "figure_4"]
VERDICTS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "not resolved": ("open", "○")}
GENERATOR = "bnta_lib.suite.report"


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def find_notebooks() -> list[Path]:
    """The suite's notebooks ``NN_name.ipynb``, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, without the cell that papermill injects."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()
            and "injected-parameters" not in cell.metadata.get("tags", [])]


def finished(executed: Path, source: Path) -> bool:
    """Whether ``executed`` is ``source`` as it stands, run to its end by this METHOD_VERSION.

    A committed notebook (``executed`` is ``source``) carries no version.
    """
    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):
        return False
    made_by = {"version": METHOD_VERSION, "run": executed.parent.name}
    cells, current = code_cells(notebook), code_cells(nbformat.read(source, as_version=4))
    return ((executed == source or notebook.metadata.get("bnta") == made_by)
            and all(cell.execution_count for cell in cells)
            and not any(output.output_type == "error" for cell in cells for output in cell.outputs)
            and [cell.source for cell in cells] == [cell.source for cell in current])


def find_source(run: str, partial: bool = False) -> list[Path]:
    """The executed notebooks of ``run``; the laptop run may be the one that is committed.

    Raises FileNotFoundError, naming what is missing, unless all are there or ``partial`` allows some.
    """
    sources = find_notebooks()
    for folder in (EXECUTED / run, *([NOTEBOOKS] if run == "laptop" else [])):
        done = [folder / path.name for path in sources if finished(folder / path.name, path)]
        if done and (partial or len(done) == len(sources)):
            return done
    missing = ", ".join(path.stem for path in sources if not finished(EXECUTED / run / path.name, path))
    raise FileNotFoundError(f"no whole run in {EXECUTED / run}: not run, or changed since: {missing}; "
                            "make reproduce, with the same PROFILE and DATA, runs them")


# ---- Markdown and notebooks as pages


def _mathml(formula: str, display: str) -> str:
    """LaTeX as MathML, or as its source if the converter cannot read it."""
    formula = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", formula)  # the form that it knows
    try:
        return latex2mathml.converter.convert(formula, display=display)
    except Exception:  # its errors share no base class
        return f"<code>{html.escape(formula)}</code>"


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML and links that work within the folder of pages."""

    def __init__(self, pages: Collection[str] = ()):
        super().__init__(escape=True)
        self.pages = pages

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file = url.partition("#")[0]
        if file.removesuffix(".ipynb") in self.pages:
            url = url.replace(".ipynb", ".html", 1)
        elif file and not re.match(r"https?://", file):
            return text  # a file that the folder of pages does not hold
        return super().link(text, url, title)


def markdown_html(source: str, pages: Collection[str] = ()) -> str:
    """Markdown as HTML. Links to the notebooks ``pages`` lead to their pages; HTML is shown as text."""
    return MarkdownWithMath(renderer=_Renderer(pages)).render(source)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        return markdown_html(source, context["resources"]["metadata"]["pages"])


@cache
def _exporter() -> HTMLExporter:
    exporter = _Exporter(raw_template=_template("notebook.html.j2"))
    injected = TagRemovePreprocessor(remove_cell_tags={"injected-parameters"})
    exporter.register_preprocessor(injected, enabled=True)
    return exporter


def notebook_html(path: Path, pages: Sequence[str], run: str) -> str:
    """A notebook with its outputs as a page that needs no network, with links to the ``pages`` beside it."""
    notebook, index = nbformat.read(path, as_version=4), pages.index(path.stem)
    notebook.metadata["title"] = title_of(notebook) or path.stem
    resources = {"metadata": {"name": path.stem, "path": str(path.parent), "pages": pages},
                 "run": run, "style": _template("style.css"),
                 "before": pages[:index][-1:], "after": pages[index + 1:index + 2]}
    return _exporter().from_notebook_node(notebook, resources=resources)[0]


def title_of(notebook: nbformat.NotebookNode) -> str:
    """The first Markdown heading."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return next((m[1].strip() for text in texts if (m := re.search(r"^#+\s+(.+)$", text, re.MULTILINE))), "")


# ---- the front page


def _item(stem: str, files: Sequence[Path]) -> dict:
    """What the front page shows of the files ``stem.*``."""
    item = {"stem": stem, "title": stem[0].upper() + stem[1:].replace("_", " "),
            "kinds": [file.suffix[1:] for file in files]}
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as picture:
                item["alt"] = picture.info.get("Description", item["title"])
        elif file.suffix == ".md":
            table = markdown_html(file.read_text(encoding="utf-8")).replace(">nan<", ">–<")
            for word, (kind, symbol) in VERDICTS.items():
                marked = rf'<td\1 class="{kind}">{symbol} {word}</td>'
                table = re.sub(f"<td([^>]*)>{word}</td>", marked, table)
            item |= {"table": table, "rows": table.count("<tr>")}
    return item


def _front(run: str, figures: Path, notebooks: dict[str, str]) -> str:
    """The front page; ``notebooks``: titles by name."""
    stems: dict[str, list[Path]] = {}
    for file in sorted(figures.iterdir()):
        stems.setdefault(file.stem, []).append(file)
    items = {stem: _item(stem, files) for stem, files in stems.items()}
    missing = [stem for stem in PAPERS if stem not in items]
    check, papers = items.pop("paper_check", None), [items.pop(stem) for stem in PAPERS if stem in items]
    return Template(_template("front.html.j2"), autoescape=True, trim_blocks=True).render(
        run=run, generator=GENERATOR, style=_template("style.css"), caution=caution(run), check=check,
        papers=papers, missing=missing, more=items.values(), notebooks=notebooks)


def build(run: str, executed: Sequence[Path]) -> Path:
    """Write ``report/<run>``, replace an earlier one when it is whole, and return its ``index.html``.

    Raises FileExistsError if ``report/<run>`` is something else than a report.
    """
    site = REPORT / run
    index = site / "index.html"
    if site.exists() and not (index.is_file() and GENERATOR in index.read_text(encoding="utf-8")[:1000]):
        raise FileExistsError(f"{site} is no report: move it")
    titles = {path.stem: title_of(nbformat.read(path, as_version=4)) for path in executed}
    with atomic_folder(site) as new:
        shutil.copytree(figures_dir(run), new / "figures", ignore=shutil.ignore_patterns(".*"))
        for path in executed:
            (new / f"{path.stem}.html").write_text(notebook_html(path, list(titles), run), encoding="utf-8")
        (new / "index.html").write_text(_front(run, new / "figures", titles), encoding="utf-8")
    return index


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.report",
                                     description="Put a run together as web pages.")
    options = parse_run(parser, arguments)
    run = run_name(options.profile, options.data)
    with usage_errors(parser):
        executed = find_source(run)

    def work() -> None:
        print(f"Wrote {build(run, executed)}: open it in a browser; its folder can be moved or zipped.")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
