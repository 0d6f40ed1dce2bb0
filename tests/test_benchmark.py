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
from bnta_lib.settings import PAPER_SOURCES, settings

TINY = (16, 8)  # counts and splits do not depend on the size of a picture


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def targets(cache):
    return load_targets(settings("smoke", height=TINY[0], width=TINY[1], splits=10))


@pytest.mark.parametrize(("name", "probe", "gallery", "pool"), [
    ("VIPeR", 316, 316, 1264), ("GRID", 125, 900, 1275), ("iLIDS", 60, 60, 476)])  # fmt: skip
def test_targets_have_the_counts_of_table_1(targets, name, probe, gallery, pool):
    target = targets[name]
    assert len(target.data) == pool and len(target.splits) == 10
    for split in target.splits:
        assert (len(split.probe), len(split.gallery)) == (probe, gallery)


def test_pools_have_the_people_of_the_real_sets(targets):
    assert [t.data.people for t in targets.values()] == [632, 250, 119]
    assert int((targets["GRID"].data.pids == 0).sum()) == 775
    count = torch.bincount(targets["iLIDS"].data.pids)[1:]
    assert (int(count.min()), int(count.max())) == (2, 8)


@pytest.mark.parametrize("name", benchmark.TARGETS)
def test_each_probe_has_one_match_from_another_camera(targets, name):
    data, splits = targets[name].data, targets[name].splits
    for split in splits:
        probes, gallery = data.pids[split.probe], data.pids[split.gallery]
        assert len(torch.unique(probes)) == len(probes)
        assert torch.equal(probes, gallery[: len(probes)])
        matched = split.gallery[: len(probes)]
        assert (data.camids[split.probe] != data.camids[matched]).all()
        assert not torch.isin(split.probe, split.gallery).any()
    assert len({tuple(s.probe.tolist()) for s in splits}) == len(splits), "splits must differ"


def test_distractors_match_nobody_and_come_from_gallery_cameras(targets):
    data = targets["GRID"].data
    for split in targets["GRID"].splits:
        assert (data.pids[split.probe] > 0).all() and (data.pids[split.gallery[125:]] == 0).all()
        assert (data.camids[split.probe] <= 4).all() and (data.camids[split.gallery] >= 5).all()


def test_a_split_does_not_depend_on_how_many_there_are(targets):
    two = load_targets(settings("smoke", height=TINY[0], width=TINY[1], splits=2))
    assert torch.equal(two["iLIDS"].splits[1].probe, targets["iLIDS"].splits[1].probe)


def test_mixed_sources_have_the_requested_counts_and_their_own_cameras():
    wanted = settings("smoke")
    data = load_sources(wanted)
    assert len(data) == sum(wanted.images.values()) and data.people == sum(wanted.people.values())
    assert torch.equal(torch.unique(data.pids), torch.arange(1, data.people + 1))
    for pid in (1, data.people):
        assert len(torch.unique(data.camids[data.pids == pid])) >= 2


def test_real_counts_are_met_exactly_without_rendering():
    for name, (images, people) in PAPER_SOURCES.items():
        ids, cams, numbers = benchmark._source_plan(benchmark.DOMAINS[name], 1, people, images)
        assert len(ids) == images and len(np.unique(ids)) == people
        assert np.bincount(ids)[1:].min() >= 2
        assert cams.max() == benchmark.DOMAINS[name].cameras - 1
        shots = np.stack((ids, cams, numbers), 1)
        assert len(np.unique(shots, axis=0)) == images, "a shot must not be rendered twice"


def test_more_people_do_not_change_those_there_are():
    few = benchmark.source("CUHK02", 4, 16, (32, 16)).images
    assert torch.equal(benchmark.source("CUHK02", 8, 32, (32, 16)).images[:4], few[:4])


def test_held_out_people_are_not_those_of_training():
    trained = benchmark._source_plan(benchmark.DOMAINS["CUHK-SYSU"], 1, 11_934, 34_574)[0]
    held = load_source(settings("smoke"), "CUHK-SYSU", "heldout")
    assert isinstance(held, Target) and held.data.people == settings("smoke").heldout
    assert trained.max() < benchmark.HELD_OUT < benchmark.DISTRACTORS < 1 << 24
    for split in held.splits:
        assert (held.data.camids[split.probe] != held.data.camids[split.gallery]).all()


def cached_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "sets").iterdir()}


def refuse(*args, **more):
    raise AssertionError("rendered again, or by processes")


def test_a_cached_set_is_read_back_and_one_cut_short_is_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    first = benchmark.source("CUHK03", 4, 8, TINY)
    (path,) = (tmp_path / "sets").iterdir()
    assert np.array_equal(np.load(path), first.images)
    for damaged in (path.read_bytes()[:-1], b"not a set"):
        path.write_bytes(damaged)
        assert benchmark.source("CUHK03", 4, 8, TINY).digest == first.digest
    monkeypatch.setattr(benchmark, "render", refuse)
    again = benchmark.source("CUHK03", 4, 8, TINY)
    again.images[0] = 0  # a reader that writes changes its own copy alone
    assert benchmark.source("CUHK03", 4, 8, TINY).digest == first.digest


@pytest.fixture
def several(monkeypatch):
    """Two processes for every set of 40 images or more, in blocks that do not divide them."""
    monkeypatch.setattr(benchmark, "MANY", 40)
    monkeypatch.setattr(benchmark, "BLOCK", 15)
    monkeypatch.setenv("BNTA_WORKERS", "2")


def test_two_processes_write_the_same_file_as_one(tmp_path, monkeypatch, several):
    for workers in "12":
        monkeypatch.setenv("BNTA_CACHE", str(tmp_path / workers))
        monkeypatch.setenv("BNTA_WORKERS", workers)
        for photometric in (True, False):
            benchmark.source("CUHK02", 10, 40, (64, 32), photometric=photometric)
    assert cached_files(tmp_path / "1") == cached_files(tmp_path / "2")
    assert len(set(cached_files(tmp_path / "1").values())) == 2


def test_an_interrupted_set_leaves_no_file(tmp_path, monkeypatch, several):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))

    class Stopped(benchmark.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(benchmark, "tqdm", Stopped)
        benchmark.source("CUHK02", 15, 60, TINY)
    assert not list((tmp_path / "sets").iterdir())
    assert len(benchmark.source("CUHK02", 15, 60, TINY)) == 60


@pytest.mark.slow
def test_a_killed_process_leaves_no_worker_and_no_set(tmp_path):
    code = ("from bnta_lib.rendered import benchmark as b; b.MANY, b.BLOCK = 0, 64; "
            "b.source('CUHK02', 200, 20_000, (16, 8))")
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL,
                           env={**os.environ, "BNTA_CACHE": str(tmp_path), "BNTA_WORKERS": "2"})
    while not any(path.stat().st_size > 10_000 for path in tmp_path.glob("sets/.*/new")):
        assert run.poll() is None
        time.sleep(0.1)
    workers = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(run.pid)], text=True).split()
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30
    while alive := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert len(workers) >= 2 and not list(tmp_path.glob("sets/*.npy"))


@pytest.mark.parametrize("images, parent, workers", [(39, None, "2"), (40, object(), "2"), (40, None, "1")])
def test_few_images_are_rendered_here_and_so_are_those_of_a_worker(
        tmp_path, monkeypatch, several, images, parent, workers):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setenv("BNTA_WORKERS", workers)
    monkeypatch.setattr(benchmark.multiprocessing, "parent_process", lambda: parent)
    rendered_here = []
    monkeypatch.setattr(benchmark, "render", lambda *given: rendered_here.append(1) or torch.zeros(
        len(given[1]), 3, *TINY, dtype=torch.uint8))
    benchmark.source("CUHK02", 10, images, TINY)
    assert len(rendered_here) == 3


def test_a_full_disk_is_named_and_nothing_half_written_stays(small_disk, monkeypatch, several):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    with pytest.raises(OSError, match="the disk is full: could not write .*BNTA_CACHE"):
        benchmark.source("CUHK03", 10, 100, (64, 32))
    assert not list((small_disk / "sets").iterdir())


@pytest.mark.parametrize("call", [
    lambda: benchmark.source("Market", 4, 8, TINY), lambda: benchmark.target("PRID", TINY),
    lambda: benchmark.source("CUHK02", 8, 4, TINY), lambda: benchmark.heldout("VIPeR", 4, TINY),
    lambda: load_source(settings("smoke"), "CUHK02", "test"),
    lambda: benchmark.mixed([], 0, "none"),
])  # fmt: skip
def test_bad_requests_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_sets_and_splits_refuse_what_does_not_fit():
    images, ones = torch.zeros(2, 3, 4, 2, dtype=torch.uint8), torch.ones(2, dtype=torch.int64)
    good = ReIDSet("x", images, ones, ones)
    assert good.people == 1 and len(good.digest) == 64
    for bad in ((images.float(), ones, ones), (images, ones[:1], ones), (images, ones, 0 * ones)):
        with pytest.raises(ValueError):
            ReIDSet("x", *bad)
    with pytest.raises(ValueError):
        Split(torch.tensor([0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError):
        Target(good, (Split(torch.tensor([0]), torch.tensor([2])),))
