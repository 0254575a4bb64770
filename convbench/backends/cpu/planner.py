"""Sizes, chunks, work and memory of the CPU algorithms: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from convbench.backends.cpu.phases import AxisPhase, axis_phases, cyclic_length
from convbench.backends.cpu.windows import pieces
from convbench.problem import Case, ConvPass, Epilogue, Problem
from convbench.work import COMPLEX_MULTIPLY_ADD_FLOPS, Phase, Work, axis_hits, epilogue_flops, real_fft_flops

FFT_BYTES = 512 << 20
"""Largest workspace of the FFT, which holds whole planes and, where they fit, all filter spectra."""


@dataclass(frozen=True)
class DirectPlanner:
    """Tap by tap over one image at a time: each product of a tap is one small matrix product."""

    case: Case

    @cached_property
    def plane(self) -> int:
        """Outputs of one image and channel."""
        return math.prod(self.case.problem.output_size)

    @property
    def transient_bytes(self) -> int:
        """All of the workspace: nothing is kept between taps."""
        return self.workspace_bytes

    @property
    def workspace_bytes(self) -> int:
        """The gathered operand and the product of one tap and image."""
        p = self.case.problem
        products = p.w_shape[0] * p.w_shape[1] if self.case.conv_pass is ConvPass.WGRAD else 0
        return ((p.in_channels + p.out_channels) * self.plane + products) * self.case.dtype.itemsize

    def work(self) -> Work:
        """Gather, product and accumulation, without the taps that meet padding."""
        p, size = self.case.problem, self.case.dtype.itemsize
        hits = p.batch * math.prod(map(axis_hits, p.axes))
        taps = math.prod(p.filter_size)
        launches = p.batch * taps
        inner, outer = {
            ConvPass.FPROP: (p.in_channels, p.out_channels),
            ConvPass.DGRAD: (p.out_channels, p.in_channels),
            ConvPass.WGRAD: (p.in_channels + p.out_channels, 0),
        }[self.case.conv_pass]
        filters = p.out_channels * p.w_shape[1]
        result = outer * hits or launches * filters
        gathered = inner * hits * size
        weights = 0 if self.case.conv_pass is ConvPass.WGRAD else launches * filters * size
        footprint = self.workspace_bytes
        flops = 2 * p.out_channels * p.w_shape[1] * hits
        phases = [
            Phase(name="gather", flops=0, bytes_read=gathered, bytes_written=gathered,
                  footprint_bytes=2 * footprint, launches=launches),
            Phase(name="product", flops=flops, bytes_read=gathered + weights, bytes_written=result * size,
                  footprint_bytes=footprint + filters * size, launches=launches),
            Phase(name="accumulate", flops=result, bytes_read=2 * result * size, bytes_written=result * size,
                  footprint_bytes=2 * footprint, launches=launches),
            *epilogue_phases(self.case),
        ]  # fmt: skip
        return Work(tuple(phases))


def epilogue_phases(case: Case) -> list[Phase]:
    """The epilogue as its own pass over y, where it is not applied to a chunk on its way out."""
    if case.epilogue is Epilogue.NONE:
        return []
    size = math.prod(case.output_shape) * case.dtype.itemsize
    passes = 2 if case.epilogue is Epilogue.BIAS_RELU else 1
    return [Phase(name="epilogue", flops=epilogue_flops(case), bytes_read=passes * size, bytes_written=passes * size,
                  footprint_bytes=size, launches=passes)]  # fmt: skip


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


@dataclass(frozen=True)
class FftPlanner:
    """Real transforms of whole planes, one product per frequency, and the inverse.

    In each pass out(i, j) = Σ_l A(i, l)·B(l, j), with i, j, l the roles of batch, input and output channels:
    fprop Y(n, k) = Σ_c X(n, c)·W*(c, k); dgrad DX(n, c) = Σ_k DY(n, k)·W(k, c); wgrad DW(k, c) = Σ_n DY*(k, n)·X(n, c).
    Strides are decomposed into phases, which act as more input channels. Source: Mathieu, Henaff and LeCun, "Fast
    Training of Convolutional Networks through FFTs", 2013 (arXiv 1312.5851).
    """

    case: Case

    @property
    def problem(self) -> Problem:
        """The case's problem."""
        return self.case.problem

    @cached_property
    def phases(self) -> tuple[tuple[AxisPhase, ...], ...]:
        """Phases per axis."""
        return tuple(axis_phases(axis) for axis in self.problem.axes)

    @cached_property
    def fft_size(self) -> tuple[int, ...]:
        """Transform length per axis."""
        return tuple(next_fast_length(cyclic_length(axis)) for axis in self.problem.axes)

    @property
    def rows(self) -> tuple[int, int, int]:
        """Places on the first axis that hold something of the first operand, of the second and of the result."""
        axis = self.problem.axes[0]
        x, y, w = max(phase.high for phase in self.phases[0]), axis.output, axis.reach // axis.stride + 1
        return {ConvPass.FPROP: (x, w, y), ConvPass.DGRAD: (y, w, x), ConvPass.WGRAD: (y, x, w)}[self.case.conv_pass]

    @property
    def fft_points(self) -> int:
        """Points of one transform."""
        return math.prod(self.fft_size)

    @property
    def half_size(self) -> tuple[int, ...]:
        """Stored bins of one half spectrum per axis."""
        return (*self.fft_size[:-1], self.fft_size[-1] // 2 + 1)

    @property
    def bins(self) -> int:
        """Stored bins of one half spectrum."""
        return math.prod(self.half_size)

    @cached_property
    def roles(self) -> tuple[int, int, int]:
        """Extents of i, j and l within a group; input channels count once per phase."""
        p = self.problem
        c = p.in_channels // p.groups * math.prod(map(len, self.phases))
        k = p.out_channels // p.groups
        return {ConvPass.FPROP: (p.batch, k, c), ConvPass.DGRAD: (p.batch, c, k), ConvPass.WGRAD: (k, c, p.batch)}[
            self.case.conv_pass
        ]

    @cached_property
    def chunk(self) -> tuple[int, int, int, int]:
        """Chunk extents (g, i, j, l) within FFT_BYTES.

        Groups are cut first, which costs nothing; then the batch, down to 8 images, which costs nothing as long as the
        filter spectra are kept; then channels, at the price of transforming the other operand again.
        Input channels are cut in whole channels, each with all its phases.
        """
        i, j, k = self.roles
        sizes = {"g": self.problem.groups, "i": i, "j": j, "l": k}
        batch = "l" if self.case.conv_pass is ConvPass.WGRAD else "i"
        unit = dict.fromkeys(sizes, 1)
        unit["l" if self.case.conv_pass is ConvPass.FPROP else "j"] = math.prod(map(len, self.phases))
        sizes = {name: max(size, unit[name]) for name, size in sizes.items()}

        def halve(name: str) -> None:
            units = sizes[name] // unit[name]
            sizes[name] = -(-units // 2) * unit[name]

        def bytes_now() -> int:
            return self._workspace(sizes["g"], sizes["i"], sizes["j"], sizes["l"])

        while bytes_now() > FFT_BYTES:
            channels = [name for name in "ijl" if name != batch and sizes[name] > unit[name]]
            if sizes["g"] > 1:
                halve("g")
            elif sizes[batch] > 8 or (sizes[batch] > 1 and not channels):
                halve(batch)
            elif channels:
                halve(max(channels, key=lambda name: sizes[name]))
            else:
                break
        return sizes["g"], sizes["i"], sizes["j"], sizes["l"]

    def _workspace(self, g: int, i: int, j: int, k: int) -> int:
        """Bytes of real buffers and spectra of both operands, products, and the most that a transform makes besides."""
        real, spectrum = self.case.dtype.itemsize * self.fft_points, 2 * self.case.dtype.itemsize * self.bins
        first, second = g * i * k, g * k * j
        products = g * i * j * (1 if k >= self.roles[2] else 2) * spectrum
        if self.problem.ndim == 1:
            most = g * i * j * real
        else:  # what is transformed along the other axes, before it is along the first, or back after it
            made = first * spectrum, second * spectrum, g * i * j * (real + (self.problem.ndim - 2) * spectrum)
            most = max(rows * size // self.fft_size[0] for rows, size in zip(self.rows, made, strict=True))
        # Twiddle factors and scratch of a transform along one axis, measured (benchmarks/memory.py).
        scratch = 16 * self.case.dtype.itemsize * max(self.fft_size)
        return (first + second) * (real + spectrum) + products + most + scratch

    @property
    def transient_bytes(self) -> int:
        """All but the real buffers of both operands, and the products."""
        g, i, j, k = self.chunk
        real = g * (i * k + k * j) * self.case.dtype.itemsize * self.fft_points
        return self.workspace_bytes - real - self.products * g * i * j * 2 * self.case.dtype.itemsize * self.bins

    @property
    def products(self) -> int:
        """Buffers for products of spectra: where l is cut one for their running sum besides."""
        return 1 if self.chunk[3] >= self.roles[2] else 2

    @property
    def workspace_bytes(self) -> int:
        """Largest bytes in use at once by one chunk."""
        return self._workspace(*self.chunk)

    def work(self) -> Work:
        """Transforms of both operands, product, inverse; operands cut in channels are transformed more than once."""
        p, size = self.problem, self.case.dtype.itemsize
        i, j, k = self.roles
        g_size, i_size, j_size, l_size = self.chunk
        i_pieces, j_pieces, l_pieces = pieces(i, i_size), pieces(j, j_size), pieces(k, l_size)
        calls = pieces(p.groups, g_size)
        # The loops are j, i, l, outermost first, and keep the last chunk of each operand.
        a_times = 1 if i_pieces * l_pieces == 1 else j_pieces
        b_times = 1 if l_pieces == 1 else i_pieces
        real, spectrum = size * self.fft_points, 2 * size * self.bins
        transform = real_fft_flops(self.fft_points)
        footprint = self.workspace_bytes
        products = p.groups * i * j * k
        a, b, out = p.groups * i * k * a_times, p.groups * k * j * b_times, p.groups * i * j
        if p.batch == 0:  # nothing is transformed; wgrad writes zeros
            a = b = out = 0

        def transforms(name: str, count: int, launches: int, extra_flops: int = 0) -> Phase:
            return Phase(name=name, flops=count * transform + extra_flops, bytes_read=count * (real + spectrum),
                         bytes_written=count * (real + spectrum), footprint_bytes=footprint,
                         launches=launches)  # fmt: skip

        names = {ConvPass.FPROP: ("x", "w", "y"), ConvPass.DGRAD: ("dy", "w", "dx"), ConvPass.WGRAD: ("dy", "x", "dw")}
        first, second, result = names[self.case.conv_pass]
        product_calls = calls * i_pieces * j_pieces * l_pieces
        sums = p.groups * i * j * max(0, l_pieces - 1)
        return Work((
            transforms(f"transform {first}", a, calls * i_pieces * l_pieces * a_times),
            transforms(f"transform {second}", b, calls * j_pieces * l_pieces * b_times),
            Phase(name="product", flops=COMPLEX_MULTIPLY_ADD_FLOPS * products * self.bins + 2 * sums * self.bins,
                  bytes_read=(p.groups * (i * k * j_pieces + k * j * i_pieces) + 2 * sums) * spectrum,
                  bytes_written=(out * l_pieces + sums) * spectrum, footprint_bytes=footprint,
                  launches=product_calls),
            transforms(f"inverse {result}", out, calls * i_pieces * j_pieces, epilogue_flops(self.case)),
        ))  # fmt: skip
