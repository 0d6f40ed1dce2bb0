"""Files are whole or as before, whatever stops the writing."""

import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from bnta_lib.files import atomic


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
