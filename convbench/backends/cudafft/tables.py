"""Where the points of planes lie in tensors: tiles on transforms of a given size, and the tables that kernels read.

Arithmetic; only what makes arrays loads NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from convbench.backends.cpu.phases import axis_phases, phase_count
from convbench.backends.cpu.windows import pieces
from convbench.backends.cudafft.kernels import PLANES
from convbench.problem import ConvPass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from convbench.problem import Axis, Layout

MAX_TILES = 4096
"""Tiles along an axis: of more, points are too few for its extent."""
INDEX_BYTES = 4
"""Of an offset in a table."""
STRUCT_BYTES = 72
"""Of struct Planes of transform.cu."""
AXES = 3
"""That struct Planes has; of fewer, the last ones are used."""

Places = tuple[tuple[slice, slice], ...]
"""For each tile and phase of an axis, phases fastest: points of a plane, and the elements of the tensor in them."""


class Part(NamedTuple):
    """A correlation of stride 1 that an axis consists of: output m, of `outputs`, reads elements m to m + reach.

    Output m is output first + m·step of the axis. `spans` has (low, high), the elements that there are, per phase, and
    `starts` the input element that element 0 is, `between` that to the next one.
    """

    first: int
    step: int
    outputs: int
    spans: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    between: int

    @property
    def elements(self) -> range:
        """From the first one of any phase to the last."""
        low = min(low for low, _ in self.spans)
        return range(low, max(low, *(high for _, high in self.spans)))


@dataclass(frozen=True)
class TransformAxis:
    """An axis on transforms of `size` points: one tile by the wrap rule if that is enough, else tiles by overlap-save.

    With u = tap·dilation = a + stride·b, output p reads element p + b of phase a (`axis_phases`). Dilation leaves gaps
    between these b. Either the filter's plane has them too, and the axis is one part; or outputs so far apart, which
    read the same elements and no others, are a part of their own (`apart`), and the filter's plane has no gaps.
    fprop and wgrad cut outputs, and a tile reads the elements under them; dgrad cuts the elements of all phases, and a
    tile reads the outputs above them. Where there are none, as of inputs that no tap touches, there are no tiles.
    Sources: those of convbench.backends.cpu.fft_planner.
    """

    axis: Axis
    conv_pass: ConvPass
    size: int
    apart: bool = False

    @cached_property
    def reach(self) -> int:
        """Rows of a filter's plane from its first tap to its last."""
        if self.apart:
            return (self.axis.filter - 1) // axis_phases(self.axis)[0].tap_step
        return self.axis.reach // self.axis.stride

    @property
    def step(self) -> int:
        """Results of a tile."""
        return self.size - self.reach

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts, of which there is one if outputs are not taken apart."""
        phases = axis_phases(self.axis)
        gap = phases[0].row_step if self.apart else 1
        found = []
        for first in range(min(gap, self.axis.output)):
            outputs = len(range(first, self.axis.output, gap))
            bases = [first + (phase.first_row if self.apart else 0) for phase in phases]
            spans = []
            for phase, base in zip(phases, bases, strict=True):
                low = max(0, -((base - phase.low) // gap))
                high = min(outputs + self.reach, -((base - phase.high) // gap))
                spans.append((low, max(low, high)))
            starts = [phase.start + base * self.axis.stride for phase, base in zip(phases, bases, strict=True)]
            found.append(Part(first, gap, outputs, tuple(spans), tuple(starts), gap * self.axis.stride))
        return tuple(found)

    def whole(self, part: Part) -> bool:
        """Whether a part fits into one tile: what is read beyond its end wraps around onto the zeros at its start.

        It is zero there, too, and the tile holds all outputs, taps and elements.
        """
        elements = part.elements
        read = part.outputs + self.reach - elements.start
        return max(read, part.outputs, self.reach + 1, elements.stop) <= self.size

    def _cut(self, part: Part) -> range:
        """The results that tiles cut."""
        return part.elements if self.conv_pass is ConvPass.DGRAD else range(part.outputs)

    @cached_property
    def count(self) -> int:
        """Number of tiles."""
        return sum(
            bool(self._cut(part)) if self.whole(part) else pieces(len(self._cut(part)), self.step)
            for part in self.parts
        )

    @cached_property
    def tiles(self) -> tuple[tuple[Part, range, range, int], ...]:
        """(part, its outputs, its elements, which of either lies in point 0) of each tile."""
        found = []
        for part in self.parts:
            cut = self._cut(part)
            if self.whole(part):
                found += [(part, range(part.outputs), range(self.size), 0)] if cut else []
                continue
            for first in cut[:: self.step]:
                stop = min(first + self.step, cut.stop)
                if self.conv_pass is ConvPass.DGRAD:
                    outputs = range(max(0, first - self.reach), min(part.outputs, stop))
                    found.append((part, outputs, range(first, stop), first - self.reach))
                else:
                    found.append((part, range(first, stop), range(first, stop + self.reach), first))
        return tuple(found)

    def places(self, name: str) -> Places:
        """Where a tensor's elements lie: of x each tile and phase, of y each tile, of w each phase."""
        if name == "w":
            return self._filter_places
        if name == "y":
            return tuple(
                (_moved(outputs, origin), _spread(outputs, part.first, part.step))
                for part, outputs, _, origin in self.tiles
            )
        found = []
        for part, _, elements, origin in self.tiles:
            for (low, high), start in zip(part.spans, part.starts, strict=True):
                first = max(low, elements.start)
                held = range(first, max(first, min(high, elements.stop)))
                found.append((_moved(held, origin), _spread(held, start, part.between)))
        return tuple(found)

    @cached_property
    def _filter_places(self) -> Places:
        found = []
        for phase in axis_phases(self.axis):
            taps = slice(phase.first_tap, self.axis.filter, phase.tap_step)
            first, gap = (0, 1) if self.apart else (phase.first_row, phase.row_step)
            last = first + gap * (len(range(self.axis.filter)[taps]) - 1)
            found.append((slice(first, last + 1, gap), taps))
        return tuple(found)

    def elements(self, name: str) -> int:
        """Elements of a tensor in the planes, along this axis: those that two tiles hold count twice."""
        return sum(len(range(rows.stop)[rows]) for rows, _ in self.places(name))

    def table_rows(self, name: str) -> int:
        """Rows of a tensor's table: tiles times phases."""
        return self.phases(name) * (1 if name == "w" else self.count)

    def phases(self, name: str) -> int:
        """Phases of a tensor."""
        return 1 if name == "y" else phase_count(self.axis)


def _moved(held: range, origin: int) -> slice:
    """Points of a plane."""
    return slice(held.start - origin, held.stop - origin)


def _spread(held: range, start: int, step: int) -> slice:
    """Elements start + step·i."""
    return slice(start + step * held.start, start + step * held.stop, step)


def transform_axis(axis: Axis, conv_pass: ConvPass, size: int) -> TransformAxis | None:
    """The axis on transforms of `size` points, in the fewest tiles; None where they do not hold the filter."""
    gap = axis.dilation // math.gcd(axis.stride, axis.dilation)
    ways = [
        TransformAxis(axis, conv_pass, size, apart) for apart in ((False, True) if 1 < gap <= MAX_TILES else (False,))
    ]
    return min((each for each in ways if each.step > 0), key=lambda each: each.count, default=None)


def tensor_strides(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Strides in elements of the canonical axes of a tensor that lies in `layout`."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(layout.order(len(shape) - 2)):
        strides[axis], step = step, step * shape[axis]
    return tuple(strides)


@dataclass(frozen=True)
class Lying:
    """A tensor in memory.

    Attributes:
        name: x, w or y.
        shape: canonical.
        layout: the order of its axes.
        groups: of channels; of w, of filters.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    groups: int

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Of the canonical axes, in elements."""
        return tensor_strides(self.shape, self.layout)

    @property
    def most_offset(self) -> int:
        """Largest offset in a table: of the last element of an axis."""
        return max((extent - 1) * stride for extent, stride in zip(self.shape[2:], self.strides[2:], strict=True))

    def described(self, axes: Sequence[TransformAxis], matrix: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(struct Planes, offsets) as transform.cu wants them, for so many rows and columns of planes."""
        import numpy as np

        absent = AXES - len(axes)
        places = [axis.places(self.name) for axis in axes]
        tables = [
            table(found, axis.size, stride) for found, axis, stride in zip(places, axes, self.strides[2:], strict=True)
        ]
        image, channel = self.strides[:2]
        where = np.zeros(1, np.dtype([*PLANES]))
        grouped, of_a_group = (image, self.shape[0]) if self.name == "w" else (channel, self.shape[1])
        where["group"], where["image"], where["channel"] = grouped * (of_a_group // self.groups), image, channel
        where["planes"], where["columns"] = math.prod(matrix), matrix[1]
        where["tiles"], where["phases"] = 1, 1
        for place, axis in enumerate(axes, start=absent):
            phases = axis.phases(self.name)
            where["tiles"][0, place], where["phases"][0, place] = axis.table_rows(self.name) // phases, phases
        starts = np.cumsum([0, *(each.size for each in tables)])
        where["first"][0, absent:] = starts[:-1]
        return where, np.concatenate([each.ravel() for each in tables])


def table(places: Places, size: int, stride: int) -> NDArray[Any]:
    """Offsets (tile and phase, points) of what lies in the points of an axis, -1 where nothing does."""
    import numpy as np

    found = np.full((len(places), size), -1, np.int32)
    for row, (points, elements) in zip(found, places, strict=True):
        row[points] = np.arange(elements.start, elements.stop, elements.step) * stride
    return found
