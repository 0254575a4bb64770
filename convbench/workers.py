"""Fresh worker processes that measure the same rows one after another (`--processes`); their rounds are pooled.

A process has a bias of its own: where its memory lies, how its threads were placed. Rounds of one process share it, so
their interval is too narrow; rounds of several show it. A worker is this program, called with the same arguments and
`--worker`: it reads a request from stdin and writes journal lines to stdout.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from typing import IO, TYPE_CHECKING, Any

from convbench.errors import ConvbenchError
from convbench.journal import failure_line
from convbench.result import Status
from convbench.runner import Progress, Spent, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convbench.runner import RunOptions
    from convbench.tasks import Task

LEAST_ROUNDS = 3
"""Rounds of a row in each process, at least."""


def run_in_workers(
    found: Sequence[Task], places: Sequence[int], options: RunOptions, arguments: Sequence[str], spent: Spent
) -> Iterator[dict[str, Any] | Progress]:
    """As `runner.run`, in `options.processes` workers called with the command-line `arguments`.

    `places` are those of the tasks among all that the arguments describe: a resumed run has fewer.

    Raises:
        ConvbenchError: a worker ended early.
    """
    rows = {task.index: place for task, place in zip(found, places, strict=True)}
    labels = {task.index: _label(task) for task in found}
    for process in range(options.processes):
        request = {
            "rows": [[place, index, labels[index]] for index, place in rows.items()],
            "process": process,
            "max_memory": options.max_memory,
            "max_time_s": options.timing.max_time_s / options.processes,
            "min_rounds": max(LEAST_ROUNDS, math.ceil(options.timing.min_rounds / options.processes)),
        }
        last = process == options.processes - 1
        for line in _lines(arguments, request):
            kind = line.pop("type")
            if kind == "progress":
                share = (process + line["share"]) / options.processes if line["doing"] == "time" else line["share"]
                yield Progress(line["row"], line["doing"], share)
            elif kind == "spent":
                for name, seconds in line.items():
                    setattr(spent, name, getattr(spent, name) + seconds)
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


def _lines(arguments: Sequence[str], request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a worker writes."""
    # -P: modules of the working directory must not stand in for ours.
    command = [sys.executable, "-P", "-m", "convbench", *arguments, "--worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(request).encode())
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
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ConvbenchError(
                f"worker process {request['process']} ended early ({how}); what it had measured is kept"
            )


def _label(task: Task) -> str:
    """What a worker must find in a task's place: suites and backends may change while others measure."""
    return json.dumps(task.key.to_dict(), sort_keys=True)


def own_stdout() -> IO[str]:
    """Stdout for this worker alone: what backends print goes to stderr, from now on.

    Where the system can, the worker ends with its parent.
    """
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):  # a child of a backend must not keep the reader waiting
        os.register_at_fork(after_in_child=lambda: os.close(lines.fileno()))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    return lines


def serve(found: Sequence[Task], options: RunOptions, lines: IO[str]) -> None:
    """Measures the rows of the request on stdin, one line of JSON per event to `lines`.

    Raises:
        ConvbenchError: stdin holds no request, or not one for these tasks.
    """

    def send(line: dict[str, Any]) -> None:
        lines.write(json.dumps(line, allow_nan=False, default=lambda value: value.item()) + "\n")
        lines.flush()

    try:
        request = json.load(sys.stdin)
        timing = replace(options.timing, max_time_s=request["max_time_s"], min_rounds=request["min_rounds"])
        options = replace(
            options, timing=timing, max_memory=request["max_memory"], process=request["process"], processes=1
        )
        chosen = [replace(found[place], index=index) for place, index, _ in request["rows"]]
        same = all(_label(task) == label for task, (_, _, label) in zip(chosen, request["rows"], strict=True))
    except (ValueError, LookupError, TypeError):
        raise ConvbenchError("--worker is how convbench calls itself: it reads a request from stdin") from None
    if not same:
        raise ConvbenchError("a suite or a backend changed while worker processes measured")
    spent = Spent()
    for event in run(chosen, options, spent):
        if isinstance(event, Progress):
            send({"type": "progress", "row": event.index, "doing": event.doing, "share": event.share})
        else:
            send(event)
    send({"type": "spent", **asdict(spent)})
