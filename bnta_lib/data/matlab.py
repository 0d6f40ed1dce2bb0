"""MATLAB's older files (version 5), read in a process of their own.

A damaged one can end the process that SciPy reads it in, keep it busy for ever or fill the memory; it must
not take a report on all other sets with it. This file is run by itself, so it imports nothing of the library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SECONDS = 60  # for one file; a whole Person.mat takes a few
GIGABYTES = 4


def read(what: str, file: Path) -> list:
    """What :data:`CONTENTS` names, of a .mat. Raises ValueError where the file does not hold it or is
    damaged, OSError where it cannot be opened."""
    with open(file, "rb"):
        pass
    try:
        # -P: the modules beside this one are not to be found by their bare names.
        child = subprocess.run([sys.executable, "-P", __file__, what, str(file)], capture_output=True,
                               text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it is not read within {SECONDS} seconds") from None
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"reading it ends the process, code {child.returncode}"]
        raise ValueError(said[-1])
    return json.loads(child.stdout)


def people(file: str) -> list:
    """Person.mat of CUHK-SYSU: [name, [[picture, [left, top, width, height]], ...]] of each person."""
    import scipy.io

    table = scipy.io.loadmat(file, variable_names=["Person"])["Person"].ravel()
    return [[str(person["idname"].item()),
             [[str(seen["imname"].item()), [int(round(float(v))) for v in seen["idlocate"].ravel()]]
              for seen in person["scene"].ravel()]]
            for person in table]


def partitions(file: str) -> list:
    """features_and_partitions.mat of GRID: the people trained on, of each split."""
    import scipy.io

    return [[int(pid) for pid in cell[0][0][2][0]] for cell in scipy.io.loadmat(file)["trainIdxAll"][0]]


CONTENTS = {"people": people, "partitions": partitions}

if __name__ == "__main__":
    with suppress(ImportError, OSError, ValueError):  # not on Windows; or less is allowed already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        print(json.dumps(CONTENTS[sys.argv[1]](sys.argv[2])))
    except MemoryError:
        sys.exit(f"reading it takes more than {GIGABYTES} GB of memory")
    except Exception as error:  # what SciPy raises for a damaged file shares no base class
        sys.exit(f"{type(error).__name__}: {error}".replace("\n", " "))
