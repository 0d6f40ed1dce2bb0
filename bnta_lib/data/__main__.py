"""``python -m bnta_lib.data``: published sets fetched, unpacked, checked and packed."""

import argparse
import shlex
import sys
import warnings

import pooch

from bnta_lib.data import mixture
from bnta_lib.data.archives import fetch, prepare
from bnta_lib.data.packed import pack
from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets, found_table
from bnta_lib.settings import PROFILES, settings


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. What cannot be done is printed in one line, with code 2."""
    # A warning is for the reader, without the line of code that gave it.
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.data", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, text, options in (
            (_fetch, "download an owner's archive that needs no agreement",
             {"name": {"choices": list(SETS)}, "--url": {"help": "of a copy, if the owner has none"}}),
            (_prepare, "unpack an archive (zip, tar, 7z) that you were given", {"archive": {}}),
            (_check, "compare the sets below a folder with the published counts", {}),
            (_pack, "decode the sets below a folder once; name what cannot be decoded",
             {"--profile": {"choices": list(PROFILES), "help": "of the image size; $BNTA_PROFILE else"}})):
        command = commands.add_parser(run.__name__[1:], help=text, description=text)
        command.set_defaults(run=run)
        for name, option in (options | {"root": {"help": "the folder below which the sets lie"}}).items():
            command.add_argument(name, **option)
    args = vars(parser.parse_args(arguments))
    try:
        return args.pop("run")(**args) or 0
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2


def _fetch(name: str, root: str, url: str | None) -> None:
    archive = fetch(name, root, url, progress=True)
    print(f"{archive}: SHA-256 {pooch.file_hash(archive)}")
    print(f"next: python -m bnta_lib.data prepare {shlex.quote(str(archive))} {shlex.quote(root)}")


def _prepare(archive: str, root: str) -> None:
    folder = prepare(archive, root)
    print(f"{folder}:")
    for name, found in (sets := find_sets(folder)).items():
        print(f"  {name}, {len(found):,} images of {found.people:,} people")
    if not sets:
        print("  none of the published sets; an archive inside has to be prepared too")


def _check(root: str) -> int:
    """0: all that was found is as published. 1: something differs. 2: no set was found."""
    with warnings.catch_warnings(record=True, action="always") as problems:
        sets = find_sets(root)
    table = found_table(sets)
    print(table.to_string(), *(problem.message for problem in problems), sep="\n")
    for name, entry in SETS.items():
        if name not in sets:
            command = f"python -m bnta_lib.data fetch {name} ROOT"
            print(f"{name} is not there: {command if entry.url else f'ask {entry.ask}'}")
    return 2 if not sets else int(bool(problems) or not table.loc[[*sets], "equal"].all())


def _pack(root: str, profile: str | None) -> None:
    sets = find_sets(root)
    if not sets:
        raise ValueError(f"{root} holds none of the sets: see `python -m bnta_lib.data check`")
    sources = [mixture(sets)] if set(sets) - set(REAL_TARGETS) else []
    for found in sources + [sets[name] for name in REAL_TARGETS if name in sets]:
        pack(found, settings(profile).size)
        print(f"{found.name}: {len(found):,} images of {found.people:,} people")


if __name__ == "__main__":
    sys.exit(main())
