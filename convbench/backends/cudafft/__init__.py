"""`cudafft`: convolution by FFTs with CUDA kernels of our own, and cuBLAS for products (extras `cuda13`, `cuda12`).

The kernels are tested on the CPU, by an emulator, and compiled for GPUs that are not there. Nothing has run on
a GPU yet.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.accuracy import SUM_ACCURACY
from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions
from convbench.backends.cuda import GpuBackend
from convbench.backends.cudafft.kernels import TRANSFORMS
from convbench.backends.cudafft.planner import FFT, FUSED, L2, L2_BYTES, SPLIT, THREE, planners, unusable
from convbench.errors import UnsupportedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convbench.backends import Plan
    from convbench.backends.cuda.arrays import Arrays
    from convbench.backends.cudafft.planner import CudafftPlanner
    from convbench.operands import Operands
    from convbench.problem import Case

CHOSEN = (AUTO, FFT, FUSED)
"""The algorithms that take the size of least estimated time."""
NAMES = frozenset({
    *CHOSEN,
    *(f"{FFT}-{each.name}{variant}" for each in TRANSFORMS for variant in ("", f"-{THREE}", f"-{SPLIT}", f"-{L2}")),
    *(f"{FUSED}-{each.name}" for each in TRANSFORMS),
})  # fmt: skip
"""All that an algorithm may be called; which are offered depends on the case."""
NOT_FUSED = "only fprop and dgrad of one channel and one filter a group, without strides, are fused"
NOT_STRICT = "only products of strict fp32 are made otherwise, and by cuBLAS, which few channels do not need"
NOT_FOR_L2 = "L2 holds the spectra of plain chunks as well, or not those of one image"


class CudafftBackend(GpuBackend):
    """`fft` and, for depthwise cases, `fused`, on transforms of any size that there is; `index` counts GPUs.

    `auto` takes the least estimated time of both. Sizes have names of their own, `fft-16x16`; so have chunks of the
    batch whose spectra L2 holds, `fft-16x16-l2`. Complex products by three real ones, `fft-16x16-3m`, and by three in
    tf32 of numbers split in two, `fft-16x16-3xtf32`, none of the others takes by itself.
    """

    name = "cudafft"

    def listed_for(self) -> str | None:
        """Where there is no GPU, one with the L2 of an H200."""
        reason = self.probe()
        return f"cudafft's algorithms are those for an H200; none can run here: {reason}" if reason else None

    def names(self, algorithm: str) -> bool:
        """Whether an algorithm may be so called: the sizes depend on the number of axes."""
        return algorithm in NAMES

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """`auto`, `fft`, `fused` and all sizes; only these have estimates, so that `--tune` measures none twice."""
        if reason := unusable(case):
            return [Candidate(name, reason) for name in CHOSEN]
        found = self._planners(case, options)
        auto, *families = (_family(name, found, case) for name in CHOSEN)
        return [replace(auto, resolves_to=auto.resolved), *families, *(_candidate(each, case) for each in found)]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready, its tensors and buffers on the GPU.

        Raises:
            UnsupportedError: it cannot be done, or there is no GPU, or the kernels do not compile for it.
            MemoryError: the GPU's memory is short.
        """
        if not self.names(algorithm):
            raise unknown_name("algorithm", algorithm, sorted(NAMES), where=" of backend cudafft")
        if reason := unusable(case):
            raise UnsupportedError(reason)
        found = self._planners(case, options)
        if algorithm in CHOSEN:
            planner = _best(algorithm, found)
        else:
            planner = next((each for each in found if each.algorithm == algorithm), None)
        if planner is None or planner.reason:
            raise UnsupportedError((planner and planner.reason) or _not_here(algorithm, case))
        from convbench.backends.cudafft.convolution import CudafftPlan

        return CudafftPlan(planner, operands, self._arrays())

    def _planners(self, case: Case, options: PlanOptions) -> tuple[CudafftPlanner, ...]:
        anonymous = replace(case, suite="", name="", repeat=1)
        return planners(anonymous, self._cache_bytes, options.workspace_limit_bytes)

    @functools.cached_property
    def _cache_bytes(self) -> int:
        """Of the GPU's L2, or of an H200's where there is none."""
        return L2_BYTES if self.probe() else self.device().cache_bytes()

    def _arrays(self) -> Arrays:
        """CuPy."""
        if reason := self.probe():
            raise UnsupportedError(reason)
        from convbench.backends.cuda.arrays import CudaArrays

        return CudaArrays(self.device())


def _not_here(algorithm: str, case: Case) -> str:
    """Why an algorithm that has a name is not offered for a case."""
    if algorithm == FUSED:
        return NOT_FUSED
    kind, size, *variant = algorithm.split("-")
    if (axes := len(size.split("x"))) != case.problem.ndim:
        return f"a transform of {size} points has {axes} axes, the problem {case.problem.ndim}"
    if kind == FUSED:
        return NOT_FUSED
    return NOT_FOR_L2 if variant == [L2] else NOT_STRICT


def _best(name: str, found: Sequence[CudafftPlanner]) -> CudafftPlanner | None:
    """Of `auto`, `fft` or `fused`, the size of least estimated time; where none can, the last one; None of none."""
    exact = [each for each in found if each.accuracy == SUM_ACCURACY]
    family = [each for each in exact if name == AUTO or each.fused == (name == FUSED)]
    able = [each for each in family if each.reason is None]
    return min(able or family[-1:], key=lambda each: 0.0 if each.reason else each.seconds, default=None)


def _family(name: str, found: Sequence[CudafftPlanner], case: Case) -> Candidate:
    """The candidate of `auto`, `fft` or `fused`."""
    planner = _best(name, found)
    if planner is None:
        return Candidate(name, NOT_FUSED)
    best = _candidate(planner, case)
    return replace(best, algorithm=name, resolved=None if best.reason else planner.algorithm, estimated_s=None)


def _candidate(planner: CudafftPlanner, case: Case) -> Candidate:
    if planner.reason:
        return Candidate(planner.algorithm, planner.reason)
    p = case.problem
    tensors = sum(map(math.prod, (p.x_shape, p.w_shape, p.y_shape))) * case.dtype.itemsize
    return Candidate(
        planner.algorithm, memory_bytes=tensors + planner.workspace_bytes, accuracy=planner.accuracy,
        estimated_s=planner.seconds,
    )  # fmt: skip
