"""Processes of this program that it starts itself: how they begin and end, and what a backend answers in one.

Each is called with the same arguments, a hidden option and, under `--isolate`, the backends that it is for alone. It
writes to its stdout what is meant for its parent, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any

from convbench.backends import RUN, BackendSpec
from convbench.errors import ConvbenchError
from convbench.tasks import Silent
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def start(arguments: Sequence[str], how: str, only: Sequence[str] = (), **pipes: Any) -> subprocess.Popen[bytes]:
    """A process called with the command-line `arguments` and `how`, for the backends `only` or else for all.

    Ctrl-C, which the terminal sends to it as well, waits until it has begun: its imports would end in a traceback.
    """
    # -P: modules of the working directory must not stand in for ours.
    command = [sys.executable, "-P", "-m", "convbench", *arguments, how, *(f"--only={text}" for text in only)]
    with interrupts_blocked():
        return subprocess.Popen(command, env=environ(), **pipes)


def environ() -> dict[str, str]:
    """The environment of a process that this one starts to measure in."""
    return os.environ | {RUN: str(os.getpid())}


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits, also for a process started meanwhile, which must let it through."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin() -> IO[str]:
    """Stdout for what this process has to say to its parent: what backends print goes to stderr, from now on.

    Ctrl-C ends it without a word. Where the system can, it ends with its parent.
    """
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):  # a child of a backend must not keep the reader waiting
        os.register_at_fork(after_in_child=lambda: os.close(lines.fileno()))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return lines


def ending(code: int) -> str:
    """How a process ended: the name of a signal, or its exit code."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:  # a signal without a name
        return f"signal {-code}"


def silent(text: str, arguments: Sequence[str], timeout_s: float, device: int | None = None) -> BackendSpec | None:
    """What stands for the backend of a `-b` argument that ends or hangs its process when it is asked.

    None if it answers: all that the command-line `arguments` ask of it, on this device if one is given, else on those
    of the arguments. That it raises something is an answer, too.
    """
    asked = "asked what it can do" + ("" if device is None else f" on device {device}")
    on = [] if device is None else [f"--device={device}"]  # the last one counts
    with tempfile.TemporaryFile() as written:  # no pipe: a process that a backend starts may hold it open
        child = start(
            [*arguments, *on], "--ask", [text], stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.DEVNULL
        )
        reason = f"{asked}, it took longer than {format_time(timeout_s)} (--timeout)"
        try:
            code = child.wait(timeout_s)
            reason = f"{asked}, it ended its process ({ending(code)})"
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()
            child.wait()
        written.seek(0)
        said = [json.loads(line) for line in written]
    if said and said[-1]["type"] == "asked":
        return None
    path, _, name = text.rpartition(".py:")
    name, _, algorithm = name.partition(":") if path else text.partition(":")
    return BackendSpec(Silent(said[0]["name"] if said else name, algorithm, reason), algorithm or None, text)


def answer(lines: IO[str], load: Callable[[], Sequence[BackendSpec]], ask: Callable[[Any], object]) -> None:
    """The child's part of `silent`."""

    def say(**line: str) -> None:
        lines.write(json.dumps(line) + "\n")
        lines.flush()

    with contextlib.suppress(ConvbenchError):  # which the parent will meet as well
        specs = load()
        say(type="backend", name=str(specs[0].backend.name))
        ask(specs)
    say(type="asked")
