"""What an interrupt says while a command still imports what it needs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def starting(command: bool = True) -> Iterator[None]:
    """Around imports: an interrupt ends the process with a line and exit code 130. Where the import stood
    would be of no use to anybody, and torch alone takes a second. Nothing changes where it is no ``command``
    that begins."""
    quiet = command and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quiet:
        signal.signal(signal.SIGINT, _stopped)
    try:
        yield
    finally:
        if quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _stopped(*_) -> None:
    os.write(2, b"stopped before it began\n")
    os._exit(130)
