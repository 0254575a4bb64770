"""Backends that do a share more real work in half of the cases: what benchmarks/check.py looks for.

    convbench run benchmarks/check.toml -b benchmarks/check_backend.py:More10odd:gemm --pass fprop

Each is the cpu backend under the name "mine". `Same` does what is asked. `More10odd` convolves, beside the images of a
case, 10 % more of them, whose results it keeps to itself. It does so in the same plan, so that time and memory grow as
those of a larger batch do (not by 10 % exactly, since algorithms cut images into chunks), and only where the digit that
ends a problem's name is odd; `More10even` where it is even.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from convbench.backends import AUTO, DEFAULTS, Candidate, PlanOptions
from convbench.backends.cpu import CpuBackend
from convbench.errors import UnsupportedError
from convbench.operands import Operands
from convbench.problem import Case, ConvPass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import Plan

EFFECTS = (3, 5, 10, 20)
"""Percent more images."""
HALVES = ("even", "odd")


def changed(problem: str, half: str) -> bool:
    """Whether the problem of this name is in a half."""
    return HALVES[int(problem[-1]) % 2] == half


class MorePlan:
    """A plan of a case of more images, of which the first `images` are those that were asked for."""

    def __init__(self, plan: Plan, images: int) -> None:
        self._plan, self._images = plan, images
        self.algorithm, self.work, self.workspace_bytes = plan.algorithm, plan.work, plan.workspace_bytes
        self.error_bound, self.run, self.poison = plan.error_bound, plan.run, plan.poison

    def output(self) -> NDArray[Any]:
        """Results of the images that were asked for."""
        return self._plan.output()[: self._images]


class MoreImages(CpuBackend):
    """The cpu backend with `percent` more images in the cases of a half."""

    name = "mine"

    def __init__(self, percent: int = 0, half: str = "odd") -> None:
        self._percent, self._half = percent, half

    def _larger(self, case: Case) -> Case:
        images = case.problem.batch
        if not changed(case.name, self._half):
            return case
        return replace(case, problem=replace(case.problem, batch=images + images * self._percent // 100))

    def algorithms(self, case: Case, options: PlanOptions = DEFAULTS) -> list[Candidate]:
        """Those of the larger case; `auto` takes what it takes of the case itself."""
        auto, *others = super().algorithms(case, options)
        if case.conv_pass is ConvPass.WGRAD:  # more images would change its sum
            return [Candidate(c.algorithm, "no wgrad") for c in (auto, *others)]
        larger = super().algorithms(self._larger(case), options)[1:]
        taken = next((c for c in larger if c.algorithm == auto.resolves_to), auto)
        return [replace(taken, algorithm=AUTO, resolves_to=auto.resolves_to), *larger]

    def plan(self, case: Case, algorithm: str, operands: Operands, options: PlanOptions) -> Plan:
        """The larger case made ready: its operands begin with those of the case, since they are drawn in order."""
        if case.conv_pass is ConvPass.WGRAD:
            raise UnsupportedError("no wgrad")
        if algorithm == AUTO:
            algorithm = self.algorithms(case, options)[0].resolves_to or AUTO
        larger = self._larger(case)
        more = Operands(larger.problem, case.dtype, operands.seed)
        return MorePlan(super().plan(larger, algorithm, more, options), case.problem.batch)


Same = MoreImages
globals().update({f"More{percent}{half}": partial(MoreImages, percent, half) for percent in EFFECTS for half in HALVES})
