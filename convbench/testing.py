"""For authors of backends and for our own tests: random problems, a fake backend and device, a check of a backend."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench import fused, reference, verify
from convbench.accuracy import SUM_ACCURACY
from convbench.backends import AUTO, DEFAULTS, Candidate, ErrorBound, PlanOptions, Sample
from convbench.errors import InputError
from convbench.machine import Machine
from convbench.operands import Operands, grouped
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode, Problem
from convbench.recheck import linear_plan, looser
from convbench.work import Work, nominal_macs, nominal_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from convbench.backends import Backend, Clock


def random_problem(rng: random.Random, max_macs: int = 200_000) -> Problem:
    """A small random problem: 1-3 axes, groups, strides, dilations, uneven and negative padding, at times batch 0."""
    while True:
        ndim = rng.randint(1, 3)
        largest = {1: 40, 2: 14, 3: 7}[ndim]
        groups = rng.choice([1, 1, 1, 2, 3, 4])
        fields: dict[str, Any] = {
            "batch": rng.choice([0, 1, 1, 2, 3, 5, 8]),
            "in_channels": groups * rng.choice([1, 1, 2, 3, 5]),
            "out_channels": groups * rng.choice([1, 1, 2, 3, 4]),
            "groups": groups,
            "input_size": tuple(rng.randint(1, largest) for _ in range(ndim)),
            "filter_size": tuple(rng.choice([1, 1, 2, 3, 3, 4, 5, 7]) for _ in range(ndim)),
            "stride": tuple(rng.choice([1, 1, 1, 2, 3, 4, 5]) for _ in range(ndim)),
            "dilation": tuple(rng.choice([1, 1, 1, 2, 3, 4]) for _ in range(ndim)),
            "padding": tuple(
                rng.choice([(0, 0), (0, 0), (1, 1), (rng.randint(0, 6), rng.randint(-3, 6))]) for _ in range(ndim)
            ),
        }
        try:
            problem = Problem(**fields)
        except InputError:
            continue
        if nominal_macs(problem) <= max_macs:
            return problem


def random_cases(seed: int, count: int, max_macs: int = 200_000) -> Iterator[Case]:
    """`count` cases of random problems, with every pass, layout, fp32 and fp64 among them."""
    rng = random.Random(seed)
    for index in range(count):
        dtype, math_mode = rng.choice([(Dtype.FP32, MathMode.FP32)] * 3 + [(Dtype.FP64, MathMode.FP64)])
        conv_pass = rng.choice(list(ConvPass))
        yield Case(
            suite="random",
            name=f"p{index}",
            problem=random_problem(rng, max_macs),
            conv_pass=conv_pass,
            dtype=dtype,
            math_mode=math_mode,
            layout=rng.choice(list(Layout)),
            epilogue=rng.choice(list(Epilogue))
            if conv_pass is ConvPass.FPROP and rng.random() < 0.3
            else Epilogue.NONE,
        )


class FakeDevice:
    """A device on which time is simulated: a plan's run moves its clock on, and nothing waits.

    It is called "fake"; with an index, as one of several, "fake:0", "fake:1".
    """

    def __init__(self, index: int | None = None) -> None:
        self.name = "fake" if index is None else f"fake:{index}"
        self.now_s = 0.0
        self.sweeps = 0

    def machine(self) -> Machine:
        """A machine without features."""
        return Machine(os="Fake", arch="fake", cpu_model="Fake CPU", cpu_count=1)

    def clock(self, threads: int) -> FakeClock:
        """A clock that reads the simulated time."""
        return FakeClock(self)

    def canaries(self) -> dict[str, Callable[[], object]]:
        """Two that take a simulated millisecond each."""
        return {"compute": lambda: self.advance(1e-3), "memory": lambda: self.advance(1e-3)}

    def cache_bytes(self) -> int:
        """One MiB."""
        return 1 << 20

    def sweep_cache(self, threads: int) -> None:
        """Counts the sweeps, which take no time."""
        self.sweeps += 1

    def advance(self, seconds: float) -> None:
        """Moves the clock on."""
        self.now_s += seconds


class FakeClock:
    """Reads a FakeDevice's time. `flag_every` n puts a witness against every n-th sample."""

    overhead_s = 1e-8

    def __init__(self, device: FakeDevice, flag_every: int = 0) -> None:
        self.device = device
        self.flag_every = flag_every
        self.samples = 0

    def sample(self, run: Callable[[], object], launches: int) -> Sample:
        """Runs, and says how far the simulated time moved."""
        start = self.device.now_s
        for _ in range(launches):
            run()
        self.samples += 1
        flags = ("switched",) if self.flag_every and self.samples % self.flag_every == 0 else ()
        wall = self.device.now_s - start
        return Sample(wall, wall, flags)

    def watch(self) -> Callable[[list[Sample]], list[Sample]]:
        """Sees nothing."""
        return list


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAlgorithm:
    """How an algorithm of the FakeBackend behaves.

    Attributes:
        seconds: simulated time of a run; a list is cycled through, run by run.
        reason: why it refuses every case.
        memory_bytes: what its plan claims to need.
        accuracy: the tier that it states; estimated_s its estimate of a run.
        phases: simulated seconds by name of phase; None where it cannot say.
        fault: changes the right result, canonical, before it is stored.
        plan_error: raised by `plan`; run_error by the runs after the first `good_runs`.
    """

    seconds: float | Sequence[float] = 1e-3
    reason: str | None = None
    memory_bytes: int = 0
    accuracy: float = SUM_ACCURACY
    estimated_s: float | None = None
    fault: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    plan_error: BaseException | None = None
    run_error: BaseException | None = None
    good_runs: int = 1
    phases: dict[str, float] | None = None


class FakeBackend:
    """Right results in simulated time: for tests of everything above a backend."""

    name = "fake"

    def __init__(
        self, algorithms: dict[str, FakeAlgorithm] | None = None, unusable: str | None = None, index: int | None = None
    ) -> None:
        self.behaviour = algorithms or {"quick": FakeAlgorithm(), "slow": FakeAlgorithm(seconds=3e-3)}
        self.unusable = unusable
        self.shared_device = FakeDevice(index)

    def probe(self) -> str | None:
        """Usable unless told otherwise."""
        return self.unusable

    def device(self) -> FakeDevice:
        """The one simulated device."""
        return self.shared_device

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """Those it was made with, and `auto` for the first of them that is exact enough."""
        found = {
            name: Candidate(name, a.reason, a.memory_bytes, accuracy=a.accuracy, estimated_s=a.estimated_s)
            for name, a in self.behaviour.items()
        }
        chosen = self._choose(options)
        if chosen is None:
            auto = Candidate(AUTO, f"no algorithm keeps {options.accuracy:g}")
        else:
            auto = replace(found[chosen], algorithm=AUTO, resolves_to=chosen)
        return [auto, *found.values()]

    def _choose(self, options: PlanOptions) -> str | None:
        return next((name for name, a in self.behaviour.items() if a.accuracy <= options.accuracy), None)

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> FakePlan:
        """A plan that behaves as told."""
        name = (self._choose(options) or "") if algorithm == AUTO else algorithm
        behaviour = self.behaviour[name]
        if behaviour.plan_error is not None:
            raise behaviour.plan_error
        return FakePlan(case, name, behaviour, operands, self.shared_device)


class FakePlan:
    """Computes by the float64 reference once, and stores a copy of that on each run."""

    workspace_bytes = 0

    def __init__(self, case: Case, name: str, behaviour: FakeAlgorithm, operands: Operands, device: FakeDevice) -> None:
        self.algorithm, self.behaviour, self.device = name, behaviour, device
        self.work = nominal_work(case)
        if behaviour.phases is not None:
            (whole,) = self.work.phases
            self.work = Work(tuple(replace(whole, name=name) for name in behaviour.phases))
            self.run_phases = self._run_phases
        self.error_bound = ErrorBound()
        right = reference_output(case, operands)
        self._result = right if behaviour.fault is None else behaviour.fault(right.copy())
        self._output = np.empty_like(self._result)
        self._runs = 0

    def run(self) -> None:
        """Stores the result and moves the simulated time on."""
        self._runs += 1
        if self.behaviour.run_error is not None and self._runs > self.behaviour.good_runs:
            raise self.behaviour.run_error
        self._output[...] = self._result
        seconds = self.behaviour.seconds
        if not isinstance(seconds, int | float):
            seconds = seconds[(self._runs - 1) % len(seconds)]
        self.device.advance(seconds)

    def _run_phases(self, clock: Clock) -> list[float]:
        """Each phase timed by itself."""
        phases = self.behaviour.phases or {}
        return [clock.sample(functools.partial(self.device.advance, seconds), 1).wall_s for seconds in phases.values()]

    def poison(self) -> None:
        """Fills the output with NaN."""
        self._output.fill(np.nan)

    def output(self) -> NDArray[Any]:
        """The canonical output."""
        return self._output


def reference_output(case: Case, operands: Operands) -> NDArray[Any]:
    """What a backend should write for a case, canonical, rounded from float64 to its dtype."""
    p = case.problem
    if case.conv_pass is ConvPass.FPROP:
        out = reference.fprop(p.axes, grouped(operands.x, p.groups, 1), grouped(operands.w, p.groups, 0))
    elif case.conv_pass is ConvPass.DGRAD:
        out = reference.dgrad(p.axes, grouped(operands.dy, p.groups, 1), grouped(operands.w, p.groups, 0))
    else:
        out = reference.wgrad(p.axes, grouped(operands.dy, p.groups, 1), grouped(operands.x, p.groups, 1))
    out = out.reshape(case.output_shape)
    if case.epilogue is not Epilogue.NONE:
        out += operands.bias.reshape(-1, *[1] * p.ndim)
    if case.epilogue is Epilogue.BIAS_RELU:
        out = np.maximum(out, 0)
    return out.astype(operands.dtype)


def check_backend(backend: Backend, *, count: int = 200, seed: int = 0, max_macs: int = 200_000) -> list[str]:
    """Plans and verifies random cases on every algorithm; what went wrong, a line each, nothing if all is well.

    A case that the backend refuses with a reason is no fault, but that all of them are is one: nothing was tested.
    For the tests of a backend's author.
    """
    problems = []
    planned = 0
    for case in random_cases(seed, count, max_macs):
        linear_case = replace(case, epilogue=Epilogue.NONE)
        operands = Operands(case.problem, case.dtype, seed)
        for candidate in backend.algorithms(case, DEFAULTS):
            if candidate.reason is not None:
                continue
            planned += 1
            where = f"{candidate.algorithm}: {case.label()} ({case.problem.describe()})"
            try:
                plan = backend.plan(case, candidate.algorithm, operands, DEFAULTS)
                linear = linear_plan(backend, case, plan, candidate.algorithm, operands, DEFAULTS)
                accuracy = getattr(linear, "accuracy", candidate.accuracy)
                outcome = verify.verify(linear_case, linear, operands, seed, accuracy)
                reason = outcome.reason
                if not reason and case.epilogue is not Epilogue.NONE:
                    plan.poison()
                    plan.run()
                    bound = looser(plan.error_bound, linear.error_bound)
                    reason = fused.check_epilogue(case, linear.output(), plan.output(), operands, bound) or ""
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  a backend may raise anything: that is what is looked for
                reason = f"{type(error).__name__}: {error}"
            if reason:
                problems.append(f"{where}: {reason}")
    if not planned:
        problems.append(f"none of {count} random cases was accepted, so nothing was tested: raise count")
    return problems
