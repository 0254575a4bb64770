"""Files that a user names: regular ones only, since others may wait for ever, or never end. Locks on files."""

from __future__ import annotations

import errno
import os
import stat
import weakref
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()
"""Open files with a lock."""


def open_regular(path: Path, mode: str, **options: Any) -> IO[Any]:
    """`path.open`, for what is a regular file or does not exist yet.

    Raises:
        OSError: as `path.open`; and before anything is opened, where `path` is a pipe, a device, a socket or a folder.
    """
    with suppress(FileNotFoundError):
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is not a regular file")
    return path.open(mode, **options)


def lock(file: IO[bytes], *, wait: bool = False) -> None:
    """Locks an unbuffered file for this process alone, until `unlock`; a system without such locks is left as it is.

    A child that a backend forks closes the file: it would share the lock, and may live longer.

    Raises:
        BlockingIOError: another process has it, and `wait` is not set.
        OSError: the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows has other locks: two runs are on their own there
        return
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    _LOCKED.add(file)


def unlock(file: IO[bytes]) -> None:
    """Gives the lock back, also where a child that C code forked has the file still open, and closes the file."""
    with suppress(ImportError, OSError, ValueError):  # without a lock, or closed
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
    with suppress(OSError):  # a disk may report its errors late: all that matters has been synced
        file.close()


def _close_in_child() -> None:
    for file in [*_LOCKED]:
        with suppress(OSError):
            file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
