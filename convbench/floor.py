"""A row's floor: what its algorithm takes for the smallest problem that it does, where hardly any work is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from convbench.backends import AUTO
from convbench.operands import Operands
from convbench.problem import Case, ConvPass, Problem
from convbench.tasks import ask
from convbench.timing import TimingOptions, launches_per_sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convbench.backends import Backend, PlanOptions

SAMPLES = 5
SAMPLE_S = 2e-4
"""Shortest sample, in seconds: a floor is read to some per cent, so it need not be as long as those of a row."""


def smallest_problems(problem: Problem) -> Iterator[Problem]:
    """Ever larger problems of as many axes, at stride 1 and without padding.

    Every extent 1; else with the filter of `problem` and one output; else with a few outputs, as tiles need them; else
    with two groups of as many channels as `problem` has in each.
    """
    ones = (1,) * problem.ndim
    one = Problem(batch=1, in_channels=1, out_channels=1, input_size=ones, filter_size=ones)
    yield one
    taps = problem.filter_size
    yield replace(one, input_size=taps, filter_size=taps)
    yield replace(one, input_size=tuple(2 * tap for tap in taps), filter_size=taps)
    if problem.groups > 1:
        channels, filters = (2 * count // problem.groups for count in (problem.in_channels, problem.out_channels))
        yield replace(one, input_size=taps, filter_size=taps, in_channels=channels, out_channels=filters, groups=2)


@dataclass(frozen=True, slots=True)
class Floors:
    """Floors by backend, device, algorithm and smallest case, measured once: the layers of a network share them."""

    options: PlanOptions
    seed: int
    known: dict[tuple[str, str, str, Case], float | None] = field(default_factory=dict)

    def of(self, backend: Backend, algorithm: str, case: Case) -> float | None:
        """Seconds; None where the algorithm does none of the smallest problems. It raises nothing of the backend's."""
        device = backend.device().name
        for problem in smallest_problems(case.problem):
            smallest = replace(case, suite="", name="smallest", repeat=1, problem=problem)
            question = (backend.name, device, algorithm, smallest)
            if question not in self.known:
                self.known[question] = self._measured(backend, algorithm, smallest)
            if (seconds := self.known[question]) is not None:
                return seconds
        return None

    def _measured(self, backend: Backend, algorithm: str, case: Case) -> float | None:
        try:
            candidates = {candidate.algorithm: candidate for candidate in backend.algorithms(case, self.options)}
            if algorithm in candidates and candidates[algorithm].reason is not None:
                return None
            operands = Operands(case.problem, case.dtype, self.seed)
            plan = backend.plan(case, algorithm, operands, self.options)
            plan.run()  # its first call may do what a clock cannot take, such as to allocate within a CUDA graph
            clock = backend.device().clock(self.options.threads)
            launches = launches_per_sample(plan.run, clock, TimingOptions(min_sample_s=SAMPLE_S))
            samples = [clock.sample(plan.run, launches) for _ in range(SAMPLES)]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  a backend may raise anything; the row does not depend on it
            return None
        # The fastest: a floor that a disturbance made longer would exceed the row's own time.
        seconds = min(sample.wall_s for sample in samples) / launches
        return seconds if math.isfinite(seconds) and seconds > 0 else None


def backend_floors(backend: Backend, options: PlanOptions) -> dict[str, dict[ConvPass, float | None]]:
    """Seconds by algorithm and pass, of 2-D filters of 3×3 in fp32 and nchw: the others' differ little.

    Raises:
        InputError: the backend fails where it is asked for its algorithms.
    """
    problem = Problem(batch=1, in_channels=2, out_channels=2, groups=2, input_size=(3, 3), filter_size=(3, 3))
    case = Case(suite="", name="floor", problem=problem, conv_pass=ConvPass.FPROP)
    floors = Floors(options, seed=0)
    names = [candidate.algorithm for candidate in ask(backend, "algorithms", case, options)]
    return {
        name: {conv_pass: floors.of(backend, name, replace(case, conv_pass=conv_pass)) for conv_pass in ConvPass}
        for name in names
        if name != AUTO
    }
