"""Worker processes: fresh ones that measure the same rows in turn (`--processes`), or one a backend (`--isolate`).

A process has a bias of its own: where its memory lies, how its threads were placed. Rounds of one process share it, so
their interval is too narrow; rounds of several, pooled, show it. And a process is a wall: threads of one backend do not
spin beside those of another, and what crashes or hangs ends a row and not the run.
A worker is this program, called with the same arguments and `--worker`: it reads a request from stdin and writes
journal lines to stdout. If the request says so it works by turns: it waits for a line on stdin after each row that it
has verified and after each round.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import queue
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict, replace
from typing import IO, TYPE_CHECKING, Any

from convbench.backends import device_index
from convbench.children import ending, start
from convbench.errors import ConvbenchError
from convbench.journal import case_line, failure_line
from convbench.lost import DeviceLostError
from convbench.result import Row, Status
from convbench.runner import Progress, Spent, refused_lines, run
from convbench.tasks import groups_by_memory
from convbench.tuning import tuned
from convbench.units import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from convbench.runner import RunOptions
    from convbench.tasks import Task

LEAST_ROUNDS = 3
"""Rounds of a row in each process, at least."""
TURN_ENDS = {"case", "round", "failure", "spent", "lost"}
"""Lines that end a worker's turn; "lost": its device runs nothing more, and it has ended."""
HAND_OVER_S = 0.02
"""Pause before the turn of another worker: threads of OpenMP spin for some milliseconds after their last call."""


def run_in_workers(
    found: Sequence[Task], options: RunOptions, arguments: Sequence[str], spent: Spent
) -> Iterator[dict[str, Any] | Progress]:
    """As `runner.run`, in `options.processes` workers called with the command-line `arguments`.

    Raises:
        ConvbenchError: a worker ended early.
    """
    rows = {task.index: _label(task) for task in found}
    for process in range(options.processes):
        request = {
            "rows": [*rows.items()],
            "process": process,
            "max_memory": options.max_memory,
            "max_time_s": options.timing.max_time_s / options.processes,
            "min_rounds": max(LEAST_ROUNDS, math.ceil(options.timing.min_rounds / options.processes)),
            "chosen": {task.index: task.chosen for task in found if task.chosen},
        }
        last = process == options.processes - 1
        for line in _lines(arguments, request):
            kind = line.pop("type")
            if kind == "progress":
                share = (process + line["share"]) / options.processes if line["doing"] == "time" else line["share"]
                yield Progress(line["row"], line["doing"], share)
            elif kind == "spent":
                _add(spent, line)
            elif kind == "round" and not last:
                yield {"type": kind, **line, "stop": None}
            elif kind == "case" and line["status"] != Status.PARTIAL:
                del rows[line["row"]]
                yield (
                    {"type": kind, **line}
                    if process == 0
                    else failure_line(line["row"], line["status"], f"in worker process {process}: {line['reason']}")
                )
            elif kind != "case" or process == 0:
                if kind == "failure":
                    rows.pop(line["row"], None)
                yield {"type": kind, **line}


def _add(spent: Spent, seconds: dict[str, float]) -> None:
    for name, more in seconds.items():
        setattr(spent, name, getattr(spent, name) + more)


def _lines(arguments: Sequence[str], request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a worker writes."""
    with start(arguments, "--worker", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.close()
            ended = False
            for text in worker.stdout:
                line = json.loads(text)
                ended = line["type"] == "spent"
                yield line
                if ended:  # a process that a backend started may hold the other end open
                    break
        except BrokenPipeError:
            ended = False
        finally:
            if worker.poll() is None and sys.exc_info()[0] is not None:
                worker.kill()  # interrupted, or its lines are no longer wanted
        code = worker.wait()
        if not ended:
            raise ConvbenchError(
                f"worker process {request['process']} ended early ({ending(code)}); what it had measured is kept"
            )


class _Ended(Exception):
    """A worker is gone, or gives no answer; `status` and the text are for the row that it was at."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Worker:
    """A process that measures some rows by turns; it is started by its first.

    Attributes:
        device: on which they all run.
        open: rows that are not finished, by index.
        begun: those whose case line was written.
        at: the row that it is at; None between rows.
        position: how far it is, to be compared with others: below 0 while it verifies, then rounds.
    """

    def __init__(
        self, found: Sequence[Task], request: dict[str, Any], arguments: Sequence[str], only: Sequence[str] = ()
    ) -> None:
        self.device = found[0].key.device
        self.open = {task.index: task for task in found}
        self.begun: set[int] = set()
        self.at: int | None = None
        self.position = -1.0
        self.finished = False
        self._request, self._arguments, self._only = request, arguments, only
        self._process: subprocess.Popen[bytes] | None = None
        self._written: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def turn(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Lines of one turn.

        Raises:
            _Ended: the process has ended, or was busy with one row for `timeout_s`.
        """
        self._send(self._request if self._process is None else {})
        deadline = time.monotonic() + timeout_s
        kind = ""
        while kind not in TURN_ENDS:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _Ended(Status.TIMEOUT, f"took longer than {format_time(timeout_s)} (--timeout)")
            line = self._read(min(left, 1.0))
            if line is not None:
                kind = line["type"]
                if kind == "progress":  # on to the next row
                    deadline = time.monotonic() + timeout_s
                self._note(line)
                yield line

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is None:
            # In this thread: Linux would end it with the thread that started it.
            self._process = start(
                self._arguments, "--worker", self._only, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            threading.Thread(target=self._pump, daemon=True).start()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # where it has ended, its lines will show it
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _pump(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError), self._process.stdout as written:  # the last line may be cut off
            for text in written:
                self._written.put(json.loads(text))
        self._written.put(None)

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None if there is none yet."""
        assert self._process is not None
        try:
            line = self._written.get(timeout=seconds)
        except queue.Empty:
            if self._process.poll() is None:
                return None
            line = None  # it has ended, and a process that it started holds its stdout open
        if line is None:
            raise _Ended(Status.FAILED, f"its worker process ended early ({ending(self._process.wait())})")
        return line

    def _note(self, line: dict[str, Any]) -> None:
        kind, row = line["type"], line.get("row", 0)
        if kind == "start" or (kind == "progress" and line["doing"] != "time"):
            self.at = row
        elif kind == "case":
            self.position += 1 / len(self._request["rows"])
            self.begun.add(row)
        elif kind == "round":
            self.position += 1 / len(self.open)
        if kind in TURN_ENDS:
            self.at = None
            self.finished = kind in {"spent", "lost"}
            if line.get("stop") or kind == "failure" or (kind == "case" and line["status"] != Status.PARTIAL):
                self.open.pop(row, None)

    def end(self) -> None:
        """Ends the process, where it has not ended."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what was not flushed
            self._process.stdin.close()

    def failures(self, ended: _Ended) -> Iterator[dict[str, Any]]:
        """The lines of the row that it was at when it ended; between rows, of all that are left."""
        self.end()
        self.finished = True
        for row in [*self.open] if self.at is None else [self.at]:
            task, reason = self.open.pop(row), str(ended)
            if row in self.begun:
                yield failure_line(row, ended.status, reason)
            else:
                yield case_line(row, Row(key=task.key, status=ended.status, reason=reason))

    def left(self, numbers: Iterator[int]) -> list[Task]:
        """Its unfinished rows; those begun come last, each with a new number, as when a run is resumed."""
        fresh = [task for row, task in self.open.items() if row not in self.begun]
        return fresh + [replace(task, index=next(numbers)) for row, task in self.open.items() if row in self.begun]


def run_isolated(
    found: Sequence[Task], options: RunOptions, arguments: Sequence[str], spent: Spent,
    texts: Mapping[tuple[str, int | None], Sequence[str]],
) -> Iterator[dict[str, Any] | Progress]:  # fmt: skip
    """As `runner.run`, each backend on each device in a worker of its own, called with the command-line `arguments`.

    `texts` are the `-b` arguments by backend and chosen device, None where it chooses none: a worker loads and asks no
    other, on no other device. Where a worker ends early or hangs, the row that it was at has failed, and a fresh one
    measures those that are left.
    """
    refused = refused_lines(found, options.max_memory)
    yield from refused
    rows = {line["row"] for line in refused}
    first_of: dict[int, int] = {}  # the first number of a row, by its latest

    def worker(tasks: Sequence[Task]) -> _Worker:
        first_of.update({task.index: index_of[task.key] for task in tasks})
        request = {
            "rows": [[task.index, _label(task)] for task in tasks],
            "process": options.process,
            "max_memory": options.max_memory,
            "max_time_s": options.timing.max_time_s,
            "min_rounds": options.timing.min_rounds,
            "turns": True,
            "tune": options.tune,
        }
        backend, index = tasks[0].key.backend, device_index(tasks[0].key.device)
        chosen = (backend, index) in texts and index is not None
        on = [f"--device={index}"] if chosen else []  # the last one counts
        return _Worker(tasks, request, [*arguments, *on], texts[backend, index if chosen else None])

    index_of = {task.key: task.index for task in found}
    numbers = itertools.count(max(index_of.values(), default=0) + 1)
    for group in groups_by_memory([task for task in found if task.index not in rows], options.max_memory):
        for line in _by_turns(group, worker, numbers, options.timeout_s):
            kind = line.pop("type")
            if kind == "progress":
                yield Progress(first_of[line["row"]], line["doing"], line["share"])
            elif kind == "spent":
                _add(spent, line)
            else:
                yield {"type": kind, **line}


def _by_turns(
    group: Sequence[Task], make: Callable[[Sequence[Task]], _Worker], numbers: Iterator[int], timeout_s: float
) -> Iterator[dict[str, Any]]:
    """What the workers of a group's backends write; the one that is least far has the turn."""
    places = dict.fromkeys((task.key.backend, task.key.device) for task in group)
    workers = [make([t for t in group if (t.key.backend, t.key.device) == place]) for place in places]
    last = workers[0] if workers else None
    watched: dict[str, _Worker] = {}
    for worker in workers:
        watched.setdefault(worker.device, worker)
    try:
        while workers:
            now = min(workers, key=lambda worker: worker.position)
            time.sleep(HAND_OVER_S if now is not last else 0)
            last = now
            begin_anew = False
            try:
                for line in now.turn(timeout_s):
                    begin_anew = line["type"] == "lost"
                    # The canaries of one process stand for its device: those of two do not compare.
                    told = line["type"] != "canary" or now is watched[now.device]
                    if told and line["type"] not in {"start", "lost"}:
                        yield line
            except _Ended as ended:
                yield from now.failures(ended)
                begin_anew = True
            if begin_anew:
                if left := now.left(numbers):
                    workers.append(make(left))
                if now is watched[now.device]:
                    others = (w for w in reversed(workers) if w.device == now.device and w is not now)
                    watched[now.device] = next(others, now)
            if now.finished:
                now.end()
                workers.remove(now)
    finally:
        for worker in workers:
            worker.end()


def _label(task: Task) -> str:
    """What a worker must find again: suites and backends may change while others measure."""
    return json.dumps(task.key.to_dict(), sort_keys=True)


def serve(
    found: Sequence[Task], options: RunOptions, lines: IO[str], warn: Callable[[str], object] = warnings.warn
) -> None:
    """Measures the rows of the request on stdin, one line of JSON per event to `lines`.

    Raises:
        ConvbenchError: stdin holds no request, or not one for these tasks.
    """

    def send(line: dict[str, Any]) -> None:
        lines.write(json.dumps(line, allow_nan=False, default=lambda value: value.item()) + "\n")
        lines.flush()

    try:
        request = json.loads(sys.stdin.readline())
        timing = replace(options.timing, max_time_s=request["max_time_s"], min_rounds=request["min_rounds"])
        options = replace(
            options, timing=timing, max_memory=request["max_memory"], process=request["process"], processes=1
        )
        by_label = {_label(task): task for task in found}
        chosen = [replace(by_label[label], index=index) for index, label in request["rows"] if label in by_label]
        told = request.get("chosen", {})
        chosen = [task.taking(told[str(task.index)]) if str(task.index) in told else task for task in chosen]
        same = len(chosen) == len(request["rows"])
    except (ValueError, LookupError, TypeError):
        raise ConvbenchError("--worker is how convbench calls itself: it reads a request from stdin") from None
    if not same:
        raise ConvbenchError("a suite or a backend changed while worker processes measured")
    spent = Spent()
    turns = request.get("turns", False)

    def events() -> Iterator[dict[str, Any] | Progress]:
        announce = (lambda row: send({"type": "start", "row": row})) if turns else None
        tasks = (yield from tuned(chosen, options, spent, warn)) if request.get("tune") else chosen
        yield from run(tasks, options, spent, announce)

    try:
        for event in events():
            if isinstance(event, Progress):
                send({"type": "progress", "row": event.index, "doing": event.doing, "share": event.share})
                continue
            send(event)
            if turns and event["type"] in TURN_ENDS and not sys.stdin.readline():
                return  # the parent is gone
    except DeviceLostError:
        send({"type": "lost"})
        return
    send({"type": "spent", **asdict(spent)})
