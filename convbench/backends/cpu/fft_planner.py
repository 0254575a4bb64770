"""Tiles, chunks, work and memory of `fft`: arithmetic on shapes, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from convbench.backends.cpu.fft_tiles import TiledAxis, reach, results
from convbench.backends.cpu.phases import AxisPhase, axis_phases, phase_count
from convbench.backends.cpu.windows import pieces
from convbench.problem import Case, ConvPass, Problem
from convbench.work import COMPLEX_MULTIPLY_ADD_FLOPS, Phase, Work, epilogue_flops, real_fft_flops

PLANE_BYTES = 512 << 20
"""Largest workspace for whole planes, which holds, where they fit, all filter spectra."""
TILE_BYTES = 32 << 20
"""Largest workspace for tiles."""
CACHE_BYTES = 4 << 20
"""Tiles that are transformed at once take about so much."""
POINTS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
"""Points of a tile's transform along an axis that are tried."""
SMALL_POINTS = 1024
"""Planes of no more points are not cut: none was found where tiles win."""
TILE_GAIN = 1.25
"""Tiles are taken where whole planes are estimated to take so much more: estimates are off by about as much."""
MAX_TILES = 4096
"""Tiles along an axis: more are too small for its extent."""
FEW_IMAGES = 8
"""Images below which the product of a frequency reads filter spectra more than it multiplies."""

FLOP_S, BYTE_S, LAUNCH_S, CHUNK_S = 3.1e-11, 7.6e-11, 9e-6, 1.6e-4
LONG_BYTE_S, LONG_POINTS = 1.9e-10, 30_000
PRODUCT_FLOP_S, PRODUCT_BYTE_S, BIN_S = 2.8e-11, 1e-10, 6.7e-9
"""Seconds of one thread per flop, byte, launch and chunk of transforms, per byte of transforms along an axis that a
cache does not hold, and per flop, byte and frequency of the product: fitted to 219 plans of random tiles, from 1-D
rows of 16 to 2,000,000 points to 3-D planes, on an AVX-512 server, with a spread of 24 %."""


@dataclass(frozen=True)
class FftPlanner:
    """Real transforms of tiles or whole planes, one product per frequency, and the inverse.

    In each pass out(i, j) = Σ_l A(i, l)·B(l, j), with i, j, l the roles of batch, input and output channels:
    fprop Y(n, k) = Σ_c X(n, c)·W*(c, k); dgrad DX(n, c) = Σ_k DY(n, k)·W(k, c); wgrad DW(k, c) = Σ_n DY*(k, n)·X(n, c).
    Strides are decomposed into phases, which act as more input channels; tiles, of `steps` outputs per axis (in dgrad
    elements of phases), act as more images, and wgrad sums over both. Without steps a plane is one tile.
    Sources: Mathieu, Henaff and LeCun, "Fast Training of Convolutional Networks through FFTs", 2013 (arXiv 1312.5851);
    for overlap-save Stockham, "High-speed convolution and correlation", 1966.
    """

    case: Case
    steps: tuple[int, ...] = ()

    @property
    def problem(self) -> Problem:
        """The case's problem."""
        return self.case.problem

    @cached_property
    def phases(self) -> tuple[tuple[AxisPhase, ...], ...]:
        """Phases per axis."""
        return tuple(axis_phases(axis) for axis in self.problem.axes)

    @cached_property
    def phase_count(self) -> int:
        """Phases of all axes together."""
        return math.prod(map(phase_count, self.problem.axes))

    @cached_property
    def axes(self) -> tuple[TiledAxis, ...]:
        """Tiles per axis."""
        axes, conv_pass = self.problem.axes, self.case.conv_pass
        steps = self.steps or [len(results(axis, conv_pass)) for axis in axes]
        return tuple(TiledAxis(axis, conv_pass, step) for axis, step in zip(axes, steps, strict=True))

    @property
    def tiled(self) -> bool:
        """Whether a plane is more than one tile."""
        return any(axis.count > 1 for axis in self.axes)

    @property
    def algorithm(self) -> str:
        """The resolved name: of tiles with the points of a transform."""
        return f"fft-{'x'.join(map(str, self.fft_size))}" if self.tiled else "fft"

    @property
    def images(self) -> int:
        """Tiles of all images."""
        return self.problem.batch * math.prod(axis.count for axis in self.axes)

    @cached_property
    def fft_size(self) -> tuple[int, ...]:
        """Transform length per axis."""
        return tuple(axis.points for axis in self.axes)

    @cached_property
    def rows(self) -> tuple[int, int, int]:
        """Rows on the first axis that hold something of the first operand, of the second and of the result."""
        (x, y), w = self.axes[0].rows, reach(self.problem.axes[0]) + 1
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
        """Extents of i, j and l within a group; input channels count once per phase, images once per tile."""
        p = self.problem
        c = p.in_channels // p.groups * self.phase_count
        k = p.out_channels // p.groups
        return {
            ConvPass.FPROP: (self.images, k, c),
            ConvPass.DGRAD: (self.images, c, k),
            ConvPass.WGRAD: (k, c, self.images),
        }[self.case.conv_pass]

    @cached_property
    def chunk(self) -> tuple[int, int, int, int]:
        """Chunk extents (g, i, j, l) within PLANE_BYTES or TILE_BYTES, and tiles in a cache if filter spectra are.

        Groups are cut first, which costs nothing; then the batch, down to a few images, which costs nothing as long as
        the filter spectra are kept; then channels, at the price of transforming the other operand again.
        Input channels are cut in whole channels, each with all its phases.
        """
        i, j, k = self.roles
        sizes = {"g": self.problem.groups, "i": i, "j": j, "l": k}
        batch = "l" if self.case.conv_pass is ConvPass.WGRAD else "i"
        unit = dict.fromkeys(sizes, 1)
        unit["l" if self.case.conv_pass is ConvPass.FPROP else "j"] = self.phase_count
        sizes = {name: max(size, unit[name]) for name, size in sizes.items()}

        def halve(name: str) -> None:
            units = sizes[name] // unit[name]
            sizes[name] = -(-units // 2) * unit[name]

        def bytes_now(**other: int) -> int:
            return self._workspace(*(sizes | other).values())

        channels = [name for name in "ijl" if name != batch and sizes[name] > unit[name]]
        images = FEW_IMAGES if channels else 1
        while self.tiled and sizes[batch] > images and bytes_now() > max(CACHE_BYTES, 2 * bytes_now(**{batch: 0})):
            halve(batch)
        while bytes_now() > (TILE_BYTES if self.tiled else PLANE_BYTES):
            channels = [name for name in "ijl" if name != batch and sizes[name] > unit[name]]
            if sizes["g"] > 1:
                halve("g")
            elif sizes[batch] > FEW_IMAGES or (sizes[batch] > 1 and not channels):
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

    @property
    def _pieces(self) -> tuple[int, int, int, int]:
        """Chunks of g, i, j and l."""
        g, i, j, k = map(pieces, (self.problem.groups, *self.roles), self.chunk)
        return g, i, j, k

    @property
    def _times(self) -> tuple[int, int]:
        """How often each operand is transformed: the loops are j, i, l, outermost first, and keep their last chunks."""
        _, i, j, k = self._pieces
        return 1 if i * k == 1 else j, 1 if k == 1 else i

    @property
    def _copies(self) -> tuple[int, int, int]:
        """Copies of the first operand, the second and the result, between tensors and buffers: per tile and phase."""
        g, i, j, k = self._pieces
        wgrad = self.case.conv_pass is ConvPass.WGRAD
        batch, chunk = max(1, self.problem.batch), self.chunk[3 if wgrad else 1]
        # Images in order are cut after each tile, and after each chunk.
        cuts = pieces(self.images, batch) + pieces(self.images, chunk) - pieces(self.images, math.lcm(batch, chunk))
        i, k = (i, cuts) if wgrad else (cuts, k)
        a_times, b_times = self._times
        phases = self.phase_count
        first, last = (phases, 1) if self.case.conv_pass is ConvPass.FPROP else (1, phases)
        return g * i * k * a_times * first, g * j * k * b_times * phases, g * i * j * last

    @property
    def seconds(self) -> float:
        """Rough time on one thread, by which tiles are chosen."""
        first, second, product, last = self.work().phases
        transforms = (first, second, last)
        traffic = sum(phase.traffic_bytes for phase in transforms)
        return (
            FLOP_S * sum(phase.flops for phase in transforms)
            + (LONG_BYTE_S if max(self.fft_size) > LONG_POINTS else BYTE_S) * traffic
            + LAUNCH_S * sum(phase.launches for phase in transforms)
            + CHUNK_S * product.launches
            + BIN_S * self.bins * self.problem.groups * math.prod(self._pieces[1:])
            + PRODUCT_FLOP_S * product.flops
            + PRODUCT_BYTE_S * product.traffic_bytes
        )

    def work(self) -> Work:
        """Transforms of both operands, product, inverse; operands cut in channels are transformed more than once."""
        p, size = self.problem, self.case.dtype.itemsize
        i, j, k = self.roles
        calls, i_pieces, j_pieces, l_pieces = self._pieces
        a_times, b_times = self._times
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
        copies = self._copies
        product_calls = calls * i_pieces * j_pieces * l_pieces
        sums = p.groups * i * j * max(0, l_pieces - 1)
        return Work((
            transforms(f"transform {first}", a, calls * i_pieces * l_pieces * a_times + copies[0]),
            transforms(f"transform {second}", b, calls * j_pieces * l_pieces * b_times + copies[1]),
            Phase(name="product", flops=COMPLEX_MULTIPLY_ADD_FLOPS * products * self.bins + 2 * sums * self.bins,
                  bytes_read=(p.groups * (i * k * j_pieces + k * j * i_pieces) + 2 * sums) * spectrum,
                  bytes_written=(out * l_pieces + sums) * spectrum, footprint_bytes=footprint,
                  launches=product_calls),
            transforms(f"inverse {result}", out, calls * i_pieces * j_pieces + copies[2], epilogue_flops(self.case)),
        ))  # fmt: skip


def best_planner(case: Case, threads: int = 1) -> FftPlanner:
    """The tiles of least estimated time, or whole planes; larger workspaces only where no smaller one is enough."""
    whole = FftPlanner(case)
    if whole.fft_points <= SMALL_POINTS:
        return whole
    tiles = [FftPlanner(case, steps) for steps in candidates(case)]

    def order(each: FftPlanner) -> tuple[bool, float]:
        return each.workspace_bytes > PLANE_BYTES, each.seconds * (TILE_GAIN if each.tiled else 1.0)

    return min([whole, *tiles], key=order)


def candidates(case: Case) -> set[tuple[int, ...]]:
    """Steps per axis, even ones, whose transforms have about as many points along all axes that are cut."""
    axes = [(len(results(axis, case.conv_pass)), reach(axis)) for axis in case.problem.axes]
    found = set()
    for points in POINTS:
        steps = []
        for extent, overlap in axes:
            step = points - overlap
            count = 1 if step >= extent else pieces(extent, step) if step > 0 else 0
            if count not in range(1, MAX_TILES):
                break
            steps.append(pieces(extent, count))
        else:
            found.add(tuple(steps))
    return found
