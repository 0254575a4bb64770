"""Files that a user names: regular ones only, since others may wait for ever, or never end."""

from __future__ import annotations

import errno
import stat
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


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
