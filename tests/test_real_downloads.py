"""Downloads against a server that cuts, lies, changes its file or knows no ranges."""

import argparse
import hashlib
import http.server
import json
import os
import random
import re
import signal
import threading
import zipfile
from types import SimpleNamespace

import pooch
import py7zr
import pytest
from apart import begun, ended
from bnta_lib.data.__main__ import main
from bnta_lib.data import archives, downloads
from bnta_lib.data.catalogue import CATALOGUE
from bnta_lib.data.downloads import NeedsAgreement, digest, fetch


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.site``: its data, and its manners."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        site.asked.append(dict(self.headers))
        if site.status:
            answer = site.status.pop(0) if isinstance(site.status, list) else site.status
            if answer != 200:
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        data, start = site.data, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        mark = site.tag or site.modified
        if site.elsewhere:
            self.send_response(302)
            self.send_header("Location", site.elsewhere)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if wanted and site.ranges and (site.careless or not mark or self.headers.get("If-Range") in (None, mark)):
            start = int(wanted[1]) + site.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", site.kind)
        if site.length:
            self.send_header("Content-Length", str(len(data) - start + site.lie))
        if site.tag:
            self.send_header("ETag", site.tag)
        if site.modified:
            self.send_header("Last-Modified", site.modified)
        self.send_header("Connection", "close")
        self.end_headers()
        stop = len(data) if not site.cuts else min(len(data), start + site.cuts.pop(0))
        self.wfile.write(data[start:stop])
        site.sent.append(stop - start)
        if site.then:
            site.then.pop(0)()
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A local server of one archive of 300 kB; what it was asked and what it sent."""
    source = tmp_path / "made.zip"
    with zipfile.ZipFile(source, "w") as file:
        file.writestr("VIPeR/cam_a/000_45.bmp", random.Random(0).randbytes(300_000))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = SimpleNamespace(
        data=source.read_bytes(), asked=[], sent=[], cuts=[], then=[], status=0, ranges=True, shift=0, lie=0,
        length=True, elsewhere="", careless=False, tag='"one"', modified="Mon, 01 Jun 2009 00:00:00 GMT", kind="application/zip",
        url=f"http://127.0.0.1:{server.server_port}/VIPeR%20ä.v1.0.zip")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


def got(site, root, **more):
    """The bytes that fetch brings, after it was seen that nothing else is left in ``root``."""
    archive = fetch("viper", root, site.url, pause=0, **more)
    assert os.listdir(root) == [archive.name] == ["VIPeR ä.v1.0.zip"]
    return archive.read_bytes()


def test_an_archive_comes_whole_with_its_digest_and_once(site, tmp_path, capsys):
    root = tmp_path / "data ä"
    commands = argparse.ArgumentParser().add_subparsers()
    downloads.add_parser(commands)
    args = commands.choices["fetch"].parse_args(["VIPeR", str(root), "--url", site.url])
    assert args.run(args) == 0
    archive, sha = root / "VIPeR ä.v1.0.zip", hashlib.sha256(site.data).hexdigest()
    assert archive.read_bytes() == site.data
    assert (root / "VIPeR ä.v1.0.zip.sha256").read_text("utf-8") == f"{sha}  VIPeR ä.v1.0.zip\n"
    said = capsys.readouterr()
    assert f"SHA-256 {sha}" in said.out and f"prepare '{archive}' '{root}'" in said.out
    assert "1c2d9fc1cc800332567a0da25a1ce68c" in said.out and "WARNING: this file has another" in said.out
    assert "VIPeR: 100%" in said.err
    assert args.run(args) == 0 and len(site.asked) == 1  # it is there
    archive.write_bytes(site.data[:-1])
    assert args.run(args) == 1
    assert f"WARNING: when it came it was {sha}" in capsys.readouterr().out
    assert digest(archive) == (hashlib.sha256(site.data[:-1]).hexdigest(), sha)


def test_a_folder_in_the_place_of_the_archive_is_taken_for_it(site, tmp_path, capsys):
    (tmp_path / "root" / "VIPeR ä.v1.0.zip").mkdir(parents=True)
    assert main(["fetch", "VIPeR", str(tmp_path / "root"), "--url", site.url]) == 2
    said = capsys.readouterr().err
    assert "ä.v1.0.zip is a folder where the archive should be: move it away" in said and "Errno" not in said


def test_a_digest_that_others_noted_is_recognised(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(downloads.NOTED, "VIPeR", "md5:" + hashlib.md5(site.data).hexdigest())
    assert downloads.main_fetch(SimpleNamespace(name="VIPER", root=tmp_path / "r", url=site.url)) == 0
    assert "the same" in capsys.readouterr().out


@pytest.mark.parametrize("marks", [('"one"', ""), ("", "Mon, 01 Jun 2009 00:00:00 GMT")])
def test_a_cut_connection_goes_on_where_it_was(site, tmp_path, marks):
    site.tag, site.modified = marks
    site.cuts = [100_000, 1, 50_000]
    assert got(site, tmp_path / "root") == site.data
    starts = [int(asked.get("Range", "bytes=0-")[6:-1]) for asked in site.asked]
    assert starts == sorted(starts) and len(starts) == 4
    for start, came in zip(starts[1:], (100_000, starts[1] + 1, starts[2] + 50_000), strict=True):
        assert came - downloads._CHUNK < start <= came
    assert {asked.get("If-Range") for asked in site.asked[1:]} == {marks[0] or marks[1]}


def test_a_later_call_goes_on(site, tmp_path):
    root = tmp_path / "root"
    site.cuts = [60_000] + [0] * downloads.TRIES
    whole_chunks = 60_000 // downloads._CHUNK * downloads._CHUNK
    with pytest.raises(OSError, match=f"{whole_chunks:,} bytes, 5 times: run again later to continue"):
        fetch("VIPeR", root, site.url, pause=0)
    assert not (root / "VIPeR ä.v1.0.zip").exists()
    site.cuts = []
    assert got(site, root) == site.data
    assert site.asked[-1]["Range"] == f"bytes={whole_chunks}-"


def fetch_until(size, root, url):
    """A download that kills its own process when so many bytes are there."""
    write = downloads.tqdm.update
    downloads.tqdm.update = lambda bar, n=1: (
        write(bar, n), os.kill(os.getpid(), signal.SIGKILL) if bar.n >= size else None)
    downloads._CHUNK = 10_000
    fetch("VIPeR", root, url, progress=True, pause=0)


def test_a_killed_download_goes_on(site, tmp_path):
    root = tmp_path / "root"
    for size in (90_000, 40_000):
        assert ended(begun(fetch_until, size, root, site.url)) == -signal.SIGKILL
        assert not (root / "VIPeR ä.v1.0.zip").exists()
    assert got(site, root) == site.data
    assert all("Range" in asked for asked in site.asked[1:])


def test_a_server_without_ranges_sends_all_again(site, tmp_path):
    site.ranges, site.cuts = False, [100_000]
    assert got(site, tmp_path / "root") == site.data
    assert len(site.asked) == 2 and site.sent[1] == len(site.data)


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_mark_of_the_files_state_nothing_is_appended(site, tmp_path, tag):
    site.tag, site.modified, site.cuts = tag, "", [100_000]
    assert got(site, tmp_path / "root") == site.data
    assert "Range" not in site.asked[1]


def test_a_file_that_changes_between_two_tries_is_not_mixed(site, tmp_path):
    site.cuts = [100_000]
    other = bytearray(site.data)
    other[40:99_000] = bytes(98_960)

    def change():
        site.data, site.tag = bytes(other), '"two"'

    site.then = [change]
    assert got(site, tmp_path / "root") == bytes(other)


def test_the_rest_of_another_file_is_not_appended_by_a_server_that_ignores_the_condition(site, tmp_path):
    site.cuts = [100_000]
    other = bytearray(site.data)
    other[40:99_000] = bytes(98_960)

    def change():
        site.data, site.tag, site.careless = bytes(other), '"two"', True

    site.then = [change]
    assert got(site, tmp_path / "root") == bytes(other)


def test_two_at_once_do_not_write_into_one_file(site, tmp_path):
    begun, go_on = threading.Event(), threading.Event()
    site.cuts, site.then = [100_000], [lambda: (begun.set(), go_on.wait(20))]
    found = []
    first = threading.Thread(target=lambda: found.append(fetch("viper", tmp_path / "root", site.url, pause=0)))
    first.start()
    assert begun.wait(20)
    with pytest.raises(OSError, match="in use: another process"):
        fetch("viper", tmp_path / "root", site.url, pause=0)
    go_on.set()
    first.join(20)
    assert found[0].read_bytes() == site.data


@pytest.mark.parametrize("length", [True, False])
def test_an_archive_without_its_end_is_not_kept(site, tmp_path, length):
    site.data, site.length = site.data[:-50_000], length
    with pytest.raises((ValueError, OSError), match="without its end" if length else "it ends early"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert not (tmp_path / "root" / "VIPeR ä.v1.0.zip").exists()


def test_a_7z_without_its_end_is_not_complete(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(b"1" * 1_000, "one")
    assert archives.complete(tmp_path / "a.7z")
    (tmp_path / "b.7z").write_bytes((tmp_path / "a.7z").read_bytes()[:-1])
    assert not archives.complete(tmp_path / "b.7z")


@pytest.mark.parametrize("text", ["[]", "{}", "5", '{"url": 1, "unchanged": "x", "total": "9"}', "[" * 100_000, "\xff"])
def test_a_damaged_note_of_what_came_begins_anew(site, tmp_path, text):
    left = tmp_path / "root" / ".VIPeR ä.v1.0.zip.download"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"PK")
    (left / "state.json").write_bytes(text.encode("latin-1"))
    assert got(site, tmp_path / "root") == site.data


@pytest.mark.parametrize("mark", ["5", '"a\\r\\nHost: b"', '" a"', '"\\u2028"', "[]", "null"])
def test_a_note_whose_mark_no_header_takes_blocks_the_download(site, tmp_path, mark):
    left = tmp_path / "root" / ".VIPeR ä.v1.0.zip.download"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"PK")
    shown = json.dumps(downloads._shown(site.url))
    (left / "state.json").write_text(f'{{"url": {shown}, "unchanged": {mark}, "total": {len(site.data)}}}')
    assert got(site, tmp_path / "root") == site.data and "Range" not in site.asked[0]


def test_a_password_in_an_address_is_not_shown(site, tmp_path):
    site.status = 404
    with pytest.raises(OSError) as caught:
        fetch("VIPeR", tmp_path / "root", site.url.replace("//", "//me:secret@"), pause=0)
    assert "secret" not in str(caught.value) and "//…@127.0.0.1" in str(caught.value)


def test_an_address_that_is_empty_or_leads_elsewhere_is_said_at_once(site, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fetch", "VIPeR", str(tmp_path), "--url", ""])
    assert "is a variable not set?" in capsys.readouterr().err
    site.elsewhere = "file:///etc/passwd"
    with pytest.raises(OSError, match="leads to no archive"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert len(site.asked) == 1


def test_the_digest_is_stated_where_it_cannot_be_noted(small_disk):
    archive = small_disk / "a.zip"
    archive.write_bytes(b"PK" * 500)
    expected = hashlib.sha256(b"PK" * 500).hexdigest()
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.warns(UserWarning, match="the digest is not noted: the disk is full"):
        assert digest(archive) == (expected, "")


@pytest.mark.parametrize("wrong", ["another place", "too far"])
def test_an_answer_for_other_bytes_begins_anew(site, tmp_path, wrong):
    site.cuts = [100_000]
    if wrong == "another place":
        site.shift = 7
    else:
        site.status = [200, 416]
    assert got(site, tmp_path / "root") == site.data
    assert "Range" not in site.asked[-1]


def test_more_bytes_announced_than_sent_are_not_taken_for_the_archive(site, tmp_path):
    site.lie = 1
    with pytest.raises(OSError, match="breaks off"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert not (tmp_path / "root" / "VIPeR ä.v1.0.zip").exists()


def test_without_a_length_it_comes_too(site, tmp_path):
    site.length = False
    assert got(site, tmp_path / "root") == site.data


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_dead_link_says_where_to_look(site, tmp_path, status):
    site.status = status
    with pytest.raises(OSError, match=f"answers {status}.*{re.escape(CATALOGUE['VIPeR'].ask)}.*--url"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert len(site.asked) == 1


def test_a_server_in_trouble_is_asked_again(site, tmp_path):
    site.status = [503, 500, 200]
    assert got(site, tmp_path / "root") == site.data


@pytest.mark.parametrize(("kind", "data"), [
    ("text/html; charset=utf-8", b"<html>moved</html>"), ("application/zip", b"<html>moved</html>"),
    ("application/zip", b""),
])
def test_a_web_page_is_not_taken_for_an_archive(site, tmp_path, kind, data):
    site.kind, site.data = kind, data
    with pytest.raises(ValueError, match="sends (a web page|no archive)"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert os.listdir(tmp_path / "root") == []


def test_an_endless_or_huge_answer_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MOST_BYTES", 200_000)
    with pytest.raises(ValueError, match="announces 300,"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    site.length = False
    with pytest.raises(ValueError, match="more than it announced"):
        fetch("VIPeR", tmp_path / "root", site.url, pause=0)
    assert os.listdir(tmp_path / "root") == []


def test_a_server_that_is_not_there_is_said(tmp_path):
    with pytest.raises(OSError, match="cannot be reached"):
        fetch("VIPeR", tmp_path, "http://127.0.0.1:9/a.zip", pause=0)


def test_a_full_disk_is_said_and_continued(site, small_disk, monkeypatch):
    with pytest.raises(OSError, match="VIPeR is 300,[0-9]+ bytes and .* are free"):
        fetch("VIPeR", small_disk, site.url, pause=0)
    usage = downloads.shutil.disk_usage(small_disk)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    with pytest.raises(OSError, match="is full: make room"):
        fetch("VIPeR", small_disk, site.url, pause=0)
    came = next(small_disk.rglob("part")).stat().st_size
    assert came > 100_000
    site.data = site.data[:came + 4_000]  # what fits now
    with pytest.raises(OSError, match="full|breaks off"):  # another total than was announced: not mixed
        fetch("VIPeR", small_disk, site.url, pause=0)


def test_sets_with_an_agreement_are_never_asked_for(tmp_path, site, capsys):
    open_sets = {"VIPeR", "GRID", "iLIDS"}
    assert {name for name, one in CATALOGUE.items() if one.url} == open_sets
    for name in set(CATALOGUE) - open_sets:
        assert downloads.main_fetch(SimpleNamespace(name=name, root=tmp_path / "r", url=site.url)) == 2
        assert CATALOGUE[name].ask in capsys.readouterr().out
        with pytest.raises(NeedsAgreement):
            fetch(name, tmp_path / "r", site.url)
    with pytest.raises(NeedsAgreement, match="withdrew"):
        fetch("dukemtmc-reid", tmp_path / "r", site.url)
    assert not site.asked and not (tmp_path / "r").exists()


@pytest.mark.parametrize(("name", "url", "why"), [
    ("Market1501", None, "there are CUHK02"), ("VIPeR", "ftp://a/b.zip", "no address"),
    ("VIPeR", "http://host/", "no address"), ("VIPeR", "", "no address"), ("VIPeR", "http://[::1/x.zip", "no address"),
    ("VIPeR", "http://host/a%0ab.zip", "no address"), ("VIPeR", "http://host/a%2F..%2Fb.zip", "no address"),
])
def test_wrong_names_and_addresses_are_said(tmp_path, name, url, why):
    with pytest.raises(ValueError, match=why):
        fetch(name, tmp_path, url)
    assert os.listdir(tmp_path) == []


def test_the_owners_addresses_name_their_archives():
    urls = [one.url for one in CATALOGUE.values() if one.url]
    assert [url.rpartition("/")[2] for url in urls] == [
        "VIPeR.v1.0.zip", "underground_reid.zip", "i-LIDS_Pedestrian.tgz"]
    assert pooch.core.choose_downloader(urls[0]).__class__.__name__ == "HTTPDownloader"
