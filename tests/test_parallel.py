"""Measuring in other processes: the same rows as in this one, whatever dies on the way."""

import os
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import replace

import pytest
import torch
from joblib.externals.loky import reusable_executor

from bnta_lib.settings import Settings
from bnta_lib.suite import parallel
from bnta_lib.suite.parallel import measure_all
from bnta_lib.suite.runner import Measurer, Unit
from bnta_lib.suite.specs import TABLE_2, Spec
from conftest import lab_of

TIMED = ["seconds", "machine"]


@pytest.fixture
def several(tiny, monkeypatch) -> Settings:
    """Settings of a profile that measures by several processes; one, until a test sets more."""
    monkeypatch.setenv("BNTA_DEVICE", "cpu")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    return replace(tiny, profile="rehearsal")


@pytest.fixture
def measurer(several, tiny_models, dots):
    return Measurer(several, {name: tiny_models[name] for name in ("bnta", "baseline")},
                    {name: {"dots": dots} for name in ("bnta", "baseline")})


@pytest.fixture
def units():
    """Table 2's rows on two splits, two seeds each."""
    return {f"{spec.method} {split} {seed}": Unit("retrieval", "dots", spec, split, seed)
            for spec in TABLE_2 for split in (0, 1) for seed in (0, 1)}


def numbers(found) -> dict:
    """Rows by key without what differs between two measurements."""
    return {key: [{k: v for k, v in row.items() if k not in TIMED} for row in rows if row["unit"] != "s"]
            for key, rows in found}


def test_number_of_workers_does_not_matter(measurer, units, monkeypatch):
    alone = numbers(measure_all(measurer, units))
    assert set(alone) == set(units)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setattr(measurer, "measure", lambda unit: pytest.fail("measured in this process"), raising=False)
    monkeypatch.delattr(measurer, "measure")
    assert numbers(measure_all(measurer, units)) == alone


def test_this_process_measures_with_one_thread_as_others_do(measurer, units):
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measurer.measure = lambda unit: seen.append(torch.get_num_threads()) or []
        for _ in measure_all(measurer, units):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_what_measuring_raises_reaches_the_caller(measurer, units, monkeypatch):
    units["odd"] = Unit("retrieval", "dots", Spec("odd", options={"K": 99}), 0, 0)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    with pytest.raises(ValueError, match="K = 99"):
        list(measure_all(measurer, units))


def test_worker_that_is_killed_costs_no_finished_unit(several, tiny_models, dots, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    lab, seen, real = lab_of(several, tiny_models, {"dots": dots}), [], parallel.measure_all
    slow = [Spec(f"{n} epochs", overrides={"tta_epochs": n}) for n in range(40, 48)]

    def killing(measurer, units):
        for key, rows in real(measurer, units):
            yield key, rows
            seen.append(key)  # it is in the store
            if len(seen) == 2:
                for process in reusable_executor._executor._processes:
                    os.kill(process, signal.SIGKILL)

    monkeypatch.setattr("bnta_lib.suite.runner.measure_all", killing)
    with pytest.raises(BrokenExecutor):
        lab.measure(slow)
    again = []
    monkeypatch.setattr("bnta_lib.suite.runner.measure_all", lambda measurer, units: again.extend(units) or real(measurer, units))
    rows = lab.measure(slow)
    assert 2 <= len(seen) < 32 and set(again).isdisjoint(seen) and len(again) == 32 - len(seen)
    assert len(rows.drop_duplicates(["method", "split", "seed"])) == 32


CLUSTER = """
import sys, torch
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as own:
        print(own.scheduler_address, *(worker.pid for worker in own.workers.values()), flush=True)
        sys.stdin.read()
"""


def test_cluster_with_a_killed_worker_finishes_with_the_same_numbers(measurer, units, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    alone = numbers(measure_all(measurer, units))
    (tmp_path / "scheduler.py").write_text(CLUSTER)
    elsewhere = {**os.environ, "BNTA_CACHE": str(tmp_path / "elsewhere")}
    with subprocess.Popen([sys.executable, str(tmp_path / "scheduler.py")], env=elsewhere, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as cluster:
        address, *workers = cluster.stdout.readline().split()
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        found = {}
        for key, rows in measure_all(measurer, units):
            if not found:
                os.kill(int(workers[0]), signal.SIGKILL)
            found[key] = rows
        cluster.stdin.close()
    assert numbers(found.items()) == alone
    assert not (tmp_path / "elsewhere").exists(), "only the parent writes"


def test_scheduler_that_does_not_answer_is_named(measurer, units, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setattr(parallel, "PATIENCE", 1)
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        list(measure_all(measurer, units))


def test_processes_have_each_a_gpu_of_their_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(parallel.multiprocessing.current_process(), "_name", "LokyProcess-4")
    assert [parallel._device_here(torch.device(name)) for name in ("cpu", "cuda", "cuda:2")] == [
        torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda:2")]
