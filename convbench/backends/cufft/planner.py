"""Tiles, chunks, work and memory of the `cufft` backend: arithmetic on shapes, without NumPy and without a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from convbench.backends.cpu.fft_planner import candidates
from convbench.backends.cpu.fft_tiles import results
from convbench.backends.cuda.fft_planner import (
    BUFFER_BYTES,
    BYTE_S,
    COMPLEX_MULTIPLY_FLOPS,
    FLOP_S,
    LAUNCH_S,
    MADE_NAMES,
    MOST,
    READ_NAMES,
    SCALE_FLOPS,
    FftPlanner,
)
from convbench.backends.cufft.runs import CufftAxis, Run, filter_places
from convbench.problem import Case, ConvPass, Epilogue
from convbench.work import COMPLEX_MULTIPLY_ADD_FLOPS, Phase, Work, epilogue_flops, real_fft_flops

MOST_ELEMENTS = MOST
"""Elements that the transforms of one call may span: cufftMakePlanMany, which CuPy calls, counts in 32 bits."""


@dataclass(frozen=True)
class CufftPlanner(FftPlanner):
    """Real transforms of tiles or whole planes, one product per bin, and the inverse, for equal chunks of the batch.

    Spectra lie bin-major, (bins, G, rows, columns): cuFFT writes and reads them so, and the product is one batched call
    without transposition. Where nothing is summed over, which depthwise cases do, they lie plane by plane, and are
    multiplied element by element.

    Attributes:
        steps: results of a tile per axis, of dgrad elements of phases; none for whole planes.
        limit_bytes: most workspace; None where there is no limit.
    """

    steps: tuple[int, ...] = ()
    limit_bytes: int | None = None

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

    @property
    def by_bins(self) -> bool:
        """Whether spectra lie bin-major."""
        return self.reduced > 1

    # Chunks and memory

    def fits(self, images: int) -> bool:
        """Whether buffers of so many images are within the limit, and elements counted in 32 bits."""
        limit = BUFFER_BYTES if self.limit_bytes is None else self.limit_bytes
        return self._workspace(images) <= limit and self._spanned(images) <= MOST_ELEMENTS

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
            return f"{self.workspace_bytes} bytes of workspace for one image at a time, the limit is {self.limit_bytes}"
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
        transforms = [self._transform(f"transform {self.label(name)}", name) for name in names]
        return Work((*transforms, self._product(), self._inverse()))

    def _transform(self, label: str, name: str) -> Phase:
        size, times = self.case.dtype.itemsize, self.times(name)
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
        times, planes = self.times(name), self.planes(name, self.chunk)
        copies, elements = self.copies(name) if times else (0, 0)
        read, written, launches = elements, elements, times * (copies + 1)
        if self.case.epilogue is not Epilogue.NONE:  # the copy adds the bias
            read += times * copies * self.problem.out_channels
        if self.case.epilogue is Epilogue.BIAS_RELU:
            read, written, launches = read + elements, written + elements, launches + times * copies
        if self.clears:
            written, launches = written + math.prod(self.case.output_shape), launches + 1
        return Phase(
            name=f"inverse {self.label(name)}",
            flops=times * planes * real_fft_flops(self.points) + epilogue_flops(self.case),
            bytes_read=size * (read + times * planes * 2 * self.bins),
            bytes_written=size * (written + times * planes * self.points),
            footprint_bytes=size * planes * (self.points + 2 * self.bins), launches=launches,
        )  # fmt: skip

    @cached_property
    def seconds(self) -> float:
        """Rough time by which tiles are chosen: each phase takes as long as its flops or its bytes."""
        return sum(
            max(FLOP_S[self.case.math_mode] * phase.flops, BYTE_S * phase.traffic_bytes) + LAUNCH_S * phase.launches
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


def _order(planner: CufftPlanner) -> tuple[bool, float]:
    return planner.reason is not None, planner.seconds
