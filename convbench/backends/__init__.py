"""What a device, a backend and a plan are, and where backends are found. docs/backends.md shows how to write one."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convbench.accuracy import DEFAULT_ACCURACY, SUM_ACCURACY
from convbench.errors import InputError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from convbench.machine import Machine
    from convbench.operands import Operands
    from convbench.problem import Case
    from convbench.work import Work

ENTRY_POINTS = "convbench.backends"
NUMBER = re.compile("0|[1-9][0-9]{0,3}")
"""Of a device, as it is written."""
RUN = "CONVBENCH_RUN"
"""The environment variable that tells worker processes the number of the process that started them."""
AUTO = "auto"
"""The algorithm name that leaves the choice to the backend."""


BELOW_TIMER_FLOOR = "below_timer_floor"
"""The flag of a sample too short for its clock."""
POWER_CAP = "power_cap"
"""The flag of a sample during which a GPU's power limit held its clock down, as it does under any full load."""
REMARKS = frozenset({BELOW_TIMER_FLOOR, POWER_CAP})
"""Flags that are no witnesses of a disturbance."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed value.

    Attributes:
        wall_s: seconds on the clock, for all launches of the sample together.
        cpu_s: processor time of this process in the same window; None where a device does the work.
        flags: witnesses against the sample, such as "switched", and REMARKS; empty for a clean one.
    """

    wall_s: float
    cpu_s: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether a witness speaks against it."""
        return not REMARKS.issuperset(self.flags)


class Clock(Protocol):
    """Times launches and watches for disturbance meanwhile.

    It may have `meters()`: what meters read over the last `watch`, as numbers by name with its unit ("power_w").
    `energy_j` and `window_s`, the seconds that it was taken over, make the joules of a run.
    """

    overhead_s: float
    """Cost of reading the clock, in seconds."""

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Calls `run` `launches` times and returns when the last one has ended."""
        ...

    def watch(self) -> Callable[[list[Sample]], list[Sample]]:
        """Starts watching for what single samples are too short to show.

        The result ends it, and gives the samples taken meanwhile with the flags that they have in its light.
        """
        ...


ON_STREAM = "stream"
"""The name of a GPU's launch that is not in a graph."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A micro-kernel that shows a ceiling.

    Attributes:
        kind: "compute", "bandwidth" or "launch".
        name: of the first the math mode, of the second the mix of traffic ("read", "copy", "add"); of the third "", or
            ON_STREAM where that is not how rows are timed.
        amount: flops, or bytes read and written, of one run; 1 of a launch.
        run: runs it so many times, and returns when the last one has ended; what 0 times cost is its overhead.
        size_bytes: of the working set, all threads together, of a bandwidth.
    """

    kind: str
    name: str
    amount: float
    run: Callable[[int], None]
    size_bytes: int = 0


class Device(Protocol):
    """A machine's processor or accelerator: one set of ceilings, shared by the backends that run on it.

    It may have `probes(threads)`, a context manager that yields the Probes of its ceilings for runs on so many CPU
    threads; a device without has no measured ceilings.

    One whose plans only enqueue has `synchronize()`, which returns when all of it has ended and raises what went wrong.
    One with memory of its own has `free_bytes()`, what plans may have of it now: `memory_bytes` of their candidates
    are then of that. And it may have `lost()`: asked after a row went wrong, in one line why nothing can run on it any
    more in this process; None where something can.
    """

    name: str
    """ "cpu", "cuda:0"."""

    def machine(self) -> Machine:
        """Identity of the machine."""
        ...

    def clock(self, threads: int) -> Clock:
        """The clock that times this device, for plans that use `threads` CPU threads."""
        ...

    def canaries(self) -> dict[str, Callable[[], object]]:
        """Fixed kernels, one bound by arithmetic and one by memory, timed once a round as warning lights."""
        ...

    def sweep_cache(self, threads: int) -> None:
        """Fills the caches that `threads` CPU threads may use with other data, and returns when that is done."""
        ...

    def cache_bytes(self) -> int:
        """Size of the last-level cache, in bytes; a guess on the high side where it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An algorithm a backend offers for a case.

    Attributes:
        algorithm: its name.
        reason: why it cannot do the case; None if it can.
        memory_bytes: what its plan will allocate: operands in its own layout, output, workspace.
        transient_bytes: the part of `memory_bytes` that it holds only while it runs.
        resolves_to: of AUTO, the algorithm that it takes; None where the backend cannot say before planning.
        resolved: what its plan will call itself, where that is known and more than the algorithm: "gemm-blas".
        accuracy: the tier that it keeps, one of `accuracy.ACCURACIES`; of AUTO, that of what it takes.
        estimated_s: the backend's own estimate of a run, in seconds; None where it has none.
    """

    algorithm: str
    reason: str | None = None
    memory_bytes: int = 0
    transient_bytes: int = 0
    resolves_to: str | None = None
    accuracy: float = SUM_ACCURACY
    estimated_s: float | None = None
    resolved: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What the user asks of every plan.

    Attributes:
        threads: number of CPU threads.
        accuracy: the loosest tier that AUTO may take; algorithms asked for by name keep their own.
        workspace_limit_bytes: scratch memory that a plan may ask for, of backends that know it; None: all there is.
    """

    threads: int = 1
    accuracy: float = DEFAULT_ACCURACY
    workspace_limit_bytes: int | None = None


DEFAULTS = PlanOptions()


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """How far a plan's rounding error may reach (docs/method.md, "Verification").

    Attributes:
        growth: what the bound of an element is multiplied by: 1 for sums of products; for an FFT log₂ of the points
            of one transform, at least 1.
        transform_points: points over which a transform spreads its errors evenly, all phases of a strided plane
            together; 0 where an element's error scales with that element's own products.
    """

    growth: float = 1.0
    transform_points: int = 0


class Plan(Protocol):
    """A case made ready to run by one algorithm: memory allocated, operands in place.

    It may have an `accuracy`, the tier that it keeps, where that is another one than its candidate's; `notes`, texts
    that say more of it, and `build_s`, the seconds of planning in which a library built or compiled it;
    `over(operands)`, the same plan over other operands, where that costs less than planning anew; and
    `run_phases(clock)`, where it can say how long the phases of `work` take: it runs once and gives seconds for each of
    them, in order. They add up to about the time of a run: where several threads are in a phase at a time, it took as
    long as their average. Phases that follow one another are callables for `clock.sample(phase, 1).wall_s`, `clock`
    being the device's; those that alternate, chunk by chunk, need a stopwatch of the plan's own.
    """

    algorithm: str
    """The algorithm, resolved: never "auto"."""
    work: Work
    workspace_bytes: int
    """Scratch memory, allocated at plan time or within `run`."""
    error_bound: ErrorBound

    def run(self) -> None:
        """Enqueues the work once; the whole output is written."""
        ...

    def poison(self) -> None:
        """Fills the output with NaN."""
        ...

    def output(self) -> NDArray[Any]:
        """What the last `run` wrote, in canonical axis order; a view where possible."""
        ...


class Backend(Protocol):
    """A provider of plans.

    Its class takes no argument; or one that may be left out, `index`: which of several devices it runs on, counted
    from 0, whose number the device's name ends with. `--device` makes it once for each of those named.
    It and its device may have `versions()`, of drivers and libraries by name: what no Python package says.
    It may have `peaks(threads)`, Probes of what it computes with at its fastest: where that exceeds the device's own,
    it is the ceiling of runs that the backend is in.
    It may have `names(algorithm)`, whether an algorithm may be so called that is not offered for every case: asking for
    it is no mistake then. And `listed_for()`, in one line what it lists algorithms for while `probe` says why it
    cannot run them; None where it lists for what it runs on.
    """

    name: str

    def probe(self) -> str | None:
        """None if usable here, else why not and what to install."""
        ...

    def device(self) -> Device:
        """The device that plans run on."""
        ...

    def algorithms(self, case: Case, options: PlanOptions) -> Sequence[Candidate]:
        """Every algorithm, with the reason where one cannot do the case; AUTO among them if the backend can choose.

        `options` are those that `plan` will get: threads may change memory, the accuracy limits what AUTO takes.
        """
        ...

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready.

        Raises:
            UnsupportedError: the algorithm cannot do the case.
        """
        ...


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A `-b` argument: a backend, one of its algorithms or None for all of them, and how it was written.

    `index` is the device that it was made for; None where its class takes none, or none was asked for.
    """

    backend: Backend
    algorithm: str | None = None
    text: str = ""
    index: int | None = None


def available() -> dict[str, EntryPoint]:
    """Entry points of the installed backends by name, our own first; CONVBENCH_PLUGINS=0 leaves third-party ones out.

    Raises:
        InputError: two distributions offer a backend of the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: (not _is_ours(e), e.name)):
        if not _is_ours(entry) and os.environ.get("CONVBENCH_PLUGINS") == "0":
            continue
        if entry.name in found and entry.value != found[entry.name].value:
            raise InputError(f"two backends are called {entry.name!r}: {found[entry.name].value} and {entry.value}")
        found[entry.name] = entry
    return found


def _is_ours(entry: EntryPoint) -> bool:
    return entry.value.startswith("convbench.")


def device_index(name: str) -> int | None:
    """The number at the end of a device's name, 1 of "cuda:1"; None of one that has none."""
    _, colon, number = name.rpartition(":")
    return int(number) if colon and NUMBER.fullmatch(number) else None


def _made(factory: Callable[..., Backend], devices: Sequence[int]) -> list[tuple[Backend, int | None]]:
    """The backend on each of these devices, where it takes an index; else once, as it is without."""
    if not (devices and _takes_index(factory)):
        return [(factory(), None)]
    return [(factory(index=index), index) for index in devices]


def _takes_index(factory: Callable[..., Backend]) -> bool:
    try:
        return "index" in inspect.signature(factory).parameters
    except ValueError:  # it is not written in Python, and does not say
        return False


def load(
    entry: EntryPoint, warn: Callable[[str], object] = warnings.warn, devices: Sequence[int] = ()
) -> list[BackendSpec]:
    """The backend behind an entry point, on each of these devices where it can choose; all of its algorithms.

    Where a plug-in fails to load there is none, and `warn` gets one line that says why. Our own raise what they raise.
    """
    try:
        made = _made(entry.load(), devices)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plug-in may raise anything, or end the program
        if _is_ours(entry):
            raise
        reason = f"backend {entry.name!r} failed to load: {type(error).__name__}: {error}"
        warn(" ".join(reason.splitlines()))
        return []
    return [BackendSpec(backend, None, entry.name, index) for backend, index in made]


def parse_backend(text: str, devices: Sequence[int] = ()) -> list[BackendSpec]:
    """The backend and algorithm of "cpu", "cpu:fft", "./mine.py:MyBackend" or "./mine.py:MyBackend:algorithm".

    It comes once for each of these devices where it can choose, else once.

    Raises:
        InputError: no such backend, file or class, or one that fails to load.
    """
    if ".py" in text:
        path, _, rest = text.partition(".py")
        class_name, _, algorithm = rest.removeprefix(":").partition(":")
        made = _from_file(Path(path + ".py"), class_name, devices)
        return [BackendSpec(backend, algorithm or None, text, index) for backend, index in made]
    name, _, algorithm = text.partition(":")
    found = available()
    if name not in found:
        raise unknown_name("backend", name, list(found), where=" (a backend in a file is FILE.py:CLASS)")
    reasons: list[str] = []
    specs = load(found[name], reasons.append, devices)
    if reasons:
        raise InputError(*reasons)
    return [replace(spec, algorithm=algorithm or None, text=text) for spec in specs]


def _from_file(path: Path, class_name: str, devices: Sequence[int]) -> list[tuple[Backend, int | None]]:
    if not class_name:
        raise InputError(f"{path}: name the backend class after a colon, such as {path.name}:MyBackend")
    module_name = f"convbench_backend_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"cannot read backend file {path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        return _made(getattr(module, class_name), devices)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's file may raise anything, or end the program
        raise InputError(f"backend {path}:{class_name} failed to load: {type(error).__name__}: {error}") from error
