"""Verification of a fused epilogue against the verified linear part."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.accuracy import STORAGE_ROUNDOFF, UNIT_ROUNDOFF
from convbench.problem import Case, Epilogue
from convbench.verify import Checker, bound_reason, first_violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import ErrorBound
    from convbench.operands import Operands

FUSED_PLANES = 8
"""Planes of a fused output whose rounding is followed element by element, where it is not that of the linear plan."""


def check_epilogue(
    case: Case, linear: NDArray[Any], fused: NDArray[Any], operands: Operands, bound: ErrorBound
) -> str | None:
    """Why the fused output is not relu(y₀ + b) of the verified linear part, or None if it is.

    Where both plans round y₀ alike, as those of one algorithm mostly do, only adding and storing may differ: a few
    roundoffs of |y₀| + |b|. Else both linear parts may be off by their own bound. That is followed element by element
    in the planes with the largest errors.
    """
    if fused.shape != case.output_shape:
        return f"output has shape {fused.shape}, expected {case.output_shape}"
    if reason := bound_reason(bound):
        return reason
    worst = np.zeros(case.output_shape[:2])
    for n in range(case.problem.batch):
        error, alike = _fused_error(case, linear, fused, operands, (n, slice(None)))
        beyond = np.where(np.abs(error) <= alike, 0.0, np.nan_to_num(np.abs(error), nan=np.inf))
        worst[n] = beyond.reshape(len(beyond), -1).max(axis=1)
    checker = Checker(replace(case, epilogue=Epilogue.NONE), linear, operands, bound, seed=0)
    for place in np.argsort(worst, axis=None)[: -FUSED_PLANES - 1 : -1]:
        n, k = (int(i) for i in np.unravel_index(place, worst.shape))
        if not worst[n, k]:
            break
        error, alike = _fused_error(case, linear, fused, operands, (n, slice(k, k + 1)))
        allowed = alike + 2 * checker.allowed_in_plane(n, k)
        at = functools.partial(_placed, n, k)
        if reason := first_violation(error, allowed, f"{case.epilogue} of element", at):
            return reason
    return None


def _fused_error(
    case: Case, linear: NDArray[Any], fused: NDArray[Any], operands: Operands, place: tuple[int, slice]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fused output less relu(y₀ + b) of some planes of an image, and what it may be where y₀ is rounded alike."""
    bias = operands.bias[place[1]].reshape(-1, *[1] * case.problem.ndim).astype(np.float64)
    y0 = linear[place].astype(np.float64)
    expected = y0 + bias
    if case.epilogue is Epilogue.BIAS_RELU:
        expected = np.maximum(expected, 0)
    unit = STORAGE_ROUNDOFF[case.dtype] or UNIT_ROUNDOFF[case.math_mode][1]
    return fused[place] - expected, 2 * unit * (np.abs(y0) + np.abs(bias))


def _placed(n: int, k: int, index: list[int]) -> list[int]:
    return [n, k, *index[1:]]
