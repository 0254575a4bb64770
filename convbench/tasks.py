"""Suites × backends → tasks: the rows to come, what each needs in memory, and which cannot be measured."""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
import traceback
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.accuracy import DEFAULT_ACCURACY
from convbench.backends import AUTO, Backend, BackendSpec, Candidate, PlanOptions, device_index
from convbench.errors import ConvbenchError, InputError, shown, unknown_name
from convbench.memory import operand_bytes, transfer_bytes, verification_bytes
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.result import COLD, WARM, RowKey, Status
from convbench.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convbench.backends import Device, Plan
    from convbench.operands import Operands
    from convbench.suite import Suite


NOT_HERE = "the backend offers no algorithm of this name for this case"
MAX_SETS = 64
"""Most operand sets that a cold sample rotates through."""
MOST_TEXTS, LONGEST_TEXT = 50, 500
"""Of what a plan, a backend or a device says of itself: lines, and the characters of each; the journal keeps them."""
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


@dataclass(frozen=True, slots=True)
class Task:
    """One row to come: what was asked, who answers, and whether it can."""

    index: int
    key: RowKey
    backend: Backend
    candidate: Candidate
    unavailable: str | None = None
    cache_bytes: int = 0
    """Size of the cache that a cold row sweeps; 0 for a warm one."""
    offered: tuple[Candidate, ...] = ()
    """Of AUTO, all that its backend offers for the case."""
    chosen: str | None = None
    """Of AUTO, the algorithm that is to be taken; None leaves the choice to the backend."""
    free_bytes: int | None = None
    """Memory of the device's own that plans may have; None where they have the host's."""

    @property
    def case(self) -> Case:
        """The row's case."""
        return self.key.case

    @property
    def algorithm(self) -> str:
        """What the backend is asked for."""
        return self.chosen or self.key.algorithm

    def taking(self, algorithm: str) -> Task:
        """The task with AUTO's choice made."""
        candidate = next(c for c in self.offered if c.algorithm == algorithm)
        return replace(self, chosen=algorithm, candidate=candidate)

    @property
    def operands_id(self) -> tuple[Problem, Dtype]:
        """What rows with the same operands agree in."""
        return self.case.problem, self.case.dtype

    @property
    def memory_bytes(self) -> int:
        """Predicted need: operands, plan, the larger of a run and its verification, a cold row's further sets.

        That of the host's memory, which `--max-memory` bounds: of a plan in a device's own memory it has none.
        """
        return operand_bytes(self.case) + self.held_bytes + self.passing_bytes + self.cold_bytes

    @property
    def device_bytes(self) -> int:
        """The same of the device's own memory, where it has some: plans, a run, the buffer that sweeps the cache."""
        if self.free_bytes is None:
            return 0
        return self.sets * self._plan_bytes + self.device_passing_bytes

    @property
    def device_passing_bytes(self) -> int:
        """The part of `device_bytes` that is shared by tasks planned at once; with an epilogue, a second plan's."""
        second = self._plan_bytes if self.case.epilogue is not Epilogue.NONE else 0
        return second + self.candidate.transient_bytes + 2 * self.cache_bytes

    @property
    def _plan_bytes(self) -> int:
        """What a plan holds between runs."""
        return self.candidate.memory_bytes - self.candidate.transient_bytes

    @property
    def held_bytes(self) -> int:
        """What a plan holds of the host's memory between runs."""
        return self._plan_bytes if self.free_bytes is None else 0

    @property
    def passing_bytes(self) -> int:
        """What a run or the verification, whichever needs more, holds for its time; with an epilogue, a second plan."""
        if self.free_bytes is not None:
            return verification_bytes(self.case) + transfer_bytes(self.case)
        second = self.held_bytes if self.case.epilogue is not Epilogue.NONE else 0
        return second + max(self.candidate.transient_bytes, verification_bytes(self.case))

    @property
    def sets(self) -> int:
        """Most plans over operands of their own that a cold sample runs: about twice the cache, at most 64."""
        one = self._plan_bytes + (operand_bytes(self.case) if self.free_bytes is None else 0)
        return max(1, min(MAX_SETS, 2 * self.cache_bytes // max(1, one)))

    @property
    def cold_bytes(self) -> int:
        """What a cold row needs beyond a warm one: its further sets, and the buffer that sweeps the cache.

        With memory of its own, a device has both: on the host are the operands of one further set at a time.
        """
        if self.free_bytes is not None:
            return operand_bytes(self.case) if self.sets > 1 else 0
        return (self.sets - 1) * (operand_bytes(self.case) + self.held_bytes) + 2 * self.cache_bytes


class Silent:
    """Stands for a backend that ends or hangs the process in which it is asked what it can do: its rows have failed."""

    def __init__(self, name: str, algorithm: str, reason: str) -> None:
        self.name, self._algorithm, self._reason = name, algorithm or AUTO, reason

    def probe(self) -> str:
        """What it did."""
        return self._reason

    def device(self) -> Device:
        """Is not asked for."""
        raise InputError(self._reason)

    def algorithms(self, case: Case, options: PlanOptions) -> list[Candidate]:
        """The one that was asked for."""
        return [Candidate(self._algorithm)]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """Is not asked for."""
        raise InputError(self._reason)


def tasks(
    cases: Sequence[Case], specs: Sequence[BackendSpec], threads: int, caches: Sequence[str] = (WARM,),
    accuracy: float = DEFAULT_ACCURACY, workspace_limit_bytes: int | None = None,
) -> list[Task]:  # fmt: skip
    """Every case on every backend and algorithm asked for, warm and cold as `caches` says, in that order.

    `accuracy` is the loosest tier that AUTO may take, `workspace_limit_bytes` the scratch memory that a plan may.

    Raises:
        InputError: a backend has no algorithm of the name asked for, or fails where it is asked what it can do.
    """
    found: list[Task] = []
    seen: set[RowKey] = set()
    reasons = [probe(spec.backend) for spec in specs]
    devices = [None if reason else _device(spec) for spec, reason in zip(specs, reasons, strict=True)]
    options = PlanOptions(threads=threads, accuracy=accuracy, workspace_limit_bytes=workspace_limit_bytes)
    llc = {device.name: device.cache_bytes() for device in devices if device is not None} if COLD in caches else {}
    free = {device.name: _free_bytes(device) for device in devices if device is not None}
    for case in cases:
        for spec, unavailable, device in zip(specs, reasons, devices, strict=True):
            offered = candidates(spec, case, options)
            names = [spec.algorithm] if spec.algorithm else [name for name in offered if name != AUTO] or [*offered]
            for name, cache in itertools.product(names, caches):
                key = RowKey(case=case, backend=spec.backend.name, algorithm=name,
                             device=device.name if device else "", cache=cache, threads=threads,
                             accuracy=accuracy if name == AUTO else None,
                             workspace_limit_bytes=workspace_limit_bytes)  # fmt: skip
                if key not in seen:
                    seen.add(key)
                    size = llc.get(key.device, 0) if cache == COLD else 0
                    choices = tuple(offered.values()) if name == AUTO else ()
                    found.append(Task(len(found), key, spec.backend, offered[name], unavailable, size, choices,
                                      free_bytes=free.get(key.device)))  # fmt: skip
    return found


def probe(backend: Backend) -> str | None:
    """None if the backend is usable, else why not.

    Raises:
        InputError: it says neither.
    """
    reason: str | None = ask(backend, "probe")
    if reason is not None and not isinstance(reason, str):
        raise _junk(backend, "probe", reason, "None or a reason")
    return reason


def _device(spec: BackendSpec) -> Device:
    device: Device = ask(spec.backend, "device")
    if not isinstance(name := getattr(device, "name", None), str):
        raise _junk(spec.backend, "device", device, "a Device")
    if not (name and name.isprintable()):
        raise InputError(f"{_named(spec.backend)} cannot be used: {shown(name)} is no printable name of a device")
    if spec.index is not None and device_index(name) != spec.index:  # rows of two devices would be taken for one's
        raise InputError(f"{_named(spec.backend)} cannot be used: made for device {spec.index}, it runs on {name!r}")
    return device


def _free_bytes(device: Device) -> int | None:
    """What a device that has memory of its own says that plans may have of it now."""
    if not hasattr(device, "free_bytes"):
        return None
    given = ask(device, "free_bytes")
    finite = isinstance(given, Real) and given - given == 0  # math.isfinite takes no integer of 400 digits
    if not finite:
        raise _junk(device, "free_bytes", given, "a number of bytes")
    return max(0, int(given))


def candidates(spec: BackendSpec, case: Case, options: PlanOptions) -> dict[str, Candidate]:
    """What the backend offers for a case, by name of the algorithm.

    Raises:
        InputError: it has no algorithm of the name asked for, or gives something else than candidates.
    """
    offered = ask(spec.backend, "algorithms", case, options)
    if not isinstance(offered, list | tuple) or not all(map(_is_candidate, offered)):
        raise _junk(spec.backend, "algorithms", offered, "a list of Candidate")
    found: dict[str, Candidate] = {c.algorithm: c for c in offered}
    if spec.algorithm is not None and spec.algorithm not in found:
        if getattr(spec.backend, "names", lambda _algorithm: False)(spec.algorithm):
            return found | {spec.algorithm: Candidate(spec.algorithm, NOT_HERE)}
        raise unknown_name("algorithm", spec.algorithm, list(found), where=f" of backend {spec.backend.name}")
    return found


def _is_candidate(value: object) -> bool:
    """Whether a value is a candidate whose fields are of the types that they should have."""
    return (
        isinstance(value, Candidate)
        and isinstance(value.algorithm, str)
        and all(isinstance(text, str | None) for text in (value.reason, value.resolves_to, value.resolved))
        and all(isinstance(size, Integral) for size in (value.memory_bytes, value.transient_bytes))
        and isinstance(value.accuracy, Real)
        and isinstance(value.estimated_s, Real | None)
    )


def ask(backend: Backend | Device, method: str, *arguments: Any) -> Any:
    """What a method of a backend, or of its device, gives.

    Raises:
        InputError: it raises anything that is not meant for the user.
    """
    try:
        return getattr(backend, method)(*arguments)
    except (ConvbenchError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a backend from a file may be anything
        raise InputError(f"{_named(backend)} cannot be used: {describe(error)}") from error


def versions(device: Device, backends: Sequence[Backend]) -> dict[str, str]:
    """What a device and the backends on it say of drivers and libraries, by name, cut to what a journal should hold."""
    found: dict[str, str] = {}
    asked: list[Backend | Device] = [device, *backends]
    for of in asked:
        if hasattr(of, "versions"):
            said = ask(of, "versions")
            if not isinstance(said, dict) or not all(isinstance(text, str) for pair in said.items() for text in pair):
                raise _junk(of, "versions", said, "texts by name")
            found |= {name[:LONGEST_TEXT]: text[:LONGEST_TEXT] for name, text in [*said.items()][:MOST_TEXTS]}
    return dict(sorted(found.items()))


def _junk(backend: Backend | Device, method: str, given: object, allowed: str) -> InputError:
    return InputError(f"{_named(backend)} cannot be used: {method}() gave {shown(given)}, not {allowed}")


def _named(of: Backend | Device) -> str:
    return f"{'device' if hasattr(of, 'sweep_cache') else 'backend'} {getattr(of, 'name', type(of).__name__)}"


def groups_by_memory(found: Sequence[Task], max_memory: int) -> Iterator[list[Task]]:
    """Tasks to be planned at once and interleaved: all of them if they fit, else those of one problem, else one."""
    if _fit(found, max_memory):
        yield list(found)
        return
    by_problem: dict[tuple[str, str], list[Task]] = {}
    for task in found:
        by_problem.setdefault((task.case.suite, task.case.name), []).append(task)
    for group in by_problem.values():
        if _fit(group, max_memory):
            yield group
        else:
            yield from ([task] for task in group)


def _fit(found: Sequence[Task], max_memory: int) -> bool:
    """Whether tasks can be planned at once: within `max_memory` of the host's and what each device has of its own."""
    for device in {t.key.device for t in found if t.free_bytes is not None}:
        here = [t for t in found if t.key.device == device and t.free_bytes is not None]
        passing = max(t.device_passing_bytes for t in here)
        if sum(t.device_bytes - t.device_passing_bytes for t in here) + passing > min(t.free_bytes or 0 for t in here):
            return False
    return _together(found) <= max_memory


def _together(found: Sequence[Task]) -> int:
    # Operands made for one pass serve the others of the same problem; runs and verifications come one at a time.
    operands = {t.operands_id: 0 for t in found}
    for t in found:
        p = t.case.problem
        operands[t.operands_id] = (math.prod(p.x_shape) + math.prod(p.w_shape) + math.prod(p.y_shape)) * max(
            4, t.case.dtype.itemsize
        )
    passing = max((t.passing_bytes for t in found), default=0)
    return sum(operands.values()) + sum(t.held_bytes + t.cold_bytes for t in found) + passing


def refusal(task: Task, max_memory: int) -> tuple[Status, str] | None:
    """The status and reason of a task that is not even planned; None if it is."""
    if task.unavailable:
        return Status.FAILED if isinstance(task.backend, Silent) else Status.UNAVAILABLE, task.unavailable
    if task.candidate.reason:
        return Status.UNSUPPORTED, task.candidate.reason
    if task.memory_bytes > max_memory:
        parts = {"operands": operand_bytes(task.case), "plan": task.held_bytes,
                 "a run or its verification": task.passing_bytes, "cold sets and sweep": task.cold_bytes}  # fmt: skip
        listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
        return Status.SKIPPED, (
            f"needs {format_bytes(task.memory_bytes)} ({listed}); --max-memory is {format_bytes(max_memory)}"
        )
    if task.free_bytes is not None and task.device_bytes > task.free_bytes:
        return Status.SKIPPED, (
            f"needs {format_bytes(task.device_bytes)} of {task.key.device}'s memory, of which it can have "
            f"{format_bytes(task.free_bytes)}"
        )
    return None


def notes_of(plan: Plan) -> tuple[str, ...]:
    """What a plan says of itself, cut to what a journal should hold."""
    given = getattr(plan, "notes", ())
    lines = itertools.islice([given] if isinstance(given, str) else given, MOST_TEXTS)
    return tuple(str(line)[:LONGEST_TEXT] for line in lines)


def describe(error: BaseException) -> str:
    """An exception in one line: its type, its text without the folders of absolute paths, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = FOLDERS.sub("", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}{where}"[:LONGEST_TEXT]
