"""Run the notebooks in order: ``python -m bnta_lib.suite.reproduce [--profile P] [--data D] [--only NN]``.

Each runs under papermill in a kernel of its own, into ``executed/<run>/``, and writes ``figures/<run>/``. A
whole run on the embedded benchmark then checks the paper's claims. Every run ends with the report.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillException
from tqdm import tqdm
from traitlets.config import Config

from bnta_lib.files import atomic
from bnta_lib.settings import METHOD_VERSION, cache_dir, data_folder
from bnta_lib.suite import claims, report
from bnta_lib.suite.commands import exit_code, parse_run, usage_errors
from bnta_lib.suite.environment import shown
from bnta_lib.suite.runs import figures_dir, run_name

# Or each kernel warns that others on this machine could listen.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
WIDGET = "application/vnd.jupyter.widget-view+json"


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
    if any(cell.execution_count is None for cell in report.code_cells(notebook)):  # sys.exit() in a cell
        raise ValueError(f"{source.name} ended before its last cell")
    notebook.metadata["bnta"] = METHOD_VERSION
    with atomic(executed) as partial:
        nbformat.write(notebook, partial)


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
        with atomic(report.NOTEBOOKS / path.name) as partial:
            nbformat.write(notebook, partial)


def run_all(sources: Sequence[Path], options: argparse.Namespace) -> int:
    """Run ``sources``, check the claims if the run is whole, write the report; return the exit code."""
    run, folder = run_name(options.profile, options.data), data_folder(options.data)
    executed = [report.EXECUTED / run / source.name for source in sources]
    # In place, cells count as a reader will count: papermill puts parameters into a cell of its own.
    given = {} if options.in_place else {"profile": options.profile}
    parameters = {**given, "data": str(folder)} if folder else given
    for path in executed:  # an earlier run must not pass for this one
        path.unlink(missing_ok=True)
    for source, path in zip(bar := tqdm(sources, unit="notebook"), executed):
        bar.set_description(source.stem)
        run_notebook(source, path, parameters)
    if options.in_place:
        copy_back(executed)
    finished = report.executed_notebooks(run)
    whole = len(finished) == len(report.find_notebooks())
    if whole and options.data == "embedded" and (code := claims.main(["--profile", options.profile])):
        return code
    index = report.build(run, finished)
    print(f"\nFigures and tables: {shown(figures_dir(run))}\nExecuted notebooks: "
          f"{shown(executed[0].parent)}\nThe report, to open in a browser: {shown(index)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.reproduce",
                                     description="Run the notebooks in order.")
    parser.add_argument("--only", nargs="+", metavar="NN", help="for example --only 05 08")
    parser.add_argument("--in-place", action="store_true", help="copy the outputs back into notebooks/")
    options = parse_run(parser, arguments)
    sources = report.find_notebooks()
    with usage_errors(parser):
        if options.in_place and (options.data != "embedded" or options.only):
            raise ValueError("--in-place runs every notebook on the embedded benchmark")
        for start in options.only or ():
            if not any(path.name.startswith(start) for path in sources):
                names = ", ".join(path.stem for path in sources)
                raise ValueError(f"no notebook begins with {start!r}: there are {names}")
    # Kernels run in another folder: relative paths would not hold there.
    os.environ |= {"BNTA_PROFILE": options.profile, "BNTA_CACHE": str(cache_dir()),
                   "BNTA_FIGURES": str(figures_dir(options.profile).parent)}
    selected = [path for path in sources if path.name.startswith(tuple(options.only or [""]))]
    return exit_code(lambda: run_all(selected, options))


if __name__ == "__main__":
    sys.exit(main())
