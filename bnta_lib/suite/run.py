"""Run one notebook as a step of a batch: ``python -m bnta_lib.suite.run NOTEBOOK RECORD [-p NAME VALUE] ...``

It is papermill, with two differences. A name that the notebook does not take, or a value of another type, is
refused before a kernel starts. With other parameters than the profile and the data, figures and tables go to
RECORD_figures, so that those of the whole run stay as they are. Paths among the parameters start at the
current folder. A notebook that does not run to its end is RECORD.failed.ipynb, and an earlier RECORD stays.

Exit codes: 1, the notebook failed; 2, it was not begun; 130, interrupted.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import papermill

from bnta_lib.settings import PROFILES, cache_dir
from bnta_lib.suite.reproduce import NotebookFailure, escape_braces, run_notebook

# Types of the parameters that are None by default.
OPTIONAL = {"profile": str, "probes": str, "out": str, "tracks": str, "K": int, "epochs": int, "layer": str}
CHOICES = {"profile": tuple(PROFILES), "metric": ("mAP", "R1", "R5", "R10"), "tracks": ("folders",)}
_WORDS = {str: "a text", int: "a whole number", bool: "True or False", float: "a number"}


def typed(notebook: Path, given: Mapping[str, str]) -> dict:
    """Return parameters given as text with the types of the notebook's own values ("None" is None).

    Raises:
        ValueError: for unknown names, other types and words that are no choice, all in one message.
        FileNotFoundError: if there is no such notebook.
    """
    if not notebook.is_file():
        raise FileNotFoundError(f"no notebook {notebook}")
    try:
        known = papermill.inspect_notebook(escape_braces(notebook))
    except Exception as error:  # papermill and nbformat raise many kinds
        raise ValueError(f"{notebook} cannot be read as a notebook: {type(error).__name__}") from error
    values, wrong = {}, []
    for name, text in given.items():
        if name not in known:
            wrong.append(f"{notebook.name} does not take {name!r}: it takes {', '.join(known)}")
            continue
        default = ast.literal_eval(known[name]["default"])
        kind = OPTIONAL.get(name, str) if default is None else type(default)
        try:
            values[name] = None if default is None and text == "None" else _value(text, kind)
        except (ValueError, SyntaxError):
            wrong.append(f"{name} is {_WORDS[kind]}, and not {text!r}")
        else:
            if values[name] is not None and values[name] not in CHOICES.get(name, (values[name],)):
                wrong.append(f"{name} is one of {', '.join(CHOICES[name])}, and not {text!r}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return values


def _value(text: str, kind: type) -> str | int | bool | float:
    value = ast.literal_eval(text) if kind is bool else kind(text)
    if type(value) is not kind:
        raise ValueError(text)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("record", type=Path, help="the executed notebook")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    record = options.record.absolute()
    failed = record.with_name(f"{record.stem}.failed.ipynb")
    try:
        parameters = typed(options.notebook, dict(options.parameters))
        if record.suffix != ".ipynb" or record.resolve() == options.notebook.resolve():
            raise ValueError(f"{options.record} cannot be the record: name another file that ends in .ipynb")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    os.environ["BNTA_CACHE"] = str(cache_dir())
    before = os.environ.get("BNTA_FIGURES")
    if parameters.keys() - {"profile", "data"}:
        os.environ["BNTA_FIGURES"] = str(record.with_name(f"{record.stem}_figures"))
    try:
        seconds = run_notebook(options.notebook, failed, parameters, cwd=Path.cwd(), progress=sys.stderr.isatty())
        os.replace(failed, record)
    except (NotebookFailure, OSError) as error:
        print(f"{error}\n  as far as it ran: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted, as far as it ran: {failed}; what is measured is kept", file=sys.stderr)
        return 130
    finally:
        os.environ.pop("BNTA_FIGURES", None)
        os.environ.update({"BNTA_FIGURES": before} if before is not None else {})
    print(f"{options.record}: {options.notebook.stem} ran to its end in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
