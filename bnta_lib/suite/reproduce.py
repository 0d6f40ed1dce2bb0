"""Measure, run the notebooks, check the paper's claims, and write the report, web pages that need no network.

What is missing is measured first, and recorded rows again. Each notebook runs under papermill in a kernel of
its own, into ``executed/<run>/``, and writes ``figures/<run>/``. The report is ``report/<run>/index.html``.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from jinja2 import Environment, PackageLoader
from joblib import cpu_count, delayed
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from papermill.exceptions import PapermillException
from PIL import Image
from tqdm import tqdm
from traitlets.config import Config

from bnta_lib.data import data_folder
from bnta_lib.files import atomic, atomic_folder, in_processes
from bnta_lib.settings import METHOD_VERSION, ROOT, cache_dir
from bnta_lib.suite import anew, claims
from bnta_lib.suite.runs import caution, device_of, exit_code, figures_dir, parse_run, run_name, shown
from bnta_lib.suite.store import export, recorded_path

NOTEBOOKS, EXECUTED, REPORT = ROOT / "notebooks", ROOT / "executed", ROOT / "report"
SECONDS = ROOT / "data" / "results" / "notebooks.csv"  # of each notebook at the laptop profile
PAPERS = [*(f"table_{n}" for n in range(1, 6)), "figure_1", "figure_3", "figure_4"]
VERDICTS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "not resolved": ("open", "○")}
# Without it each kernel warns that others on this machine could listen.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
API = ["settings", "model", "losses", "pairing", "adaption", "adapters", "evaluation", "training", "weights",
       "by_camera"]  # modules of the method, in the paper's order
# A cell of a table's head without words, which a screen reader would announce.
EMPTY_HEAD = re.compile(r"""<th((?: class="[^"]*")?(?: style="[^"]*")?)\s*>\s*</th>""")
DETAILS = ("<details><summary>Solution</summary>", "</details>")  # the HTML that notebooks may hold
WIDGET = "application/vnd.jupyter.widget-view+json"


def find_notebooks() -> list[Path]:
    """The suite's notebooks ``NN_name.ipynb``, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook without the cell that papermill injects. Raises OSError or ValueError."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells
                      if "injected-parameters" not in cell.metadata.get("tags", [])]
    return notebook


def executed_notebooks(run: str) -> list[Path]:
    """The notebooks of ``run`` that this METHOD_VERSION ran to their end, as they stand now."""
    executed = []
    for source in find_notebooks():
        with suppress(OSError, ValueError):  # not run, or killed while it was written
            done, current = (read_notebook(path) for path in (EXECUTED / run / source.name, source))
            ran, stands = ([c.source for c in n.cells if c.cell_type == "code"] for n in (done, current))
            if done.metadata.get("bnta") == METHOD_VERSION and ran == stands:
                executed.append(EXECUTED / run / source.name)
    return executed


def run_notebook(source: Path, executed: Path, parameters: Mapping) -> None:
    """Run ``source`` in its folder into ``executed``, whose metadata then hold METHOD_VERSION.

    Raises ValueError if a cell fails, the kernel dies, or a cell ends the notebook early.
    """
    executed.parent.mkdir(parents=True, exist_ok=True)
    # Papermill fills parameters into the braces of a path.
    paths = [str(path.resolve()).replace("{", "{{").replace("}", "}}") for path in (source, executed)]
    try:
        notebook = papermill.execute_notebook(
            *paths, parameters, cwd=source.resolve().parent, progress_bar=False, config=ENCRYPTED,
            shutdown_kernel="immediate")
    except (PapermillException, RuntimeError) as error:  # a dead kernel is a RuntimeError
        raise ValueError(f"{error}\n{source.name} failed; as far as it ran: {shown(executed)}") from error
    # A cell called sys.exit(). Blank ones never run.
    if any(cell.get("execution_count", 0) is None for cell in notebook.cells if cell.source.strip()):
        raise ValueError(f"{source.name} ended before its last cell")
    notebook.metadata["bnta"] = METHOD_VERSION
    with atomic(executed) as temporary:
        nbformat.write(notebook, temporary)


def copy_back(executed: Sequence[Path]) -> None:
    """Replace the committed notebooks by ``executed`` ones, without widgets and run noise."""
    for path in executed:
        notebook = nbformat.read(path, 4)
        notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
        for cell in notebook.cells:
            cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
            for output in cell.get("outputs", []):
                if output.get("data", {}).keys() & {"image/png", "image/jpeg"}:  # an explorer's still picture
                    output.data.pop(WIDGET, None)
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        with atomic(NOTEBOOKS / path.name) as temporary:
            nbformat.write(notebook, temporary)


def _scrolled(formula: str) -> str:
    """A formula that may be wider than a phone, to be scrolled by keys too."""
    return f'<span class="formula" tabindex="0">{formula}</span>'


class _Renderer(IPythonRenderer):
    """Formulas become MathML. Links lead within the folder of ``pages`` or to the web; others become text."""

    def __init__(self, pages: Collection[str]):
        super().__init__(escape=True)
        self.pages = pages

    def block_math(self, body: str) -> str:
        return _scrolled(convert(body, display="block"))

    def inline_math(self, body: str) -> str:
        return _scrolled(convert(body)) if len(body) > 60 else convert(body)

    def block_html(self, html: str) -> str:
        """Hidden solutions alone stay HTML."""
        return html if html.strip() in DETAILS else super().block_html(html)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file = url.partition("#")[0]
        if file.removesuffix(".ipynb") in self.pages:
            url = url.replace(".ipynb", ".html", 1)
        elif file and not re.match(r"https?://", file):
            return text
        return super().link(text, url, title)


def markdown_html(source: str, pages: Collection[str] = ()) -> str:
    """Markdown as HTML. Links to the notebooks ``pages`` lead to their pages; HTML is shown as text."""
    return MarkdownWithMath(renderer=_Renderer(pages)).render(source)


def _pages(run: str, notebooks: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Name and HTML of every notebook, with links to the page before and after it."""
    names = [path.stem for path in notebooks]
    exporter = HTMLExporter(template_file=str(Path(__file__).parent / "templates" / "notebook.html.j2"),
                            filters={"markdown2html": partial(markdown_html, pages=names)})
    for index, path in enumerate(notebooks):
        resources = {"run": run, "before": names[:index][-1:], "after": names[index + 1:index + 2],
                     "metadata": {"name": path.stem}}
        page, _ = exporter.from_notebook_node(read_notebook(path), resources)
        yield path.stem, EMPTY_HEAD.sub(r"<td\1></td>", page)


def _api(folder: Path) -> list[str]:
    """Write pages of the method's docstrings below ``folder``, if pdoc is installed; return their modules."""
    if not find_spec("pdoc"):
        return []
    pdoc = import_module("pdoc")
    pdoc.render.configure(docformat="restructuredtext", search=False, show_source=False,
                          template_directory=Path(__file__).parent / "templates")
    pdoc.pdoc(*(f"bnta_lib.{module}" for module in API), output_directory=folder)
    return API


def _words(picture: Path) -> tuple[str, str]:
    """Alternative text and caption of a figure."""
    with Image.open(picture) as image:
        return image.info.get("Description", picture.stem), image.info.get("Comment", "")


def _table(file: Path) -> str:
    table = EMPTY_HEAD.sub(r"<td\1></td>", markdown_html(file.read_text(encoding="utf-8")))
    for word, (kind, symbol) in VERDICTS.items():
        table = re.sub(rf">{word}(| \(.*?\))<", rf'><span class="{kind}">{symbol} {word}</span>\1<', table)
    return table


def build(run: str, notebooks: Sequence[Path]) -> Path:
    """Write ``report/<run>``, replace an earlier one when it is whole, and return its ``index.html``."""
    templates = Environment(loader=PackageLoader("bnta_lib.suite"), autoescape=True, trim_blocks=True)
    templates.filters |= {"words": _words, "table": _table}
    figures_dir(run).mkdir(parents=True, exist_ok=True)  # the first notebook alone draws nothing
    with atomic_folder(REPORT / run) as new:
        shutil.copytree(figures_dir(run), new / "figures", ignore=shutil.ignore_patterns(".*"))
        pages = dict(_pages(run, notebooks))
        items = {stem: {file.suffix[1:]: file for file in files}
                 for stem, files in groupby(sorted((new / "figures").iterdir()), lambda file: file.stem)}
        pages["index"] = templates.get_template("front.html.j2").render(
            run=run, caution=caution(run), items=items, papers=PAPERS, pages=[*pages], api=_api(new),
            not_run=[path.stem for path in find_notebooks() if path.stem not in pages])
        for name, page in pages.items():
            (new / f"{name}.html").write_text(page, encoding="utf-8")
    return REPORT / run / "index.html"


def run_notebooks(sources: Sequence[Path], executed: Sequence[Path], parameters: Mapping, jobs: int) -> None:
    """Run ``jobs`` notebooks at once. The time left is their recorded time, scaled by those that are done."""
    recorded = pd.read_csv(SECONDS, index_col="notebook")["seconds"] if sources else ()
    expected = [recorded.get(source.stem, recorded.median()) for source in sources]
    work = (delayed(run_notebook)(*paths, parameters) for paths in zip(sources, executed))
    form = {"bar_format": "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, about {remaining} left"}
    title = f"notebooks, about {sum(expected) / jobs / 60:.0f} min"
    with (tqdm(total=sum(expected), desc=title, disable=not sources, smoothing=0, **form) as bar,
          in_processes(work, jobs) as results):
        for number, _ in enumerate(results, start=1):
            bar.update(expected[number - 1])
            bar.set_description(f"{number}/{len(sources)} notebooks")


def run_all(options: argparse.Namespace) -> int:
    """Measure, run the notebooks, check the claims if all are run, write the report; return the exit code."""
    sources, run = find_notebooks(), run_name(options.profile, options.data)
    selected = [] if options.report else [
        path for path in sources if not options.only or path.name[:2] in options.only]
    partial_run = selected != sources or options.data != "embedded"
    if partial_run and (options.in_place or options.measure):
        raise ValueError("--in-place and --measure are for all notebooks on the embedded benchmark")
    # Kernels run in another folder: relative paths would not hold there.
    os.environ |= {"BNTA_PROFILE": options.profile, "BNTA_CACHE": str(cache_dir()),
                   "BNTA_FIGURES": str(figures_dir(run).parent)}
    executed = [EXECUTED / run / source.name for source in selected]
    folder = data_folder(options.data)
    for path in executed:  # an earlier run must not pass for this one
        path.unlink(missing_ok=True)
    how = options.measure or ("none" if options.in_place else "sample")
    words, held = ("", True) if partial_run else anew.measure_first(options.profile, how, options.seed)
    # One by one if they measure or share a GPU; each takes up to a gigabyte of memory.
    jobs = 1 if partial_run or device_of(options.profile).type != "cpu" else min(cpu_count(), 4)
    run_notebooks(selected, executed, {"data": str(folder)} if folder else {}, jobs)
    if options.in_place:
        copy_back(executed)
        times = {path.stem: nbformat.read(path, 4).metadata["papermill"]["duration"] for path in executed}
        pd.Series(times, name="seconds").round().to_csv(SECONDS, index_label="notebook")
        export(recorded_path(options.profile), options.profile)
    finished = executed_notebooks(run)
    whole = selected and len(finished) == len(sources) and options.data == "embedded"
    if whole and (code := claims.main(["--profile", options.profile])):
        return code
    # The committed notebooks are a laptop run.
    if not (finished := finished or (sources if run == "laptop" else [])):
        raise ValueError(f"no notebook of {run} was run: make reproduce, with the same PROFILE and DATA")
    print(f"\nFigures and tables: {shown(figures_dir(run))}\nNotebooks: {shown(finished[0].parent)}\n"
          f"The report, to open in a browser: {shown(build(run, finished))}\n{words}")
    return 0 if held else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = parse_run("reproduce", "Run the notebooks in order, and write the report.", arguments, {
        "--only": dict(nargs="+", metavar="NN", choices=[path.name[:2] for path in find_notebooks()],
                       help="for example --only 05 08"),
        "--measure": dict(choices=["sample", "all", "none"],
                          help="which recorded rows are measured again (default: a sample)"),
        "--seed": dict(type=int, help="repeat the sample that printed this seed"),
        "--report": dict(action="store_true", help="the report alone, of what was run before"),
        "--in-place": dict(action="store_true", help="write outputs and measured rows into the repository")})
    return exit_code(lambda: run_all(options))


if __name__ == "__main__":
    sys.exit(main())
