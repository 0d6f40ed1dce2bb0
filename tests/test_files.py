"""Files are whole or as before, whatever stops the writing."""

import os
import signal
import subprocess
import sys
from uuid import uuid4

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bnta_lib import training
from bnta_lib.figures import base
from bnta_lib.files import atomic
from bnta_lib.site.judge import save_ranked
from bnta_lib.suite.lab import write_table
from bnta_lib.suite.store import open_store
from bnta_lib.weights import Delta, bn_tensors, save_model


def test_written_file_is_in_place_without_traces_and_as_open_as_a_plain_one(tmp_path):
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
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


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


# ---- full disks


def fill(disk):
    with pytest.raises(OSError), open(disk / "ballast", "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def held(folder):
    """Files and their bytes, without SQLite's scratch files, which are empty after a failure."""
    return {path: path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))}


def add_row(folder, *_):
    with open_store(folder / "results.sqlite") as store:
        # Another row each time: one that is there is only read.
        store.add(uuid4().hex, [{"metric": "R1", "value": float(k)} for k in range(40)])


NUMBERS = pd.DataFrame({"unit": "%", "value": range(2_000)})
WRITERS = {
    "weights": lambda folder, model, small: save_model(model, folder / "w", small),
    "delta": lambda folder, model, small: Delta(bn_tensors(model), "").save(folder / "d"),
    "checkpoint": lambda folder, model, small: training.write_checkpoint(
        folder / "c.pt", key="key", model=model.state_dict()),
    "row": add_row,
    "table": lambda folder, *_: write_table(NUMBERS, "t", "run"),
    "ranking": lambda folder, *_: save_ranked(NUMBERS, folder / "ranked.csv"),
    "figure": lambda folder, *_: base.save_figure(plt.figure(figsize=(1, 1)), "f", "run"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_named_and_costs_nothing(small_disk, model, small, monkeypatch, style, name):
    subprocess.run(["mount", "-o", "remount,size=4M", str(small_disk)], check=True)
    for variable in ("BNTA_CACHE", "BNTA_FIGURES"):
        monkeypatch.setenv(variable, str(small_disk))
    WRITERS[name](small_disk, model, small)
    before = held(small_disk)
    assert before
    fill(small_disk)
    with pytest.raises(OSError, match="the disk is full: could not write .*which is unchanged"):
        WRITERS[name](small_disk, model, small)
    (small_disk / "ballast").unlink()
    assert held(small_disk) == before
    WRITERS[name](small_disk, model, small)  # and there is nothing that blocks it
