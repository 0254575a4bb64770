"""`cpu`: NumPy and SciPy on this machine's processor."""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from convbench.accuracy import SUM_ACCURACY
from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions
from convbench.backends.cpu import depthwise_planner, gemm_planner, tiling
from convbench.backends.cpu.choice import CONSTANTS, estimated_seconds
from convbench.backends.cpu.depthwise_planner import DepthwisePlanner
from convbench.backends.cpu.fft_planner import FftPlanner, best_planner
from convbench.backends.cpu.gemm_planner import GemmPlanner, MecPlanner
from convbench.backends.cpu.phases import MAX_PHASES, phase_count
from convbench.backends.cpu.planner import DirectPlanner
from convbench.backends.cpu.tiled_planner import TiledPlanner
from convbench.errors import UnsupportedError, unknown_name
from convbench.problem import PRECISIONS, Case, ConvPass, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from convbench.backends import Device, Plan
    from convbench.operands import Operands

Planner = DirectPlanner | GemmPlanner | DepthwisePlanner | FftPlanner | TiledPlanner

PLANNERS: dict[str, Callable[..., Planner]] = {
    "direct": lambda case, threads: DirectPlanner(case),
    "gemm": GemmPlanner,
    "mec": MecPlanner,
    "depthwise": DepthwisePlanner,
    "fft": best_planner,
    **{name: partial(TiledPlanner, family=name) for name in tiling.FAMILIES},
}
"""Planners by algorithm, called with a case and `threads=`: the workspaces of most grow with them."""

PLANS = {
    "direct": ("plans", "DirectPlan"),
    "gemm": ("gemm", "GemmPlan"),
    "mec": ("mec", "MecPlan"),
    "depthwise": ("depthwise", "DepthwisePlan"),
    "fft": ("fft", "FftPlan"),
    **dict.fromkeys(tiling.FAMILIES, ("tiled", "TiledPlan")),
}
"""Module and class of each algorithm's plans, which need NumPy."""


class CpuBackend:
    """`direct` (the definition), `gemm` (im2col) and `fft` (planes, tiles) for every shape; others for some of them."""

    name = "cpu"

    def probe(self) -> str | None:
        """NumPy and SciPy come with convbench."""
        missing = [name for name in ("numpy", "scipy") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}" if missing else None

    def device(self) -> Device:
        """The processor."""
        from convbench.backends.cpu.device import CpuDevice

        return CpuDevice()

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """The algorithms, and `auto`, which takes the one of the least estimated time that is exact enough."""
        reason = _reason(case)
        if reason:
            return [Candidate(name, reason) for name in (AUTO, *PLANNERS)]
        tensors = _tensor_bytes(case)
        found = [_candidate(name, case, tensors, options.threads) for name in PLANNERS]
        chosen = min(
            (c for c in found if c.estimated_s is not None and c.accuracy <= options.accuracy),
            key=lambda candidate: candidate.estimated_s or 0.0,
        )
        return [replace(chosen, algorithm=AUTO, resolves_to=chosen.algorithm), *found]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The case made ready; `auto` takes the algorithm of the least estimated time."""
        if reason := _reason(case, algorithm):
            raise UnsupportedError(reason)
        if algorithm == AUTO:
            algorithm = self.algorithms(case, options)[0].resolves_to or ""
        if algorithm not in PLANS:
            raise unknown_name("algorithm", algorithm, [AUTO, *PLANNERS], where=" of backend cpu")
        module, name = PLANS[algorithm]
        make = getattr(importlib.import_module(f"convbench.backends.cpu.{module}"), name)
        family = {"family": algorithm} if algorithm in tiling.FAMILIES else {}
        plan: Plan = make(case, operands, options, **family)
        return plan


def _candidate(name: str, case: Case, tensor_bytes: int, threads: int) -> Candidate:
    if reason := _reason(case, name):
        return Candidate(name, reason)
    planner = PLANNERS[name](case, threads=threads)
    return Candidate(
        name, memory_bytes=tensor_bytes + planner.workspace_bytes, transient_bytes=planner.transient_bytes,
        accuracy=getattr(planner, "accuracy", SUM_ACCURACY),
        estimated_s=estimated_seconds(name, planner.work(), threads) if name in CONSTANTS else None,
        resolved=getattr(planner, "algorithm", None),
    )  # fmt: skip


def _reason(case: Case, algorithm: str = AUTO) -> str | None:
    if case.precision not in {"fp32", "fp64"}:
        names = ", ".join(name for name in PRECISIONS if name in {"fp32", "fp64"})
        return f"NumPy has no {case.precision} arithmetic; the cpu backend computes in {names}"
    if algorithm in tiling.FAMILIES:
        return tiling.reason(case, algorithm)
    if algorithm == "mec":
        return gemm_planner.mec_reason(case)
    if algorithm == "depthwise":
        return depthwise_planner.reason(case)
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
