"""Processes that render or decode images beside this one, and never outlive it."""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

T = TypeVar("T")


def side_by_side(work: Callable[..., T], jobs: Iterable[tuple], workers: int, *,
                 in_order: bool = True) -> Iterator[T]:  # fmt: skip
    """``work(*job)`` of each job, by ``workers`` processes of one thread each.

    The results come in the order of the jobs, or else as they are done. Close the iterator to end
    the work that waits. Raises what ``work`` raises.
    """
    warnings.filterwarnings("ignore", "A worker stopped while|\\d+ tasks (have|which)", UserWarning)
    order = "generator" if in_order else "generator_unordered"
    with parallel_config("loky", inner_max_num_threads=1):
        pool = Parallel(workers, return_as=order, batch_size=1)
        done = pool(delayed(_followed)(os.getpid(), work, job) for job in jobs)
        with closing(done):
            yield from done


def _followed(parent: int, work: Callable[..., T], job: tuple) -> T:
    if os.getpid() != parent:  # joblib's only worker is the process that asks
        _follow(parent)
    return work(*job)


@functools.cache
def _follow(parent: int) -> None:
    """From now on this process ends, wherever it stands, within a second of its parent's end.

    Waiting for work is no way to notice that: a parent that was killed may have left half a job
    in the pipe, or a lock that nobody opens.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
