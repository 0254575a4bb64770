"""Files that a command writes whole: never over another one unasked, never half."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from convbench.errors import InputError


def check_output(path: Path, *, force: bool) -> None:
    """Refuses a file that could not be written, before time is spent on what goes into it.

    Raises:
        InputError: it exists and `force` is not set, or it is no regular file.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: it is not a regular file")
    if path.exists() and not force:
        raise InputError(f"{path} exists; --force overwrites it")


def write_output(path: Path, content: bytes) -> None:
    """The whole file or none: written beside its place, then moved there. A link stays one; so do permissions.

    Raises:
        InputError: it cannot be written.
    """
    temporary, target = None, path.resolve()
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied")  # noqa: TRY301
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        # A temporary file is its owner's alone.
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask)
        temporary.replace(target)
    except BaseException as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        raise
