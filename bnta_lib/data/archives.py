"""Owners' archives unpacked: zip, tar (gz, bz2, xz) and 7z, checked first, continued after a stop.

The files of ``X.zip`` go to ``ROOT/X``. Until the last one is written they are in the staging folder
``ROOT/.X.part``: its ``files`` is moved to ``ROOT/X`` in one rename, and its ``journal`` tells which
members are finished. An archive is read in full before anything is written, and what it claims is held
against what it holds while it is written.
"""

from __future__ import annotations

import argparse
import bz2
import errno
import gzip
import hashlib
import json
import lzma
import os
import re
import shlex
import shutil
import stat
import struct
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from bnta_lib.data.folders import PASSED_OVER
from bnta_lib.data.records import visible
from bnta_lib.files import a_path, atomic

# Real sets pass by far: none of them has 100,000 files or 20 GB, and images hardly shrink.
MOST_MEMBERS = 500_000
MOST_BYTES = 100 << 30
MOST_RATIO = 100  # unpacked over packed, above FREE_RATIO
FREE_RATIO = 64 << 20  # unpacked bytes that any ratio may give

_ENDING = re.compile(r"\.(zip|7z|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_LEFT_BY_SYSTEMS = {"Thumbs.db", "desktop.ini", ".DS_Store"}
_CHUNK = 1 << 20
_LONGEST_HEADER = 4 << 20  # bytes that a tar header (a long name) may take


class Refused(ValueError):
    """An archive that is not unpacked; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of an archive, its name checked."""

    name: str  # as the archive has it
    path: PurePosixPath  # below the folder that it is unpacked to
    size: int  # bytes it claims to hold
    crc: int | None = None  # CRC-32 that it claims; tar has none
    folder: bool = False


def prepare(archive: str | Path, root: str | Path, password: str | None = None,
            progress: bool = False) -> Path:
    """Unpack ``archive`` to the folder of ``root`` that has its name, and return that folder.

    Continues where an earlier call stopped: finished members are kept, after their size and CRC-32
    were compared. Where the folder holds the same content already, nothing is done.
    Raises FileNotFoundError where there is no such archive, ValueError where it is damaged, refused
    or encrypted, FileExistsError where the folder holds other content, OSError where the disk is
    full or may not be written; the state stays and a later call continues.
    """
    archive, root = Path(archive), Path(root)
    if not archive.is_file():
        raise FileNotFoundError(f"no such archive: {archive}")
    name = _ENDING.sub("", archive.name)
    if not name.strip(". ") or name.startswith(PASSED_OVER) or name.endswith(".part"):
        raise Refused(f"{archive}: the folder is named by the archive, and sets are not looked for in "
                      f"{name!r}, so give it another name")
    if (root / name).absolute() == archive.absolute():
        raise Refused(f"{archive} would be unpacked over itself: give it its ending (.zip, .tar, .7z), or name "
                      "another data folder")
    target, stage = root / name, root / f".{name}.part"
    if target.is_symlink() and not _filled(target):
        raise FileExistsError(f"{target} is a link to an empty folder or to nothing: delete it, then run again")
    with writing(root), _named(archive), ExitStack() as opened:
        with _reading(archive, password):
            reader = opened.enter_context(closing(_reader(archive, password)))
            members = _checked(archive, reader)
        if not _filled(target):
            with alone(stage):
                if not _filled(target):  # nor has another process done it while this one read
                    _unpack_or_clear(archive, reader, members, stage, password, progress)
                    if target.exists():  # an empty folder
                        target.rmdir()
                    os.rename(stage / "files", target)
                    shutil.rmtree(stage)
                    return target
        with _reading(archive, password):
            difference = _difference(reader, members, target)
        if difference:
            raise FileExistsError(f"{target} is there with other content ({difference}): move it away, "
                                  "then run again")
        shutil.rmtree(stage, ignore_errors=True)  # of a stop between the rename and the end
    return target


def _filled(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _unpack_or_clear(archive: Path, reader: _Zip | _Tar | _SevenZip, members: list[Member], stage: Path,
                     password: str | None, progress: bool) -> None:
    try:
        _unpack(archive, reader, members, stage, password, progress)
    except Refused:
        # A damaged archive is not continued; one with a mistyped password is.
        if password is None or len((stage / "journal").read_text().splitlines()) < 2:
            shutil.rmtree(stage)
        raise


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Names the archive where a refusal speaks of a member alone."""
    try:
        yield
    except Refused as error:
        if str(archive) in str(error):
            raise
        raise Refused(f"{archive} is not unpacked: {error}") from error


def unfinished(root: str | Path) -> list[str]:
    """Names of the archives that `prepare` began to unpack below ``root`` and did not finish."""
    return sorted(files.parent.name[1:-len(".part")] for files in Path(root).glob(".*.part/files")
                  if files.is_dir())


def checked_name(name: str) -> PurePosixPath:
    """The path of a member of this name below the folder that it is unpacked to.

    Raises ValueError for a name that leaves this folder on any system, or that a system cannot have.
    """
    shown = repr(name[:200])
    if not name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise Refused(f"a member's name is empty or has control characters: {shown}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Windows takes any sign before a colon for a drive's.
    if "\\" in name or name.startswith("/") or re.match(".:", parts[0] if parts else ""):
        raise Refused(f"the member {shown} has an absolute path, a drive letter or a backslash")
    if ".." in parts:
        raise Refused(f"the member {shown} leaves the folder (..)")
    try:
        long = max((len(os.fsencode(part)) for part in parts), default=0) > 255
    except UnicodeEncodeError:
        raise Refused(f"the member {shown} has a name that this system cannot write") from None
    if long or len(os.fsencode(name)) > 1024:
        raise Refused(f"the name of the member {shown} is too long (255 bytes a part, 1,024 in all)")
    return PurePosixPath(*parts)


def complete(archive: str | Path) -> bool:
    """Whether its end is there. Of a zip and a 7z, which say where it is; of others it is not known."""
    what, size = kind(archive), Path(archive).stat().st_size
    if what == "zip":
        return zipfile.is_zipfile(archive)
    if what == "7z":
        with open(archive, "rb") as file:
            offset, length = struct.unpack("<QQ", file.read(28)[12:].ljust(16, b"\xff"))
        return 32 + offset + length <= size
    return True


def kind(archive: str | Path) -> str:
    """What the first bytes say (of a zip, or the last): "zip", "7z", "gz", "bz2", "xz", "tar", "rar"; "" for others."""
    with open(archive, "rb") as file:
        start = file.read(512)
    for begin, what in ((b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z"),
                        (b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"Rar!", "rar")):
        if start.startswith(begin):
            return what
    # The checksum of a tar header also stands in those without the mark "ustar".
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        # A zip's directory stands at its end: one that unpacks itself begins as a program.
        return "zip" if zipfile.is_zipfile(archive) else ""
    return "tar"


# What an archive holds


def _reader(archive: Path, password: str | None) -> _Zip | _Tar | _SevenZip:
    what = kind(archive)
    if what == "zip":
        return _Zip(archive, password)
    if what == "7z":
        return _SevenZip(archive, password)
    if what in ("tar", "gz", "bz2", "xz"):
        return _Tar(archive, what)
    if what == "rar":
        raise Refused(f"{archive} is a rar archive: unpack it by hand into the data folder")
    if not archive.stat().st_size:
        raise Refused(f"{archive} is empty: download it again")
    raise Refused(f"{archive} is no zip, tar or 7z archive: a web page saved in its place?")


def _checked(archive: Path, reader: _Zip | _Tar | _SevenZip) -> list[Member]:
    """All members, in the archive's order. Raises Refused where they must not be unpacked."""
    packed = archive.stat().st_size
    members, seen, total = [], {}, 0
    for member in reader.members():
        total += member.size
        if not member.folder and not member.path.parts:
            raise Refused(f"{archive} holds a file whose name is {member.name!r}")
        if len(members) >= MOST_MEMBERS:
            raise Refused(f"{archive} holds more than {MOST_MEMBERS:,} members: no published set does")
        if member.size < 0 or total > MOST_BYTES or total > max(FREE_RATIO, MOST_RATIO * packed):
            raise Refused(f"{archive} ({_size(packed)}) claims to hold {_size(total)} or more: a bomb, "
                          "not a published set")
        _note_name(archive, seen, member)
        members.append(member)
    if not any(not member.folder for member in members):
        raise Refused(f"{archive} holds no file: download it again")
    return members


def _note_name(archive: Path, seen: dict[str, tuple[str, bool]], member: Member) -> None:
    """Remember the member and the folders above it; raises Refused where two take the same place."""
    above = [(str(folder), True) for folder in member.path.parents if folder.parts]
    for place, folder in [*above, (str(member.path), member.folder)]:
        # One file on systems that take upper and lower case, or two ways to write ä, for the same.
        key = unicodedata.normalize("NFC", place).casefold()
        known = key in seen
        other, other_folder = seen.setdefault(key, (place, folder))
        if other != place:
            raise Refused(f"{archive} holds {other!r} and {place!r}, which are the same file on systems "
                          "that do not tell upper from lower case")
        if other_folder != folder:
            raise Refused(f"{archive} holds {place!r} both as a file and as a folder")
        if known and not folder:
            raise Refused(f"{archive} holds {place!r} twice")


def _difference(reader: _Zip | _Tar | _SevenZip, members: list[Member], target: Path) -> str:
    """Where the folder differs from the archive, in words; "" where all members lie in it."""
    files = [member for member in members if not member.folder]
    for member in files:
        path = target / member.path
        if not path.is_file():
            return f"{member.name!r} is {'a folder' if path.is_dir() else 'not there'}"
        if path.stat().st_size != member.size:
            return f"{member.name!r} has another size"
    crcs = {member.path: member.crc for member in files}
    if None in crcs.values():
        sinks: dict[PurePosixPath, _Sink] = {}
        reader.unpack(files, lambda member: sinks.setdefault(member.path, _Sink(member)), lambda sink: None)
        crcs = {path: sink.crc for path, sink in sinks.items()}
    for path, crc in crcs.items():
        if _crc(target / path) != crc:
            return f"{str(path)!r} is another file"
    known = {target / member.path for member in files}
    for folder, _, names in os.walk(target):
        for name in names:
            if Path(folder, name) not in known and name not in _LEFT_BY_SYSTEMS:
                return f"{str(Path(folder, name).relative_to(target))!r} is not of the archive"
    return ""


# How it is unpacked


class _Sink:
    """Takes the bytes of one member, to a file where one is given, and holds them against its claims."""

    def __init__(self, member: Member, path: Path | None = None, bar: tqdm | None = None):
        self.member, self.bar, self.size, self.crc = member, bar, 0, 0
        self.file = None if path is None else open(path, "wb")

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > self.member.size:
            self.close()
            raise Refused(f"the member {self.member.name!r} holds more than the {self.member.size:,} bytes "
                          "that it claims: the archive lies")
        self.crc = zlib.crc32(data, self.crc)
        if self.file is not None:
            self.file.write(data)
        if self.bar is not None:
            self.bar.update(len(data))
        return len(data)

    def finish(self) -> None:
        self.close()
        if self.size != self.member.size:
            raise Refused(f"the member {self.member.name!r} is cut short: download the archive again")
        if self.member.crc not in (None, self.crc):
            raise Refused(f"the member {self.member.name!r} is damaged (its CRC-32 is another): download the "
                          "archive again")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _unpack(archive: Path, reader: _Zip | _Tar | _SevenZip, members: list[Member], stage: Path,
            password: str | None, progress: bool) -> None:
    """Write all members below ``stage``/files, but those that the journal knows to be finished."""
    files, journal = stage / "files", stage / "journal"
    identity = _identity(archive, members)
    kept = _kept(journal, files, identity)
    wanted = [member for member in members if not member.folder and str(member.path) not in kept]
    need = sum(-(-member.size // 4096) * 4096 for member in wanted)  # files take whole blocks
    free = shutil.disk_usage(stage).free
    if not kept:  # nothing, or what another archive of this name left
        shutil.rmtree(files, ignore_errors=True)
    if need > free:
        if not kept:
            shutil.rmtree(stage)
        raise OSError(f"{archive} needs {_size(need)} more in {stage.parent}, where {_size(free)} are free: "
                      "make room or choose another folder, then run again")
    files.mkdir(exist_ok=True)
    with atomic(journal) as new:  # without the line that a stop cut short
        new.write_text("".join(json.dumps(line) + "\n" for line in [identity, *kept.values()]))
    for folder in {member.path if member.folder else member.path.parent for member in members}:
        (files / folder).mkdir(parents=True, exist_ok=True)
    total = sum(member.size for member in members)
    with (open(journal, "a") as lines,
          tqdm(total=total, initial=total - sum(member.size for member in wanted), unit="B", unit_scale=True,
               desc=archive.name, disable=not progress) as bar):

        def finished(sink: _Sink) -> None:
            lines.write(json.dumps([str(sink.member.path), sink.size, sink.crc]) + "\n")
            lines.flush()  # a line is whole before the next member begins, should the process be killed

        with _reading(archive, password):
            reader.unpack(wanted, lambda member: _Sink(member, files / member.path, bar), finished)


def _identity(archive: Path, members: list[Member]) -> list[object]:
    """Tells an archive from another of the same name: its size, members, and ends. Of one that holds no
    CRC-32 of its members (tar) all of it: a repaired copy may differ in nothing else."""
    with open(archive, "rb") as file:
        if any(member.crc is None and member.size for member in members):
            digest = hashlib.file_digest(file, "sha256")
        else:
            digest = hashlib.sha256(file.read(_CHUNK))
            file.seek(max(0, archive.stat().st_size - _CHUNK))
            digest.update(file.read(_CHUNK))
    digest.update(json.dumps([(member.name, member.size, member.crc) for member in members]).encode())
    return ["archive", archive.stat().st_size, digest.hexdigest()]


def _kept(journal: Path, files: Path, identity: list[object]) -> dict[str, list[object]]:
    """The journal's lines of the members that lie there whole; none where it is of another archive."""
    if not journal.is_file():
        return {}
    lines = []
    for line in journal.read_text(errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
            first, size, last = lines[-1]
            _ = (files / first, size + 0, last + 0) if len(lines) > 1 else None
        except (ValueError, TypeError, RecursionError):  # cut short by a stop, or by other hands
            del lines[-1:]
            break
    if lines[:1] != [identity]:
        return {}
    return {path: [path, size, crc] for path, size, crc in lines[1:]
            if (files / path).is_file() and (files / path).stat().st_size == size
            and _crc(files / path) == crc}


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            crc = zlib.crc32(data, crc)
    return crc


def _size(size: int) -> str:
    if size < 1e6:
        return f"{size:,} bytes"
    return f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


@contextmanager
def alone(stage: Path) -> Iterator[None]:
    """Make the staging folder and hold it, so that no second process works on the same archive."""
    stage.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(f"{stage}.lock").acquire(timeout=0)
    except Timeout:
        raise OSError(f"{stage} is in use: another process works on the same archive") from None
    with held as lock:
        try:
            stage.mkdir(exist_ok=True)
            yield
        finally:
            with suppress(OSError):  # Windows removes it itself, as the lock is released
                os.unlink(lock.lock_file)


@contextmanager
def _reading(archive: Path, password: str | None) -> Iterator[None]:
    """Say in a sentence what the readers of archives raise; errors of the system pass."""
    try:
        yield
    except Refused:
        raise
    except NotImplementedError as error:
        raise Refused(f"{archive} is packed in a way that is not supported ({error}): unpack it by hand into "
                      "the data folder") from error
    except Exception as error:  # they fail in many ways where bytes are not what the format says
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = f"{type(error).__name__}: {error}"
        if password is not None:
            raise Refused(f"{archive} cannot be read ({why}): the password is wrong, or the archive is "
                          "damaged") from error
        raise Refused(f"{archive} is damaged or cut short ({why}): download it again") from error


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Say in a sentence what stands in the way of writing below ``root``."""
    # Before the system names what would have lain below it.
    if (file := next((path for path in (root, *root.parents) if path.is_file()), None)) is not None:
        raise NotADirectoryError(f"{file} is a file where a folder should be: name another data folder")
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"the disk of {root} is full: make room, then run again; it continues where it "
                          "stopped") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OSError(f"no permission for {error.filename or root}: choose an archive that you may read "
                          "and a data folder that you may write to") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OSError(f"{error.filename or root} is a file where a folder should be") from error
        if error.errno == errno.ENOENT:  # as below /proc: mkdir(parents=True) made all others
            raise OSError(f"{error.filename or root} cannot be made: choose another data folder") from error
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(f"a name below {root} is too long: choose a data folder with a shorter "
                          "path") from error
        raise


# The formats


class _Zip:
    def __init__(self, archive: Path, password: str | None):
        self.file = zipfile.ZipFile(archive)
        self.infos = self.file.infolist()
        if any(info.flag_bits & 1 for info in self.infos):
            self.file.setpassword(_needed(archive, password).encode())

    def close(self) -> None:
        self.file.close()

    def members(self) -> Iterator[Member]:
        for info in self.infos:
            name = info.orig_filename  # `filename` is cut at a NUL
            path, mode = checked_name(name), stat.S_IFMT(info.external_attr >> 16)
            folder = name.endswith("/")
            _refuse_special(name, mode, folder)
            yield Member(name, path, 0 if folder else info.file_size, None if folder else info.CRC, folder)

    def unpack(self, wanted: list[Member], sink: Callable[[Member], _Sink],
               finished: Callable[[_Sink], None]) -> None:
        infos = {info.orig_filename: info for info in self.infos}
        for member in wanted:
            with self.file.open(infos[member.name]) as packed:
                _pour(packed, sink(member), finished)


class _Tar:
    def __init__(self, archive: Path, what: str):
        self.open = {"tar": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[what]
        self.archive = archive

    def close(self) -> None:
        pass  # it is opened for each pass

    @contextmanager
    def _members(self) -> Iterator[tarfile.TarFile]:
        with (self.open(self.archive, "rb") as unpacked,
              tarfile.open(fileobj=_Bounded(unpacked), mode="r:") as tar):
            yield tar

    def members(self) -> Iterator[Member]:
        with self._members() as tar:
            for info in tar:
                path = checked_name(info.name)
                if not (info.isdir() or info.isreg()) or info.issparse():
                    raise Refused(f"the member {info.name!r} is a link, a device or a sparse file: only "
                                  "files and folders are unpacked")
                yield Member(info.name, path, 0 if info.isdir() else info.size, None, info.isdir())
            # The reader takes an archive that is cut between two members for a whole one.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError("it has no end mark")
            # The compression's own checksum stands at its end; writers fill a block or two with zeros.
            behind = FREE_RATIO
            while part := tar.fileobj.read(_CHUNK):
                behind -= len(part)
                if behind < 0:
                    raise Refused(f"{self.archive} goes on for more than {FREE_RATIO >> 20} MB behind its end "
                                  "mark: no published set does")

    def unpack(self, wanted: list[Member], sink: Callable[[Member], _Sink],
               finished: Callable[[_Sink], None]) -> None:
        by_name = {member.name: member for member in wanted}
        with self._members() as tar:
            for info in tar:
                if info.name in by_name:
                    _pour(tar.extractfile(info), sink(by_name[info.name]), finished)


class _SevenZip:
    def __init__(self, archive: Path, password: str | None):
        import py7zr  # takes long to import, and few archives are 7z

        # As an open file: given a name, it would write from several threads.
        self.opened = open(archive, "rb")
        try:
            self.file = py7zr.SevenZipFile(self.opened, password=password)
        except py7zr.exceptions.PasswordRequired:
            _needed(archive, None)
        if self.file.needs_password():
            _needed(archive, password)

    def close(self) -> None:
        self.opened.close()

    def members(self) -> Iterator[Member]:
        for info in self.file.files:
            path = checked_name(info.filename)
            if info.is_symlink or info.is_junction or info.is_socket:
                raise Refused(f"the member {info.filename!r} is a link or a socket: only files and folders "
                              "are unpacked")
            _refuse_special(info.filename, info.st_fmt or 0, info.is_directory)
            yield Member(info.filename, path, 0 if info.is_directory else info.uncompressed,
                         info.crc32, info.is_directory)

    def unpack(self, wanted: list[Member], sink: Callable[[Member], _Sink],
               finished: Callable[[_Sink], None]) -> None:
        if not wanted:
            return
        # py7zr checks names against a folder that exists; nothing is written there.
        with tempfile.TemporaryDirectory() as anchor:
            files = _SevenZipFiles(Path(anchor), wanted, sink, finished)
            self.file.reset()
            try:
                self.file.extract(anchor, {member.name for member in wanted}, factory=files)
                files.next()
            finally:
                files.stop()


class _SevenZipFiles:
    """Gives py7zr a sink for each member. It says when one begins, not when its checks are done."""

    def __init__(self, anchor: Path, wanted: list[Member], sink: Callable[[Member], _Sink],
                 finished: Callable[[_Sink], None]):
        self.members = {anchor / member.path: member for member in wanted}
        self.sink, self.finished, self.now = sink, finished, None

    def create(self, filename: str) -> _SevenZipFiles:
        self.next()
        self.now = self.sink(self.members[Path(filename)])
        return self

    def next(self) -> None:
        if self.now is not None:
            self.now.finish()
            self.finished(self.now)
            self.now = None

    def stop(self) -> None:
        if self.now is not None:
            self.now.close()

    def write(self, data: bytes) -> int:
        return self.now.write(data)

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Bounded:
    """A stream for tarfile that refuses to read a header of any length into memory."""

    def __init__(self, stream):
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self.stream.read(size)


def _pour(packed, sink: _Sink, finished: Callable[[_Sink], None]) -> None:
    try:
        while data := packed.read(_CHUNK):
            sink.write(data)
    finally:
        sink.close()
    sink.finish()
    finished(sink)


def _refuse_special(name: str, mode: int, folder: bool) -> None:
    if mode not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
        raise Refused(f"the member {name!r} is a link or a device: only files and folders are unpacked")


def _needed(archive: Path, password: str | None) -> str:
    if password is None:
        raise Refused(f"{archive} is encrypted: put the password that its owner gave you into a file and "
                      "pass --password-file FILE")
    return password


# The command


def add_parser(commands) -> None:
    """Add ``prepare`` to the sub-parsers ``commands``."""
    parser = commands.add_parser(
        "prepare", help="unpack an owner's archive below a data folder",
        description="Unpack a zip, tar (gz, bz2, xz) or 7z archive to ROOT/<its name>. Run again after a "
                    "stop: it continues.")
    parser.add_argument("archive", type=a_path)
    parser.add_argument("root", type=a_path, help="the data folder; made where it is missing")
    parser.add_argument("--password-file", type=a_path, help="file whose first line is the archive's password")
    parser.set_defaults(run=main_prepare)


def main_prepare(args: argparse.Namespace) -> int:
    """Unpack, and say what is recognised in the result."""
    from bnta_lib.data.layouts import find_sets

    password = None
    if args.password_file is not None:
        try:
            password = (args.password_file.read_text(encoding="utf-8-sig").splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise ValueError(f"--password-file {args.password_file} cannot be read ({why}): name a text file "
                             "whose first line is the password") from error
    folder = prepare(args.archive, args.root, password, progress=True)
    print(f"unpacked: {folder}")
    inner = [path for path in sorted(folder.rglob("*")) if path.is_file() and _ENDING.search(path.name)]
    for path in inner:
        print(f"it holds another archive: python -m bnta_lib.data prepare {visible(shlex.quote(str(path)))} "
              f"{shlex.quote(str(args.root))}")
    found = find_sets(folder)
    for name, one in found.items():
        print(f"{name}: {len(one):,} images of {one.people:,} people ({one.layout})")
    if not found and not inner:
        print("no published set is recognised in it: data/README.md lists the layouts", file=sys.stderr)
    print(f"next: python -m bnta_lib.data check {shlex.quote(str(args.root))}")
    return 0
