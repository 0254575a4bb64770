"""What cuDNN is told of a case: tensors, padding and types as plain values, or why it cannot be told. No library here.

A graph of cuDNN has at least two spatial axes: a single one gets another of extent 1 before it. Dimensions stay in the
order (n, c, spatial…) whatever the layout, and strides, in elements, say how they lie.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convbench.accuracy import SUM_ACCURACY
from convbench.backends import ErrorBound
from convbench.errors import UnsupportedError
from convbench.problem import Case, ConvPass, Dtype, Epilogue, Layout, MathMode

if TYPE_CHECKING:
    from convbench.problem import Axis

NOTES = (
    "TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT", "WINOGRAD", "NONDETERMINISTIC",
    "STRICT_NAN_PROP",
)  # fmt: skip
"""Numerical notes of an engine (cudnnBackendNumericalNote_t, cudnn_graph.h)."""
FORBIDDEN = {
    MathMode.FP64: ("DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"),
    MathMode.FP32: ("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"),
    MathMode.TF32: ("REDUCED_PRECISION_REDUCTION",),
    MathMode.FP16_TC: ("REDUCED_PRECISION_REDUCTION",),
    MathMode.BF16_TC: ("REDUCED_PRECISION_REDUCTION",),
}
"""Notes of which none may stand against a plan: fp32 operands reach tensor cores rounded, TF32 at best; and every math
mode adds up in fp32, or in fp64."""
BARRED_TEXT = {
    "TENSOR_CORE": "multiplies on tensor cores", "DOWN_CONVERT_INPUTS": "rounds its operands to fewer bits",
    "REDUCED_PRECISION_REDUCTION": "adds up in fewer bits",
}  # fmt: skip
TRANSFORM_ACCURACY = 1e-5
"""The tier of Winograd's tiles, of which cuDNN does not say how large they are."""
CHAIN_GROWTH = 2.0
"""Of sums in one chain: an element's error follows its partial sums, some of which stray far from their usual size."""
WINOGRAD_TILE = (6, 3)
"""Outputs and taps of the tile that bounds Winograd's errors: larger ones are not in use in single precision."""
WINOGRAD_POINTS = 8 * 8
FFT_POINTS = 64 * 64
"""Of the largest two-dimensional transform in cuDNN's binaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Dimensions (n or k, c, spatial…) and their strides, in elements."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One graph: a pass on tensors called x, w, y and, with an epilogue, bias; the pass writes `output`.

    `before` and `after` are the padding, `stride` and `dilation` as in the problem, an entry per spatial axis.
    """

    conv_pass: ConvPass
    dtype: Dtype
    epilogue: Epilogue
    tensors: dict[str, Tensor]
    output: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A plan in cuDNN's list, not built.

    Attributes:
        name: engine and knobs: "eng38_k2=4_k13=0".
        workspace_bytes: what it asks for; 0 where `declined` says why it is not on offer.
        notes: numerical notes, in the order of NOTES.
        behavior: behaviour notes, such as "RUNTIME_COMPILATION".
    """

    name: str
    workspace_bytes: int
    notes: tuple[str, ...] = ()
    behavior: tuple[str, ...] = ()
    declined: str = ""

    def reason(self, math_mode: MathMode, workspace_limit_bytes: int | None) -> str | None:
        """Why it must not be taken; None if it may."""
        if self.declined:
            return self.declined
        if barred := [note for note in self.notes if note in FORBIDDEN[math_mode]]:
            return f"{' and '.join(BARRED_TEXT[note] for note in barred)}, which is not {math_mode}"
        if workspace_limit_bytes is not None and self.workspace_bytes > workspace_limit_bytes:
            return f"asks for {self.workspace_bytes} bytes of workspace, the limit is {workspace_limit_bytes}"
        return None

    @property
    def accuracy(self) -> float:
        """The tier that it keeps."""
        return TRANSFORM_ACCURACY if "WINOGRAD" in self.notes else SUM_ACCURACY

    @property
    def error_bound(self) -> ErrorBound:
        """How far its rounding may reach."""
        if "FFT" in self.notes:
            return ErrorBound(growth=math.log2(FFT_POINTS), transform_points=FFT_POINTS)
        if "WINOGRAD" in self.notes:
            from convbench.backends.cpu.bilinear import winograd

            return ErrorBound(growth=winograd(*WINOGRAD_TILE).growth ** 2, transform_points=WINOGRAD_POINTS)
        return ErrorBound(growth=CHAIN_GROWTH)


def describe(case: Case) -> Description:
    """The graph of a case.

    Raises:
        UnsupportedError: cuDNN has no such convolution.
    """
    p = case.problem
    if not p.batch:
        raise UnsupportedError("cuDNN takes no batch of 0")
    if case.layout is Layout.CHWN:
        raise UnsupportedError("cuDNN has no layout with the batch innermost: nchw and nhwc are measured")
    flat = 2 - p.ndim if p.ndim < 2 else 0
    sides = [padding(axis) for axis in p.axes]
    shapes = {"x": p.x_shape, "w": p.w_shape, "y": p.y_shape}
    if case.epilogue is not Epilogue.NONE:
        shapes["bias"] = (1, p.out_channels, *[1] * p.ndim)
    return Description(
        conv_pass=case.conv_pass, dtype=case.dtype, epilogue=case.epilogue,
        tensors={name: _tensor((*shape[:2], *[1] * flat, *shape[2:]), case.layout) for name, shape in shapes.items()},
        output={ConvPass.FPROP: "y", ConvPass.DGRAD: "x", ConvPass.WGRAD: "w"}[case.conv_pass],
        before=(0,) * flat + tuple(before for before, _ in sides),
        after=(0,) * flat + tuple(after for _, after in sides),
        stride=(1,) * flat + p.stride, dilation=(1,) * flat + p.dilation,
    )  # fmt: skip


def padding(axis: Axis) -> tuple[int, int]:
    """(before, after) as cuDNN takes them: no less than 0, the same on both sides where that gives as many outputs.

    The padding before the input decides where outputs lie, that after it only how many there are.

    Raises:
        UnsupportedError: the input would have to be cropped.
    """
    least = (axis.output - 1) * axis.stride + axis.reach + 1 - axis.input - axis.before
    most = least + axis.stride - 1
    if least <= axis.before <= most:
        return axis.before, axis.before
    if most < 0:
        raise UnsupportedError(f"cuDNN crops no input: its padding after an axis is at least 0, not {axis.after}")
    return axis.before, max(0, axis.after)


def _tensor(dims: tuple[int, ...], layout: Layout) -> Tensor:
    """A dense tensor in a layout."""
    order = layout.order(len(dims) - 2)
    inner = [*itertools.accumulate([dims[axis] for axis in reversed(order)][:-1], int.__mul__, initial=1)]
    by_axis = dict(zip(reversed(order), inner, strict=True))
    return Tensor(dims=dims, strides=tuple(by_axis[axis] for axis in range(len(dims))))
