"""Owners' archives fetched and unpacked: whole or not at all, and nowhere else."""

import functools
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import py7zr
import pytest
from real_trees import tree

from bnta_lib.data import __main__ as commands
from bnta_lib.data.__main__ import main, prepare
from bnta_lib.data.published import SETS

KINDS = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar", "7z": "7zip"}
shutil.register_archive_format("7zip", py7zr.pack_7zarchive)


def write_source(folder: Path, files: int = 6, size: int = 3_000) -> Path:
    """A folder of random files, with spaces, other letters, an empty file and an empty folder."""
    draw = random.Random(files)
    (folder / "Menge ä 集" / "cam a").mkdir(parents=True)
    (folder / "empty folder").mkdir()
    (folder / "empty..txt").write_bytes(b"")
    for i in range(files):
        (folder / "Menge ä 集" / "cam a" / f"{i:03d} ü.bin").write_bytes(draw.randbytes(size + i))
    return folder


def pack(source: Path, name: Path, ending: str = "zip") -> Path:
    """``source`` as an archive of the kind that the ending names."""
    return Path(shutil.make_archive(str(name), KINDS[ending], source))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Bytes of each file below ``folder``, None for a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")}


def refused(archive: Path) -> bool:
    """Whether it is refused; in any case nothing is left outside its folder."""
    (archive.parent / "root").mkdir(exist_ok=True)
    before = contents(archive.parent)
    try:
        folder = prepare(archive, archive.parent / "root")
        assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))
        shutil.rmtree(folder)
    except ValueError as error:
        assert all(words in str(error) for words in (f"{archive} is not unpacked", " bytes, which begins"))
        return True
    finally:
        assert contents(archive.parent) == before
    return False


@pytest.mark.parametrize("ending", KINDS)
def test_archive_comes_out_as_it_went_in(tmp_path, ending):
    source = write_source(tmp_path / "source")
    archive = pack(source, tmp_path / "Die Menge.v1.0", ending)
    folder = prepare(archive, tmp_path / "data ä")
    assert folder == tmp_path / "data ä" / "Die Menge.v1.0" and contents(folder) == contents(source)
    assert os.listdir(folder.parent) == [folder.name]
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    assert prepare(archive, folder.parent) == folder and contents(folder) == before


# ---- hostile archives


def zipped(path: Path, name: str | zipfile.ZipInfo, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("good", b"1")
        file.writestr(name, data)
    return path


def tarred(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as file:
        for info in (tarfile.TarInfo("good"), member):
            info.size = 1 if info.type == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(b"1"))
    return path


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/abs/up", "a\\..\\..\\up"])
def test_members_cannot_leave_the_folder(tmp_path, name):
    refused(zipped(tmp_path / "a.zip", name, b"2"))
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(b"1", "good.txt")
        file.writestr(b"2", "x" * len(name))
        file.header.files_info.files[-1]["filename"] = name  # its writer would not
    refused(tmp_path / "a.7z")
    assert refused(tarred(tmp_path / "a.tar", tarfile.TarInfo(name))) == name.endswith("../up")
    assert not Path("/abs/up").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                  tarfile.FIFOTYPE])
def test_tar_links_out_of_the_folder_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("member")
    info.type, info.linkname = kind, "../../secret"
    (tmp_path / "secret").write_text("secret")
    assert refused(tarred(tmp_path / "a.tar", info))


def test_links_of_zip_and_7z_lead_nowhere_else(tmp_path):
    info = zipfile.ZipInfo("member")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refused(zipped(tmp_path / "a.zip", info, b"/etc/passwd"))
    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "b.7z", "w") as file:
        file.write(tmp_path / "link", "link")
    assert refused(tmp_path / "b.7z")


# ---- damaged archives


@pytest.mark.parametrize("ending", KINDS)
def test_truncated_archive_is_refused_unless_all_of_it_came(tmp_path, ending):
    source = write_source(tmp_path / "source", 3, 1_000)
    whole = pack(source, tmp_path / "whole", ending).read_bytes()
    cuts = (1, len(whole) // 3, len(whole) - 9)
    if ending == "tar":  # it is padded with zeros, and cut between two members it looks whole
        cuts = (1, len(whole.rstrip(b"\0")) - 9, len(whole.rstrip(b"\0")) - 500)
    for cut in cuts:
        archive = tmp_path / f"cut {cut}" / f"cut.{ending}"
        archive.parent.mkdir()
        archive.write_bytes(whole[:cut])
        if not refused(archive):
            assert contents(prepare(archive, archive.parent)) == contents(source)


def test_what_is_no_archive_or_has_a_password_is_refused(tmp_path):
    for data in (b"", b"<html><body>404</body></html>", b"Rar!\x1a\x07\x01\x00"):
        (tmp_path / "a.zip").write_bytes(data)
        assert refused(tmp_path / "a.zip")
    with py7zr.SevenZipFile(tmp_path / "b.7z", "w", password="owner's") as file:
        file.writestr(b"content", "one.bin")
    assert refused(tmp_path / "b.7z")


def test_full_disk_is_named_and_nothing_is_left(small_disk, tmp_path):
    archive = pack(write_source(tmp_path / "source", 60, 9_000), tmp_path / "a")
    with pytest.raises(OSError, match="the disk is full"):
        prepare(archive, small_disk)
    assert not list(small_disk.iterdir())


def test_prepare_command_names_what_it_found(tmp_path, capsys):
    tree("VIPeR", "bmp", tmp_path / "made", people=5)
    for source, printed in ((tmp_path / "made", "VIPeR, 10 images of 5 people"),
                            (write_source(tmp_path / "other"), "none of the published sets")):
        archive = pack(source, tmp_path / f"{source.name}.v1.0")
        assert main(["prepare", str(archive), str(tmp_path / "my root")]) == 0
        assert printed in capsys.readouterr().out


# ---- downloads


@pytest.fixture
def site(tmp_path):
    """A local server of a folder. Yields its address and the folder."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "served"
    server.shutdown()
    server.server_close()


def test_fetched_archive_is_the_owners(site, tmp_path, capsys, monkeypatch):
    (address, folder), root = site, tmp_path / "data ä"
    archive = pack(write_source(tmp_path / "source"), folder / "V ä").read_bytes()
    assert main(["fetch", "VIPeR", str(root), "--url", f"{address}/V%20%C3%A4.zip"]) == 0
    printed = capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {"V ä.zip": archive}
    assert f"SHA-256 {hashlib.sha256(archive).hexdigest()}" in printed and "prepare '" in printed
    # From the owner's address it is compared with the known digest.
    elsewhere = replace(SETS["VIPeR"], url=f"{address}/V%20%C3%A4.zip")
    monkeypatch.setattr(commands, "SETS", {"VIPeR": elsewhere})
    assert main(["fetch", "VIPeR", str(tmp_path / "other")]) == 2
    assert re.search("does not send the archive .*hash", capsys.readouterr().err)
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("data", [None, b"<html>moved</html>", b"PK\x03\x04 cut short"])
def test_dead_link_or_web_page_leaves_nothing(site, tmp_path, capsys, data):
    address, folder = site
    if data is not None:
        (folder / "a.zip").write_bytes(data)
    assert main(["fetch", "VIPeR", str(tmp_path / "root"), "--url", f"{address}/a.zip"]) == 2
    named = "does not send the archive .*look for it at https://vision.*--url"
    assert re.search(named, capsys.readouterr().err)
    assert not list((tmp_path / "root").iterdir())


def test_sets_with_an_agreement_and_duke_are_never_fetched(site, tmp_path, capsys):
    for name in (name for name, entry in SETS.items() if not entry.url):
        assert main(["fetch", name, str(tmp_path / "root"), "--url", f"{site[0]}/a.zip"]) == 2
        printed = capsys.readouterr().err
        assert f"{name} is not downloaded" in printed and SETS[name].ask in printed
    duke = SETS["DukeMTMC-reID"]
    assert not duke.url and "withdrew" in duke.ask and not (tmp_path / "root").exists()
