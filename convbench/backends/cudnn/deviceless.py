"""Plan lists where there is no GPU, for one that is described: asked for in a process of their own.

cuDNN links libcuda. Where no driver brings it, that process loads a stand-in, which nothing else must meet.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import weakref
from importlib.resources import files
from typing import TYPE_CHECKING, Any, BinaryIO

from convbench.cache import cache_folder
from convbench.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from convbench.backends.cudnn.graphs import Description, Offered

DRIVER = "libcuda.so.1"
COMPILERS = ("cc", "gcc", "clang")


def descriptor() -> str:
    """Properties of the GPU that plans are listed for, in JSON: an H200."""
    return (files("convbench.backends.cudnn") / "h200.json").read_text(encoding="utf-8")


def described_gpu() -> str:
    """Its name."""
    return str(json.loads(descriptor())["deviceName"])


def stand_in() -> Path:
    """The stand-in for the driver's library, compiled into the cache folder if it is not there yet.

    Raises:
        UnsupportedError: it cannot be compiled here.
    """
    source = (files("convbench.backends.cudnn") / "libcuda.c").read_bytes()
    path = cache_folder() / f"libcuda-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    needs = "without an NVIDIA driver, cuDNN lists its plans only beside a stand-in for its library"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise UnsupportedError(f"{needs}, and no C compiler ({', '.join(COMPILERS)}) is here to make it")
    new = path.with_suffix(f".{os.getpid()}")
    options = ["-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{DRIVER}", "-o", str(new), "-"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *options], input=source, capture_output=True, check=True, timeout=60)
        new.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        new.unlink(missing_ok=True)
        raise UnsupportedError(f"{needs}, which cannot be compiled ({type(error).__name__})") from error
    return path


def load_driver() -> None:
    """Loads the driver's library, or the stand-in, for all libraries that this process loads later.

    Raises:
        UnsupportedError: neither can be had.
    """
    try:
        ctypes.CDLL(DRIVER, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        ctypes.CDLL(str(stand_in()), mode=ctypes.RTLD_GLOBAL)


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers each description with its plans, or with why there are none, until no more are asked for.

    What comes in and goes out are pickles between two processes of ours.
    """
    plans = functools.cache(_lister)
    while True:
        try:
            question = pickle.load(questions)
        except EOFError:
            return
        try:
            answer: Any = plans()(question)
        except UnsupportedError as error:
            answer = str(error)
        except Exception as error:  # noqa: BLE001  the other process says it
            answer = f"cuDNN cannot list plans here: {type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


def _lister() -> Any:
    """What lists the plans of a description."""
    load_driver()
    import cudnn

    from convbench.backends.cudnn.frontend import Graph, list_plans

    properties = cudnn.create_device_properties(descriptor())

    def lister(of: Description) -> list[Offered]:
        return list_plans(functools.partial(Graph, cudnn, of, properties=properties))

    return lister


COMMAND = """
import os, sys
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # cuDNN may log to stdout
from convbench.backends.cudnn.deviceless import serve
serve(sys.stdin.buffer, answers)
"""


class Lister:
    """The process that lists plans, started when it is first asked, and again if it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def plans(self, of: Description) -> list[Offered]:
        """The plans of a description.

        Raises:
            UnsupportedError: there are none, or the process ended.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(of, process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._process = None
            process.kill()
            status = process.wait()
            raise UnsupportedError(f"cuDNN ended the process that lists its plans (exit status {status})") from error
        if isinstance(answer, str):
            raise UnsupportedError(answer)
        found: list[Offered] = answer
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(
            [sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        weakref.finalize(self, _end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()
