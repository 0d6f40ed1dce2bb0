"""Sweeps over processes: the same store as one process makes, whatever dies on the way."""

import concurrent.futures
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.suite import experiments, store as results, parallel as sweeps
from bnta_lib.data.sets import ReIDSet, Split, Target

TIMED = ("seconds", "machine")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "alone"))


@pytest.fixture(scope="module")
def bench():
    """Four runs on two splits, with two seeds for those that have any: 14 units."""
    small = settings("smoke", base_width=4, local_dim=8, tta_batch=4, tta_seeds=2)
    torch.manual_seed(0)
    model = BNTANet(6, small).eval()
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 96, 48), dtype=torch.uint8, generator=random)
    data = ReIDSet("dots", images, torch.arange(1, 13).repeat(2),
                   torch.tensor([1, 2]).repeat_interleave(12))
    splits = (Split(torch.arange(12), torch.arange(12, 24)), Split(torch.arange(8), torch.arange(12, 22)))
    runs = (experiments.Run("none", adapter="none"), experiments.Run("all"),
            experiments.Run("two", options={"K": 2}), experiments.Run("adabn", adapter="adabn"))
    return experiments.Bench(runs, {"bnta": model}, {"dots": Target(data, splits)}, small)


def units(bench):
    return [("dots", run, split, seed) for run in range(4) for split in range(2)
            for seed in range(1 if run == 0 else 2)]


def store(folder):
    """Every file of the store by name: its rows without what differs between two measurements."""
    files = {}
    for path in (folder / "results").rglob("*.json"):
        held = json.loads(path.read_text())
        rows = [{k: v for k, v in row.items() if k not in TIMED and row["unit"] != "s"} for row in held["rows"]]
        files[path.name] = json.dumps([held["key"], rows])
    return files


@pytest.fixture(scope="module")
def serial(bench, tmp_path_factory):
    """What one process measures."""
    folder = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(folder))
        assert len(list(sweeps.measure_all(bench, units(bench), 1))) == 14
    found = store(folder)
    assert len(found) == 14
    return found


def test_two_processes_write_the_same_bytes_as_one_apart_from_times(bench, serial, tmp_path):
    assert len(list(sweeps.measure_all(bench, units(bench), 2))) == 14
    assert store(tmp_path / "alone") == serial


def test_measuring_in_this_process_has_other_threads_than_in_another(bench, monkeypatch):
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(bench, "measure", lambda unit: seen.append(torch.get_num_threads()), raising=False)
        for _ in sweeps.measure_all(bench, units(bench)[:2], 1):
            assert torch.get_num_threads() == 2  # the caller's own
        assert seen == [1, 1]

        def broken(unit):
            raise ValueError("broken")

        monkeypatch.setattr(bench, "measure", broken, raising=False)
        with pytest.raises(ValueError, match="broken"):
            list(sweeps.measure_all(bench, units(bench)[:1]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_bench_takes_what_it_measured_to_other_processes(bench, serial):
    bench.measure(units(bench)[2])
    assert bench._shared and not pickle.loads(sweeps._pickled(bench))._shared


def test_a_process_killed_in_the_middle_costs_no_row(bench, serial, tmp_path):
    sweep = sweeps.measure_all(bench, units(bench), 2)
    next(sweep)
    kept = {path: path.read_bytes() for path in (tmp_path / "alone" / "results").rglob("*.json")}
    victim = next(iter(sweeps._LOCAL[0].workers.values())).pid
    os.kill(victim, signal.SIGKILL)
    assert 1 + len(list(sweep)) == 14
    assert store(tmp_path / "alone") == serial
    assert kept and all(path.read_bytes() == was for path, was in kept.items()), "measured twice"


def test_all_processes_killed_at_once_cost_no_row(bench, serial, tmp_path):
    """The data that they were given is gone with them: it is handed out again."""
    sweep = sweeps.measure_all(bench, units(bench), 2)
    next(sweep)
    for worker in list(sweeps._LOCAL[0].workers.values()):
        os.kill(worker.pid, signal.SIGKILL)
    assert 1 + len(list(sweep)) == 14
    assert store(tmp_path / "alone") == serial


def test_any_executor_of_concurrent_futures_measures_the_same(bench, serial, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool, sweeps.over(pool):
        before = torch.get_num_threads()
        assert len(list(sweeps.measure_all(bench, units(bench)))) == 14
    torch.set_num_threads(before)
    assert store(tmp_path / "alone") == serial
    assert not list((tmp_path / "alone" / "sweeps").iterdir()), "what was handed over lies about"


def test_a_process_places_models_by_another_rule(bench, monkeypatch):
    """Processes ask the rule for themselves: one without the GPU that is asked for says so."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool, sweeps.over(pool):
        before = torch.get_num_threads()
        sweep = sweeps.measure_all(bench, units(bench))
        monkeypatch.setattr(sweeps, "device_of", lambda profile: torch.device("meta", 0))
        with pytest.raises(NotImplementedError, match="meta"):
            list(sweep)
    torch.set_num_threads(before)
    monkeypatch.undo()
    monkeypatch.setenv("BNTA_DEVICE", "cuda:99")
    with pytest.raises(ValueError, match="BNTA_DEVICE is cuda:99"):
        list(sweeps.measure_all(bench, units(bench)))


def test_processes_are_not_one_a_core_or_one_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    counts = [sweeps._places(torch.device(name)) for name in ("cpu", "cuda", "cuda:1")]
    assert counts == [None, 3, 1]
    own = [sweeps._own(torch.device(name)) for name in ("cpu", "cuda", "cuda:1")]
    assert own == [torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")]


class Breaks(experiments.Bench):
    def measure(self, unit):
        if unit[1] == 2:
            raise ArithmeticError(f"no number for {unit}")
        return super().measure(unit)


def test_what_measuring_raises_reaches_the_caller_and_ends_the_sweep(bench):
    broken = Breaks(bench.runs, bench.models, bench.targets, bench.settings)
    with pytest.raises(ArithmeticError, match="no number for"):
        list(sweeps.measure_all(broken, units(bench), 2))


class Dies(experiments.Bench):
    def measure(self, unit):
        os._exit(9)


def test_a_measurement_that_ends_every_process_is_named_and_not_tried_for_ever(bench):
    deadly = Dies(bench.runs, bench.models, bench.targets, bench.settings)
    with pytest.raises(RuntimeError, match="process after process"):
        list(sweeps.measure_all(deadly, units(bench)[:2], 2))


SCRIPT = """
    import sys
    from distributed import LocalCluster
    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as own:
            print(own.scheduler_address, flush=True)
            sys.stdin.read()
"""


def test_a_scheduler_with_a_store_of_its_own_hands_its_rows_over(bench, serial, tmp_path, monkeypatch):
    """A machine elsewhere: another cache, reached by an address."""
    elsewhere = {**os.environ, "BNTA_CACHE": str(tmp_path / "elsewhere")}
    script = tmp_path / "scheduler.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as machine:
        monkeypatch.setenv("BNTA_CLUSTER", machine.stdout.readline().strip())
        # Its processes read this module's classes from this folder alone.
        assert len(list(sweeps.measure_all(bench, units(bench)))) == 14
        machine.stdin.close()
    assert store(tmp_path / "alone") == serial
    assert store(tmp_path / "elsewhere") == serial


def test_a_scheduler_that_does_not_answer_is_named(bench, monkeypatch):
    monkeypatch.setenv("BNTA_CLUSTER", "tcp://127.0.0.1:1")
    monkeypatch.setattr(sweeps, "PATIENCE", 1)
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        list(sweeps.measure_all(bench, units(bench)))


def test_a_pool_that_is_none_is_refused():
    with pytest.raises(ValueError, match="got 3"), sweeps.over(3):
        pass


@pytest.mark.parametrize("change, words", [
    (lambda text: text[:-30], "came damaged"),
    (lambda text: "[]", "came damaged"),
    (lambda text: text.replace('"value": ', '"value": 1'), "came damaged"),
])
def test_a_measurement_damaged_on_its_way_is_refused(bench, change, words, tmp_path, monkeypatch):
    unit = units(bench)[0]
    text = bench.measure(unit)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=words):
        bench.keep(unit, change(text))
    assert not bench.known(unit)
    bench.keep(unit, text)
    assert bench.known(unit)


def test_a_measurement_of_another_version_or_setting_is_refused(bench, tmp_path, monkeypatch):
    unit = units(bench)[2]
    text = bench.measure(unit)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "other"))
    other = experiments.Bench(bench.runs, bench.models, bench.targets, replace(bench.settings, tta_lr=0.1))
    with pytest.raises(ValueError, match="with other settings"):
        other.keep(unit, text)
    monkeypatch.setattr(results, "code_digest", lambda module="": "of a later version")
    with pytest.raises(ValueError, match="with other code"):
        bench.keep(unit, text)


def test_a_script_without_a_main_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from bnta_lib import sweeps\nsweeps._local(2)\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode and "__main__" in run.stderr
