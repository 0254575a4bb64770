"""Fresh pairs of processes that measure the same rows by turns: one holds the old version, one the new.

A side is a Python interpreter with a convbench and backends of its own. Its process, `PYTHON -m convbench.pairs`,
answers each line of JSON with one: it plans a row, or measures it once. Only one side works at a time.
"""

from __future__ import annotations

import json
import math
import os
import queue
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from convbench import __version__, environment
from convbench.accuracy import DEFAULT_ACCURACY
from convbench.children import begin, ending, environ, interrupts_blocked
from convbench.compare import screen_value
from convbench.confirm import NULL, PAIRS, Launched, launches_needed
from convbench.errors import ConvbenchError, InputError
from convbench.result import Row, RowKey, Status
from convbench.stats import median
from convbench.timing import FULL_ROUNDS, Columns, Round, RowTimer, TimingOptions
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROTOCOL = 3
"""Of the lines: raised when a side of another version would misunderstand them."""
ROUND_S = 0.05
"""Seconds of samples for one value, or one launch where that lasts longer."""
POLL_S = 1.0
"""How often a silent process is looked at."""


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


class _Lost(Exception):
    """A side has no answer for a row; `status` says what became of it."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def launches(
    keys: Sequence[RowKey], old: Side, new: Side, count: int | None, *, timeout_s: float = 600.0, seed: int = 0
) -> Iterator[Launched]:
    """Launches each row `count` times, as often as so many rows need if None; in seeded orders.

    In the first launch all sides verify their plans. In each launch one row, drawn by chance, is also measured by two
    processes of the new side: the null control, whose place is NULL. A row that is lost on a side is given up, and a
    process that ended with it, or was silent for `timeout_s`, is started anew.

    Raises:
        ConvbenchError: a side cannot be started, or is of another protocol.
    """
    rng = random.Random(seed)
    places = [*range(len(keys))]
    launch = 0
    while places and launch < (count or launches_needed(len(places))):
        with ExitStack() as stack:
            one, two, three = (stack.enter_context(_Process(side, timeout_s)) for side in (old, new, new))
            for process in (one, two, three):  # which begin side by side
                process.greet()
            chosen = rng.choice(places)
            order = [NULL, *places]
            rng.shuffle(order)
            for place in order:
                null = place == NULL
                pair = (three, two) if null else (one, two)
                found = _launched(place, keys[chosen if null else place], pair, rng, verify=launch == 0)
                if found.lost and null:
                    continue  # the row itself says so in its own place
                if found.lost:
                    places.remove(place)
                yield found
        launch += 1


def _launched(
    place: int, key: RowKey, pair: tuple[_Process, _Process], rng: random.Random, *, verify: bool
) -> Launched:
    lost = {}
    for process in pair:
        backend = process.side.backends.get(key.backend, key.backend)
        try:
            process.row({"plan": key.to_dict(), "backend": backend, "verify": verify})
        except _Lost as error:
            lost[process.side.title] = error.status, str(error)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(0 if lost else PAIRS):
        for side in rng.sample((0, 1), 2):
            try:
                answer = pair[side].row({"measure": True})
            except _Lost as error:
                return Launched(row=place, lost={pair[side].side.title: (error.status, str(error))})
            flags = {int(index): tuple(names) for index, names in answer["flags"].items()}
            columns = Columns(tuple(answer["wall_s"]), tuple(answer["cpu_s"]), flags)
            seconds[side].append(screen_value([Round(answer["launches"], columns)], key.threads))
    if not lost and min(*seconds[0], *seconds[1]) <= 0:
        lost = {"new": (Status.FAILED, "the clock gave 0 seconds")}
    if lost:
        return Launched(row=place, lost=lost)
    log_ratio = median([math.log(new_s / old_s) for old_s, new_s in zip(*seconds, strict=True)])
    return Launched(row=place, log_ratio=log_ratio, seconds=(median(seconds[0]), median(seconds[1])))


class _Process:
    """The process of a side, as its parent sees it; started anew once it has ended."""

    def __init__(self, side: Side, timeout_s: float) -> None:
        self.side, self.timeout_s = side, timeout_s
        self._start()

    def _start(self) -> None:
        # -P: modules of the working directory must not stand in for ours.
        command = [self.side.python, "-P", "-m", "convbench.pairs"]
        try:
            with interrupts_blocked():
                self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ())
        except OSError as error:
            raise InputError(f"cannot start {self.side.python}: {error.strerror}") from None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._child.stdout, self._lines), daemon=True).start()

    def row(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request about a row.

        Raises:
            _Lost: there is none, or it says that the row cannot be measured.
        """
        try:
            answer = self._ask(request)
        except _Lost:
            self.end()
            self._start()
            self.greet()
            raise
        if answer.get("status") != Status.OK:
            raise _Lost(Status(answer.get("status", Status.FAILED)), answer.get("reason", ""))
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        with suppress(OSError):  # where it has ended, its silence shows it
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        try:
            answer = json.loads(self._line())
        except ValueError:  # of a program that is none of ours, or a backend that writes between our lines
            answer = None
        if not isinstance(answer, dict):
            raise _Lost(Status.FAILED, "its answer is not one of convbench's")
        return answer

    def _line(self) -> bytes:
        """What it writes next."""
        deadline = time.monotonic() + self.timeout_s
        while (left := deadline - time.monotonic()) > 0:
            ended = self._child.poll() is not None
            try:
                line = self._lines.get(timeout=min(left, POLL_S))
            except queue.Empty:
                if ended:  # and a process that it started holds its stdout open
                    break
                continue
            if line:
                return line
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(POLL_S)
            break
        else:
            raise _Lost(Status.TIMEOUT, f"it was silent for {format_time(self.timeout_s)} (--timeout)")
        code = self._child.poll()
        how = "closed its output" if code is None else f"ended ({ending(code)})"
        raise _Lost(Status.FAILED, f"its process {how}")

    def greet(self, *, environment: bool = False) -> dict[str, Any]:
        """What it says of itself: `version` and `folder` of its convbench, and its `environment` where asked for.

        Raises:
            ConvbenchError: it is of another protocol, has ended, or is silent.
        """
        try:
            answer = self._ask({"protocol": PROTOCOL, "environment": environment})
        except _Lost as error:
            raise ConvbenchError(f"the {self.side.title} side, {self.side.python}, has no answer: {error}") from None
        if answer.get("protocol") != PROTOCOL:
            raise InputError(
                f"the {self.side.title} side has convbench {answer.get('version')}, which speaks another protocol "
                f"({answer.get('protocol')}, not {PROTOCOL})"
            )
        if not {"version", "folder", "environment"} <= answer.keys():
            raise ConvbenchError(f"the {self.side.title} side, {self.side.python}, is no convbench")
        return answer

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the process."""
        self._child.kill()
        self._child.wait()
        assert self._child.stdin is not None
        with suppress(OSError):  # what was not flushed
            self._child.stdin.close()


def _pump(stdout: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Lines of a process as they come, then an empty one."""
    with stdout as written:
        for line in written:
            lines.put(line)
    lines.put(b"")


def about(side: Side, timeout_s: float) -> dict[str, Any]:
    """What a side says of itself, its environment too, as `_Process.greet`, once it has loaded its backends.

    Raises:
        ConvbenchError: as `_Process.greet`, or it cannot load a backend that has a name of its own there.
    """
    with _Process(side, timeout_s) as process:
        said = process.greet(environment=True)
        for text in side.backends.values():
            try:
                process.row({"load": text})
            except _Lost as error:
                raise InputError(f"the {side.title} side cannot load {text}: {error}") from None
        return said


# The child's part


def serve(requests: IO[str], lines: IO[str]) -> None:
    """Answers requests until there are no more; holds one plan at a time."""
    timer: RowTimer | None = None
    home = Path.cwd()
    for text in requests:
        os.chdir(home)  # which a backend may have left: it is named from here
        request = json.loads(text)
        if "protocol" in request:
            answer: dict[str, Any] = {
                "protocol": PROTOCOL, "version": __version__, "folder": str(Path(__file__).parent),
                "environment": environment.collect() if request.get("environment") else None,
            }  # fmt: skip
        elif "load" in request:
            answer = _loaded(request["load"])
        elif "plan" in request:
            timer = None  # room for the next
            timer, status, reason = _timer(request)
            answer = {"status": status, "reason": reason}
        else:
            answer = _measured(timer)
        lines.write(json.dumps(answer, allow_nan=False) + "\n")
        lines.flush()


def _loaded(text: str) -> dict[str, Any]:
    """Whether a backend can be loaded, as `-b` calls it."""
    from convbench.backends import parse_backend
    from convbench.tasks import describe

    try:
        parse_backend(text)
    except InputError as error:
        return {"status": Status.FAILED, "reason": str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend may raise anything
        return {"status": Status.FAILED, "reason": describe(error)}
    return {"status": Status.OK, "reason": ""}


def _timer(request: dict[str, Any]) -> tuple[RowTimer | None, Status, str]:
    """What times the row of a request; or status and reason where there is no plan of it, or none that is right."""
    from convbench.backends import device_index, parse_backend
    from convbench.fold import key_from_json
    from convbench.operands import Operands
    from convbench.runner import RunOptions, Spent, make_timer, prepare
    from convbench.tasks import describe, tasks

    try:
        key = key_from_json(json.dumps(request["plan"]).encode())
        timing = TimingOptions(max_time_s=FULL_ROUNDS * ROUND_S)
        options = RunOptions(
            threads=key.threads, max_memory=sys.maxsize, timing=timing, accuracy=key.accuracy or DEFAULT_ACCURACY,
            workspace_limit_bytes=key.workspace_limit_bytes,
        )  # fmt: skip
        index = device_index(key.device)
        specs = parse_backend(f"{request['backend']}:{key.algorithm}", () if index is None else (index,))
        (task,) = tasks([key.case], specs, key.threads, (key.cache,), options.accuracy, key.workspace_limit_bytes)
        if task.unavailable:
            return None, Status.UNAVAILABLE, task.unavailable
        if task.candidate.reason:
            return None, Status.UNSUPPORTED, task.candidate.reason
        threadpool_limits(key.threads)
        operands = Operands(key.case.problem, key.case.dtype, options.seed)
        if request["verify"]:
            made = prepare(task, operands, options, Spent())
            if isinstance(made, Row):
                return None, made.status, made.reason
            plan = made.plan
        else:
            plan = task.backend.plan(task.case, task.algorithm, operands, options.plan)
        return make_timer(task, plan, options, Spent()), Status.OK, ""
    except MemoryError as error:
        return None, Status.OUT_OF_MEMORY, describe(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend may raise anything
        return None, Status.FAILED, describe(error)


def _measured(timer: RowTimer | None) -> dict[str, Any]:
    """One round of a row; or why there is none."""
    from convbench.tasks import describe

    assert timer is not None
    try:
        measured, _ = timer.round()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a backend may raise anything
        return {"status": Status.FAILED, "reason": describe(error)}
    wall_s, cpu_s, flags = measured.columns
    return {"status": Status.OK, "launches": measured.launches, "wall_s": wall_s, "cpu_s": cpu_s, "flags": flags}


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the parent is gone
        serve(sys.stdin, begin())
