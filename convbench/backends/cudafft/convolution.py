"""The convolution as launches of kernels over `Arrays`."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.accuracy import UNIT_ROUNDOFF
from convbench.backends import ErrorBound
from convbench.backends.cuda.fft_plan import FftPlan
from convbench.backends.cuda.fft_planner import MADE_NAMES, READ_NAMES
from convbench.backends.cudafft import kernels
from convbench.operands import NUMPY_DTYPES, from_layout, to_layout
from convbench.problem import ConvPass, Epilogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convbench.backends.cuda.arrays import Arrays
    from convbench.backends.cuda.fft_plan import Step
    from convbench.backends.cudafft.planner import CudafftPlanner
    from convbench.operands import Operands

FIRST, SECOND, PRODUCT, INVERSE = range(4)
"""Places of the phases in a plan's work."""
FILTERS, FUSED = range(2)
"""The same of a fused one."""
NULL = 0
SPLIT_ROUNDOFF = 2.0**-20
"""Of a product of numbers split in two: the lower part is 2⁻¹¹ of a number at most, tf32 cuts it by 2⁻¹⁰, of both."""


class CudafftPlan(FftPlan):
    """Tensors on the GPU, in the case's layout, spectra of one chunk, tables, and the steps of a run in order.

    Attributes:
        notes: tiles, chunks, and who multiplies.
        build_s: seconds that the kernels took to compile, or to be found compiled.
    """

    def __init__(self, planner: CudafftPlanner, operands: Operands, arrays: Arrays) -> None:
        self.algorithm, self.work, self.error_bound = planner.algorithm, planner.work(), _error_bound(planner)
        self.workspace_bytes, self.notes, self.build_s = planner.workspace_bytes, planner.notes, 0.0
        self._planner, self._arrays, self._case = planner, arrays, planner.case
        self._kernels: dict[str, Callable[..., None]] = {}
        with arrays.active():
            self._load(operands)
            self._steps = [*self._clearing(), *(self._made_steps() if planner.chunks else ())]
            self.run()  # what comes first compiles and loads, which a graph that is captured could not
            self.poison()

    # Memory

    def _load(self, operands: Operands) -> None:
        """Tensors as canonical views, what says where their planes lie, and spectra."""
        case, planner, arrays = self._case, self._planner, self._arrays
        p, layout = case.problem, case.layout
        shape = tuple(case.output_shape[axis] for axis in layout.order(p.ndim))
        self._stored = arrays.zeros(shape, NUMPY_DTYPES[case.dtype])
        stored = {MADE_NAMES[case.conv_pass]: self._stored}
        for name in READ_NAMES[case.conv_pass]:
            stored[name] = arrays.upload(to_layout(getattr(operands, "dy" if name == "y" else name), layout))
        self._tensors = {name: from_layout(array, layout) for name, array in stored.items()}
        self._bias = NULL if case.epilogue is Epilogue.NONE else arrays.upload(operands.bias)
        self._described, self._spectra, self._lower = {}, {}, {}
        for name in "xwy" if planner.chunks else "":
            matrix = planner.matrix(name, planner.chunk)
            self._described[name] = tuple(map(arrays.upload, planner.lying(name).described(planner.axes, matrix)))
            if name in planner.spectra_names:
                spectra = (p.groups, planner.bins, math.prod(matrix))
                self._spectra[name] = arrays.zeros(spectra, np.complex64)
            if name in planner.split_names:
                self._lower[name] = arrays.zeros(spectra, np.complex64)

    # Steps

    def _clearing(self) -> Iterator[Step]:
        if self._planner.clears:
            last = len(self.work.phases) - 1
            yield last, functools.partial(self._arrays.fill, self._stored, 0)

    def _made_steps(self) -> Iterator[Step]:
        """(phase, step) in the order of a run."""
        planner, conv_pass = self._planner, self._case.conv_pass
        made, batch = MADE_NAMES[conv_pass], self._case.problem.batch
        for start in range(0, batch, planner.chunk):
            if planner.fused:
                if start == 0:
                    yield FILTERS, self._transform("w", start)
                yield FUSED, self._fused(start)
                continue
            for phase, name in zip((FIRST, SECOND), READ_NAMES[conv_pass], strict=True):
                if name != "w" or start == 0:
                    yield phase, self._transform(name, start)
                    if name in planner.split_names:
                        yield PRODUCT, self._split(name)
            add = made == "w" and start > 0
            if planner.split:  # the small ones first
                yield PRODUCT, self._product(self._lower, self._spectra, add)
                yield PRODUCT, self._product(self._spectra, self._lower, add=True)
                add = True
            yield PRODUCT, self._product(self._spectra, self._spectra, add)
            if made != "w" or start + planner.chunk == batch:
                yield INVERSE, self._inverse(start)

    def _kernel(self, source: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
        """Asked for once."""
        if name not in self._kernels:
            started = time.perf_counter()
            self._kernels[name] = self._arrays.kernel(source, name, options)
            self.build_s += time.perf_counter() - started
        return self._kernels[name]

    def _launch(self, kernel: str, name: str, *arguments: Any) -> Callable[[], None]:
        """A launch of a kernel of the transforms over the planes of a tensor."""
        planner, transform = self._planner, self._planner.transform
        launch = self._kernel(kernels.source(), kernel, kernels.options(transform))
        grid = transform.grid(math.prod(planner.matrix(name, planner.chunk)), self._case.problem.groups)
        return functools.partial(launch, grid, (transform.threads,), arguments, transform.shared_bytes)

    def _part(self, name: str, start: int) -> Any:
        """A tensor from the first image of a chunk on."""
        tensor = self._tensors[name]
        return tensor if name == "w" else tensor[start : start + self._planner.chunk]

    def _transform(self, name: str, start: int) -> Callable[[], None]:
        return self._launch("forward", name, self._part(name, start), self._spectra[name], *self._described[name])

    def _inverse(self, start: int) -> Callable[[], None]:
        name = MADE_NAMES[self._case.conv_pass]
        return self._launch(
            "inverse", name, self._spectra[name], self._part(name, start), *self._described[name], *self._epilogue
        )

    def _fused(self, start: int) -> Callable[[], None]:
        conv_pass = self._case.conv_pass
        source, target = READ_NAMES[conv_pass][0], MADE_NAMES[conv_pass]
        return self._launch(
            "fused", target, self._part(source, start), self._spectra["w"], self._part(target, start),
            *self._described[source], *self._described[target], np.int32(conv_pass is ConvPass.FPROP),
            np.float32(self._scale), *self._epilogue,
        )  # fmt: skip

    @property
    def _epilogue(self) -> tuple[Any, Any]:
        return self._bias, np.int32(self._case.epilogue is Epilogue.BIAS_RELU)

    @property
    def _scale(self) -> float:
        """Of the product: neither transform is scaled."""
        return 1 / self._planner.transform.points

    def _split(self, name: str) -> Callable[[], None]:
        spectra = self._spectra[name]
        launch = self._kernel(kernels.product_source(), "split", kernels.product_options())
        arguments = (spectra, self._lower[name], np.int64(spectra.size))
        return functools.partial(launch, (kernels.split_grid(spectra.size),), (kernels.PRODUCT_THREADS,), arguments, 0)

    def _product(self, left: dict[str, Any], right: dict[str, Any], add: bool) -> Callable[[], None]:
        """Of a spectrum of `left` and one of `right`."""
        planner, conv_pass = self._planner, self._case.conv_pass
        one, other = READ_NAMES[conv_pass]
        made = MADE_NAMES[conv_pass]
        matrices = {one: left[one], other: right[other], made: self._spectra[made]}
        if planner.by_cublas:
            first, second, out = (
                spectra.reshape(planner.matrices, *planner.matrix(name, planner.chunk))
                for name, spectra in matrices.items()
            )
            return functools.partial(
                self._arrays.product, conv_pass, first, second, out, self._scale, add, planner.mode
            )
        rows, filters = planner.matrix("y", planner.chunk)
        channels = planner.channels
        launch = self._kernel(kernels.product_source(), conv_pass.value, kernels.product_options())
        extents = (planner.matrices, rows, channels, filters)
        grid = kernels.product_grid(conv_pass.value, *extents)
        arguments = (
            *matrices.values(),
            *map(np.int32, extents),
            np.float32(self._scale),
            np.int32(add),
        )
        return functools.partial(launch, grid, (kernels.PRODUCT_THREADS,), arguments, 0)


def _error_bound(planner: CudafftPlanner) -> ErrorBound:
    """Errors of transforms grow with log₂ of their points; those of rounding to tf32 happen once, before a product."""
    case = planner.case
    growth = max(1.0, math.log2(planner.transform.points))
    multiply, add = UNIT_ROUNDOFF[case.math_mode]
    sums = add * math.sqrt(case.accumulation_length)
    if multiply > add:
        growth = (multiply + growth * sums) / (multiply + sums)
    elif planner.split:
        growth += SPLIT_ROUNDOFF / (multiply + sums)
    return ErrorBound(growth, planner.transform.points * math.prod(planner.phase_counts))
