"""Axes cut into tiles for overlap-save: each tile is transformed on its own, as one more image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from convbench.backends.cpu.phases import axis_phases, cyclic_length
from convbench.backends.cpu.windows import pieces
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from convbench.problem import Axis


class Tile(NamedTuple):
    """A part of an axis: outputs of y, elements of x per phase, and the rows of a buffer that hold them."""

    y_rows: slice
    y: slice
    x_rows: tuple[slice, ...]
    x: tuple[slice, ...]


@dataclass(frozen=True)
class TiledAxis:
    """An axis cut into tiles of `step` results: outputs, in dgrad elements of each phase of x.

    Output p reads elements p to p + reach of a phase. fprop and wgrad cut y, and a tile reads the elements under its
    outputs; dgrad cuts the phases, and a tile reads the outputs above its elements. So neighbours read `reach`
    elements both and write none both (overlap-save), and in no tile does what is used wrap around.
    A step of all results makes one tile, on the fewest points.
    """

    axis: Axis
    conv_pass: ConvPass
    step: int

    @cached_property
    def results(self) -> range:
        """What is cut."""
        return results(self.axis, self.conv_pass)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return max(1, pieces(len(self.results), max(1, self.step)))

    @cached_property
    def points(self) -> int:
        """Points of each transform."""
        return next_fast_length(cyclic_length(self.axis) if self.count == 1 else self.step + reach(self.axis))

    @property
    def rows(self) -> tuple[int, int]:
        """First rows of a buffer that hold something of x, and of y, whichever the tile."""
        if self.count == 1:
            return max(phase.high for phase in axis_phases(self.axis)), self.axis.output
        read = self.step + reach(self.axis)
        return read, (read if self.conv_pass is ConvPass.DGRAD else self.step)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles, in order."""
        if self.count == 1:
            return (self._tile(0, range(self.axis.output), range(self.points)),)
        found, overlap = [], reach(self.axis)
        for first in self.results[:: self.step]:
            stop = min(first + self.step, self.results.stop)
            if self.conv_pass is ConvPass.DGRAD:
                y = range(max(0, first - overlap), min(self.axis.output, stop))
                found.append(self._tile(first - overlap, y, range(first, stop)))
            else:
                found.append(self._tile(first, range(first, stop), range(first, stop + overlap)))
        return tuple(found)

    def _tile(self, origin: int, y: range, x: range) -> Tile:
        """Row 0 is output `origin`, and element `origin` of each phase."""
        rows, elements = [], []
        for phase in axis_phases(self.axis):
            low = max(phase.low, x.start)
            high = max(low, min(phase.high, x.stop))
            rows.append(slice(low - origin, high - origin))
            start = phase.start + low * self.axis.stride
            elements.append(slice(start, start + (high - low) * self.axis.stride, self.axis.stride))
        return Tile(slice(y.start - origin, y.stop - origin), slice(y.start, y.stop), tuple(rows), tuple(elements))


def reach(axis: Axis) -> int:
    """Elements of a phase from its first tap to its last."""
    return axis.reach // axis.stride


def results(axis: Axis, conv_pass: ConvPass) -> range:
    """The outputs, in dgrad the elements of all phases of x."""
    if conv_pass is not ConvPass.DGRAD:
        return range(axis.output)
    phases = axis_phases(axis)
    first = min(phase.low for phase in phases)
    return range(first, max(first, *(phase.high for phase in phases)))


def next_fast_length(target: int) -> int:
    """Smallest 5-smooth integer >= target: the lengths for which pocketfft has real transforms of small radix."""
    best = 1 << max(0, (target - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            quotient = -(-target // three)
            best = min(best, three << max(0, (quotient - 1).bit_length()))
            three *= 3
        five *= 5
    return best
