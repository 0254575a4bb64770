"""Where the elements of tensors lie in planes, so that one copy serves many tiles: arithmetic, without NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from convbench.backends.cpu.fft_tiles import TiledAxis, next_fast_length, reach
from convbench.backends.cpu.phases import axis_phases, cyclic_length

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convbench.problem import Axis


class Run(NamedTuple):
    """So many `tiles` in a row of an axis that hold elements in the same rows: one strided view of the tensor.

    Row j of `rows` of tile `first` + i holds element `start` + i·`between` + j·`step`.
    """

    first: int
    tiles: int
    rows: slice
    start: int
    between: int
    step: int

    @property
    def length(self) -> int:
        """Elements of one tile."""
        length: int = self.rows.stop - self.rows.start
        return length

    @property
    def elements(self) -> int:
        """Elements of all tiles, those counted twice that two tiles hold."""
        return self.tiles * self.length


def like_tiles(parts: Iterable[tuple[slice, slice]]) -> tuple[Run, ...]:
    """The runs of tiles that are given as (rows, elements), tile by tile; those without elements are in none."""
    found: list[Run] = []
    for number, (rows, elements) in enumerate(parts):
        if rows.start == rows.stop:
            continue
        last = found[-1] if found else None
        if last and last.rows == rows and last.first + last.tiles == number:
            between = elements.start - last.start if last.tiles == 1 else last.between
            if last.start + last.tiles * between == elements.start:
                found[-1] = last._replace(tiles=last.tiles + 1, between=between)
                continue
        found.append(Run(number, 1, rows, elements.start, 0, elements.step or 1))
    return tuple(found)


@dataclass(frozen=True)
class CufftAxis(TiledAxis):
    """An axis cut into tiles, with transforms of the lengths that cuFFT is quick for."""

    innermost: bool = False

    @cached_property
    def points(self) -> int:
        """Points of each transform."""
        least = cyclic_length(self.axis) if self.count == 1 else self.step + reach(self.axis)
        return 2 * next_length(-(-least // 2)) if self.innermost else next_length(least)

    @property
    def x_runs(self) -> tuple[tuple[Run, ...], ...]:
        """Per phase: elements of x in the planes."""
        phases = range(len(axis_phases(self.axis)))
        return tuple(like_tiles((tile.x_rows[phase], tile.x[phase]) for tile in self.tiles) for phase in phases)

    @property
    def y_runs(self) -> tuple[Run, ...]:
        """Elements of y in the planes."""
        return like_tiles((tile.y_rows, tile.y) for tile in self.tiles)


def filter_places(axis: Axis) -> tuple[tuple[slice, slice], ...]:
    """Per phase: rows of a plane, and the taps that they hold."""
    found = []
    for phase in axis_phases(axis):
        taps = slice(phase.first_tap, axis.filter, phase.tap_step)
        last = phase.first_row + (len(range(axis.filter)[taps]) - 1) * phase.row_step
        found.append((slice(phase.first_row, last + 1, phase.row_step), taps))
    return tuple(found)


def next_length(target: int) -> int:
    """Smallest integer >= target with no prime factor above 7; cuFFT has kernels for these (its documentation, 2.1)."""
    best, sevens = next_fast_length(target), 7
    while sevens < 7 * target:
        best = min(best, sevens * next_fast_length(-(-target // sevens)))
        sevens *= 7
    return best
