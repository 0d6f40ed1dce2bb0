"""Run the notebooks in order: ``python -m bnta_lib.suite.reproduce [--profile P] [--data D]``.

Each notebook runs under papermill in a kernel process of its own, with the Python interpreter
that runs this module. Executed notebooks go to ``executed/<profile>/``; the notebooks themselves
write ``figures/<profile>/``. A run that ends with all of them done on the embedded benchmark checks the
paper's claims (:mod:`bnta_lib.suite.claims`), and every run by putting ``report/<profile>/`` together
(:mod:`bnta_lib.suite.report`). The run stops at the first failing notebook with exit code 1 and says
which cell failed; 2 means that what was asked for does not exist, 130 that it was interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillException
from traitlets import default

from bnta_lib.data.records import visible
from bnta_lib.suite.environment import check_cache
from bnta_lib.files import a_path, atomic, not_empty
from bnta_lib.suite.pages import code_cells
from bnta_lib.suite.report import EXECUTED, NOTEBOOKS, REPORT, build, check_out, finished, finished_in
from bnta_lib.suite.store import library_digest
from bnta_lib.settings import ROOT, cache_dir, data_folder, figures_dir, run_name, settings
from bnta_lib.starting import interpreter


class _OwnKernel(AsyncKernelManager):
    """Starts kernels with this very interpreter, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _encrypt_if_possible(self) -> str:
        return "auto"  # or each kernel warns that others on this machine could listen


@dataclass(eq=False)
class NotebookFailure(Exception):
    """A notebook that did not run to its end."""

    notebook: str
    cell: int  # 1 is the first code cell of the source; 0 before any cell ran
    cells: int  # number of code cells
    head: str  # first line of the cell
    error: str  # last line of the error

    def __str__(self) -> str:
        if not self.cell:
            return f"{self.notebook} failed before its first cell\n  {self.error}"
        place = f"code cell {self.cell} of {self.cells}: {self.head}"
        return f"{self.notebook} failed in {place}\n  {self.error}"


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] = ()) -> list[Path]:
    """The notebooks ``NN_name.ipynb`` of ``folder`` in order, or those whose name starts so.

    Raises FileNotFoundError if there is none, ValueError if one of ``only`` matches nothing.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebook NN_name.ipynb in {folder}")
    for start in only:
        if not any(path.name.startswith(start) for path in found):
            names = ", ".join(path.stem for path in found)
            raise ValueError(f"no notebook begins with {start!r}: there are {names}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def as_format(path: Path) -> str:
    """``path`` as papermill takes it: it fills parameters into the braces of notebooks' paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


def parameters_of(profile: str, data: str | None) -> dict[str, str]:
    """The notebooks' parameters; ``data`` is None, "embedded", "real" or a folder of person images.

    "real" becomes the folder that $BNTA_DATA names. Raises ValueError for an unknown profile, a name that
    no notebook can hold, or where that is not set, FileNotFoundError for a folder that is not there.
    """
    parameters = {"profile": settings(profile).profile}
    if data is not None and not data.strip():
        raise ValueError('--data takes "embedded" or a folder of person images; it is empty')
    if data is not None and data != "embedded":
        # Kernels run in the notebooks' folder, so a path from the caller's would not hold there.
        folder = data_folder(data)
        if not folder.is_dir():
            raise FileNotFoundError(
                f'no folder {folder if data == "real" else data}: --data takes "embedded", "real" '
                "($BNTA_DATA) or a folder of person images"
            )
        data = str(folder)
        refuse_odd_letters("--data", data)
    return parameters | ({"data": data} if data is not None else {})


def refuse_odd_letters(name: str, value: str) -> None:
    """Raise ValueError for a value that no notebook can hold: a name of the file system that is no UTF-8."""
    if not value.isascii() and value.encode("utf-8", "replace") != os.fsencode(value):
        raise ValueError(f"{name} is {value.encode('utf-8', 'replace').decode()!r}, which is no UTF-8 text: "
                         "a notebook cannot hold it; rename the file or folder")


def check_parameters(notebooks: Sequence[Path], parameters: dict[str, str]) -> None:
    """Raise ValueError for a notebook that does not take every one of ``parameters``.

    papermill itself only warns, and the notebook would run with its defaults.
    """
    for path in notebooks:
        missing = parameters.keys() - papermill.inspect_notebook(as_format(path)).keys()
        if missing:
            raise ValueError(
                f"{path.name} does not take {', '.join(sorted(missing))}: "
                "name it in the cell tagged `parameters`"
            )


def _failure(source: Path, executed: Path, error: str) -> NotebookFailure:
    """Where ``executed`` stopped: the cell with an error, or else the last one that began."""
    if not executed.exists():
        return NotebookFailure(source.name, 0, 0, "", error)
    cells = code_cells(nbformat.read(executed, as_version=4))
    failed = [
        i for i, c in enumerate(cells, 1) if any(o.output_type == "error" for o in c.outputs)
    ]
    # A dead kernel leaves no error output behind.
    begun = [
        i for i, c in enumerate(cells, 1) if c.metadata.get("papermill", {}).get("start_time")
    ]
    number = failed[0] if failed else begun[-1] if begun else 0
    lines = cells[number - 1].source.strip().splitlines() if number else [""]
    return NotebookFailure(source.name, number, len(cells), lines[0], error)


def run_notebook(source: Path, executed: Path, parameters: Mapping, cwd: Path | None = None,
                 progress: bool = False, run: str = "") -> float:
    """Run ``source`` into ``executed`` (another file) and return the seconds it took.

    ``cwd`` is the folder it runs in (default: its own, as in JupyterLab); ``progress``: a bar of its
    cells; ``run``: its name, which is kept with it. Raises NotebookFailure if a cell fails, the kernel dies or cells were left out.
    """
    if executed.resolve() == source.resolve():
        raise ValueError(f"{source.name} would be written over itself: choose another --out")
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        papermill.execute_notebook(
            as_format(source.resolve()),
            as_format(executed.resolve()),
            parameters,
            cwd=cwd or source.resolve().parent,
            progress_bar=progress,
            kernel_manager_class=_OwnKernel,
            shutdown_kernel="immediate",  # a kernel asked to stop while it works prints a traceback
        )
    except PapermillException as error:
        if hasattr(error, "evalue"):  # of a cell: a sentence may have line breaks, as a path in it
            last = visible(f"{error.ename}: {' '.join(str(error.evalue).split())}")
        else:
            last = str(error).strip().splitlines()[-1]
        raise _failure(source, executed, last) from error
    except (RuntimeError, CellTimeoutError) as error:  # a dead kernel is a RuntimeError
        last = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
        raise _failure(source, executed, last) from error
    # sys.exit() in a cell ends a notebook early, and papermill takes that for success.
    notebook = nbformat.read(executed, 4)
    if any(cell.execution_count is None for cell in code_cells(notebook)):
        raise _failure(source, executed, "the notebook ended before its last cell")
    # The outputs of another library, or of another run, are not this one's.
    notebook.metadata["bnta"] = {"code": library_digest(), "run": run}
    with atomic(executed) as partial:
        nbformat.write(notebook, partial)
    return time.monotonic() - began


class Durations:
    """How long each notebook took last time, to say how long a run will take."""

    def __init__(self, path: Path, profile: str):
        self.path, self.profile = path, profile
        try:
            self.all = json.loads(path.read_text())
            self.seconds: dict[str, float] = dict(self.all.get(profile, {}))
            int(sum(self.seconds.values()))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            self.all, self.seconds = {}, {}  # absent or damaged: only the estimate is lost

    def remaining(self, names: Sequence[str]) -> float | None:
        """Seconds that the notebooks ``names`` will take, None where nothing is known.

        One that was never timed counts as the mean of those that were.
        """
        if not names:
            return 0.0
        if not self.seconds:
            return None
        mean = sum(self.seconds.values()) / len(self.seconds)
        return sum(self.seconds.get(name, mean) for name in names)

    def record(self, name: str, seconds: float) -> None:
        """Keep ``seconds`` for the next run."""
        self.seconds[name] = round(seconds, 1)
        self.all[self.profile] = self.seconds
        with atomic(self.path) as partial:
            partial.write_text(json.dumps(self.all, indent=1, sort_keys=True) + "\n")


def _clock(seconds: float | None) -> str:
    """Minutes and seconds, as 4:05."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _shown(path: Path) -> str:
    """``path`` from the current folder where it lies below it."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time and size of every file under ``folder``, to see later which are new or changed."""
    files = [f for f in folder.rglob("*") if f.is_file()] if folder.exists() else []
    return {f: (f.stat().st_mtime_ns, f.stat().st_size) for f in files}


def run(
    notebooks: Sequence[Path],
    out: Path,
    parameters: dict[str, str],
    durations: Durations,
) -> list[Path]:
    """Run ``notebooks`` in order into ``out``, telling of each; returns the executed notebooks.

    Raises NotebookFailure at the first that fails; those before it are kept.
    """
    began = time.monotonic()
    width = max(len(path.stem) for path in notebooks)
    written = []
    for i, source in enumerate(notebooks):
        print(f"[{i + 1}/{len(notebooks)}] {source.stem:{width}}  ", end="", flush=True)
        executed = out / source.name
        try:
            seconds = run_notebook(source, executed, parameters, run=out.name)
        except NotebookFailure:
            print(f"FAILED  elapsed {_clock(time.monotonic() - began)}", flush=True)
            raise
        written.append(executed)
        durations.record(source.stem, seconds)
        left = durations.remaining([path.stem for path in notebooks[i + 1 :]])
        print(
            f"ok {_clock(seconds):>6}  elapsed {_clock(time.monotonic() - began):>6}"
            f"  about {_clock(left):>5} left",
            flush=True,
        )
    return written


def check_paper(profile: str) -> int:
    """Check the paper's claims as ``make paper-check`` does; returns the exit code."""
    from bnta_lib.suite.claims import main as check

    print("\nThe paper's claims against what was measured:\n", flush=True)
    return check(["--profile", profile])


def _tell(index: Path, written: Sequence[Path], figures: Path, before: dict) -> None:
    """Name all that the run wrote; ``before`` is the figures' :func:`_state` at its start."""
    after = _state(figures)
    changed = sorted(f for f in after if after[f] != before.get(f))
    print(f"\nFigures and tables written in {_shown(figures)}: {len(changed) or 'none'}")
    for file in changed:
        print(f"  {_shown(file)}")
    print(f"Executed notebooks: {len(written)}")
    for executed in written:
        print(f"  {_shown(executed)}")
    print(f"The report, to open in a browser:\n  {_shown(index)}")


class MachinePath(ValueError):
    """An output that names a path of the machine it was made on."""


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """``notebook`` (executed without parameters) as it is committed: its outputs, no run noise.

    Widgets are taken out, since they live in a kernel only.

    Raises MachinePath if an output names a path of this machine.
    """
    view = "application/vnd.jupyter.widget-view+json"
    ours = [str(ROOT), *(f"{p}/" for p in {Path.home(), Path(tempfile.gettempdir())} if p.name)]
    for key in ("papermill", "widgets", "bnta"):
        notebook.metadata.pop(key, None)
    for number, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)  # papermill gives every cell a list
        cell.outputs = [o for o in cell.outputs if view not in o.get("data", {})]
        for output in cell.outputs:
            texts = [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
            text = "".join([*texts, output.get("text", "")])
            for path in ours:
                if path in text:
                    raise MachinePath(f"an output of cell {number} names this machine's {path}")
    return notebook


def copy_back(written: Sequence[Path], folder: Path = NOTEBOOKS) -> None:
    """Replace the notebooks of ``folder`` by the ``written`` ones, all or none.

    Raises MachinePath if an output names a path of this machine.
    """
    texts = {}
    for executed in written:
        try:
            clean = stripped(nbformat.read(executed, as_version=4))
        except MachinePath as error:
            raise MachinePath(f"{executed.name}: {error}; print it otherwise") from None
        texts[folder / executed.name] = nbformat.writes(clean) + "\n"
    for path, text in texts.items():
        with atomic(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _continue_with(notebooks: Sequence[Path], out: Path, options: argparse.Namespace) -> str:
    """The command that does what is not done: the notebooks that did not end, or the report."""
    left = [p.name[:2] for p in notebooks if not finished(out / p.name, p)]
    # A report alone is of a whole run; a run of some notebooks writes its own.
    whole = not left and not options.only
    module, folder = ("report", "--executed") if whole else ("reproduce", "--out")
    words = [interpreter(), "-m", f"bnta_lib.{module}", "--profile", options.profile]
    words += ["--data", options.data] if options.data else []
    words += [folder, str(options.out)] if options.out != EXECUTED else []
    if options.report != REPORT:
        words += ["--out" if whole else "--report", str(options.report)]
    words += ["--only", *(left or [p.name[:2] for p in notebooks])] if options.only or 0 < len(left) < len(notebooks) else []
    return shlex.join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bnta_lib.suite.reproduce", description="Run the notebooks in order."
    )
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    parser.add_argument("--only", nargs="+", default=[], type=not_empty, metavar="NN", help="e.g. --only 05 08")
    parser.add_argument("--out", type=a_path, default=EXECUTED, help="folder (default: executed)")
    parser.add_argument("--report", type=a_path, default=REPORT, help="folder (default: report)")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--in-place", action="store_true", help="copy the outputs back into notebooks/ at the end"
    )
    options = parser.parse_args(arguments)
    try:
        options.profile = settings(options.profile).profile
        if options.in_place and (options.data or options.only):
            raise ValueError("--in-place runs every notebook on the embedded benchmark")
        parameters = parameters_of(options.profile, options.data)
        notebooks = find_notebooks(options.notebooks, options.only)
        check_parameters(notebooks, parameters)
        name = run_name(options.profile, parameters.get("data", "embedded"))
        out = options.out.resolve() / name
        if out == options.notebooks.resolve():
            raise ValueError(f"{out} holds the notebooks themselves: choose another --out")
        check_out(out, "--out")
        check_out(options.report, "--report")
        check_cache()
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2

    earlier = out / "earlier"
    for path in notebooks:  # those of an earlier run must not pass for this one's
        if (out / path.name).exists():
            earlier.mkdir(exist_ok=True)
            os.replace(out / path.name, earlier / path.name)
    # The library and whatever a notebook starts see the same profile as its parameters cell.
    os.environ["BNTA_PROFILE"] = options.profile
    # Kernels run in another folder: a relative path would name another cache there.
    os.environ["BNTA_CACHE"] = str(cache_dir())
    if figures := os.environ.get("BNTA_FIGURES"):
        os.environ["BNTA_FIGURES"] = os.path.abspath(figures)
    if options.in_place:
        # With nothing put in, cells are counted as a reader will count them.
        parameters = {}
    durations = Durations(cache_dir() / "durations.json", name)
    stems = [path.stem for path in notebooks]
    known = durations.remaining(stems) if durations.seconds.keys() & set(stems) else None
    guess = f"about {_clock(known)} minutes" if known is not None else "never timed here"
    print(f"profile {options.profile}, notebooks: {len(notebooks)}, {guess}")
    figures = figures_dir(name)
    before = _state(figures)
    try:
        written = run(notebooks, out, parameters, durations)
        for path in notebooks:
            (earlier / path.name).unlink(missing_ok=True)
        if earlier.is_dir() and not any(earlier.iterdir()):
            earlier.rmdir()
        if options.in_place:
            copy_back(written, options.notebooks)
            print(f"Copied the outputs into {_shown(options.notebooks)}")
        every = find_notebooks(options.notebooks)
        source = finished_in(out, every)
        whole = name == options.profile and len(source.notebooks) == len(every)  # in one run or in parts
        if whole and (code := check_paper(options.profile)):
            print("\nAll notebooks are done. The report, without new verdicts:\n"
                  f"  {_continue_with(notebooks, out, options)}", file=sys.stderr)
            return code
        index = build(name, source, figures, options.report.resolve(), options.notebooks)
        _tell(index, written, figures, before)
    except NotebookFailure as failure:
        print(f"\n{failure}\n  as far as it ran: {_shown(out / failure.notebook)}", file=sys.stderr)
        if "[Errno 28]" in failure.error:
            print("  The disk is full: free some space and run again.", file=sys.stderr)
        return 1
    except MachinePath as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            print(f"\ncannot write what the run makes: {error}", file=sys.stderr)
            return 1
        print(
            f"\nThe disk is full: nothing more can be written to {out}. Free some space, then "
            f"continue with\n  {_continue_with(notebooks, out, options)}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What is done is kept; continue with\n"
            f"  {_continue_with(notebooks, out, options)}",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
