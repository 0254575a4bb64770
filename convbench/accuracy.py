"""How exact a result is: unit roundoffs, the bound of an element's error, and the tiers of algorithms' accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convbench.problem import Case, Dtype, MathMode

if TYPE_CHECKING:
    from convbench.backends import ErrorBound

ACCURACIES = (1e-6, 1e-5, 1e-4)
"""The tiers: relative L2 errors, the root mean square of the error over that of the result.

An algorithm states the one that it keeps in fp32, for ordinary operands; `l2_bound` says what it means elsewhere.
"""
SUM_ACCURACY = 1e-6
"""The tier of sums of products."""
DEFAULT_ACCURACY = 1e-5
"""The tier within which `auto` chooses, unless it is told another one."""
TIER_LENGTH = 1024
"""Products that a tier's sums have at most: of more, √ of their multiple is allowed.

The error of a plain sum grows so: 0.3·u·√L of the result where fp32 terms are added one by one, 6e-7 here.
"""
SAFETY = 4.0
"""c: how far beyond u·√L·√(Σa²b²), the size of a random walk of rounding errors, an element may lie."""

UNIT_ROUNDOFF = {
    MathMode.FP64: (2.0**-53, 2.0**-53),
    MathMode.FP32: (2.0**-24, 2.0**-24),
    MathMode.TF32: (2.0**-10, 2.0**-24),
    MathMode.FP16_TC: (2.0**-11, 2.0**-24),
    MathMode.BF16_TC: (2.0**-8, 2.0**-24),
}
"""u_mul and u_acc: half the spacing of numbers at 1 with 53, 24, 11 and 8 significand bits (IEEE 754); for tf32, 11
bits, the whole spacing, since the PTX ISA leaves it open whether operands are rounded or cut off."""
STORAGE_ROUNDOFF = {Dtype.FP64: 0.0, Dtype.FP32: 0.0, Dtype.FP16: 2.0**-11, Dtype.BF16: 2.0**-8}
"""What storing adds, where storage is narrower than the accumulator."""


def relative_bound(case: Case, bound: ErrorBound) -> float:
    """Allowed error of an element over the root of its squared products: c·(u_mul + u_acc·√L)·growth."""
    u_mul, u_acc = UNIT_ROUNDOFF[case.math_mode]
    return SAFETY * (u_mul + u_acc * math.sqrt(case.accumulation_length)) * bound.growth


def l2_bound(case: Case, accuracy: float) -> float:
    """Relative L2 error that the tier `accuracy` allows for a case.

    Other precisions are allowed as many of their own roundoffs as fp32 of its: 1e-5 are 168 of them.
    """
    unit = max(*UNIT_ROUNDOFF[case.math_mode], STORAGE_ROUNDOFF[case.dtype])
    roundoffs = accuracy / UNIT_ROUNDOFF[MathMode.FP32][1]
    return roundoffs * unit * math.sqrt(max(1.0, case.accumulation_length / TIER_LENGTH))


def l2_share(case: Case, accuracy: float, error: float, size: float) -> tuple[float, str]:
    """An error's share of what its tier allows, and what is wrong with it, "" if nothing is.

    `error` and `size` are the root mean squares of errors and results.
    """
    allowed = l2_bound(case, accuracy)
    relative = error / size if size else math.inf if error else 0.0
    if relative <= allowed:
        return relative / allowed, ""
    reason = f"the relative L2 error is {relative:.2g}, the stated accuracy of {accuracy:g} allows {allowed:.2g} here"
    return relative / allowed, reason


def tier_reason(accuracy: float | None) -> str | None:
    """Why a tier, None where none is stated, cannot be accepted."""
    if accuracy is None or 0 < accuracy <= max(ACCURACIES):
        return None
    return f"the stated accuracy is {accuracy:g}, allowed is more than 0 and up to {max(ACCURACIES):g}"
