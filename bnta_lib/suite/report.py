"""Write the report of a run as web pages: ``python -m bnta_lib.suite.report [--profile P] [--data D]``.

``report/<run>/index.html`` shows the paper's claims with their verdicts, its tables and figures, then
everything else that the run drew, and links a page for each notebook. The folder needs no network: it can be
moved, zipped or put on a web server.
"""

from __future__ import annotations

import argparse
import html
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import latex2mathml.converter
import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import TagRemovePreprocessor
from PIL import Image

from bnta_lib.settings import METHOD_VERSION, ROOT, caution, data_folder, figures_dir, run_name, settings

NOTEBOOKS, EXECUTED, REPORT = ROOT / "notebooks", ROOT / "executed", ROOT / "report"
PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                    trim_blocks=True, lstrip_blocks=True)

# The paper's tables and figures, in its order: file name -> (title, caption).
TABLES = {
    "table_1": ("Table 1", "Test sets: the paper's counts and those of the sets used here."),
    "table_2": ("Table 2", "Retrieval on unseen targets, per cent. Cited rows are the paper's, on its own sets: "
                "they do not compare line by line with those measured here."),
    "table_3": ("Table 3", "Losses employed in training and in adaption: rank 1, per cent."),
    "table_4": ("Table 4", "Parameters of which layers adaption updates: rank 1, per cent."),
    "table_5": ("Table 5", "Which parameters of the batch norm layers adaption updates: rank 1, per cent."),
}
FIGURES = {
    "figure_1": ("Figure 1", "Outputs of one batch norm layer on the source, on a target with the layer frozen, "
                 "and on the target with the layer adapted; d is the distance from the source."),
    "figure_2_network": ("Figure 2", "The network: its training on labelled sources, and its adaption to an "
                         "unlabelled target."),
    "figure_3": ("Figure 3", "Change rates of the batch norm parameters during adaption, for the ten layers that "
                 "change most."),
    "figure_4": ("Figure 4", "Rank 1 and the time that adaption takes, over N images and K pairs."),
}
VERDICTS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "not resolved": ("open", "○")}
GENERATOR = "bnta_lib.suite.report"
_KINDS = (".png", ".pdf", ".csv", ".md", ".tex")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells of a notebook, without the cell that papermill injects."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()
            and "injected-parameters" not in cell.metadata.get("tags", [])]


def finished(executed: Path, source: Path) -> bool:
    """Return whether ``executed`` is ``source`` as it stands, run to its end by this METHOD_VERSION.

    A committed notebook (``executed`` is ``source``) carries no version.
    """
    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):
        return False
    made_by = {"version": METHOD_VERSION, "run": executed.parent.name}
    cells = code_cells(notebook)
    return ((executed == source or notebook.metadata.get("bnta") == made_by)
            and all(cell.execution_count for cell in cells)
            and not any(output.output_type == "error" for cell in cells for output in cell.outputs)
            and [c.source for c in cells] == [c.source for c in code_cells(nbformat.read(source, as_version=4))])


def find_source(run: str, executed: Path = EXECUTED, notebooks: Path = NOTEBOOKS,
                partial: bool = False) -> list[Path]:
    """Return the executed notebooks of ``run``; the laptop run may be the one that is committed.

    Raises FileNotFoundError, naming what is missing, unless all are there or ``partial`` allows some.
    """
    sources = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    for folder in (executed / run, *([notebooks] if run == "laptop" else [])):
        done = [folder / path.name for path in sources if finished(folder / path.name, path)]
        if done and (partial or len(done) == len(sources)):
            return done
    missing = [path.stem for path in sources if not finished(executed / run / path.name, path)]
    raise FileNotFoundError(f"no whole run in {executed / run}: not run, or changed since: {', '.join(missing)}")


# ---------------------------------------------------------------- Markdown and notebooks as pages


def _mathml(formula: str, display: str) -> str:
    """Return LaTeX as MathML, or as its source if the converter cannot read it."""
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
    """Return Markdown as HTML. Links to the notebooks ``pages`` lead to their pages; HTML is shown as text."""
    body = MarkdownWithMath(renderer=_Renderer(pages)).render(source)
    return re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", body)


class _Exporter(HTMLExporter):
    """nbconvert's page without remote scripts."""

    @pass_context
    def markdown2html(self, context, source):
        return markdown_html(source, context["resources"]["metadata"]["pages"])


def notebook_html(path: Path, pages: Collection[str], nav: str) -> str:
    """Return a notebook with its outputs as a page that needs no network; ``nav`` stands above and below it."""
    exporter = _Exporter(raw_template=PAGES.loader.get_source(PAGES, "notebook.html.j2")[0])
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"injected-parameters"}), enabled=True)
    style = PAGES.loader.get_source(PAGES, "style.css")[0]
    resources = {"metadata": {"name": path.stem, "path": str(path.parent), "pages": pages}, "nav": nav, "style": style}
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["title"] = title_of(notebook) or path.stem
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def title_of(notebook: nbformat.NotebookNode) -> str:
    """Return the first Markdown heading."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return next((m[1].strip() for text in texts if (m := re.search(r"^#+\s+(.+)$", text, re.MULTILINE))), "")


# ---------------------------------------------------------------- the front page


def _item(stem: str, files: Sequence[Path], title: str = "", caption: str = "") -> dict:
    """Return what the front page shows of the files ``stem.*``."""
    by_kind = {file.suffix[1:]: file for file in files}
    item = {"stem": stem, "title": title or stem[0].upper() + stem[1:].replace("_", " "), "caption": caption,
            "files": [f"{stem}{kind}" for kind in _KINDS if kind[1:] in by_kind]}
    if "png" in by_kind:
        with Image.open(by_kind["png"]) as picture:
            # 1,400 pixels are the paper's two columns: letters come out alike in all figures.
            item |= {"png": f"{stem}.png", "width": min(100, round(picture.width / 14)),
                     "alt": picture.info.get("Description") or caption or item["title"]}
    if "md" in by_kind:
        body = markdown_html(by_kind["md"].read_text(encoding="utf-8"))
        item |= {"body": body, "rows": body.count("<tr>")}
    return item


def _claims(csv: Path) -> tuple[list[dict], list[dict]]:
    """Return the verdicts grouped by their place in the paper, and how many there are of each."""
    if not csv.is_file():
        return [], []
    rows = pd.read_csv(csv, keep_default_na=False, na_values=[""])
    points = rows["unit"] == "points"
    numbers = rows[["paper", "here", "low", "high"]].apply(lambda column: [
        "–" if pd.isna(v) else f"{round(v, 1) + 0.0:+.1f}" if signed else f"{v:.3g}" for v, signed in zip(column, points)])
    interval = numbers["low"].where(numbers["low"] == "–", numbers["low"] + " to " + numbers["high"])
    kinds = rows["verdict"].map(VERDICTS)
    rows = rows.assign(paper=numbers["paper"], here=numbers["here"], interval=interval, kind=kinds.str[0],
                       symbol=kinds.str[1]).fillna({"note": "", "target": ""})
    groups = [{"where": where, "rows": group.to_dict("records")} for where, group in rows.groupby("where", sort=False)]
    counts = [{"word": word, "kind": kind, "symbol": symbol, "number": int((rows["verdict"] == word).sum())}
              for word, (kind, symbol) in VERDICTS.items()]
    return groups, counts


def _front(run: str, figures: Path, notebooks: list[dict]) -> str:
    stems: dict[str, list[Path]] = {}
    for file in sorted(figures.glob("*")):
        if file.suffix in _KINDS:
            stems.setdefault(file.stem, []).append(file)

    def take(names: dict[str, tuple[str, str]]) -> list[dict]:
        return [_item(stem, stems.pop(stem), *about) for stem, about in names.items() if stem in stems]

    claims, counts = _claims(figures / "paper_check.csv")
    check = take({"paper_check": ("The verdicts", "What is measured here, with its 95 % interval, beside the "
                                  "paper's.")})
    if check:
        check[0]["note"] = check[0].get("body", "").partition("</table>")[2]
    tables, drawn = take(TABLES), take(FIGURES)
    return PAGES.get_template("front.html.j2").render(
        run=run, generator=GENERATOR, style=PAGES.loader.get_source(PAGES, "style.css")[0], caution=caution(run),
        claims=claims, counts=counts, check=check[0] if check else {}, tables=tables, figures=drawn,
        missing=[title for title, _ in (TABLES | FIGURES).values()
                 if title not in {item["title"] for item in tables + drawn}],
        more=[_item(stem, files) for stem, files in stems.items()], notebooks=notebooks)


def build(run: str, executed: Iterable[Path], figures: Path, out: Path = REPORT) -> Path:
    """Write the report of ``run`` into ``out/run`` and return its ``index.html``.

    An earlier report is replaced when the new one is whole. Raises FileExistsError if ``out/run`` is
    something else than a report.
    """
    site = out / run
    if site.exists() and GENERATOR not in (site / "index.html").read_text(encoding="utf-8")[:1000]:
        raise FileExistsError(f"{site} is no report: move it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{run}-") as scratch:
        partial = Path(scratch) / "new"
        partial.mkdir()
        shutil.copytree(figures, partial / "figures", ignore=lambda _, names: [n for n in names if Path(n).suffix
                                                                               not in _KINDS])
        entries = [{"page": f"{path.stem}.html", "path": path,
                    "title": title_of(nbformat.read(path, as_version=4))} for path in executed]
        pages = [entry["path"].stem for entry in entries]
        for before, entry, after in zip([None, *entries], entries, [*entries[1:], None]):
            nav = PAGES.get_template("nav.html.j2").render(before=before, after=after, site=f"BNTA, {run}")
            (partial / entry["page"]).write_text(notebook_html(entry["path"], pages, nav), encoding="utf-8")
        (partial / "index.html").write_text(_front(run, figures, entries), encoding="utf-8")
        if site.exists():
            site.rename(Path(scratch) / "old")
        partial.rename(site)
    return site / "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.report",
                                     description="Put a run together as web pages.")
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", default="embedded", help="the data of the run")
    parser.add_argument("--executed", type=Path, default=EXECUTED, help="executed notebooks (default: executed)")
    parser.add_argument("--out", type=Path, default=REPORT, help="folder (default: report)")
    options = parser.parse_args(arguments)
    try:
        profile = settings(options.profile).profile
        if (folder := data_folder(options.data)) and not folder.is_dir():
            raise ValueError(f"no folder {folder}: --data names the images that the run was made with")
        run = run_name(profile, options.data)
        index = build(run, find_source(run, options.executed), figures_dir(run), options.out)
    except FileNotFoundError as error:
        data = f" DATA={shlex.quote(options.data)}" if options.data != "embedded" else ""
        print(f"{parser.prog}: {error}; run\n  make reproduce PROFILE={profile}{data}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"Wrote {index}: open it in a browser; its folder can be moved or zipped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
