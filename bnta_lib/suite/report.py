"""The report of a run as web pages: ``python -m bnta_lib.suite.report [--profile P] [--data D]``.

``report/<run>/index.html`` shows the paper's claims with their verdicts, its tables and figures, and what
else the run drew, and links a page for each notebook. The folder needs no network: it can be moved or zipped.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import nbformat
from jinja2 import Environment, PackageLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from bnta_lib.files import atomic_folder
from bnta_lib.settings import METHOD_VERSION, ROOT
from bnta_lib.suite.commands import exit_code, parse_run, usage_errors
from bnta_lib.suite.runs import caution, figures_dir, run_name

NOTEBOOKS, EXECUTED, REPORT = ROOT / "notebooks", ROOT / "executed", ROOT / "report"
PAPERS = [*(f"table_{n}" for n in range(1, 6)), "figure_1", "figure_2_network", "figure_3", "figure_4"]
VERDICTS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "not resolved": ("open", "○")}


def find_notebooks() -> list[Path]:
    """The suite's notebooks ``NN_name.ipynb``, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, without the cell that papermill injects."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()
            and "injected-parameters" not in cell.metadata.get("tags", [])]


def executed_notebooks(run: str) -> list[Path]:
    """The notebooks of ``run`` that this METHOD_VERSION ran to their end, as they stand now."""
    executed = []
    for source in find_notebooks():
        try:
            notebook = nbformat.read(EXECUTED / run / source.name, 4)
        except (OSError, ValueError):  # not run, or killed while it was written
            continue
        ran, current = ([cell.source for cell in code_cells(n)] for n in (notebook, nbformat.read(source, 4)))
        if notebook.metadata.get("bnta") == METHOD_VERSION and ran == current:
            executed.append(EXECUTED / run / source.name)
    return executed


# ---- Markdown and notebooks as pages


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML and links that work within the folder of pages."""

    def __init__(self, pages: Collection[str]):
        super().__init__(escape=True)
        self.pages = pages

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def inline_math(self, body: str) -> str:
        return convert(body)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file = url.partition("#")[0]
        if file.removesuffix(".ipynb") in self.pages:
            url = url.replace(".ipynb", ".html", 1)
        elif file and not re.match(r"https?://", file):
            return text  # a file that the folder of pages does not hold
        return super().link(text, url, title)


def markdown_html(source: str, pages: Collection[str] = ()) -> str:
    """Markdown as HTML. Links to the notebooks ``pages`` lead to their pages; HTML is shown as text."""
    html = MarkdownWithMath(renderer=_Renderer(pages)).render(source)
    return html.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _pages(run: str, notebooks: Sequence[Path]) -> Iterable[tuple[str, str, str]]:
    """Name, title and HTML of every notebook, with links to the page before and after it."""
    names = [path.stem for path in notebooks]
    exporter = HTMLExporter(template_file=str(Path(__file__).parent / "templates" / "notebook.html.j2"),
                            filters={"markdown2html": partial(markdown_html, pages=names)})
    for index, path in enumerate(notebooks):
        notebook = nbformat.read(path, 4)
        notebook.cells = [cell for cell in notebook.cells
                          if "injected-parameters" not in cell.metadata.get("tags", [])]
        texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        heading = re.search(r"^#+ +(.+)$", texts, re.MULTILINE)
        notebook.metadata["title"] = heading[1] if heading else path.stem
        resources = {"run": run, "before": names[:index][-1:], "after": names[index + 1:index + 2]}
        yield path.stem, notebook.metadata["title"], exporter.from_notebook_node(notebook, resources)[0]


# ---- the front page


def _item(stem: str, files: Iterable[Path]) -> dict:
    """What the front page shows of the files ``stem.*``."""
    item = {"stem": stem, "title": stem.replace("_", " ").capitalize(), "kinds": []}
    for file in files:
        item["kinds"].append(file.suffix[1:])
        if file.suffix == ".png":
            with Image.open(file) as picture:
                item["alt"] = picture.info.get("Description", item["title"])
        elif file.suffix == ".md":
            table = markdown_html(file.read_text(encoding="utf-8"))
            for word, (kind, symbol) in VERDICTS.items():
                table = table.replace(f">{word}<", f'><span class="{kind}">{symbol} {word}</span><')
            item |= {"table": table, "rows": table.count("<tr>")}
    return item


def _front(run: str, figures: Path, titles: dict[str, str]) -> str:
    """The front page; ``titles``: of the notebooks, by name."""
    files = sorted(figures.iterdir(), key=lambda file: (file.stem, file.suffix))
    items = {stem: _item(stem, group) for stem, group in groupby(files, lambda file: file.stem)}
    pages = Environment(loader=PackageLoader("bnta_lib.suite"), autoescape=True, trim_blocks=True)
    return pages.get_template("front.html.j2").render(
        run=run, caution=caution(run), items=items, papers=PAPERS, titles=titles,
        notebooks=[path.stem for path in find_notebooks()])


def build(run: str, notebooks: Sequence[Path]) -> Path:
    """Write ``report/<run>``, replace an earlier one when it is whole, and return its ``index.html``."""
    figures_dir(run).mkdir(parents=True, exist_ok=True)  # the first notebook alone draws nothing
    with atomic_folder(REPORT / run) as new:
        shutil.copytree(figures_dir(run), new / "figures", ignore=shutil.ignore_patterns(".*"))
        titles = {}
        for name, title, page in _pages(run, notebooks):
            titles[name] = title
            (new / f"{name}.html").write_text(page, encoding="utf-8")
        (new / "index.html").write_text(_front(run, new / "figures", titles), encoding="utf-8")
    return REPORT / run / "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.report",
                                     description="Put a run together as web pages.")
    options = parse_run(parser, arguments)
    run = run_name(options.profile, options.data)
    # The committed notebooks are a laptop run.
    notebooks = executed_notebooks(run) or (find_notebooks() if run == "laptop" else [])
    with usage_errors(parser):
        if not notebooks:
            raise ValueError(f"no notebook of {run} was run: make reproduce, with the same PROFILE and DATA")
    return exit_code(lambda: print(f"Wrote {build(run, notebooks)}: open it in a browser; its folder can be "
                                   "moved or zipped."))


if __name__ == "__main__":
    sys.exit(main())
