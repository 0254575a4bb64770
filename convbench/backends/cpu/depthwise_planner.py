"""Sizes, chunks, work and memory of `depthwise`: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from convbench.backends.cpu.phases import MAX_PHASES, phase_count
from convbench.backends.cpu.windows import Chunked, channels, correlations, images_first, pieces
from convbench.problem import Case, ConvPass, Layout
from convbench.work import Phase, Work, epilogue_flops

CHUNK_BYTES = 4 << 20
"""Target size of what a chunk reads and writes: long enough for its calls not to count."""


def reason(case: Case) -> str | None:
    """Why `depthwise` cannot do the case, or None if it can."""
    p = case.problem
    if p.groups == 1 or p.groups != p.in_channels:
        return f"depthwise is for as many groups as input channels, not {p.groups} of {p.in_channels}"
    phases = math.prod(map(phase_count, p.axes))
    if case.conv_pass is ConvPass.DGRAD and phases > MAX_PHASES:
        return f"the stride splits a plane into {phases} phases, more than {MAX_PHASES}"
    return None


@dataclass(frozen=True)
class DepthwisePlanner:
    """One sum of products (einsum) per chunk, over windows that are seen and not gathered.

    In nhwc it runs along rows of (outputs, channels), for which the filter is repeated for each output of a row, or at
    a stride along the channels. In nchw and chwn it runs along the planes, whose rows are made as long as those of the
    padded input (`longer`), so that many rows are one run; what lies between them is left out of the result.
    """

    case: Case
    threads: int = 1

    @cached_property
    def nhwc(self) -> bool:
        """Whether channels are innermost."""
        return self.case.layout is Layout.NHWC

    @cached_property
    def merged(self) -> bool:
        """Whether (outputs of a row, channels) are one run."""
        p = self.case.problem
        return (
            self.nhwc
            and p.in_channels == p.out_channels
            and all(part[-1].stride == 1 for part in correlations(self.case))
        )

    @cached_property
    def longer(self) -> bool:
        """Whether rows are made longer; at a stride they would not follow each other."""
        return (
            not self.nhwc
            and self.case.problem.ndim > 1
            and all(w.stride == 1 for part in correlations(self.case) for w in part[-2:])
        )

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Channels of a group that windows hold, and that products have."""
        return channels(self.case)

    @cached_property
    def parts(self) -> tuple[Chunked, ...]:
        """The correlations, cut into chunks."""
        p = self.case.problem
        per_point = p.groups * sum(self.channels) * self.case.dtype.itemsize
        return tuple(
            Chunked(part, p.batch, images_first(self.case), max(1, CHUNK_BYTES // per_point), self.threads)
            for part in correlations(self.case)
        )

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return sum(part.chunks for part in self.parts)

    @property
    def workers(self) -> int:
        """Threads that get a chunk, at least one."""
        return max(1, min(self.threads, self.chunks))

    @cached_property
    def strips(self) -> bool:
        """Whether what a chunk reads is copied first, with zeros around it."""
        return self.longer or any(part.padded for part in self.parts)

    def direct(self, part: Chunked) -> bool:
        """Whether sums are written to the tensor as they come; in wgrad, whether dy is read as it lies."""
        return part.whole and not self.longer

    def reach(self, part: Chunked) -> int:
        """By how much rows are longer."""
        return part.windows[-1].reach if self.longer else 0

    def points(self, part: Chunked) -> int:
        """Points of one chunk, with those between rows."""
        *rows, last = part.outputs
        return part.images * math.prod(rows) * (last + self.reach(part))

    def all_points(self, part: Chunked) -> int:
        """Points of all chunks, with those between rows."""
        *rows, last = part.windows
        count = -(-last.outputs // part.outputs[-1])
        return part.batch * math.prod(w.outputs for w in rows) * (last.outputs + count * self.reach(part))

    @property
    def tile(self) -> int:
        """Outputs for which the filter is repeated."""
        return max((part.outputs[-1] for part in self.parts), default=1) if self.merged else 1

    @property
    def filter(self) -> int:
        """Elements of the filter."""
        return math.prod(self.case.problem.w_shape)

    @property
    def buffers(self) -> tuple[int, int]:
        """Elements of a worker's strip, and of results (in wgrad of dy) that do not lie as in the tensor."""
        groups, (read, written) = self.case.problem.groups, self.channels
        strip = held = 0
        for part in self.parts:
            if self.strips:
                strip = max(strip, groups * read * (part.strip + part.images * self.reach(part)))
            if not self.direct(part):
                held = max(held, groups * written * self.points(part))
        return strip, held

    @property
    def sums(self) -> tuple[int, int]:
        """Elements of wgrad's sums over one chunk, for each output of a row first, and over a worker's chunks."""
        if self.case.conv_pass is not ConvPass.WGRAD:
            return 0, 0
        return self.filter * (self.tile + self.merged), self.filter

    @property
    def filters(self) -> int:
        """Elements of the repeated filter of all correlations."""
        return self.filter * self.tile if self.nhwc and self.case.conv_pass is not ConvPass.WGRAD else 0

    @property
    def transient_bytes(self) -> int:
        """Nothing: all buffers are kept."""
        return 0

    @property
    def workspace_bytes(self) -> int:
        """Repeated filters, and the buffers of each worker."""
        return (self.filters + self.workers * (sum(self.buffers) + sum(self.sums))) * self.case.dtype.itemsize

    def _additions(self) -> int:
        """Of wgrad: sums over the outputs of a row, and of chunks."""
        if self.case.conv_pass is not ConvPass.WGRAD or not self.chunks:
            return 0
        (part,) = self.parts
        last = part.windows[-1].outputs
        rows = self.chunks // pieces(last, part.outputs[-1]) * last - self.chunks if self.merged else 0
        return self.filter * (rows + self.chunks - 1)

    def work(self) -> Work:
        """Copies of strips, of results that are not written as they come, and of the filter; products and sums."""
        groups, (read, written), size = self.case.problem.groups, self.channels, self.case.dtype.itemsize
        wgrad = self.case.conv_pass is ConvPass.WGRAD
        copied, products, points, launches = self.filters, 0, 0, 0
        for part in self.parts:
            outputs = part.batch * math.prod(w.outputs for w in part.windows)
            if self.strips:
                copied += groups * read * part.all_strips
                launches += part.chunks * (2 * len(part.windows) + 1)
            if not self.direct(part):
                copied += groups * written * outputs
                launches += part.chunks
            taps = math.prod(w.taps for w in part.windows)
            products += groups * read * written * taps * self.all_points(part)
            points += groups * written * self.all_points(part)
        added = self._additions()
        sums = self.chunks * self.sums[0]
        footprint = self.workspace_bytes
        copy = Phase(name="copy", flops=0, bytes_read=copied * size, bytes_written=copied * size,
                     footprint_bytes=footprint, launches=max(1, launches))  # fmt: skip
        product = Phase(name="product", flops=2 * products + added + epilogue_flops(self.case),
                        bytes_read=(products + (points + added if wgrad else self.filter * self.chunks)) * size,
                        bytes_written=(sums if wgrad else points) * size, footprint_bytes=footprint,
                        launches=max(1, self.chunks))  # fmt: skip
        return Work((copy, product) if copied else (product,))
