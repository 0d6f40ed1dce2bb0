"""``python -m bnta_lib.data``: published sets fetched, unpacked, checked and packed."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import warnings
from pathlib import Path

from bnta_lib.data import mixture
from bnta_lib.data.archives import fetch, prepare
from bnta_lib.data.check import check
from bnta_lib.data.folders import visible
from bnta_lib.data.packed import pack
from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets
from bnta_lib.settings import PROFILES, settings


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. What cannot be done is printed in one line, with code 2."""
    # A warning is for the reader, without the line of code that gave it.
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except (OSError, ValueError, ImportError) as error:
        print(*map(visible, str(error).splitlines()), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: run the same command again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.data", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="command")
    root = {"root": {"type": _path, "help": "the folder below which the sets lie"}}
    url = {"--url": {"help": "address of a copy, if the owner's server has none"}}
    profile = {"--profile": {"choices": list(PROFILES), "help": "of the image size; $BNTA_PROFILE else"}}
    for run, text, arguments in (
            (_fetch, "download an owner's archive that needs no agreement",
             {"name": {"choices": list(SETS)}, **root, **url}),
            (_prepare, "unpack an archive (zip, tar, 7z) that you were given",
             {"archive": {"type": _path}, **root}),
            (_check, "compare the sets below a folder with the published counts", root),
            (_pack, "decode the sets below a folder once; name what cannot be decoded", root | profile)):
        command = commands.add_parser(run.__name__[1:], help=text, description=text)
        command.set_defaults(run=run)
        for name, options in arguments.items():
            command.add_argument(name, **options)
    return parser


def _path(text: str) -> Path:
    if not text.strip():  # it would be the current folder
        raise argparse.ArgumentTypeError("it is empty: is a variable not set?")
    return Path(text)


def _fetch(args: argparse.Namespace) -> int:
    archive = fetch(args.name, args.root, args.url, progress=True)
    with open(archive, "rb") as file:
        print(f"{archive}: SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}")
    print(f"next: python -m bnta_lib.data prepare {shlex.quote(str(archive))} {shlex.quote(str(args.root))}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    folder = prepare(args.archive, args.root)
    print(f"{folder}:")
    for name, found in (sets := find_sets(folder)).items():
        print(f"  {name}, {len(found):,} images of {found.people:,} people")
    if not sets:
        print("  none of the published sets; an archive inside has to be prepared too")
    return 0


def _check(args: argparse.Namespace) -> int:
    """0: all that was found is as published. 1: something differs. 2: no set was found."""
    table, differences, notes = check(args.root)
    print(table.to_string())
    for sentence in differences + [f"for information: {note}" for note in notes]:
        print(visible(sentence))
    for name in table.index[table["layout"] == ""]:
        command = f"python -m bnta_lib.data fetch {name} ROOT"
        print(f"{name} is not there: {command if SETS[name].url else f'ask {SETS[name].ask}'}")
    return 2 if not table["images, here"].any() else int(bool(differences))


def _pack(args: argparse.Namespace) -> int:
    sets = find_sets(args.root)
    if not sets:
        raise ValueError(f"{args.root} holds none of the sets: see `python -m bnta_lib.data check`")
    mixed = [mixture(sets).sets] if set(sets) - set(REAL_TARGETS) else []
    for found in [*mixed, *([sets[name]] for name in REAL_TARGETS if name in sets)]:
        made = pack(found, settings(args.profile).size)
        print(f"{', '.join(f'{name} {count}' for name, count in made.counts.items())}: {made.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
