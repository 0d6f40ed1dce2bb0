"""Run the notebooks in order: ``python -m bnta_lib.suite.reproduce [--profile P] [--data D] [--only NN]``.

Each runs under papermill in a kernel of its own, into ``executed/<run>/``, and writes ``figures/<run>/``. A
whole run on the embedded benchmark then checks the paper's claims. Every run ends with the report.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import papermill
from nbconvert.preprocessors import ClearMetadataPreprocessor
from papermill.exceptions import PapermillException
from tqdm import tqdm
from traitlets.config import Config

from bnta_lib.files import atomic
from bnta_lib.settings import METHOD_VERSION, ROOT, cache_dir, data_folder, figures_dir, run_name
from bnta_lib.suite import claims, report
from bnta_lib.suite.commands import exit_code, parse_run, usage_errors
from bnta_lib.suite.environment import shown

# Or each kernel warns that others on this machine could listen.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})


class NotebookFailure(ValueError):
    """A notebook that did not run to its end; the message names the cell and the error."""


def run_notebook(source: Path, executed: Path, parameters: Mapping) -> None:
    """Run ``source`` in its folder into ``executed``; its metadata get METHOD_VERSION and the run's name.

    Raises:
        NotebookFailure: if a cell fails, the kernel dies, or the notebook ends before its last cell.
    """
    executed.parent.mkdir(parents=True, exist_ok=True)
    # Papermill fills parameters into the braces of a path.
    paths = [str(path.resolve()).replace("{", "{{").replace("}", "}}") for path in (source, executed)]
    try:
        papermill.execute_notebook(*paths, parameters, cwd=source.resolve().parent, progress_bar=False,
                                   config=ENCRYPTED, shutdown_kernel="immediate")
    except (PapermillException, RuntimeError) as error:  # a dead kernel is a RuntimeError
        cell = getattr(error, "source", "a cell that ended the kernel").strip().splitlines()[0]
        name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
        raise NotebookFailure(f"{source.name} failed in {cell}\n  {name}: {text}\n  as far as it ran: "
                              f"{shown(executed)}") from error
    notebook = nbformat.read(executed, 4)
    if any(cell.execution_count is None for cell in report.code_cells(notebook)):  # sys.exit() in a cell
        raise NotebookFailure(f"{source.name} ended before its last cell")
    notebook.metadata["bnta"] = {"version": METHOD_VERSION, "run": executed.parent.name}
    with atomic(executed) as partial:
        nbformat.write(notebook, partial)


def copy_back(executed: Sequence[Path], folder: Path) -> None:
    """Replace the notebooks of ``folder`` by ``executed`` ones, without widgets and run noise, all or none.

    Raises ValueError if an output names a path of this machine.
    """
    view, texts = "application/vnd.jupyter.widget-view+json", {}
    clean = ClearMetadataPreprocessor(preserve_nb_metadata_mask={"kernelspec", "language_info"},
                                      preserve_cell_metadata_mask={"tags"})
    for path in executed:
        notebook, _ = clean.preprocess(nbformat.read(path, 4), {})
        for cell in notebook.cells:
            if not cell.metadata.get("tags"):
                cell.metadata.clear()  # papermill gives every cell a list
            for output in cell.get("outputs", []):
                if output.get("data", {}).keys() & {"image/png", "image/jpeg"}:  # an explorer's still picture
                    output.data.pop(view, None)
            if "outputs" in cell:
                cell.outputs = [o for o in cell.outputs if view not in o.get("data", {})]
        text = json.dumps([cell.get("outputs") for cell in notebook.cells])
        for machine in (str(ROOT), f"{Path.home()}/", f"{tempfile.gettempdir()}/"):
            if machine in text:
                raise ValueError(f"{path.name}: an output names this machine's {machine}; print it otherwise")
        texts[folder / path.name] = nbformat.writes(notebook) + "\n"
    for path, text in texts.items():
        with atomic(path) as partial:
            partial.write_text(text, encoding="utf-8")


def run_all(sources: Sequence[Path], options: argparse.Namespace) -> int:
    """Run ``sources``, check the claims if the run is whole, write the report; return the exit code."""
    run, folder = run_name(options.profile, options.data), data_folder(options.data)
    out = report.EXECUTED / run
    parameters = {"profile": options.profile, **({"data": str(folder)} if folder else {})}
    for path in sources:  # an earlier run must not pass for this one
        (out / path.name).unlink(missing_ok=True)
    for source in (bar := tqdm(sources, unit="notebook")):
        bar.set_description(source.stem)
        # In place, cells count as a reader will count: papermill puts parameters into a cell of its own.
        run_notebook(source, out / source.name, {} if options.in_place else parameters)
    if options.in_place:
        copy_back([out / path.name for path in sources], report.NOTEBOOKS)
    whole = all(report.finished(out / path.name, path) for path in report.find_notebooks())
    if whole and options.data == "embedded" and (code := claims.main(["--profile", options.profile])):
        return code
    index = report.build(run, report.find_source(run, partial=True))
    print(f"\nFigures and tables: {shown(figures_dir(run))}\nExecuted notebooks: {shown(out)}\n"
          f"The report, to open in a browser: {shown(index)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.reproduce",
                                     description="Run the notebooks in order.")
    parser.add_argument("--only", nargs="+", metavar="NN", help="for example --only 05 08")
    parser.add_argument("--in-place", action="store_true", help="copy the outputs back into notebooks/")
    options = parse_run(parser, arguments)
    with usage_errors(parser):
        if options.in_place and (options.data != "embedded" or options.only):
            raise ValueError("--in-place runs every notebook on the embedded benchmark")
        sources = report.find_notebooks()
        for start in options.only or ():
            if not any(path.name.startswith(start) for path in sources):
                names = ", ".join(path.stem for path in sources)
                raise ValueError(f"no notebook begins with {start!r}: there are {names}")
    # Kernels run in another folder: relative paths would not hold there.
    os.environ |= {"BNTA_PROFILE": options.profile, "BNTA_CACHE": str(cache_dir()),
                   "BNTA_FIGURES": str(figures_dir(options.profile).parent)}
    selected = [path for path in sources if not options.only or path.name.startswith(tuple(options.only))]
    return exit_code(lambda: run_all(selected, options))


if __name__ == "__main__":
    sys.exit(main())
