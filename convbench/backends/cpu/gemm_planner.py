"""Sizes, chunks, work and memory of `gemm` and `mec`: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from convbench.backends.cpu.phases import MAX_PHASES, phase_count
from convbench.backends.cpu.windows import Chunked, Form, Window, channels, correlations, images_first, pieces
from convbench.problem import Case, ConvPass, Layout
from convbench.work import Phase, Work, epilogue_flops

GATHER_BYTES = 4 << 20
"""Target size of a chunk's gathered matrix and products: stays in a core's caches, long enough for a fast product."""
WGRAD_GATHER_BYTES = 8 << 20
"""The same for wgrad, whose product sums over the chunk and adds the whole of dw once per chunk, and for scattering."""
BLAS_BYTES = 4 << 20
"""Up to here all windows are gathered at once, and BLAS spreads the one product over its threads."""
FEW_CHANNELS = 4
"""Up to so many channels a group, nhwc is gathered plane by plane: runs of (filter width · channels) are too short."""
LEAST_PLANE = 128
"""Points of a plane from which 1×1 filters multiply it as it lies in nchw, one image after the other."""
LEAST_POINTS = 256
"""Outputs from which a 1×1 filter in nhwc is copied to lie along them."""
TURNED_POINTS = 1024
"""Outputs from which wgrad by planes sums dw transposed, (rows, filters), whose products are faster."""
COPY_FLOPS, SCATTER_FLOPS = 20, 40
"""Flops that a product executes in the time of gathering, and of scattering, one element; for choosing only."""


@dataclass(frozen=True)
class GemmPlanner:
    """Windows of the input, gathered chunk by chunk to a matrix (im2col) that is multiplied by the filter.

    dgrad gathers windows of dy, and multiplies by the reversed filter; where that would cost more in products than it
    saves in copies (few outputs, many taps) it multiplies dy, and scatters the products. 1×1 filters at stride 1
    without padding need neither: the tensor is the matrix. `threads` take the chunks in turn, each with buffers of its
    own; but BLAS gets the threads where the windows of all outputs are few.
    """

    case: Case
    threads: int = 1

    name = "gemm"

    @property
    def outer(self) -> int:
        """Leading axes whose taps are not gathered, but products of their own."""
        return 0

    @cached_property
    def scatters(self) -> bool:
        """Whether dgrad multiplies dy and scatters the products."""
        if self.case.conv_pass is not ConvPass.DGRAD or self.outer:
            return False
        if math.prod(map(phase_count, self.case.problem.axes)) > MAX_PHASES:
            return True
        if all(w.plain for part in correlations(self.case) for w in part):
            return False
        p = self.case.problem
        pairs = p.out_channels * (p.in_channels // p.groups)
        scattered = math.prod(p.output_size) * math.prod(p.filter_size)
        gathered = sum(math.prod(w.outputs * w.taps for w in part) for part in correlations(self.case))
        cost_of_scatter = scattered * (2 * pairs + SCATTER_FLOPS * p.in_channels)
        cost_of_gather = gathered * (2 * pairs + COPY_FLOPS * p.out_channels)
        return p.batch * cost_of_gather + COPY_FLOPS * math.prod(p.w_shape) > p.batch * cost_of_scatter

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Channels of a group in windows and in products; of a scatter those of dx and dy."""
        read, written = channels(self.case)
        return (written, read) if self.scatters else (read, written)

    @cached_property
    def correlations(self) -> tuple[tuple[Window, ...], ...]:
        """What is computed; of a scatter the one correlation whose transpose it is."""
        if self.scatters:
            return correlations(replace(self.case, conv_pass=ConvPass.FPROP))
        return correlations(self.case)

    @cached_property
    def turned(self) -> bool:
        """Whether nhwc is gathered plane by plane."""
        taps = math.prod(self.case.problem.filter_size)
        return self.case.layout is Layout.NHWC and self.channels[0] <= FEW_CHANNELS and taps > 1

    @cached_property
    def form(self) -> Form:
        """How the matrices lie, so that as many as possible are views of tensors."""
        layout, conv_pass = self.case.layout, self.case.conv_pass
        first = images_first(self.case)
        if self.outer:
            batch = self.outer - (not first)
        else:
            plain = all(w.plain for part in self.correlations for w in part)
            p = self.case.problem
            single = p.batch == 1 or math.prod(p.output_size) >= LEAST_PLANE
            batch = int(layout is Layout.NCHW and plain and single)
        reversed_rows = layout is Layout.CHWN and conv_pass is ConvPass.DGRAD and not self.scatters
        return Form(layout is not Layout.NHWC or self.turned, layout is Layout.NHWC or reversed_rows, first, batch)

    @cached_property
    def viewed(self) -> bool:
        """Whether the tensor, as it lies, is the matrix of windows."""
        plain = all(w.plain for part in self.correlations for w in part)
        return plain and (self.case.layout is not Layout.NCHW or self.form.batch > 0)

    @property
    def by_blocks(self) -> bool:
        """Whether nhwc, as it lies, is multiplied in blocks, which is faster on one thread of BLAS."""
        return self.viewed and self.case.layout is Layout.NHWC and not self.blas and not self.form.batch

    @cached_property
    def blas(self) -> bool:
        """Whether BLAS gets the threads: one product of few windows, or scattered ones of fewer images than threads."""
        if self.threads == 1:
            return False
        if self.scatters:
            return not self.form.images_first or self.case.problem.batch < self.threads
        whole = self._cut(1, 1)
        single = all(math.prod(part.points[: self.form.batch]) == 1 for part in whole)
        return single and sum(part.all_gathered for part in whole) * self._group_bytes <= BLAS_BYTES

    @property
    def algorithm(self) -> str:
        """The resolved name: "-blas" where BLAS gets the threads."""
        return self.name + ("-blas" if self.blas else "")

    @property
    def _group_bytes(self) -> int:
        """Bytes of one element of all channels that windows hold."""
        return self.channels[0] * self.case.problem.groups * self.case.dtype.itemsize

    def _cut(self, budget: int, threads: int) -> tuple[Chunked, ...]:
        batch = self.case.problem.batch
        return tuple(
            Chunked(part, batch, self.form.images_first, budget, threads, self.outer) for part in self.correlations
        )

    @cached_property
    def parts(self) -> tuple[Chunked, ...]:
        """The correlations, cut into chunks."""
        p = self.case.problem
        target = WGRAD_GATHER_BYTES if self.case.conv_pass is ConvPass.WGRAD or self.scatters else GATHER_BYTES
        if self.outer:
            target //= 2  # rows are shared by its taps
        if self.blas and not self.scatters:
            target = max(target, 4 * BLAS_BYTES)
        if self.viewed:  # nothing is held of it
            return self._cut(max(1, p.batch * math.prod(map(max, p.input_size, p.output_size))), self._spread)
        taps = max((part.inner_taps for part in self._cut(1, 1)), default=1)
        per_point = p.groups * (self.channels[0] * taps + self.channels[1])
        return self._cut(max(1, target // (per_point * self.case.dtype.itemsize)), self._spread)

    @property
    def _spread(self) -> int:
        return 1 if self.blas else self.threads

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return sum(part.chunks for part in self.parts)

    @property
    def workers(self) -> int:
        """Threads of ours that get a chunk, at least one; chunks of an image scatter to the same elements of dx."""
        (first, *_) = self.parts or (None,)
        shares = self.chunks
        if self.scatters and first is not None and self._spread > 1:
            shares = pieces(first.batch, first.images)
        return max(1, min(self._spread, shares))

    @property
    def strips(self) -> bool:
        """Whether what lies under the windows is copied first: with zeros around it, or plane by plane."""
        return self.turned or self.split or any(part.padded for part in self.parts)

    @cached_property
    def split(self) -> bool:
        """Whether few channels at a stride along rows are gathered residue by residue, which makes runs of them."""
        if self.channels[0] > FEW_CHANNELS or not (self.form.planar and self.form.images_first) or self.scatters:
            return False
        return any(part[-1].stride > 1 and part[-1].dilation == 1 and part[-1].taps > 1 for part in self.correlations)

    def residues(self, part: Chunked) -> list[tuple[slice, slice, Chunked]]:
        """Taps along the last axis, the elements of it that they read, and their correlation; all, or by residue."""
        if not self.split:
            return [(slice(None), slice(None), part)]
        *others, last = part.windows
        return [(taps, read, replace(part, windows=(*others, window))) for taps, read, window in last.residues()]

    def direct(self, part: Chunked) -> bool:
        """Whether products are written to the tensor as they come; in wgrad, whether dy is read as it lies."""
        return part.whole and (self.case.layout is not Layout.NCHW or self.form.batch > 0 or part.images == 1)

    @cached_property
    def arranged(self) -> bool:
        """Whether the filter, or its gradient, has to be copied to be matrices."""
        if self.case.conv_pass is ConvPass.DGRAD and not self.scatters:
            return math.prod(self.case.problem.filter_size) > 1
        p = self.case.problem
        if self.by_blocks and self.case.conv_pass is ConvPass.FPROP:  # to lie along the outputs
            return p.batch * math.prod(p.output_size) >= LEAST_POINTS
        turned = self.case.conv_pass is ConvPass.WGRAD and self.form.planar and self.case.layout is not Layout.CHWN
        if turned and p.batch * math.prod(p.output_size) >= TURNED_POINTS:
            return True
        return self.case.layout is not Layout.NHWC and math.prod(p.filter_size[: self.outer]) > 1

    @property
    def rows_first(self) -> bool:
        """Whether an arranged filter lies as (rows, written), as is copied or multiplied fastest."""
        if self.case.conv_pass is ConvPass.WGRAD:
            return self.form.planar
        return self.by_blocks or (self.case.layout, self.case.conv_pass) in {
            (Layout.NHWC, ConvPass.DGRAD),
            (Layout.CHWN, ConvPass.FPROP),
        }

    @property
    def filters(self) -> int:
        """Elements of the filter that some output reads."""
        read, written = self.channels
        taps = sum(math.prod(w.taps for w in part) for part in self.correlations)
        return self.case.problem.groups * read * written * taps

    def _largest(self, sizes: list[int]) -> int:
        return self.case.problem.groups * max(sizes, default=0)

    @property
    def buffers(self) -> tuple[int, int, int, int]:
        """Elements of a worker's strip, gathered windows, products to copy (or dy copied), and products to add."""
        read, written = self.channels
        parts = self.parts
        points = [math.prod(part.box) * written for part in parts]
        under = [residue.strip * read for part in parts for _, _, residue in self.residues(part)]
        strip = self._largest(under) if self.strips else 0
        gathered = 0 if self.viewed else self._largest([part.gathered * read for part in parts])
        copied = self._largest([size for size, part in zip(points, parts, strict=True) if not self.direct(part)])
        added = 0
        if self.case.conv_pass is ConvPass.WGRAD:
            added = self.filters // max(1, *(len(part.outer_taps) for part in parts))
        elif any(len(part.outer_taps) > 1 for part in parts):
            added = self._largest(points)
        return strip, gathered, copied, added

    @property
    def kept_filters(self) -> int:
        """Elements of arranged filters; in wgrad of the workers' sums, of which the first's may be dw itself."""
        if self.case.conv_pass is ConvPass.WGRAD:
            return self.filters * (self.workers - (not self.arranged))
        return self.filters if self.arranged else 0

    @property
    def transient_bytes(self) -> int:
        """Nothing: all buffers are kept."""
        return 0

    @property
    def workspace_bytes(self) -> int:
        """Arranged filters, and the buffers of each worker."""
        return (self.kept_filters + self.workers * sum(self.buffers)) * self.case.dtype.itemsize

    def work(self) -> Work:
        """Gather, product and (dgrad, where it scatters) scatter."""
        phases = [] if self.scatters else [self._gather()]
        phases.append(self._product())
        if self.scatters:
            phases.append(self._scatter())
        return Work(tuple(phase for phase in phases if phase.traffic_bytes or phase.name == "product"))

    def _gather(self) -> Phase:
        """Copies of windows, of the filter where it has to be arranged, and of products or dy that are not views."""
        read, written = self.channels
        groups, batch = self.case.problem.groups, self.case.problem.batch
        elements, launches = 0, 0
        for part in self.parts:
            points = batch * math.prod(w.outputs for w in part.windows)
            copies = 0
            for _, _, residue in self.residues(part) if self.strips else ():
                elements, copies = elements + groups * read * residue.all_strips, copies + 1 + 2 * len(part.windows)
            if not self.viewed:
                elements, copies = elements + groups * read * part.all_gathered, copies + 1
            if not self.direct(part):
                elements, copies = elements + groups * written * points, copies + 1
            launches += copies * part.chunks
        if self.arranged:
            elements, launches = elements + self.filters, launches + len(self.parts)
        size = elements * self.case.dtype.itemsize
        return Phase(name="gather", flops=0, bytes_read=size, bytes_written=size, footprint_bytes=self.workspace_bytes,
                     launches=max(1, launches))  # fmt: skip

    def _product(self) -> Phase:
        """One product per chunk and outer tap; mec and wgrad add them up."""
        read, written = self.channels
        groups, wgrad = self.case.problem.groups, self.case.conv_pass is ConvPass.WGRAD
        flops = inward = outward = launches = 0
        for part in self.parts:
            points = groups * part.outer_points
            rows, outer = read * part.inner_taps, len(part.outer_taps)
            flops += 2 * points * rows * written
            filters = groups * rows * written * outer * self.products(part)
            if wgrad:
                sums, results = max(0, filters - self.filters), filters
                operands = points * (rows + written)
            else:
                sums, results = groups * part.added_points * written, points * written
                operands = points * rows + filters
            if self.scatters:
                operands, results = points * written + filters, points * rows
            flops += sums
            inward += operands + 2 * sums
            outward += results + sums
            launches += max(1, part.chunks) * outer
        size = self.case.dtype.itemsize
        footprint = self.workspace_bytes + self.filters * size
        return Phase(name="product", flops=flops + epilogue_flops(self.case), bytes_read=inward * size,
                     bytes_written=outward * size, footprint_bytes=footprint, launches=max(1, launches))  # fmt: skip

    def products(self, part: Chunked) -> int:
        """Matrix products per group and outer tap: one per chunk, and per element of the axes that count matrices."""
        if not self.form.batch:
            return part.chunks
        batch = self.form.batch
        return math.prod(part.points[:batch]) * math.prod(map(pieces, part.points[batch:], part.box[batch:]))

    def _scatter(self) -> Phase:
        """Products added to the strip under a chunk, tap by tap, and strips to dx."""
        (part,) = self.parts
        c, size = self.case.problem.in_channels, self.case.dtype.itemsize
        gathered, strips = c * part.all_gathered, c * part.all_strips if self.strips else 0
        copied = 0 if self.direct(part) else part.batch * math.prod(self.case.problem.y_shape[1:])
        taps = part.inner_taps
        return Phase(name="scatter", flops=gathered + strips, footprint_bytes=self.workspace_bytes,
                     bytes_read=(2 * gathered + 2 * strips + copied) * size,
                     bytes_written=(gathered + 2 * strips + copied) * size,
                     launches=max(1, part.chunks * (taps + 2 * self.strips)))  # fmt: skip


class MecPlanner(GemmPlanner):
    """Windows gathered along the last axis only; the taps of the others are products with shifted rows, added up.

    Source: Cho and Brand, "MEC: Memory-efficient Convolution for Deep Neural Network", 2017 (arXiv 1706.06873).
    """

    name = "mec"

    @property
    def outer(self) -> int:
        """All axes but the last."""
        return self.case.problem.ndim - 1


def mec_reason(case: Case) -> str | None:
    """Why `mec` cannot do the case, or None if it can."""
    p = case.problem
    if any(stride > 1 for stride in p.stride[:-1]):
        return f"mec is for stride 1 along all axes but the last, not {'×'.join(map(str, p.stride))}"
    taps = math.prod(p.filter_size[:-1])
    if taps == 1:
        return f"with one tap along all axes but the last ({'×'.join(map(str, p.filter_size))}) mec is gemm"
    for what, count in (("taps of other axes", taps), ("phases of a row", phase_count(p.axes[-1]))):
        if count > MAX_PHASES:
            return f"mec is for up to {MAX_PHASES} {what}, not {count}"
    return None
