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

from bnta_lib.suite import runner
from bnta_lib.suite.runner import Measurer, Unit, measure_all
from bnta_lib.suite.specs import TABLE_2, Spec
from conftest import lab_of

UNITS = {f"{spec.method} {split} {seed}": Unit("retrieval", "dots", spec, split, seed)
         for spec in TABLE_2[1:4] for split in (0, 1) for seed in (0, 1)}


@pytest.fixture(scope="module")
def several(tiny):
    """Settings of a profile that measures by several processes; one, until a test sets more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_DEVICE", "cpu")
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield replace(tiny, profile="rehearsal")


@pytest.fixture(scope="module")
def measurer(several, tiny_models, dots):
    return Measurer(several, {"bnta": tiny_models["bnta"]}, {"bnta": {"dots": dots}})


def numbers(measured) -> dict:
    """Rows by key without what differs between two measurements."""
    return {key: [{k: v for k, v in row.items() if k not in ("seconds", "machine")} for row in rows
                  if row["unit"] != "s"] for key, rows in measured}


@pytest.fixture(scope="module")
def expected(measurer):
    """The numbers of one process."""
    return numbers(measure_all(measurer, UNITS))


def test_number_of_workers_does_not_matter(measurer, expected, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured in this process"))
    assert set(expected) == set(UNITS) and numbers(measure_all(measurer, UNITS)) == expected


def test_worker_that_is_killed_costs_no_finished_unit(several, tiny_models, dots, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    lab, finished, again = lab_of(several, tiny_models, {"dots": dots}), [], []
    slow = [Spec(f"{n} epochs", overrides={"tta_epochs": n}) for n in (12, 13)]

    def killing(measurer, units):
        for key, rows in measure_all(measurer, units):
            yield key, rows
            finished.append(key)  # it is in the store
            if len(finished) == 2:
                for process in reusable_executor._executor._processes:
                    os.kill(process, signal.SIGKILL)

    monkeypatch.setattr("bnta_lib.suite.runner.measure_all", killing)
    with pytest.raises(BrokenExecutor):
        lab.measure(slow)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setattr("bnta_lib.suite.runner.measure_all",
                        lambda measurer, units: again.extend(units) or measure_all(measurer, units))
    rows = lab.measure(slow)
    assert 2 <= len(finished) < 8 and set(again).isdisjoint(finished) and len(again) == 8 - len(finished)
    assert len(rows.drop_duplicates(["method", "split", "seed"])) == 8


def test_this_process_measures_with_one_thread_as_others_do(measurer, monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(Measurer, "measure", lambda *_: seen.append(torch.get_num_threads()) or [])
    torch.set_num_threads(2)
    try:
        for _ in measure_all(measurer, UNITS):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


CLUSTER = """
import sys, torch
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as own:
        print(own.scheduler_address, *(worker.pid for worker in own.workers.values()), flush=True)
        sys.stdin.read()
"""


def test_cluster_with_a_killed_worker_gives_the_same_numbers(measurer, expected, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    (tmp_path / "scheduler.py").write_text(CLUSTER)
    environment = {**os.environ, "BNTA_CACHE": str(tmp_path / "elsewhere")}
    with subprocess.Popen([sys.executable, str(tmp_path / "scheduler.py")], env=environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        address, worker, _ = cluster.stdout.readline().split()
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        measured = {}
        for key, rows in measure_all(measurer, UNITS):
            if not measured:
                os.kill(int(worker), signal.SIGKILL)
            measured[key] = rows
        cluster.stdin.close()
    assert numbers(measured.items()) == expected
    assert not (tmp_path / "elsewhere").exists(), "only the parent writes"


def test_scheduler_that_does_not_answer_is_named(measurer, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setattr(runner, "PATIENCE", 1)
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:1 .*start one"):
        list(measure_all(measurer, UNITS))
