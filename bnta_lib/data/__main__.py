"""``python -m bnta_lib.data``: published sets fetched, unpacked, checked and packed."""

import argparse
import re
import shlex
import shutil
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pooch

from bnta_lib.data import mixture
from bnta_lib.data.packed import pack
from bnta_lib.data.published import REAL_TARGETS, SETS, find_sets, found_table, not_read
from bnta_lib.data.sets import extra
from bnta_lib.files import atomic_folder, content
from bnta_lib.settings import PROFILES, settings

_ENDING = re.compile(r"\.(zip|7z|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


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
    entry, hint = SETS[name], "python -m bnta_lib.data prepare"
    if not entry.url:
        raise ValueError(f"{name} is not downloaded. Ask for it: {entry.ask}. Then: {hint} ARCHIVE ROOT")
    url, known_hash = url or entry.url, None if url else entry.known_hash
    pooch.get_logger().setLevel("WARNING")  # it would tell users to write the digest into their code
    try:
        file = unquote(Path(urlsplit(url).path).name)
        archive = Path(pooch.retrieve(url, known_hash, file, root, progressbar=True))
        if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive) or file.endswith(".7z")):
            archive.unlink()
            raise ValueError("what came is no archive")
    except Exception as error:  # of requests, or of pooch
        raise OSError(f"{url} does not send the archive ({error}): look for it at {entry.ask}, give the "
                      f"address of a copy by --url, or unpack one: {hint} ARCHIVE ROOT") from error
    print(f"{archive}: SHA-256 {pooch.file_hash(archive)}")
    print(f"next: {hint} {shlex.quote(str(archive))} {shlex.quote(root)}")


def _prepare(archive: str, root: str) -> None:
    folder = prepare(archive, root)
    print(f"{folder}:")
    for name, found in (sets := find_sets(folder)).items():
        print(f"  {name}, {len(found):,} images of {found.people:,} people")
    if not sets:
        print(f"  none of the published sets; {not_read(folder, sets)}. Archives inside are prepared next")


def prepare(archive: str | Path, root: str | Path) -> Path:
    """Unpack a zip, tar (gz, bz2, xz) or 7z to the folder of ``root`` that has its name; that folder.

    It appears when it is whole, and is left as it is if it holds anything. Raises ValueError for what is no
    whole archive, OSError if it is not there or the disk cannot be written.
    """
    archive, folder = Path(archive), Path(root) / _ENDING.sub("", Path(archive).name)
    if not archive.is_file():
        raise FileNotFoundError(f"no such archive: {archive}")
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    with atomic_folder(folder) as part:
        try:  # none of the readers writes outside the folder, whatever members and links are called
            if tarfile.is_tarfile(archive):
                shutil.unpack_archive(archive, part, "tar", filter="data")
            else:
                reader = zipfile.ZipFile if zipfile.is_zipfile(archive) else extra("py7zr").SevenZipFile
                with reader(archive) as opened:
                    opened.extractall(part)
        except Exception as error:  # what readers raise for a damaged file shares no base class
            if isinstance(error, OSError) and error.errno or isinstance(error, ImportError):
                raise
            raise ValueError(f"{archive} is not unpacked ({error}): {content(archive)}. Only a whole zip, tar"
                             " or 7z without a password is; download again, or unpack by hand") from error
    return folder


def _check(root: str) -> int:
    """0: all that was found is as published. 1: something differs. 2: no set was found."""
    with warnings.catch_warnings(record=True, action="always") as problems:
        sets = find_sets(root)
    table = found_table(sets)
    print(table.to_string(), *(problem.message for problem in problems), not_read(root, sets), sep="\n")
    for name, entry in SETS.items():
        if name not in sets:
            command = f"python -m bnta_lib.data fetch {name} ROOT"
            print(f"{name} is not found: {command if entry.url else f'ask {entry.ask}'}")
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
