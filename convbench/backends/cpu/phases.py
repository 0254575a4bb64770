"""Strided axes as phases: each residue modulo the stride is a correlation of stride 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convbench.problem import Axis

MAX_PHASES = 1024
"""Most phases that a strided plane is decomposed into for the FFT; more are beyond any sensible use of it."""


@dataclass(frozen=True, slots=True)
class AxisPhase:
    """The part of a strided axis that keeps one residue modulo the stride (polyphase decomposition).

    Tap first_tap + j·tap_step of the filter lands on element first_row + j·row_step of this phase, and element q of
    the phase is input element start + q·stride, for q in [low, high).
    """

    first_tap: int
    tap_step: int
    first_row: int
    row_step: int
    start: int
    low: int
    high: int


@lru_cache(maxsize=16)
def axis_phases(axis: Axis) -> tuple[AxisPhase, ...]:
    """The phases of an axis that hold at least one tap.

    With u = tap·dilation = a + stride·b, output p reads element p + b of phase a, whose element q is input a − before +
    stride·q: a stride-1 correlation for each residue a.
    """
    common = math.gcd(axis.stride, axis.dilation)
    tap_step, row_step = axis.stride // common, axis.dilation // common
    phases = []
    for tap in range(phase_count(axis)):
        row, residue = divmod(tap * axis.dilation, axis.stride)
        start = residue - axis.before
        low = max(0, -(start // axis.stride))
        high = min(phase_length(axis), (axis.input - 1 - start) // axis.stride + 1)
        phases.append(AxisPhase(tap, tap_step, row, row_step, start, low, max(low, high)))
    return tuple(phases)


def phase_count(axis: Axis) -> int:
    """Length of `axis_phases`, without making them."""
    return min(axis.filter, axis.stride // math.gcd(axis.stride, axis.dilation))


def phase_length(axis: Axis) -> int:
    """Elements of one phase that the outputs read."""
    return axis.output + axis.reach // axis.stride


def cyclic_length(axis: Axis) -> int:
    """Least length of a cyclic transform: shorter than a phase by the zeros that all phases have at both ends.

    What is beyond its end is zero, and what is read there wraps around onto zeros; it holds outputs, taps and elements.
    """
    phases, length = axis_phases(axis), phase_length(axis)
    lead = min(length, *(phase.low for phase in phases))
    stop = max(phase.high for phase in phases)
    return max(length - max(0, min(lead, length - stop)), axis.output, axis.reach // axis.stride + 1, stop)
