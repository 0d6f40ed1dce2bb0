"""Files and folders that are whole or absent, and the processes that make them."""

import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from joblib import Parallel, cpu_count, parallel_config

UNFINISHED = ".unfinished-"  # how the names of temporary files and folders begin


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path for a file, moved to ``path`` if the block ends well. OSError on a full disk."""
    with _beside(Path(path)) as new:
        yield new
        os.replace(new, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As :func:`atomic` for a folder, empty at first. Raises FileExistsError if ``path`` is a file."""
    path = path.resolve()  # a link still leads to the new folder
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: move it, or choose another folder")
    with _beside(path) as new:
        new.mkdir()
        yield new
        if path.exists():
            path.rename(new.with_name("old"))
        new.rename(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path in a temporary folder beside ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for rest in path.parent.glob(f"{UNFINISHED}*"):  # of processes that were killed a week ago or earlier
        with suppress(FileNotFoundError):  # of a process that has just ended
            if time.time() - rest.stat().st_mtime > 7 * 86_400:
                shutil.rmtree(rest, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
            yield Path(folder, "new")
    except Exception as error:  # some writers put the system's error into words, or raise their own after it
        if any(words in f"{error} {error.__context__}" for words in ("No space left", "quota exceeded")):
            raise OSError(errno.ENOSPC, f"the disk is full: could not write {path}, which is unchanged; free "
                          "some space, or choose another disk (BNTA_CACHE for the cache)") from error
        raise


KINDS = {b"PK\3\4": "a zip file, as of torch.save,", b"\x80": "a pickle, as of torch.save,",
         b"<": "a web page", b"version https://git-lfs": "a pointer of Git LFS", b"": "a file"}


def content(path: str | Path) -> str:
    """What a file holds, for a message: its size, its first bytes, and which kind they are of."""
    with open(path, "rb") as file:
        first = file.read(24)
    kind = next(kind for beginning, kind in KINDS.items() if first.startswith(beginning))
    return f"it is {kind} of {os.path.getsize(path):,} bytes, which begins with {first[:16]!r}"


@contextmanager
def in_processes(jobs: Iterable[tuple], workers: int) -> Iterator[Iterator]:
    """Results of joblib's delayed ``jobs``, in order, as processes of one thread each make them."""
    loky = parallel_config("loky", inner_max_num_threads=1, initializer=end_with, initargs=(os.getpid(),))
    with loky, closing(Parallel(workers, return_as="generator", batch_size=1)(jobs)) as results:
        yield results


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """``work`` of each item, in order, in as many threads as there are cores: for what releases Python's
    lock, as decoders of images do."""
    with ThreadPoolExecutor(min(16, cpu_count())) as threads:
        yield from threads.map(work, items)


def end_with(parent: int) -> None:
    """End this process soon after its parent: it may stand still in a pipe that nobody reads."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
