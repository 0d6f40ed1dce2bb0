"""Every writer on a full disk names it, and leaves what stood there."""

import subprocess

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bnta_lib import adapt
from bnta_lib.figures import base
from bnta_lib.site.judge import save_ranked
from bnta_lib.suite import store as results
from bnta_lib.suite import writer
from bnta_lib.weights import save_model

NUMBERS = pd.DataFrame({"unit": "%", "value": range(2_000)})


@pytest.fixture
def writers(model, images, small, small_disk, monkeypatch):
    """What is written, by name; each into a folder of its own on the small disk, where all fits twice."""
    subprocess.run(["mount", "-o", "remount,size=1M", str(small_disk)], check=True)
    for module in (writer, base):
        monkeypatch.setattr(module, "figures_dir", lambda run: small_disk / run)
    monkeypatch.setenv("BNTA_CACHE", str(small_disk / "row"))
    delta = adapt(model, images, small).delta

    def figure():
        drawn = plt.figure(figsize=(1, 1))
        base.save_figure(drawn, "f", "figure")
        plt.close(drawn)

    def a_row():
        with results.Store(small_disk / "row" / "results.sqlite") as store:
            store.add(str(a_row.times), [{"metric": "R1", "value": float(k)} for k in range(40)])

    a_row.times = 0
    return {
        "weights": lambda: save_model(model, small_disk / "weights" / "w.safetensors", small),
        "delta": lambda: delta.save(small_disk / "delta" / "d.safetensors"),
        "row": a_row,
        "rows": lambda: writer.save_rows(NUMBERS, "rows", "rows"),
        "table": lambda: writer.save_table(NUMBERS, "t", "smoke_table"),
        "ranking": lambda: save_ranked(NUMBERS, small_disk / "ranking" / "ranked.csv"),
        "figure": figure,
    }


def held(folder):
    """Files and their bytes, without SQLite's scratch files, which are empty after a failure."""
    return {path: path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))}


def fill(disk):
    with pytest.raises(OSError), open(disk / "ballast", "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


NAMES = ("weights", "delta", "row", "rows", "table", "ranking", "figure")


@pytest.mark.parametrize("name", NAMES)
def test_full_disk_is_named_and_costs_nothing(writers, small_disk, name):
    writers[name]()
    before = held(small_disk)
    assert before
    fill(small_disk)
    if name == "row":
        writers[name].times = 1  # another row: one that is there is only read
    with pytest.raises(OSError, match="the disk is full: could not write .*which is unchanged"):
        writers[name]()
    (small_disk / "ballast").unlink()
    assert held(small_disk) == before
    writers[name]()  # and there is nothing that blocks it
