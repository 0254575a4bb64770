"""What a convolution has to do, and what an algorithm does for it: exact counts of flops, bytes and launches.

Every count is a Python integer, so none overflows. Rules and sources: docs/method.md, "Counts".
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from convbench.problem import Axis, Case, ConvPass, Epilogue, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

COMPLEX_MULTIPLY_ADD_FLOPS = 8
"""Four multiplies, two adds for the product and two to accumulate it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of an algorithm, over its whole run.

    Attributes:
        name: what the step does, such as "gather" or "product".
        flops: executed, in flop (a multiply-add is 2).
        bytes_read: bytes that the step reads, intermediates included.
        bytes_written: bytes that it writes, intermediates included.
        footprint_bytes: distinct bytes that one launch touches; placement picks the cache level from it.
        launches: how many kernels or library calls the step makes.
        math_mode: what it computes in; "" for the case's.
    """

    name: str
    flops: int
    bytes_read: int
    bytes_written: int
    footprint_bytes: int
    launches: int = 1
    math_mode: str = ""

    @property
    def traffic_bytes(self) -> int:
        """Read and written together."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True, slots=True)
class Work:
    """The phases of a plan, in the order in which they run."""

    phases: tuple[Phase, ...]

    @property
    def executed_flops(self) -> int:
        """Flops over all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def traffic_bytes(self) -> int:
        """Bytes read and written over all phases."""
        return sum(phase.traffic_bytes for phase in self.phases)

    @property
    def arithmetic_intensity(self) -> float | None:
        """Executed flops per byte of traffic; None where nothing moves."""
        return self.executed_flops / self.traffic_bytes if self.traffic_bytes else None

    def to_list(self) -> list[dict[str, Any]]:
        """The phases, for a file; without the math mode where it is the case's."""
        return [{name: value for name, value in asdict(phase).items() if value or name != "math_mode"}
                for phase in self.phases]  # fmt: skip

    @classmethod
    def from_list(cls, phases: Iterable[dict[str, Any]]) -> Work:
        """The work written by `to_list`."""
        return cls(tuple(Phase(**phase) for phase in phases))


def nominal_macs(problem: Problem) -> int:
    """Multiply-adds N·K·(C/G)·ZPQ·TRS, products with padding zeros included; the same for all three passes."""
    return math.prod(problem.y_shape) * math.prod(problem.w_shape[1:])


def nominal_flops(problem: Problem) -> int:
    """Two flops per multiply-add, whatever the algorithm.

    >>> nominal_flops(Problem(batch=1, in_channels=1, out_channels=1, input_size=(5, 5), filter_size=(3, 3)))
    162
    """
    return 2 * nominal_macs(problem)


def exact_flops(problem: Problem) -> int:
    """`nominal_flops` without the products that meet padding; may be 0."""
    return 2 * problem.batch * problem.out_channels * problem.w_shape[1] * math.prod(map(axis_hits, problem.axes))


def compulsory_bytes(case: Case) -> int:
    """Bytes with perfect reuse: each operand read once, each result written once.

    Input elements that no tap touches (stride > filter, cropped edges) are not read; dgrad writes every element of dx.
    """
    p = case.problem
    touched = p.batch * p.in_channels * math.prod(map(axis_touched, p.axes))
    x, w, y = math.prod(p.x_shape), math.prod(p.w_shape), math.prod(p.y_shape)
    elements = {
        ConvPass.FPROP: touched + w + y,
        ConvPass.DGRAD: y + w + x,
        ConvPass.WGRAD: touched + y + w,
    }[case.conv_pass]
    if case.epilogue is not Epilogue.NONE:
        elements += p.out_channels
    return elements * case.dtype.itemsize


def no_reuse_bytes(case: Case) -> int:
    """Bytes without caching or reuse: two operand loads per multiply-add, each result written once.

    A bias is loaded once per output.
    """
    outputs = math.prod(case.output_shape)
    biases = outputs if case.epilogue is not Epilogue.NONE else 0
    return (2 * nominal_macs(case.problem) + outputs + biases) * case.dtype.itemsize


def epilogue_flops(case: Case) -> int:
    """One add per output for the bias, one comparison for the ReLU."""
    per_output = {Epilogue.NONE: 0, Epilogue.BIAS: 1, Epilogue.BIAS_RELU: 2}[case.epilogue]
    return per_output * math.prod(case.output_shape)


def nominal_work(case: Case) -> Work:
    """The problem's own counts as one phase: what stands in where an algorithm's work is not known."""
    size = compulsory_bytes(case)
    written = math.prod(case.output_shape) * case.dtype.itemsize
    flops = nominal_flops(case.problem) + epilogue_flops(case)
    return Work((Phase(name="convolution", flops=flops, bytes_read=size - written, bytes_written=written,
                       footprint_bytes=size),))  # fmt: skip


@lru_cache(maxsize=4096)
def real_fft_flops(points: int) -> int:
    """Flops of one real transform of `points` points, over all its axes: 2.5·n·log₂n, half a complex one's 5·n·log₂n.

    Source: the convention of the FFTW benchmark (Frigo and Johnson, "The Design and Implementation of FFTW3", 2005).
    Rounded once per transform.
    """
    return round(2.5 * points * math.log2(points)) if points > 1 else 0


def axis_hits(axis: Axis) -> int:
    """(output, tap) pairs of one axis that land inside the input, in O(log extent)."""
    return _pairs_below(axis, axis.before + axis.input) - _pairs_below(axis, axis.before)


def axis_touched(axis: Axis) -> int:
    """Input elements of one axis that some (output, tap) pair lands on.

    A pair lands on p·stride + tap·dilation − before. Taps whose landing points agree modulo the stride form one class;
    tap by tap each class covers intervals of p, which overlap where the dilated step is no longer than the output.
    There are at most min(filter, stride/gcd) classes; where that is large the output is short, and the roles of
    output and tap, which are symmetric, are exchanged.
    """
    outputs, step, taps, spread = axis.output, axis.stride, axis.filter, axis.dilation
    if min(taps, step) > min(outputs, spread):
        outputs, step, taps, spread = taps, spread, outputs, step
    common = math.gcd(step, spread)
    classes, shift = step // common, spread // common

    total = 0
    for tap in range(min(taps, classes)):
        members = -(-(taps - tap) // classes)
        start = tap * spread - axis.before
        lowest, highest = -(start // step), (axis.input - 1 - start) // step + 1
        total += max(
            0, _covered_below(highest, members, shift, outputs) - _covered_below(lowest, members, shift, outputs)
        )
    return total


def _covered_below(limit: int, members: int, shift: int, length: int) -> int:
    """Points below `limit` in the union of [j·shift, j·shift + length) for j < members."""
    if limit <= 0:
        return 0
    if shift <= length:
        return min(limit, (members - 1) * shift + length)
    whole = min(limit // shift, members)
    return whole * length + (min(limit - whole * shift, length) if whole < members else 0)


def _pairs_below(axis: Axis, limit: int) -> int:
    """Pairs (output p, tap r) with p·stride + r·dilation < limit.

    For tap r that is clamp(ceil((limit − r·dilation) / stride), 0, output): `full` taps reach every output, those up to
    `some` a falling part of them, summed in closed form.
    """
    outputs, s, d = axis.output, axis.stride, axis.dilation
    full = min(max((limit - (outputs - 1) * s - 1) // d + 1, 0), axis.filter)
    some = min(max((limit - 1) // d + 1, 0), axis.filter)
    count = some - full
    last = limit - (some - 1) * d  # ≥ 1 where count > 0: what the last such tap leaves
    return full * outputs + (_floor_sum(count, s, d, last + s - 1) if count > 0 else 0)


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Σ floor((a·i + b) / m) for i in [0, n), all arguments non-negative, in O(log): the Euclidean descent.

    Source: Graham, Knuth, Patashnik, "Concrete Mathematics", section 3.5.
    """
    total = 0
    while n > 0:
        total += (a // m) * (n * (n - 1) // 2) + (b // m) * n
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            break
        n, b, m, a = top // m, top % m, a, m
    return total
