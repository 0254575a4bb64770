"""Files that a user names, and locks on them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from convbench.files import lock, open_regular, unlock


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


FORKING = """
import ctypes, os, sys, time
from convbench.files import lock, unlock

file = open("file", "ab", buffering=0)
lock(file)
reader, writer = os.pipe()
how, end = sys.argv[1:]
if (os if how == "Python" else ctypes.CDLL(None)).fork() == 0:
    os.close(reader)
    os.close(1)
    os.write(writer, b"x")
    time.sleep(20)
    os._exit(0)
os.read(reader, 1)  # the child is there
if end == "unlocked":
    unlock(file)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("how", "end"), [("Python", "killed"), ("Python", "unlocked"), ("C", "unlocked")])
def test_a_forked_child_does_not_keep_the_lock(tmp_path, how, end):
    subprocess.run([sys.executable, "-c", FORKING, how, end], cwd=tmp_path, check=True, timeout=60)
    with (tmp_path / "file").open("ab", buffering=0) as file:
        lock(file)  # raises BlockingIOError if the child has it still
        unlock(file)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_lock_is_for_one():
    with open_regular(Path(__file__), "rb", buffering=0) as one, open_regular(Path(__file__), "rb", buffering=0) as two:
        lock(one)
        with pytest.raises(BlockingIOError):
            lock(two)
        unlock(one)
        lock(two)
        unlock(two)
