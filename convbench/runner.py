"""Tasks → planned, verified and timed rows, as a stream of journal lines."""

from __future__ import annotations

import functools
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from convbench.accuracy import DEFAULT_ACCURACY
from convbench.backends import AUTO, Plan, PlanOptions
from convbench.errors import UnsupportedError
from convbench.floor import Floors
from convbench.journal import canary_line, case_line, failure_line, phases_line, round_line
from convbench.lost import DeviceLostError, Lost, finish
from convbench.problem import Case, Dtype, Epilogue, Problem
from convbench.recheck import Kept, linear_plan, looser, poisoned
from convbench.result import WARM, Row, Status
from convbench.tasks import Task, ask, describe, groups_by_memory, notes_of, refusal
from convbench.timing import Canaries, DeviceCanaries, RowTimer, interleave, phase_times, shortest_sample_s

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from convbench.operands import Operands
    from convbench.timing import Measured, Round, TimingOptions
    from convbench.verify import Verification

TIMEOUT_S = 600.0
"""Seconds that a worker process of a backend may be busy with one row, if nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to measure.

    Attributes:
        workspace_limit_bytes: scratch memory that a plan may ask for; None: all there is.
        max_memory: bytes of the host's memory that a row, or rows planned at once, may need.
        accuracy: the loosest tier that AUTO may take.
        seed: of operands, checks and the order of rows.
        processes: fresh worker processes that measure every row one after another, sharing its time.
        process: which of them this is.
        isolate: each backend in a worker process of its own.
        tune: AUTO takes what is measured to be fastest.
        phases: how long each phase of a run takes is measured, too.
        timeout_s: seconds after which such a worker that is busy with one row is ended.
    """

    threads: int
    max_memory: int
    timing: TimingOptions
    seed: int = 0
    processes: int = 1
    process: int = 0
    accuracy: float = DEFAULT_ACCURACY
    workspace_limit_bytes: int | None = None
    tune: bool = False
    phases: bool = False
    isolate: bool = False
    timeout_s: float = TIMEOUT_S

    @property
    def plan(self) -> PlanOptions:
        """What plans are asked for."""
        return PlanOptions(
            threads=self.threads, accuracy=self.accuracy, workspace_limit_bytes=self.workspace_limit_bytes
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What the runner does with row `index`, and which share of that is done; not part of the journal."""

    index: int
    doing: str
    share: float = 0.0


@dataclass(slots=True)
class Spent:
    """Seconds by what they went into, to show what a run costs beyond its measurements."""

    tuning: float = 0.0
    planning: float = 0.0
    verification: float = 0.0
    warmup: float = 0.0
    canaries: float = 0.0
    samples: float = 0.0


def refused_lines(found: Sequence[Task], max_memory: int) -> list[dict[str, Any]]:
    """The lines of the tasks that are not even planned."""
    refused = ((task, refusal(task, max_memory)) for task in found)
    return [case_line(t.index, Row(key=t.key, status=r[0], reason=r[1])) for t, r in refused if r]


def run(
    found: Sequence[Task], options: RunOptions, spent: Spent | None = None,
    announce: Callable[[int], object] | None = None,
) -> Iterator[dict[str, Any] | Progress]:  # fmt: skip
    """Plans, verifies and times every task: journal lines, and Progress between them.

    A task that cannot be measured becomes a row with a status and a reason; KeyboardInterrupt passes through.
    `announce` is called with the index of a row before each of its rounds.

    Raises:
        DeviceLostError: with `isolate`, after the line of the row with which the device was lost.
    """
    spent = spent or Spent()
    refused = refused_lines(found, options.max_memory)
    yield from refused
    rows = {line["row"] for line in refused}
    runnable = [task for task in found if task.index not in rows]
    import numpy as np  # noqa: F401  its BLAS must be loaded to be limited
    from threadpoolctl import threadpool_limits

    floors, lost = Floors(options.plan, options.seed), Lost()
    with threadpool_limits(options.threads):
        for group in groups_by_memory(runnable, options.max_memory):
            yield from _run_group(group, options, spent, floors, lost, announce)


@dataclass(slots=True)
class _Announced:
    """A timer that says which row it measures before each round, in the place of a RowTimer."""

    row: int
    timer: RowTimer
    announce: Callable[[int], object]

    def round(self) -> tuple[Round, str | None]:
        self.announce(self.row)
        return self.timer.round()


@dataclass(slots=True)
class Prepared:
    """A verified plan: its row, a sample of its output, and the runs that are timed."""

    row: Row
    plan: Plan
    kept: Kept


def _run_group(
    group: Sequence[Task], options: RunOptions, spent: Spent, floors: Floors, lost: Lost,
    announce: Callable[[int], object] | None,
) -> Iterator[dict[str, Any] | Progress]:  # fmt: skip
    tasks = {task.index: task for task in group}
    timers: dict[int, RowTimer] = {}
    plans: dict[int, Prepared] = {}
    yield from _prepare_group(group, timers, plans, options, spent, floors, lost)
    for index in [*timers]:
        if row := lost.row(tasks[index]):
            del timers[index], plans[index]
            yield failure_line(index, row.status, row.reason)
    if not timers:
        return
    canaries = _canaries([task for task in group if task.index in timers], options.threads)
    rounds = timers
    if announce:
        rounds = {row: cast("RowTimer", _Announced(row, timer, announce)) for row, timer in timers.items()}
    try:
        for event in interleave(rounds, canaries, options.seed + options.process):
            if isinstance(event, Canaries):
                spent.canaries += event.spent_s
                yield canary_line(event.index, event.device, event.seconds)
                continue
            yield from _event_lines(event, tasks[event.row], timers[event.row], plans[event.row], options, spent, lost)
            if event.stop or event.error:
                spent.warmup += timers[event.row].warmup_s
                spent.samples += timers[event.row].spent_s
                for of in (timers, rounds, plans):  # what the plan holds is free for the other rows
                    of.pop(event.row, None)
                del event  # an error holds on to the plan, too
    finally:
        spent.warmup += sum(timer.warmup_s for timer in timers.values())
        spent.samples += sum(timer.spent_s for timer in timers.values())


def _prepare_group(
    group: Sequence[Task], timers: dict[int, RowTimer], plans: dict[int, Prepared], options: RunOptions, spent: Spent,
    floors: Floors, lost: Lost,
) -> Iterator[dict[str, Any] | Progress]:  # fmt: skip
    """Case lines; what can be timed goes into `timers` and `plans`."""
    from convbench.operands import Operands

    operands: dict[tuple[Problem, Dtype], Operands] = {}
    last = {task.operands_id: task.index for task in group}
    for task in group:
        yield Progress(task.index, "verify")
        if row := lost.row(task):
            yield case_line(task.index, row)
            continue
        if task.operands_id not in operands:
            operands[task.operands_id] = Operands(task.case.problem, task.case.dtype, options.seed)
        warm = next((p for p in plans.values() if p.row.key == replace(task.key, cache=WARM)), None)
        made = (
            Prepared(replace(warm.row, key=task.key), warm.plan, warm.kept)  # the cold row of a plan just verified
            if warm
            else prepare(task, operands[task.operands_id], options, spent)
        )
        if last[task.operands_id] == task.index:
            del operands[task.operands_id]  # the plans hold what they need
        if isinstance(made, Prepared):
            try:
                timers[task.index] = make_timer(task, made.plan, options, spent)
                plans[task.index] = made = replace(made, row=_with_floor(made, task, floors, spent))
            except BaseException as error:  # noqa: BLE001  its further sets may break, too
                timers.pop(task.index, None)
                made = _broken(made.row, error)
        # A floor that is not known may have broken, which raises nothing.
        gone = (not isinstance(made, Prepared) or made.row.floor_s is None) and lost.found_after(task)
        if gone and isinstance(made, Prepared):
            del timers[task.index], plans[task.index]
            made = replace(made.row, status=Status.FAILED, reason=lost.reasons[task.key.device])
        yield case_line(task.index, made.row if isinstance(made, Prepared) else made)
        if gone and options.isolate:
            raise DeviceLostError(lost.reasons[task.key.device])


def _event_lines(
    event: Measured, task: Task, timer: RowTimer, made: Prepared, options: RunOptions, spent: Spent, lost: Lost
) -> Iterator[dict[str, Any] | Progress]:
    """The line of a round, or why there is none; after the last one with what came of the checks that follow it."""
    broken: tuple[Status, str] | None = None
    if event.error is not None:
        row = lost.row(task)
        broken = (row.status, row.reason) if row else (_status_of(event.error), describe(event.error))
    started = time.perf_counter()
    wrong = made.kept.recheck() if event.stop else None
    if isinstance(wrong, BaseException):
        broken = _status_of(wrong), f"after timing, {describe(wrong)}"
    elif wrong:
        broken = Status.WRONG, wrong
    spent.verification += time.perf_counter() - started
    if options.phases and event.stop and not broken:
        broken = yield from _phases_lines(event.row, made.plan, timer, spent)
    if event.round is not None:
        yield round_line(event.row, event.index, event.round, None if broken else event.stop)
    if broken:
        yield failure_line(event.row, *broken)
    finished = event.round is None or event.stop is not None
    yield Progress(event.row, "time", 1.0 if finished else min(1.0, timer.spent_s / options.timing.max_time_s))
    if broken and lost.found_after(task) and options.isolate:
        raise DeviceLostError(lost.reasons[task.key.device])


def _canaries(group: Sequence[Task], threads: int) -> list[DeviceCanaries]:
    """The canaries of each device that tasks run on; none of a device that fails at them: a run does not need them."""
    backends = {task.key.device: task.backend for task in group}
    found = []
    for name, backend in backends.items():
        with suppress(Exception):  # a device may raise anything
            device = backend.device()
            found.append(DeviceCanaries(name, device.canaries(), device.clock(threads)))
    return found


def _with_floor(made: Prepared, task: Task, floors: Floors, spent: Spent) -> Row:
    """The row with the floor of its algorithm: of AUTO, of the one that it takes."""
    started = time.perf_counter()
    auto = task.algorithm == AUTO
    algorithm = task.candidate.resolves_to or made.plan.algorithm if auto else task.algorithm
    floor_s = floors.of(task.backend, algorithm, task.case)
    spent.warmup += time.perf_counter() - started
    return replace(made.row, floor_s=floor_s)


def make_timer(task: Task, plan: Plan, options: RunOptions, spent: Spent) -> RowTimer:
    """What times a plan; a cold row gets as many plans over operands of their own as make a sample long enough."""
    device = ask(task.backend, "device")
    clock = device.clock(options.threads)
    if task.key.cache == WARM:
        return RowTimer(plan.run, clock, options.timing, process=options.process)
    from convbench.operands import Operands

    started = time.perf_counter()
    once = clock.sample(plan.run, 1).wall_s
    sets = min(task.sets, math.ceil(shortest_sample_s(clock, options.timing) / max(once, 1e-9)))
    others = []
    for number in range(1, sets):
        operands = Operands(task.case.problem, task.case.dtype, options.seed + number)
        other = plan.over(operands) if hasattr(plan, "over") else _plan(task, task.case, operands, options)
        others.append(other.run)
        others[-1]()  # its first call
        finish(device)
    spent.planning += time.perf_counter() - started
    sweep = functools.partial(device.sweep_cache, options.threads)
    return RowTimer(plan.run, clock, options.timing, sweep, others, options.process)


def _phases_lines(
    row: int, plan: Plan, timer: RowTimer, spent: Spent
) -> Generator[dict[str, Any], None, tuple[Status, str] | None]:
    """How long each phase of a plan takes, where it can say; the result is what is wrong with that."""
    if not hasattr(plan, "run_phases"):
        return None
    started = time.perf_counter()
    try:
        runs = phase_times(plan, timer.clock)
    except BaseException as error:  # noqa: BLE001  a backend may raise anything
        return _status_of(error), describe(error)
    finally:
        spent.samples += time.perf_counter() - started
    if isinstance(runs, str):  # what is wrong with them
        return Status.FAILED, runs
    yield phases_line(row, timer.process, runs)
    return None


def _broken(row: Row, error: BaseException) -> Row:
    """The row of which a backend raised `error`; KeyboardInterrupt passes through."""
    return replace(row, status=_status_of(error), reason=describe(error))


def _status_of(error: BaseException) -> Status:
    """What a row is after an error; KeyboardInterrupt passes through."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, UnsupportedError):
        return Status.UNSUPPORTED
    return Status.OUT_OF_MEMORY if isinstance(error, MemoryError) else Status.FAILED


def prepare(task: Task, operands: Operands, options: RunOptions, spent: Spent) -> Row | Prepared:
    """A verified plan, or the row that says why there is none."""
    row = Row(key=task.key, status=Status.PARTIAL)
    started = time.perf_counter()
    try:
        plan = _plan(task, task.case, operands, options)
        planned = time.perf_counter()
        spent.planning += planned - started
        row = replace(row, resolved=plan.algorithm, plan_s=planned - started, workspace_bytes=plan.workspace_bytes,
                      work=plan.work, build_s=getattr(plan, "build_s", None),
                      notes=notes_of(plan))  # fmt: skip
        first_call_s, verification = _verify(task, plan, operands, options)
        kept = Kept(task.case, plan)
        spent.verification += time.perf_counter() - planned
    except UnsupportedError as error:
        return replace(row, status=Status.UNSUPPORTED, reason=str(error))
    except BaseException as error:  # noqa: BLE001  a backend may raise anything; the other rows go on
        return _broken(row, error)
    row = replace(row, first_call_s=first_call_s, verification=verification.to_dict())
    if not verification.passed:
        return replace(row, status=Status.WRONG, reason=verification.reason)
    return Prepared(row, plan, kept)


def _plan(task: Task, case: Case, operands: Operands, options: RunOptions) -> Plan:
    return task.backend.plan(case, task.algorithm, operands, options.plan)


def _accuracy(task: Task, plan: Plan, options: RunOptions) -> float:
    """The tier that a plan is held to: its own, else its candidate's; what AUTO takes keeps what was asked for, too."""
    stated: float = getattr(plan, "accuracy", task.candidate.accuracy)
    return min(stated, options.accuracy) if task.key.algorithm == AUTO else stated


def _verify(task: Task, plan: Plan, operands: Operands, options: RunOptions) -> tuple[float, Verification]:
    """Seconds of the first call, and the verification.

    With an epilogue the linear part is verified on a plan of its own, the fused output against that.
    """
    import numpy as np

    from convbench import fused, verify

    case = task.case
    given = operands.digest()
    device = ask(task.backend, "device")
    started = time.perf_counter()
    plan.run()
    finish(device)
    first_call_s = time.perf_counter() - started
    if unfilled := poisoned(plan):
        return first_call_s, verify.Verification(passed=False, reason=unfilled)
    plan.run()  # what is checked is a run like those that are timed, not the first
    if case.epilogue is Epilogue.NONE:
        accuracy = _accuracy(task, plan, options)
        verification = verify.check(case, plan.output(), operands, plan.error_bound, options.seed, accuracy)
    else:
        linear = linear_plan(task.backend, case, plan, task.algorithm, operands, options.plan)
        verification = verify.verify(replace(case, epilogue=Epilogue.NONE), linear, operands, options.seed,
                                     _accuracy(task, linear, options))  # fmt: skip
        if verification.passed:
            bound = looser(plan.error_bound, linear.error_bound)
            reason = fused.check_epilogue(case, np.asarray(linear.output()), plan.output(), operands, bound)
            if reason:
                verification = replace(verification, passed=False, reason=reason)
    now = operands.digest()
    changed = [name for name, digest in given.items() if now[name] != digest]
    if changed:
        reason = f"the plan wrote into its operands: {', '.join(changed)}"
        verification = replace(verification, passed=False, reason=reason)
    return first_call_s, verification
