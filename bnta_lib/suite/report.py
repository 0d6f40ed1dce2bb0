"""The report of a run: web pages in one folder, ``python -m bnta_lib.suite.report [--profile P]``.

``report/<run>/index.html`` shows the paper's claims with their verdicts, its tables and its
figures, then everything else that the run drew, and leads to a page for each notebook. The folder
needs no network and nothing outside of itself: it can be moved, zipped or put on a web server.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from bnta_lib.files import a_path, atomic_folder
from bnta_lib.suite.pages import (
    TEMPLATES, code_cells, markdown_html, notebook_html, template_source, title_of,
)
from bnta_lib.suite.store import library_digest
from bnta_lib.settings import ROOT, caution, data_folder, figures_dir, run_name, settings
from bnta_lib.suite.tables import in_unit

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "executed"
REPORT = ROOT / "report"
README = ROOT / "README.md"  # says in a line what each notebook shows

# The paper's tables and figures, in its order: file name -> (title, what is to be seen).
TABLES = {
    "table_1": ("Table 1", "Test sets: the paper's counts and those of the sets used here."),
    "table_2": ("Table 2", "Retrieval on unseen targets, per cent. Numbers marked as cited are the paper's, "
                "on its own sets, and do not compare line by line with those measured here."),
    "table_3": ("Table 3", "Losses employed in training and in adaption: rank 1, per cent."),
    "table_4": ("Table 4", "Parameters of which layers adaption updates: rank 1, per cent."),
    "table_5": ("Table 5", "Which parameters of the batch norm layers adaption updates: rank 1, "
                "per cent."),
}
FIGURES = {
    "figure_1": ("Figure 1", "Outputs of one batch norm layer on the source, on a target with the "
                 "layer frozen, and on the target with the layer adapted; d is the distance from "
                 "the source."),
    "figure_2_network": ("Figure 2", "The network: its training on labelled sources, and its "
                         "adaption to an unlabelled target."),
    "figure_3": ("Figure 3", "Change rates of the batch norm parameters during adaption, for the "
                 "ten layers that change most."),
    "figure_4": ("Figure 4", "Rank 1 and the time adaption takes, over the N images it may draw on "
                 "and the K pairs it takes from them."),
}
VERDICTS = {  # word: (kind, symbol)
    "holds": ("holds", "✓"),
    "does not hold": ("fails", "✗"),
    "not resolved here": ("open", "○"),
}
GENERATOR = "bnta_lib.suite.report"
_KINDS = (".png", ".pdf", ".csv", ".md", ".tex")


class NoRun(Exception):
    """There is nothing to report on: the message says what is missing and what makes it."""


@dataclass(frozen=True)
class Source:
    """Executed notebooks in order, and a sentence on where they come from."""

    notebooks: Sequence[Path]
    words: str


def finished(executed: Path, source: Path) -> bool:
    """Whether ``executed`` is ``source`` as it stands, run to its end without an error, by this library and
    for the run that its folder is named after (``source`` itself: by whichever it was committed with)."""
    try:
        notebook = nbformat.read(executed, as_version=4)
        cells = code_cells(notebook)
    except (OSError, ValueError):  # absent, or half written
        return False
    by = {"code": library_digest(), "run": executed.parent.name}
    if executed != source and notebook.metadata.get("bnta") != by:
        return False
    ended = all(cell.execution_count for cell in cells)
    failed = any(out.output_type == "error" for cell in cells for out in cell.outputs)
    wanted = [cell.source for cell in code_cells(nbformat.read(source, as_version=4))]
    return ended and not failed and [cell.source for cell in cells] == wanted


def finished_in(folder: Path, notebooks: Sequence[Path]) -> Source:
    """Those of ``notebooks`` (sources) whose executed copies in ``folder`` are finished."""
    done = [folder / path.name for path in notebooks if finished(folder / path.name, path)]
    left = [path.stem for path in notebooks if folder / path.name not in done]
    dates = sorted(filter(None, map(_ended, done)))
    when = f", {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    words = f"run on this machine{when}."
    return Source(done, words + (f" Not run: {', '.join(left)}." if left else ""))


def find_source(run: str, executed: Path = EXECUTED, notebooks: Path = NOTEBOOKS) -> Source:
    """The executed notebooks to report on.

    Those of a whole run in ``executed/run`` come first. The laptop profile has the notebooks of
    the suite, with the outputs they are committed with. Raises NoRun where there is neither.
    """
    sources = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    own = finished_in(executed / run, sources)
    if sources and len(own.notebooks) == len(sources):
        return own
    done = {path.name for path in own.notebooks}
    if run == "laptop":
        done = {path.name for path in sources if finished(path, path)}
    left = [path.stem for path in sources if path.name not in done]
    if sources and not left:
        return Source(sources, "as they come with the suite, with the outputs of its own laptop "
                      "run (no whole run of them was found on this machine).")
    raise NoRun(f"no whole run in {executed / run}: not run, or changed since, "
                f"{'are' if len(left) > 1 else 'is'} {', '.join(left) or 'any notebook'}")


def _ended(notebook: Path) -> str:
    """The day a notebook's run ended, 2026-11-22, or nothing where it does not say."""
    about = nbformat.read(notebook, as_version=4).metadata.get("papermill", {})
    return (about.get("end_time") or "")[:10]


def _versions(notebooks: Iterable[Path]) -> list[str]:
    """The versions that the notebooks print at their top, each line once."""
    lines = {}
    for path in notebooks:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            for output in cell.outputs:
                found = re.search(r"^bnta_lib \d.*$", output.get("text", ""), re.MULTILINE)
                if found:
                    lines.setdefault(found[0], []).append(path.stem[:2])
    one = len(lines) == 1
    return [line if one else f"{line} ({', '.join(names)})" for line, names in lines.items()]


class _Files:
    """The figures and tables of a run, each shown once."""

    def __init__(self, folder: Path):
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        self.folder = folder
        self.files = [f for f in files if f.is_file() and f.suffix in _KINDS]
        self.left = list(dict.fromkeys(f.stem for f in self.files))

    def take(self, stem: str, title: str = "", caption: str = "") -> dict | None:
        """What the front page says of the files ``stem.*``; None where there are none."""
        if stem not in self.left:
            return None
        self.left.remove(stem)
        by_kind = {f.suffix[1:]: f for f in self.files if f.stem == stem}
        if not title:
            words = re.sub(r"\b(bn|k|n)\b", lambda m: m[0].upper(), stem.replace("_", " "))
            title = words[0].upper() + words[1:]
        item = {"stem": stem, "title": title, "caption": caption,
                "files": [f"{stem}.{k[1:]}" for k in _KINDS if k[1:] in by_kind]}
        if "png" in by_kind:
            with Image.open(by_kind["png"]) as picture:
                # 1,400 pixels are the paper's two columns: letters come out alike in all figures.
                item |= {"png": f"{stem}.png", "width": min(100, round(picture.width / 14))}
        if "md" in by_kind:
            body = markdown_html(by_kind["md"].read_text(encoding="utf-8"), self.folder)
            item |= {"body": body, "rows": body.count("<tr><td")}
        return item

    def take_all(self, names: dict[str, tuple[str, str]]) -> tuple[list[dict], list[str]]:
        """What there is of ``names``, and the titles of what is not there."""
        items = {title: self.take(stem, title, caption) for stem, (title, caption) in names.items()}
        return list(filter(None, items.values())), [t for t, item in items.items() if not item]

    def group(self, stems: Iterable[str], title: str, page: str = "") -> dict:
        """The files ``stems`` under a heading: figures, tables to read, and mere data."""
        items = [self.take(stem) for stem in list(stems)]
        return {
            "title": title, "page": page, "items": items,
            "figures": [i for i in items if "png" in i],
            "tables": [i for i in items if "body" in i and "png" not in i],
            "data": [i for i in items if not {"png", "body"} & i.keys()],
        }


def _saved_by(notebook: Path) -> list[str]:
    """Names (patterns, where a notebook fills them in) of what a notebook saves, in its order."""
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(notebook, as_version=4)))
    calls = re.findall(r"save_(?:figure|table|rows)\((.*?)\brun\)?", code, re.DOTALL)
    names = [name for call in calls for name in re.findall(r"\"([^\"]+)\"|'([^']+)'", call)]
    return [re.sub(r"\{[^}]*\}", "*", double or single) for double, single in names]


def _number(text: str, unit: str) -> str:
    """A number of a CSV file as the paper-check prints it; a dash for none."""
    return "–" if text in ("", "nan") else in_unit(float(text), unit).replace("-", "−")


def _claims(csv: Path) -> tuple[list[dict], list[dict]]:
    """Verdicts grouped by their place in the paper, and how many there are of each."""
    if not csv.is_file():
        return [], []
    rows = pd.read_csv(csv, dtype=str, keep_default_na=False)
    if lost := {"paper", "here"} - set(rows.columns):
        raise ValueError(f"{csv} lacks the columns {', '.join(sorted(lost))}: it is of an earlier "
                         "version, or was edited; make paper-check writes it again")
    groups = []
    for where, own in rows.groupby("where", sort=False):
        shown = []
        for row in own.to_dict("records"):
            kind, symbol = VERDICTS.get(row["verdict"], ("open", "?"))
            paper, here, low, high = (_number(row[name], row["unit"])
                                      for name in ("paper", "here", "low", "high"))
            shown.append(row | {
                "kind": kind, "symbol": symbol, "paper": paper, "here": here,
                "interval": "–" if "–" in (low, high) else f"{low} to {high}",
            })
        groups.append({"where": where, "rows": shown})
    number = rows["verdict"].value_counts()
    words = [*VERDICTS, *(word for word in number.index if word not in VERDICTS)]
    counts = []
    for word in words:
        kind, symbol = VERDICTS.get(word, ("open", "?"))
        counts.append({"word": word, "kind": kind, "symbol": symbol,
                       "number": int(number.get(word, 0))})
    return groups, counts


def _about(run: str) -> str:
    if "_" in run:
        return f"The target is a folder of the reader's own images, where nothing else is said. {caution(run)}"
    return ("The targets are rendered people, counterparts of the sets that the paper tests on: what compares "
            f"with the paper is the difference that a choice makes, not its level. {caution(run)}")


def _write(site: Path, run: str, source: Source, figures: Path, folder: Path) -> None:
    (site / "figures").mkdir()
    files = _Files(figures)
    for file in files.files:
        shutil.copyfile(file, site / "figures" / file.name)
    row = re.compile(r"^\| \[`(\w+)`\]\(\S+\) \| (.+) \|$", re.MULTILINE)
    shows = dict(row.findall(README.read_text(encoding="utf-8")))
    entries = [{"page": f"{path.stem}.html", "title": title_of(path), "path": path,
                "shows": shows.get(path.stem, "")} for path in source.notebooks]
    pages = [path.stem for path in source.notebooks]
    nav = TEMPLATES.get_template("nav.html.j2")
    for before, entry, after in zip([None, *entries], entries, [*entries[1:], None]):
        bar = nav.render(before=before, after=after, site=f"BNTA, {run}")
        page = notebook_html(entry["path"], folder, pages, bar)
        (site / entry["page"]).write_text(page, encoding="utf-8")

    claims, counts = _claims(figures / "paper_check.csv")
    check = files.take("paper_check", "The verdicts", "What is measured here, with its 95 % "
                       "interval, beside the paper's.")
    if check:
        check["note"] = check.get("body", "").partition("</table>")[2]
    tables, no_tables = files.take_all(TABLES)
    drawn, no_figures = files.take_all(FIGURES)
    more = []
    for entry in entries:
        patterns = _saved_by(entry["path"])
        own = [stem for pattern in patterns for stem in files.left if fnmatchcase(stem, pattern)]
        more.append(files.group(dict.fromkeys(own), entry["title"], entry["page"]))
    more.append(files.group(files.left, "Others"))
    front = TEMPLATES.get_template("front.html.j2").render(
        run=run, generator=GENERATOR, style=template_source("style.css"), about=_about(run),
        source=source.words, versions=_versions(source.notebooks), claims=claims, counts=counts,
        check=check, tables=tables, no_tables=no_tables, figures=drawn, no_figures=no_figures,
        more=[group for group in more if group["items"]], notebooks=entries,
    )
    (site / "index.html").write_text(front, encoding="utf-8")


def build(
    run: str, source: Source, figures: Path, out: Path = REPORT, folder: Path = NOTEBOOKS
) -> Path:
    """Write the report of ``run`` into ``out/run`` and return its ``index.html``.

    ``figures``: the folder of its figures and tables, which are copied; ``folder``: where the
    notebooks' sources lie, at which the paths of their pictures start. An earlier report is
    replaced when the new one is whole; a build that is killed does not lose it: the next one finds
    it, and removes what that build left. Raises FileExistsError if ``out/run`` is something else
    than a report.
    """
    site = out / run
    if site.exists():
        index = site / "index.html"
        if not (index.is_file() and GENERATOR in index.read_text(encoding="utf-8")[:1000]):
            raise FileExistsError(f"{site} is no report: move it, or choose another folder")
    with atomic_folder(site) as partial:
        _write(partial, run, source, figures, folder)
    return site / "index.html"


def check_out(folder: Path, option: str) -> None:
    """Raise ValueError where a file stands at ``folder``, or where one of its parents should be."""
    try:
        whole = folder.resolve()
    except (RuntimeError, OSError) as error:  # which of them hangs on the version of Python
        raise ValueError(f"{option} {folder}: a link that leads to itself") from error
    first = next(path for path in (whole, *whole.parents) if path.exists())
    if not first.is_dir():
        raise ValueError(f"{option} {folder}: {first} is a file; name a folder, it is made if need be")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bnta_lib.suite.report", description="Put a run together as web pages."
    )
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", default="embedded", help="the folder of images of the run")
    parser.add_argument("--executed", type=a_path, help="executed notebooks (default: executed)")
    parser.add_argument("--out", type=a_path, default=REPORT, help="folder (default: report)")
    options = parser.parse_args(arguments)
    try:
        profile = settings(options.profile).profile
        if (images := data_folder(options.data)) is not None and not images.is_dir():
            raise ValueError(f"no folder {images}: --data names the images that the run was made with")
        if options.executed is not None and not options.executed.is_dir():
            raise ValueError(f"no folder {options.executed}: --executed names the folder that "
                             "python -m bnta_lib.suite.reproduce --out wrote")
        check_out(options.out, "--out")
        run = run_name(profile, options.data)
        source = find_source(run, options.executed or EXECUTED)
        index = build(run, source, figures_dir(run), options.out)
    except NoRun as error:
        data = f" DATA={shlex.quote(options.data)}" if options.data != "embedded" else ""
        print(f"{parser.prog}: {error}; run\n  make reproduce PROFILE={profile}{data}",
              file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(f"Wrote {index}: open it in a browser; its folder can be moved or zipped.\n"
          f"Its notebooks: {source.words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
