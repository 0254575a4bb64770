"""Windows of a tensor: seen over it or over a padded copy of a part, and gathered chunk by chunk to matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convbench.operands import index
from convbench.problem import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from convbench.backends.cpu.windows import Chunked, Form

Counts = tuple[int, ...]
"""Images and outputs per axis of a chunk."""


class Windows:
    """The windows of one correlation over a tensor (n, G, channels, spatial…), as views (n, g, c, taps…, points…).

    With a flat buffer `strip` they lie over a copy, in `layout`, of what a chunk reads, with zeros where that is
    outside the tensor; without one they lie over the tensor. `longer` lets the last axis have as many points as the
    strip has elements, of which the last `reach` are of no use, so that rows of points follow each other as rows of the
    strip do; the buffer then needs room for `reach` more elements per image.
    """

    def __init__(
        self,
        source: NDArray[Any],
        chunked: Chunked,
        layout: Layout,
        strip: NDArray[Any] | None,
        longer: bool = False,
    ) -> None:
        self.source, self.chunked, self.strip, self.longer = source, chunked, strip, longer
        self._order = block_order(layout, source.ndim - 3)
        self._seen: dict[Counts, tuple[NDArray[Any], NDArray[Any]]] = {}
        if strip is None:
            first = source[index(..., *(slice(-w.before, None) for w in chunked.windows))]  # nothing lies before it
            self._all = self._view(first, [w.outputs for w in chunked.windows])

    def at(self, n: slice, outputs: Sequence[slice]) -> NDArray[Any]:
        """The windows of a chunk; the next call overwrites their strip."""
        windows = self.chunked.windows
        if self.strip is None:
            rows = [
                slice(part.start, part.stop + (w.reach if axis < self.chunked.outer else 0))
                for axis, (part, w) in enumerate(zip(outputs, windows, strict=True))
            ]
            seen: NDArray[Any] = self._all[index(n, ..., *rows)]
            return seen
        block, view = self.over_strip(n, outputs)
        spatial = [w.under(part) for w, part in zip(windows, outputs, strict=True)]
        for axis, (size, inside, _) in enumerate(spatial, 3):
            before = (slice(None),) * axis
            if inside.start > 0:
                block[(*before, slice(0, inside.start))] = 0
            if inside.stop < size:
                block[(*before, slice(inside.stop, size))] = 0
        block[index(..., *(i for _, i, _ in spatial))] = self.source[index(n, ..., *(there for *_, there in spatial))]
        return view

    def over_strip(self, n: slice, outputs: Sequence[slice]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The strip under a chunk (n, G, channels, spatial…), and the windows over it, whatever it holds."""
        counts = counts_of(n, outputs)
        if counts not in self._seen:
            assert self.strip is not None
            sizes = [w.under(part)[0] for w, part in zip(self.chunked.windows, outputs, strict=True)]
            shape = (counts[0], *self.source.shape[1:3], *sizes)
            stored = self.strip[: math.prod(shape)].reshape([shape[axis] for axis in self._order])
            block = stored.transpose(np.argsort(self._order))
            self._seen[counts] = block, self._view(block, counts[1:])
        return self._seen[counts]

    def extents(self, counts: Sequence[int]) -> list[int]:
        """Points per axis of a view on so many outputs: along outer axes the rows that their taps reach."""
        windows = self.chunked.windows
        found = [
            count + (w.reach if a < self.chunked.outer else 0)
            for a, (count, w) in enumerate(zip(counts, windows, strict=True))
        ]
        if self.longer:
            found[-1] += windows[-1].reach
        return found

    @property
    def taps(self) -> list[int]:
        """Taps per axis of a view."""
        return [1 if axis < self.chunked.outer else w.taps for axis, w in enumerate(self.chunked.windows)]

    def _view(self, under: NDArray[Any], counts: Sequence[int]) -> NDArray[Any]:
        steps, windows = under.strides[3:], self.chunked.windows
        return as_strided(
            under,
            (*under.shape[:3], *self.taps, *self.extents(counts)),
            (
                *under.strides[:3],
                *(step * w.dilation for step, w in zip(steps, windows, strict=True)),
                *(step * w.stride for step, w in zip(steps, windows, strict=True)),
            ),
            writeable=False,
        )


class Gather:
    """The windows of one correlation, as matrices (G, batch…, rows, points) whose rows are the channels of each tap.

    They are copied to a flat `buffer`; without one the tensor, as it lies, is the matrix. `residues` are taps along the
    last axis, each with the windows that they are copied from, where these are not `windows` for all of them.
    """

    def __init__(
        self,
        windows: Windows,
        form: Form,
        buffer: NDArray[Any] | None,
        residues: Sequence[tuple[slice, Windows]] = (),
    ) -> None:
        self.windows, self.form, self.buffer = windows, form, buffer
        self._residues = residues or [(slice(None), windows)]
        self._made: dict[Counts, tuple[NDArray[Any], list[NDArray[Any]]]] = {}

    def matrices(self, n: slice, outputs: Sequence[slice]) -> list[NDArray[Any]]:
        """The matrix of each outer tap for a chunk; the next call overwrites them."""
        if self.buffer is None:
            return [as_matrix(self.windows.source[index(n, ..., *outputs)], self.form)]
        stored, matrices = self.places(n, outputs)
        for taps, windows in self._residues:
            part = (*[slice(None)] * (2 + len(outputs)), taps)  # (n, g, c, taps…, points…)
            np.copyto(stored[part], windows.at(n, outputs))
        return matrices

    def places(self, n: slice, outputs: Sequence[slice]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Where the windows of a chunk go, (n, g, c, taps…, points…), and the matrices there."""
        counts = counts_of(n, outputs)
        if counts not in self._made:
            self._made[counts] = self._make(*counts)
        return self._made[counts]

    def _make(self, n: int, *counts: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        chunked, order = self.windows.chunked, self.form.order(len(counts))
        shape = (n, *self.windows.source.shape[1:3], *self.windows.taps, *self.windows.extents(counts))
        assert self.buffer is not None
        flat = self.buffer[: math.prod(shape)].reshape([shape[axis] for axis in order])
        stored = flat.transpose(np.argsort(order))
        matrices = []
        for tap in chunked.outer_taps:
            rows = [
                slice(r * w.dilation, r * w.dilation + c)
                for r, w, c in zip(tap, chunked.windows, counts, strict=False)
            ]  # fmt: skip
            part = stored[index(..., *rows, *[slice(None)] * (len(counts) - chunked.outer))]
            matrices.append(_matrix(part.transpose(order), self.form, shape[2] * chunked.inner_taps))
        return stored, matrices


def block_order(layout: Layout, ndim: int) -> tuple[int, ...]:
    """The axes of a block (n, G, channels, spatial…) in memory order."""
    spatial = range(3, 3 + ndim)
    return {
        Layout.NCHW: (0, 1, 2, *spatial),
        Layout.NHWC: (0, *spatial, 1, 2),
        Layout.CHWN: (1, 2, *spatial, 0),
    }[layout]


def counts_of(n: slice, outputs: Sequence[slice]) -> Counts:
    """Images and outputs per axis of a chunk."""
    return tuple(part.stop - part.start for part in (n, *outputs))


def _matrix(stored: NDArray[Any], form: Form, rows: int) -> NDArray[Any]:
    """A view (G, batch…, rows, points) of gathered windows in their order in memory."""
    lead = stored.shape[: 1 + form.batch]
    points = math.prod(stored.shape) // max(1, math.prod(lead) * rows)
    if form.planar:
        return np.reshape(stored, (*lead, rows, points), copy=False)
    return np.reshape(stored, (*lead, points, rows), copy=False).swapaxes(-1, -2)


def points_last(block: NDArray[Any], form: Form) -> NDArray[Any]:
    """(n, G, channels, spatial…) as (G, batch…, channels, points…), the points in memory order."""
    ndim = block.ndim - 3
    points = [0, *range(3, 3 + ndim)] if form.images_first else [*range(3, 3 + ndim), 0]
    return block.transpose(1, *points[: form.batch], 2, *points[form.batch :])


def matrix_shape(block: NDArray[Any], form: Form) -> tuple[int, ...]:
    """(G, batch…, channels, points) of a block (G, batch…, channels, points…)."""
    lead = block.shape[: 2 + form.batch]
    return (*lead, math.prod(block.shape[len(lead) :]))


def as_matrix(block: NDArray[Any], form: Form) -> NDArray[Any]:
    """A view (G, batch…, channels, points) of a block (n, G, channels, spatial…) that has one."""
    moved = points_last(block, form)
    return np.reshape(moved, matrix_shape(moved, form), copy=False)
