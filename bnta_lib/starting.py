"""What an interrupt says while a command still imports what it needs, and how a person calls this interpreter."""

import os
import shutil
import signal
import sys
from pathlib import Path


def quiet_until_main(command: bool = True) -> None:
    """Where a ``command`` begins, an interrupt ends the process with a line and exit code 130 until its module
    has a ``main``: where the import stood would be of no use to anybody, and torch alone takes a second. From
    then on it is KeyboardInterrupt, as ever."""
    if command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame) -> None:
    if hasattr(sys.modules["__main__"], "main"):
        signal.default_int_handler(number, frame)
    os.write(2, b"stopped before it began\n")
    os._exit(130)


def interpreter() -> str:
    """What to type for this interpreter: ``python`` where that is it, else its path, from the current folder
    where it lies below."""
    own = Path(sys.executable)
    if (found := shutil.which("python")) and Path(found).parent.resolve() == own.parent.resolve():
        return "python"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
