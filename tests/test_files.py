"""Files are whole or as before, whatever stops the writing."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from bnta_lib.files import atomic, atomic_folder, left_behind, marked


def test_a_written_file_is_not_in_place_or_leaves_traces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for text in ("first", "second"):
        with atomic(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    with open(path) as reader:
        with atomic(path) as temporary:
            temporary.write_text("third")
        assert reader.read() == "second"  # whoever was reading keeps the whole old file
    assert list(path.parent.iterdir()) == [path]


def writer(path, then):
    """A process that does ``then`` after it has written half of ``path``."""
    code = ("import os, sys\nfrom bnta_lib.files import atomic\n"
            f"with atomic(sys.argv[1]) as half:\n    half.write_text('half')\n    {then}")
    return subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("name", ["a.txt", "[a]*? {1}.txt", "ü" * 127])
def test_a_killed_writing_leaves_its_file_for_ever(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    assert writer(path, "os.kill(os.getpid(), 9)").wait() == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2 and path.read_text() == "old"
    with atomic(path) as temporary:
        assert set(tmp_path.iterdir()) == {path, temporary}
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "new"


def test_the_half_file_of_a_living_writer_of_another_machine_or_of_another_file_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "a"
    living = writer(path, "print(flush=True); sys.stdin.read()")
    living.stdout.readline()
    gone = subprocess.Popen(["true"])
    gone.wait()  # its number is free now
    here, own = marked(path), f"-{os.getpid()}-"
    assert here.endswith(own)
    there = f".a.{'0' * 12}-{gone.pid}-abcdefgh.tmp"
    others = [there, ".a.abcdefgh.tmp", *(here.replace(own, f"-{gone.pid}-").replace(".a.", begin) + "abcdefgh.tmp"
                                          for begin in (".b.", ".a.b.", ".aa."))]
    for name in others:
        (tmp_path / name).write_text("half")
    left = tmp_path / (here.replace(own, f"-{gone.pid}-") + "abcdefgh.tmp")
    left.touch()
    assert left_behind(path) == [left]
    for _ in range(2):
        with atomic(path) as temporary:
            temporary.write_text("mine")
        assert {f.name for f in tmp_path.iterdir()} > {"a", *others} and not left.exists()
    living.communicate()
    assert living.returncode == 0 and path.read_text() == "half"
    monkeypatch.setattr("bnta_lib.files._here", str)  # a system that does not tell who lives
    (tmp_path / f".a.-{gone.pid}-abcdefgh.tmp").touch()
    assert left_behind(path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_writing_changes_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_other_permissions_than_a_plain_one(tmp_path):
    with atomic(tmp_path / "a") as temporary:
        temporary.touch()
    (tmp_path / "b").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def by_torch(path):
    with open(path, "wb") as file:
        torch.save(torch.zeros(100_000), file)


WRITERS = {
    "text": lambda path: path.write_text("x" * 400_000),
    "safetensors": lambda path: save_file({"x": torch.zeros(100_000)}, path),
    "torch": by_torch,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_gives_an_unclear_error_or_a_half_file(small_disk, writer):
    path = small_disk / "a"
    path.write_text("old")
    with pytest.raises(OSError, match="the disk is full: could not write .*BNTA_CACHE for the cache"):
        with atomic(path) as temporary:
            WRITERS[writer](temporary)
    assert path.read_text() == "old" and list(small_disk.iterdir()) == [path]


def test_the_systems_error_for_a_full_device_is_not_understood(tmp_path):
    with pytest.raises(OSError, match="the disk is full: could not write"), atomic(tmp_path / "a"):
        with open("/dev/full", "w") as full:  # a device that is always full
            full.write("x")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission_gives_an_unclear_error():
    # Not even root may make files here.
    with pytest.raises(OSError) as caught, atomic("/proc/self/fdinfo/a"):
        pass
    assert caught.value.filename or "no permission to write" in str(caught.value)


def test_an_interrupt_before_a_command_has_begun_is_said_in_a_line(tmp_path):
    """At moments over its start, until it has begun: never a traceback of imports."""
    ended = []
    for wait in (0.5, 0.9, 1.3, 1.7, 2.1):
        command = [sys.executable, "-m", "bnta_lib.data", "check", str(tmp_path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        ended.append((process.communicate()[1], process.returncode))
    early = [said for said, code in ended if "stopped before it began" in said and code == 130]
    assert early and all("bnta_lib/__init__" not in said for said, _ in ended)


def test_a_folder_is_put_in_the_place_of_a_link_or_a_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link") as partial:
        (partial / "new").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "new").is_file()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file: move it"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3
