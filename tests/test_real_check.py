"""What the check of a data folder counts, what it calls a difference, and its exit codes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import scipy.io
from bnta_lib.data.__main__ import main
from bnta_lib.data.check import check
from bnta_lib.data.published import SETS
from bnta_lib.settings import PAPER_SOURCES
from real_trees import LAYOUTS, full_names, full_tree, pixel, tree


@pytest.fixture
def viper(tmp_path) -> Path:
    """A whole VIPeR of one-pixel images."""
    for cam in "ab":
        folder = tmp_path / "data" / "VIPeR" / f"cam_{cam}"
        folder.mkdir(parents=True)
        for i in range(632):
            (folder / f"{i:03d}_45.bmp").write_bytes(pixel("bmp"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("small")
    for name, of_name in LAYOUTS.items():
        tree(name, of_name[0], root)
    return root


@pytest.mark.slow
def test_papers_counts_reconcile_exactly_and_every_difference_is_named(capsys):
    """121,765 images and 18,530 people, from a tree of as many files; then what is done to it."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        root = full_tree(folder)
        assert main(["check", str(root)]) == 0
        said = capsys.readouterr().out
        for name, (images, people) in PAPER_SOURCES.items():
            assert re.search(rf"{name} +source +\w+ +{people} +{people} +{images} +{images} +True", said)
        assert re.search(r"mixture +sources +5 of 5 +18530 +18530 +121765 +121765 +True", said)
        assert "VIPeR is not there: python -m bnta_lib.data fetch VIPeR" in said

        # A download that was cut short, an empty file, a person who was renamed, a missing part.
        market = root / "Market-1501-v15.09.15"
        for name in sorted(os.listdir(market / "query"))[:368]:
            (market / "query" / name).unlink()
        shutil.rmtree(root / "CUHK02" / "Dataset" / "P3")
        empty = next((root / "cuhksysu" / "cropped_images").iterdir())
        empty.unlink()
        empty.touch()
        for file in (root / "DukeMTMC-reID" / "bounding_box_train").glob("0702_*"):
            file.rename(file.with_name(file.name.replace("0702_", "0701_")))
        _, differences, _ = check(root)
        assert main(["check", str(root)]) == 1
    assert differences == [
        "CUHK02: 6,836 of 7,264 images, 1,709 of 1,816 people", "CUHK02: P3: 0 of 428 images, 0 of 107 people",
        "Market-1501: 29,051 of 29,419 images, 1,501 of 1,501 people",
        "Market-1501: query: 3,000 of 3,368 images, 677 of 750 people",
        "DukeMTMC-reID: 36,411 of 36,411 images, 1,811 of 1,812 people",
        "DukeMTMC-reID: train: 16,522 of 16,522 images, 701 of 702 people",
        f"CUHK-SYSU: {empty} is empty or cannot be opened"]


def test_full_tree_has_the_counts_of_the_publications():
    """The tree that proves the reconciliation, counted without the library."""
    counts = {place: len(names) for place, names in full_names()}
    assert all(len(set(names)) == len(names) for _, names in full_names())
    assert sum(counts.values()) == 121_765 + 2_798 + 3_819
    assert counts["Market-1501-v15.09.15/bounding_box_test"] == 19_732
    assert counts["cuhksysu/cropped_images"] == 34_574
    people = {name[:6] for place, names in full_names() if place.startswith("cuhk03") for name in names}
    assert len(people) == 1_467


def test_whole_set_is_exact_and_the_others_are_said_where_to_get(viper, capsys):
    assert main(["check", str(viper)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"VIPeR +target +bmp +632 +632 +1264 +1264 +True", said)
    assert re.search(r"mixture +sources +0 of 5 +18530 +0 +121765 +0 +False", said)
    for name, entry in SETS.items():
        if name != "VIPeR":
            line = next(line for line in said.splitlines() if line.startswith(f"{name} is not there"))
            assert ("fetch" if entry.url else entry.ask) in line


def test_folder_without_sets_and_missing_folder_have_code_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 2
    assert main(["check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_command_runs_as_a_module_and_prints_no_traceback(viper):
    (viper / "VIPeR" / "cam_b" / "000_45.bmp").unlink()
    command = [sys.executable, "-m", "bnta_lib.data", "check", str(viper)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr
    assert "VIPeR: cam_b: 631 of 632 images, 631 of 632 people" in done.stdout


def test_wrong_mat_and_missing_partitions_are_differences(tmp_path):
    top = tree("GRID", "folders", tmp_path)
    assert not any("mat" in sentence for sentence in check(tmp_path)[1])
    scipy.io.savemat(top / "features_and_partitions.mat", {"other": [1]})
    assert any("does not hold GRID's splits" in sentence for sentence in check(tmp_path)[1])
    (top / "features_and_partitions.mat").unlink()
    assert any("features_and_partitions.mat is not below" in sentence for sentence in check(tmp_path)[1])
    (tmp_path / "cuhk-03.mat").write_text("no MATLAB")
    assert any("cuhk-03.mat does not list CUHK03" in sentence for sentence in check(tmp_path)[1])


def test_names_cannot_write_lines_of_the_report(tmp_path, capsys):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe\x1b[2K\nVIPeR is whole/cam_a"
    os.makedirs(folder)
    with open(folder + b"/000_45.bmp", "wb"):
        pass
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "is empty" in said and "\x1b" not in said and "\nVIPeR is whole" not in said


def test_checking_and_reading_write_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    check(small)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


def test_root_without_a_name_is_not_the_current_folder(capsys):
    for command in (["check", ""], ["pack", " "], ["prepare", "a.zip", ""], ["fetch", "VIPeR", ""]):
        with pytest.raises(SystemExit, match="2"):
            main(command)
        assert "it is empty: is a variable not set?" in capsys.readouterr().err
