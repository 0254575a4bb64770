"""What the CPU plans share: tensors in their layout, seen through canonical grouped views; and `direct`."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convbench.backends import ErrorBound, PlanOptions
from convbench.backends.cpu.phases_clock import Laps
from convbench.backends.cpu.planner import DirectPlanner
from convbench.operands import NUMPY_DTYPES, Operands, from_layout, grouped, index, to_layout
from convbench.problem import Case, ConvPass, Epilogue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convbench.backends import Clock
    from convbench.work import Work


class CpuPlan:
    """Tensors of a case in its layout.

    `x` (N, G, C/G, input…), `w` (G, K/G, C/G, taps…) and `y` (N, G, K/G, output…) are views of them; the two that the
    pass reads hold the operands, the third is its output (dx, dw or y), and the name says which place it takes.
    """

    algorithm: str
    error_bound = ErrorBound()

    def __init__(self, case: Case, operands: Operands, work: Work, workspace_bytes: int, options: PlanOptions) -> None:
        p = case.problem
        self.case, self.work, self.workspace_bytes, self.threads = case, work, workspace_bytes, options.threads
        self.laps, self._phase_names = Laps(), {phase.name for phase in work.phases}
        order = case.layout.order(p.ndim)
        self._stored = np.empty([case.output_shape[axis] for axis in order], NUMPY_DTYPES[case.dtype])
        self.poison()  # also touches every page, so that no sample pays for the first touch

        def place(role: ConvPass, array: NDArray[Any] | None) -> NDArray[Any]:
            stored = self._stored if array is None else to_layout(array, case.layout)
            return grouped(from_layout(stored, case.layout), p.groups, 0 if role is ConvPass.WGRAD else 1)

        conv_pass = case.conv_pass
        self.x = place(ConvPass.DGRAD, None if conv_pass is ConvPass.DGRAD else operands.x)
        self.w = place(ConvPass.WGRAD, None if conv_pass is ConvPass.WGRAD else operands.w)
        self.y = place(ConvPass.FPROP, None if conv_pass is ConvPass.FPROP else operands.dy)
        self.bias = None if case.epilogue is Epilogue.NONE else operands.bias.reshape(p.groups, -1)

    def poison(self) -> None:
        """Fills the output with NaN."""
        self._stored.fill(np.nan)

    def output(self) -> NDArray[Any]:
        """The output as a canonical view."""
        return from_layout(self._stored, self.case.layout)

    def run(self) -> None:
        """Writes the output."""
        raise NotImplementedError

    def run_phases(self, clock: Clock) -> list[float]:
        """Seconds of each phase of a run."""
        return self.laps.seconds(self.run, self.work)

    def lap(self, phase: str) -> None:
        """Ends a phase in this thread, if `work` has it; else its time is that of the next."""
        if phase in self._phase_names:
            self.laps.end(phase)

    def finish(self, block: NDArray[Any], bias: NDArray[Any] | None) -> None:
        """Applies the epilogue in place to a block of y whose bias is `bias`, shaped to broadcast against it."""
        if bias is not None:
            block += bias
            if self.case.epilogue is Epilogue.BIAS_RELU:
                np.maximum(block, 0, out=block)


class DirectPlan(CpuPlan):
    """The definition, tap by tap: each tap multiplies one shifted window of x. Readable first, and slow."""

    algorithm = "direct"

    def __init__(self, case: Case, operands: Operands, options: PlanOptions) -> None:
        planner = DirectPlanner(case)
        super().__init__(case, operands, planner.work(), planner.workspace_bytes, options)

    def run(self) -> None:
        """Writes y, dx or dw."""
        p = self.case.problem
        self.laps.begin()
        self._stored.fill(0)
        for tap in itertools.product(*map(range, p.filter_size)):
            outputs, inputs = [], []  # where this tap lands inside the input, on both sides
            for axis, r in zip(p.axes, tap, strict=True):
                first, stop = axis.span(r)
                start = first * axis.stride + r * axis.dilation - axis.before
                outputs.append(slice(first, stop))
                inputs.append(slice(start, start + (stop - first) * axis.stride, axis.stride))
            y = self.y[index(..., *outputs)]
            x = self.x[index(..., *inputs)]
            if y.size == 0:
                continue
            w = self.w[index(..., *tap)]  # (G, K/G, C/G)
            for n in range(p.batch):
                self._add(x[n], w, y[n])
        if self.bias is not None:
            self.finish(self.y, self.bias.reshape(*self.bias.shape, *[1] * p.ndim))
            self.laps.end("epilogue")

    def _add(self, x: NDArray[Any], w: NDArray[Any], y: NDArray[Any]) -> None:
        """One tap of one image: adds the product of two of the three to the third."""
        if self.case.conv_pass is ConvPass.FPROP:
            total, first, second = y, w, _flat(x)
        elif self.case.conv_pass is ConvPass.DGRAD:
            total, first, second = x, w.swapaxes(1, 2), _flat(y)
        else:
            total, first, second = w, _flat(y), _flat(x).swapaxes(1, 2)
        self.laps.end("gather")
        product = first @ second
        self.laps.end("product")
        total += product.reshape(total.shape)
        self.laps.end("accumulate")


def touched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of zeros with all its pages touched, so that no run pays for that: np.zeros would leave it to one."""
    return np.full(shape, 0.0, dtype)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """(G, channels, spatial…) as (G, channels, points)."""
    return array.reshape(*array.shape[:2], math.prod(array.shape[2:]))
