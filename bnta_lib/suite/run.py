"""One notebook as a step of a batch: ``python -m bnta_lib.suite.run NOTEBOOK RECORD [-p NAME VALUE] ...``

Runs it under papermill, with papermill's ``-p``, and refuses what papermill would pass on: a name
that the notebook does not take, or a value of another type, is said in a line before a kernel
starts. Paths among the parameters are those of the folder that the command is given in. RECORD is
the executed notebook; one that does not run to its end is RECORD.failed.ipynb. With other parameters than
the profile and the data its figures and tables go to RECORD_figures, so that those of the whole run stay what
they are. The exit code is 0 where it ran to its end, 1 where it did not (the last line says why), 2 where
it was not begun, 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import papermill

from bnta_lib.files import a_path, friendly_os_error, left_behind, marked
from bnta_lib.suite.reproduce import NotebookFailure, as_format, refuse_odd_letters, run_notebook
from bnta_lib.settings import PROFILES, cache_dir

# What a parameter is that is None unless it is given.
OPTIONAL = {"profile": str, "probes": str, "out": str, "tracks": str, "K": int, "epochs": int, "layer": str}
CHOICES = {"profile": tuple(PROFILES), "metric": ("mAP", "R1", "R5", "R10"), "tracks": ("folders",)}
_WORDS = {str: "a text", int: "a whole number", bool: "True or False", float: "a number"}


def typed(notebook: str | Path, given: Mapping[str, str]) -> dict:
    """Parameters given as text, as the notebook takes them: of the type of its own values.

    "None" stands for None where the notebook's own value is None. Raises ValueError for names that
    the notebook does not take, for values of another type and for words that are no choice, all of them
    in one message;
    OSError where there is no such notebook.
    """
    path = Path(notebook)
    if path.suffix != ".ipynb":
        raise ValueError(f"{path} is no notebook: its name does not end in .ipynb")
    if not path.is_file():
        raise FileNotFoundError(f"no notebook {path}")
    try:
        found = papermill.inspect_notebook(as_format(path))
        own = {name: ast.literal_eval(about["default"]) for name, about in found.items()}
    except Exception as error:  # whatever papermill and nbformat raise for what is no notebook
        raise ValueError(f"{path} cannot be read as a notebook: {type(error).__name__}") from error
    values, wrong = {}, []
    for name, text in given.items():
        if name not in own:
            wrong.append(f"{path.name} does not take {name!r}: it takes {', '.join(own)}")
            continue
        default = own[name]
        kind = OPTIONAL.get(name, str) if default is None else type(default)
        try:
            values[name] = None if default is None and text == "None" else _value(text, kind)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # of deep nesting
            wrong.append(f"{name} is {_WORDS[kind]}, and not {text!r}")
        else:
            if values[name] is not None and values[name] not in CHOICES.get(name, (values[name],)):
                wrong.append(f"{name} is one of {', '.join(CHOICES[name])}, and not {text!r}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return values


def _value(text: str, kind: type) -> str | int | bool | float:
    if kind is str:
        return text
    value = ast.literal_eval(text) if kind is bool else kind(text)
    if type(value) is not kind:
        raise ValueError(text)
    return value


def _kept(running: Path | None, record: Path) -> Path:
    """Where the notebook of a run that did not end is put: an earlier record stays what it is."""
    place = record.with_name(f"{record.stem}.failed.ipynb")
    if running is not None and running.exists() and running.stat().st_size:
        os.replace(running, place)
    return place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=a_path)
    parser.add_argument("record", type=a_path, help="the executed notebook, written anew")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    try:
        names = [name for name, _ in options.parameters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is given twice")
        parameters = typed(options.notebook, dict(options.parameters))
        if options.record.suffix != ".ipynb" or options.record.is_dir():
            raise ValueError(f"{options.record} cannot be the record: name a file that ends in .ipynb")
        os.environ["BNTA_CACHE"] = str(cache_dir())
        if options.record.stem.endswith(".failed"):
            raise ValueError(f"{options.record.name} is the name of a run that failed: name another record")
        if options.record.resolve() == options.notebook.resolve():
            raise ValueError(f"{options.notebook.name} would be written over itself: name another record")
        for name, value in dict(options.parameters).items():
            refuse_odd_letters(name, value)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    running, before = None, os.environ.get("BNTA_FIGURES")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the kernel ends too
    try:
        if parameters.keys() - {"profile", "data"}:  # what others see as the run's figures stays as it is
            os.environ["BNTA_FIGURES"] = str(options.record.absolute().with_name(f"{options.record.stem}_figures"))
        options.record.parent.mkdir(parents=True, exist_ok=True)
        for left in left_behind(options.record):
            left.unlink(missing_ok=True)
        # Beside its place: a run that fails at once must not cost the record of an earlier one.
        handle, name = tempfile.mkstemp(dir=options.record.parent, prefix=marked(options.record), suffix=".ipynb")
        os.close(handle)
        running = Path(name)
        seconds = run_notebook(options.notebook, running, parameters, cwd=Path.cwd(), progress=sys.stderr.isatty())
        os.replace(running, options.record)
        failed = options.record.with_name(f"{options.record.stem}.failed.ipynb")  # of a run before
        if failed.resolve() != options.notebook.resolve():
            failed.unlink(missing_ok=True)
    except NotebookFailure as failure:
        said = re.sub(r"\[Errno \d+\] ", "", str(failure))
        print(f"{said}\n  as far as it ran: {_kept(running, options.record)}", file=sys.stderr)
        return 1
    except OSError as error:
        said = getattr(friendly_os_error(error, options.record), "strerror", error)
        if isinstance(error, FileNotFoundError):  # as below /proc
            said = f"the folder of {options.record} cannot be made: choose another one"
        print(f"{parser.prog}: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        place = _kept(running, options.record)
        print(f"interrupted, as far as it ran: {place}; what the notebook had measured is kept, and the same command "
              "goes on", file=sys.stderr)
        return 130
    finally:
        if running is not None:
            running.unlink(missing_ok=True)
        os.environ.pop("BNTA_FIGURES", None)
        if before is not None:
            os.environ["BNTA_FIGURES"] = before
    print(f"{options.record}: {options.notebook.stem} ran to its end in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
