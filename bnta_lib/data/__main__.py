"""``python -m bnta_lib.data``: published sets fetched, unpacked, checked, packed and split."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings

COMMANDS = ("check", "archives", "downloads", "packed", "protocol")  # modules, each adds its commands


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. What cannot be done is said in one line, with code 2."""
    for stream in (sys.stdout, sys.stderr):  # a file name may have bytes that the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # A warning is for the reader, without the line of code that gave it.
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.data", description=__doc__.partition(": ")[2])
    sub = parser.add_subparsers(required=True, metavar="command")
    try:
        for module in COMMANDS:
            importlib.import_module(f"bnta_lib.data.real.{module}").add_parser(sub)
        args = parser.parse_args(arguments)
        return args.run(args)
    except (OSError, ValueError) as error:
        # The number of a system's error is in the way where the sentence names the file itself.
        own = isinstance(error, OSError) and error.filename is None and error.strerror
        print(own or error, file=sys.stderr)
        return 2
    except MemoryError:
        print("there is too little memory for it: close other programs, or use a machine with more", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
