"""The convolution by FFTs as steps over `Arrays`: everything but the calls of libraries."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends import ErrorBound
from convbench.backends.cuda.cublas import ProductMode
from convbench.backends.cuda.fft_plan import FftPlan
from convbench.backends.cuda.fft_planner import MADE_NAMES, READ_NAMES
from convbench.backends.cufft.runs import filter_places
from convbench.errors import UnsupportedError
from convbench.operands import NUMPY_DTYPES, from_layout, grouped, index, to_layout
from convbench.problem import ConvPass, Epilogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convbench.backends.cufft.arrays import FftArrays
    from convbench.backends.cufft.planner import CufftPlanner
    from convbench.backends.cufft.runs import Run
    from convbench.operands import Operands

FIRST, SECOND, PRODUCT, INVERSE = range(4)
"""Places of the phases in a plan's work."""


class CufftPlan(FftPlan):
    """Tensors on the GPU, in the case's layout, planes and spectra of one chunk, and the steps of a run in order.

    Planes are copied from tensors into buffers padded with zeros, which stay zero; their order is (G, rows, columns):
    x (G, tiles…, images, channels, phases…, points…), w (G, filters, channels, phases…, points…) and y (G, tiles…,
    images, filters, points…).
    """

    _arrays: FftArrays

    def __init__(self, planner: CufftPlanner, operands: Operands, arrays: FftArrays) -> None:
        self.algorithm, self.work, self.error_bound = planner.algorithm, planner.work(), _error_bound(planner)
        self._planner, self._arrays, self._case = planner, arrays, planner.case
        with arrays.active():
            self._load(operands)
            self._steps = [*self._made_steps()] if planner.chunks else [*self._clearing()]
            self.workspace_bytes, limit = planner.buffer_bytes + arrays.work_bytes, planner.limit_bytes
            if limit is not None and self.workspace_bytes > limit:
                raise UnsupportedError(
                    f"cuFFT asks for {self.workspace_bytes} bytes of workspace, the limit is {limit}"
                )
            self.run()  # what comes first compiles and loads, which a graph that is captured could not
            self.poison()

    # Memory

    def _load(self, operands: Operands) -> None:
        """Tensors as canonical grouped views, planes and spectra."""
        case, planner = self._case, self._planner
        p, layout, dtype = case.problem, case.layout, NUMPY_DTYPES[case.dtype]
        self._stored = self._arrays.zeros(tuple(case.output_shape[axis] for axis in layout.order(p.ndim)), dtype)
        stored = {MADE_NAMES[case.conv_pass]: self._stored}
        for name in READ_NAMES[case.conv_pass]:
            canonical = getattr(operands, "dy" if name == "y" else name)
            stored[name] = self._arrays.upload(to_layout(canonical, layout))
        self._tensors = {
            name: grouped(from_layout(array, layout), p.groups, 0 if name == "w" else 1)
            for name, array in stored.items()
        }
        self._bias = None
        if case.epilogue is not Epilogue.NONE:
            bias = operands.bias.reshape(p.groups, *[1] * (p.ndim + 1), planner.filters, *[1] * p.ndim)
            self._bias = self._arrays.upload(bias)
        self._planes, self._spectra = {}, {}
        for name in self._tensors if planner.chunks else ():
            number = planner.planes(name, planner.chunk)
            self._planes[name] = self._arrays.zeros((number, *planner.fft_size), dtype)
            lying = (planner.bins, number) if planner.by_bins else (number, planner.bins)
            self._spectra[name] = self._arrays.zeros(lying, np.result_type(dtype, 1j))

    # Steps

    def _made_steps(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """(phase, step) in the order of a run."""
        planner, conv_pass = self._planner, self._case.conv_pass
        made, batch = MADE_NAMES[conv_pass], self._case.problem.batch
        forward = {
            name: self._arrays.forward(self._planes[name], self._spectra[name], planner.by_bins)
            for name in READ_NAMES[conv_pass]
        }
        inverse = self._arrays.inverse(self._spectra[made], self._planes[made], planner.by_bins)
        yield from self._clearing()
        for start in range(0, batch, planner.chunk):
            images = slice(start, start + planner.chunk)
            for phase, name in zip((FIRST, SECOND), READ_NAMES[conv_pass], strict=True):
                if name != "w" or start == 0:
                    yield phase, functools.partial(self._transform, [*self._moves(name, images)], forward[name])
            if start == 0 and not planner.by_bins:
                yield PRODUCT, self._prepare
            yield PRODUCT, functools.partial(self._multiply, made == "w" and start > 0)
            if made != "w" or start + planner.chunk == batch:
                yield INVERSE, functools.partial(self._invert, inverse, [*self._moves(made, images)])

    def _clearing(self) -> Iterator[tuple[int, Callable[[], None]]]:
        if self._planner.clears:
            yield INVERSE, functools.partial(self._arrays.fill, self._stored, 0)

    def _transform(self, moves: list[tuple[Any, Any]], forward: Callable[[], None]) -> None:
        for planes, tensor in moves:
            self._arrays.copy(planes, tensor)
        forward()

    def _invert(self, inverse: Callable[[], None], moves: list[tuple[Any, Any]]) -> None:
        inverse()
        for planes, tensor in moves:
            if self._bias is None:
                self._arrays.copy(tensor, planes)
            else:
                self._arrays.add(tensor, planes, self._bias)
            if self._case.epilogue is Epilogue.BIAS_RELU:
                self._arrays.relu(tensor)

    # Products

    def _prepare(self) -> None:
        """Scales what each plane of others is multiplied by, and conjugates it if the pass says so."""
        conv_pass = self._case.conv_pass
        kept = self._spectra["y" if conv_pass is ConvPass.WGRAD else "w"]
        if conv_pass is not ConvPass.DGRAD:
            self._arrays.conjugate(kept)
        self._arrays.scale(kept, 1 / self._planner.points)

    def _multiply(self, add: bool) -> None:
        conv_pass = self._case.conv_pass
        first, second, made = (self._matrices(name) for name in (*READ_NAMES[conv_pass], MADE_NAMES[conv_pass]))
        if self._planner.by_bins:
            mode = ProductMode(self._case.precision)
            self._arrays.product(conv_pass, first, second, made, 1 / self._planner.points, add, mode)
            return
        # One of the two axes of each has the extent 1, along which nothing has to be summed.
        if conv_pass is ConvPass.FPROP:
            second = second.swapaxes(1, 2)
        elif conv_pass is ConvPass.WGRAD:
            first = first.swapaxes(1, 2)
        self._arrays.multiply(first, second, made)

    def _matrices(self, name: str) -> Any:
        """Spectra of a tensor as (bins and groups, rows, columns), or (G, rows, columns, bins)."""
        planner, groups = self._planner, self._case.problem.groups
        matrix = planner.matrix(name, planner.chunk)
        if planner.by_bins:
            return self._spectra[name].reshape(planner.bins * groups, *matrix)
        return self._spectra[name].reshape(groups, *matrix, planner.bins)

    # Views: what of a tensor lies where in planes

    def _moves(self, name: str, images: slice) -> Iterator[tuple[Any, Any]]:
        """Views of planes, and of a tensor's elements that lie in them."""
        if name == "w":
            yield from self._filter_moves()
        elif name == "y":
            for runs in itertools.product(*self._planner.y_runs):
                yield self._move(name, images, runs, ())
        else:
            for phases in itertools.product(*map(range, self._planner.phase_counts)):
                of_phases = [found[phase] for found, phase in zip(self._planner.x_runs, phases, strict=True)]
                for runs in itertools.product(*of_phases):
                    yield self._move(name, images, runs, phases)

    def _move(self, name: str, images: slice, runs: tuple[Run, ...], phases: tuple[int, ...]) -> tuple[Any, Any]:
        """The tiles of a run per axis: both views are (G, tiles…, images, channels, rows…)."""
        planner, tensor = self._planner, self._tensors[name][images]
        number, groups, channels = tensor.shape[:3]
        phase_counts = planner.phase_counts if phases else ()
        planes = self._planes[name].reshape(
            groups, *(axis.count for axis in planner.axes), number, channels, *phase_counts, *planner.fft_size
        )
        tiles = [slice(run.first, run.first + run.tiles) for run in runs]
        rows = [run.rows for run in runs]
        by_image, by_group, by_channel, *by_element = tensor.strides
        corner = tensor[index(..., *(slice(run.start, None) for run in runs))]
        shape = (groups, *(run.tiles for run in runs), number, channels, *(run.length for run in runs))
        strides = (
            by_group, *(run.between * stride for run, stride in zip(runs, by_element, strict=True)),
            by_image, by_channel, *(run.step * stride for run, stride in zip(runs, by_element, strict=True)),
        )  # fmt: skip
        places = index(slice(None), *tiles, slice(None), slice(None), *phases, *rows)
        return planes[places], self._arrays.strided(corner, shape, strides)

    def _filter_moves(self) -> Iterator[tuple[Any, Any]]:
        planner, tensor = self._planner, self._tensors["w"]
        planes = self._planes["w"].reshape(*tensor.shape[:3], *planner.phase_counts, *planner.fft_size)
        per_axis = [[*enumerate(filter_places(axis))] for axis in self._case.problem.axes]
        for places in itertools.product(*per_axis):
            phases = [phase for phase, _ in places]
            rows, taps = [rows for _, (rows, _) in places], [taps for _, (_, taps) in places]
            yield planes[index(*[slice(None)] * 3, *phases, *rows)], tensor[index(..., *taps)]


def _error_bound(planner: CufftPlanner) -> ErrorBound:
    return ErrorBound(
        growth=max(1.0, math.log2(planner.points)),
        transform_points=planner.points * math.prod(planner.phase_counts),
    )
