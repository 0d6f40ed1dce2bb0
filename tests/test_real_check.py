"""What the check of a data folder counts, what it calls a difference, and what it says is the cause."""

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import scipy.io
from bnta_lib.data.__main__ import main
from bnta_lib.data import check as checking
from bnta_lib.data.catalogue import CATALOGUE
from bnta_lib.data.check import check, differing
from bnta_lib.data.layouts import find_sets
from bnta_lib.data.records import Found, Sample
from bnta_lib.settings import PAPER_SOURCES
from PIL import Image
from real_trees import LAYOUTS, TOP, crop, full_names, full_tree, pixel, tree, write_person_mat


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(pixel(name.rpartition(".")[2].lower()))
    return folder


@pytest.fixture
def viper(tmp_path) -> Path:
    """A whole VIPeR of one-pixel images."""
    for cam in "ab":
        pixels(tmp_path / "data" / "VIPeR" / f"cam_{cam}", [f"{i:03d}_45.bmp" for i in range(632)])
    return tmp_path / "data"


@pytest.mark.slow
def test_the_papers_counts_reconcile_exactly_and_every_difference_is_named(capsys):
    """121,765 images and 18,530 people, from a tree of as many files; then what is done to it."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        root = full_tree(folder)
        assert main(["check", str(root)]) == 0
        said = capsys.readouterr().out
        for name, (images, people) in PAPER_SOURCES.items():
            assert re.search(rf"{name} +{images:,} +{images:,} +{people:,} +{people:,} +exact", said)
        assert re.search(r"mixture +121,765 +121,765 +18,530 +18,530 +exact +5 of 5 sources", said)
        assert re.search("DukeMTMC-reID, for information: taken off its site", said)
        assert "VIPeR is not there: python -m bnta_lib.data fetch VIPeR" in said

        # A download that was cut short, an empty file, a person who was renamed, cleaned of junk.
        market = root / "Market-1501-v15.09.15"
        for number, name in enumerate(sorted(os.listdir(market / "query"))[:368]):
            (market / "query" / name).unlink()
        for file in market.glob("bounding_box_test/-1_*"):
            file.unlink()
        shutil.rmtree(root / "CUHK02" / "Dataset" / "P3")
        empty = next((root / "cuhksysu" / "cropped_images").iterdir())
        empty.unlink()
        empty.touch()
        for file in (root / "DukeMTMC-reID" / "bounding_box_train").glob("0702_*"):
            file.rename(file.with_name(file.name.replace("0702_", "0701_")))
        report = check(root)
    assert report.exit_code == 1
    differences = report.differences
    assert [name for name in differences if not differences[name]] == ["CUHK03"]
    assert differences["Market-1501"] == [
        "query: 3,000 of 3,368 images (368 missing), as after a download or an unpacking that was cut short"]
    assert any("0 of 3,819 junk (person -1) are in this copy" in note for note in report.notes["Market-1501"])
    assert differences["CUHK02"] == ["P3 is missing"]
    assert differences["CUHK-SYSU"] == [
        f"1 file without content (0 bytes), to be unpacked again: {empty}"]
    assert differences["DukeMTMC-reID"] == [
        "train: 701 people instead of 702: files were renamed, or are missing"]


def test_the_trees_full_counts_are_those_of_the_publications():
    """The tree that proves the reconciliation, counted without the library."""
    counts = {place: len(names) for place, names in full_names()}
    assert all(len(set(names)) == len(names) for _, names in full_names())
    assert sum(counts.values()) == 121_765 + 2_798 + 3_819
    assert counts["Market-1501-v15.09.15/bounding_box_test"] == 19_732
    assert counts["cuhksysu/cropped_images"] == 34_574
    people = {name[:6] for place, names in full_names() if place.startswith("cuhk03") for name in names}
    assert len(people) == 1_467


def test_a_whole_set_is_exact_and_the_others_are_said_where_to_get(viper, capsys):
    assert main(["check", str(viper)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"VIPeR +1,264 +1,264 +632 +632 +exact", said)
    assert re.search(r"mixture +0 +121,765 .* differs +0 of 5 sources", said)
    for name, described in CATALOGUE.items():
        if name != "VIPeR":
            line = next(line for line in said.splitlines() if line.startswith(f"{name} is not there"))
            assert ("fetch" if described.url else described.ask) in line


def test_exit_codes_of_a_folder_without_sets_and_of_no_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 2
    assert "no published set was found" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_line_runs_as_a_module_and_prints_no_traceback(viper):
    (viper / "VIPeR" / "cam_b" / "000_45.bmp").unlink()
    command = [sys.executable, "-m", "bnta_lib.data", "check", str(viper)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr
    assert "VIPeR: cam_b: 631 of 632 images (1 missing)" in done.stdout


# ---- causes


def counted(name: str, layout: str, parts: dict[str, tuple[int, range]]) -> Found:
    """A set of so many images and such people in each part, without its files."""
    here = Path(__file__)
    samples = (Sample(here, people[i % len(people)], 1, part)
               for part, (images, people) in parts.items() for i in range(images))
    return Found(name, layout, Path("/"), tuple(samples))


def cuhk03(layout: str, images: int) -> Found:
    people = {"P1": range(843), "P2": range(1_000, 1_440), "P3": range(2_000, 2_077),
              "P4": range(3_000, 3_058), "P5": range(4_000, 4_049)}
    first = images - sum(10 * len(people[pair]) for pair in ("P2", "P3", "P4", "P5"))
    return counted("CUHK03", layout, {pair: (first if pair == "P1" else 10 * len(own), [p + 1 for p in own])
                                      for pair, own in people.items()})


def test_labeled_boxes_are_told_from_detected_ones():
    assert differing(cuhk03("mat_detected", 14_097)) == differing(cuhk03("mat_labeled", 14_096), True) == []
    (said,) = differing(cuhk03("images_labeled", 14_096))
    assert said.startswith("these are the labeled boxes, 14,096 where whole; the paper's are the detected")
    (said,) = differing(cuhk03("images", 14_096))  # the count tells, where the folder does not
    assert said.startswith("these are the labeled boxes")
    (said,) = differing(cuhk03("mat_detected", 14_097), labeled=True)
    assert said == "these are the detected boxes: no labeled ones are there"
    short = differing(cuhk03("images_labeled", 14_000))
    assert "labeled boxes" in short[0] and "14,000 of 14,096 images (96 missing)" in short[1]


def test_a_train_part_alone_is_named_so(tmp_path):
    top = tree("Market-1501", "folders", tmp_path)
    shutil.rmtree(top / "query")
    shutil.rmtree(top / "bounding_box_test")
    said = check(tmp_path).differences["Market-1501"]
    assert said[0] == "only train is there: query and gallery are missing"


def test_more_images_than_published_are_named_with_their_likely_cause():
    people = {"train": range(1, 752), "query": range(752, 1_502), "gallery": range(752, 1_502)}

    def market(**parts) -> Found:
        return counted("Market-1501", "folders", {part: (n, people[part]) for part, n in parts.items()})

    assert differing(market(train=12_936, query=3_368, gallery=13_115)) == []
    (said,) = differing(market(train=12_936, query=3_368, gallery=13_115 + 2_798))
    assert "2,798 more than published: as many as its distractors (person 0000) are" in said
    (said,) = differing(market(train=12_936, query=3_368, gallery=13_115 + 3_819 + 2_798))
    assert "6,617 more than published: as many as its junk and distractors are" in said
    (said,) = differing(market(train=12_937, query=3_368, gallery=13_115))
    assert "1 more than published: images of another part or set" in said


def test_people_out_of_range_half_unpacked_folders_and_downloads_are_differences(viper):
    (viper / ".Market.zip.part").mkdir()
    (viper / "GRID.zip.part").write_bytes(b"x")
    report = check(viper)
    assert report.exit_code == 1 and not any(report.differences.values())
    assert any("half-unpacked" in line for line in report.problems)
    assert any("not finished" in line for line in report.problems)


def test_a_wrong_mat_and_one_without_its_set_are_differences(tmp_path):
    top = tree("GRID", "folders", tmp_path)
    assert not any("mat" in sentence for sentence in check(tmp_path).differences["GRID"])
    scipy.io.savemat(top / "features_and_partitions.mat", {"other": [1]})
    assert any("does not hold GRID's splits" in sentence for sentence in check(tmp_path).differences["GRID"])
    (top / "features_and_partitions.mat").unlink()
    assert any("features_and_partitions.mat" in sentence for sentence in check(tmp_path).differences["GRID"])
    (tmp_path / "cuhk-03.mat").write_text("no MATLAB")
    report = check(tmp_path)
    assert any("cuhk-03.mat is not" in problem for problem in report.problems) and report.exit_code == 1


def test_links_that_lead_nowhere_are_named(viper):
    file = viper / "VIPeR" / "cam_a" / "005_45.bmp"
    file.unlink()
    file.symlink_to(viper / "nowhere.bmp")
    (said,) = check(viper).differences["VIPeR"]
    assert "1 file that cannot be opened" in said and str(file) in said


def test_names_that_no_terminal_can_show_are_printed(tmp_path, capsys):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe VIPeR/cam_a"
    os.makedirs(folder)
    with open(folder + b"/000_45.bmp", "wb"):
        pass
    assert main(["check", str(tmp_path)]) == 1
    assert "0 bytes" in capsys.readouterr().out


# ---- every image decoded


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("small")
    for name, of_name in LAYOUTS.items():
        tree(name, of_name[0], root)
    return root


def test_deep_decodes_every_image_of_every_layout(small, tmp_path):
    report = check(small, deep=True)
    assert report.decoded == sum(len(found) for found in report.found.values())
    assert not any("decoded" in sentence for said in report.differences.values() for sentence in said)
    assert f"{report.decoded:,} images can be decoded" in report.text()


def test_deep_finds_truncated_empty_and_false_images(small, tmp_path):
    root = shutil.copytree(small, tmp_path / "a b ü")
    market, duke, viper, grid, ilids = (
        sorted(path for path in (root / TOP[name]).rglob("*") if path.suffix in (".jpg", ".bmp", ".jpeg"))
        for name in ("Market-1501", "DukeMTMC-reID", "VIPeR", "GRID", "iLIDS"))
    Image.new("RGB", (64, 128), (9, 99, 199)).save(market[-1], quality=95)
    market[-1].write_bytes(market[-1].read_bytes()[:-300])
    duke[0].write_bytes(b"")
    viper[0].write_bytes(viper[0].read_bytes()[:100])
    grid[0].write_text("<html>404</html>")
    ilids[0].write_bytes(ilids[0].read_bytes()[:20])
    report = check(root, deep=True)
    for name, file in (("Market-1501", market[-1]), ("DukeMTMC-reID", duke[0]), ("VIPeR", viper[0]),
                       ("GRID", grid[0]), ("iLIDS", ilids[0])):
        what = "without content" if name == "DukeMTMC-reID" else "that cannot be decoded"
        (said,) = [text for text in report.differences[name] if str(file) in text]  # named once
        assert said.startswith("1 file ") and what in said
    assert report.decoded == sum(len(found) for found in report.found.values()) - 5
    assert report.exit_code == 1


def test_formats_that_start_other_programs_or_break_their_decoders_are_named(tmp_path):
    """EPS runs Ghostscript; a DDS of unknown flags raises what is neither OSError nor ValueError."""
    tree("VIPeR", "bmp", tmp_path, people=4)
    first, second, *_ = sorted((tmp_path / TOP["VIPeR"]).rglob("*.bmp"))
    first.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    second.write_bytes(b"DDS " + struct.pack("<31I", 124, *[0] * 30))
    report = check(tmp_path, deep=True)
    assert "2 files that cannot be decoded" in " ".join(report.differences["VIPeR"])


def test_a_name_cannot_write_lines_of_the_report(tmp_path):
    tree("VIPeR", "bmp", tmp_path, people=4)
    odd = tmp_path / "x\x1b[2K\nVIPeR: all is well"
    odd.mkdir()
    os.mkfifo(odd / "pipe\n")
    said = check(tmp_path).text()
    assert "\x1b" not in said and "\nVIPeR: all is well" not in said and r"x\x1b[2K\nVIPeR: all is well" in said


def test_deep_goes_on_where_it_was_stopped_and_looks_again_at_what_changed(
    small, tmp_path, monkeypatch, cache
):
    root = shutil.copytree(small, tmp_path / "copy")
    total = check(root, deep=True).decoded
    memory = cache / "decoded.txt"
    lines = memory.read_text().splitlines(keepends=True)
    seen = []
    real = checking._decode
    monkeypatch.setattr(checking, "_decode", lambda chunk: seen.extend(chunk) or real(chunk))
    assert check(root, deep=True).decoded == total and not seen  # all is remembered
    memory.write_text("".join(lines[:-10]) + lines[-10][:20])  # killed while it wrote a line
    assert check(root, deep=True).decoded == total and len(seen) == 10
    seen.clear()
    changed = next((root / TOP["VIPeR"]).rglob("*.bmp"))
    crop("another", 0).save(changed)
    os.utime(changed, (1, 1))
    assert check(root, deep=True).decoded == total
    assert [unit[0].file for _, unit in seen] == [changed]


def test_deep_remembers_nothing_of_what_it_could_not_decode(tmp_path):
    top = tree("VIPeR", "bmp", tmp_path / "data")
    broken = next(top.rglob("*.bmp"))
    broken.write_bytes(b"BM")
    for _ in range(2):
        assert any(str(broken) in said for said in check(tmp_path / "data", deep=True).differences["VIPeR"])


def test_deep_spreads_over_processes(viper, monkeypatch):
    """More images than one worker takes at once; one of them broken."""
    (viper / "VIPeR" / "cam_b" / "600_45.bmp").write_bytes(b"BM")
    monkeypatch.setenv("BNTA_WORKERS", "2")
    report = check(viper, deep=True)
    assert report.decoded == 1_263
    assert "600_45.bmp" in report.differences["VIPeR"][0]


def test_deep_counts_boxes_that_reach_out_and_names_those_outside(tmp_path):
    scene = tmp_path / "data" / "Image" / "SSM"
    scene.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(scene / "s1.jpg")
    boxes = {"p1": [("s1.jpg", (0, 0, 61, 40)), ("s1.jpg", (5, 5, 9, 9))], "p2": [("s1.jpg", (-2, 0, 9, 9))]}
    write_person_mat(tmp_path / "data" / "annotation" / "Person.mat", boxes)
    report = check(tmp_path / "data", deep=True)
    assert "2 boxes reach out of their pictures, and are clipped" in report.notes["CUHK-SYSU"]
    assert report.decoded == 3
    boxes["p3"] = [("s1.jpg", (60, 0, 5, 5))]
    write_person_mat(tmp_path / "data" / "annotation" / "Person.mat", boxes)
    report = check(tmp_path / "data", deep=True)
    assert any("the box (60, 0, 5, 5) lies outside its 60 x 40 pixels" in said
               for said in report.differences["CUHK-SYSU"])


def test_nothing_is_written_in_the_folder_and_all_in_the_cache(small, tmp_path, cache):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    check(small, deep=True)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert [path.name for path in cache.rglob("*")] == ["decoded.txt"]


def test_a_cache_that_cannot_be_written_is_said_once_and_costs_no_report(
    small, tmp_path, monkeypatch
):
    usual = check(small, deep=True)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "cache", "/proc/bnta"):
        monkeypatch.setenv("BNTA_CACHE", str(place))
        with pytest.warns(UserWarning, match="cannot be noted in .*: set BNTA_CACHE to a folder") as said:
            report = check(small, deep=True)
        assert len([w for w in said if "cannot be noted" in str(w.message)]) == 1
        assert (report.decoded, report.differences) == (usual.decoded, usual.differences)


@pytest.mark.parametrize("command", [["check", ""], ["pack", " "], ["prepare", "a.zip", ""],
                                     ["fetch", "VIPeR", ""], ["splits", "", "out"]])
def test_a_root_without_a_name_is_not_the_current_folder(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "it is empty: is a variable not set?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_stop_by_the_keyboard_is_said_in_one_line(small, monkeypatch, capsys):
    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "survey", stop)
    assert main(["check", str(small)]) == 130
    assert capsys.readouterr().err == "stopped: the same command goes on from here\n"


def test_what_is_found_is_what_is_counted(small):
    report, sets = check(small), find_sets(small)
    assert report.found == sets
    rows = {row["set"]: (row["images"], row["people"]) for _, row in report.table().iterrows()}
    assert rows.pop("mixture") == (
        f"{sum(len(sets[name]) for name in PAPER_SOURCES):,}",
        f"{sum(sets[name].people for name in PAPER_SOURCES):,}")
    assert rows == {name: (f"{len(found):,}", f"{found.people:,}") for name, found in sets.items()}
