"""Measuring side by side: by joblib's processes, or by the Dask cluster of ``$DASK_SCHEDULER_ADDRESS``.

Every process has one thread for it, this one too, since the rounding of gradients depends on their number:
results do not depend on how many processes there are. They return rows; only this process writes them.
"""

import multiprocessing
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import contextmanager

import torch
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor

from bnta_lib.files import end_with
from bnta_lib.settings import device_of

PATIENCE = 20  # seconds that a scheduler has to answer
# A network asks for the same large blocks again and again. glibc would give each back to the system and get
# it anew, page by page. Kept, in one arena and in large pages, they make the laptop's network 16 % faster.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
                "MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "OMP_NUM_THREADS": "1"}
_measurer = None  # of this process, if it is one of joblib's


def measure_all(measurer, units: Mapping) -> Iterator[tuple]:
    """Yield (key, rows) of each of ``units`` (key: unit) when ``measurer.measure`` has measured it.

    Raises what measuring raises, ConnectionError if no scheduler answers, and BrokenExecutor if one of this
    machine's processes is killed.
    """
    address, profile = os.environ.get("DASK_SCHEDULER_ADDRESS", "").strip(), measurer.settings.profile
    device = device_of(profile)
    workers = torch.cuda.device_count() if device.type == "cuda" else cpu_count()
    if profile == "smoke" or device.index is not None:
        workers = 1  # the smoke profile's work takes less than starting a process
    if not address and min(workers, len(units)) < 2:
        for key, unit in units.items():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                rows = measurer.measure(unit)
            finally:
                torch.set_num_threads(threads)
            yield key, rows
        return
    with _cluster(address, measurer) if address else _processes(workers, measurer) as submit:
        running = {submit(unit): key for key, unit in units.items()}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            for future in running:
                future.cancel()


@contextmanager
def _processes(workers: int, measurer) -> Iterator:
    """Submit units to joblib's processes on this machine, each with a measurer of its own."""
    executor = get_reusable_executor(workers, env=_ENVIRONMENT, initializer=_start,
                                     initargs=(pickle.dumps(measurer), os.getpid()))
    yield lambda unit: executor.submit(_measure, None, unit)


@contextmanager
def _cluster(address: str, measurer) -> Iterator:
    """Submit units to a Dask cluster. The measurer is a task of its own: made again if its worker dies."""
    from distributed import Client

    try:
        client = Client(address, set_as_default=False, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {address} ({error}): start one, or unset "
                              "DASK_SCHEDULER_ADDRESS to measure on this machine") from error
    with client:
        executor = client.get_executor(pure=False)
        shared = client.submit(pickle.loads, pickle.dumps(measurer), pure=False)
        yield lambda unit: executor.submit(_measure, shared, unit)


def _start(pickled: bytes, parent: int) -> None:
    global _measurer
    end_with(parent)
    _measurer = pickle.loads(pickled)


def _measure(measurer, unit) -> list[dict]:
    torch.set_num_threads(1)
    measurer = measurer or _measurer
    measurer.to(_device_here(device_of(measurer.settings.profile)))
    return measurer.measure(unit)


def _device_here(device: torch.device) -> torch.device:
    """This process's own of the GPUs that ``device`` means: joblib numbers its processes."""
    if device.type == "cpu" or device.index is not None:
        return device
    number = re.search(r"LokyProcess-(\d+)", multiprocessing.current_process().name)
    return torch.device("cuda", int(number[1]) % torch.cuda.device_count()) if number else device
