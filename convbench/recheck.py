"""What surrounds the verification of a plan: that poisoning works, and that timed runs still give what was verified."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convbench.accuracy import relative_bound
from convbench.backends import AUTO
from convbench.operands import index
from convbench.problem import Epilogue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import Backend, ErrorBound, Plan, PlanOptions
    from convbench.operands import Operands
    from convbench.problem import Case

KEPT_ELEMENTS = 1 << 16
"""Most elements of a verified output that are kept for the check after timing."""


def poisoned(plan: Plan) -> str | None:
    """Poisons the output; why that failed, None if all of it is NaN.

    A stale output would pass a check that follows a poisoning without effect, and so would one that is computed when
    it is asked for.
    """
    import numpy as np

    plan.poison()
    left = int(np.count_nonzero(~np.isnan(plan.output())))
    return f"{left} elements of the output are not NaN after poison(): a stale output would pass" if left else None


def linear_plan(backend: Backend, case: Case, fused: Plan, requested: str, operands: Operands,
                options: PlanOptions) -> Plan:  # fmt: skip
    """A plan of `case` without its epilogue, by the algorithm that `fused` resolved to where it can be asked for.

    A backend that chooses by itself may choose another one for it, which rounds differently; one whose names depend on
    the case chooses where the name is not among those of this one.
    """
    linear_case = replace(case, epilogue=Epilogue.NONE)
    offered = {candidate.algorithm for candidate in backend.algorithms(linear_case, options)}
    algorithm = next((name for name in (fused.algorithm, requested, AUTO) if name in offered), requested)
    return backend.plan(linear_case, algorithm, operands, options)


def looser(first: ErrorBound, second: ErrorBound) -> ErrorBound:
    """The bound that allows more: a transform's, or that of more growth."""
    return max(first, second, key=lambda bound: (bound.transform_points > 0, bound.growth))


class Kept:
    """Elements of a verified output, evenly spread, to be found again after the plan has been timed."""

    def __init__(self, case: Case, plan: Plan) -> None:
        self._case, self._plan = case, plan
        steps = [1] * len(case.output_shape)
        while math.prod(counts := _counts(case.output_shape, steps)) > KEPT_ELEMENTS:
            steps[max(range(len(steps)), key=lambda axis: counts[axis])] *= 2
        self._chosen = index(*(slice(None, None, step) for step in steps))
        self._values = self._sample()

    def _sample(self) -> NDArray[Any]:
        chosen: NDArray[Any] = self._plan.output()[self._chosen]
        return chosen.copy()

    def recheck(self) -> str | BaseException | None:
        """Runs the plan once more on a poisoned output; what is wrong with it now, or raised; None if nothing is.

        Runs may round differently, as threads add up in another order: each is allowed its own bound.
        """
        import numpy as np

        try:
            if unfilled := poisoned(self._plan):
                return f"after timing, {unfilled}"
            self._plan.run()
            now = self._sample()
            if np.array_equal(now, self._values):
                return None
            difference = np.abs(now.astype(np.float64) - self._values)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a backend may raise anything
            return error
        root = max(math.sqrt(self._case.accumulation_length), float(np.max(np.abs(self._values), initial=0.0)))
        allowed = 2 * relative_bound(self._case, self._plan.error_bound) * root
        beyond = int(np.count_nonzero(~(difference <= allowed)))
        return f"after timing, {beyond} of {now.size} elements differ from what was verified" if beyond else None


def _counts(shape: tuple[int, ...], steps: list[int]) -> list[int]:
    return [-(-extent // step) for extent, step in zip(shape, steps, strict=True)]
