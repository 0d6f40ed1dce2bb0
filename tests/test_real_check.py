"""What the check of a data folder counts, what it calls a difference, and its exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_trees import PIXEL, full_names

from bnta_lib.data import mixture, published
from bnta_lib.data.__main__ import main
from bnta_lib.data.published import SETS, find_sets, found_table
from bnta_lib.settings import PAPER_SOURCES


@pytest.fixture
def viper(tmp_path) -> Path:
    """A whole VIPeR, each file a link to one of one pixel."""
    (tmp_path / "one.bmp").write_bytes(PIXEL)
    for cam in "ab":
        folder = tmp_path / "data" / "VIPeR" / f"cam_{cam}"
        folder.mkdir(parents=True)
        for i in range(632):
            os.link(tmp_path / "one.bmp", folder / f"{i:03d}_45.bmp")
    return tmp_path / "data"


def test_papers_counts_reconcile_exactly_and_every_difference_is_named(monkeypatch, capsys):
    """121,765 images and 18,530 people, by the names of all their files; then what is done to these."""
    names_in = dict(full_names())
    assert all(len(set(names)) == len(names) for names in names_in.values())
    assert sum(map(len, names_in.values())) == 121_765 + 2_798 + 3_819  # distractors and junk of Market-1501
    monkeypatch.setattr(published, "walk",
                        lambda root: [(f"{root}/{folder}", [], names) for folder, names in names_in.items()])
    sets = find_sets("/data")
    table, mixed = found_table(sets), mixture(sets)
    assert table.loc[[*PAPER_SOURCES, "mixture"], "equal"].all()
    assert table.loc["mixture", ["people, here", "images, here"]].tolist() == [18_530, 121_765]
    assert {name: (len(found), found.people) for name, found in sets.items()} == PAPER_SOURCES
    assert len(mixed) == 121_765 and {sample.pid for sample in mixed.samples} == set(range(1, 18_531))

    # A download that was cut short, a missing part, a person who was renamed.
    del names_in["Market-1501-v15.09.15/query"][:368]
    for camera in (1, 2):
        del names_in[f"CUHK02/Dataset/P3/cam{camera}"]
    train = "DukeMTMC-reID/bounding_box_train"
    names_in[train] = [name.replace("0702_", "0701_") for name in names_in[train]]
    assert main(["check", "/data"]) == 1
    printed = capsys.readouterr().out
    for name, people, images, equal in (
            ("CUHK02", "1816 +1709", "7264 +6836", False),
            ("Market-1501", "1501 +1501", "29419 +29051", False),
            ("DukeMTMC-reID", "1812 +1811", "36411 +36411", False),
            ("CUHK-SYSU", "11934 +11934", "34574 +34574", True)):
        assert re.search(rf"{name} +source +{people} +{images} +{equal}", printed)
    assert "VIPeR is not found: python -m bnta_lib.data fetch VIPeR" in printed
    assert "\nnot read: 6617 ending in .jpg (such as Market-1501-v15.09.15/bounding_box_test/-1_c" in printed


def test_files_that_belong_to_no_set_are_counted(viper, capsys):
    (viper / "VIPeR" / "cam_a" / "000_45.bmp").rename(viper / "VIPeR" / "cam_a" / "000_45.webp")
    (viper / "Market-1501.zip").write_bytes(b"PK")
    (viper / "LICENCE").write_text("x")
    assert main(["check", str(viper)]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("not read"))
    assert line == ("not read: 1 ending in nothing (such as LICENCE); 1 ending in .zip (such as "
                    "Market-1501.zip); 1 ending in .webp (such as VIPeR/cam_a/000_45.webp)")


def test_part_of_a_set_and_a_variant_by_name_are_refused(viper, tmp_path, capsys):
    assert main(["check", str(viper / "VIPeR" / "cam_a")]) == 2
    assert f"and VIPeR as published 1,264 of 632: give that folder, not {viper}" in capsys.readouterr().out
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / "x" / "Occluded_Duke" / part).mkdir(parents=True)
        (tmp_path / "x" / "Occluded_Duke" / part / "0001_c1_f0000001.jpg").write_bytes(PIXEL)
    with pytest.warns(UserWarning, match="Duke has 3 images .*: named as a variant, it is not read"):
        assert find_sets(tmp_path / "x") == {}


def test_whole_set_is_exact_and_for_the_others_it_is_printed_where_to_ask(viper, capsys):
    assert main(["check", str(viper)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"VIPeR +target +632 +632 +1264 +1264 +True", printed)
    assert re.search(r"mixture +sources +18530 +0 +121765 +0 +False", printed)
    for name, entry in SETS.items():
        if name != "VIPeR":
            line = next(line for line in printed.splitlines() if line.startswith(f"{name} is not found"))
            assert ("fetch" if entry.url else entry.ask) in line


def test_command_runs_as_a_module_and_prints_no_traceback(viper):
    (viper / "VIPeR" / "cam_b" / "000_45.bmp").unlink()
    command = [sys.executable, "-m", "bnta_lib.data", "check", str(viper)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr
    assert re.search(r"VIPeR +target +632 +632 +1264 +1263 +False", done.stdout)


def test_exit_code_tells_a_difference_from_a_folder_without_sets(viper, tmp_path, capsys):
    (viper / "cuhk-03.mat").write_text("no MATLAB")  # it only resembles a set
    assert main(["check", str(viper)]) == 1
    assert "cuhk-03.mat does not list CUHK03" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == main(["check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
