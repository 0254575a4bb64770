"""`cufft`: convolution by FFTs with NVIDIA's libraries, cuFFT and cuBLAS, through CuPy (extras `cuda13`, `cuda12`).

What is not a call of these is array code that runs on NumPy, too: it is tested there. Nothing has run on a GPU yet.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions, cuda
from convbench.backends.cpu.phases import MAX_PHASES, phase_count
from convbench.backends.cufft.planner import tiled_planner, whole_planner
from convbench.errors import UnsupportedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.backends import Plan
    from convbench.backends.cufft.arrays import FftArrays
    from convbench.backends.cufft.planner import CufftPlanner
    from convbench.operands import Operands
    from convbench.problem import Case

PLANNERS: dict[str, Callable[[Case, int | None], CufftPlanner | None]] = {
    "fft-whole": whole_planner,
    "fft-tiled": tiled_planner,
}
"""By algorithm: for whole planes, and for tiles."""


class CufftBackend(cuda.GpuBackend):
    """`fft-whole` and `fft-tiled`; `auto` takes whichever is estimated to be quicker; `index` counts GPUs."""

    name = "cufft"

    @functools.cached_property
    def _unusable(self) -> str | None:
        from convbench.backends.cufft.calls import missing

        return cuda.unusable() or missing()

    def listed_for(self) -> str | None:
        """Every GPU alike, also where there is none."""
        reason = self.probe()
        return f"cufft's algorithms are those for any GPU; none can run here: {reason}" if reason else None

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """The algorithms, and `auto`; which tiles they take does not depend on the GPU."""
        found = [_candidate(name, case, options) for name in PLANNERS]
        best = min(found, key=lambda candidate: (candidate.reason is not None, candidate.estimated_s or 0.0))
        return [replace(best, algorithm=AUTO, resolves_to=None if best.reason else best.algorithm), *found]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready, its tensors and buffers on the GPU.

        Raises:
            UnsupportedError: it cannot be done, or there is no GPU.
            MemoryError: the GPU's memory is short.
        """
        if algorithm not in (AUTO, *PLANNERS):
            raise unknown_name("algorithm", algorithm, [AUTO, *PLANNERS], where=" of backend cufft")
        if algorithm == AUTO:
            algorithm = self.algorithms(case, options)[0].resolves_to or "fft-whole"
        planner = _planner(algorithm, case, options)
        arrays = self._arrays()
        from convbench.backends.cufft.convolution import CufftPlan

        return CufftPlan(planner, operands, arrays)

    def _arrays(self) -> FftArrays:
        """CuPy, with the transforms of one plan."""
        if reason := self.probe():
            raise UnsupportedError(reason)
        from convbench.backends.cufft.calls import CufftArrays

        return CufftArrays(self.device())


def _planner(algorithm: str, case: Case, options: PlanOptions) -> CufftPlanner:
    """Raises UnsupportedError where the algorithm cannot do the case."""
    if case.precision not in {"fp32", "fp64"}:
        raise UnsupportedError(f"cuFFT and cuBLAS are measured in fp32 and fp64, not in {case.precision}")
    phases = math.prod(map(phase_count, case.problem.axes))
    if phases > MAX_PHASES:
        raise UnsupportedError(f"the stride splits a plane into {phases} phases, more than {MAX_PHASES}")
    planner = PLANNERS[algorithm](replace(case, suite="", name="", repeat=1), options.workspace_limit_bytes)
    if planner is None:
        raise UnsupportedError("no tile that is tried is smaller than the plane")
    if planner.reason:
        raise UnsupportedError(planner.reason)
    return planner


def _candidate(name: str, case: Case, options: PlanOptions) -> Candidate:
    try:
        planner = _planner(name, case, options)
    except UnsupportedError as error:
        return Candidate(name, str(error))
    p = case.problem
    tensors = sum(map(math.prod, (p.x_shape, p.w_shape, p.y_shape))) * case.dtype.itemsize
    return Candidate(
        name, memory_bytes=tensors + planner.workspace_bytes, estimated_s=planner.seconds, resolved=planner.algorithm
    )
