"""`cpu`: NumPy and SciPy on this machine's processor."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from convbench.backends import AUTO, Candidate, PlanOptions
from convbench.backends.cpu import tiling
from convbench.backends.cpu.choice import estimated_seconds
from convbench.backends.cpu.phases import MAX_PHASES, phase_count
from convbench.backends.cpu.planner import DirectPlanner, FftPlanner, GemmPlanner
from convbench.backends.cpu.tiling import WinogradPlanner
from convbench.errors import UnsupportedError, unknown_name
from convbench.machine import cpu_count
from convbench.problem import PRECISIONS, Case, ConvPass, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.backends import Device, Plan
    from convbench.operands import Operands

PLANNERS: dict[str, Callable[[Case], DirectPlanner | GemmPlanner | FftPlanner | WinogradPlanner]] = {
    "direct": DirectPlanner,
    "gemm": GemmPlanner,
    "fft": FftPlanner,
    "winograd": lambda case: WinogradPlanner(case, cpu_count()),  # its workspace grows with the threads
}


class CpuBackend:
    """`direct` (the definition), `gemm` (im2col) and `fft` (whole planes) for every shape, `winograd` at stride 1."""

    name = "cpu"

    def probe(self) -> str | None:
        """NumPy and SciPy come with convbench."""
        missing = [name for name in ("numpy", "scipy") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}" if missing else None

    def device(self) -> Device:
        """The processor."""
        from convbench.backends.cpu.device import CpuDevice

        return CpuDevice()

    def algorithms(self, case: Case) -> list[Candidate]:
        """The algorithms, and `auto`, which takes gemm or fft."""
        reason = _reason(case)
        if reason:
            return [Candidate(name, reason) for name in (AUTO, *PLANNERS)]
        tensors = _tensor_bytes(case)
        found = {name: _candidate(name, case, tensors) for name in PLANNERS}
        chosen = choose(case, cpu_count())
        larger = max((found[chosen], found[choose(case, threads=1)]), key=lambda candidate: candidate.memory_bytes)
        return [replace(larger, algorithm=AUTO, resolves_to=chosen), *found.values()]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready; `auto` takes the algorithm of the least estimated time."""
        if reason := _reason(case, algorithm):
            raise UnsupportedError(reason)
        if algorithm == AUTO:
            algorithm = choose(case, options.threads)
        if algorithm == "direct":
            from convbench.backends.cpu.plans import DirectPlan

            return DirectPlan(case, operands, options)
        if algorithm == "gemm":
            from convbench.backends.cpu.gemm import GemmPlan

            return GemmPlan(case, operands, options)
        if algorithm == "fft":
            from convbench.backends.cpu.fft import FftPlan

            return FftPlan(case, operands, options)
        if algorithm == "winograd":
            from convbench.backends.cpu.winograd import WinogradPlan

            return WinogradPlan(case, operands, options)
        raise unknown_name("algorithm", algorithm, [AUTO, *PLANNERS], where=" of backend cpu")


def choose(case: Case, threads: int) -> str:
    """Gemm or fft, by the estimate of `choice.estimated_seconds`."""
    if _reason(case, "fft"):
        return "gemm"
    return min(("gemm", "fft"), key=lambda name: estimated_seconds(name, PLANNERS[name](case).work(), threads))


def _candidate(name: str, case: Case, tensor_bytes: int) -> Candidate:
    if reason := _reason(case, name):
        return Candidate(name, reason)
    planner = PLANNERS[name](case)
    return Candidate(name, None, tensor_bytes + planner.workspace_bytes, planner.transient_bytes)


def _reason(case: Case, algorithm: str = AUTO) -> str | None:
    if case.precision not in {"fp32", "fp64"}:
        names = ", ".join(name for name in PRECISIONS if name in {"fp32", "fp64"})
        return f"NumPy has no {case.precision} arithmetic; the cpu backend computes in {names}"
    if algorithm == "winograd":
        return tiling.reason(case)
    phases = math.prod(map(phase_count, case.problem.axes)) if algorithm == "fft" else 1
    if phases > MAX_PHASES:
        return f"the stride splits a plane into {phases} phases, more than {MAX_PHASES}"
    return None


def _tensor_bytes(case: Case) -> int:
    """The output, and the operands copied where the layout is not the canonical one."""
    p = case.problem
    elements = math.prod(case.output_shape)
    if case.layout is not Layout.NCHW:
        shapes = {ConvPass.DGRAD: p.x_shape, ConvPass.WGRAD: p.w_shape, ConvPass.FPROP: p.y_shape}
        elements += sum(math.prod(shape) for conv_pass, shape in shapes.items() if conv_pass is not case.conv_pass)
    return elements * case.dtype.itemsize
