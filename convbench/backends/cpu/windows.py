"""Correlations as windows over one tensor, and how they are cut into chunks: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from convbench.backends.cpu.phases import axis_phases
from convbench.problem import Case, ConvPass, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convbench.problem import Axis


@dataclass(frozen=True, slots=True)
class Window:
    """One axis of a correlation: output o multiplies tap r by element o·stride + r·dilation − before, 0 outside.

    Output o is element first + o·step of what is written, tap r is tap first_tap + r·tap_step of the filter.
    """

    outputs: int
    source: int
    written: int
    taps: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    first: int = 0
    step: int = 1
    first_tap: int = 0
    tap_step: int = 1

    @property
    def reach(self) -> int:
        """Distance from the first tap to the last, in elements."""
        return self.dilation * (self.taps - 1)

    @property
    def padded(self) -> bool:
        """Whether some window leaves the tensor."""
        return self.before > 0 or (self.outputs - 1) * self.stride + self.reach - self.before >= self.source

    @property
    def plain(self) -> bool:
        """Whether the outputs' windows are the elements as they lie."""
        return self.taps == self.stride == 1 and self.before == 0 and self.outputs == self.source

    @property
    def whole(self) -> bool:
        """Whether the outputs are all that is written, in their order."""
        return self.step == 1 and self.outputs == self.written

    @property
    def tap_slice(self) -> slice:
        """The taps of the filter, in the order of the window."""
        stop = self.first_tap + self.taps * self.tap_step
        return slice(self.first_tap, stop if stop >= 0 else None, self.tap_step)

    def places(self, part: slice) -> slice:
        """Where the outputs in `part` are written."""
        return slice(self.first + part.start * self.step, self.first + (part.stop - 1) * self.step + 1, self.step)

    def under(self, part: slice) -> tuple[int, slice, slice]:
        """What the windows of `part` lie on: its size, the part of it inside the tensor, and that part there."""
        size = (part.stop - part.start - 1) * self.stride + self.reach + 1
        start = part.start * self.stride - self.before
        first = min(max(0, -start), size)
        stop = max(first, min(size, self.source - start))
        return size, slice(first, stop), slice(start + first, start + stop)

    def span(self, tap: int) -> range:
        """The outputs for which a tap lands inside the tensor."""
        offset = tap * self.dilation - self.before
        first = max(0, -(offset // self.stride))
        return range(first, max(first, min(self.outputs, (self.source - 1 - offset) // self.stride + 1)))

    def residues(self) -> list[tuple[slice, slice, Window]]:
        """The taps of each residue modulo the stride, the elements that they read, and their windows over these.

        At dilation 1 tap a + stride·b reads element b of what starts at a − before, in steps of the stride.
        """
        found = []
        for residue in range(min(self.stride, self.taps)):
            skipped, first = divmod(residue - self.before, self.stride)
            source = len(range(first, self.source, self.stride))
            taps = len(range(residue, self.taps, self.stride))
            window = Window(self.outputs, source, self.written, taps, before=-skipped)
            found.append((slice(residue, None, self.stride), slice(first, None, self.stride), window))
        return found


def correlations(case: Case) -> tuple[tuple[Window, ...], ...]:
    """What the pass computes, as correlations of windows over x (over dy in dgrad) with parts of the filter.

    fprop and wgrad are one; dgrad is one per phase of the strides, with the filter's taps in reverse, and no output of
    two of them is the same. Elements of dx that no tap reaches belong to none.
    """
    axes = case.problem.axes
    if case.conv_pass is ConvPass.DGRAD:
        return tuple(
            windows for windows in itertools.product(*map(_transposed, axes)) if all(w.outputs for w in windows)
        )
    return (tuple(Window(a.output, a.input, a.output, a.filter, a.stride, a.dilation, a.before) for a in axes),)


def _transposed(axis: Axis) -> list[Window]:
    """Element q of a phase sums taps j over dy at q − first_row − j·row_step."""
    found = []
    for phase in axis_phases(axis):
        taps = len(range(phase.first_tap, axis.filter, phase.tap_step))
        last = taps - 1
        found.append(Window(
            outputs=phase.high - phase.low, source=axis.output, written=axis.input, taps=taps,
            dilation=phase.row_step, before=phase.first_row + last * phase.row_step - phase.low,
            first=phase.start + phase.low * axis.stride, step=axis.stride,
            first_tap=phase.first_tap + last * phase.tap_step, tap_step=-phase.tap_step,
        ))  # fmt: skip
    return found


def channels(case: Case) -> tuple[int, int]:
    """Channels of a group that the correlations read and write; in wgrad those of x and dy."""
    p = case.problem
    c, k = p.in_channels // p.groups, p.out_channels // p.groups
    return (k, c) if case.conv_pass is ConvPass.DGRAD else (c, k)


def chunk_extents(extents: Sequence[int], budget: int) -> tuple[int, ...]:
    """Extents, outermost first, of the largest box of at most `budget` points (at least one) that tiles `extents`.

    Filled from the innermost axis outwards, so that a chunk stays contiguous; the axis that is cut is cut evenly.
    """
    box = []
    for extent in reversed(extents):
        room = max(1, min(extent, budget))
        pieces = -(-extent // room) if extent else 1
        box.append(max(1, -(-extent // pieces)))
        budget //= max(1, extent)
    return tuple(reversed(box))


def pieces(extent: int, size: int) -> int:
    """How many chunks of `size` cover `extent`."""
    return -(-extent // size)


def slices(extent: int, size: int) -> list[slice]:
    """The chunks of `size` that cover `extent`."""
    return [slice(start, min(start + size, extent)) for start in range(0, extent, size)]


@dataclass(frozen=True)
class Chunked:
    """A correlation over a batch, cut into chunks of about `budget` output points, as many for each of `threads`.

    The taps of the first `outer` axes are not gathered: a chunk's windows then hold the rows that all of them reach.
    `images_first` says whether the batch is the outermost of the points' axes in memory, as in all layouts but chwn.
    Sizes are of one channel.
    """

    windows: tuple[Window, ...]
    batch: int
    images_first: bool
    budget: int
    threads: int = 1
    outer: int = 0

    @cached_property
    def points(self) -> tuple[int, ...]:
        """Extents of the output points' axes in memory order, batch included."""
        outputs = tuple(w.outputs for w in self.windows)
        return (self.batch, *outputs) if self.images_first else (*outputs, self.batch)

    @cached_property
    def box(self) -> tuple[int, ...]:
        """Extents of one chunk, in the order of `points`."""
        share = max(1, pieces(math.prod(self.points), self.threads))
        return chunk_extents(self.points, pieces(share, pieces(share, self.budget)))

    @cached_property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.prod(map(pieces, self.points, self.box))

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.windows)

    @property
    def images(self) -> int:
        """Images in one chunk."""
        return self.box[0 if self.images_first else -1]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Outputs of one chunk per axis."""
        return self.box[1:] if self.images_first else self.box[:-1]

    @property
    def padded(self) -> bool:
        """Whether some window leaves the tensor."""
        return any(w.padded for w in self.windows)

    @property
    def plain(self) -> bool:
        """Whether the tensor, as it lies, is the matrix of windows."""
        return all(w.plain for w in self.windows)

    @property
    def whole(self) -> bool:
        """Whether all that is written is written by this correlation, in its order."""
        return all(w.whole for w in self.windows)

    @property
    def outer_taps(self) -> list[tuple[int, ...]]:
        """The taps that are products of their own."""
        return list(itertools.product(*(range(w.taps) for w in self.windows[: self.outer])))

    @property
    def outer_points(self) -> int:
        """Output points of all outer taps together, without those for which a tap meets padding."""
        hits = math.prod(sum(len(w.span(tap)) for tap in range(w.taps)) for w in self.windows[: self.outer])
        return self.batch * hits * math.prod(w.outputs for w in self.windows[self.outer :])

    @property
    def added_points(self) -> int:
        """Those of all outer taps but the first, whose products are added to others."""
        first = math.prod(len(w.span(0)) for w in self.windows[: self.outer])
        return self.outer_points - self.batch * first * math.prod(w.outputs for w in self.windows[self.outer :])

    def clip(self, tap: tuple[int, ...], outputs: Sequence[slice]) -> list[slice]:
        """The outputs of a chunk along the outer axes, counted within it, for which an outer tap meets no padding."""
        found = []
        for w, r, part in zip(self.windows, tap, outputs, strict=False):
            span = w.span(r)
            start = max(span.start, part.start)
            found.append(slice(start - part.start, max(start, min(span.stop, part.stop)) - part.start))
        return found

    @property
    def inner_taps(self) -> int:
        """Taps that are gathered."""
        return math.prod(w.taps for w in self.windows[self.outer :])

    @property
    def strip(self) -> int:
        """Elements under the windows of one chunk."""
        return self.images * math.prod(
            (o - 1) * w.stride + w.reach + 1 for o, w in zip(self.outputs, self.windows, strict=True)
        )

    @property
    def gathered(self) -> int:
        """Gathered elements of one chunk."""
        rows = math.prod(o + w.reach for o, w in zip(self.outputs[: self.outer], self.windows, strict=False))
        return self.images * rows * math.prod(self.outputs[self.outer :]) * self.inner_taps

    @property
    def all_strips(self) -> int:
        """Elements under the windows of all chunks."""
        total = self.batch
        for length, w in zip(self.outputs, self.windows, strict=True):
            count = pieces(w.outputs, length)
            total *= w.stride * (w.outputs - count) + count * (w.reach + 1)
        return total

    @property
    def all_gathered(self) -> int:
        """Gathered elements of all chunks."""
        total = self.batch * self.inner_taps
        for place, (length, w) in enumerate(zip(self.outputs, self.windows, strict=True)):
            total *= w.outputs + (pieces(w.outputs, length) * w.reach if place < self.outer else 0)
        return total

    def boxes(self) -> Iterator[tuple[slice, tuple[slice, ...]]]:
        """The images and the outputs of each chunk."""
        for box in itertools.product(*map(slices, self.points, self.box)):
            yield (box[0], box[1:]) if self.images_first else (box[-1], box[:-1])


def images_first(case: Case) -> bool:
    """Whether the batch is the outermost of the points' axes in memory."""
    return case.layout is not Layout.CHWN


@dataclass(frozen=True, slots=True)
class Form:
    """How matrices of windows lie in memory: per group, channels of taps (rows) by points.

    Attributes:
        planar: rows outside and points inside, else the other way round.
        taps_first: the rows' order, (tap, channel) or (channel, tap).
        images_first: the points' order, (image, outputs…) or (outputs…, image).
        batch: so many of the points' axes count matrices, which are multiplied one by one.
    """

    planar: bool
    taps_first: bool
    images_first: bool
    batch: int = 0

    def order(self, ndim: int) -> tuple[int, ...]:
        """The axes of windows (n, g, c, taps…, points…) in memory order."""
        taps, spatial = range(3, 3 + ndim), range(3 + ndim, 3 + 2 * ndim)
        points = (0, *spatial) if self.images_first else (*spatial, 0)
        rows = (*taps, 2) if self.taps_first else (2, *taps)
        if self.planar:
            return (1, *points[: self.batch], *rows, *points[self.batch :])
        return (1, *points, *rows)
