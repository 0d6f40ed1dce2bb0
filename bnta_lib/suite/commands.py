"""What the command lines share: profile and data as arguments, and how a command ends."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

from bnta_lib.settings import cache_dir, data_folder, settings
from bnta_lib.training import OutOfTime


@contextmanager
def usage_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Within the block, what is not there or does not fit is an error of usage: exit code 2."""
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))


def parse_run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse ``arguments``, ``--profile`` and ``--data`` among them. Exit with 2 if they do not exist."""
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", default="embedded",
                        help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    options = parser.parse_args(arguments)
    with usage_errors(parser):
        options.profile = settings(options.profile).profile
        if (folder := data_folder(options.data)) is not None and not folder.is_dir():
            raise ValueError(f'no folder {folder}: --data takes "embedded", "real" or a folder of images')
        try:
            cache_dir().mkdir(parents=True, exist_ok=True)
            if not os.access(cache_dir(), os.W_OK):
                raise PermissionError(f"cannot write to {cache_dir()}")
        except OSError as error:
            raise ValueError(f"{error}: set BNTA_CACHE to a folder that you may write to") from error
    return options


def exit_code(work: Callable[[], int | None]) -> int:
    """Do ``work`` and return its exit code: 1 for an error, 3 for out of time, 130 for an interrupt."""
    try:
        return work() or 0
    except OutOfTime as error:
        print(f"out of time: {error}; the same command continues")
        return 3
    except KeyboardInterrupt:
        print("\nStopped. What is done is kept: mend this, and the same command continues.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, BrokenExecutor) as error:
        print(f"{error}\nWhat is done is kept: mend this, and the same command continues.", file=sys.stderr)
        return 1
