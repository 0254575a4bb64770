"""Suites × backends → planned, verified and timed rows, as a stream of journal lines."""

from __future__ import annotations

import fnmatch
import math
import re
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.backends import AUTO, Backend, BackendSpec, Candidate, Plan, PlanOptions
from convbench.errors import ConvbenchError, InputError, UnsupportedError, unknown_name
from convbench.journal import canary_line, case_line, failure_line, round_line
from convbench.memory import operand_bytes, verification_bytes
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.result import Row, RowKey, Status
from convbench.timing import Canaries, Measured, RowTimer, TimingOptions, interleave
from convbench.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convbench.operands import Operands
    from convbench.suite import Suite


FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:\\(?:[^\\\s]+\\)+|/(?:[^/\s:'\"]+/)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which cases of a suite: every combination, in the order problem, pass, dtype, layout, epilogue."""

    passes: tuple[ConvPass, ...] = tuple(ConvPass)
    precisions: tuple[tuple[Dtype, MathMode], ...] = ((Dtype.FP32, MathMode.FP32),)
    layouts: tuple[Layout, ...] = (Layout.NCHW,)
    epilogues: tuple[Epilogue, ...] = (Epilogue.NONE,)
    batch: int | None = None
    globs: tuple[str, ...] = ()

    def cases(self, suites: Sequence[Suite]) -> list[Case]:
        """The cases; the backward passes take no epilogue, so they occur once whatever `epilogues` says.

        Raises:
            InputError: nothing is left, or the batch is impossible.
        """
        found = []
        for suite in suites:
            chosen = suite if self.batch is None else suite.with_batch(self.batch)
            for entry in chosen.problems:
                names = (entry.name, f"{suite.name}/{entry.name}")
                if self.globs and not any(fnmatch.fnmatchcase(n, glob) for n in names for glob in self.globs):
                    continue
                for conv_pass in self.passes:
                    epilogues = self.epilogues if conv_pass is ConvPass.FPROP else (Epilogue.NONE,)
                    found += [
                        Case(suite=suite.name, name=entry.name, problem=entry.problem, conv_pass=conv_pass, dtype=dtype,
                             math_mode=math_mode, layout=layout, epilogue=epilogue, repeat=entry.repeat)
                        for dtype, math_mode in self.precisions
                        for layout in self.layouts
                        for epilogue in epilogues
                    ]  # fmt: skip
        if not found:
            listed = ", ".join(suite.name for suite in suites)
            raise InputError(f"no problem of {listed} matches --filter {' '.join(self.globs)}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to measure. `max_memory` is in bytes; `seed` is that of operands, checks and the order of rows."""

    threads: int
    max_memory: int
    timing: TimingOptions
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One row to come: what was asked, who answers, and whether it can."""

    index: int
    key: RowKey
    backend: Backend
    candidate: Candidate
    unavailable: str | None = None

    @property
    def case(self) -> Case:
        """The row's case."""
        return self.key.case

    @property
    def operands_id(self) -> tuple[Problem, Dtype]:
        """What rows with the same operands agree in."""
        return self.case.problem, self.case.dtype

    @property
    def memory_bytes(self) -> int:
        """Predicted need: operands, what the plan allocates, and verification."""
        return operand_bytes(self.case) + self.candidate.memory_bytes + verification_bytes(self.case)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the runner does with row `index`, and which share of that is done; not part of the journal."""

    index: int
    doing: str
    share: float = 0.0


@dataclass(slots=True)
class Spent:
    """Seconds by what they went into, to show what a run costs beyond its measurements."""

    planning: float = 0.0
    verification: float = 0.0
    warmup: float = 0.0
    canaries: float = 0.0
    samples: float = 0.0


def tasks(cases: Sequence[Case], specs: Sequence[BackendSpec], threads: int) -> list[Task]:
    """Every case on every backend and algorithm asked for, in that order.

    Raises:
        InputError: a backend has no algorithm of the name asked for, or fails where it is asked what it can do.
    """
    found: list[Task] = []
    seen: set[RowKey] = set()
    reasons = [probe(spec.backend) for spec in specs]
    devices = ["" if reason else _ask(spec.backend, "device").name for spec, reason in zip(specs, reasons, strict=True)]
    for case in cases:
        for spec, unavailable, device in zip(specs, reasons, devices, strict=True):
            offered = candidates(spec, case)
            names = [spec.algorithm] if spec.algorithm else [name for name in offered if name != AUTO] or [*offered]
            for name in names:
                key = RowKey(case=case, backend=spec.backend.name, algorithm=name, device=device, threads=threads)
                if key not in seen:
                    seen.add(key)
                    found.append(Task(len(found), key, spec.backend, offered[name], unavailable))
    return found


def probe(backend: Backend) -> str | None:
    """None if the backend is usable, else why not."""
    reason: str | None = _ask(backend, "probe")
    return reason


def candidates(spec: BackendSpec, case: Case) -> dict[str, Candidate]:
    """What the backend offers for a case, by name of the algorithm.

    Raises:
        InputError: it has no algorithm of the name asked for.
    """
    found: dict[str, Candidate] = {c.algorithm: c for c in _ask(spec.backend, "algorithms", case)}
    if spec.algorithm is not None and spec.algorithm not in found:
        raise unknown_name("algorithm", spec.algorithm, list(found), where=f" of backend {spec.backend.name}")
    return found


def _ask(backend: Backend, method: str, *arguments: Any) -> Any:
    try:
        return getattr(backend, method)(*arguments)
    except ConvbenchError:
        raise
    except Exception as error:  # a backend from a file may be anything
        name = getattr(backend, "name", type(backend).__name__)
        raise InputError(f"backend {name} cannot be used: {describe(error)}") from error


def groups_by_memory(found: Sequence[Task], max_memory: int) -> Iterator[list[Task]]:
    """Tasks to be planned at once and interleaved: all of them if they fit, else those of one problem, else one."""
    if _together(found) <= max_memory:
        yield list(found)
        return
    by_problem: dict[tuple[str, str], list[Task]] = {}
    for task in found:
        by_problem.setdefault((task.case.suite, task.case.name), []).append(task)
    for group in by_problem.values():
        if _together(group) <= max_memory:
            yield group
        else:
            yield from ([task] for task in group)


def _together(found: Sequence[Task]) -> int:
    # Operands made for one pass serve the others of the same problem; verification happens one row at a time.
    operands = {t.operands_id: 0 for t in found}
    for t in found:
        p = t.case.problem
        operands[t.operands_id] = (
            math.prod(p.x_shape) + math.prod(p.w_shape) + math.prod(p.y_shape)
        ) * t.case.dtype.itemsize
    checks = max((verification_bytes(t.case) for t in found), default=0)
    return sum(operands.values()) + sum(t.candidate.memory_bytes for t in found) + checks


def run(found: Sequence[Task], options: RunOptions, spent: Spent | None = None) -> Iterator[dict[str, Any] | Progress]:
    """Plans, verifies and times every task: journal lines, and Progress between them.

    A task that cannot be measured becomes a row with a status and a reason; KeyboardInterrupt passes through.
    """
    spent = spent or Spent()
    runnable = []
    for task in found:
        refused = _refusal(task, options.max_memory)
        if refused:
            yield case_line(task.index, Row(key=task.key, status=refused[0], reason=refused[1]))
        else:
            runnable.append(task)
    import numpy as np  # noqa: F401  its BLAS must be loaded to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(options.threads):
        for group in groups_by_memory(runnable, options.max_memory):
            yield from _run_group(group, options, spent)


def _refusal(task: Task, max_memory: int) -> tuple[Status, str] | None:
    from convbench.operands import NUMPY_DTYPES

    if task.unavailable:
        return Status.UNAVAILABLE, task.unavailable
    if task.candidate.reason:
        return Status.UNSUPPORTED, task.candidate.reason
    if task.case.dtype not in NUMPY_DTYPES:
        return Status.UNSUPPORTED, f"operands of {task.case.dtype} cannot be made: NumPy has no such type"
    if task.memory_bytes > max_memory:
        parts = f"operands {format_bytes(operand_bytes(task.case))}, plan {format_bytes(task.candidate.memory_bytes)}"
        return Status.SKIPPED, (
            f"needs {format_bytes(task.memory_bytes)} ({parts}, verification "
            f"{format_bytes(verification_bytes(task.case))}); --max-memory is {format_bytes(max_memory)}"
        )
    return None


def _run_group(group: Sequence[Task], options: RunOptions, spent: Spent) -> Iterator[dict[str, Any] | Progress]:
    from convbench.operands import Operands

    timers: dict[int, RowTimer] = {}
    operands: dict[tuple[Problem, Dtype], Operands] = {}
    last = {task.operands_id: task.index for task in group}
    for task in group:
        yield Progress(task.index, "verify")
        if task.operands_id not in operands:
            operands[task.operands_id] = Operands(task.case.problem, task.case.dtype, options.seed)
        row, plan = _prepare(task, operands[task.operands_id], options, spent)
        if last[task.operands_id] == task.index:
            del operands[task.operands_id]  # the plans hold what they need
        yield case_line(task.index, row)
        if plan is not None:
            clock = _ask(task.backend, "device").clock(options.threads)
            timers[task.index] = RowTimer(plan.run, clock, options.timing)
    if not timers:
        return
    # One device's canaries stand for the machine that all of them are in.
    device = _ask(next(task.backend for task in group if task.index in timers), "device")
    try:
        for event in interleave(timers, device.canaries(), device.clock(options.threads), options.seed):
            if isinstance(event, Canaries):
                spent.canaries += event.spent_s
                yield canary_line(event.index, event.seconds)
            else:
                timer = timers[event.row]
                yield from _measured_lines(event, timer.spent_s / options.timing.max_time_s)
    finally:
        spent.warmup += sum(timer.warmup_s for timer in timers.values())
        spent.samples += sum(timer.spent_s for timer in timers.values())


def _measured_lines(event: Measured, share: float) -> Iterator[dict[str, Any] | Progress]:
    if event.round is None:
        assert event.error is not None
        status = Status.OUT_OF_MEMORY if isinstance(event.error, MemoryError) else Status.FAILED
        yield failure_line(event.row, status, describe(event.error))
    else:
        yield round_line(event.row, event.index, event.round, event.stop)
    finished = event.round is None or event.stop is not None
    yield Progress(event.row, "time", 1.0 if finished else min(1.0, share))


def _prepare(task: Task, operands: Operands, options: RunOptions, spent: Spent) -> tuple[Row, Plan | None]:
    """The row up to its first sample, and its plan if there is anything to time."""
    row = Row(key=task.key, status=Status.PARTIAL)
    started = time.perf_counter()
    try:
        plan = _plan(task, task.case, operands, options)
        planned = time.perf_counter()
        spent.planning += planned - started
        row = replace(row, resolved=plan.algorithm, plan_s=planned - started, workspace_bytes=plan.workspace_bytes,
                      work=plan.work)  # fmt: skip
        first_call_s, verification = _verify(task, plan, operands, options)
        spent.verification += time.perf_counter() - planned
    except UnsupportedError as error:
        return replace(row, status=Status.UNSUPPORTED, reason=str(error)), None
    except MemoryError as error:
        return replace(row, status=Status.OUT_OF_MEMORY, reason=describe(error)), None
    except Exception as error:  # noqa: BLE001  a backend may raise anything; the other rows go on
        return replace(row, status=Status.FAILED, reason=describe(error)), None
    row = replace(row, first_call_s=first_call_s, verification=verification.to_dict())
    if not verification.passed:
        return replace(row, status=Status.WRONG, reason=verification.reason), None
    return row, plan


def _plan(task: Task, case: Case, operands: Operands, options: RunOptions) -> Plan:
    return task.backend.plan(case, task.key.algorithm, operands, PlanOptions(threads=options.threads))


def _verify(task: Task, plan: Plan, operands: Operands, options: RunOptions) -> tuple[float, Any]:
    """Seconds of the first call, and the verification.

    With an epilogue the linear part is verified on a plan of its own, the fused output against that.
    """
    import numpy as np

    from convbench import verify

    case = task.case
    started = time.perf_counter()
    plan.run()
    first_call_s = time.perf_counter() - started
    plan.poison()
    plan.run()  # what is checked is a run like those that are timed, not the first
    if case.epilogue is Epilogue.NONE:
        return first_call_s, verify.check(case, plan.output(), operands, plan.error_bound, options.seed)
    linear_case = replace(case, epilogue=Epilogue.NONE)
    linear = _plan(task, linear_case, operands, options)
    verification = verify.verify(linear_case, linear, operands, options.seed)
    if verification.passed:
        reason = verify.check_epilogue(case, np.asarray(linear.output()), plan.output(), operands, plan.error_bound)
        if reason:
            verification = replace(verification, passed=False, reason=reason)
    return first_call_s, verification


def describe(error: Exception) -> str:
    """An exception in one line: its type, its text without the folders of absolute paths, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = FOLDERS.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}{where}"[:500]
