"""Run the notebooks in order: ``python -m bnta_lib.suite.reproduce [--profile P] [--data D] [--only NN ...]``.

Each notebook runs under papermill in a kernel of its own. Executed notebooks go to ``executed/<run>/``; the
notebooks write ``figures/<run>/``. A whole run on the embedded benchmark then checks the paper's claims
(:mod:`bnta_lib.suite.claims`) and writes the report (:mod:`bnta_lib.suite.report`).

Exit codes: 1, a notebook failed or could not be written; 2, the arguments do not fit; 130, interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillException
from traitlets import default

from bnta_lib.files import atomic
from bnta_lib.settings import METHOD_VERSION, ROOT, cache_dir, data_folder, figures_dir, run_name, settings
from bnta_lib.suite.environment import check_cache, shown
from bnta_lib.suite.report import EXECUTED, NOTEBOOKS, REPORT, build, code_cells, finished, find_source


class _OwnKernel(AsyncKernelManager):
    """Starts kernels with this interpreter, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _encrypt_if_possible(self) -> str:
        return "auto"  # or each kernel warns that others on this machine could listen


class NotebookFailure(Exception):
    """A notebook that did not run to its end; the message names the cell and the error."""


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks ``NN_name.ipynb`` of ``folder`` in order, or those whose names start with ``only``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if one of ``only`` matches nothing.
    """
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise FileNotFoundError(f"no notebook NN_name.ipynb in {folder}")
    for start in only:
        if not any(path.name.startswith(start) for path in notebooks):
            raise ValueError(f"no notebook begins with {start!r}: there are {', '.join(p.stem for p in notebooks)}")
    return [path for path in notebooks if not only or path.name.startswith(tuple(only))]


def escape_braces(path: Path) -> str:
    """Return ``path`` as papermill takes it: papermill fills parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_parameters(notebooks: Sequence[Path], parameters: Mapping) -> None:
    """Raise ValueError for a notebook that lacks one of ``parameters``: papermill only warns."""
    for path in notebooks:
        missing = parameters.keys() - papermill.inspect_notebook(escape_braces(path)).keys()
        if missing:
            raise ValueError(f"{path.name} does not take {', '.join(sorted(missing))}: name it in the cell tagged "
                             "`parameters`")


def run_notebook(source: Path, executed: Path, parameters: Mapping, cwd: Path | None = None,
                 progress: bool = False, run: str = "") -> float:
    """Run ``source`` into ``executed`` (another file) and return the seconds that it took.

    ``cwd`` is the kernel's folder (default: the notebook's own, as in JupyterLab). ``run`` is kept in the
    metadata, beside METHOD_VERSION.

    Raises:
        NotebookFailure: if a cell fails, the kernel dies, or the notebook ends before its last cell.
    """
    if executed.resolve() == source.resolve():
        raise ValueError(f"{source.name} would be written over itself: choose another folder")
    executed.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            escape_braces(source.resolve()), escape_braces(executed.resolve()), parameters,
            cwd=cwd or source.resolve().parent, progress_bar=progress, kernel_manager_class=_OwnKernel,
            shutdown_kernel="immediate",
        )
    except (PapermillException, RuntimeError) as error:  # a dead kernel is a RuntimeError
        message = " ".join(f"{getattr(error, 'ename', type(error).__name__)}: "
                           f"{getattr(error, 'evalue', error)}".split())
        raise NotebookFailure(f"{source.name} failed in {_failed_cell(executed)}\n  {message}") from error
    notebook = nbformat.read(executed, 4)
    if any(cell.execution_count is None for cell in code_cells(notebook)):  # sys.exit() in a cell
        raise NotebookFailure(f"{source.name} ended before its last cell")
    notebook.metadata["bnta"] = {"version": METHOD_VERSION, "run": run}
    with atomic(executed) as partial:
        nbformat.write(notebook, partial)
    return time.monotonic() - start


def _failed_cell(executed: Path) -> str:
    """Describe the cell with an error, or else the last one that began: a dead kernel leaves no error."""
    cells = code_cells(nbformat.read(executed, 4)) if executed.exists() else []
    failed = [i for i, c in enumerate(cells) if any(o.output_type == "error" for o in c.outputs)]
    begun = [i for i, c in enumerate(cells) if c.metadata.get("papermill", {}).get("start_time")]
    if not (failed or begun):
        return "no cell: it did not start"
    index = (failed or begun[-1:])[0]
    return f"code cell {index + 1} of {len(cells)}: {cells[index].source.strip().splitlines()[0]}"


class Durations:
    """The seconds that each notebook took last time, to estimate what remains."""

    def __init__(self, path: Path, run: str):
        self.path, self.run = path, run
        try:
            self.runs = json.loads(path.read_text())
        except (OSError, ValueError):
            self.runs = {}
        self.seconds: dict[str, float] = self.runs.setdefault(run, {})

    def remaining(self, names: Sequence[str]) -> float | None:
        """Return the seconds that ``names`` will take; one that was never timed counts as the mean."""
        if not self.seconds:
            return None
        mean = sum(self.seconds.values()) / len(self.seconds)
        return sum(self.seconds.get(name, mean) for name in names)

    def record(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(seconds, 1)
        with atomic(self.path) as partial:
            partial.write_text(json.dumps(self.runs, indent=1, sort_keys=True))


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def run_all(notebooks: Sequence[Path], out: Path, parameters: Mapping, durations: Durations) -> None:
    """Run ``notebooks`` in order into ``out``, with a line and an estimate for each.

    Raises NotebookFailure at the first that fails; those before it are kept.
    """
    start, width = time.monotonic(), max(len(path.stem) for path in notebooks)
    estimate = durations.remaining([path.stem for path in notebooks])
    print(f"{len(notebooks)} notebooks" + (f", about {_clock(estimate)} minutes" if estimate else ""))
    for number, source in enumerate(notebooks, 1):
        print(f"[{number}/{len(notebooks)}] {source.stem:{width}}  ", end="", flush=True)
        seconds = run_notebook(source, out / source.name, parameters, run=out.name)
        durations.record(source.stem, seconds)
        remaining = durations.remaining([path.stem for path in notebooks[number:]])
        print(f"ok {_clock(seconds):>6}  elapsed {_clock(time.monotonic() - start):>6}  "
              f"about {_clock(remaining):>5} left", flush=True)


def copy_back(executed: Sequence[Path], folder: Path = NOTEBOOKS) -> None:
    """Replace the notebooks of ``folder`` by ``executed`` ones, without widgets and run noise, all or none.

    Raises ValueError if an output names a path of this machine.
    """
    view, texts = "application/vnd.jupyter.widget-view+json", {}
    machine_paths = [str(ROOT), f"{Path.home()}/", f"{tempfile.gettempdir()}/"]
    for path in executed:
        notebook = nbformat.read(path, 4)
        for key in ("papermill", "widgets", "bnta"):
            notebook.metadata.pop(key, None)
        for cell in notebook.cells:
            for key in ("papermill", "execution"):
                cell.metadata.pop(key, None)
            if not cell.metadata.get("tags"):
                cell.metadata.pop("tags", None)  # papermill gives every cell a list
            if cell.cell_type == "code":
                for output in cell.outputs:
                    if output.get("data", {}).keys() & {"image/png", "image/jpeg"}:  # an explorer's still picture
                        output.data.pop(view, None)
                cell.outputs = [o for o in cell.outputs if view not in o.get("data", {})]
                text = json.dumps(cell.outputs)
                if named := [machine for machine in machine_paths if machine in text]:
                    raise ValueError(f"{path.name}: an output names this machine's {named[0]}; print it otherwise")
        texts[folder / path.name] = nbformat.writes(notebook) + "\n"
    for path, text in texts.items():
        with atomic(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.reproduce",
                                     description="Run the notebooks in order.")
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", default="embedded", help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="for example --only 05 08")
    parser.add_argument("--out", type=Path, default=EXECUTED, help="folder (default: executed)")
    parser.add_argument("--report", type=Path, default=REPORT, help="folder (default: report)")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help=argparse.SUPPRESS)
    parser.add_argument("--in-place", action="store_true", help="copy the outputs back into notebooks/ at the end")
    options = parser.parse_args(arguments)
    try:
        options.profile = settings(options.profile).profile
        folder = data_folder(options.data)
        if folder is not None and not folder.is_dir():
            raise ValueError(f'no folder {folder}: --data takes "embedded", "real" or a folder of person images')
        if options.in_place and (folder or options.only):
            raise ValueError("--in-place runs every notebook on the embedded benchmark")
        options.parameters = {"profile": options.profile}
        if folder:  # kernels run in the notebooks' folder: a relative path would not hold there
            options.parameters["data"] = str(folder)
        options.sources = find_notebooks(options.notebooks, options.only)
        check_parameters(options.sources, options.parameters)
        check_cache()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _arguments(arguments)
    run = run_name(options.profile, options.data)
    out, sources = options.out.resolve() / run, options.sources
    os.environ |= {"BNTA_PROFILE": options.profile, "BNTA_CACHE": str(cache_dir())}  # kernels run elsewhere
    parameters = {} if options.in_place else options.parameters  # in place, cells count as a reader will count
    for path in sources:  # an earlier run must not pass for this one
        (out / path.name).unlink(missing_ok=True)
    try:
        run_all(sources, out, parameters, Durations(cache_dir() / "durations.json", run))
        if options.in_place:
            copy_back([out / path.name for path in sources], options.notebooks)
        every = find_notebooks(options.notebooks)
        whole = all(finished(out / path.name, path) for path in every)
        if whole and options.data == "embedded":
            from bnta_lib.suite.claims import main as check_claims  # loads what only this step needs

            if code := check_claims(["--profile", options.profile]):
                return code
        index = build(run, find_source(run, options.out.resolve(), options.notebooks, partial=True),
                      figures_dir(run), options.report.resolve())
    except NotebookFailure as failure:
        print(f"FAILED\n\n{failure}\n  as far as it ran: {shown(out)}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        remaining = [path.name[:2] for path in sources if not finished(out / path.name, path)]
        command = ["python", "-m", "bnta_lib.suite.reproduce", "--profile", options.profile,
                   *(["--data", options.data] if options.data != "embedded" else []),
                   *(["--out", str(options.out)] if options.out != EXECUTED else []), "--only", *remaining]
        print(f"\nInterrupted. What is measured is kept; continue with\n  {shlex.join(command)}", file=sys.stderr)
        return 130
    print(f"\nFigures and tables: {shown(figures_dir(run))}\nExecuted notebooks: {shown(out)}\n"
          f"The report, to open in a browser: {shown(index)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
