"""Archives that their owners publish without an agreement: downloaded, continued, their digest stated.

pooch downloads; what it cannot do is continue, so `Resuming` asks the server for the missing bytes and
keeps what came in ``ROOT/.<archive>.download``. The archive is moved to ROOT in one rename when all
of it is there, its SHA-256 beside it in ``<archive>.sha256``, as ``sha256sum -c`` reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import time
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tqdm.auto import tqdm

from bnta_lib.data import archives
from bnta_lib.data.catalogue import CATALOGUE, Description
from bnta_lib.files import a_path, atomic, not_empty

# Digests of owners' archives that others noted down: open-reid's reader of VIPeR.
NOTED = {"VIPeR": "md5:1c2d9fc1cc800332567a0da25a1ce68c"}
MOST_BYTES = 16 << 30  # of an archive: a server that sends more sends something else
TRIES = 5  # of a broken connection in one call
_CHUNK = 1 << 14  # bytes; what came of one is lost where the connection breaks


class NeedsAgreement(ValueError):
    """A set that is not downloaded; says where to ask for it."""


def described(name: str) -> Description:
    """The catalogue's description of a set, whatever the case of its name; else ValueError."""
    names = {one.lower(): one for one in CATALOGUE}
    if name.lower() not in names:
        raise ValueError(f"no such set: {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[names[name.lower()]]


def fetch(name: str, root: str | Path, url: str | None = None, progress: bool = False,
          pause: float = 1.0) -> Path:
    """Download the owner's archive of a set into ``root`` and return it.

    ``url``: of a copy, where the owner's server has it no longer. ``pause``: seconds before the
    second try of a broken connection, doubled for each further one.
    Raises NeedsAgreement where the set is not given out so, ValueError where the server sends
    something else than an archive, OSError where it cannot be reached or the disk is full; what
    came is kept then, and a later call continues.
    """
    import pooch  # takes long to import, and only this command needs it

    one, root = described(name), Path(root)
    if not one.url:
        note = f" ({one.note})" if one.note else ""
        where = f"Ask for it: {one.ask}" if one.ask.startswith("http") else f"To be had {one.ask}"
        raise NeedsAgreement(f"{one.name} is not downloaded: {one.licence}{note}. {where}. What you have is "
                             "unpacked by: python -m bnta_lib.data prepare ARCHIVE ROOT")
    url = one.url if url is None else url
    file = _file_of(url)
    archive, came = root / file, root / f".{file}.download"
    if archive.is_dir():
        raise IsADirectoryError(f"{archive} is a folder where the archive should be: move it away, or name "
                                "another data folder")
    if archive.exists():
        return archive
    with archives.writing(root), archives.alone(came):
        if archive.exists():  # another process has brought it while this one began
            shutil.rmtree(came)
            return archive
        pooch.get_logger().setLevel("WARNING")  # it would ask users to write the digest into their code
        try:
            whole = Path(pooch.retrieve(url, None, "whole", came, progressbar=False,
                                        downloader=Resuming(one, came, progress, pause)))
        except BaseException as error:
            if isinstance(error, _SomethingElse) or not any(map(_size, (came / "part", came / "whole"))):
                shutil.rmtree(came)  # nothing to continue from
            raise
        os.replace(whole, archive)
        shutil.rmtree(came)
    return archive


def _file_of(url: str) -> str:
    """The name of the archive that lies at an address. Raises ValueError for what is no such address."""
    try:
        parts = urlsplit(url)
        file = unquote(Path(parts.path).name)
        archives.checked_name(file)
    except ValueError:
        file = ""
    if not file.strip(". ") or "/" in file or parts.scheme not in ("http", "https"):
        raise ValueError(f"{_shown(url)} is no address of an archive (http://…/name.zip)")
    return file


def _shown(url: str) -> str:
    """An address without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//…@", url)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def digest(archive: str | Path) -> tuple[str, str]:
    """The SHA-256 of a downloaded archive, and the one noted when it came ("" where none was).

    Notes it beside the archive where none was.
    """
    import pooch

    archive = Path(archive)
    note, seen = archive.with_name(archive.name + ".sha256"), pooch.file_hash(str(archive))
    if note.is_file():
        return seen, (note.read_text(encoding="utf-8", errors="replace").split() or [""])[0]
    try:
        with atomic(note) as new:
            new.write_text(f"{seen}  {archive.name}\n", encoding="utf-8")
    except OSError as error:  # the digest is what was asked for
        warnings.warn(f"the digest is not noted: {error.strerror or error}", stacklevel=2)
    return seen, ""


class _SomethingElse(ValueError):
    """The server's answer is not the archive, so nothing of it is kept."""


class _Broken(Exception):
    """The connection ended before the archive did."""


class Resuming:
    """A pooch downloader that continues: only the missing bytes of an unchanged file are asked for."""

    def __init__(self, one: Description, folder: Path, progress: bool, pause: float = 1.0):
        self.one, self.progress, self.pause = one, progress, pause
        self.part, self.state = folder / "part", folder / "state.json"

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        for once in range(TRIES):
            try:
                self._try(url)
                if not archives.complete(self.part):
                    self._cut_short(url)
                break
            except _Broken as error:
                if once == TRIES - 1:
                    came = _size(self.part)
                    raise OSError(f"{_shown(url)} cannot be reached or breaks off ({error}) after {came:,} bytes, "
                                  f"{TRIES} times: run again later to continue, name another address by --url, or "
                                  "unpack an archive that you hold by prepare") from error
                time.sleep(self.pause * 2**once)
        if not archives.kind(self.part):
            raise _SomethingElse(f"{_shown(url)} sends no archive (zip, tar, 7z): {self._elsewhere()}")
        os.replace(self.part, output_file)

    def _cut_short(self, url: str) -> None:
        """What came is not the whole of an archive, although the connection ended as it should."""
        if self._kept(url)[0].get("total"):
            raise _SomethingElse(f"{_shown(url)} sends an archive without its end: {self._elsewhere()}")
        self.part.unlink()
        raise _Broken("it ends early")

    def _try(self, url: str) -> None:
        import requests

        state, have = self._kept(url)
        if have and have == state["total"]:
            return
        headers = {"Accept-Encoding": "identity"}  # the file's own bytes, whose count is known
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": state["unchanged"]}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=(20, 60)) as answer:
                self._take(url, answer, state, have)
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
            raise OSError(f"{_shown(url)} leads to no archive ({type(error).__name__}): {self._elsewhere()}"
                          ) from error
        except requests.RequestException as error:
            raise _Broken(type(error).__name__) from error

    def _kept(self, url: str) -> tuple[dict, int]:
        """What is known of the file whose first bytes are there, and how many they are."""
        try:
            state, have = json.loads(self.state.read_text()), self.part.stat().st_size
            known, mark, total = state["url"], state["unchanged"], state["total"] + 0
            if not re.fullmatch(r"([!-~\xa1-\xff][ -~\xa0-\xff]*)?", mark):
                raise ValueError("no header takes it")
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return {}, 0  # nothing is there, or other hands changed it
        # Without a mark of the file's state on the server, the rest may be of another file.
        if known != _shown(url) or not mark or (total and have > total):
            return {}, 0
        return state, have

    def _take(self, url: str, answer, state: dict, have: int) -> None:
        """Append the answer's bytes to the part, or begin it anew where the answer is the whole file."""
        if have and answer.status_code in (206, 416):
            span, mark = answer.headers.get("Content-Range", ""), _mark(answer.headers)
            if (answer.status_code == 416 or span != f"bytes {have}-{state['total'] - 1}/{state['total']}"
                    or mark not in ("", state["unchanged"])):
                self.part.unlink()  # not what was asked for: the next try begins anew
                raise _Broken("the file changed on the server")
        elif answer.status_code == 200:
            length = answer.headers.get("Content-Length", "")
            state = {"url": _shown(url), "total": int(length) if re.fullmatch("[0-9]{1,18}", length) else 0,
                     "unchanged": _mark(answer.headers)}
            self._refuse(url, answer, state["total"])
            self.part.unlink(missing_ok=True)  # of another state
            with atomic(self.state) as new:
                new.write_text(json.dumps(state))
            have = 0
        elif answer.status_code >= 500 or answer.status_code == 429:
            raise _Broken(f"the server answers {answer.status_code}")
        else:
            raise OSError(f"{_shown(url)}: the server answers {answer.status_code}, so the archive is not there: "
                          f"{self._elsewhere()}")
        with (open(self.part, "ab") as part,
              tqdm(total=state["total"] or None, initial=have, unit="B", unit_scale=True,
                   desc=self.one.name, disable=not self.progress) as bar):
            for data in answer.iter_content(_CHUNK):
                have += part.write(data)
                bar.update(len(data))
                if have > (state["total"] or MOST_BYTES):
                    raise _SomethingElse(f"{_shown(url)} sends more than it announced: {self._elsewhere()}")
        if have < state["total"]:
            raise _Broken("it ends early")

    def _refuse(self, url: str, answer, total: int) -> None:
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise _SomethingElse(f"{_shown(url)} sends a web page and no archive: {self._elsewhere()}")
        if total > MOST_BYTES:
            raise _SomethingElse(f"{_shown(url)} announces {total:,} bytes: {self._elsewhere()}")
        if total > (free := shutil.disk_usage(self.part.parent).free):
            raise OSError(f"{self.one.name} is {total:,} bytes and {free:,} are free: make room or choose "
                          "another data folder, then run again")

    def _elsewhere(self) -> str:
        return (f"look for it at {self.one.ask}, ask its owner, or give the address of a copy that you may "
                "use by --url")


def _mark(headers) -> str:
    """What tells one state of a file on its server from another; "" where nothing does."""
    tag = headers.get("ETag", "")
    return (tag if not tag.startswith("W/") else "") or headers.get("Last-Modified", "")


# The command


def add_parser(commands) -> None:
    """Add ``fetch`` to the sub-parsers ``commands``."""
    free = ", ".join(one.name for one in CATALOGUE.values() if one.url)
    parser = commands.add_parser(
        "fetch", help=f"download an owner's archive that needs no agreement ({free})",
        description=f"Download the owner's archive of {free} to ROOT; of the other sets it says where to "
                    "ask. Run again after a stop: it continues.")
    parser.add_argument("name", help="a set's name, such as VIPeR")
    parser.add_argument("root", type=a_path, help="the data folder; made where it is missing")
    parser.add_argument("--url", type=not_empty, help="address of a copy, where the owner's server has the archive no longer")
    parser.set_defaults(run=main_fetch)


def main_fetch(args: argparse.Namespace) -> int:
    """Download, and state the digest. 2 where the set needs an agreement, or is not given out."""
    import pooch

    try:
        archive = fetch(args.name, args.root, args.url, progress=True)
    except NeedsAgreement as error:
        print(error)
        return 2
    seen, before = digest(archive)
    print(f"{archive}: {archive.stat().st_size:,} bytes")
    print(f"SHA-256 {seen} (of what is there)")
    owners = Path(urlsplit(described(args.name).url).path).name
    if archive.name.lower() != unquote(owners).lower():
        print(f"its owner calls the archive of {described(args.name).name} {unquote(owners)}: after prepare, "
              "check tells what this one holds")
    code = 0
    if before and before != seen:
        print(f"WARNING: when it came it was {before} (in {archive.name}.sha256): it was changed since; "
              "move both away and fetch it again")
        code = 1
    noted = NOTED.get(described(args.name).name, "")
    if noted:
        kind, value = noted.split(":")
        same = pooch.file_hash(str(archive), kind) == value
        verdict = "the same" if same else "WARNING: this file has another"
        print(f"{kind.upper()} {value}, as others noted of the owner's: {verdict}")
    print(f"next: python -m bnta_lib.data prepare {shlex.quote(str(archive))} {shlex.quote(str(args.root))}")
    return code
