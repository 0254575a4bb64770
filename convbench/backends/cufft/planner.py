"""Tiles, chunks, work and memory of the `cufft` backend: arithmetic on shapes, without NumPy and without a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from convbench.backends.cpu.fft_planner import candidates
from convbench.backends.cpu.fft_tiles import results
from convbench.backends.cpu.phases import phase_count
from convbench.backends.cufft.runs import CufftAxis, Run, filter_places
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Problem
from convbench.work import COMPLEX_MULTIPLY_ADD_FLOPS, Phase, Work, epilogue_flops, real_fft_flops

COMPLEX_MULTIPLY_FLOPS = 6
"""Four multiplies and two adds."""
SCALE_FLOPS = 2
"""Of a complex number by a real one."""
BUFFER_BYTES = 4 << 30
"""Workspace that chunks of the batch are cut for where no limit is given: a part of any GPU's memory today."""
MOST_ELEMENTS = 2**31 - 1
"""Elements that the transforms of one call may span: cufftMakePlanMany, which CuPy calls, counts in 32 bits."""
READ_NAMES = {ConvPass.FPROP: ("x", "w"), ConvPass.DGRAD: ("y", "w"), ConvPass.WGRAD: ("y", "x")}
"""The operands of a pass, the first and the second of its product; y stands for its gradient."""
MADE_NAMES = {ConvPass.FPROP: "y", ConvPass.DGRAD: "x", ConvPass.WGRAD: "w"}

BYTE_S = 1 / 4.8e12
FLOP_S = {Dtype.FP32: 1 / 66.9e12, Dtype.FP64: 1 / 33.5e12}
"""Seconds per byte and flop by the data sheet of an H200: tiles are chosen by them, on every GPU."""
LAUNCH_S = 2e-6
"""Assumed for a launch within a graph; nobody has measured it yet."""


@dataclass(frozen=True)
class CufftPlanner:
    """Real transforms of tiles or whole planes, one product per bin, and the inverse, for equal chunks of the batch.

    Tensors by name: x (images, channels), w (filters, channels) and y (images, filters) are matrices of planes, per
    group; the pass multiplies two of them, and `reduced` is the extent that its product sums over. Phases of a strided
    plane act as more channels, tiles as more images (sources: convbench.backends.cpu.fft_planner).

    Spectra lie bin-major, (bins, G, rows, columns): cuFFT writes and reads them so, and the product is one batched call
    without transposition. Where nothing is summed over, which depthwise cases do, they lie plane by plane, and are
    multiplied element by element.

    Attributes:
        steps: results of a tile per axis, of dgrad elements of phases; none for whole planes.
        limit_bytes: most workspace; None where there is no limit.
    """

    case: Case
    steps: tuple[int, ...] = ()
    limit_bytes: int | None = None

    @property
    def problem(self) -> Problem:
        """The case's problem."""
        return self.case.problem

    @cached_property
    def axes(self) -> tuple[CufftAxis, ...]:
        """Tiles per axis."""
        axes, conv_pass = self.problem.axes, self.case.conv_pass
        steps = self.steps or [len(results(axis, conv_pass)) for axis in axes]
        return tuple(
            CufftAxis(axis, conv_pass, step, innermost=place == len(axes) - 1)
            for place, (axis, step) in enumerate(zip(axes, steps, strict=True))
        )

    @property
    def tiles(self) -> int:
        """Tiles of a plane."""
        return math.prod(axis.count for axis in self.axes)

    @property
    def tiled(self) -> bool:
        """Whether a plane is more than one tile."""
        return self.tiles > 1

    @property
    def algorithm(self) -> str:
        """The resolved name: of tiles with the points of a transform."""
        return f"fft-tiled-{'x'.join(map(str, self.fft_size))}" if self.tiled else "fft-whole"

    @cached_property
    def fft_size(self) -> tuple[int, ...]:
        """Transform length per axis."""
        return tuple(axis.points for axis in self.axes)

    @property
    def points(self) -> int:
        """Points of one transform."""
        return math.prod(self.fft_size)

    @property
    def bins(self) -> int:
        """Stored bins of one half spectrum."""
        return self.points // self.fft_size[-1] * (self.fft_size[-1] // 2 + 1)

    @cached_property
    def phase_counts(self) -> tuple[int, ...]:
        """Phases per axis."""
        return tuple(map(phase_count, self.problem.axes))

    @property
    def channels(self) -> int:
        """Input channels of a group, each counted once per phase."""
        return self.problem.in_channels // self.problem.groups * math.prod(self.phase_counts)

    @property
    def filters(self) -> int:
        """Output channels of a group."""
        return self.problem.out_channels // self.problem.groups

    @property
    def reduced(self) -> int:
        """Extent that a product sums over."""
        images = self.problem.batch * self.tiles
        return {ConvPass.FPROP: self.channels, ConvPass.DGRAD: self.filters, ConvPass.WGRAD: images}[
            self.case.conv_pass
        ]

    @property
    def by_bins(self) -> bool:
        """Whether spectra lie bin-major."""
        return self.reduced > 1

    def matrix(self, name: str, images: int) -> tuple[int, int]:
        """Planes of a tensor per group, as rows and columns, for so many images."""
        rows, columns = images * self.tiles, self.channels
        return {"x": (rows, columns), "w": (self.filters, columns), "y": (rows, self.filters)}[name]

    def planes(self, name: str, images: int) -> int:
        """Planes of a tensor, of all groups."""
        return self.problem.groups * math.prod(self.matrix(name, images))

    # Chunks and memory

    @cached_property
    def chunk(self) -> int:
        """Images of a chunk: the most that divide the batch and fit, so that all chunks are alike."""
        batch, limit = self.problem.batch, BUFFER_BYTES if self.limit_bytes is None else self.limit_bytes
        for parts in _divisors(batch):
            images = batch // parts
            if self._workspace(images) <= limit and self._spanned(images) <= MOST_ELEMENTS:
                return images
        return min(1, batch)

    @property
    def chunks(self) -> int:
        """Chunks of the batch."""
        return self.problem.batch // self.chunk if self.chunk else 0

    @property
    def buffer_bytes(self) -> int:
        """Planes and spectra of one chunk of all three tensors, and of the filter."""
        return self._buffers(self.chunk) if self.chunk else 0

    @property
    def workspace_bytes(self) -> int:
        """`buffer_bytes`, and what cuFFT may want besides: for each of its three plans as much as the spectra.

        That is a guess on the high side, as far as it is known; cuFFT says so when it has made a plan.
        """
        return self._workspace(self.chunk) if self.chunk else 0

    def _buffers(self, images: int) -> int:
        size = self.case.dtype.itemsize
        return sum(self.planes(name, images) for name in "xwy") * size * (self.points + 2 * self.bins)

    def _workspace(self, images: int) -> int:
        spectra = sum(self.planes(name, images) for name in "xwy") * 2 * self.case.dtype.itemsize * self.bins
        return self._buffers(images) + spectra

    def _spanned(self, images: int) -> int:
        return max(self.planes(name, images) for name in "xwy") * max(self.points, 2 * self.bins)

    @property
    def reason(self) -> str | None:
        """Why it cannot run; None if it can."""
        if self._spanned(self.chunk) > MOST_ELEMENTS:
            return f"one call of cuFFT would transform {self._spanned(self.chunk)} elements, more than 32 bits count"
        if self.limit_bytes is not None and self.workspace_bytes > self.limit_bytes:
            image = "one image at a time" if self.chunk else "an empty batch"
            return f"{self.workspace_bytes} bytes of workspace for {image}, the limit is {self.limit_bytes}"
        return None

    # Copies between tensors and planes

    @cached_property
    def x_runs(self) -> tuple[tuple[tuple[Run, ...], ...], ...]:
        """Per axis and phase: where elements of x lie in planes."""
        return tuple(axis.x_runs for axis in self.axes)

    @cached_property
    def y_runs(self) -> tuple[tuple[Run, ...], ...]:
        """Per axis: where elements of y lie in planes."""
        return tuple(axis.y_runs for axis in self.axes)

    def copies(self, name: str) -> tuple[int, int]:
        """(copies of one chunk, elements copied of the whole tensor) between a tensor and its planes."""
        p = self.problem
        if name == "w":
            places = [filter_places(axis) for axis in p.axes]
            return math.prod(map(len, places)), math.prod(p.w_shape)
        if name == "y":
            runs, maps = [list(found) for found in self.y_runs], p.batch * p.out_channels
        else:
            runs = [[run for phase in found for run in phase] for found in self.x_runs]
            maps = p.batch * p.in_channels
        return math.prod(map(len, runs)), maps * math.prod(sum(run.elements for run in found) for found in runs)

    @property
    def clears(self) -> bool:
        """Whether the output holds elements that nothing is copied to, which are zero."""
        name = MADE_NAMES[self.case.conv_pass]
        return self.copies(name)[1] < math.prod(self.case.output_shape) or (name == "w" and not self.chunks)

    # Work

    def work(self) -> Work:
        """Transforms of both operands, product, inverse; the padding of planes and clipped tiles are counted whole."""
        conv_pass = self.case.conv_pass
        names = READ_NAMES[conv_pass]
        gradient = {"x": "x", "w": "w", "y": "y" if conv_pass is ConvPass.FPROP else "dy"}
        transforms = [self._transform(f"transform {gradient[name]}", name) for name in names]
        return Work((*transforms, self._product(), self._inverse()))

    def _times(self, name: str) -> int:
        """How often the planes of a chunk are transformed."""
        return min(1, self.chunks) if name == "w" else self.chunks

    def _transform(self, label: str, name: str) -> Phase:
        size, times = self.case.dtype.itemsize, self._times(name)
        planes = self.planes(name, self.chunk)
        copies, elements = self.copies(name) if times else (0, 0)
        return Phase(
            name=label, flops=times * planes * real_fft_flops(self.points),
            bytes_read=size * (elements + times * planes * self.points),
            bytes_written=size * (elements + times * planes * 2 * self.bins),
            footprint_bytes=size * planes * (self.points + 2 * self.bins), launches=times * (copies + 1),
        )  # fmt: skip

    def _product(self) -> Phase:
        first, second = READ_NAMES[self.case.conv_pass]
        made = MADE_NAMES[self.case.conv_pass]
        spectrum = 2 * self.case.dtype.itemsize * self.bins
        a, b, out = (self.planes(name, self.chunk) for name in (first, second, made))
        multiplies = self.chunks * out * (self.reduced // self.chunks if made == "w" and self.chunks else self.reduced)
        again = out * max(0, self.chunks - 1) if made == "w" else 0  # chunks add to a sum
        flops = (COMPLEX_MULTIPLY_ADD_FLOPS if self.by_bins else COMPLEX_MULTIPLY_FLOPS) * multiplies * self.bins
        scaled = launches = 0
        if not self.by_bins and self.chunks:  # the filter, or dy, is scaled, and conjugated where the pass wants it
            kept = a if made == "w" else b
            launches = 1 if self.case.conv_pass is ConvPass.DGRAD else 2
            scaled, flops = launches * kept, flops + SCALE_FLOPS * kept * self.bins
        return Phase(
            name="product", flops=flops, bytes_read=spectrum * (self.chunks * (a + b) + again + scaled),
            bytes_written=spectrum * (self.chunks * out + scaled), footprint_bytes=spectrum * (a + b + out),
            launches=self.chunks + launches,
        )  # fmt: skip

    def _inverse(self) -> Phase:
        name, size = MADE_NAMES[self.case.conv_pass], self.case.dtype.itemsize
        times, planes = self._times(name), self.planes(name, self.chunk)
        copies, elements = self.copies(name) if times else (0, 0)
        read, written, launches = elements, elements, times * (copies + 1)
        if self.case.epilogue is not Epilogue.NONE:  # the copy adds the bias
            read += times * copies * self.problem.out_channels
        if self.case.epilogue is Epilogue.BIAS_RELU:
            read, written, launches = read + elements, written + elements, launches + times * copies
        if self.clears:
            written, launches = written + math.prod(self.case.output_shape), launches + 1
        made = f"{'' if name == 'y' else 'd'}{name}"
        return Phase(
            name=f"inverse {made}", flops=times * planes * real_fft_flops(self.points) + epilogue_flops(self.case),
            bytes_read=size * (read + times * planes * 2 * self.bins),
            bytes_written=size * (written + times * planes * self.points),
            footprint_bytes=size * planes * (self.points + 2 * self.bins), launches=launches,
        )  # fmt: skip

    @cached_property
    def seconds(self) -> float:
        """Rough time by which tiles are chosen: each phase takes as long as its flops or its bytes."""
        return sum(
            max(FLOP_S[self.case.dtype] * phase.flops, BYTE_S * phase.traffic_bytes) + LAUNCH_S * phase.launches
            for phase in self.work().phases
        )


@lru_cache(maxsize=256)
def whole_planner(case: Case, limit_bytes: int | None = None) -> CufftPlanner:
    """Whole planes."""
    return CufftPlanner(case, (), limit_bytes)


@lru_cache(maxsize=256)
def tiled_planner(case: Case, limit_bytes: int | None = None) -> CufftPlanner | None:
    """The tiles of least estimated time among those that fit, if any do; None where no plane is cut."""
    found = [CufftPlanner(case, steps, limit_bytes) for steps in sorted(candidates(case))]
    return min((each for each in found if each.tiled), key=_order, default=None)


def best_planner(case: Case, limit_bytes: int | None = None) -> CufftPlanner:
    """Whole planes or tiles, whichever is estimated to take less."""
    whole, tiled = whole_planner(case, limit_bytes), tiled_planner(case, limit_bytes)
    return whole if tiled is None else min(whole, tiled, key=_order)


def _order(planner: CufftPlanner) -> tuple[bool, float]:
    return planner.reason is not None, planner.seconds


def _divisors(number: int) -> list[int]:
    """In ascending order; of 0 none."""
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})
