"""Fresh pairs of processes that measure the same rows by turns: one holds the old version, one the new.

A side is a Python interpreter with a convbench and backends of its own. Its process, `PYTHON -m convbench.pairs`,
answers each line of JSON with one: it plans a row, or measures it once. Only one side works at a time.
"""

from __future__ import annotations

import json
import math
import queue
import random
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from convbench import __version__
from convbench.accuracy import DEFAULT_ACCURACY
from convbench.children import begin, ending
from convbench.compare import screen_value
from convbench.confirm import PAIRS
from convbench.errors import ConvbenchError, InputError
from convbench.result import Row, RowKey
from convbench.stats import median
from convbench.timing import FULL_ROUNDS, Columns, Round, RowTimer, TimingOptions
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROTOCOL = 1
"""Of the lines: raised when a side of another version would misunderstand them."""
NULL = -1
"""The place of the null control among the rows."""
ROUND_S = 0.05
"""Seconds of samples for one value, or one launch where that lasts longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A version.

    Attributes:
        title: "old" or "new", for messages.
        python: its interpreter.
        backends: what `-b` calls a backend there, by the name that it has in rows; the others have that name.
    """

    title: str
    python: str
    backends: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One launch of one row.

    Attributes:
        row: its place, or NULL.
        ratio: median of log(new / old) over its pairs; None where it could not be measured.
        old_s: median seconds of the old side; `new_s` of the new one.
        reason: why it could not be measured.
    """

    row: int
    ratio: float | None = None
    old_s: float | None = None
    new_s: float | None = None
    reason: str = ""


def launches(
    keys: Sequence[RowKey], old: Side, new: Side, count: int, *, timeout_s: float = 600.0, seed: int = 0
) -> Iterator[Launched]:
    """Launches each row `count` times, in seeded orders; in the first launch all sides verify their plans.

    The first row is also measured by two processes of the new side: the null control, whose place is NULL. A row that
    fails on a side is given up. A side may be silent for `timeout_s`.

    Raises:
        ConvbenchError: a side cannot be started, is of another protocol, ends, or is silent.
    """
    rng = random.Random(seed)
    places = [NULL, *range(len(keys))]
    for launch in range(count):
        rng.shuffle(places)
        with _started(old, timeout_s) as one, _started(new, timeout_s) as two, _started(new, timeout_s) as three:
            for place in [*places]:
                pair = (three, two) if place == NULL else (one, two)
                found = _launched(place, keys[max(place, 0)], pair, rng, verify=launch == 0)
                if found.reason:
                    places.remove(place)
                yield found


def _launched(
    place: int, key: RowKey, pair: tuple[_Process, _Process], rng: random.Random, *, verify: bool
) -> Launched:
    for process in pair:
        backend = process.side.backends.get(key.backend, key.backend)
        answer = process.ask({"plan": key.to_dict(), "backend": backend, "verify": verify})
        if answer["reason"]:
            return Launched(row=place, reason=f"{process.side.title}: {answer['reason']}")
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PAIRS):
        for side in rng.sample((0, 1), 2):
            answer = pair[side].ask({"measure": True})
            if answer["reason"]:
                return Launched(row=place, reason=f"{pair[side].side.title}: {answer['reason']}")
            flags = {int(index): tuple(names) for index, names in answer["flags"].items()}
            columns = Columns(tuple(answer["wall_s"]), tuple(answer["cpu_s"]), flags)
            seconds[side].append(screen_value([Round(answer["launches"], columns)], key.threads))
    ratios = [math.log(b / a) for a, b in zip(*seconds, strict=True)]
    return Launched(row=place, ratio=median(ratios), old_s=median(seconds[0]), new_s=median(seconds[1]))


class _Process:
    """The process of a side, as its parent sees it."""

    def __init__(self, side: Side, timeout_s: float) -> None:
        self.side, self.timeout_s = side, timeout_s
        # -P: modules of the working directory must not stand in for ours.
        command = [side.python, "-P", "-m", "convbench.pairs"]
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise InputError(f"cannot start {side.python}: {error.strerror}") from None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as written:
            for line in written:
                self._lines.put(line)
        self._lines.put(b"")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ConvbenchError: the process has ended, or is silent.
        """
        assert self._child.stdin is not None
        with suppress(OSError):  # where it has ended, its silence shows it
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        try:
            line = self._lines.get(timeout=self.timeout_s)
        except queue.Empty:
            raise ConvbenchError(f"the {self.side.title} side was silent for {format_time(self.timeout_s)}") from None
        if not line:
            how = ending(self._child.wait())
            raise ConvbenchError(f"the {self.side.title} side, {self.side.python}, ended ({how})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def greet(self) -> tuple[str, str]:
        """Version and folder of its convbench.

        Raises:
            ConvbenchError: it is of another protocol, has ended, or is silent.
        """
        answer = self.ask({"protocol": PROTOCOL})
        if answer.get("protocol") != PROTOCOL:
            raise InputError(
                f"the {self.side.title} side has convbench {answer.get('version')}, which speaks another protocol "
                f"({answer.get('protocol')}, not {PROTOCOL})"
            )
        return answer["version"], answer["folder"]

    def end(self) -> None:
        """Ends the process."""
        self._child.kill()
        self._child.wait()
        assert self._child.stdin is not None
        with suppress(OSError):  # what was not flushed
            self._child.stdin.close()


@contextmanager
def _started(side: Side, timeout_s: float) -> Iterator[_Process]:
    process = _Process(side, timeout_s)
    try:
        process.greet()
        yield process
    finally:
        process.end()


def version(side: Side, timeout_s: float) -> tuple[str, str]:
    """Version and folder of the convbench that a side loads.

    Raises:
        ConvbenchError: it cannot be started, is of another protocol, ends, or is silent.
    """
    process = _Process(side, timeout_s)
    try:
        return process.greet()
    finally:
        process.end()


# The child's part


def serve(requests: IO[str], lines: IO[str]) -> None:
    """Answers requests until there are no more; holds one plan at a time."""
    timer: RowTimer | None = None
    for text in requests:
        request = json.loads(text)
        if "protocol" in request:
            answer: dict[str, Any] = {
                "protocol": PROTOCOL,
                "version": __version__,
                "folder": str(Path(__file__).parent),
            }
        elif "plan" in request:
            timer = None  # room for the next
            timer, reason = _timer(request)
            answer = {"reason": reason}
        else:
            answer = _measured(timer)
        lines.write(json.dumps(answer, allow_nan=False) + "\n")
        lines.flush()


def _timer(request: dict[str, Any]) -> tuple[RowTimer | None, str]:
    """What times the row of a request; or why there is no plan of it, or none that is right."""
    from convbench.backends import parse_backend
    from convbench.fold import key_from_json
    from convbench.operands import Operands
    from convbench.runner import RunOptions, Spent, prepare
    from convbench.tasks import describe, tasks

    try:
        key = key_from_json(json.dumps(request["plan"]).encode())
        timing = TimingOptions(max_time_s=FULL_ROUNDS * ROUND_S)
        options = RunOptions(
            threads=key.threads, max_memory=sys.maxsize, timing=timing, accuracy=key.accuracy or DEFAULT_ACCURACY
        )
        backend = parse_backend(f"{request['backend']}:{key.algorithm}")
        (task,) = tasks([key.case], [backend], key.threads, (key.cache,), options.accuracy)
        if reason := task.unavailable or task.candidate.reason:
            return None, reason
        threadpool_limits(key.threads)
        operands = Operands(key.case.problem, key.case.dtype, options.seed)
        if request["verify"]:
            made = prepare(task, operands, options, Spent())
            if isinstance(made, Row):
                return None, f"{made.status}: {made.reason}"
            plan = made.plan
        else:
            plan = task.backend.plan(task.case, task.algorithm, operands, options.plan)
        return RowTimer(plan.run, task.backend.device().clock(key.threads), timing), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend may raise anything
        return None, describe(error)


def _measured(timer: RowTimer | None) -> dict[str, Any]:
    """One round of a row; or why there is none."""
    from convbench.tasks import describe

    assert timer is not None
    try:
        measured, _ = timer.round()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend may raise anything
        return {"reason": describe(error)}
    wall_s, cpu_s, flags = measured.columns
    return {"reason": "", "launches": measured.launches, "wall_s": wall_s, "cpu_s": cpu_s, "flags": flags}


if __name__ == "__main__":
    serve(sys.stdin, begin())
