"""Files that a user names."""

import os
import socket
from pathlib import Path

import pytest

from convbench.files import open_regular


@pytest.mark.parametrize("mode", ["rb", "ab", "a+b", "wb"])
def test_a_regular_file_is_opened(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    (tmp_path / "link").symlink_to(path)
    for name in ("file", "link"):
        with open_regular(tmp_path / name, mode, buffering=0) as file:
            assert file.mode.replace("+", "") in {mode.replace("+", ""), "ab"}


def test_a_new_file_is_made(tmp_path):
    with open_regular(tmp_path / "new", "xb") as file:
        file.write(b"content")
    assert (tmp_path / "new").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing", "rb")
    with pytest.raises(FileExistsError):
        open_regular(tmp_path / "new", "xb")


@pytest.mark.parametrize("mode", ["rb", "ab", "xb", "a+b", "wb"])
def test_anything_else_is_refused_before_it_is_opened(tmp_path, mode):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for its other end
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(OSError, match="it is not a regular file"):
                open_regular(path, mode)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path, mode)
