"""``python -m bnta_lib.data``: published sets fetched, unpacked, checked, packed and split."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import warnings
from pathlib import Path

from bnta_lib.data import mixture
from bnta_lib.data.archives import fetch, prepare
from bnta_lib.data.check import check, differing
from bnta_lib.data.folders import visible
from bnta_lib.data.packed import pack
from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets
from bnta_lib.data.splits import TORCHREID, write_splits
from bnta_lib.settings import PROFILES, settings


def not_empty(text: str) -> str:
    """An argument that is not an unset variable, which would be the current folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it is empty: is a variable not set?")
    return text


def a_path(text: str) -> Path:
    """The path that an argument names, ``~`` being the home folder."""
    path = Path(not_empty(text))
    return path.expanduser() if text == "~" or text.startswith(("~/", "~\\")) else path


COMMANDS = {  # name: what it does, and its arguments
    "fetch": ("download an owner's archive that needs no agreement", ["name", "root", "--url"]),
    "prepare": ("unpack an archive (zip, tar, 7z) that you were given", ["archive", "root"]),
    "check": ("compare the sets below a folder with the published counts", ["root", "--deep"]),
    "pack": ("decode the sets below a folder once", ["root", "--profile", "--skip-unreadable"]),
    "splits": ("write the splits of the targets as torchreid keeps them", ["root", "out"]),
}
OPTIONS = {
    "name": {"choices": list(SETS), "help": "of a set"},
    "root": {"type": a_path, "help": "the folder below which the sets lie"},
    "archive": {"type": a_path}, "out": {"type": a_path, "help": "torchreid's folder of data sets"},
    "--url": {"type": not_empty, "help": "address of a copy, if the owner's server has none"},
    "--deep": {"action": "store_true", "help": "decode every image"},
    "--profile": {"choices": list(PROFILES), "help": "whose image size (default: $BNTA_PROFILE, laptop)"},
    "--skip-unreadable": {"action": "store_true", "help": "leave out images that cannot be decoded"},
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. What cannot be done is printed in one line, with code 2."""
    for stream in (sys.stdout, sys.stderr):  # a file name may have bytes that the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # A warning is for the reader, without the line of code that gave it.
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.data", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    for name, (text, names) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        for option in names:
            command.add_argument(option, **OPTIONS[option])
    args = parser.parse_args(arguments)
    try:
        return globals()[f"_{args.command}"](args)
    except (OSError, ValueError, ImportError) as error:
        # The number of a system's error is in the way if the sentence names the file itself.
        own = isinstance(error, OSError) and error.filename is None and error.strerror
        print(own or error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: run the same command again", file=sys.stderr)
        return 130


def _fetch(args: argparse.Namespace) -> int:
    archive = fetch(args.name, args.root, args.url, progress=True)
    with open(archive, "rb") as file:
        print(f"{archive}: SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}")
    print(f"next: python -m bnta_lib.data prepare {shlex.quote(str(archive))} {shlex.quote(str(args.root))}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    folder = prepare(args.archive, args.root)
    sets = find_sets(folder)
    lines = [f"{name}, {len(found):,} images of {found.people:,} people" for name, found in sets.items()]
    lines = lines or ["none of the published sets; an archive inside has to be prepared too"]
    print(f"{folder}:", *lines, sep="\n  ")
    return 0


def _check(args: argparse.Namespace) -> int:
    """0: all that was found is as published. 1: something differs. 2: no set was found."""
    table, differences, notes = check(args.root, deep=args.deep, progress=sys.stderr.isatty())
    print(table.to_string())
    for sentence in differences + [f"for information: {note}" for note in notes]:
        print(visible(sentence))
    for name in table.index[table["layout"] == ""]:
        print(f"{name} is not there: " + (f"python -m bnta_lib.data fetch {name} ROOT" if SETS[name].url else
                                          f"ask {SETS[name].ask}"))
    return 2 if not table["images, here"].any() else int(bool(differences))


def _pack(args: argparse.Namespace) -> int:
    sets = find_sets(args.root)
    if not sets:
        raise ValueError(f"{args.root} holds none of the sets: see `python -m bnta_lib.data check`")
    mixed = [mixture(sets).sets] if set(sets) - set(REAL_TARGETS) else []
    for found in [*mixed, *([sets[name]] for name in REAL_TARGETS if name in sets)]:
        made = pack(found, settings(args.profile).size, skip_unreadable=args.skip_unreadable)
        print(f"{', '.join(f'{name} {count}' for name, count in made.counts.items())}: {made.folder}")
        for sentence in made.unreadable:
            print(f"  left out: {visible(sentence)}")
    return 0


def _splits(args: argparse.Namespace) -> int:
    sets = find_sets(args.root)
    if not any(name in sets for name in TORCHREID):
        raise ValueError(f"{args.root} holds none of {', '.join(TORCHREID)}")
    for path in write_splits(sets, args.out):
        print(f"wrote {path}")
    for name in TORCHREID:
        if name in sets and differing(sets[name]):
            print(f"{name} is not whole: these are not the published set's splits", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
