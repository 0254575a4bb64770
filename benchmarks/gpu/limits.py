"""A command with a time limit: what came of it is always known, and what it wrote is kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GRACE_S = 10.0
"""After an interrupt, for a command to write what it has; then it is killed, with all that it started."""
DONE, CUT, FAILED = "done", "cut short", "failed"
FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+@-]+/)+")
"""Absolute folders, which a report that is given away should not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a command.

    Attributes:
        status: DONE, CUT (the time was over) or FAILED.
        reason: of the last two, in one line.
        seconds: that it took.
    """

    status: str
    reason: str = ""
    seconds: float = 0.0


def run(
    command: Sequence[str], limit_s: float, log: Path, env: Mapping[str, str], good: Sequence[int] = (0,)
) -> Outcome:
    """Runs a command in a process group of its own, its output in `log`; exit codes in `good` are no failure.

    When `limit_s` is over it is interrupted, as by Ctrl-C, so that it keeps what it has measured.
    """
    try:
        return _run(command, limit_s, log, env, good)
    finally:
        log.write_text(without_folders(log.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")


def without_folders(text: str) -> str:
    """A text in which files go by their last name."""
    return FOLDERS.sub("…/", text)


def _run(command: Sequence[str], limit_s: float, log: Path, env: Mapping[str, str], good: Sequence[int]) -> Outcome:
    started = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Outcome(status=FAILED, reason=f"{command[0]} cannot be started: {error.strerror}")
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            spent = time.monotonic() - started
            return Outcome(status=CUT, reason=f"its {limit_s:.0f} s were over", seconds=spent)
        except BaseException:
            _end(process)
            raise
    seconds = time.monotonic() - started
    if code in good:
        return Outcome(status=DONE, seconds=seconds)
    return Outcome(status=FAILED, reason=_failure(code, log), seconds=seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupts the group of a process, and kills it where that does not end it."""
    for number, grace_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)


def _failure(code: int, log: Path) -> str:
    """Why a command ended so: the signal, or its exit code and the last line that it wrote."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return without_folders(f"exit code {code}: {lines[-1][:200]}" if lines else f"exit code {code}")
