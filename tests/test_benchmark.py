"""The embedded benchmark: Table 1's counts, splits, people apart, and a cache to be trusted."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bnta_lib.data import load_source, load_sources, load_targets
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.rendered import benchmark
from bnta_lib.settings import PAPER_SOURCES, TARGETS, settings

TINY = (16, 8)  # counts and splits do not depend on the size of a picture
SMOKE = settings("smoke", height=TINY[0], width=TINY[1])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def targets(cache):
    return load_targets(settings("smoke", height=TINY[0], width=TINY[1], splits=10))


@pytest.mark.parametrize(("name", "probe", "gallery", "pool", "people"), [
    ("VIPeR", 316, 316, 1264, 632), ("GRID", 125, 900, 1275, 250), ("iLIDS", 60, 60, 476, 119)])
def test_targets_have_the_counts_of_table_1(targets, name, probe, gallery, pool, people):
    target = targets[name]
    assert (len(target.data), target.data.people, len(target.splits)) == (pool, people, 10)
    assert {(len(split.probe), len(split.gallery)) for split in target.splits} == {(probe, gallery)}
    assert int((target.data.pids == 0).sum()) == (775 if name == "GRID" else 0)
    if name == "iLIDS":
        count = torch.bincount(target.data.pids)[1:]
        assert (int(count.min()), int(count.max())) == (2, 8)


@pytest.mark.parametrize("name", TARGETS)
def test_each_probe_has_one_match_from_another_camera(targets, name):
    data, splits = targets[name].data, targets[name].splits
    for split in splits:
        probes, gallery = data.pids[split.probe], data.pids[split.gallery]
        assert len(torch.unique(probes)) == len(probes) and (probes > 0).all()
        assert torch.equal(probes, gallery[: len(probes)])
        matched = split.gallery[: len(probes)]
        assert (data.camids[split.probe] != data.camids[matched]).all()
        if name == "GRID":  # all others are distractors, by the gallery's cameras
            assert (gallery[125:] == 0).all()
            assert (data.camids[split.probe] <= 4).all() and (data.camids[split.gallery] >= 5).all()
    assert len({tuple(s.probe.tolist()) for s in splits}) == len(splits), "splits must differ"


def test_a_split_does_not_depend_on_how_many_there_are(targets):
    two = load_targets(SMOKE)
    assert torch.equal(two["iLIDS"].splits[1].probe, targets["iLIDS"].splits[1].probe)


def test_mixed_sources_have_the_requested_counts_and_their_own_cameras():
    data = load_sources(SMOKE)
    assert len(data) == sum(SMOKE.images.values()) and data.people == sum(SMOKE.people.values())
    assert torch.equal(torch.unique(data.pids), torch.arange(1, data.people + 1))
    for pid in (1, data.people):
        assert len(torch.unique(data.camids[data.pids == pid])) >= 2


def test_real_counts_are_met_exactly_without_rendering():
    for name, (images, people) in PAPER_SOURCES.items():
        ids, cams, numbers = benchmark._source_plan(benchmark.DOMAINS[name], 1, people, images)
        assert len(ids) == images and len(np.unique(ids)) == people
        assert np.bincount(ids)[1:].min() >= 2
        assert ids.max() < benchmark.HELD_OUT < benchmark.DISTRACTORS < 1 << 24
        assert cams.max() == benchmark.DOMAINS[name].cameras - 1
        shots = np.stack((ids, cams, numbers), 1)
        assert len(np.unique(shots, axis=0)) == images, "a shot must not be rendered twice"


def test_more_people_do_not_change_those_there_are():
    few = benchmark.source("CUHK02", 4, 16, (32, 16)).images
    assert torch.equal(benchmark.source("CUHK02", 8, 32, (32, 16)).images[:4], few[:4])


def test_held_out_people_are_seen_by_two_cameras():
    held = load_source(SMOKE, "CUHK-SYSU", "heldout")
    assert isinstance(held, Target) and held.data.people == SMOKE.heldout
    for split in held.splits:
        assert (held.data.camids[split.probe] != held.data.camids[split.gallery]).all()


def test_a_cached_set_is_read_back_and_one_cut_short_is_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    first = benchmark.source("CUHK03", 4, 8, TINY)
    (path,) = (tmp_path / "sets").glob("*.npy")
    pixels = first.images.clone()
    assert np.array_equal(np.load(path), pixels)
    for damaged in (path.read_bytes()[:-1], b"not a set"):
        path.write_bytes(damaged)
        assert benchmark.source("CUHK03", 4, 8, TINY).digest == first.digest
    monkeypatch.delattr(benchmark, "render")
    again = benchmark.source("CUHK03", 4, 8, TINY)
    again.images[0] = 0  # a reader that writes changes its own copy alone
    assert torch.equal(benchmark.source("CUHK03", 4, 8, TINY).images, pixels)
    for kept in (tmp_path / "sets").glob("*.digest"):  # once for all starts
        kept.write_text("known")
    assert benchmark.source("CUHK03", 4, 8, TINY).digest == "known"
    os.utime(path)
    assert benchmark.source("CUHK03", 4, 8, TINY).digest == first.digest


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """An empty cache, and blocks of 15 images, by several processes if there are 40 or more."""
    monkeypatch.setattr(benchmark, "MANY", 20)
    monkeypatch.setattr(benchmark, "BLOCK", 15)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    return tmp_path / "sets"


def test_two_processes_write_the_same_file_as_one(tmp_path, monkeypatch, blocks):
    whole = []
    for workers in "12":
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", workers)
        whole.append(benchmark.source("CUHK02", 10, 40, (32, 16)).images.clone())
        (path,) = blocks.glob("*.npy")
        path.unlink()
    assert torch.equal(*whole)
    assert not torch.equal(benchmark.source("CUHK02", 10, 40, (32, 16), photometric=False).images, whole[0])


def test_misaligned_boxes_show_the_same_people_elsewhere_and_in_other_sizes(blocks):
    own, *misaligned = (load_sources(settings("smoke", misaligned=share)) for share in (0, 0.15, 0.15))
    assert torch.equal(own.pids, misaligned[0].pids) and torch.equal(own.camids, misaligned[0].camids)
    assert misaligned[0].digest == misaligned[1].digest != own.digest
    # The rows where people stand out from the mean picture are more spread.
    spread = [data.images.float().std((1, 3)).argmax(1).float().std() for data in (own, misaligned[0])]
    assert spread[1] > spread[0]


def test_a_killed_process_leaves_no_worker():
    """Its workers are about to write into a pipe that nobody reads."""
    code = ("import time; from joblib import delayed; from bnta_lib.files import in_processes\n"
            "with in_processes((delayed(bytes)(20_000_000) for _ in range(99)), 2) as results:\n"
            "    next(results); print('running', flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "running\n"
        workers = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(run.pid)], text=True).split()
        run.kill()
    deadline = time.monotonic() + 60
    while alive := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert len(workers) >= 2


def test_a_full_disk_is_named_and_nothing_half_written_stays(small_disk, monkeypatch, blocks):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    with pytest.raises(OSError, match="the disk is full: could not write .*BNTA_CACHE"):
        benchmark.source("CUHK03", 10, 100, (64, 32))
    assert not list((small_disk / "sets").iterdir())


SET = ReIDSet("x", torch.zeros(2, 3, 4, 2, dtype=torch.uint8), torch.tensor([1, 1]), torch.tensor([1, 1]))


@pytest.mark.parametrize("call", [
    lambda: benchmark.source("CUHK02", 8, 4, TINY), lambda: load_source(SMOKE, "Market"),
    lambda: load_source(SMOKE, "CUHK02", "test"), lambda: benchmark.mixed([], "none"),
    lambda: ReIDSet("x", SET.images.float(), SET.pids, SET.camids),
    lambda: ReIDSet("x", SET.images, SET.pids[:1], SET.camids),
    lambda: ReIDSet("x", SET.images, SET.pids, 0 * SET.camids),
    lambda: Split(torch.tensor([0]), torch.tensor([0, 1])),
    lambda: Target(SET, (Split(torch.tensor([0]), torch.tensor([2])),))])
def test_bad_requests_and_sets_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError):
        call()
