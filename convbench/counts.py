"""Counts of many problems at once: the rules of work.py over columns of NumPy integers, equal to them row by row.

Columns are int64. A row whose counts may not fit is counted again by work.py, in Python integers, and the columns of
counts are then object arrays. docs/method.md, "Counts".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convbench import work
from convbench.errors import InputError
from convbench.problem import MAX_EXTENT, Axis, Case, ConvPass, Dtype, Epilogue, MathMode, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Ints: TypeAlias = NDArray[np.int64]
Column: TypeAlias = NDArray[np.int64] | NDArray[np.object_]
"""One count per problem: int64, or Python integers where at least one row is large."""

Floats: TypeAlias = NDArray[np.float64]

LARGE = 2.0**62
"""A float64 estimate above this may mean a count above int64's 2⁶³ − 1."""

BLOCK = 2**14
"""Rows of one axis worked on at a time: so many that NumPy's calls cost little, few enough for a core's cache."""

PAIRS = 2**17
"""(row, tap) pairs worked on at a time. One row has at most 2¹⁶; see `work.axis_touched`."""

POINT = Axis(input=1, filter=1, stride=1, dilation=1, before=0, after=0)
"""An axis that changes no count; what a problem of fewer axes is filled up with."""

PER_PROBLEM = {"batch": 0, "in_channels": 1, "out_channels": 1, "groups": 1}
PER_AXIS = {"input_size": 1, "filter_size": 1, "stride": 1, "dilation": 1, "before": 0, "after": -MAX_EXTENT}
"""The columns, those per axis in the order of `Axis`, each with its least legal value, as in `Problem`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problems:
    """n problems of one to three axes, as columns; what they count is computed once, when it is asked for.

    Columns are kept as int64 and are not copied where they are that already: leave them unchanged.

    Attributes:
        batch: shape (n,); in_channels, out_channels and groups too. See `Problem`.
        input_size: shape (axes, n), outermost axis first; filter_size, stride and dilation too.
        before: padding, shape (axes, n).
        after: the same; negative where it crops.

    Raises:
        InputError: a column is no array of integers of its shape, or a row breaks a rule of `Problem`.
    """

    batch: Ints
    in_channels: Ints
    out_channels: Ints
    groups: Ints
    input_size: Ints
    filter_size: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints

    def __post_init__(self) -> None:
        rows, axes = (np.size(self.batch),), np.shape(self.input_size)[:1]
        if axes not in {(1,), (2,), (3,)}:
            raise InputError(
                f"input_size must have 1, 2 or 3 rows, one per axis, got shape {np.shape(self.input_size)}"
            )
        for name in PER_PROBLEM | PER_AXIS:
            column = np.asarray(getattr(self, name))
            shape = rows if name in PER_PROBLEM else axes + rows
            if column.dtype.kind not in "iu" or column.shape != shape:
                raise InputError(
                    f"{name} must be an array of integers of shape {shape}, got {column.dtype} of shape {column.shape}"
                )
            object.__setattr__(self, name, column)
        for name, lowest in (PER_PROBLEM | PER_AXIS).items():
            column = getattr(self, name)
            self._refuse((column < lowest) | (column > MAX_EXTENT))
            object.__setattr__(self, name, np.ascontiguousarray(column, dtype=np.int64))
        self._refuse((self.in_channels % self.groups != 0) | (self.out_channels % self.groups != 0))
        self._refuse(self.input_size + self.before + self.after <= self._axes.reach)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Problems:
        """The columns of `problems`; those of fewer axes than others get axes of extent 1 in front."""
        ndim = max((p.ndim for p in problems), default=1)
        count = len(problems)
        columns = {name: np.fromiter((getattr(p, name) for p in problems), np.int64, count) for name in PER_PROBLEM}
        numbers = (
            number
            for p in problems
            for axis in (POINT,) * (ndim - p.ndim) + p.axes
            for number in (axis.input, axis.filter, axis.stride, axis.dilation, axis.before, axis.after)
        )
        table = np.fromiter(numbers, np.int64, count * ndim * 6).reshape(count, ndim, 6)
        return cls(**columns, **dict(zip(PER_AXIS, table.T, strict=True)))  # table.T: (6, ndim, count)

    def __len__(self) -> int:
        return len(self.batch)

    def problem(self, row: int) -> Problem:
        """One of them, with as many axes as there are columns for."""
        one: dict[str, Any] = {f.name: getattr(self, f.name)[..., row].tolist() for f in fields(self)}
        padding = tuple(zip(one.pop("before"), one.pop("after"), strict=True))
        return Problem(padding=padding, **one)

    @cached_property
    def output_size(self) -> Ints:
        """Output extents, shape (axes, n)."""
        return self._axes.output  # type: ignore[no-any-return]

    @cached_property
    def sizes(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Elements of x, w and y, and multiply-adds. In `large` rows they may have wrapped around."""
        return self._sizes(np.int64)

    @cached_property
    def touched(self) -> Ints:
        """Elements of x that some tap lands on. In `large` rows they may have wrapped around."""
        return self.batch * self.in_channels * self._by_axis(_axis_touched).prod(axis=0)  # type: ignore[no-any-return]

    @cached_property
    def large(self) -> NDArray[np.intp]:
        """Rows with a count that may not fit into int64, by a float64 estimate.

        The estimate is above every count of up to 8 bytes an element: 8·(2·macs + 2·max(x, w, y)), 8·(x + 2·w + y).
        """
        return np.flatnonzero(16 * sum(self._sizes(np.float64)) > LARGE)

    def mended(self, counts: Ints, count: Callable[[Problem], int]) -> Column:
        """`counts`, those of the `large` rows replaced by what `count` says of the problem."""
        if not self.large.size:
            return counts
        column: NDArray[np.object_] = counts.astype(object)
        for row in self.large.tolist():
            column[row] = count(self.problem(row))
        return column

    @cached_property
    def nominal_macs(self) -> Column:
        """`work.nominal_macs` of each."""
        return self.mended(self.sizes[3], work.nominal_macs)

    @cached_property
    def nominal_flops(self) -> Column:
        """`work.nominal_flops` of each."""
        return 2 * self.nominal_macs

    @cached_property
    def exact_flops(self) -> Column:
        """`work.exact_flops` of each."""
        hits = self._by_axis(_axis_hits).prod(axis=0)
        flops = 2 * self.batch * self.out_channels * (self.in_channels // self.groups) * hits
        return self.mended(flops, work.exact_flops)

    def _sizes(self, dtype: Any) -> tuple[Any, Any, Any, Any]:
        images, maps = self.batch.astype(dtype), self.out_channels.astype(dtype)
        x = images * self.in_channels * self.input_size.prod(axis=0, dtype=dtype)
        taps = self.in_channels // self.groups * self.filter_size.prod(axis=0, dtype=dtype)
        y = images * maps * self.output_size.prod(axis=0, dtype=dtype)
        return x, maps * taps, y, y * taps

    @property
    def _axes(self) -> Any:
        """All axes as one: the formulas of `Axis` hold for columns as they do for numbers."""
        columns: Any = (self.input_size, self.filter_size, self.stride, self.dilation, self.before, self.after)
        return Axis(*columns)

    def _by_axis(self, rule: Callable[..., Ints]) -> Ints:
        """`rule` of every axis, shape (axes, n), block by block."""
        columns = (self.output_size, self.input_size, self.filter_size, self.stride, self.dilation, self.before)
        flat = [column.reshape(-1) for column in columns]
        result = np.empty_like(flat[0])
        for start in range(0, result.size, BLOCK):
            block = slice(start, start + BLOCK)
            result[block] = rule(*(column[block] for column in flat))
        return result.reshape(self.output_size.shape)

    def _refuse(self, wrong: NDArray[np.bool_]) -> None:
        """Raises what `Problem` says of the first row that is wrong."""
        if wrong.any():
            row = int(np.atleast_2d(wrong).any(axis=0).argmax())
            try:
                self.problem(row)
            except InputError as error:
                raise InputError(f"problem {row}: {error}") from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """What is asked of all the problems: the form of `Case` for columns. Counts have shape (n,), ratios too.

    Attributes:
        problems: n of them; the rest as in `Case`.

    Raises:
        InputError: an epilogue with a pass other than fprop, or a math mode that does not go with the dtype.
    """

    problems: Problems
    conv_pass: ConvPass
    dtype: Dtype = Dtype.FP32
    math_mode: MathMode = MathMode.FP32
    epilogue: Epilogue = Epilogue.NONE

    def __post_init__(self) -> None:
        self.case(Problem(batch=0, in_channels=1, out_channels=1, input_size=(1,), filter_size=(1,)))

    def case(self, problem: Problem) -> Case:
        """The same asked of one problem."""
        return Case(suite="counts", name="problem", problem=problem, conv_pass=self.conv_pass, dtype=self.dtype,
                    math_mode=self.math_mode, epilogue=self.epilogue)  # fmt: skip

    @cached_property
    def flops(self) -> Column:
        """Flops of `work.nominal_work`: the nominal ones and the epilogue's."""
        per_output = {Epilogue.NONE: 0, Epilogue.BIAS: 1, Epilogue.BIAS_RELU: 2}[self.epilogue]
        if not per_output:
            return self.problems.nominal_flops
        return self.problems.nominal_flops + self._mended(per_output * self.problems.sizes[2], work.epilogue_flops)

    @cached_property
    def compulsory_bytes(self) -> Column:
        """`work.compulsory_bytes` of each."""
        x, w, y, _ = self.problems.sizes
        elements = w + y + (x if self.conv_pass is ConvPass.DGRAD else self.problems.touched)
        if self.epilogue is not Epilogue.NONE:
            elements += self.problems.out_channels
        return self._mended(elements * self.dtype.itemsize, work.compulsory_bytes)

    @cached_property
    def no_reuse_bytes(self) -> Column:
        """`work.no_reuse_bytes` of each."""
        x, w, y, macs = self.problems.sizes
        outputs = {ConvPass.FPROP: y, ConvPass.DGRAD: x, ConvPass.WGRAD: w}[self.conv_pass]
        each = 1 if self.epilogue is Epilogue.NONE else 2  # one store, and one load of a bias
        return self._mended((2 * macs + each * outputs) * self.dtype.itemsize, work.no_reuse_bytes)

    @property
    def flop_per_byte(self) -> Floats:
        """Nominal flops over compulsory bytes."""
        return _ratio(self.problems.nominal_flops, self.compulsory_bytes)

    @property
    def flop_per_byte_no_reuse(self) -> Floats:
        """Nominal flops over bytes without reuse; NaN where nothing moves."""
        return _ratio(self.problems.nominal_flops, self.no_reuse_bytes)

    @property
    def mac_per_input_byte(self) -> Floats:
        """Nominal multiply-adds over the bytes of x; NaN where x is empty."""
        size = self._mended(self.problems.sizes[0] * self.dtype.itemsize,
                            lambda case: math.prod(case.problem.x_shape) * case.dtype.itemsize)  # fmt: skip
        return _ratio(self.problems.nominal_macs, size)

    def _mended(self, counts: Ints, count: Callable[[Case], int]) -> Column:
        """`Problems.mended` by a count of cases."""
        return self.problems.mended(counts, lambda problem: count(self.case(problem)))


def _ratio(counts: Column, others: Column) -> Floats:
    over, under = counts.astype(np.float64), others.astype(np.float64)
    ratio = np.full(over.shape, np.nan)
    np.divide(over, under, out=ratio, where=under > 0)
    return ratio


# The rules of one axis. Arguments and comments are those of the functions of the same name in work.py. What is above
# int64 wraps around, in `large` rows or next to a batch of 0; nothing but sums and products does.


def _axis_hits(outputs: Ints, extent: Ints, taps: Ints, step: Ints, spread: Ints, before: Ints) -> Ints:
    hits = _pairs_below(outputs, taps, step, spread, before + extent)
    padded = np.flatnonzero(before)
    hits[padded] -= _pairs_below(*(column[padded] for column in (outputs, taps, step, spread, before)))
    return hits


def _pairs_below(outputs: Ints, taps: Ints, step: Ints, spread: Ints, limit: Ints) -> Ints:
    full = np.clip((limit - (outputs - 1) * step - 1) // spread + 1, 0, taps)
    some = np.clip((limit - 1) // spread + 1, 0, taps)
    pairs = full * outputs
    rows = np.flatnonzero(some > full)
    last = limit - (some - 1) * spread
    pairs[rows] += _floor_sum((some - full)[rows], step[rows], spread[rows], (last + step - 1)[rows])
    return pairs


def _floor_sum(n: Ints, m: Ints, a: Ints, b: Ints) -> Ints:
    total = np.zeros_like(n)
    rows = np.arange(n.size)
    while rows.size:
        total[rows] += (a // m) * (n * (n - 1) // 2) + (b // m) * n
        a, b = a % m, b % m
        top = a * n + b
        n = top // m
        left = np.flatnonzero(n)
        rows, n, b, m, a = rows[left], n[left], (top % m)[left], a[left], m[left]
    return total


def _axis_touched(outputs: Ints, extent: Ints, taps: Ints, step: Ints, spread: Ints, before: Ints) -> Ints:
    swap = np.minimum(taps, step) > np.minimum(outputs, spread)
    outputs, taps = np.where(swap, taps, outputs), np.where(swap, outputs, taps)
    step, spread = np.where(swap, spread, step), np.where(swap, step, spread)
    common = np.gcd(step, spread)
    classes, shift = step // common, spread // common

    ends = np.cumsum(np.minimum(taps, classes))  # of each row's taps, one per class, in a list of those of all rows
    total = np.empty_like(ends)
    start = done = 0
    while start < ends.size:
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
        part = slice(start, stop)
        columns = (outputs, extent, taps, step, spread, before, classes, shift)
        total[part] = _summed_classes(ends[part] - done, *(column[part] for column in columns))
        start, done = stop, int(ends[stop - 1])
    return total


def _summed_classes(ends: Ints, *columns: Ints) -> Ints:
    """Elements touched by the classes of each row."""
    starts = np.concatenate(([0], ends[:-1]))
    rows = np.repeat(np.arange(ends.size), ends - starts)
    tap = np.arange(rows.size) - starts[rows]
    outputs, extent, taps, step, spread, before, classes, shift = (column[rows] for column in columns)
    members = -(-(taps - tap) // classes)
    start = tap * spread - before
    lowest, highest = -(start // step), (extent - 1 - start) // step + 1
    covered = _covered_below(highest, members, shift, outputs) - _covered_below(lowest, members, shift, outputs)
    return np.add.reduceat(covered, starts)


def _covered_below(limit: Ints, members: Ints, shift: Ints, length: Ints) -> Ints:
    limit = np.maximum(limit, 0)
    joined = np.minimum(limit, (members - 1) * shift + length)
    whole = np.minimum(limit // shift, members)
    apart = whole * length + np.where(whole < members, np.minimum(limit - whole * shift, length), 0)
    return np.where(shift <= length, joined, apart)  # type: ignore[no-any-return]
