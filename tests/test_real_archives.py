"""Owners' archives unpacked: whole, nowhere else, and continued; hostile and damaged ones refused."""

import argparse
import bz2
import io
import json
import lzma
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

import py7zr
import pytest
from apart import begun, ended
from bnta_lib.data.__main__ import main
from bnta_lib.data import archives
from bnta_lib.data.archives import checked_name, prepare, unfinished
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from real_trees import tree as set_tree

ENDINGS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "7z")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def write_source(folder: Path, files: int = 6, size: int = 3_000) -> Path:
    """A folder of random files, with spaces, other letters, an empty file and an empty folder."""
    draw = random.Random(files)
    (folder / "Menge ä 集" / "cam a").mkdir(parents=True)
    (folder / "empty folder").mkdir()
    (folder / "empty.txt").write_bytes(b"")
    for i in range(files):
        (folder / "Menge ä 集" / "cam a" / f"{i:03d} ü.bin").write_bytes(draw.randbytes(size + i))
    return folder


def pack(source: Path, archive: Path) -> Path:
    """``source`` as an archive of the kind that its ending says, in the order of the names."""
    paths = sorted(source.rglob("*"))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in paths:
                file.write(path, path.relative_to(source))
    elif archive.suffix == ".7z":
        with py7zr.SevenZipFile(archive, "w") as file:
            for path in paths:
                file.write(path, path.relative_to(source).as_posix())
    else:
        with tarfile.open(archive, "w:" + archive.name.rpartition(".tar")[2].lstrip(".")) as file:
            for path in paths:
                file.add(path, "./" + path.relative_to(source).as_posix(), recursive=False)
    return archive


def contents(folder: Path) -> dict[str, bytes | None]:
    """Bytes of each file below ``folder``, None for a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")}


def zipped(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def tarred(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for info, data in members:
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def refused(archive: Path, match: str, root: Path | None = None) -> None:
    """It is refused in one sentence that names it or its member, and nothing is written."""
    root = root or archive.parent / "root"
    before = contents(archive.parent)
    with pytest.raises(ValueError, match=match) as caught:
        prepare(archive, root)
    assert "\n" not in str(caught.value)
    after = contents(archive.parent)
    after.pop("root", None)
    assert after == before, "something was written beside the archive"
    assert not root.exists() or not list(root.iterdir())


# What is unpacked


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_comes_out_as_it_went_in_and_once(tmp_path, ending):
    source = write_source(tmp_path / "source")
    archive = pack(source, tmp_path / f"Die Menge.v1.0.{ending}")
    root = tmp_path / "data ä"
    folder = prepare(archive, root)
    assert folder == root / "Die Menge.v1.0" and contents(folder) == contents(source)
    assert os.listdir(root) == [folder.name] and unfinished(root) == []
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert prepare(archive, root) == folder
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_with_other_content_is_left_alone(tmp_path, ending):
    archive = pack(write_source(tmp_path / "source"), tmp_path / f"a.{ending}")
    folder = prepare(archive, tmp_path / "root")
    name = next(path for path in folder.rglob("002*"))
    whole = name.read_bytes()
    for change, why in ((lambda: name.write_bytes(bytes([whole[0] ^ 1]) + whole[1:]), "another file"),
                        (lambda: name.write_bytes(whole[1:]), "another size"),
                        (lambda: name.unlink(), "not there"),
                        (lambda: name.mkdir(), "a folder")):
        change()
        before = contents(tmp_path / "root")
        with pytest.raises(FileExistsError, match=why):
            prepare(archive, tmp_path / "root")
        assert contents(tmp_path / "root") == before
    name.rmdir()
    name.write_bytes(whole)
    (folder / "Thumbs.db").write_bytes(b"x")
    assert prepare(archive, tmp_path / "root") == folder
    (folder / "notes.txt").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        prepare(archive, tmp_path / "root")


def test_an_empty_folder_is_filled(tmp_path):
    archive = pack(write_source(tmp_path / "source"), tmp_path / "a.zip")
    (tmp_path / "a").mkdir()
    assert contents(prepare(archive, tmp_path)) == contents(tmp_path / "source")


def test_the_command_says_what_it_found_and_what_is_left_to_unpack(tmp_path, capsys):
    set_tree("VIPeR", "bmp", tmp_path / "made", people=5)
    shutil.copytree(tmp_path / "made", tmp_path / "outer" / "VIPeR set")
    pack(write_source(tmp_path / "source"), tmp_path / "outer" / "more.zip")
    archive = pack(tmp_path / "outer", tmp_path / "VIPeR.v1.0.zip")
    commands = argparse.ArgumentParser().add_subparsers()
    archives.add_parser(commands)
    args = commands.choices["prepare"].parse_args([str(archive), str(tmp_path / "my root")])
    assert args.run(args) == 0
    said = capsys.readouterr()
    assert "VIPeR: 10 images of 5 people" in said.out
    assert "more.zip' '" in said.out and f"check '{tmp_path / 'my root'}'" in said.out
    assert "VIPeR.v1.0.zip: 100%" in said.err  # the progress bar


# Names


BAD_NAMES = ("../up", "a/../../up", "/etc/passwd", "a\\b", "..\\up", "C:/x", "c:x", "//server/x", "a/..",
             "x" * 256, "/".join(["y" * 100] * 11), "tab\tin", "new\nline", "\x7f")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_cannot_be_written_are_refused(tmp_path, name):
    (tmp_path / "z").mkdir()
    refused(zipped(tmp_path / "z" / "a.zip", [("good.txt", b"1"), (name, b"2")]), "member")
    (tmp_path / "t").mkdir()
    refused(tarred(tmp_path / "t" / "a.tar", [(tarfile.TarInfo("good.txt"), b"1"),
                                              (tarfile.TarInfo(name), b"2")]), "member")


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../up"])
def test_7z_names_that_leave_the_folder_are_refused(tmp_path, name):
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(b"1", "good.txt")
        file.writestr(b"2", "x" * len(name))
        file.header.files_info.files[-1]["filename"] = name  # its writer would not
    refused(tmp_path / "a.7z", "member")


@given(st.text(max_size=40) | st.text(alphabet="./\\:aC~ \x00", max_size=12))
@example("0:")
@example("./C:x")
@QUICK
def test_no_name_leads_out_of_the_folder(name):
    try:
        path = checked_name(name)
    except ValueError:
        return
    assert type(path) is PurePosixPath and ".." not in path.parts and not path.is_absolute()
    for system in (PurePosixPath, PureWindowsPath):
        inside = system("/root") / str(path)
        assert inside.is_relative_to(system("/root")) and ".." not in inside.parts
        assert not system(str(path)).drive
    assert [part for part in name.split("/") if part not in ("", ".")] == list(path.parts)


@given(st.lists(st.text(alphabet="abA/.ä\\ :", min_size=1, max_size=6), min_size=1, max_size=4))
@settings(parent=QUICK, max_examples=40)
def test_what_names_an_archive_has_nothing_is_written_elsewhere(tmp_path_factory, names):
    place = tmp_path_factory.mktemp("names")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        archive = zipped(place / "a.zip", [(name, name.encode()) for name in names])
    try:
        folder = prepare(archive, place / "root")
    except ValueError:
        assert sorted(os.listdir(place)) == ["a.zip"] or os.listdir(place / "root") == []
        return
    files = {name: data for name, data in contents(folder).items() if data is not None}
    assert files == {"/".join(p for p in name.split("/") if p not in ("", ".")): name.encode()
                     for name in names if not name.endswith("/")}
    assert sorted(os.listdir(place)) == ["a.zip", "root"] and os.listdir(place / "root") == ["a"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("names", "why"), [
    (["a.txt", "a.txt"], "twice"),
    (["a.txt", "./a.txt"], "twice"),
    (["a.txt", "A.TXT"], "lower case"),
    (["cam_a/1.png", "Cam_A/2.png"], "lower case"),
    (["\u00e4.png", "a\u0308.png"], "same file"),  # ä in one letter and in two
    (["a", "a/b"], "both as a file and as a folder"),
    (["a/b", "a"], "both as a file and as a folder"),
])
def test_members_that_would_take_the_same_place_are_refused(tmp_path, names, why):
    refused(zipped(tmp_path / "a.zip", [(name, b"1") for name in names]), why)


# Links, devices


def test_links_and_devices_are_refused(tmp_path):
    for what, kind in (("symlink", tarfile.SYMTYPE), ("hardlink", tarfile.LNKTYPE),
                       ("chr", tarfile.CHRTYPE), ("blk", tarfile.BLKTYPE), ("fifo", tarfile.FIFOTYPE)):
        (tmp_path / what).mkdir()
        info = tarfile.TarInfo("member")
        info.type, info.linkname = kind, "/etc/passwd" if what == "symlink" else "good"
        refused(tarred(tmp_path / what / "a.tar", [(tarfile.TarInfo("good"), b"1"), (info, b"")]), "link")
    for what, mode in (("zlink", stat.S_IFLNK), ("zdev", stat.S_IFCHR), ("zsock", stat.S_IFSOCK)):
        (tmp_path / what).mkdir()
        info = zipfile.ZipInfo("member")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        refused(zipped(tmp_path / what / "a.zip", [("good", b"1"), (info, b"/etc/passwd")]), "link")
    (tmp_path / "7").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "good").write_bytes(b"1")
    (tmp_path / "source" / "link").symlink_to("good")
    refused(pack(tmp_path / "source", tmp_path / "7" / "a.7z"), "link")


# Bombs and lies


def test_more_than_images_can_be_packed_is_refused(tmp_path):
    refused(zipped(tmp_path / "zeros.zip", [(f"{i}.bmp", bytes(9 << 20)) for i in range(8)]), "bomb")


def test_a_tar_that_claims_a_terabyte_is_refused_by_its_header(tmp_path):
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(4096))
    refused(tmp_path / "a.tar", "bomb")


def test_what_follows_the_end_mark_is_unpacked_without_end(tmp_path):
    good = pack(write_source(tmp_path / "source"), tmp_path / "a.tar").read_bytes()
    archive = tmp_path / "a.tar.bz2"
    archive.write_bytes(bz2.compress(good + bytes(32 << 20)))
    assert contents(prepare(archive, tmp_path / "other")) == contents(tmp_path / "source")
    archive.write_bytes(bz2.compress(good) + bz2.compress(bytes(1 << 20)) * 100_000)  # 100 GB in 5 MB
    refused(archive, "behind its end mark")


def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 60 << 20
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(info.tobuf() + b"n" * (60 << 20), preset=0))
    refused(tmp_path / "a.tar.xz", "a header of 62,914,560 bytes")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)
    prepare(zipped(tmp_path / "ok.zip", [(str(i), b"") for i in range(20)]), tmp_path / "ok root")
    refused(zipped(tmp_path / "a.zip", [(str(i), b"") for i in range(21)]), "more than 20 members")


@pytest.mark.parametrize("claim", [10, 5_000])
def test_a_zip_that_holds_more_or_less_than_it_claims_is_refused(tmp_path, claim):
    archive = zipped(tmp_path / "a.zip", [("a.bmp", random.Random(0).randbytes(1_000))])
    data, true = archive.read_bytes(), (1_000).to_bytes(4, "little")
    assert data.count(true) == 2  # in the member's own header and in the list at the end
    archive.write_bytes(data.replace(true, claim.to_bytes(4, "little")))
    refused(archive, "cut short")


def test_members_that_share_their_bytes_are_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", [("1", b"x" * 1_000), ("2", b"y" * 1_000)])
    with zipfile.ZipFile(archive, "a") as file:
        file.infolist()[1].header_offset = file.infolist()[0].header_offset
        file._didModify = True  # writes the list at the end again
    refused(archive, "damaged")


def test_a_7z_that_holds_more_than_it_claims_is_refused(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(b"x" * 1_000, "a.bin")
        file.writestr(b"y" * 1_000, "b.bin")
        file._write_flush()
        file.header.main_streams.substreamsinfo.unpacksizes[0] = 10
        file._write_header()
        file.header = None  # its close would write the true one
    refused(tmp_path / "a.7z", "a.7z|a.bin")


# Passwords


def zip_encrypted(name: str, data: bytes, password: bytes) -> bytes:
    """A zip of one stored member in PKWARE's traditional encryption (APPNOTE 6.1)."""
    keys = [0x12345678, 0x23456789, 0x34567890]
    table = []
    for i in range(256):
        crc = i
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
        table.append(crc)

    def update(byte: int) -> None:
        keys[0] = (keys[0] >> 8) ^ table[(keys[0] ^ byte) & 255]
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table[(keys[2] ^ (keys[1] >> 24)) & 255]

    for byte in password:
        update(byte)
    crc, out = zlib.crc32(data), bytearray()
    for byte in bytes(11) + bytes([crc >> 24]) + data:
        temp = keys[2] | 2
        out.append(byte ^ ((temp * (temp ^ 1) >> 8) & 255))
        update(byte)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as file:
        file.writestr(name, bytes(out))
    made = bytearray(stored.getvalue())
    for start, flag, check in ((made.index(b"PK\x03\x04"), 6, 14), (made.index(b"PK\x01\x02"), 8, 16)):
        made[start + flag] |= 1
        made[start + check : start + check + 4] = crc.to_bytes(4, "little")
        made[start + check + 8 : start + check + 12] = len(data).to_bytes(4, "little")
    return bytes(made)


def test_encrypted_archives_want_their_password(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_encrypted("one.bin", b"content " * 50, b"owner's"))
    for name, header in (("b.7z", False), ("c.7z", True)):
        with py7zr.SevenZipFile(tmp_path / name, "w", password="owner's", header_encryption=header) as file:
            file.writestr(b"content " * 50, "one.bin")
    (tmp_path / "password").write_text("owner's\n")
    commands = argparse.ArgumentParser().add_subparsers()
    archives.add_parser(commands)
    for name in ("a.zip", "b.7z", "c.7z"):
        refused(tmp_path / name, "encrypted.*--password-file")
        with pytest.raises(ValueError, match="password is wrong"):
            prepare(tmp_path / name, tmp_path / "root", "other")
        assert not (tmp_path / "root").exists() or os.listdir(tmp_path / "root") == []
        args = commands.choices["prepare"].parse_args(
            [str(tmp_path / name), str(tmp_path / "root"), "--password-file", str(tmp_path / "password")])
        assert args.run(args) == 0
        assert (tmp_path / "root" / name[0] / "one.bin").read_bytes() == b"content " * 50
        shutil.rmtree(tmp_path / "root")


# Damaged archives


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_archive_is_refused_wherever_it_is_cut(tmp_path, ending):
    whole = pack(write_source(tmp_path / "source", 3, 1_000), tmp_path / f"whole.{ending}").read_bytes()
    cuts = [*range(1, len(whole), max(1, len(whole) // 23)), len(whole) - 1]
    if ending == "tar":  # it is padded with zeros to 10 kB, and cut between two members it looks whole
        cuts = [cut for cut in range(512, len(whole), 512) if any(whole[cut - 512 :])]
    for cut in cuts:
        archive = tmp_path / "cut" / f"cut.{ending}"
        archive.parent.mkdir(exist_ok=True)
        archive.write_bytes(whole[:cut])
        refused(archive, "cut|no zip, tar or 7z")


@pytest.mark.parametrize(("data", "why"), [
    (b"", "is empty"), (b"<html><body>404</body></html>", "web page"), (b"Rar!\x1a\x07\x01\x00", "rar"),
    (bytes(10_240), "no zip, tar or 7z"), (b"PK\x05\x06" + bytes(18), "holds no file"),
    (b"\x1f\x8b\x08" + bytes(20), "damaged"), (zlib.compress(b"no tar" * 500), "no zip"),
])
def test_what_is_no_archive_is_refused(tmp_path, data, why):
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", why)


def test_no_archive_and_no_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such archive"):
        prepare(tmp_path / "none.zip", tmp_path)
    zipped(tmp_path / "..zip", [("a", b"1")])
    with pytest.raises(ValueError, match="another name"):
        prepare(tmp_path / "..zip", tmp_path)


@pytest.mark.parametrize("name", ["X.part", ".X", "__MACOSX", "@eaDir"])
def test_an_archive_is_unpacked_where_no_reader_looks(tmp_path, name):
    archive = zipped(tmp_path / f"{name}.zip", [("a", b"1")])
    with pytest.raises(ValueError, match=f"{name}.zip: .*not looked for in '{name}', so give it another name"):
        prepare(archive, tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("goal", ["gone", "empty"])
def test_a_link_in_the_place_of_the_folder_is_called_a_file(tmp_path, goal):
    archive = pack(write_source(tmp_path / "source", 2), tmp_path / "V.zip")
    for folder in ("root", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "root" / "V").symlink_to(tmp_path / goal)
    with pytest.raises(FileExistsError, match="root/V is a link to an empty folder or to nothing: delete it"):
        prepare(archive, tmp_path / "root")
    assert os.listdir(tmp_path / "root") == ["V"]
    (tmp_path / "root" / "V").unlink()
    (tmp_path / "root" / "V").symlink_to(prepare(archive, tmp_path / "other"))
    assert prepare(archive, tmp_path / "root").is_symlink(), "the content is there already"


@pytest.mark.parametrize("ending", ENDINGS)
def test_flipped_bytes_give_the_right_files_or_a_sentence(tmp_path, ending):
    source = write_source(tmp_path / "source", 3, 400)
    whole = pack(source, tmp_path / f"whole.{ending}").read_bytes()
    draw, refusals, want = random.Random(ending), 0, contents(source)
    for trial in range(40):
        data, root = bytearray(whole), tmp_path / f"root {trial}"
        for _ in range(draw.choice([1, 1, 3])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        archive = tmp_path / f"a.{ending}"
        archive.write_bytes(data)
        try:
            got = contents(prepare(archive, root))
        except ValueError as error:
            refusals += 1
            assert str(error) and "\n" not in str(error)
            assert not root.exists() or os.listdir(root) == []
            continue
        if ending != "tar" and not ending.startswith("tar."):
            # Formats with a checksum of the content: names and folders may change, bytes may not.
            files = sorted(data for data in want.values() if data is not None)
            assert sorted(data for data in got.values() if data is not None) == files
    assert refusals > 3


# Stops


def tracer(at: int, then):
    """A trace function that calls ``then`` at the ``at``-th line that archives.py executes."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename != archives.__file__:
            return None
        if event == "line":
            count += 1
            if count == at:
                then()
        return trace

    return trace


def lines_of(archive: Path, root: Path) -> int:
    """How many lines of archives.py an undisturbed unpacking executes."""
    counted = []
    before = sys.gettrace()
    sys.settrace(tracer(0, None))
    try:
        prepare(archive, root / "warm")  # what is imported on first use
        trace = tracer(0, None)
        sys.settrace(trace)
        prepare(archive, root / "count")
        counted.append(trace.__closure__)
    finally:
        sys.settrace(before)
    return next(cell.cell_contents for cell in counted[0] if isinstance(cell.cell_contents, int)
                and cell.cell_contents)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def prepare_until_line(at: int, archive: Path, root: Path) -> None:
    sys.settrace(tracer(at, die))
    prepare(archive, root)


def killed(archive: Path, root: Path, at: int) -> bool:
    """Unpack in a process that is killed (SIGKILL) at that line; False where it ended before."""
    code = ended(begun(prepare_until_line, at, archive, root))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def finished(root: Path) -> dict[str, Path]:
    """The members that the journal in ``root`` says are finished."""
    journal = root / ".a.part" / "journal"
    lines = journal.read_text().splitlines(keepends=True)[1:] if journal.is_file() else []
    names = [json.loads(line)[0] for line in lines if line.endswith("\n")]
    return {name: root / ".a.part" / "files" / name for name in names}


@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_at_any_line_it_goes_on_and_ends_as_an_undisturbed_one(tmp_path, ending):
    archive = pack(write_source(tmp_path / "source", 8, 3_000), tmp_path / f"a.{ending}")
    lines, draw, kept = lines_of(archive, tmp_path), random.Random(ending), 0
    # Its last lines are about the rename, those before it write; the first ones only read.
    ats = [draw.randrange(1, lines // 2), *(draw.randrange(lines * 3 // 4, lines) for _ in range(3))]
    ats.append(lines - 3)
    for trial, at in enumerate(ats):
        root = tmp_path / f"root {trial}"
        assert killed(archive, root, at)
        if not (root / "a").exists():
            killed(archive, root, draw.randrange(lines * 3 // 4, lines))
        stamps = {}
        if not (root / "a").exists():
            stamps = {name: file.stat().st_mtime_ns for name, file in finished(root).items()
                      if file.is_file()}  # a kill may fall into the rename's cleaning up
            kept += len(stamps)
        folder = prepare(archive, root)
        assert contents(folder) == contents(tmp_path / "source")
        assert stamps == {name: (folder / name).stat().st_mtime_ns for name in stamps}, "written again"
        assert os.listdir(root) == ["a"] and unfinished(root) == []
    assert kept


def prepare_until_ninth(archive: Path, root: Path) -> None:
    finish, calls = archives._Sink.finish, iter(range(9))
    archives._Sink.finish = lambda sink: finish(sink) if next(calls) < 8 else die()
    prepare(archive, root)


def half(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An archive, the folder that it is half unpacked in, and its staging folder."""
    archive, root = pack(write_source(tmp_path / "source", 20), tmp_path / "a.zip"), tmp_path / "root"
    assert ended(begun(prepare_until_ninth, archive, root)) == -signal.SIGKILL
    assert unfinished(root) == ["a"] and len(finished(root)) == 8 and not (root / "a").exists()
    return archive, root, root / ".a.part"


def test_what_was_changed_in_the_meantime_is_unpacked_again(tmp_path):
    archive, root, stage = half(tmp_path)
    lines = (stage / "journal").read_text().splitlines()
    first, second, third = (stage / "files" / json.loads(line)[0] for line in lines[2:5])
    first.write_bytes(bytes(first.stat().st_size))
    second.write_bytes(b"short")
    third.unlink()
    (stage / "journal").write_text("\n".join(lines) + '\n["half a li')
    assert contents(prepare(archive, root)) == contents(tmp_path / "source")


@pytest.mark.parametrize("line", [b"5", b"[1, 2]", b"[1, 2, 3]", b'["a", "b", "c"]', b"\xff\xfe", b"[" * 100_000])
def test_a_journal_that_other_hands_changed_is_no_obstacle(tmp_path, line):
    archive, root, stage = half(tmp_path)
    lines = (stage / "journal").read_bytes().splitlines()
    (stage / "journal").write_bytes(b"\n".join([*lines[:4], line, *lines[4:]]))
    assert contents(prepare(archive, root)) == contents(tmp_path / "source")


def test_a_repaired_tar_is_not_mixed_with_the_damaged_one(tmp_path, monkeypatch):
    """Of the same size, names and ends: 60 members of 40 kB, one of them another."""
    def tar(seed: int) -> Path:
        made = [(tarfile.TarInfo(f"{k:02d}"), random.Random(seed if k == 30 else k).randbytes(40_000))
                for k in range(60)]
        return tarred(tmp_path / "a.tar", made)

    archive, finish, calls = tar(1_000), archives._Sink.finish, iter(range(60))

    def stopped(sink):
        finish(sink)
        if next(calls) == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(archives._Sink, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(archive, tmp_path / "root")
    monkeypatch.undo()
    folder = prepare(tar(2_000), tmp_path / "root")
    assert (folder / "30").read_bytes() == random.Random(2_000).randbytes(40_000)


def test_an_archive_without_an_ending_is_not_unpacked_over_itself(tmp_path):
    archive = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip").rename(tmp_path / "a")
    with pytest.raises(ValueError, match="over itself"):
        prepare(archive, tmp_path)


def test_another_archive_of_the_same_name_begins_anew(tmp_path):
    archive, root, stage = half(tmp_path)
    shutil.rmtree(tmp_path / "source")
    pack(write_source(tmp_path / "source", 4), archive)
    assert contents(prepare(archive, root)) == contents(tmp_path / "source")


def test_killed_between_the_rename_and_the_end_is_finished(tmp_path):
    archive, root, stage = half(tmp_path)
    folder = prepare(archive, root)
    stage.mkdir()
    (stage / "journal").write_text("left")
    assert unfinished(root) == [] and prepare(archive, root) == folder and os.listdir(root) == ["a"]


def test_a_mistyped_password_loses_nothing(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="right") as file:
        file.writestr(b"1" * 100_000, "one")
    stage = tmp_path / "root" / ".a.part"
    (stage / "files").mkdir(parents=True)
    (stage / "files" / "kept").write_bytes(b"k")
    (stage / "journal").write_text('["another"]\n["kept", 1, 1]\n')
    with pytest.raises(ValueError, match="password"):
        prepare(tmp_path / "a.7z", tmp_path / "root")
    assert (stage / "files" / "kept").exists()
    assert (prepare(tmp_path / "a.7z", tmp_path / "root", "right") / "one").read_bytes() == b"1" * 100_000


def test_what_another_process_finished_in_the_meantime_is_taken(tmp_path, monkeypatch):
    archive, root, stage = half(tmp_path)
    hold = archives.alone

    def late(folder):
        monkeypatch.setattr(archives, "alone", hold)
        prepare(archive, root)
        return hold(folder)

    monkeypatch.setattr(archives, "alone", late)
    assert contents(prepare(archive, root)) == contents(tmp_path / "source")
    assert os.listdir(root) == ["a"]


def test_two_at_once_do_not_disturb_each_other(tmp_path):
    archive, root, stage = half(tmp_path)
    with archives.alone(stage), pytest.raises(OSError, match="another process"):
        prepare(archive, root)
    assert contents(prepare(archive, root)) == contents(tmp_path / "source")


# The disk


def test_too_little_room_is_said_before_anything_is_written(small_disk, tmp_path):
    archive = pack(write_source(tmp_path / "source", 10, 60_000), tmp_path / "a.zip")
    with pytest.raises(OSError, match=r"needs 6\d\d,\d\d\d bytes more in .* make room"):
        prepare(archive, small_disk)
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_on_the_way_is_said_and_continued(small_disk, tmp_path, monkeypatch, ending):
    archive = pack(write_source(tmp_path / "source", 10, 18_000), tmp_path / f"a.{ending}")
    (small_disk / "other").write_bytes(bytes(100_000))
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))  # as a quota has it
    with pytest.raises(OSError, match="is full: make room, then run again") as caught:
        prepare(archive, small_disk)
    assert not isinstance(caught.value, ValueError) and unfinished(small_disk) == ["a"]
    kept = {path: path.stat().st_ino for path in (small_disk / ".a.part" / "files").rglob("*0* ü.bin")}
    assert len(kept) > 2
    (small_disk / "other").unlink()
    folder = prepare(archive, small_disk)
    assert contents(folder) == contents(tmp_path / "source")
    inodes = {path.name: path.stat().st_ino for path in folder.rglob("*.bin")}
    assert sum(inodes[path.name] == inode for path, inode in kept.items()) >= len(kept) - 1


def test_a_read_only_root_is_said(small_disk, tmp_path):
    archive = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="no permission for .*data folder that you may write"):
        prepare(archive, small_disk / "root")


def test_a_root_that_cannot_be_made_is_said(tmp_path):
    archive = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    with pytest.raises(OSError, match="/proc/bnta.* cannot be made: choose another data folder"):
        prepare(archive, "/proc/bnta/root")


@pytest.mark.parametrize("password, why", [("absent", "No such file"), (".", "Is a directory"),
                                           ("binary", "it is no text")])
def test_a_password_that_cannot_be_read_is_said(tmp_path, capsys, password, why):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    code = main(["prepare", str(tmp_path / "a.zip"), str(tmp_path / "root"),
                 "--password-file", str(tmp_path / password)])
    assert code == 2 and why in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_file_in_the_place_of_the_root_is_said(tmp_path):
    archive = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    (tmp_path / "root").write_bytes(b"x")
    for root in (tmp_path / "root", tmp_path / "root" / "below" / "it"):
        with pytest.raises(OSError, match=f"^{tmp_path / 'root'} is a file where a folder should be"):
            prepare(archive, root)


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    assert main(["prepare", "a.zip", "~/sets"]) == 0
    assert contents(tmp_path / "home" / "sets" / "a") == contents(tmp_path / "source")
    assert not (tmp_path / "~").exists()
    with pytest.raises(SystemExit):
        main(["prepare", "a.zip", "a\0b"])
    assert "value 0" in capsys.readouterr().err


def test_a_password_file_of_windows_is_read(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="right") as file:
        file.writestr(b"1" * 1_000, "one")
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbfright\r\n")
    assert main(["prepare", str(tmp_path / "a.7z"), str(tmp_path / "root"), "--password-file",
                 str(tmp_path / "password")]) == 0


def test_a_zip_that_begins_as_a_program_is_unpacked(tmp_path):
    plain = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\nexit\n" + plain.read_bytes())
    assert contents(prepare(tmp_path / "b.zip", tmp_path / "root")) == contents(tmp_path / "source")


def test_commands_say_what_is_in_the_way_without_the_systems_numbers(tmp_path, capsys, monkeypatch):
    plain = pack(write_source(tmp_path / "source", 2), tmp_path / "a.zip")
    (tmp_path / "file").write_bytes(b"x")
    assert main(["prepare", str(plain), str(tmp_path / "file" / "root")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'file'} is a file where") and "Errno" not in said

    def hungry(*_, **__):
        raise MemoryError

    monkeypatch.setattr(archives, "prepare", hungry)
    assert main(["prepare", str(plain), str(tmp_path / "root")]) == 2
    assert "too little memory" in capsys.readouterr().err
