"""Measured choices for `auto` (`--tune`): the most promising candidates are timed once, and the fastest remembered."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench import __version__, environment
from convbench.backends import AUTO
from convbench.cache import Remembered, cache_folder
from convbench.lost import DeviceLostError, Lost
from convbench.result import WARM
from convbench.runner import Prepared, Progress, Spent, prepare
from convbench.stats import median
from convbench.tasks import ask, groups_by_memory, refusal, versions
from convbench.timing import launches_per_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from convbench.backends import Clock
    from convbench.runner import RunOptions
    from convbench.tasks import Task

CONTENDERS = 5
"""Candidates that are measured, those of the least estimated time: more than one, where an algorithm has variants. Of a
list without estimates all are, but only so many however long it takes."""
TIMES_OF_A_ROW = 5
"""Multiples of `--max-time` after which no further one of such a list is planned."""
SAMPLES = 3
MOST_CHOICES = 4096
"""Choices that are remembered, the latest."""
FORMAT = 1
"""Of the file: raised when what a choice depends on or how it is written changes."""


class Choices:
    """The fastest algorithms found so far, by `question`; remembered in `folder`."""

    def __init__(self, folder: Path, warn: Callable[[str], object]) -> None:
        self._file = Remembered(
            folder / "choices.json", name="choices", file_format=FORMAT, most=MOST_CHOICES,
            valid=lambda entry: {str} >= {type(name) for name in [entry["algorithm"], *entry.get("barred", [])]},
            warn=warn,
        )  # fmt: skip

    def get(self, question: str) -> str | None:
        """The algorithm that was fastest, None if that is not known."""
        found = self._file.entries
        return found[question]["algorithm"] if question in found else None

    def put(self, question: str, row: str, seconds: dict[str, float]) -> str:
        """Remembers `seconds` by algorithm, and gives the fastest; `row` says in words what was asked."""
        algorithm = min(seconds, key=lambda name: seconds[name])
        barred = sorted(self.barred(question))
        entry = {"row": row, "algorithm": algorithm, "seconds": seconds}
        self._file.put(question, entry | ({"barred": barred} if barred else {}))
        return algorithm

    def barred(self, question: str) -> set[str]:
        """Algorithms with which the device was lost: they are not tried again."""
        return {*self._file.entries.get(question, {}).get("barred", [])}

    def bar(self, question: str, row: str, algorithm: str) -> bool:
        """Remembers that the device was lost with an algorithm; whether another process will know it."""
        barred = sorted({*self.barred(question), algorithm})
        return self._file.put(question, {"row": row, "algorithm": "", "seconds": {}, "barred": barred})


class _GoneError(Exception):
    """A device was lost with the contender of this name."""


def tuned(
    found: Sequence[Task], options: RunOptions, spent: Spent, warn: Callable[[str], object]
) -> Generator[Progress, None, list[Task]]:
    """The tasks, those of AUTO told which algorithm to take; Progress meanwhile.

    Where a choice is not remembered, the most promising candidates within accuracy and memory are planned and timed,
    and the fastest is verified. Warm and cold rows share it. `warn` gets a line where choices cannot be remembered, and
    one where a device is lost: tasks on it are then told nothing.

    Raises:
        DeviceLostError: with `isolate`, where a fresh process will not try again with what the device was lost.
    """
    told = []
    choices = Choices(cache_folder(), warn)
    here, lost = Surroundings(), Lost()
    for task in found:
        measured = task.key.algorithm == AUTO and task.offered and not lost.row(task)
        if not measured or refusal(task, options.max_memory):
            told.append(task)
            continue
        yield Progress(task.index, "tune")
        started = time.perf_counter()
        algorithm = _choice(task, options, choices, here, lost, warn)
        spent.tuning += time.perf_counter() - started
        told.append(task.taking(algorithm) if algorithm else task)
    return told


def _choice(
    task: Task, options: RunOptions, choices: Choices, here: Surroundings, lost: Lost, warn: Callable[[str], object]
) -> str | None:
    contenders = [
        contender
        for candidate in task.offered
        if candidate.algorithm != AUTO and candidate.accuracy <= options.accuracy
        if refusal(contender := _named(task, candidate.algorithm), options.max_memory) is None
    ]
    if len(contenders) <= 1:
        return contenders[0].key.algorithm if contenders else None
    question = here.question(task)
    remembered, barred = choices.get(question), choices.barred(question)
    contenders = [contender for contender in contenders if contender.algorithm not in barred]
    if any(contender.key.algorithm == remembered for contender in contenders):
        return remembered
    if any(contender.candidate.estimated_s is not None for contender in contenders):
        contenders.sort(key=lambda c: (c.candidate.estimated_s is None, c.candidate.estimated_s or 0.0))
        del contenders[CONTENDERS:]
    import numpy as np  # noqa: F401  its BLAS must be loaded to be limited
    from threadpoolctl import threadpool_limits

    row = replace(task.key, cache=WARM).label()
    try:
        with threadpool_limits(options.threads):
            seconds = _without_wrong(contenders, _measured(contenders, options, lost), options, lost)
    except _GoneError as gone:
        reason = lost.reasons[task.key.device]
        if choices.bar(question, row, str(gone)) and options.isolate:
            raise DeviceLostError(reason) from gone
        warn(reason)
        return None
    return choices.put(question, row, seconds) if seconds else None


def _named(task: Task, algorithm: str) -> Task:
    """The warm row that asks for an algorithm by its name."""
    key = replace(task.key, algorithm=algorithm, accuracy=None, cache=WARM)
    return replace(task.taking(algorithm), key=key, cache_bytes=0)


def _measured(contenders: Sequence[Task], options: RunOptions, lost: Lost) -> dict[str, float]:
    """Seconds of a run by algorithm; interleaved where all fit into memory together.

    Raises:
        _GoneError: the device was lost with one of them.
    """
    seconds: dict[str, float] = {}
    until = time.perf_counter() + TIMES_OF_A_ROW * options.timing.max_time_s
    for group in groups_by_memory(contenders, options.max_memory):
        seconds |= _measured_together(group, options, len(seconds), until, lost)
    return seconds


def _measured_together(
    group: Sequence[Task], options: RunOptions, before: int, until: float, lost: Lost
) -> dict[str, float]:
    """Those that are planned until that time, and CONTENDERS in any case, of which there were some `before`."""
    from convbench.operands import Operands

    runs: dict[str, Callable[[], object]] = {}
    clocks: dict[str, Clock] = {}
    launches: dict[str, int] = {}
    operands = Operands(group[0].case.problem, group[0].case.dtype, options.seed)
    for task in group:
        if before + len(runs) >= CONTENDERS and time.perf_counter() > until:
            break
        try:
            run = task.backend.plan(task.case, task.algorithm, operands, options.plan).run
            run()  # its first call may do what a clock cannot take, such as to allocate within a CUDA graph
            runs[task.algorithm], clocks[task.algorithm] = run, ask(task.backend, "device").clock(options.threads)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  a backend may raise anything: this one is not taken
            _raise_if_gone(task, lost)
    del operands
    tasks = {task.algorithm: task for task in group}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(SAMPLES):
        for name in [*runs]:
            try:
                if name not in launches:
                    launches[name] = launches_per_sample(runs[name], clocks[name], options.timing)  # and warms up
                found[name].append(clocks[name].sample(runs[name], launches[name]).wall_s / launches[name])
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001  a backend may raise anything: this one is not taken
                _raise_if_gone(tasks[name], lost)
                del runs[name], found[name]
    return {name: median(values) for name, values in found.items()}


def _raise_if_gone(contender: Task, lost: Lost) -> None:
    if lost.found_after(contender):
        raise _GoneError(contender.algorithm)


def _without_wrong(
    contenders: Sequence[Task], seconds: dict[str, float], options: RunOptions, lost: Lost
) -> dict[str, float]:
    """`seconds` without those that are faster than the fastest right one, of which each is verified.

    Raises:
        _GoneError: the device was lost with one of them.
    """
    from convbench.operands import Operands

    by_name = {contender.algorithm: contender for contender in contenders}
    operands = Operands(contenders[0].case.problem, contenders[0].case.dtype, options.seed)
    for name in sorted(seconds, key=lambda name: seconds[name]):
        if isinstance(prepare(by_name[name], operands, options, Spent()), Prepared):
            break
        _raise_if_gone(by_name[name], lost)
        seconds = {other: value for other, value in seconds.items() if other != name}
    return seconds


class Surroundings:
    """What a choice depends on beside its case: looked up once, and only if there is one to make."""

    def __init__(self) -> None:
        self._versions: list[Any] = []

    def question(self, task: Task) -> str:
        """All that a choice depends on, hashed."""
        if not self._versions:
            now = environment.collect()
            blas = [
                [library.get(key) for key in ("internal_api", "version", "architecture")] for library in now["blas"]
            ]
            self._versions = [FORMAT, __version__, now["libraries"], blas]
        case = {**task.key.to_dict()["case"], "suite": "", "name": "", "repeat": 1}
        key, device = task.key, ask(task.backend, "device")
        asked = [key.threads, key.accuracy, key.device, key.workspace_limit_bytes]
        machine, said = device.machine().fingerprint, versions(device, [task.backend])
        text = json.dumps([self._versions, machine, said, _identity(task.backend), case, asked], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identity(backend: Any) -> list[str]:
    """A backend's name and source: one in a file has no version."""
    try:
        source = Path(inspect.getfile(type(backend))).read_bytes()
    except (OSError, TypeError):
        source = b""
    return [backend.name, hashlib.sha256(source).hexdigest()[:32]]
