"""Files are whole or as before, whatever stops the writing."""

import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from bnta_lib.files import atomic


def test_written_file_is_in_place_without_traces(tmp_path):
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


def test_killed_writing_leaves_the_old_file_and_its_rest_goes_after_a_week(tmp_path):
    path = tmp_path / ("[a]*? {1}" + "ü" * 100)
    path.write_text("old")
    code = ("import os, sys\nfrom bnta_lib.files import atomic\n"
            "with atomic(sys.argv[1]) as half:\n    half.write_text('half')\n    os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    (rest,) = set(tmp_path.iterdir()) - {path}
    assert path.read_text() == "old"
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert set(tmp_path.iterdir()) == {path, rest}, "it may be that of a process that lives"
    os.utime(rest, (0, 0))
    with atomic(path) as temporary:
        temporary.write_text("newer")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "newer"


def test_two_writers_at_a_time_do_not_mix(tmp_path):
    with atomic(tmp_path / "a") as first, atomic(tmp_path / "a") as second:
        first.write_text("first" * 100)
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first" * 100 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_written_file_has_the_permissions_of_a_plain_one(tmp_path):
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
def test_full_disk_is_named_and_leaves_the_old_file(small_disk, writer):
    path = small_disk / "a"
    path.write_text("old")
    message = "the disk is full: could not write .*a, which is unchanged; .*BNTA_CACHE"
    with pytest.raises(OSError, match=message), atomic(path) as temporary:
        WRITERS[writer](temporary)
    assert path.read_text() == "old" and list(small_disk.iterdir()) == [path]


def test_folder_without_permission_is_an_error_of_the_system():
    with pytest.raises(OSError), atomic("/proc/self/fdinfo/a") as temporary:  # not even root may write there
        temporary.touch()
