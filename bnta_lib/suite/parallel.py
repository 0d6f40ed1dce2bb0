"""Sweeps: the measurements that the store lacks, side by side on cores, GPUs or a cluster.

Dask does the work: by default a cluster of this machine's own, one process a core, one thread each; where
models are on GPUs (:func:`.settings.device_of`), one process a GPU. :func:`over` and ``$BNTA_CLUSTER`` name
another: a scheduler's address, a Dask cluster (a ``dask_jobqueue.SLURMCluster``, say), or any executor of
the kind of :mod:`concurrent.futures`.

Whatever measures, numbers are the same: each process has one thread for it, this one too, since the
rounding of gradients hangs on their number. A process that dies is replaced and its measurement made
again; those that are finished are in the store already. What a machine without access to this one's
store has measured is handed over, and written here.
"""

from __future__ import annotations

import atexit
import concurrent.futures as futures
import functools
import io
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from bnta_lib.settings import Settings, cache_dir, device_of, worker_count

PATIENCE = 20  # seconds that a scheduler has to answer
_POOL: list[Any] = []  # what :func:`over` named, the last one counts


class Bench(Protocol):
    """What can be measured in other processes: see :class:`bnta_lib.suite.experiments.Bench`."""

    settings: Settings  # by whose profile processes place it

    def measure(self, unit: tuple) -> str: ...
    def keep(self, unit: tuple, text: str) -> None: ...
    def to(self, device: torch.device) -> None: ...


@contextmanager
def over(pool: Any) -> Iterator[None]:
    """``with over(pool):`` sweeps inside run on it.

    ``pool``: the address of a Dask scheduler ("tcp://10.0.0.1:8786"), a Dask cluster or client, or an
    executor with ``submit`` as in :mod:`concurrent.futures`. It is left open. Raises ValueError for
    anything else.
    """
    if not (isinstance(pool, str) or hasattr(pool, "submit") or hasattr(pool, "scheduler_address")):
        raise ValueError("sweeps run over the address of a Dask scheduler, a Dask cluster or client, or an "
                         f"executor of concurrent.futures; got {pool!r}")
    _POOL.append(pool)
    try:
        yield
    finally:
        _POOL.pop()


def measure_all(bench: Bench, units: Sequence[tuple], workers: int | None = None) -> Iterator[None]:
    """Measure ``units``; yields once for each as it is done.

    ``workers``: processes, where no pool is named (default: ``$BNTA_WORKERS``, else one a core, or one a GPU
    where models are on GPUs); with 1 the work stays in this process, and the models where they are. Raises
    what measuring raises, ConnectionError where no scheduler answers, RuntimeError where processes keep
    dying.
    """
    pool = _POOL[-1] if _POOL else os.environ.get("BNTA_CLUSTER", "").strip() or None
    workers = worker_count(workers or _places(device_of(bench.settings.profile)))
    if pool is None and (workers < 2 or len(units) < 2):
        for unit in units:
            with _one_thread():  # as the other processes have it: rounding hangs on their number
                bench.measure(unit)
            yield
        return
    with _executor(pool, min(workers, len(units))) as executor, _handed(executor, bench) as handle:
        # In their order, in which neighbours share features: Dask would draw lots among those of a moment.
        more = [{"priority": -place} if hasattr(executor, "_client") else {} for place in range(len(units))]
        running = {executor.submit(_in_worker, handle, unit, **how): unit for unit, how in zip(units, more)}
        try:
            for done in futures.as_completed(running):
                bench.keep(running[done], _result(done, running[done]))
                yield
        finally:
            for future in running:
                future.cancel()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _result(done: futures.Future, unit: tuple) -> str:
    kept = "(out of memory?): what is finished is kept, and the same call goes on"
    try:
        return done.result()
    except futures.BrokenExecutor as error:
        raise RuntimeError(f"a process of the executor died, which ends it {kept}") from error
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's, which this may not be
            raise
        raise RuntimeError(f"measuring {unit} ended process after process {kept}") from error


def _places(device: torch.device) -> int | None:
    """How many processes a device is for; None: one a core."""
    if device.type == "cpu":
        return None
    return torch.cuda.device_count() if device.index is None else 1


@contextmanager
def _handed(executor, bench: Bench) -> Iterator[Any]:
    """What the processes get the bench from: once, and not with every unit."""
    if (client := getattr(executor, "_client", None)) is not None:  # of Dask's executor
        # As a task of its own: where all processes that hold its result die, it is made again.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            yield client.submit(pickle.loads, _pickled(bench), pure=False)
        return
    # In the cache, which processes on other machines share if they share anything.
    (folder := cache_dir() / "sweeps").mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".pickle") as file:
        file.write(_pickled(bench))
        file.flush()
        yield Path(file.name)


class _ByCPU(pickle.Pickler):
    """Tensors of a GPU go as those of the CPU: the process that reads them may have no GPU, or another."""

    def reducer_override(self, found: object) -> Any:
        if not isinstance(found, torch.Tensor) or found.device.type == "cpu":
            return NotImplemented
        moved = found.detach().cpu()
        if isinstance(found, torch.nn.Parameter):
            moved = torch.nn.Parameter(moved, found.requires_grad)
        return moved.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _pickled(bench: Bench) -> bytes:
    pickler = _ByCPU(found := io.BytesIO(), pickle.HIGHEST_PROTOCOL)
    pickler.dump(bench)
    return found.getvalue()


def _in_worker(handle: Bench | Path, unit: tuple) -> str:
    torch.set_num_threads(1)
    bench = _unpickled(handle) if isinstance(handle, Path) else handle
    bench.to(_own(device_of(bench.settings.profile)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the store's, which the process that asks has given
        return bench.measure(unit)


@functools.lru_cache(maxsize=1)
def _unpickled(path: Path) -> Bench:
    return pickle.loads(path.read_bytes())


def _own(device: torch.device) -> torch.device:
    """This process's own of the GPUs that ``device`` means: local processes are numbered."""
    if device.type == "cpu" or device.index is not None:
        return device
    from distributed import get_worker

    try:
        number = int(get_worker().name)
    except (ValueError, TypeError):  # no process of Dask's, or one named otherwise
        number = 0
    return torch.device("cuda", number % torch.cuda.device_count())


@contextmanager
def _executor(pool: Any, workers: int) -> Iterator[Any]:
    """An executor of concurrent.futures' kind over ``pool``."""
    from distributed import Client

    if pool is None:
        yield _local(workers).get_executor(pure=False)
        return
    if isinstance(pool, Client):
        yield pool.get_executor(pure=False)
    elif isinstance(pool, str) or hasattr(pool, "scheduler_address"):
        try:
            client = Client(pool, set_as_default=False, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {pool} ({error}): start one, or leave "
                                  "BNTA_CLUSTER out to measure on this machine") from error
        with client:
            if not client.scheduler_info()["workers"]:
                warnings.warn(f"the scheduler at {client.scheduler.address} has no workers yet: what is to be "
                              "measured waits for one (`dask worker` with that address)", stacklevel=2)
            yield client.get_executor(pure=False)
    else:
        yield pool


# Threads of the processes that are started here. Dask would also have them give memory back at once
# (MALLOC_TRIM_THRESHOLD_), which costs a network that takes it again at every layer more than its
# arithmetic: VIPeR's ten adaptions took 38 s so, and take 15.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    # A network asks for the same large blocks again and again. glibc would give each back to the system and
    # get it anew, page by page: kept, and in large pages, they make the laptop's network 12 % faster. Work is
    # done in a thread, whose own arena is of 64 MiB heaps, unless there is one arena only: 4 % more.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_LOCAL: list[Any] = []  # this machine's own cluster and its client


def _local(workers: int):
    """A client of this machine's own cluster: started once, with as many processes as any sweep took."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set({"distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
                          "distributed.worker.profile.enabled": False}):  # a look at the stack every 10 ms
        if not _LOCAL:
            # Loopback and encrypted, since whoever reaches a scheduler can run code; no web page; and no limit
            # on memory but the machine's: a process that Dask ended for it would only begin again.
            try:
                cluster = LocalCluster(
                    n_workers=workers, threads_per_worker=1, host="127.0.0.1", security=True,
                    dashboard_address=None, scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    memory_limit=None, silence_logs=logging.CRITICAL)
                client = Client(cluster, set_as_default=False)
            except RuntimeError as error:
                raise RuntimeError("the processes that measure could not start: a script that measures does so "
                                   "below `if __name__ == \"__main__\":`; BNTA_WORKERS=1 does without "
                                   "them") from error
            _LOCAL.extend((cluster, client))
            atexit.register(cluster.close)
            atexit.register(client.close)
        cluster, client = _LOCAL
        if len(cluster.workers) < workers:
            cluster.scale(workers)
        client.wait_for_workers(workers, timeout=120)
    return client
