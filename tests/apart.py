"""Work in a process of its own, for tests that kill it or set several beside each other.

The process that runs the tests is never forked: it has threads, and a fork would take over their locks as
they stand at that moment, and share some of them with it (tqdm's), which a kill then leaves locked for
good. These are forked from a process that has done nothing but import.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bnta_lib.training", "bnta_lib.suite.report", "bnta_lib.data.archives"])
PATIENCE = 300  # seconds after which a process counts as stuck


def begun(work: Callable, *arguments) -> BaseProcess:
    """A process that has just begun ``work``, a function of a module, with this one's environment."""
    ready, begins = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(begins, dict(os.environ), work, arguments), daemon=True)
    process.start()
    begins.close()
    assert ready.poll(PATIENCE) and ready.recv()
    return process


def ended(process: BaseProcess) -> int:
    """Its exit code, negative where a signal ended it."""
    process.join(PATIENCE)
    stuck = process.exitcode is None
    if stuck:
        process.kill()
    assert not stuck, f"it has not ended after {PATIENCE} seconds"
    return process.exitcode


def _work(begins, environment: dict[str, str], work: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    begins.send(True)
    work(*arguments)
