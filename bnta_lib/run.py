"""One notebook as a step of a batch: ``python -m bnta_lib.run NOTEBOOK RECORD [-p NAME VALUE] ...``

Runs it under papermill, with papermill's ``-p``, and refuses what papermill would pass on: a name
that the notebook does not take, or a value of another type, is said in a line before a kernel
starts. Paths among the parameters are those of the folder that the command is given in. RECORD is
the executed notebook; where the run does not end and an earlier record stands there, RECORD.failed.ipynb. The exit code is 0 where it ran to its end, 1 where it did not (the last line
says why), 2 where it was not begun, 130 where it was interrupted.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import explained
from .settings import cache_dir
from .starting import starting

with starting(__name__ == "__main__"):
    import papermill

    from .reproduce import NotebookFailure, as_format, run_notebook

# What a parameter is that is None unless it is given.
OPTIONAL = {"profile": str, "probes": str, "out": str, "tracks": str, "K": int, "epochs": int, "layer": str}
_WORDS = {str: "a text", int: "a whole number", bool: "True or False", float: "a number"}


def typed(notebook: str | Path, given: Mapping[str, str]) -> dict:
    """Parameters given as text, as the notebook takes them: of the type of its own values.

    "None" stands for None where the notebook's own value is None. Raises ValueError for names that
    the notebook does not take and for values of another type, all of them in one message;
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
        except (ValueError, SyntaxError):
            wrong.append(f"{name} is {_WORDS[kind]}, and not {text!r}")
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
    place = record.with_name(f"{record.stem}.failed.ipynb") if record.exists() else record
    if running is not None and running.exists() and running.stat().st_size:
        os.replace(running, place)
    return place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("record", type=Path, help="the executed notebook, written anew")
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
        if options.record.resolve() == options.notebook.resolve():
            raise ValueError(f"{options.notebook.name} would be written over itself: name another record")
        for name, value in dict(options.parameters).items():
            if not value.isascii() and value.encode("utf-8", "replace") != os.fsencode(value):
                raise ValueError(f"{name} is {value.encode('utf-8', 'replace').decode()!r}, which is no UTF-8 text: "
                                 "a notebook cannot hold it; rename the file or folder")
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    running = None
    try:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place: a run that fails at once must not cost the record of an earlier one.
        handle, name = tempfile.mkstemp(dir=options.record.parent, prefix=f".{options.record.stem}.", suffix=".ipynb")
        os.close(handle)
        running = Path(name)
        seconds = run_notebook(options.notebook, running, parameters, cwd=Path.cwd(), progress=sys.stderr.isatty())
        os.replace(running, options.record)
    except NotebookFailure as failure:
        said = re.sub(r"\[Errno \d+\] ", "", str(failure))
        print(f"{said}\n  as far as it ran: {_kept(running, options.record)}", file=sys.stderr)
        return 1
    except OSError as error:
        said = getattr(explained(error, options.record), "strerror", error)
        if isinstance(error, FileNotFoundError):  # as below /proc
            said = f"the folder of {options.record} cannot be made: choose another one"
        print(f"{parser.prog}: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _kept(running, options.record)
        print("interrupted: what the notebook had measured is kept, and the same command goes on", file=sys.stderr)
        return 130
    finally:
        if running is not None:
            running.unlink(missing_ok=True)
    print(f"{options.record}: {options.notebook.stem} ran to its end in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
