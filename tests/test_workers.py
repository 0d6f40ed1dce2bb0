"""Processes that work for another: their results, and that they never outlive it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnta_lib.workers import side_by_side

CALLER = """
import os, time
from bnta_lib.workers import side_by_side

def work(seconds):
    time.sleep(seconds)
    return os.getpid()

for pid in side_by_side(work, [(0.1,)] * 4 + [(600,)] * 8, 2):
    print(pid, flush=True)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_results_are_out_of_order_or_exceptions_lost():
    jobs = [(number, 3) for number in range(20)]
    assert list(side_by_side(pow, jobs, 2)) == [n**3 for n in range(20)]
    assert sorted(side_by_side(pow, jobs, 2, in_order=False)) == [n**3 for n in range(20)]
    assert list(side_by_side(pow, jobs, 1)) == [n**3 for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(divmod, [(1, 0)], 2))


def test_the_work_is_done_in_this_process_or_with_all_threads():
    found = {pid for pid in side_by_side(os.getpid, [()] * 4, 2)}
    assert os.getpid() not in found
    assert set(side_by_side(os.getenv, [("OMP_NUM_THREADS",)] * 2, 2)) == {"1"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_workers_stay_when_their_parent_is_killed():
    """Killed while the workers are at work: nobody tells them."""
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True)
    try:
        workers = {int(caller.stdout.readline()) for _ in range(4)}
        assert workers and all(alive(pid) for pid in workers)
    finally:
        caller.kill()
        caller.wait()
    end = time.monotonic() + 30
    while left := [pid for pid in workers if alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)
