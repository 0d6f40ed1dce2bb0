"""Files that are whole or absent: written beside their place, then moved there in one step."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def a_path(text: str) -> Path:
    """The path that an argument of a command names, ``~`` being the home folder. An empty one would be
    the current folder: a variable that is not set must not unpack there."""
    if "\0" in text:
        raise argparse.ArgumentTypeError("no path has a character of value 0")
    path = Path(not_empty(text))
    return path.expanduser() if text.startswith(("~/", "~\\")) or text == "~" else path


def not_empty(text: str) -> str:
    """An argument that is no variable that was not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: is a variable not set?")
    return text


def friendly_os_error(error: Exception, path: str | Path) -> OSError | None:
    """An error of writing ``path`` as one that says what is wrong and what to do; None for others."""
    # Some writers put the system's error into words (safetensors) or raise one of their own while
    # they handle it (torch).
    code = getattr(error if isinstance(error, OSError) else error.__context__, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return OSError(errno.ENOSPC, f"the disk is full: could not write {path}; free some "
                       "space, or choose a folder on another disk (BNTA_CACHE for the cache), then run again; "
                       "what was there before is unchanged")
    if code in (errno.EACCES, errno.EROFS, errno.EPERM):
        return OSError(code, f"no permission to write {path}: choose a folder that you may "
                       "write to (BNTA_CACHE for the cache)")
    if code in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return OSError(code, f"cannot write {path}: a file stands where a folder should be, or "
                       "a folder where the file should be")
    return None


def _here() -> str:
    """Stands for the processes that see each other's ids: of one machine since its start, and of one
    container. Empty where that cannot be told.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        told = boot + os.readlink("/proc/self/ns/pid") + os.uname().nodename
        return hashlib.sha256(told.encode()).hexdigest()[:12]
    except OSError:  # no Linux
        return ""


def _before(path: Path) -> str:
    """How all names of temporary files beside ``path`` begin; never too long for a file system."""
    name = os.fsencode(path.name)
    if len(name) > 200:
        cut = name[:180].decode("utf-8", "ignore")
        return f".{cut}~{hashlib.sha256(name).hexdigest()[:12]}."
    return f".{path.name}."


def marked(path: Path) -> str:
    """How names of this process's temporary files and folders beside ``path`` begin, up to a dash."""
    return f"{_before(path)}{_here()}-{os.getpid()}-"


def left_behind(path: Path) -> list[Path]:
    """Temporary files and folders beside ``path`` (see :func:`marked`) whose process was killed.

    Never those of a process that lives. Hosts may share a name, and containers a host: what was
    made on another machine, in another container or before a restart is left alone, since whether
    its process lives cannot be told from here.
    """
    here, before = _here(), _before(path)
    names: list[str] = []
    with suppress(OSError):  # a folder that may be written to and not read
        names = os.listdir(path.parent)
    ours = re.compile(re.escape(before + here) + r"-([1-9]\d{0,8})-\w{8}\.\w+")
    found = [(name, ours.fullmatch(name)) for name in names if here and name.startswith(before)]
    return [path.parent / name for name, match in found if match and not _lives(int(match[1]))]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there if the block ends well, else leave ``path`` as it was.

    Raises OSError, naming ``path``, on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in path.parent.glob(".unfinished-*.tmp"):  # of processes that were killed a day ago or earlier
        if time.time() - file.stat().st_mtime > 86_400:
            file.unlink(missing_ok=True)
    temporary = path.with_name(f".unfinished-{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:  # some writers put the system's error into words, or raise their own after it
        if "No space left" in f"{error} {error.__context__}" or "quota exceeded" in f"{error} {error.__context__}":
            raise OSError(errno.ENOSPC, f"the disk is full: could not write {path}, which is unchanged; free some "
                          "space, or choose another disk (BNTA_CACHE for the cache)") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside ``path``; it takes the place of what stands there when the block ends well.

    On any error what stood at ``path`` is as before. A process that is killed does not lose it either: the
    next one finds it, and removes what that one left. A link at ``path`` is followed. Errors are those of
    :func:`atomic`, and FileExistsError where a file stands there.
    """
    if path.is_symlink():  # the folder is replaced, and the link still leads to it
        path = path.resolve()
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: move it, or choose another folder")
    for left in left_behind(path):
        if left.suffix == ".old" and not path.exists():  # killed after the old one was put aside
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)
    partial = old = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=marked(path), suffix=".new"))
        old = partial.with_suffix(".old")
        yield partial
        partial.chmod(0o755)  # mkdtemp's folder is private
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except OSError as error:
        if (said := friendly_os_error(error, path)) is not None:
            raise said from error
        raise
    finally:
        if old is not None and old.exists() and not path.exists():
            old.rename(path)
        for left in (partial, old):
            if left is not None:
                shutil.rmtree(left, ignore_errors=True)
